"""The videos of a batch as its folder has them: whether each is there and whole. Blocks."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from pathlib import Path

from .._edges.part_files import BLOCK, Tally
from .._formats.mp4 import BrokenVideoError
from .._models import Task
from .._request import ImageToVideo
from .._video import Video
from ..errors import NotAVideoError
from ._jobs import JobRow


def has_size(path: Path, size: int | None) -> bool:
    """Whether a file lies at a path and has the size that the ledger knows."""
    try:
        facts = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size == size


def is_here(path: Path, job: JobRow, *, digest: bool = False) -> bool:
    """Whether a saved job's video is still in its place, by its size; with `digest` by its content
    too.
    """
    if not has_size(path, job.size):
        return False
    if not digest:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == job.sha256


def put_aside(path: Path) -> Path | None:
    """Give another name to what lies in a video's place and is not that video; None when nothing
    does.
    """
    if not os.path.lexists(path):
        return None
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.changed{'' if number == 1 else f'-{number}'}")
        if not os.path.lexists(aside):
            path.rename(aside)
            return aside
    return None


def put_back(aside: Path, path: Path) -> None:
    """Give a file its name back, unless another one has it by now."""
    if not os.path.lexists(path):
        aside.rename(path)


def verified(path: Path, task: Task, request: ImageToVideo | None) -> Video | None:
    """Return the video at a path after reading and checking all of it; None when there is none.

    A crash may have come between the rename and the ledger's note of it. Raises `NotAVideoError`
    when something else lies there.
    """
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
            f"{path}: this file lies where the video of task {task.id} should go, and is no whole "
            f"video: {error}",
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
