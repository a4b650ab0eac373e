"""What asyncio lacks: background tasks with an owner, and waiting to the end though cancelled. Also
threads for what blocks, time limits, and room by urgency. Knows nothing of the service.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import sys
import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
)
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from contextvars import Context, ContextVar, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Executor

logger = logging.getLogger("happyhorse_async")

T = TypeVar("T")


# --- Background tasks with an owner. A session may be opened in one task and closed in another. A
# task group held across `async with` does not survive that, so the session owns its tasks itself.


class Background:
    """Asyncio tasks that end when their owner closes; an error in one is logged and seen by
    `asyncio.Task` as usual.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(
        self, work: Coroutine[Any, Any, Any], *, name: str, for_caller: bool = False
    ) -> asyncio.Task[Any]:
        """Start work that `aclose` cancels and awaits; raises `RuntimeError` after `aclose`.

        Work for everybody runs in an empty `contextvars.Context`. It must not carry the request id,
        or the trace, of the caller that happened to come first. With `for_caller` it runs in a copy
        of the caller's context, as `asyncio.create_task` does.
        """
        if self._closed:
            work.close()
            raise RuntimeError("the owner of the background work is closed")
        context = copy_context() if for_caller else Context()
        # Not by `create_task(context=)`: older task factories do not know that argument.
        task = context.run(
            asyncio.get_running_loop().create_task, work, name=f"happyhorse_async: {name}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error(
                "background work failed: %s",
                task.get_name(),
                exc_info=task.exception(),
                extra={"action": "background_failed"},
            )

    async def aclose(self) -> None:
        """Cancel what still runs, and wait until it has ended; may be called twice."""
        self._closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


# --- Waiting to the end though cancelled: for what uses a file, or may have been paid.


def _shielded() -> AbstractContextManager[object]:
    """Keep anyio's cancellations away: a cancelled scope cancels every wait inside it anew, where
    a plain cancellation comes once.

    Where nobody has loaded anyio there are no scopes. Loading it would take longer than all the
    rest of a first submission.
    """
    anyio = sys.modules.get("anyio")
    return anyio.CancelScope(shield=True) if anyio is not None else nullcontext()


async def to_the_end(work: asyncio.Future[T]) -> T:
    """Wait until work has ended, however often the caller is cancelled meanwhile; return its
    result.

    A cancellation is raised once the work has ended. An error of the work is then its cause.
    """
    cancelled: asyncio.CancelledError | None = None
    with _shielded():
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                cancelled = error
    try:
        if cancelled is not None:
            raise cancelled from (None if work.cancelled() else work.exception())
        return work.result()
    finally:
        del work, cancelled  # an error that its own frame holds would keep all that is in it


def heed_cancellation() -> None:
    """Raise the cancellation of the current task whose place another error has taken.

    A cleanup on the way out may fail. Whoever catches that, and goes on, would never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


# --- A caller's own input, which runs in a task of ours.


IN_INPUT: ContextVar[bool] = ContextVar("a caller's input runs here", default=False)


def is_own_cancellation(error: BaseException) -> bool:
    """Whether an input itself raised a cancellation, as of a task that it awaits: nobody has
    cancelled the one in which it runs. Task groups pass over such a one, as if all had been read.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and not (task and task.cancelling())


async def until_closed(closing: asyncio.Future[None]) -> None:
    """Wait for a closing `to_the_end`. But an input that closes what it feeds is waited for by it:
    there, and in tasks of its own, the wait can be cancelled, and the closing goes on.
    """
    if IN_INPUT.get():
        await asyncio.shield(closing)
    else:
        await to_the_end(closing)


# --- Pauses that do not outlive their owner.


