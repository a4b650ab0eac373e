"""Making videos: submit, follow, save, for `happyhorse generate` and `happyhorse demo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from ..errors import HappyHorseError
from ._common import Exit, exit_code, overall, report
from ._console import put, put_path

if TYPE_CHECKING:
    from .._request import ImageToVideo
    from .._session import Session
    from .._tasks import TaskHandle
    from .._video import Video
    from ._display import Display
    from ._paid import Paid


class OneVideo(NamedTuple):
    """One image of the command line, and where its video goes."""

    name: str
    request: ImageToVideo
    path: Path


class Making:
    """All jobs of one command at once."""

    def __init__(
        self,
        session: Session,
        jobs: Sequence[OneVideo],
        paid: Paid,
        *,
        as_json: bool,
        overwrite: bool,
        key: str | None = None,
    ) -> None:
        self._session = session
        self._jobs = jobs
        self._paid = paid
        self._as_json = as_json
        self._overwrite = overwrite
        self._key = key
        self._videos: dict[Path, list[Video]] = {}
        self._codes: list[Exit] = []

    async def run(self, *, wait: bool = True, open_videos: bool = False) -> Exit:
        """Make and save the videos; without `wait`, end once all are submitted."""
        import anyio

        from ._display import Display

        self._paid.listen(self._session)
        with Display(self._session, quiet=self._as_json) as display:
            for job in self._jobs:
                display.add(job.path.name)
            async with anyio.create_task_group() as group:
                for job in self._jobs:
                    group.start_soon(self._one, job, display, wait)
        made = [video for job in self._jobs for video in self._videos.get(job.path, ())]
        if not self._as_json:
            display.table(made)
        for video in made if open_videos else ():
            typer.launch(str(video.path))
        if not wait:
            self._paid.say()
        return overall(self._codes)

    async def _one(self, job: OneVideo, display: Display, wait: bool) -> None:
        try:
            task = await self._submitted(job, display)
            if wait:
                self._videos[job.path] = await self._saved(job, task, display)
        except HappyHorseError as error:
            line = self._paid.line(job.path) if error.charged != "no" else ""
            self._paid.settled(job.path)
            display.failed(job.path.name, type(error).__name__)
            report(error, as_json=self._as_json, about=job.name, line=line)
            self._codes.append(exit_code(error))
        else:
            self._codes.append(Exit.DONE)
            self._tell(job, task.id, wait=wait)

    def _tell(self, job: OneVideo, task_id: str, *, wait: bool) -> None:
        """Print what became of a job on stdout, at once: later may be never."""
        if not wait:
            put({"ok": True, "image": job.name, "task_id": task_id} if self._as_json else task_id)
            return
        for video in self._videos[job.path]:
            if self._as_json:
                put({"ok": True, "image": job.name, **describe(video)})
            else:
                put_path(video.path)

    async def _submitted(self, job: OneVideo, display: Display) -> TaskHandle:
        display.status(job.path.name, "submitting")
        task = await self._session.submit(job.request, idempotency_key=self._key, tag=job.path)
        display.submitted(job.path.name, task.id)
        return task

    async def _saved(self, job: OneVideo, task: TaskHandle, display: Display) -> list[Video]:
        """Follow one job, and save every video that it gives: their links die, so none is left."""
        async for update in task.updates():
            display.status(job.path.name, update.status, update.progress)
        display.status(job.path.name, "downloading", 100)
        videos = await task.download_all(job.path, overwrite=self._overwrite)
        display.saved(job.path.name)
        self._paid.settled(job.path)
        return videos


def describe(video: Video) -> dict[str, Any]:
    """Return a video's facts for JSON."""
    return {
        "file": str(video.path),
        "task_id": video.task_id,
        "duration": video.duration,
        "width": video.width,
        "height": video.height,
        "bytes": video.size,
        "sha256": video.sha256,
        "credits": video.credits,
        "seconds": video.task.seconds if video.task is not None else None,
    }
