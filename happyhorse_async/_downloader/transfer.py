"""One video from its link to where it is to lie: tries, resumed and bounded, until it is whole and
verified or certainly lost.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import attrs

from .._formats.http_ranges import MEANINGFUL_PROGRESS, Held, Meaning, Verdict, judge, range_headers
from .._formats.mp4 import BrokenVideoError, Movie, begins_like_video
from .._rules import retry
from .._rules.responses import parse_retry_after
from ..errors import (
    DownloadError,
    HappyHorseError,
    IncompleteDownloadError,
    LinkExpiredError,
    NotAVideoError,
    TaskNotFoundError,
    TransportError,
)
from ..events import Downloading, Events, Retrying

if TYPE_CHECKING:
    from .._config import RetryPolicy
    from .._edges.api import Api
    from .._edges.fetch import Fetcher, Stream
    from .._models import Task

LONGEST_REST = 300.0
"""Seconds for which a file host's Retry-After is obeyed at most: the host is not trusted, and the
link dies meanwhile."""
PIECE = 1024 * 1024
"""Bytes gathered before they are handed to a thread, which writes and hashes them in one go:
measured as the size from which on the hand-over costs next to nothing, and small enough that eight
downloads need little memory."""


class Sink(Protocol):
    """Where the bytes of one video go. One call at a time."""

    async def open(self) -> Held:
        """Say what is there already, ready to be gone on with."""

    async def restart(self, held: Held, pieces: Sequence[bytes]) -> None:
        """Begin anew, with the version of the file that is described and its first bytes; raises as
        `require` and `write` do.
        """

    async def require(self, needed: int) -> None:
        """Raise `DownloadError` when there is no room for so many more bytes."""

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append bytes; raises `BrokenVideoError` as soon as they cannot be a video's."""

    async def publish(self, pieces: Sequence[bytes]) -> tuple[str, Movie]:
        """Append the last bytes, verify all, and only then make it visible under its name: its
        SHA-256 and description.

        Raises `BrokenVideoError`.
        """

    async def discard(self) -> None:
        """Throw away what is there."""

    async def close(self) -> None:
        """Leave what is there for another try."""

    async def release(self) -> None:
        """Let go of everything: there will be no other try in this call."""


@attrs.frozen
class Verified:
    """A video that lies where it should."""

    size: int
    sha256: str
    content_type: str
    movie: Movie


class _DeadLinkError(Exception):
    """The link gives no video; `error` is what it means if no other link does."""

    def __init__(self, error: DownloadError) -> None:
        super().__init__(str(error))
        self.error = error


