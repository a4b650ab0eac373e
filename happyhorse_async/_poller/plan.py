"""Which tasks are worth a read when, and in whose company; how often the service may be asked; and
the wheel that keeps what is due.
"""

from __future__ import annotations

import heapq
import logging
import math
import random
from collections.abc import Collection
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from .._rules import pacing, retry
from .._rules.throttling import Departures
from .._rules.wire import BATCH_SIZE
from ..errors import APIStatusError, HappyHorseError, RateLimitError
from .watched import Kind, Watched

if TYPE_CHECKING:
    from .._config import Polling, RetryPolicy

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


# --- How often the service may be asked at all.


# Of the reads that a minute may have, the share that may go at once after a quiet time. The rest
# comes at a steady rate. Any minute has no more than it may have by that.
AT_ONCE = 1 / 3
# Failed reads in a row before all reads pause.
FAILURES = 3
# Refusals in a row (of the key, for example) before those who wait are told. One can be a gateway's
# hiccup, five are the service's word.
REFUSALS = 5
# The most seconds for which reads pause, whatever the service asks for: links die.
LONGEST_PAUSE = 600.0


def is_refusal(error: HappyHorseError) -> bool:
    """Return whether the service itself refuses the request for good. A gateway's page says
    nothing, and what asks to be tried again is no refusal.
    """
    refused = isinstance(error, APIStatusError) and error.own_body and 400 <= error.status < 500
    return refused and not retry.worth_retrying(error)


class ReadBudget:
    """Says when the next read may leave. Knows no clock, and waits for nothing.

    A rate with some room for what comes at once, and the pauses that failed reads call for.
    """

    def __init__(self, polling: Polling, policy: RetryPolicy) -> None:
        self._policy = policy
        self._spacing = 60.0 / polling.max_reads_per_minute / (1 - AT_ONCE)
        self._credit = AT_ONCE * polling.max_reads_per_minute * self._spacing
        # How many are on the wire at once is not its business here.
        self._departures = Departures(ceiling=1)
        self._next = self._paused_until = self._failed_at = -math.inf
        self._failures = self._refusals = 0

    @property
    def failures(self) -> int:
        """Failed reads in a row."""
        return self._failures

    def next(self) -> float:
        """Return when the next read may leave."""
        return max(self._next, self._paused_until, self._departures.at)

    def spend(self, now: float) -> None:
        """Note that a read leaves."""
        self._departures.leaves(now)
        # What was not used lately may be used now. But a pause that the service asked for must not
        # end in a burst.
        paused = max(self._paused_until, self._departures.held_until)
        self._next = max(self._next, now - self._credit, min(paused, now)) + self._spacing

    def answered(self, asked: float, now: float) -> None:
        """Note that a read was answered."""
        self._failures = self._refusals = 0
        self._departures.let_in(now, self._epoch(asked))

    def _epoch(self, asked: float) -> int:
        """Return the finder's epoch of a read; of those refused together, one counts."""
        return self._departures.finder.epoch - (asked < self._failed_at)

    def failed(self, error: HappyHorseError, asked: float, now: float) -> bool:
        """Note that a read failed, and pause all of them when that is called for.

        Return whether those who wait are to be told.
        """
        epoch = self._epoch(asked)
        if asked >= self._failed_at:
            # Reads that were on the wire together fail together: that counts once.
            self._failures += 1
            self._refusals = self._refusals + 1 if is_refusal(error) else 0
            self._failed_at = now
        if isinstance(error, RateLimitError):
            wanted = min(self.pause(self._failures, error), LONGEST_PAUSE)
            self._departures.refused(now, epoch, error.retry_after, wanted)
            return False
        if isinstance(error, APIStatusError):
            self._departures.let_in(now, epoch)
        if isinstance(error, APIStatusError) and error.retry_after is not None:
            self._pause_all(now, self.pause(self._failures, error))
        elif self._failures >= FAILURES:
            self._pause_all(now, self.pause(self._failures - FAILURES + 1, error))
        return self._refusals >= REFUSALS

    def _pause_all(self, now: float, pause: float) -> None:
        self._paused_until = max(self._paused_until, now + min(pause, LONGEST_PAUSE))

    def pause(self, attempt: int, error: HappyHorseError | None = None) -> float:
        """Return the seconds before the n-th try of the same read."""
        return retry.pause_before(self._policy, attempt, error, random.random())


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
