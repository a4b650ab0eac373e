"""Videos that lie under their final name already: a crash came between the rename and the ledger's note of it."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread

from ..edges.disk import BLOCK, Tally
from ..errors import NotAVideoError
from ..models import ImageToVideo, Task, Video
from ..rules.mp4 import BrokenVideoError


async def verified(path: Path, task: Task, request: ImageToVideo | None) -> Video | None:
    """Give the video at a path after reading and checking all of it; None when there is none.

    Raises `NotAVideoError` when something else lies there.
    """
    return await anyio.to_thread.run_sync(_verified, path, task, request)


def _verified(path: Path, task: Task, request: ImageToVideo | None) -> Video | None:
    tally = Tally()
    try:
        with path.open("rb") as file:
            while data := file.read(BLOCK):
                tally.feed(data)
        sha256, movie = tally.finish()
    except FileNotFoundError:
        return None
    except BrokenVideoError as error:
        raise NotAVideoError(
            f"{path}: this file lies where the video of task {task.id} should go, and is no whole video: {error}",
            path=str(path),
            task_id=task.id,
            next_step="Move the file away, then run the batch again.",
        ) from error
    return Video(
        path=path,
        size=tally.size,
        sha256=sha256,
        duration=movie.duration,
        width=movie.width,
        height=movie.height,
        task=task,
        request=request,
        credits=task.usage.credits_used,
    )
