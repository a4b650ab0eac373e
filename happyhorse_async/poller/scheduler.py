"""One scheduler for all waiters of a session: which tasks are read when, in which company, and how failed reads are lived with.

It owns one asyncio task while anyone waits, and one more for each read on the wire. What an answer means for the waiters is decided by
the poller, which it calls.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..events import ReadFailed
from ..rules.wire import BATCH_SIZE
from .agenda import Agenda
from .allowance import Allowance
from .records import Record

if TYPE_CHECKING:
    from ..background import Background
    from ..config import Limits, Polling, RetryPolicy
    from ..dispatcher import Events
    from ..errors import HappyHorseError
    from .ages import Ages
    from .channels import Channel, Limit
    from .first_reads import FirstReads
    from .plan import Plan
    from .reader import Reader, Reading

# Of everything that falls due at once, so much is done before the event loop gets its turn.
CHUNK = 500
# Denials of one task in a row before its waiters are told.
DENIALS = 2
# Of the tasks of a batch that are as they were, so many speak for all of them when it comes to learning.
SPEAKERS = 3


class Sink(Protocol):
    """Who is told what the reads gave."""

    @property
    def fresh(self) -> FirstReads:
        """Tasks that were never read."""

    def keep(self, task_id: str, asked: float) -> Record | None:
        """Give the record of one of them that has not ended; None when nobody waits for it any more."""

    def answered(self, record: Record, value: Mapping[str, Any], asked: float) -> bool:
        """Take a task's JSON object; gives whether the task is still to be watched."""

    def unknown(self, record: Record, error: HappyHorseError) -> None:
        """Learn that the service will never answer for this task."""

    def late(self, subscriber: Channel | Limit) -> None:
        """Learn that a subscriber's time is over."""

    def broke(self, error: BaseException) -> None:
        """Learn that the scheduler itself failed."""


