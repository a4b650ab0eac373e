"""Links to verified files: the session's downloads, those whose links die first going first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .._concurrency import Closing, Slots, Threads
from .._dispatcher import Events
from .._edges import sinks
from .._edges.object_store import Buckets
from .._edges.part_files import PartFile
from .._edges.part_notes import Leftover, leftovers
from .._edges.sinks import FileSink, ObjectSink, disk_error
from .._models import Task
from .._recent import Recent
from .._rules import lifecycle
from .._rules.fetching import Persistence, urgency
from .._video import Video
from ..errors import DestinationExistsError, HappyHorseError, SessionClosedError
from ..events import LinkExpiring, Saved
from . import destinations
from .destinations import RESERVED, Destination, as_named, look_at, one_name_of
from .transfer import Transfer, Verified

if TYPE_CHECKING:
    from .._config import Limits, RetryPolicy
    from .._edges.api import Api
    from .._edges.fetch import Fetcher
    from .._request import ImageToVideo

WARN_SECONDS = 3600.0
"""A link with less than this to live, whose video is not here yet, is warned about."""
MOST_THREADS = 8
"""One, two and eight threads were measured to cost the same. With more of them a slow disk holds up
fewer downloads."""
MOST_HALVES = 1_000
"""Videos that are kept in mind until all results of their tasks are saved."""
Mark = tuple[str, int, int, int, int, int]


class Downloader:
    """The session's downloads."""

    def __init__(
        self,
        api: Api,
        fetcher: Fetcher,
        *,
        limits: Limits,
        policy: RetryPolicy,
        patience: float,
        events: Events,
        unfinished: Callable[[str], float | None],
    ) -> None:
        self._api = api
        self._fetcher = fetcher
        self._limits = limits
        self._policy = policy
        self._patience = patience
        self._events = events
        self._unfinished = unfinished
        """When a task was seen unfinished, in the event loop's time; None: nobody knows."""
        self._slots = Slots(limits.max_downloads)
        """The places that callers have who are about to pay, or have paid."""
        self._threads = Threads(
            min(limits.max_downloads, MOST_THREADS), name="happyhorse_async: disk", refusal=_closed
        )
        self._closing = Closing(_closed)
        self._buckets = Buckets(self._threads, policy=policy, events=events, closing=self._closing)
        self._halves: Recent[tuple[Mark, Video]] = Recent(MOST_HALVES)
        """Saved videos of tasks with several, some of which could not be had yet."""

    async def download(
        self,
        task: Task,
        to: str | os.PathLike[str] | Destination = "",
        *,
        request: ImageToVideo | None = None,
        overwrite: bool = False,
        index: int = 0,
        several: bool = False,
        base: str = "",
        exact: bool = False,
        until: float | None = None,
    ) -> Video:
        """Save one result of a finished task, verified; raises `DownloadError`.

        `to` is a file's path, a folder (it exists, or ends with a slash), a template, or an object
        store's link. See `TaskHandle.download`. Or it is a place that was `reserved`. A relative
        path begins at `base`. With `exact` it names one file, whatever braces are in it. With
        `several` all results of the task go there. `until`, in the event loop's time, ends the wait
        for a link that gives nothing.
        """
        given = os.fspath(to)
        with _facts(path=given, task_id=task.id, charged="yes"):

            def name() -> tuple[Destination, str]:
                place = to if isinstance(to, Destination) else look_at(to, exact=exact, base=base)
                path = place.name(task.id, request, index, several=several)
                if place is not to and RESERVED and one_name_of(place, path) in RESERVED:
                    raise _taken(place, path)
                return place, path

            sink, path, url = await self._sink(name, task, index, overwrite=overwrite)
            with self._warning(task):
                transfer = Transfer(
                    self._api,
                    self._fetcher,
                    sink,
                    task=task,
                    index=index,
                    path=url or str(path),
                    largest=self._limits.max_video_bytes,
                    persistence=Persistence(self._policy, self._patience, until),
                    events=self._events,
                    threads=self._threads,
                    unfinished=self._unfinished,
                    slot=lambda: self._slots.hold(urgency(task.expires_at)),
                    closing=self._closing,
                )
                with self._events.work("download", task_id=task.id) as learned:
                    verified = await transfer.run()
                    learned.update(bytes=verified.size, resumed=transfer.resumed)
        named = as_named(path, to.base if isinstance(to, Destination) else base)
        video = _video(verified, transfer.task, request, named, url)
        self._events.emit(Saved(video=video))
        return video

    async def download_all(
        self,
        task: Task,
        to: str | os.PathLike[str] = "",
        *,
        request: ImageToVideo | None = None,
        overwrite: bool = False,
        base: str = "",
        until: float | None = None,
    ) -> list[Video]:
        """Save every result of a finished task; a path or template without {index} is numbered. All
        are tried before an error is raised. Called again, it goes on with those that are missing.
        """
        saved: dict[int, Video] = {}
        errors: list[HappyHorseError] = []

        async def one(index: int) -> None:
            try:
                saved[index] = await self._one_of_all(
                    task, to, request, index, overwrite=overwrite, base=base, until=until
                )
            except HappyHorseError as error:
                errors.append(error)

        if not task.results:
            # How many there are is known once the first one has been had.
            await one(0)
            task = saved[0].task or task if saved else task
        async with asyncio.TaskGroup() as group:
            for index in range(len(saved), len(task.results)):
                group.create_task(one(index))
        if errors:
            raise errors[0]
        for index in saved:
            self._halves.pop(f"{task.id}/{index}")
        return [saved[index] for index in sorted(saved)]

    async def _one_of_all(
        self,
        task: Task,
        to: str | os.PathLike[str],
        request: ImageToVideo | None,
        index: int,
        *,
        base: str,
        **how: Any,
    ) -> Video:
        """Save one of a task's results, unless an earlier call, of which others failed, has."""
        several, name = len(task.results) > 1, f"{task.id}/{index}"
        try:
            video = await self.download(
                task, to, request=request, index=index, several=several, base=base, **how
            )
        except DestinationExistsError as error:
            mark, before = self._halves.get(name, (None, None))
            now = await self._threads.run(partial(_mark_of, error.path or ""))
            if before is None or now != mark:
                raise
            return before
        if several or not task.results:
            mark = await self._threads.run(partial(_mark_of, os.path.join(base, video.path)))
            if mark is not None:
                self._halves.remember(name, (mark, video))
        return video

    def reserved(
        self,
        to: str | os.PathLike[str],
        request: ImageToVideo | None = None,
        *,
        base: str = "",
        overwrite: bool = False,
    ) -> Reserved:
        """Keep a place for one caller, who is about to pay for a video that goes there. An async
        context manager that gives the place. A relative one begins at `base`.

        All that can be known of the place is asked before. Raises `DownloadError`, and
        `DestinationExistsError` also when another caller in this process has the same place.
        """
        return Reserved(self._threads, self._buckets, to, request, base, overwrite)

    async def leftovers(self, folder: Path) -> list[Leftover]:
        """Find the downloads into a folder, and the folders in it, that did not end."""
        return await self._threads.run(lambda: list(leftovers(folder)))

    async def _sink(
        self,
        name: Callable[[], tuple[Destination, str]],
        task: Task,
        index: int,
        *,
        overwrite: bool,
    ) -> tuple[FileSink, Path, str | None]:
        def prepare() -> tuple[Destination, str, PartFile, bool]:
            place, path = name()
            if place.in_store:
                sinks.refuse_key(place.bucket, path)
                file = sinks.spooled(place.bucket, path, task_id=task.id, index=index)
            else:
                file = PartFile(Path(path), task_id=task.id, index=index, overwrite=overwrite)
            return place, path, file, file.is_new()

        place, path, file, new = await self._threads.run(prepare)
        if not place.in_store:
            return FileSink(file, self._threads, new=new), file.final, None
        bucket = await self._buckets.get(place.bucket)
        sink = ObjectSink(bucket, path, file, self._threads, new=new, create=not overwrite)
        return sink, Path(path), sink.url

    @contextmanager
    def _warning(self, task: Task) -> Iterator[None]:
        """Warn as soon as the link has little time left, while its video is not here yet."""
        if task.expires_at is None:
            yield
            return
        left = urgency(task.expires_at) - datetime.now(UTC).timestamp()
        timer = asyncio.get_running_loop().call_later(
            max(0.0, left - WARN_SECONDS), self._warn, task
        )
        try:
            yield
        finally:
            timer.cancel()

    def _warn(self, task: Task) -> None:
        if task.expires_at is not None:
            left = urgency(task.expires_at) - datetime.now(UTC).timestamp()
            self._events.emit(
                LinkExpiring(task_id=task.id, expires_at=task.expires_at, seconds_left=left)
            )

    def close(self) -> None:
        """End: downloads that wait, pause or break off get `SessionClosedError`; what they have
        stays as part files.
        """
        self._closing.begin()
        self._slots.close(_closed)
        self._threads.close()


