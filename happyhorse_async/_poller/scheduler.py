"""One scheduler for all waiters of a session: which tasks are read when, in which company, and how
failed reads are lived with.

It owns one asyncio task while anyone waits, and one more for each read on the wire. What an answer
means for the waiters is decided by the poller, which it calls.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .._rules import retry
from .._rules.wire import BATCH_SIZE
from ..errors import (
    APIStatusError,
    BadRequestError,
    HappyHorseError,
    NotFoundError,
    RateLimitError,
    TaskNotFoundError,
    UnreadableAnswerError,
)
from ..events import ReadFailed
from .plan import Agenda
from .watched import Record

if TYPE_CHECKING:
    from .._concurrency import Background
    from .._config import Limits, Polling, RetryPolicy
    from .._edges.api import Api
    from ..errors import HappyHorseError
    from ..events import Events
    from .plan import Plan
    from .waiters import Channel, Limit
    from .watched import Ages, FirstReads

# Of everything that falls due at once, so much is done before the event loop gets its turn.
CHUNK = 500
# Denials of one task in a row before its waiters are told.
DENIALS = 2
# Of the tasks of a batch that are as they were, so many speak for all of them when it comes to
# learning.
SPEAKERS = 3


class Sink(Protocol):
    """Who is told what the reads gave."""

    @property
    def fresh(self) -> FirstReads:
        """Tasks that were never read."""

    def keep(self, task_id: str, asked: float) -> Record | None:
        """Give the record of one of them that has not ended; None when nobody waits for it any
        more.
        """

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

    # --- what the poller asks for -----------------------------------------------------------------

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

    # --- the one task -----------------------------------------------------------------------------

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
        return bool(
            self.plan or self._on_wire or self._alone or self._time_limits or self._sink.fresh.new
        )

    async def _sleep(self, now: float) -> None:
        self._wakes_at = min(self._next_read(), self._next_time_limit())
        if self._wakes_at <= now:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._bell = loop.create_future()
        alarm = (
            loop.call_later(self._wakes_at - now, self._wake) if self._wakes_at < math.inf else None
        )
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

    # --- reads ------------------------------------------------------------------------------------

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
            # What waits for room on the wire goes at once, without a turn of the scheduler's own
            # task.
            self._start_reads(self.clock())
        except Exception as error:
            self._sink.broke(error)
            raise
        finally:
            if not self._busy() or self._next_read() < self._wakes_at:
                self._wake()

    def _not_ended(self, fresh: Sequence[str], reading: Reading, asked: float) -> list[Record]:
        """Take in which tasks have ended that were never read before; gives the others, which are
        waited for from now on.
        """
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
        """Take in that nothing has changed: by far the most frequent answer, so all that can be
        left out is.
        """
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
            self.plan.enter(
                record,
                now + max(self._polling.min_interval, self._allowance.pause(record.absent, error)),
            )

    def _failed(
        self, group: list[Record], error: HappyHorseError, asked: float, now: float
    ) -> None:
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


# --- Reading tasks, with one request for many where the service can, else one by one; and sorting
# what can go wrong.


MOST_PAGES = 3
"""Pages with status 404 in a row, which are not the service's own, before there counts as being no
way to read many."""
_NOTHING: Mapping[str, Mapping[str, Any]] = {}


class Reading(NamedTuple):
    """What one request said about some tasks."""

    values: Mapping[str, Mapping[str, Any]] = _NOTHING
    """JSON objects by task id."""
    error: HappyHorseError | None = None
    """The request failed, and says nothing about the tasks."""
    refused: HappyHorseError | None = None
    """The service itself refuses to speak of the one task that was asked for. Without it, what has
    no value is to be asked for alone."""


class Reader:
    """Reads tasks; remembers when the service has no way to read many."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._pages = 0
        self.batches = True
        """Whether many tasks can be read with one request."""

    async def read(self, task_ids: Sequence[str]) -> Reading:
        """Read up to 50 tasks (one, where the service lacks batches)."""
        return await (
            self._read_one(task_ids[0]) if len(task_ids) == 1 else self._read_many(task_ids)
        )

    async def _read_many(self, task_ids: Sequence[str]) -> Reading:
        try:
            values = await self._api.read_raw_tasks_once(task_ids)
        except (TaskNotFoundError, BadRequestError):
            # One id that the service finds malformed must not hold up the other 49.
            return Reading()
        except NotFoundError as error:
            # A gateway's page instead of the service's word can be a hiccup: it counts when it
            # comes again and again.
            self._pages += 1
            self.batches = error.status == 404 and not error.own_body and self._pages < MOST_PAGES
            return Reading(error=error) if self.batches else Reading()
        except HappyHorseError as error:
            return Reading(error=error)
        self._pages = 0
        return Reading(values=values)

    async def _read_one(self, task_id: str) -> Reading:
        try:
            value = await self._api.read_raw_task_once(task_id)
        except (TaskNotFoundError, BadRequestError) as error:
            return Reading(refused=error) if error.own_body else Reading(error=error)
        except HappyHorseError as error:
            return Reading(error=error)
        if value["id"] != task_id:
            return Reading(
                error=UnreadableAnswerError(
                    f"asked for task {task_id}, the answer is about {value['id']!r}"
                )
            )
        return Reading(values={task_id: value})


