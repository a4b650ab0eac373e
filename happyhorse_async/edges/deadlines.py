"""Time limits for very many short calls, without a timer for each: calls with the same limit end in the order in which they began.

aiohttp's own limit of a whole call costs a timer in the loop's heap, and a look at the current task at each of its steps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class Deadline:
    """The time limit of one call, as a context manager; what runs over it is cancelled and raises `TimeoutError`.

    A cancellation from outside stays a cancellation, as with `asyncio.timeout`.
    """

    __slots__ = ("_cancelling", "_expired", "_task", "when")

    def __init__(self, when: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call needs to be made from within an asyncio task")
        self.when = when
        self._expired = False
        self._task: asyncio.Task[object] | None = task
        self._cancelling = task.cancelling()

    def __enter__(self) -> None:
        """Begin; it was made in the same moment."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        task, self._task = self._task, None
        if not self._expired or task is None:
            return
        if task.uncancel() <= self._cancelling and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self._task is None

    def expire(self) -> None:
        """End the call."""
        if self._task is not None:
            self._expired = True
            self._task.cancel()


class Deadlines:
    """The time limits of all calls that may take equally long: one timer, for the oldest."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._open: deque[Deadline] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def begin(self) -> Deadline:
        """Make the limit of a call that the current task begins now; to be entered at once."""
        when = self._loop.time() + self._limit
        deadline = Deadline(when)
        calls = self._open
        while calls and calls[0].over:
            calls.popleft()
        calls.append(deadline)
        if self._alarm is None:
            self._alarm = self._loop.call_at(when, self._ring)
        return deadline

    def _ring(self) -> None:
        now = self._loop.time()
        while self._open and (self._open[0].over or self._open[0].when <= now):
            self._open.popleft().expire()
        self._alarm = self._loop.call_at(self._open[0].when, self._ring) if self._open else None

    def close(self) -> None:
        """Ring no more."""
        self._open.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