@attrs.define(eq=False, repr=False)
class Reserved:
    """A place that is kept for one caller; see `Downloader.reserved`.

    Ten thousand callers may hold one each for hours. As a generator it would hold more memory.
    """

    _threads: Threads
    _buckets: Buckets
    _to: str | os.PathLike[str]
    _request: ImageToVideo | None
    _base: str
    _overwrite: bool
    _kept: str = ""
    """The one spelling of the place, as soon as it is kept."""

    async def __aenter__(self) -> Destination:
        try:
            with _facts(path=os.fspath(self._to), charged="no"):
                place, path, known = await self._threads.run(self._look)
            if place.in_store:
                with _facts(path=path, charged="no"):
                    await self._ask_store(place, path, known=known)
        except BaseException:
            self._release()
            raise
        return place

    def _look(self) -> tuple[Destination, str, bool]:
        """Look at the place, and keep it when the name of the video there is known.

        Return how a video there will be named, and whether it will be just that. A path is asked
        all that the file system can say of it.
        """
        place = look_at(self._to, base=self._base)
        path, known = place.planned(self._request)
        if known:
            name = one_name_of(place, path)
            if not RESERVED.add(name):
                raise _taken(place, path)
            self._kept = name
        if not place.in_store:
            with _facts(path=path, charged="no"):
                image = self._request.image if self._request is not None else None
                destinations.refuse_unusable(
                    path, known=known, overwrite=self._overwrite, image=image
                )
        return place, path, known

    async def _ask_store(self, place: Destination, path: str, *, known: bool) -> None:
        await self._threads.run(sinks.spool_folder)
        bucket = await self._buckets.get(place.bucket)
        await sinks.refuse_unusable(bucket, path, known=known, overwrite=self._overwrite)

    async def __aexit__(self, *error: object) -> None:
        self._release()

    def _release(self) -> None:
        if self._kept:
            RESERVED.discard(self._kept)


