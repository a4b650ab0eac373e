"""One scheduler for all waiters of a session: which tasks are read when, in which company, and how failed reads are lived with.

It owns one asyncio task while anyone waits, and one more for each read on the wire. What an answer means for the waiters is decided by
the poller, which it calls.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import APIStatusError, BadRequestError, NotFoundError, RateLimitError
from ..events import ReadFailed
from ..rules import pacing, retry
from ..rules.wire import BATCH_SIZE
from .agenda import Agenda
from .records import Kind, Record

if TYPE_CHECKING:
    from ..background import Background
    from ..config import Limits, Polling, RetryPolicy
    from ..errors import HappyHorseError
    from ..events import Events
    from .channels import Subscriber
    from .reader import Reader, Reading

logger = logging.getLogger("happyhorse_async")

# Shares of the target delay: how much longer than the price asks a task waits for company in a batch, and how much earlier others join.
PATIENCE = 0.4
COMPANY = 1 / 3
# How much earlier full batches go, once one goes: a process that wakes for each of them costs twice the CPU of one that wakes for several.
TOGETHER = 0.15
# Of the reads that a minute may have, the share that may go at once after a quiet time; the rest comes at a steady rate.
AT_ONCE = 1 / 3
# Of everything that falls due at once, so much is done before the event loop gets its turn.
CHUNK = 500
# Failed reads in a row before all reads pause, and refusals of one task in a row (a key that is not accepted) before its waiters are told.
FAILURES = 3
REFUSALS = 3
# Tasks in a row whose expected callback did not come before callbacks are no longer waited for.
UNCALLED = 3
# Of full batches, one task in so many speaks for the others when it comes to learning.
SAMPLE = 8
JITTER = 0.1


class Sink(Protocol):
    """Who is told what the reads gave."""

    def answered(self, record: Record, value: Mapping[str, Any], asked: float) -> bool:
        """Take a task's JSON object; gives whether the task is still to be watched."""

    def unknown(self, record: Record, error: HappyHorseError) -> None:
        """Learn that the service will never answer for this task."""

    def late(self, subscriber: Subscriber) -> None:
        """Learn that a subscriber's time is over."""

    def broke(self, error: BaseException) -> None:
        """Learn that the scheduler itself failed."""