# --- How often the service may be asked: a rate with some room for what comes at once, and the
# pauses that failed reads call for.


# Of the reads that a minute may have, the share that may go at once after a quiet time; the rest
# comes at a steady rate. Any minute has no more than it may have by that.
AT_ONCE = 1 / 3
# Failed reads in a row before all reads pause.
FAILURES = 3
# Refusals in a row (of the key, for example) before those who wait are told: one can be a gateway's
# hiccup, five are the service's word.
REFUSALS = 5
# The most seconds for which reads pause, whatever the service asks for: links die.
LONGEST_PAUSE = 600.0


def is_refusal(error: HappyHorseError) -> bool:
    """Whether the service itself refuses the request. Only its own word counts: a gateway's page
    says nothing.
    """
    return (
        isinstance(error, APIStatusError)
        and error.own_body
        and 400 <= error.status < 500
        and error.status not in (408, 425, 429)
    )


class Allowance:
    """When the next read may leave. Times are those of the caller's clock."""

    def __init__(self, polling: Polling, policy: RetryPolicy) -> None:
        self._policy = policy
        self._spacing = 60.0 / polling.max_reads_per_minute / (1 - AT_ONCE)
        self._credit = AT_ONCE * polling.max_reads_per_minute * self._spacing
        self._next = self._paused_until = self._failed_at = -math.inf
        self._failures = self._refusals = 0

    def next(self) -> float:
        """When the next read may leave."""
        return max(self._next, self._paused_until)

    def spend(self, now: float) -> None:
        """Note that a read leaves."""
        # What was not used lately may be used now; but a pause that the service asked for must not
        # end in a burst.
        self._next = (
            max(self._next, now - self._credit, min(self._paused_until, now)) + self._spacing
        )

    def answered(self) -> None:
        """Note that a read was answered."""
        self._failures = self._refusals = 0

    def failed(self, error: HappyHorseError, asked: float, now: float) -> bool:
        """Note that a read failed, and pause all of them when that is called for; gives whether
        those who wait are to be told.
        """
        if asked >= self._failed_at:
            # Reads that were on the wire together fail together: that counts once.
            self._failures += 1
            self._refusals = self._refusals + 1 if is_refusal(error) else 0
            self._failed_at = now
        if isinstance(error, RateLimitError) or (
            isinstance(error, APIStatusError) and error.retry_after is not None
        ):
            self._pause_all(now, self.pause(self._failures, error))
        elif self._failures >= FAILURES:
            self._pause_all(now, self.pause(self._failures - FAILURES + 1, error))
        return self._refusals >= REFUSALS

    def _pause_all(self, now: float, pause: float) -> None:
        self._paused_until = max(self._paused_until, now + min(pause, LONGEST_PAUSE))

    def pause(self, attempt: int, error: HappyHorseError | None = None) -> float:
        """Seconds before the n-th try of the same read."""
        return retry.pause_before(self._policy, attempt, error, random.random())