def _mark_of(path: str) -> Mark | None:
    """Return what tells a file from all others, and from itself once it was changed."""
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return path, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _taken(place: Destination, path: str) -> DestinationExistsError:
    path = f"{place.bucket}/{path}" if place.in_store else path
    return DestinationExistsError(
        f"{path}: another call of this process saves its video there",
        path=path,
        next_step="Choose another path, or wait for the other call.",
    )


def _video(
    verified: Verified, task: Task, request: ImageToVideo | None, path: Path, url: str | None
) -> Video:
    return Video(
        path=path,
        url=url,
        size=verified.size,
        sha256=verified.sha256,
        content_type=verified.content_type,
        duration=verified.movie.duration,
        width=verified.movie.width,
        height=verified.movie.height,
        task=task,
        request=request,
        credits=lifecycle.settled_charge(task),
    )


def _closed() -> SessionClosedError:
    return SessionClosedError(
        "the session was closed during a download",
        next_step="Open a new session and call download() again: it goes on where it stopped.",
    )


@contextmanager
def _facts(**facts: Any) -> Iterator[None]:
    """Give every error on its way out the facts of the download."""
    try:
        yield
    except HappyHorseError as error:
        error.with_facts(**facts)
        raise
    except OSError as error:
        raise disk_error(error, facts["path"]).with_facts(**facts) from error