class Scheduler:
    """Reads tasks when they are worth it; see the module."""

    def __init__(
        self,
        reader: Reader,
        sink: Sink,
        plan: Plan,
        ages: Ages,
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
        self._events = events
        self._background = background
        self.clock = clock
        self.plan = plan
        self._ages = ages
        self._time_limits: Agenda[Channel | Limit] = Agenda(0.01)
        self._alone: deque[Record] = deque()
        self._on_wire = 0
        self._allowance = Allowance(polling, policy)
        self._wakes_at = 0.0
        self._bell: asyncio.Future[None] | None = None
        self._running = False

    # --- what the poller asks for -------------------------------------------------------------------------------------------------

    def read_fresh(self) -> None:
        """Read what the sink has of tasks that were never read."""
        self._wake_by(-math.inf)

    def watch(self, record: Record) -> None:
        """Read a task from now on: at once when nothing is known of it yet."""
        self._wake_by(self.plan.begin(record, self.clock()))

    def drop(self, record: Record) -> None:
        """Read a task no more."""
        self.plan.drop(record)

    def soon(self, record: Record) -> None:
        """Read a task as soon as its last read is not too recent; a flood of calls is one read."""
        if record.slot < 0:
            record.hinted = True
        else:
            self._wake_by(self.plan.soon(record, self.clock()))

    def remind(self, subscriber: Channel | Limit, timeout: float) -> None:
        """Tell the sink after a time that a subscriber has waited long enough."""
        when = self.clock() + timeout
        self._time_limits.enter(subscriber, when)
        self._wake_by(when)

    def forget(self, subscriber: Channel | Limit) -> None:
        """Take that back."""
        self._time_limits.remove(subscriber)

    # --- the one task -------------------------------------------------------------------------------------------------------------

    def _wake_by(self, when: float) -> None:
        if not self._running:
            self._background.start(self._run(), name="reading tasks")
            self._running = True
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
        return bool(self.plan or self._on_wire or self._alone or self._time_limits or self._sink.fresh.new)

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
        ripe = -math.inf if self._alone or self._sink.fresh.new else self.plan.ripe_at()
        return max(ripe, self._allowance.next())

    # --- reads --------------------------------------------------------------------------------------------------------------------

    def _start_reads(self, now: float) -> None:
        while self._next_read() <= now:
            if self._alone:
                self._start([self._alone.popleft()], [], now)
                continue
            group, fresh = self._take(now)
            self._alone += [record for record in group if record.alone]
            together = [record for record in group if not record.alone]
            if together or fresh:
                self._start(together, fresh, now)

    def _take(self, now: float) -> tuple[list[Record], list[str]]:
        """Take what one request is to read: what is due or due soon, and what was never read."""
        group, room = self.plan.take_due(now), BATCH_SIZE if self.plan.batches else 1
        room -= len(group)
        fresh = self._sink.fresh.take(room) if room else []
        room -= len(fresh)
        if room and self.plan.batches:
            group += self.plan.take_company(now, room)
        return group, fresh

    def _start(self, group: list[Record], fresh: list[str], now: float) -> None:
        self._allowance.spend(now)
        self._on_wire += 1
        self._background.start(self._read(group, fresh, now), name="reading")

    async def _read(self, group: list[Record], fresh: list[str], asked: float) -> None:
        try:
            try:
                reading = await self._reader.read([record.id for record in group] + fresh)
            finally:
                self._on_wire -= 1
            self.plan.batches = self._reader.batches
            if fresh:
                group += self._not_ended(fresh, reading, asked)
            self._take_in(group, reading, asked)
            # What waits for room on the wire goes at once, without a turn of the scheduler's own task.
            self._start_reads(self.clock())
        except Exception as error:
            self._sink.broke(error)
            raise
        finally:
            if not self._busy() or self._next_read() < self._wakes_at:
                self._wake()

    def _not_ended(self, fresh: Sequence[str], reading: Reading, asked: float) -> list[Record]:
        """Take in which tasks have ended that were never read before; gives the others, which are waited for from now on."""
        values, kept = reading.values, []
        for task_id in fresh:
            value = values.get(task_id)
            if value is None or not self._sink.fresh.ended(task_id, value):
                record = self._sink.keep(task_id, asked)
                if record is not None:
                    kept.append(record)
        return kept

    def _take_in(self, group: list[Record], reading: Reading, asked: float) -> None:
        now = self.clock()
        if reading.error is not None:
            self._failed(group, reading.error, asked, now)
            return
        self._allowance.answered()
        find, same = reading.values.get, []
        for record in group:
            value = find(record.id)
            if record.first is None:
                continue
            if value is None:
                self._absent(record, reading, now)
            elif value["status"] == record.status and value.get("progress") == record.progress:
                same.append(record)
            else:
                self._answered(record, value, asked, now)
        if same:
            self._unchanged(same, asked, now)

    def _absent(self, record: Record, reading: Reading, now: float) -> None:
        if reading.refused is not None:
            self._refused(record, reading.refused, now)
        else:
            record.alone = True
            self._alone.append(record)

    def _unchanged(self, records: list[Record], asked: float, now: float) -> None:
        """Take in that nothing has changed: by far the most frequent answer, so all that can be left out is."""
        each = -(-len(records) // SPEAKERS)
        for record in records[::each]:
            self._ages.survived(record, asked, each)
        for record in records:
            record.failures = record.absent = 0
            record.alone = False
            if record.asked < asked:
                record.asked = asked
        self.plan.again_all(records, asked, now)

    def _answered(self, record: Record, value: Mapping[str, Any], asked: float, now: float) -> None:
        if not self._sink.answered(record, value, asked):
            return
        record.failures = record.absent = 0
        record.alone = False
        self.plan.again(record, asked, now)

    def _refused(self, record: Record, error: HappyHorseError, now: float) -> None:
        record.absent += 1
        if record.absent >= DENIALS:
            self._sink.unknown(record, error)
        else:
            record.alone = True
            self.plan.enter(record, now + max(self._polling.min_interval, self._allowance.pause(record.absent, error)))

    def _failed(self, group: list[Record], error: HappyHorseError, asked: float, now: float) -> None:
        if self._events:
            self._events.emit(ReadFailed(error=error, tasks=len(group)))
        tell = self._allowance.failed(error, asked, now)
        for record in group:
            if record.first is None:
                continue
            if tell:
                self._sink.unknown(record, error)
            else:
                record.failures += 1
                self.plan.enter(record, now + self._allowance.pause(record.failures))
