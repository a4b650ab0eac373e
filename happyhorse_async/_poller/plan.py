"""Which tasks are worth a read when, and in whose company; and the wheel that keeps what is due."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import logging
import math
import random
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from .._rules import pacing
from .._rules.wire import BATCH_SIZE
from .watched import Kind, Watched

if TYPE_CHECKING:
    from .._config import Polling

logger = logging.getLogger("happyhorse_async")

# Shares of the target delay. The first: how much longer than the price asks a task waits for
# company in a batch. The second: how much earlier others join it.
LINGER = 0.4
COMPANY = 1 / 3
# How much earlier full batches go, once one goes. A process that wakes for each of them costs twice
# the CPU of one that wakes for several.
TOGETHER = 0.1
# Tasks in a row whose expected callback did not come before callbacks are no longer waited for.
UNCALLED = 3
JITTER = 0.1
MOST_KINDS = 1024
# Kinds in one batch that are taken as they were.
FEW_KINDS = 4
# Of all time limits that end at once, so many are told before the event loop gets its turn.
CHUNK = 500


class Plan:
    """What is to be read when. Knows no clock, and waits for nothing."""

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        self.outlook = pacing.Outlook(polling)
        """What was learned of how long tasks live."""
        self.batches = True
        """Whether one request can read many."""
        self._linger = LINGER * polling.target_delay
        self._company = COMPANY * polling.target_delay
        self._together = TOGETHER * polling.target_delay
        # What may be read that much earlier in company is entered so much later. Two reads are
        # never closer than they may be.
        self._least_pause = polling.min_interval + self._company
        self._reads: TimingWheel[Watched] = TimingWheel(polling.target_delay / 32)
        self._going_until = -math.inf
        self._uncalled = 0
        self._kinds: dict[Kind, Kind] = {}

    def __len__(self) -> int:
        return len(self._reads)

    # --- putting in -------------------------------------------------------------------------------

    def enter(self, watched: Watched, when: float) -> float:
        """Read a task at a time; return that time."""
        self._reads.enter(watched, when)
        return when

    def begin(self, watched: Watched, now: float) -> float:
        """Read a task from now on; return when.

        It is read when it was due anyway, or at once when nothing is known of it yet.
        """
        if watched.due is not None:
            return self.enter(watched, max(watched.due, now))
        if watched.status is None:
            return self.enter(watched, now - self._linger)
        return self.enter(watched, max(now, watched.asked + self._pause(watched, watched.asked)))

    def soon(self, watched: Watched, now: float) -> float:
        """Read a task as soon as its last read is not too recent; return when."""
        watched.hinted = False
        # Entered as if it had waited for company long enough already.
        return self.enter(
            watched, max(now, watched.asked + self._polling.min_interval) - self._linger
        )

    def again(self, watched: Watched, asked: float, now: float) -> None:
        """Read an unfinished task again, of which there was news."""
        if watched.hinted:
            self.soon(watched, now)
        else:
            self.enter(watched, asked + self._pause(watched, asked))

    def again_all(self, groups: Collection[list[Watched]], asked: float, now: float) -> None:
        """Read tasks again that are as they were. What is alike stays together, which keeps batches
        full.
        """
        for alike in groups:
            self._reads.enter_all(alike, asked + self._pause(alike[0], asked))
            for watched in alike:
                if watched.hinted:
                    self.soon(watched, now)

    def alike(self, group: list[Watched], now: float) -> Collection[list[Watched]]:
        """Sort tasks into those that are alike in all that says when they are worth a read.

        Those that were alike before still are. A few kinds stay apart: one more pause for each
        costs less than to find out whether they have become alike.
        """
        first = group[0].kind
        for watched in group:
            if watched.kind is None or watched.kind is not first:
                break
        else:
            return (group,)
        known: dict[int, list[Watched]] = {}
        for watched in group:
            known.setdefault(id(watched.kind), []).append(watched)
        if id(None) not in known and len(known) <= FEW_KINDS:
            return known.values()
        by_kind: dict[Kind, list[Watched]] = {}
        for watched in group:
            age = pacing.rounded(now - watched.born)
            kind = (watched.estimate, watched.predicted, watched.awaits_callback, age)
            by_kind.setdefault(kind, []).append(watched)
        if len(self._kinds) > MOST_KINDS:
            self._kinds.clear()
        for kind, alike in by_kind.items():
            # Equal kinds are one object, so that a glance tells them apart the next time.
            same = self._kinds.setdefault(kind, kind)
            for watched in alike:
                watched.kind = same
        return by_kind.values()

    def drop(self, watched: Watched) -> None:
        """Read a task no more; should somebody wait for it again, it is due as before."""
        watched.due = self._reads.due(watched)
        self._reads.remove(watched)

    def callback_came(self, came: bool) -> None:
        """Learn whether a task that ended was called back for.

        After a few that were not, callbacks are no longer relied on.
        """
        self._uncalled = 0 if came else self._uncalled + 1
        if self._uncalled == UNCALLED:
            logger.warning(
                "%d tasks ended without the callback that was expected: "
                "reading at the usual pace again",
                UNCALLED,
                extra={"action": "callbacks_missing"},
            )

    def _pause(self, watched: Watched, asked: float) -> float:
        if watched.awaits_callback and self._uncalled < UNCALLED:
            pause = self._polling.heartbeat
        else:
            company = max(1, min(BATCH_SIZE, len(self._reads))) if self.batches else 1
            age = asked - watched.born
            pause = self.outlook.pause(age, watched.estimate, watched.predicted, company)
        # Tasks that were submitted together need not be read by all clients of the service at once.
        return max(self._least_pause, pause * (1 - JITTER * random.random()))

    # --- taking out -------------------------------------------------------------------------------

    def ripe_at(self) -> float:
        """Return when a read is worth its request.

        That is when a full batch is due, or when someone has waited for company long enough.
        """
        first = self._reads.first()
        if first is None:
            return math.inf
        if not self.batches:
            return first
        latest = first + self._linger
        full = self._reads.when(min(BATCH_SIZE, len(self._reads)), max(latest, self._going_until))
        return -math.inf if full <= self._going_until else min(full, latest)

    def take(self, now: float) -> list[Watched]:
        """Take what one request is to read: what is due, and in the room left what is due soon."""
        if not self.batches:
            return self._reads.take(now, 1)
        if self._going_until < now:
            self._going_until = now + self._together
        due = self._reads.take(now, BATCH_SIZE)
        room = BATCH_SIZE - len(due)
        return due + self._reads.take(now + self._company, room) if room else due


# --- What is due when, for very many things: buckets of time instead of a timer each.


class Timed(Protocol):
    """A thing that can be entered: it keeps the number of its bucket itself."""

    slot: int
    """Belongs to the wheel that the thing is entered in; -1: in none."""


D = TypeVar("D", bound=Timed)


class _Bucket(dict[D, None]):
    """What is due at one moment. A dict, not a set: it comes in the order in which it was entered,
    which no memory address decides.
    """

    __slots__ = ("slot",)

    slot: int
    """Its number, the same object for all that is in here."""


class TimingWheel(Generic[D]):
    """Things by due time, exact to `grain` seconds and never early.

    Entering, moving and removing one costs the same at any number.
    """

    def __init__(self, grain: float) -> None:
        self._grain = grain
        self._buckets: dict[int, _Bucket[D]] = {}
        self._order: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, thing: D, when: float) -> None:
        """Enter a thing, or move it."""
        if thing.slot >= 0:
            self.remove(thing)
        bucket = self._bucket(when)
        bucket[thing] = None
        thing.slot = bucket.slot
        self._count += 1

    def enter_all(self, things: Collection[D], when: float) -> None:
        """Enter or move several things that are due at the same time."""
        bucket = self._bucket(when)
        slot = bucket.slot
        for thing in things:
            if thing.slot >= 0:
                self.remove(thing)
            thing.slot = slot
        bucket.update(dict.fromkeys(things))
        self._count += len(things)

    def _bucket(self, when: float) -> _Bucket[D]:
        """Return what is due at a time, to be added to."""
        slot = max(0, -int(-when // self._grain))
        bucket = self._buckets.get(slot)
        if bucket is None:
            bucket = self._buckets[slot] = _Bucket()
            bucket.slot = slot
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