class Closing:
    """Whether an owner is closing; pauses and time limits end when closing begins."""

    def __init__(self, refusal: Callable[[], Exception] = RuntimeError) -> None:
        self._refusal = refusal
        self._begun = False
        self._pauses: set[asyncio.Future[None]] = set()
        self._limits: set[asyncio.Timeout] = set()

    def begin(self) -> None:
        """End all pauses and limits, also those to come; may be called twice."""
        self._begun = True
        for pause in self._pauses:
            _wake(pause)
        for limit in self._limits:
            # One that ends just now, or whose loop stands still, needs no end.
            with suppress(RuntimeError):
                limit.reschedule(0.0)

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncGenerator[None, None]:
        """Give what is inside so many seconds, and none once closing begins; raises
        `TimeoutError`, or what `refusal` gives.
        """
        try:
            async with asyncio.timeout(0.0 if self._begun else seconds) as limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if self._begun:
                raise self._refusal() from None
            raise

    async def rest(self, seconds: float) -> None:
        """Wait; raises what `refusal` gives as soon as closing begins."""
        if not await self.pause(seconds):
            raise self._refusal()

    async def pause(self, seconds: float) -> bool:
        """Wait; return whether the owner is still open. Endless seconds wait for closing."""
        if self._begun:
            return False
        loop = asyncio.get_running_loop()
        pause = loop.create_future()
        timer = loop.call_later(min(seconds, LONGEST_TIMER), _wake, pause)
        self._pauses.add(pause)
        try:
            await pause
        finally:
            timer.cancel()
            self._pauses.discard(pause)
        return not self._begun


LONGEST_TIMER = 86400.0 * 365
"""Seconds. Some event loops take no timer that is much longer."""


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


# --- An end for what lives in an event loop and may be forgotten in it.