class _TryAgainError(Exception):
    """A try failed, another one can work; `pause` is what the host asked for."""

    def __init__(self, reason: str, *, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


class Transfer:
    """The tries of one download."""

    def __init__(
        self,
        api: Api,
        fetcher: Fetcher,
        sink: Sink,
        *,
        task: Task,
        index: int,
        path: str,
        largest: int,
        policy: RetryPolicy,
        events: Events,
        slot: Callable[[], AbstractAsyncContextManager[object]],
        rest: Callable[[float], Awaitable[None]],
    ) -> None:
        self.task = task
        self._api = api
        self._fetcher = fetcher
        self._sink = sink
        self._index = index
        self._path = path
        self._largest = largest
        self._policy = policy
        self._events = events
        self._slot = slot
        self._rest = rest
        self._link = task.results[index]
        self._fresh_link_tried = False
        self._ranges = True
        self._begun = False
        """What comes now is appended to what is there."""
        self._received = 0
        """Bytes of the file that are there."""
        self._length: int | None = None
        self._content_type = "video/mp4"

    async def run(self) -> Verified:
        """Try until the video is verified and visible; raises `DownloadError`."""
        try:
            return await self._run()
        finally:
            await self._sink.release()

    async def _run(self) -> Verified:
        failures, best = 0, 0
        while True:
            try:
                async with self._slot():
                    return await self._try()
            except _DeadLinkError as dead:
                await self._find_fresh_link(dead.error)
                continue
            except (_TryAgainError, TransportError) as error:
                failures += 1
                if self._received >= best + MEANINGFUL_PROGRESS:
                    failures, best = 1, self._received
                pause = self._pause_or_give_up(error, failures)
            await self._rest(pause)

    def _pause_or_give_up(self, error: Exception, failures: int) -> float:
        incomplete = self._incomplete(error)
        if failures >= self._policy.attempts:
            raise incomplete from error
        pause = retry.pause_before(self._policy, failures, None, random.random())
        if isinstance(error, _TryAgainError) and error.pause is not None:
            pause = max(pause, min(error.pause, LONGEST_REST))
        self._events.emit(
            Retrying(what="downloading a video", error=incomplete, pause=pause, attempt=failures)
        )
        return pause

    def _incomplete(self, error: Exception) -> IncompleteDownloadError:
        of = "" if self._length is None else f" of {self._length:,}"
        return IncompleteDownloadError(
            f"{self._path}: {self._received:,}{of} bytes are there, the rest could not be had: {error}",
            path=self._path,
            task_id=self.task.id,
        )

    async def _try(self) -> Verified:
        resumed = True
        try:
            held = await self._sink.open()
            resumed = held.size > 0
            self._received, self._length = held.size, held.length
            if held.whole:
                return await self._publish([])
            async with await self._fetcher.open(
                self._link, range_headers(held) if self._ranges else {}
            ) as stream:
                return await self._receive(stream, held)
        except BrokenVideoError as error:
            await self._sink.discard()
            self._received = 0
            if resumed:  # the bytes from before may be to blame
                raise _TryAgainError(
                    f"what was there already and what came do not make a video: {error}"
                ) from error
            raise self._dead(
                NotAVideoError, f"what the link gave is not a whole video: {error}"
            ) from error
        finally:
            await self._sink.close()

    async def _receive(self, stream: Stream, held: Held) -> Verified:
        verdict = judge(stream.status, stream.headers, held if self._ranges else Held())
        self._refuse(verdict, stream)
        self._length = verdict.length
        if verdict.meaning is Meaning.COMPLETE:
            return await self._publish([])
        if verdict.meaning is Meaning.REST and verdict.length is not None:
            await self._sink.require(verdict.length - self._received)
        self._content_type = (
            stream.headers.get("Content-Type", self._content_type).partition(";")[0].strip()
        )
        self._begun = verdict.meaning is Meaning.REST
        try:
            while await stream.fill(PIECE) and not stream.ended:
                await self._store(stream, verdict)
        except BaseException:
            # What came before a break or a cancellation is kept too.
            if stream.size and (self._begun or begins_like_video(stream.head)):
                await self._store(stream, verdict)
            raise
        return await self._end(stream, verdict)

    async def _end(self, stream: Stream, verdict: Verdict) -> Verified:
        """Store the last bytes, and publish all if nothing is missing."""
        before = self._received if self._begun else 0
        whole = verdict.length is None or before + stream.size == verdict.length
        if not whole or not self._begun:
            await self._store(stream, verdict)
        if not whole:
            raise _TryAgainError("the file host stopped early")
        return await self._publish(stream.take())

    async def _store(self, stream: Stream, verdict: Verdict) -> None:
        """Hand over what is gathered. The first bytes are looked at before those that are there are
        given up for them.
        """
        if not self._begun and not begins_like_video(stream.head):
            what = f"something that begins with {stream.head[:16]!r}" if stream.size else "nothing"
            raise self._dead(NotAVideoError, f"the link gave {what} instead of a video")
        pieces = stream.take()
        size = sum(map(len, pieces)) + (self._received if self._begun else 0)
        self._refuse_size(size)
        if self._begun:
            await self._sink.write(pieces)
        else:
            await self._sink.restart(Held(0, verdict.validator, verdict.length), pieces)
            self._begun = self._ranges = True
        self._received = size
        self._tell()

    def _tell(self) -> None:
        if self._events:
            self._events.emit(
                Downloading(
                    task_id=self.task.id,
                    path=self._path,
                    received=self._received,
                    total=self._length,
                )
            )

    def _refuse(self, verdict: Verdict, stream: Stream) -> None:
        """Raise what an answer without the wanted bytes means."""
        if verdict.meaning is Meaning.DEAD:
            kind = NotAVideoError if stream.status == 200 else LinkExpiredError
            raise self._dead(kind, verdict.reason)
        if verdict.meaning is Meaning.BUSY:
            pause = parse_retry_after(stream.headers.get("Retry-After"), stream.headers.get("Date"))
            raise _TryAgainError(verdict.reason, pause=pause)
        if verdict.meaning is Meaning.CONFUSED:
            self._ranges = False
            raise _TryAgainError(verdict.reason)
        if verdict.length is not None:
            self._refuse_size(verdict.length)

    def _refuse_size(self, size: int) -> None:
        if size > self._largest:
            raise DownloadError(
                f"the video has {size:,} bytes, and at most {self._largest:,} are allowed",
                path=self._path,
                next_step="Raise Limits(max_video_bytes=...), then call download() again.",
            )

    async def _publish(self, pieces: Sequence[bytes]) -> Verified:
        self._received += sum(map(len, pieces))
        self._refuse_size(self._received)
        sha256, movie = await self._sink.publish(pieces)
        self._tell()
        return Verified(self._received, sha256, self._content_type, movie)

    def _dead(self, kind: type[DownloadError], reason: str) -> _DeadLinkError:
        return _DeadLinkError(
            kind(f"{self._path}: {reason}", path=self._path, task_id=self.task.id)
        )

    async def _find_fresh_link(self, error: DownloadError) -> None:
        """Read the task again, once in a download's life: the service may give a fresh link."""
        if self._fresh_link_tried:
            raise error
        self._fresh_link_tried = True
        try:
            task = await self._api.read_task(self.task.id)
        except TaskNotFoundError as gone:
            raise LinkExpiredError(
                f"{error}; and the service knows the task no more", path=self._path
            ) from gone
        except HappyHorseError as failed:
            raise IncompleteDownloadError(
                f"{error}; and the task could not be read again: {failed}", path=self._path
            ) from failed
        if len(task.results) <= self._index:
            raise LinkExpiredError(
                f"{error}; and the service gives no link any more", path=self._path
            ) from error
        self.task, self._link = task, task.results[self._index]
