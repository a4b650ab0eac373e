"""What is due when, for very many things: buckets of time instead of a timer each.

May import nothing of the package; knows no clock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar


class Dated(Protocol):
    """A thing that can be entered: it keeps the number of its bucket itself."""

    slot: int
    """Belongs to the agenda that the thing is entered in; -1: in none."""


D = TypeVar("D", bound=Dated)


class Agenda(Generic[D]):
    """Things by due time, exact to `grain` seconds and never early; entering, moving and removing one costs the same at any number."""

    def __init__(self, grain: float) -> None:
        self._grain = grain
        self._buckets: dict[int, set[D]] = {}
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
        (self._bucket(slot) if bucket is None else bucket).add(thing)
        self._count += 1

    def enter_all(self, things: Collection[D], when: float) -> None:
        """Enter or move several things that are due at the same time."""
        for thing in things:
            if thing.slot >= 0:
                self.remove(thing)
        slot = max(0, -int(-when // self._grain))
        bucket = self._buckets.get(slot)
        (self._bucket(slot) if bucket is None else bucket).update(things)
        for thing in things:
            thing.slot = slot
        self._count += len(things)

    def _bucket(self, slot: int) -> set[D]:
        bucket = self._buckets[slot] = set()
        heapq.heappush(self._order, slot)
        return bucket

    def remove(self, thing: D) -> None:
        """Take a thing out, if it is in."""
        if thing.slot >= 0:
            # An empty bucket stays until its time has come: the heap has its number.
            self._buckets[thing.slot].discard(thing)
            thing.slot = -1
            self._count -= 1

    def due(self, thing: D) -> float | None:
        """When a thing is due; None when it is not in."""
        return thing.slot * self._grain if thing.slot >= 0 else None

    def first(self) -> float | None:
        """When the earliest thing is due."""
        while self._order and not self._buckets[self._order[0]]:
            del self._buckets[heapq.heappop(self._order)]
        return self._order[0] * self._grain if self._order else None

    def when(self, count: int, latest: float) -> float:
        """When so many things will be due; infinite when that is after `latest`, as no bucket beyond is looked at."""
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
                taken += [bucket.pop() for _ in range(most - len(taken))]
        for thing in taken:
            thing.slot = -1
        self._count -= len(taken)
        return taken
