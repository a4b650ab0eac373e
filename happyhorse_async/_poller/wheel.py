"""What is due when, for very many things: buckets of time instead of a timer each."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
from collections.abc import Callable, Collection
from typing import Generic, Protocol, TypeVar

# Of all time limits that end at once, so many are told before the event loop gets its turn.
CHUNK = 500


class Timed(Protocol):
    """A thing that can be entered: it keeps the number of its bucket itself."""

    slot: int
    """Belongs to the wheel that the thing is entered in; -1: in none."""


D = TypeVar("D", bound=Timed)


class TimingWheel(Generic[D]):
    """Things by due time, exact to `grain` seconds and never early.

    Entering, moving and removing one costs the same at any number.
    """

    def __init__(self, grain: float) -> None:
        self._grain = grain
        # Dicts, not sets: what is due at one moment comes in the order in which it was entered,
        # which no memory address decides.
        self._buckets: dict[int, dict[D, None]] = {}
        self._order: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, thing: D, when: float) -> None:
        """Enter a thing, or move it."""
        if thing.slot >= 0:
            self.remove(thing)
        slot = thing.slot = max(0, -int(-when // self._grain))
        bucket = self._buckets.get(slot)
        (self._bucket(slot) if bucket is None else bucket)[thing] = None
        self._count += 1

    def enter_all(self, things: Collection[D], when: float) -> None:
        """Enter or move several things that are due at the same time."""
        for thing in things:
            if thing.slot >= 0:
                self.remove(thing)
        slot = max(0, -int(-when // self._grain))
        bucket = self._buckets.get(slot)
        (self._bucket(slot) if bucket is None else bucket).update(dict.fromkeys(things))
        for thing in things:
            thing.slot = slot
        self._count += len(things)

    def _bucket(self, slot: int) -> dict[D, None]:
        bucket = self._buckets[slot] = {}
        heapq.heappush(self._order, slot)
        return bucket

    def remove(self, thing: D) -> None:
        """Take a thing out, if it is in."""
        if thing.slot >= 0:
            # An empty bucket stays until its time has come: the heap has its number.
            self._buckets[thing.slot].pop(thing, None)
            thing.slot = -1
            self._count -= 1

    def due(self, thing: D) -> float | None:
        """Return when a thing is due; None when it is not in."""
        return thing.slot * self._grain if thing.slot >= 0 else None

    def first(self) -> float | None:
        """Return when the earliest thing is due; None when there is none."""
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heapq.heappop(self._order)]
        return self._order[0] * self._grain if self._order else None

    def when(self, count: int, latest: float) -> float:
        """Return when so many things will be due.

        Infinite when that is after `latest`: no bucket beyond is looked at.
        """
        if self.first() is None:
            return math.inf
        found, slot, last = 0, self._order[0], int(latest / self._grain)
        while slot <= last:
            bucket = self._buckets.get(slot)
            found += len(bucket) if bucket else 0
            if found >= count:
                return slot * self._grain
            slot += 1
        return math.inf

    def take(self, until: float, most: int) -> list[D]:
        """Take out up to `most` things that are due by a time, the earliest first."""
        taken: list[D] = []
        while len(taken) < most:
            first = self.first()
            if first is None or first > until:
                break
            bucket = self._buckets[self._order[0]]
            if len(bucket) <= most - len(taken):
                taken += bucket
                bucket.clear()
            else:
                taken += [bucket.popitem()[0] for _ in range(most - len(taken))]
        for thing in taken:
            thing.slot = -1
        self._count -= len(taken)
        return taken


class TimeLimits(Generic[D]):
    """Calls a function with each thing whose time is over: one timer for all, for the first."""

    def __init__(self, on_late: Callable[[D], None]) -> None:
        self._on_late = on_late
        self._loop = asyncio.get_running_loop()
        self._wheel: TimingWheel[D] = TimingWheel(0.01)
        self._alarm: asyncio.TimerHandle | None = None

    def enter(self, thing: D, timeout: float | None) -> None:
        """Call with a thing after a time (seconds); None and infinity are no limit."""
        if timeout is not None and timeout < math.inf:
            self._wheel.enter(thing, self._loop.time() + timeout)
            self._set_alarm()

    def remove(self, thing: D) -> None:
        """Take that back; harmless when there was no limit."""
        if thing.slot >= 0:
            self._wheel.remove(thing)
            if not self._wheel:
                self._set_alarm()

    def _set_alarm(self) -> None:
        first, alarm = self._wheel.first(), self._alarm
        if alarm is not None and (first is None or first < alarm.when()):
            alarm.cancel()
            self._alarm = alarm = None
        if first is not None and alarm is None:
            # Of a context of its own: it must not keep that of whoever happened to wait first.
            self._alarm = self._loop.call_at(first, self._ring, context=contextvars.Context())

    def _ring(self) -> None:
        self._alarm = None
        for thing in self._wheel.take(self._loop.time(), CHUNK):
            self._on_late(thing)
        self._set_alarm()