class Scheduler:
    """Reads tasks when they are worth it; see the module."""

    def __init__(
        self,
        reader: Reader,
        sink: Sink,
        *,
        polling: Polling,
        limits: Limits,
        policy: RetryPolicy,
        events: Events,
        background: Background,
        clock: Callable[[], float],
    ) -> None:
        self._reader = reader
        self._sink = sink
        self._polling = polling
        self._limits = limits
        self._policy = policy
        self._events = events
        self._background = background
        self.clock = clock
        self.outlook = pacing.Outlook(polling)
        self._patience = PATIENCE * polling.target_delay
        self._company = COMPANY * polling.target_delay
        self._together = TOGETHER * polling.target_delay
        # Whatever is read in company was entered so much later: two reads of a task are never closer than they may be.
        self._least_pause = polling.min_interval + self._company
        self._spacing = 60.0 / polling.max_reads_per_minute / (1 - AT_ONCE)
        self._credit = AT_ONCE * polling.max_reads_per_minute * self._spacing
        self._reads: Agenda[Record] = Agenda(polling.target_delay / 32)
        self._time_limits: Agenda[Subscriber] = Agenda(0.01)
        self._alone: deque[Record] = deque()
        self._on_wire = 0
        self._next_start = -math.inf
        self._going_until = -math.inf
        self._paused_until = 0.0
        self._failures = 0
        self._uncalled = 0
        self._failed_at = 0.0
        self._wakes_at = 0.0
        self._bell: asyncio.Future[None] | None = None
        self._running = False

    # --- what the poller asks for -------------------------------------------------------------------------------------------------

    def watch(self, record: Record) -> None:
        """Read a task from now on: at once when nothing is known of it yet."""
        pause = 0.0 if record.status is None else self._pause(record, self.clock(), self._share())
        self._enter(record, self.clock() + pause)

    def drop(self, record: Record) -> None:
        """Read a task no more."""
        self._reads.remove(record)

    def soon(self, record: Record) -> None:
        """Read a task as soon as its last read is not too recent; a flood of calls is one read."""
        if record.slot < 0:
            record.hinted = True
        else:
            self._enter_soon(record)

    def remind(self, subscriber: Subscriber, timeout: float) -> None:
        """Tell the sink after a time that a subscriber has waited long enough."""
        when = self.clock() + timeout
        self._time_limits.enter(subscriber, when)
        self._wake_by(when)

    def forget(self, subscriber: Subscriber) -> None:
        """Take that back."""
        self._time_limits.remove(subscriber)

    def callback_came(self, came: bool) -> None:
        """Learn whether a task that ended was called back for: after a few that were not, callbacks are no longer relied on."""
        self._uncalled = 0 if came else self._uncalled + 1
        if self._uncalled == UNCALLED:
            logger.warning(
                "%d tasks ended without the callback that was expected: reading at the usual pace again",
                UNCALLED,
                extra={"action": "callbacks_missing"},
            )

    # --- the one task -------------------------------------------------------------------------------------------------------------

    def _enter(self, record: Record, when: float) -> None:
        self._reads.enter(record, when)
        self._wake_by(when)

    def _enter_soon(self, record: Record) -> None:
        record.hinted = False
        # Entered as if it had waited for company long enough already.
        self._enter(record, max(self.clock(), record.asked + self._polling.min_interval) - self._patience)

    def _wake_by(self, when: float) -> None:
        if not self._running:
            self._running = True
            self._background.start(self._run(), name="reading tasks")
        elif when < self._wakes_at:
            self._wake()

    def _wake(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def _run(self) -> None:
        try:
            while self._busy():
                now = self.clock()
                for subscriber in self._time_limits.take(now, CHUNK):
                    self._sink.late(subscriber)
                self._start_reads(now)
                await self._sleep(now)
        except Exception as error:
            self._sink.broke(error)
            raise
        finally:
            self._running = False

    def _busy(self) -> bool:
        return bool(self._reads or self._on_wire or self._alone or self._time_limits)

    async def _sleep(self, now: float) -> None:
        self._wakes_at = min(self._next_read(), self._next_time_limit())
        if self._wakes_at <= now:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._bell = loop.create_future()
        alarm = loop.call_later(self._wakes_at - now, self._wake) if self._wakes_at < math.inf else None
        try:
            await self._bell
        finally:
            self._bell = None
            if alarm is not None:
                alarm.cancel()

    def _next_time_limit(self) -> float:
        first = self._time_limits.first()
        return math.inf if first is None else first

    def _next_read(self) -> float:
        if self._on_wire >= self._limits.max_reads:
            return math.inf
        return max(self._ripe_at(), self._next_start, self._paused_until)

    def _ripe_at(self) -> float:
        """When a read is worth its request: a full batch is due, or someone has waited for company long enough."""
        if self._alone:
            return -math.inf
        first = self._reads.first()
        if first is None:
            return math.inf
        if not self._reader.batches:
            return first
        latest = first + self._patience
        full = self._reads.when(min(BATCH_SIZE, len(self._reads)), max(latest, self._going_until))
        return -math.inf if full <= self._going_until else min(full, latest)

    # --- reads --------------------------------------------------------------------------------------------------------------------

    def _start_reads(self, now: float) -> None:
        while self._next_read() <= now:
            if self._alone:
                self._start([self._alone.popleft()], now)
                continue
            if self._going_until < now:
                self._going_until = now + self._together
            group = self._reads.take(now + self._company, BATCH_SIZE) if self._reader.batches else self._reads.take(now, 1)
            self._alone += [record for record in group if record.alone]
            together = [record for record in group if not record.alone]
            if together:
                self._start(together, now)

    def _start(self, group: list[Record], now: float) -> None:
        # What was not used lately may be used now; but a pause that the service asked for must not end in a burst.
        self._next_start = max(self._next_start, now - self._credit, min(self._paused_until, now)) + self._spacing
        self._on_wire += 1
        self._background.start(self._read(group, now), name="reading")

    async def _read(self, group: list[Record], asked: float) -> None:
        try:
            reading = await self._reader.read([record.id for record in group])
            self._take_in(group, reading, asked)
        except Exception as error:
            self._sink.broke(error)
            raise
        finally:
            self._on_wire -= 1
            if not self._busy() or self._next_read() < self._wakes_at:
                self._wake()

    def _take_in(self, group: list[Record], reading: Reading, asked: float) -> None:
        now = self.clock()
        if reading.error is not None:
            self._failed(group, reading.error, asked, now)
            return
        self._failures = 0
        values, same = reading.values, []
        for record in group:
            value = values.get(record.id)
            if not record.subscribers:
                continue
            if value is None:
                self._absent(record, reading, now)
            elif value["status"] == record.status and value.get("progress") == record.progress:
                same.append(record)
            else:
                self._answered(record, value, asked)
        if same:
            self._unchanged(same, asked)

    def _absent(self, record: Record, reading: Reading, now: float) -> None:
        if reading.refused is not None:
            self._refused(record, reading.refused, now)
        else:
            record.alone = True
            self._alone.append(record)

    def _unchanged(self, records: list[Record], asked: float) -> None:
        """Take in that nothing has changed: by far the most frequent answer, so all that can be left out is."""
        sample = SAMPLE if len(records) >= SAMPLE * 4 else 1
        for record in records[::sample]:
            if record.aged and asked > record.asked:
                since, until = record.asked - record.born, asked - record.born
                self.outlook.survived(since, until, record.estimate, record.predicted, sample)
        hinted = []
        for record in records:
            record.failures = record.absent = 0
            record.alone = False
            if record.asked < asked:
                record.asked = asked
            if record.hinted:
                hinted.append(record)
        share = self._share()
        for group in _alike(records, asked):
            # What is alike stays together, which keeps batches full.
            self._reads.enter_all(group, asked + self._pause(group[0], asked, share))
        for record in hinted:
            self._enter_soon(record)

    def _answered(self, record: Record, value: Mapping[str, Any], asked: float) -> None:
        record.failures = record.absent = 0
        record.alone = False
        if not self._sink.answered(record, value, asked):
            return
        if record.hinted:
            self._enter_soon(record)
        else:
            self._reads.enter(record, asked + self._pause(record, asked, self._share()))

    def _refused(self, record: Record, error: HappyHorseError, now: float) -> None:
        record.absent += 1
        if record.absent >= (2 if isinstance(error, (NotFoundError, BadRequestError)) else REFUSALS):
            self._sink.unknown(record, error)
        else:
            record.alone = True
            self._reads.enter(record, now + max(self._polling.min_interval, self._retry_pause(record.absent, error)))

    def _failed(self, group: list[Record], error: HappyHorseError, asked: float, now: float) -> None:
        if self._events:
            self._events.emit(ReadFailed(error=error, tasks=len(group)))
        if asked >= self._failed_at:
            # Reads that were on the wire together fail together: that counts once.
            self._failures += 1
            self._failed_at = now
        if isinstance(error, RateLimitError) or (isinstance(error, APIStatusError) and error.retry_after is not None):
            self._paused_until = max(self._paused_until, now + self._retry_pause(self._failures, error))
        elif self._failures >= FAILURES:
            self._paused_until = max(self._paused_until, now + self._retry_pause(self._failures - FAILURES + 1, error))
        for record in group:
            if record.wanted:
                record.failures += 1
                self._reads.enter(record, now + self._retry_pause(record.failures, None))

    def _retry_pause(self, attempt: int, error: HappyHorseError | None) -> float:
        return retry.pause_before(self._policy, attempt, error, random.random())

    def _share(self) -> int:
        return max(1, min(BATCH_SIZE, len(self._reads))) if self._reader.batches else 1

    def _pause(self, record: Record, now: float, share: int) -> float:
        age = now - record.born
        pause = (
            self._polling.heartbeat
            if record.callback and self._uncalled < UNCALLED
            else self.outlook.pause(age, record.estimate, record.predicted, share)
        )
        # Tasks that were submitted together need not be read by all clients of the service at once.
        return max(self._least_pause, pause * (1 - JITTER * random.random()))


def _alike(records: list[Record], now: float) -> Collection[list[Record]]:
    """Sort records into those that are alike in all that says when they are worth a read; those that were alike before still are."""
    kind = records[0].kind
    if kind is not None and all(record.kind is kind for record in records):
        return (records,)
    groups: dict[Kind, list[Record]] = {}
    for record in records:
        kind = (record.estimate, record.predicted, record.callback, pacing.rounded(now - record.born))
        groups.setdefault(kind, []).append(record)
    for kind, group in groups.items():
        for record in group:
            record.kind = kind
    return groups.values()
