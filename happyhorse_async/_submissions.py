"""Many submissions at once, under the session's limits, handed over as they are decided."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Never

import attrs

from ._concurrency import is_own_cancellation, to_the_end
from ._formats.texts import shown
from ._request import ImageToVideo, cut_off
from ._tasks import TaskHandle, handle_of
from ._values import Value
from .errors import HappyHorseError, InvalidRequestError

if TYPE_CHECKING:
    from ._parts import Parts


@attrs.frozen(kw_only=True)
class AcceptedSubmission(Value):
    """One request of `submit_many` that has become a task."""

    index: int
    """The request's place in the input, from 0."""
    request: ImageToVideo
    """The request as it was given."""
    task: TaskHandle
    """The handle of its task."""
    ok: ClassVar[Literal[True]] = True

    def to_dict(self) -> dict[str, Any]:
        """Return the submission as JSON has it."""
        return {"ok": True, **super().to_dict(), "error": None}

    error: ClassVar[None] = None


@attrs.frozen(kw_only=True)
class FailedSubmission(Value):
    """One request of `submit_many` that has not become a task, as far as it is known."""

    index: int
    """The request's place in the input, from 0."""
    request: ImageToVideo
    """The request as it was given; whatever else came instead of one."""
    error: HappyHorseError
    """Why it was not accepted; `charged` says whether money may have been spent all the same."""
    ok: ClassVar[Literal[False]] = False
    # Never to checkers. Some do not narrow a union by the truth of a member. So `task` is a handle
    # behind `if submission.ok` to them as well.
    if TYPE_CHECKING:
        task: ClassVar[Never]
    else:
        task = None

    def to_dict(self) -> dict[str, Any]:
        """Return the submission as JSON has it."""
        return {"ok": False, **super().to_dict(), "task": None}


Submission = AcceptedSubmission | FailedSubmission
"""What became of one request of `submit_many`. Behind `if submission.ok:` a checker knows that
`submission.task` is a `TaskHandle`. Behind `if submission.error is not None:` it knows why it
failed."""


LOOK_AGAIN = 0.1
"""Seconds after which an input that goes on is cancelled once more."""


class Decided(NamedTuple):
    """A submission that waits to be handed over."""

    number: int
    """The request's place in the input, from 0."""
    submission: Submission
    orphan: tuple[ImageToVideo, str, str | None] | None
    """What is left to the session if nobody takes it; None: nothing was, or may have been, paid."""


