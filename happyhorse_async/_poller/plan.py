"""Which tasks are worth a read when, and in whose company. Knows no clock; waits for nothing."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Collection
from typing import TYPE_CHECKING

from .._rules import pacing
from .._rules.wire import BATCH_SIZE
from .watched import Kind, Watched
from .wheel import TimingWheel

if TYPE_CHECKING:
    from .._config import Polling

logger = logging.getLogger("happyhorse_async")

# Shares of the target delay: how much longer than the price asks a task waits for company in a
# batch, and how much earlier others join it.
LINGER = 0.4
COMPANY = 1 / 3
# How much earlier full batches go, once one goes: a process that wakes for each of them costs twice
# the CPU of one that wakes for several.
TOGETHER = 0.1
# Tasks in a row whose expected callback did not come before callbacks are no longer waited for.
UNCALLED = 3
JITTER = 0.1
MOST_KINDS = 1024


class Plan:
    """What is to be read when."""

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        self.outlook = pacing.Outlook(polling)
        """What was learned of how long tasks live."""
        self.batches = True
        """Whether one request can read many."""
        self._linger = LINGER * polling.target_delay
        self._company = COMPANY * polling.target_delay
        self._together = TOGETHER * polling.target_delay
        # What may be read that much earlier in company is entered so much later: two reads are
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

    def again_all(self, group: list[Watched], asked: float, now: float) -> None:
        """Read tasks again that are as they were. What is alike stays together, which keeps batches
        full.
        """
        for alike in self._alike(group, asked):
            self._reads.enter_all(alike, asked + self._pause(alike[0], asked))
        for watched in group:
            if watched.hinted:
                self.soon(watched, now)

    def _alike(self, group: list[Watched], now: float) -> Collection[list[Watched]]:
        """Sort tasks into those that are alike in all that says when they are worth a read.

        Those that were alike before still are.
        """
        first = group[0].kind
        for watched in group:
            if watched.kind is None or watched.kind is not first:
                break
        else:
            return (group,)
        by_kind: dict[Kind, list[Watched]] = {}
        for watched in group:
            age = pacing.rounded(now - watched.born)
            kind = (watched.estimate, watched.predicted, watched.callback, age)
            by_kind.setdefault(kind, []).append(watched)
        if len(self._kinds) > MOST_KINDS:
            self._kinds.clear()
        for kind, alike in by_kind.items():
            # Equal kinds are one object, so that a glance tells them apart the next time.
            known = self._kinds.setdefault(kind, kind)
            for watched in alike:
                watched.kind = known
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
        if watched.callback and self._uncalled < UNCALLED:
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