async def _until_closed(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await close()


def close_with_loop(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Have the running event loop call `close` when it ends; return what calls it sooner, once, by
    its own `aclose`.

    `asyncio.run` and `asyncio.Runner` close the async generators of their loop before the loop
    (`loop.shutdown_asyncgens`). So this is one, and begun: a loop knows only those.
    """
    generator = _until_closed(close)
    without_loop(anext(generator))
    return generator


def without_loop(work: Awaitable[object]) -> None:
    """Run an awaitable as far as it comes without an event loop, and leave it there."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration:
        return
    finally:
        if isinstance(steps, Generator):
            steps.close()


# --- Blocking calls.


def hand_over(pool: Executor | None, call: Callable[..., T], *given: Any) -> asyncio.Future[T]:
    """Hand a blocking call to the threads of a pool, or to the loop's own, from the loop.

    Once a program's main thread has ended, Python gives work to no pool any more. Yet it waits for
    its other threads, and a loop in one of those goes on. There the call is made at once.
    """
    loop = asyncio.get_running_loop()
    try:
        return loop.run_in_executor(pool, call, *given)
    except RuntimeError:
        if not is_ending():
            raise
    done = loop.create_future()
    try:
        done.set_result(call(*given))
    except Exception as error:  # noqa: BLE001 it is told as a thread's is
        done.set_exception(error)
    return done


def is_ending() -> bool:
    """Whether the main thread has ended, or is about to. It shuts all pools while it still counts
    as alive, of which this flag of Python's own is the only sign.
    """
    pools = sys.modules.get("concurrent.futures.thread")
    return getattr(pools, "_shutdown", False) or not threading.main_thread().is_alive()


# --- A few threads of our own for what blocks. So neither the loop nor its default threads, which
# look names up, ever wait for a disk.


class Threads:
    """Runs blocking calls. Threads start when they are needed, and end with `close`.

    The running event loop hands each call to them, by `loop.run_in_executor`. So a simulated loop
    that overrides this one method runs every call inline, in its own time. No thread starts.
    """

    def __init__(self, most: int, *, name: str, refusal: Callable[[], Exception]) -> None:
        self._refusal = refusal
        self._closed = False
        # Late: a first submission starts no thread.
        from concurrent.futures import ThreadPoolExecutor

        class Pool(ThreadPoolExecutor):
            """Does with the threads that there are what no more are to be had for."""

            def _adjust_thread_count(self) -> None:
                try:
                    super()._adjust_thread_count()
                except RuntimeError:  # the machine, or its container, gives no more
                    if not self._threads:
                        self._work_queue.get_nowait()  # nobody may do it later: it has failed
                        raise

        self._pool = Pool(max_workers=most, thread_name_prefix=name)

    async def run(self, call: Callable[[], T], *, last: bool = False) -> T:
        """Make a blocking call in a thread, and wait for its end even when cancelled. It may be
        using a file that is closed next.

        After `close` only a `last` call, such as closing a file, is made, at once. Any other raises
        what `refusal` gives.
        """
        if self._closed:
            if not last:
                raise self._refusal()
            return call()
        return await to_the_end(hand_over(self._pool, call))

    def close(self) -> None:
        """End the threads, once what they are doing is done."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=False)


# --- Time limits for very many short calls, without a timer for each. Calls with the same limit
# end in the order in which they began.


class Deadline:
    """The time limit of one call, as a context manager. A call that runs over it is cancelled and
    raises `TimeoutError`.

    A cancellation from outside stays a cancellation, as with `asyncio.timeout`.
    """

    __slots__ = ("_cancelling", "_expired", "task", "when")

    def __init__(self, when: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call needs to be made from within an asyncio task")
        self.when = when
        self._expired = False
        self.task: asyncio.Task[object] | None = task
        """The one that calls; None once the call has ended."""
        self._cancelling = task.cancelling()

    def __enter__(self) -> None:
        """Begin; it was made in the same moment."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self.task = self.task, None
        if not self._expired or task is None:
            return
        if (
            task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise TimeoutError from error

    def expire(self) -> None:
        """End the call."""
        if self.task is not None:
            self._expired = True
            self.task.cancel()


LAST_TURNS = 8
"""Turns of the event loop between a deadline and its end. One reads up to 256 KiB from a socket."""


class Deadlines:
    """The time limits of all calls that may take equally long: one timer, for the oldest."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._open: deque[Deadline] = deque()
        self._closed = False
        self._alarm: asyncio.TimerHandle | None = None

    def begin(self) -> Deadline:
        """Make the limit of a call that the current task begins now; to be entered at once."""
        when = self._loop.time() + self._limit
        deadline = Deadline(when)
        calls = self._open
        while calls and calls[0].task is None:
            calls.popleft()
        calls.append(deadline)
        if self._alarm is None:
            self._set_alarm(when)
        return deadline

    def _ring(self) -> None:
        now, due = self._loop.time(), []
        while self._open and (self._open[0].task is None or self._open[0].when <= now):
            due.append(self._open.popleft())
        self._alarm = None
        if self._open:
            self._set_alarm(self._open[0].when)
        self._expire(due, LAST_TURNS)

    def _expire(self, due: list[Deadline], turns: int) -> None:
        # The process may have been stopped (a closed laptop, SIGSTOP). Then the response may lie in
        # the socket while the timer is long overdue. So the loop gets some turns to read what is
        # there.
        due = [deadline for deadline in due if deadline.task is not None]
        if self._closed or not due:
            return
        if turns:
            self._loop.call_soon(self._expire, due, turns - 1)
            return
        for deadline in due:
            deadline.expire()

    def _set_alarm(self, when: float) -> None:
        # One alarm serves all callers, so it belongs to the context of none.
        self._alarm = self._loop.call_at(when, self._ring, context=Context())

    def close(self) -> None:
        """Ring no more."""
        self._closed = True
        self._open.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


# --- Room for a few at once, given by urgency.


class Slots:
    """Room for so many at once; who waits is let in by urgency, not by arrival."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrival = itertools.count()
        self._refusal: Callable[[], Exception] | None = None

    @asynccontextmanager
    async def hold(self, urgency: float) -> AsyncIterator[None]:
        """Wait for room, and hold it; raises what `close` was given."""
        await self._enter(urgency)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, urgency: float) -> None:
        if self._refusal is not None:
            raise self._refusal()
        if self._room > 0:
            self._room -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._arrival), turn))
        try:
            await turn
        except (asyncio.CancelledError, GeneratorExit):
            if turn.done() and not turn.cancelled():
                # the room was given at the moment of the cancellation: it goes to the next
                self._leave()
            turn.cancel()
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._room += 1

    def close(self, refusal: Callable[[], Exception]) -> None:
        """Let nobody in any more: all who wait, and all who come, get an error of their own."""
        self._refusal = refusal
        for _, _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(refusal())
                turn.exception()  # looked at, in case that who waits is cancelled at this moment
        self._waiting.clear()