class Submissions:
    """The submissions of many requests: an async context manager that yields each one as it is
    decided.

    One bad request is one failed submission. The input is read only as fast as it can be submitted
    and handed over. Leaving early stops submitting. What has left by then is finished, and kept in
    the session's `orphans` unless it was yielded.
    """

    def __init__(
        self,
        parts: Parts,
        requests: Iterable[ImageToVideo] | AsyncIterable[ImageToVideo],
        *,
        ordered: bool,
    ) -> None:
        import anyio  # late, as what follows: who only names what is yielded needs neither

        from ._submitter import Group

        self._input: Iterator[ImageToVideo] | AsyncIterator[ImageToVideo]
        self._input = aiter(requests) if isinstance(requests, AsyncIterable) else iter(requests)
        self._parts = parts
        self._ordered = ordered
        self._workers = parts.settings.limits.max_submissions
        self._running = 0
        self._opened = False
        self._group = Group()
        self._turn = anyio.Lock()
        # What was read and not handed over is bounded, also when the one that is next in order
        # takes long.
        self._window = anyio.Semaphore(2 * self._workers)
        # Not a stream. One that is cancelled while it receives can lose what it was just given, and
        # this was paid for.
        self._decided: deque[Decided] = deque()
        self._news = asyncio.Event()
        self._early: dict[int, Decided] = {}
        self._next = 0
        self._read = 0
        self._exhausted = self._left = False
        self._error: BaseException | None = None
        # No task group: it could not be left in another task than it was entered in, as an async
        # generator is that nobody reads to its end, and would cancel whoever entered it.
        self._tasks: list[asyncio.Task[None]] = []
        self._reader: asyncio.Task[None] | None = None
        """The worker that reads the input at present."""

    async def __aenter__(self) -> Submissions:
        self._parts.here()
        self._opened = True
        self._running = self._workers
        create = asyncio.get_running_loop().create_task
        for _ in range(self._workers):
            self._tasks.append(create(self._work(), name="happyhorse_async: submit_many"))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left = self._exhausted = True
        for task in self._tasks:
            task.cancel()
        try:
            await to_the_end(asyncio.ensure_future(self._ended()))
        finally:
            # A cancelled task holds its error, whose frames hold this, and this the caller's input.
            self._tasks.clear()
            self._input = iter(())
            self._running = 0
            self._close()

    async def _ended(self) -> None:
        # Not by what they count themselves: one that had not begun counts nothing.
        while pending := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(pending, timeout=LOOK_AGAIN)
            if self._reader is not None:
                # The input may have caught its cancellation. Others are cancelled once: a second
                # time would cut short what has left.
                self._reader.cancel()

    def __aiter__(self) -> Submissions:
        return self

    async def __anext__(self) -> Submission:
        self._parts.here()
        decided = await self._following()
        if decided is None:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopAsyncIteration
        self._window.release()
        return decided.submission

    async def _following(self) -> Decided | None:
        while not self._ordered or self._next not in self._early:
            while not self._decided:
                if not self._opened:
                    raise HappyHorseError(
                        "nothing is submitted yet: use `async with "
                        "session.submit_many(requests) as submissions`"
                    )
                if not self._running:
                    return None
                self._news.clear()
                await self._news.wait()
            decided = self._decided.popleft()
            if not self._ordered:
                return decided
            self._early[decided.number] = decided
        self._next += 1
        return self._early.pop(self._next - 1)

    async def _work(self) -> None:
        try:
            while (item := await self._take()) is not None:
                self._decided.append(await self._decide(*item))
                self._news.set()
        except Exception as error:  # noqa: BLE001 a bug of ours: whoever iterates must hear of it
            self._exhausted, self._error = True, error
        finally:
            self._running -= 1
            self._news.set()

    async def _take(self) -> tuple[int, ImageToVideo] | None:
        await self._window.acquire()
        async with self._turn:
            if self._exhausted:
                return None
            self._reader = asyncio.current_task()
            try:
                request = (
                    await anext(self._input)
                    if isinstance(self._input, AsyncIterator)
                    else next(self._input)
                )
            except (StopIteration, StopAsyncIteration):
                self._exhausted = True
                return None
            except Exception as error:  # noqa: BLE001 the caller's own iterable: whatever it raises goes to the caller
                self._exhausted, self._error = True, error
                return None
            except asyncio.CancelledError as error:
                if not is_own_cancellation(error):
                    raise
                self._exhausted, self._error = True, cut_off(error)
                return None
            finally:
                self._reader = None
            if self._left:  # while its input was read
                return None
            index, self._read = self._read, self._read + 1
            return index, request

    async def _decide(self, index: int, request: Any) -> Decided:
        try:
            if not isinstance(request, ImageToVideo):
                raise InvalidRequestError(
                    [f"request {index}: expected an ImageToVideo, got {shown(request)}"]
                )
            acceptance = await self._parts.submitter.submit(request, group=self._group)
        except HappyHorseError as error:
            unsure = error.charged == "unknown"
            orphan = (request, error.idempotency_key or "", None) if unsure else None
            return Decided(index, _failed(index, request, error), orphan)
        except Exception as error:  # noqa: BLE001 one bad request is one failed submission, whatever it raises
            return Decided(index, _failed(index, request, _ours(error, index)), None)
        task = handle_of(self._parts, acceptance)
        paid = request, acceptance.idempotency_key, acceptance.task.id
        return Decided(index, AcceptedSubmission(index=index, request=request, task=task), paid)

    def _close(self) -> None:
        """Leave what nobody took to the session."""
        for decided in (*self._early.values(), *self._decided):
            if decided.orphan is not None:
                self._parts.submitter.orphan(*decided.orphan)
        self._early.clear()
        self._decided.clear()


def _failed(index: int, request: Any, error: HappyHorseError) -> FailedSubmission:
    return FailedSubmission(index=index, request=request, error=error)


def _ours(error: Exception, index: int) -> HappyHorseError:
    """Return an error of ours for one that was raised before anything was sent."""
    ours = HappyHorseError(
        f"request {index} could not be submitted: {type(error).__name__}: {error!s:.200}",
        next_step="Look at the request; nothing was sent and nothing was charged.",
    )
    ours.__cause__ = error
    return ours
