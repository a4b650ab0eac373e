"""One video from its link to where it is to lie. It is tried, resumed and bounded, until it is
whole and verified or certainly not to be had.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from .._dispatcher import Events, sent_before
from .._edges.disk import out_of_descriptors
from .._formats.http_headers import Decoder, date_of, encoding_of
from .._formats.http_ranges import (
    Held,
    Meaning,
    RangeAnswer,
    judge,
    range_headers,
)
from .._formats.mp4 import (
    SNIFFED,
    BrokenVideoError,
    Movie,
    beginning,
    begins_like_text,
    begins_like_video,
    format_of,
)
from .._rules import retry
from .._rules.fetching import Persistence, Setback, urgency
from .._rules.lifecycle import failure_of, is_completed, is_final
from .._rules.responses import parse_retry_after
from .._rules.wire import LINK_LIFE
from ..errors import (
    APIStatusError,
    DownloadError,
    HappyHorseError,
    IncompleteDownloadError,
    LinkExpiredError,
    NotAVideoError,
    TaskNotFoundError,
    TransportError,
    VideoTooLargeError,
)
from ..events import DownloadFailed, Downloading, Retrying

if TYPE_CHECKING:
    from .._concurrency import Closing, Threads
    from .._edges.api import Api
    from .._edges.fetch import Fetcher, Stream
    from .._edges.sinks import FileSink
    from .._models import Task

E = TypeVar("E", bound=DownloadError)

PIECE = 1024 * 1024
"""Bytes gathered before a thread writes and hashes them in one go. It was measured: from this size
on the hand-over costs next to nothing, and eight downloads still need little memory."""
KEPT_PAGE = 64 * 1024
"""Bytes that are kept of a page that came instead of a video."""


@attrs.frozen
class Verified:
    """A video that lies where it should."""

    size: int
    sha256: str
    content_type: str
    movie: Movie


class _SetbackError(Exception):
    """An attempt brought no video, another one can."""

    def __init__(
        self,
        reason: str,
        setback: Setback = Setback.HOST,
        *,
        wish: float | None = None,
        page: bytes | None = None,
    ) -> None:
        super().__init__(reason)
        self.setback = setback
        self.wish = wish
        """The pause that the host asked for, in seconds."""
        self.page = page
        """What came instead of a video."""


class Transfer:
    """The attempts of one download."""

    def __init__(
        self,
        api: Api,
        fetcher: Fetcher,
        sink: FileSink,
        *,
        task: Task,
        index: int,
        path: str,
        largest: int,
        persistence: Persistence,
        events: Events,
        threads: Threads,
        unfinished: Callable[[str], float | None],
        slot: Callable[[], AbstractAsyncContextManager[object]],
        closing: Closing,
    ) -> None:
        self.task = task
        self._api = api
        self._fetcher = fetcher
        self._sink = sink
        self._index = index
        self._path = path
        self._largest = largest
        self._persistence = persistence
        self._events = events
        self._threads = threads
        self._unfinished = unfinished
        self._slot = slot
        self._closing = closing
        self._link = link_of(task, index)
        self._stale = not self._link
        """The task has to be read again before its link is asked."""
        self._expired = False
        """The link can have outlived its time."""
        self._told_old = False
        """It is told to have done so, and this session or two other clocks know better."""
        self._ranges = True
        self._refused_rests = 0
        """How often in a row the host refused to send the rest of the file."""
        self._begun = False
        """What comes now is appended to what is there."""
        self._inherited: bool | None = None
        """What is there came in an earlier call; None before the first look."""
        self._received = 0
        """Bytes of the file that are there."""
        self._asked = 0
        """How often the link was asked."""
        self.resumed = False
        """Some bytes were there already when the link was asked."""
        self._length: int | None = None
        self._ended_at = -1
        """Where what came has ended too early for a video."""
        self._cuts = 0
        """How often it has."""
        self._decoder: Decoder | None = None
        self._content_type = "video/mp4"

    async def run(self) -> Verified:
        """Try until the video is verified and visible; raises `DownloadError`."""
        try:
            while True:
                try:
                    async with self._slot():
                        return await self._attempt()
                except (_SetbackError, TransportError, DownloadError) as error:
                    pause = await self._pause_or_give_up(error)
                await self._closing.rest(pause)
        except (Exception, asyncio.CancelledError) as error:
            task_id = self.task.id
            self._events.emit(DownloadFailed(task_id=task_id, path=self._path, error=error))
            raise

    # --- after an attempt in vain -----------------------------------------------------------------

    async def _pause_or_give_up(
        self, error: _SetbackError | TransportError | DownloadError
    ) -> float:
        setback, wish = Setback.HOST, None
        if out_of_descriptors(error):
            setback = Setback.MACHINE
        elif isinstance(error, DownloadError):
            raise error
        elif isinstance(error, _SetbackError):
            setback, wish = error.setback, error.wish
        elif not error.sent:
            # A machine that has just woken has no network yet; or a fresh link leads elsewhere.
            setback = Setback.LINK
        now = asyncio.get_running_loop().time()
        self._persistence.received(self._received, self._length)
        pause = self._persistence.pause(setback, now=now, random=random.random(), wish=wish)
        if pause is None:
            raise await self._last_error(error) from error
        self._stale = self._stale or setback is Setback.LINK
        attempt = self._persistence.attempt
        self._events.emit(
            Retrying(
                what="downloading a video",
                error=self._incomplete(error),
                pause=pause,
                attempt=attempt,
            )
        )
        return pause

    async def _last_error(self, error: Exception) -> Exception:
        """Say why the video could not be had."""
        if isinstance(error, DownloadError):
            return error
        if not isinstance(error, _SetbackError) or error.setback is not Setback.LINK:
            return self._incomplete(error)
        if self._expired:
            return self._error(LinkExpiredError, str(error))
        waited = f"{error}, for {self._persistence.waited(asyncio.get_running_loop().time()):.0f} s"
        if self._told_old:
            waited += "; told times say that it has expired, but its task ended less than 24 h ago"
        if error.page is None:
            return self._error(IncompleteDownloadError, waited)
        kept = await self._sink.reject(error.page)
        return self._error(NotAVideoError, f"{waited}; it is kept in {kept}", rejected_path=kept)

    def _incomplete(self, error: Exception) -> IncompleteDownloadError:
        of = "" if self._length is None else f" of {self._length:,}"
        there = f"{self._received:,}{of} bytes are there, the rest could not be had"
        step = None
        if isinstance(error, TransportError) and error.next_step != error.default_next_step:
            # What helps against a proxy or an unknown certificate has to be done first.
            step = f"{error.next_step} Then: {IncompleteDownloadError.default_next_step}"
        return self._error(IncompleteDownloadError, f"{there}: {error}", next_step=step)

    def _error(self, kind: type[E], reason: str, **facts: Any) -> E:
        return kind(f"{self._path}: {reason}", path=self._path, task_id=self.task.id, **facts)

    # --- one attempt ------------------------------------------------------------------------------

    async def _attempt(self) -> Verified:
        if self._stale:
            await self._refresh()
        try:
            held = await self._sink.open()
            if held.size == self._ended_at:
                held = attrs.evolve(held, length=None)
            if self._inherited is None:
                self._inherited = held.size > 0
            self.resumed = self.resumed or held.size > 0
            self._received, self._length = held.size, held.length
            if held.whole:
                return await self._publish([])
            with sent_before(self._asked):
                self._asked += 1
                stream = await self._fetcher.open(
                    self._link, range_headers(held) if self._ranges else {}
                )
            async with stream:
                return await self._receive(stream, held)
        except BrokenVideoError as error:
            raise await self._not_believed(error) from error
        finally:
            await self._sink.close()

    async def _refresh(self) -> None:
        """Read the task again, whose link gives nothing: the service may give a fresh one."""
        try:
            fresh = await self._api.read_task(self.task.id)
        except TaskNotFoundError as error:
            raise _SetbackError("the service does not know the task", Setback.LINK) from error
        except HappyHorseError as error:
            again = retry.worth_retrying(error, promised=True)
            if again or isinstance(error, APIStatusError):
                # A refusal of a moment is not the last word either, but a few in a row are.
                setback = Setback.LINK if again else Setback.HOST
                raise _SetbackError(f"the task cannot be read: {error}", setback) from error
            raise self._error(
                IncompleteDownloadError, f"the task could not be read again: {error}"
            ) from error
        link, before = link_of(fresh, self._index), self._link
        if not link and not before and (fresh.results or not is_completed(fresh)):
            count = f"{len(fresh.results)} results" if fresh.results else "no result"
            raise self._error(
                IncompleteDownloadError,
                f"the task ({fresh.status}) has {count}, so none with index {self._index}",
            )
        doubted = self._expired or self._told_old
        over = urgency(self.task.expires_at) <= max(self._api.now, time.time())
        if over and doubted and link in ("", before) and not self._was_unfinished():
            raise self._error(LinkExpiredError, "the link is dead, and there is no fresh one")
        self._expired, self._told_old = False, doubted and not over
        if not link:
            lost = "the task has no link for this result"
            if is_final(fresh) and not is_completed(fresh):  # it was taken down
                lost += f", and the service says now: {failure_of(fresh)}"
            raise _SetbackError(lost, Setback.LINK)
        self.task, self._link, self._stale = fresh, link, False

    async def _not_believed(self, error: BrokenVideoError) -> Exception:
        """Say what follows from bytes that do not make a whole video: they are kept."""
        if self._inherited:
            # The bytes from an earlier call may be to blame, so all of it is fetched once more.
            await self._sink.discard()
            self._inherited, self._received = False, 0
            return _SetbackError(
                f"what was there already and what came do not make a video: {error}"
            )
        if error.cut and self._cuts < self._persistence.policy.attempts - 1:
            # A host that has not all of it yet calls its beginning the whole; and where nobody
            # said how long the file is, it may be the connection that ended too early.
            self._ended_at = self._received
            self._cuts += 1
            return _SetbackError(f"the file host stopped early: {error}")
        kept = await self._sink.reject()
        return self._error(
            NotAVideoError,
            f"what the link gave is not a whole video: {error}; it is kept in {kept}",
            rejected_path=kept,
        )

    # --- the answer -------------------------------------------------------------------------------

    async def _receive(self, stream: Stream, held: Held) -> Verified:
        verdict = judge(stream.status, stream.headers, held if self._ranges else Held())
        self._refuse(verdict, stream)
        self._length = verdict.length
        if verdict.meaning is Meaning.COMPLETE:
            return await self._publish([])
        self._begun = verdict.meaning is Meaning.REST
        if self._begun and verdict.length is not None:
            await self._sink.require(verdict.length - self._received)
        kind = stream.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        self._content_type = kind if kind.startswith("video/") else "video/mp4"
        self._decoder = None
        try:
            while await stream.fill(PIECE) and not stream.ended:
                if self._begun or stream.size >= SNIFFED:
                    await self._store(stream, verdict)
        except BaseException:
            # What came before a break or a cancellation is kept too.
            if stream.size and (self._begun or begins_like_video(stream.head)):
                with suppress(_SetbackError):
                    await self._store(stream, verdict)
            raise
        return await self._end(stream, verdict)

    def _refuse(self, verdict: RangeAnswer, stream: Stream) -> None:
        """Raise what an answer without the wanted bytes means."""
        headers = stream.headers
        self._doubt_ranges(refused=verdict.meaning is Meaning.DEAD or stream.status in (500, 501))
        if verdict.meaning is Meaning.DEAD:
            raise self._dead(verdict.reason, stream)
        if verdict.meaning is Meaning.BUSY:
            wish = parse_retry_after(headers.get("Retry-After"), headers.get("Date"))
            raise _SetbackError(verdict.reason, Setback.BUSY, wish=wish)
        if verdict.meaning is Meaning.CONFUSED:
            self._ranges = False
            raise _SetbackError(verdict.reason)
        if verdict.length is not None:
            self._refuse_size(verdict.length)

    def _doubt_ranges(self, *, refused: bool) -> None:
        """Ask for the whole file next, when the rest of it was refused twice. Some hosts and some
        signatures know no ranges. When the whole is refused too, the rest is asked for again.
        """
        asked_for_rest = refused and self._ranges and self._received > 0
        self._refused_rests = self._refused_rests + 1 if asked_for_rest else 0
        # Not at the first: a link that lives for seconds has died, and its successor is as good.
        self._ranges = self._refused_rests < 2 if refused else self._ranges

    def _dead(self, reason: str, stream: Stream, page: bytes | None = None) -> _SetbackError:
        """Say that the link gave no video. Its end counts by the host's clock. This machine's, the
        host's and the service's may be wrong by days: none makes a link old that `_is_young`.
        """
        now = date_of(stream.headers) or time.time()
        old = urgency(self.task.expires_at) <= now
        self._told_old = old and self._is_young()
        self._expired = old and not self._told_old
        wish = parse_retry_after(stream.headers.get("Retry-After"), stream.headers.get("Date"))
        return _SetbackError(reason, Setback.LINK, wish=wish, page=page)

    def _is_young(self) -> bool:
        """Return whether what this session saw within a day, or two other clocks, deny the end."""
        return self._told_old or self._was_unfinished()

    def _was_unfinished(self) -> bool:
        """Return whether this session has seen the task unfinished within a day."""
        seen = self._unfinished(self.task.id)
        now = asyncio.get_running_loop().time()
        return seen is not None and now - seen < LINK_LIFE.total_seconds()

    async def _store(self, stream: Stream, verdict: RangeAnswer) -> None:
        """Hand over what is gathered. The first bytes are looked at before those that are there are
        given up for them.
        """
        verdict = self._undo_encoding(stream, verdict)
        async for pieces in self._decoded(stream):
            if not self._begun:
                self._refuse_page(pieces, stream)
            size = sum(map(len, pieces)) + (self._received if self._begun else 0)
            self._refuse_size(size)
            if self._begun:
                await self._sink.write(pieces)
            else:
                await self._sink.restart(Held(0, verdict.validator, verdict.length), pieces)
                self._begun = self._ranges = True
                self._inherited = False
            self._received = size
            self._tell()

    def _undo_encoding(self, stream: Stream, verdict: RangeAnswer) -> RangeAnswer:
        """Decode what comes encoded though that was not asked for; its length and version are then
        not the video's.
        """
        if self._begun or self._decoder is not None:
            return verdict
        encoding = encoding_of(stream.headers)
        if not Decoder.knows(encoding) or begins_like_video(stream.head):
            return verdict
        self._decoder, self._length = Decoder(encoding), None
        return attrs.evolve(verdict, length=None, validator=None)

    async def _decoded(self, stream: Stream) -> AsyncIterator[list[bytes]]:
        decoder, pieces = self._decoder, stream.take()
        if decoder is None:
            yield pieces
            return
        decoder.feed(b"".join(pieces))
        try:
            while piece := await self._threads.run(decoder.read):
                yield [piece]
        except ValueError as error:
            raise _SetbackError(str(error)) from error

    def _refuse_page(self, pieces: Sequence[bytes], stream: Stream) -> None:
        """Raise when the first bytes are a page's; any other file is fetched, to be kept."""
        head = beginning(pieces)
        if not head or (begins_like_text(head) and not begins_like_video(head)):
            reason = f"the link gave {format_of(head)} instead of a video"
            raise self._dead(reason, stream, beginning(pieces, KEPT_PAGE) or None)

    async def _end(self, stream: Stream, verdict: RangeAnswer) -> Verified:
        """Store the last bytes, and publish all if nothing is missing."""
        verdict = self._undo_encoding(stream, verdict)
        before = self._received if self._begun else 0
        whole = verdict.length is None or before + stream.size == verdict.length
        if whole and self._decoder is None and not self._begun and not self._received:
            # Nothing is there, and all has come: one visit to a thread does the rest.
            pieces = stream.take()
            self._refuse_page(pieces, stream)
            return await self._publish(pieces, Held(0, verdict.validator, verdict.length))
        if not whole or not self._begun or self._decoder is not None:
            await self._store(stream, verdict)
        if self._decoder is not None:
            whole = self._decoder.ended and self._begun
        if not whole:
            raise _SetbackError("the file host stopped early")
        return await self._publish(stream.take())

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

    def _refuse_size(self, size: int) -> None:
        if size > self._largest:
            raise VideoTooLargeError(
                f"the video has {size:,} bytes, and at most {self._largest:,} are allowed",
                path=self._path,
            )

    async def _publish(self, pieces: Sequence[bytes], anew: Held | None = None) -> Verified:
        self._received += sum(map(len, pieces))
        self._refuse_size(self._received)
        if anew is not None:
            self._tell()
        sha256, movie = await self._sink.publish(pieces, anew)
        self._tell()
        return Verified(self._received, sha256, self._content_type, movie)


def link_of(task: Task, index: int) -> str:
    """Return one link of a task; "" when there is none."""
    return task.results[index] if 0 <= index < len(task.results) else ""
