"""The sandbox's time, a scale and an offset on real time; what is due in it, and what runs beside.

The real clock is passed in; nothing here reads one.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Clock:
    """Unix time on the sandbox, which runs at `speed` sandbox seconds per real second.

    At speed 0 time stands still until `advance`.
    """

    def __init__(self, *, start: float, speed: float, real: Callable[[], float]) -> None:
        self.real = real
        self._base = start
        self._anchor = real()
        self._speed = _checked_speed(speed)

    @property
    def speed(self) -> float:
        """Sandbox seconds per real second; setting it keeps the present time."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        """Change the speed from now on; `ValueError` when it is negative or not finite."""
        self._base, self._anchor = self.now(), self.real()
        self._speed = _checked_speed(speed)

    def now(self) -> float:
        """Return the sandbox's Unix time in seconds."""
        return self._base + (self.real() - self._anchor) * self._speed

    def advance(self, seconds: float) -> None:
        """Move time forward; `ValueError` when `seconds` is negative."""
        if not seconds >= 0:
            raise ValueError(f"time only moves forward, not by {seconds}")
        self._base += seconds

    def real_delay(self, until: float) -> float | None:
        """Return the real seconds left until a sandbox time; None when it never comes by itself."""
        left = until - self.now()
        if left <= 0:
            return 0.0
        return left / self._speed if self._speed else None


def _checked_speed(speed: float) -> float:
    if not 0 <= speed < float("inf"):
        raise ValueError(f"speed is zero or more and finite, not {speed}")
    return speed


class Agenda:
    """What is due at which sandbox time, done in order of time and, at one time,
    in order of entry.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, action: Callable[[float], None]) -> None:
        """Enter an action, which is called with the time that it was entered for."""
        heapq.heappush(self._entries, (when, next(self._order), action))

    @property
    def next_due(self) -> float | None:
        """Return the time of the earliest entry."""
        return self._entries[0][0] if self._entries else None

    def run(self, now: float) -> None:
        """Do everything that is due by `now`, including what that itself makes due."""
        entries = self._entries
        while entries and entries[0][0] <= now:
            when, _, action = heapq.heappop(entries)
            action(when)


class BackgroundWork:
    """The running background tasks of one part of the sandbox, each of which ends with that."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], None] = {}
        """In order, so that a simulation ends them alike every time."""
        self._loop = asyncio.get_running_loop()
        """Where it runs, also when what starts it is looked at while the loop stands still."""

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background; a failure goes to the loop's exception handler."""
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {
                "message": "background work of the sandbox failed",
                "exception": error,
                "task": task,
            }
            task.get_loop().call_exception_handler(context)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
