"""Making videos: submit, follow, save, for `happyhorse generate` and `happyhorse demo`.

What is paid, or may be, is noted as it happens. So its videos can be had whatever ends the command.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import typer

from ..errors import HappyHorseError
from ._advice import fetch_line, submit_line
from ._common import Exit, exit_code, overall, report
from ._console import put, put_path, say
from ._options import repeated

if TYPE_CHECKING:
    from .._request import ImageToVideo
    from .._session import Session
    from .._tasks import TaskHandle
    from .._video import Video
    from ..events import Orphaned, Submitted, Submitting, Uploaded
    from ._display import Display


@attrs.define
class _Fate:
    """What is known of the submission for one video."""

    request: ImageToVideo | None = None
    key: str | None = None
    link: str | None = None
    task_id: str | None = None


class Paid:
    """What a command has paid for, or may have, as it hears from a session.

    Each submission has the path of its video as `tag`.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._fates = {path: _Fate() for path in paths}

    def listen(self, session: Session) -> None:
        """Listen until the session is closed, which may tell more of what has left."""
        # Late, here and below: making the events takes longer than the rest of a help page's code.
        from ..events import Orphaned, Submitted, Submitting, Uploaded

        session.subscribe(self._heard, Uploaded, Submitting, Submitted, Orphaned)

    def _heard(self, event: Uploaded | Submitting | Submitted | Orphaned) -> None:
        from ..events import Orphaned, Submitting, Uploaded

        fate = self._fates.get(event.tag)
        if fate is None:
            return
        if isinstance(event, Uploaded):
            fate.link = event.file.url
            return
        fate.key, fate.task_id = event.idempotency_key, event.task_id
        if isinstance(event, (Submitting, Orphaned)):
            fate.request = event.request

    def settled(self, path: Path) -> None:
        """Note that there is nothing left to fetch or to find out for a video."""
        self._fates.pop(path, None)

    def line(self, path: Path) -> str:
        """Return the line that goes on with a video; "" when nothing of it has left."""
        fate = self._fates.get(path)
        if fate is None or fate.key is None:
            return ""
        line = ""
        if fate.task_id is not None:
            line = fetch_line(fate.task_id, path)
        elif fate.request is not None:
            line = submit_line(fate.request, fate.key, path, fate.link)
        return shlex.join([*shlex.split(line), *repeated()])

    def say(self) -> None:
        """Say how to get what is paid; nothing when all is saved."""
        paid = [path for path, fate in self._fates.items() if fate.task_id is not None]
        doubts = [path for path in self._fates if path not in paid and self.line(path)]
        if paid:
            say("These tasks are paid and go on. Their videos can be fetched for 24 hours:")
        for path in paid:
            say(f"  {self.line(path)}")
        if doubts:
            say("It is not known whether these were accepted. These lines do not pay twice:")
        for path in doubts:
            say(f"  {self.line(path)}")
        if paid or doubts:
            say("The line that was interrupted would pay for all of them again.")


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
        from .._downloader.destinations import Destination

        async for update in task.updates():
            display.status(job.path.name, update.status, update.progress)
        display.status(job.path.name, "downloading", 100)
        place = Destination(str(job.path), exact=True)
        videos = await task.download_all(place, overwrite=self._overwrite)
        display.status(job.path.name, "saved", 100)
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
