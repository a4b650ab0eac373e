"""Waiting for tasks: `wait`, `updates` and `watch` over one scheduler, and what an answer of the
service means for those who wait.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .._rules import lifecycle, wire
from .._rules.lifecycle import closed, failure_of
from .._rules.pacing import Skew
from ..errors import HappyHorseError, WrongEventLoopError
from ..events import Updated
from .plan import Plan
from .scheduler import Reader, Scheduler
from .waiters import Limit, Updates, Watch, ends, fail, publish, publish_end
from .watched import Ages, Finals, FirstReads, Recent, Record, value_of

if TYPE_CHECKING:
    from .._concurrency import Background
    from .._config import Limits, Polling, RetryPolicy
    from .._edges.api import Api
    from .._models import Task
    from ..events import Events
    from .waiters import Channel, Subscriber

__all__ = ["Poller", "Updates", "Watch"]

_MOST_EXPECTED = 32_768
"""Tasks whose callback is expected while nobody waits for them yet; the oldest are forgotten, and
then read at the usual pace."""

_MOST_LEFT = 1024
"""Tasks that are remembered after the last waiter has left."""


class Poller:
    """All waiting of a session. Every task that is waited for is one small record; many waiters on
    one task cost one read.
    """

    def __init__(
        self,
        api: Api,
        *,
        polling: Polling,
        limits: Limits,
        policy: RetryPolicy,
        events: Events,
        background: Background,
        skew: Skew | None = None,
        clock: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._events = events
        self._records: dict[str, Record] = {}
        self._finals = Finals(events)
        self.on_final = self._finals.on_final
        self.fresh = FirstReads(self._finals)
        self._left: Recent[Record] = Recent(_MOST_LEFT)
        """Tasks that nobody waits for at present: who comes back to one, as short waits in a loop
        do, finds it as it was."""
        self._expected: Recent[bool] = Recent(_MOST_EXPECTED)
        """Tasks whose callback is expected, and whether it came."""
        self._closed = False
        self._loop = asyncio.get_running_loop()
        plan = Plan(polling)
        self._ages = Ages(plan.outlook, wall, skew or Skew())
        self._scheduler = Scheduler(
            Reader(api),
            self,
            plan,
            self._ages,
            polling=polling,
            limits=limits,
            policy=policy,
            events=events,
            background=background,
            clock=clock or self._loop.time,
        )

    @property
    def waiting(self) -> int:
        """How many unfinished tasks are waited for."""
        return len(self._records) + len(self.fresh)

    # --- verbs ------------------------------------------------------------------------------------

    async def read(self, task_id: str) -> Task:
        """Ask the service once, now, with retries; those who wait for the task learn the answer
        too.
        """
        asked = self._scheduler.clock()
        task = await self._api.read_task(task_id)
        self._learn(task, asked)
        return task

    async def wait(
        self, task_id: str, *, timeout: float | None = None, known: Task | None = None
    ) -> Task:
        """Wait for the end of a task, whatever it is.

        `timeout` is in seconds. Raises `WaitTimeoutError`, `TaskNotFoundError` and
        `SessionClosedError`.
        """
        future, limit = self._begin(task_id, timeout, known)
        try:
            return await future
        finally:
            self._end_wait(task_id, future, limit)

    async def wait_completed(
        self,
        task_id: str,
        *,
        timeout: float | None = None,
        known: Task | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Wait for a task's video; raises `TaskFailedError` (`TaskCancelledError`) when it ended
        without, and what `wait` raises.
        """
        # Not by way of `wait`: of very many callers that are woken at once, each further step of a
        # coroutine counts.
        future, limit = self._begin(task_id, timeout, known)
        try:
            task = await future
        except HappyHorseError as error:
            # A task of this session's is paid for, whatever became of waiting for it.
            charged = "yes" if idempotency_key is not None else error.charged
            raise error.with_facts(idempotency_key=idempotency_key, charged=charged) from None
        finally:
            if (
                limit is not None or not future.done() or future.cancelled()
            ):  # whoever is told is forgotten in the same moment
                self._end_wait(task_id, future, limit)
        if lifecycle.is_completed(task):
            return task
        raise failure_of(task, idempotency_key)

    def _begin(
        self, task_id: str, timeout: float | None, known: Task | None
    ) -> tuple[asyncio.Future[Task], Limit | None]:
        future: asyncio.Future[Task] = self._loop.create_future()
        self.subscribe(task_id, future, known)
        if not ends(timeout):
            return future, None
        limit = Limit(task_id, future)
        self._scheduler.remind(limit, timeout)
        return future, limit

    def _end_wait(self, task_id: str, future: asyncio.Future[Task], limit: Limit | None) -> None:
        self.unsubscribe(task_id, future)
        if limit is not None:
            self._scheduler.forget(limit)

    def updates(
        self, task_id: str, *, timeout: float | None = None, known: Task | None = None
    ) -> Updates:
        """Iterate over a task's states, from the next use on."""
        return Updates(self, task_id, timeout=timeout, known=known)

    def watch(self, task_ids: Iterable[str], *, timeout: float | None = None) -> Watch:
        """Merge the updates of many tasks."""
        return Watch(self, task_ids, timeout=timeout)

    def learn(self, task: Task) -> None:
        """Take a state that came by another way than a read: an accepted submission, for example."""
        if not lifecycle.is_short(task):
            self._learn(task, self._scheduler.clock())

    def hint(self, task_id: str) -> None:
        """Read a task soon, because something says that it has changed; nothing happens when nobody
        waits for it.
        """
        record = self._find(task_id)
        if record is not None:
            record.called = True
            self._scheduler.soon(record)
        elif task_id in self._expected:
            self._expected[task_id] = (
                True  # whoever waits for it later has not to wait for a second callback
            )

    def expect_callback(self, task_id: str) -> None:
        """Read a task only now and then, because the service will call back."""
        record = self._find(task_id)
        if record is not None:
            record.callback, record.kind = True, None
        elif self._finals.get(task_id) is None:
            self._expected.remember(task_id, False)

    def close(self) -> None:
        """Give all who wait `SessionClosedError`; may be called twice."""
        self._closed = True
        for record in self._all():
            self.unknown(record, closed())

    # --- for those who wait -----------------------------------------------------------------------

    def subscribe(self, task_id: str, subscriber: Subscriber, known: Task | None = None) -> None:
        """Publish a task's states to a subscriber: what is known at once, the rest as it comes;
        raises `SessionClosedError`.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoopError("the session lives in another event loop than this wait")
        if self._closed:
            raise closed()
        last = self._finals.get(task_id)
        if (
            known is not None
            and lifecycle.is_final(known)
            and last is None
            and not lifecycle.is_short(known)
        ):
            self._learn(known, self._scheduler.clock())
            last = known
        if last is not None:
            publish(subscriber, last)
            return
        record = self._find(task_id)
        if record is None:
            if (
                isinstance(subscriber, asyncio.Future)
                and known is None
                and not self._remembers(task_id)
            ):
                self.fresh.new[task_id] = subscriber
                self._scheduler.read_fresh()
                return
            record = self._watch(task_id, known)
        record.add(subscriber)
        state = record.snapshot(known)
        if state is not None:
            publish(subscriber, state)

    def unsubscribe(self, task_id: str, subscriber: Subscriber) -> None:
        """End a subscription; when nobody else waits, the task is read no more."""
        record = self._records.get(task_id)
        if record is None:
            self.fresh.drop(task_id, subscriber)
            return
        record.remove(subscriber)
        if record.first is None:
            self._scheduler.drop(record)
            self._left.remember(task_id, self._records.pop(task_id))

    def remind(self, subscriber: Channel, timeout: float | None) -> None:
        """Tell a subscriber after a time that it has waited long enough."""
        if ends(timeout):
            self._scheduler.remind(subscriber, timeout)

    def forget(self, subscriber: Channel) -> None:
        """Take that back."""
        self._scheduler.forget(subscriber)

    # --- for the scheduler ------------------------------------------------------------------------

    def keep(self, task_id: str, asked: float) -> Record | None:
        """Give the record of a task that has not ended with its first read; None when nobody waits
        for it any more.
        """
        future = self.fresh.asked.pop(task_id, None)
        return self._records.get(task_id) if future is None else self._open(task_id, future, asked)

    def answered(self, record: Record, value: Mapping[str, Any], asked: float) -> bool:
        """Take a task's JSON object; gives whether the task is still to be watched."""
        status, progress = value["status"], value.get("progress")
        if status in lifecycle.FINAL_STATUSES:
            self._end(wire.task_from(value), asked)
            return False
        if status == record.status and progress == record.progress:
            self._ages.survived(record, asked)
        elif asked >= record.asked and not lifecycle.is_outdated(status, record.status):
            self._advance(record, value, status, progress, asked)
        return True

    def unknown(self, record: Record, error: HappyHorseError) -> None:
        """Give an error to all who wait for a task."""
        self._records.pop(record.id, None)
        self._scheduler.drop(record)
        error.task_id = record.id
        if error.charged == "no":
            error.charged = "unknown"  # that it cannot be read says nothing of what it has cost
        for subscriber in record.take():
            fail(subscriber, record.id, error)

    def late(self, subscriber: Channel | Limit) -> None:
        """Tell a subscriber that its time is over."""
        records = {task_id: self._find(task_id) for task_id in subscriber.awaited()}
        if records:
            subscriber.late(
                {
                    task_id: record.snapshot() if record else None
                    for task_id, record in records.items()
                }
            )

    def broke(self, error: BaseException) -> None:
        """Wake all who wait when the scheduler itself failed: nobody would wake them ever after."""
        for record in self._all():
            self.unknown(
                record,
                HappyHorseError(f"reading tasks broke: {error!r}; this is a bug", charged="yes"),
            )

    # --- what an answer means ---------------------------------------------------------------------

    def _learn(self, task: Task, asked: float) -> None:
        if self._closed:
            return
        if lifecycle.is_final(task):
            self._end(task, asked)
            return
        self._ages.note(task)
        record = self._find(task.id)
        if record is not None:
            self.answered(record, value_of(task), asked)

    def _find(self, task_id: str) -> Record | None:
        """Give the record of a task that is waited for."""
        record = self._records.get(task_id)
        if record is None and task_id in self.fresh.new:
            record = self._open(task_id, self.fresh.new.pop(task_id), self._scheduler.clock())
            self._scheduler.watch(record)
        elif record is None and task_id in self.fresh.asked:
            record = self._open(task_id, self.fresh.asked.pop(task_id), self._scheduler.clock())
            record.asked = -math.inf  # the answer that is on its way is news
        return record

    def _remembers(self, task_id: str) -> bool:
        return task_id in self._expected or task_id in self._left

    def _all(self) -> tuple[Record, ...]:
        for task_id in self.fresh:
            self._find(task_id)
        return tuple(self._records.values())

    def _open(self, task_id: str, future: asyncio.Future[Task], now: float) -> Record:
        record = self._records[task_id] = Record(task_id, now)
        record.add(future)
        return record

    def _watch(self, task_id: str, known: Task | None = None) -> Record:
        record = self._left.pop(task_id, None)
        if record is None:
            record = Record(task_id, self._scheduler.clock())
            if known is not None and not lifecycle.is_final(known):
                self._ages.note(known)
                self._ages.begin(record, value_of(known))
        self._records[task_id] = record
        called = self._expected.pop(task_id, None)
        if called is not None:
            record.callback, record.called, record.kind = True, called, None
        self._scheduler.watch(record)
        if called:
            self._scheduler.soon(record)
        return record

    def _advance(
        self, record: Record, value: Mapping[str, Any], status: str, progress: Any, asked: float
    ) -> None:
        self._ages.survived(record, asked)
        self._ages.describe(record, value, asked)
        channels = [
            subscriber
            for subscriber in record.subscribers
            if not isinstance(subscriber, asyncio.Future)
        ]
        if not channels and not self._events:
            return
        task = wire.task_from(value)
        for channel in channels:
            channel.publish(task)
        if self._events:
            self._events.emit(Updated(task=task))

    def _end(self, task: Task, asked: float) -> None:
        is_news = self._finals.add(task)
        if self._expected:
            self._expected.pop(task.id, None)
        if self._left:
            self._left.pop(task.id, None)
        self._find(task.id)
        record = self._records.pop(task.id, None)
        if record is not None:
            self._settle(record, task, asked)
            for subscriber in record.take():
                publish_end(subscriber, task)
        if is_news:
            self._finals.announce(task)

    def _settle(self, record: Record, task: Task, asked: float) -> None:
        """Read a task no more that has ended, and learn from it."""
        if record.slot >= 0:
            self._scheduler.drop(record)
        if record.aged and record.status is not None:
            self._ages.ended(record, task, asked)
        if record.callback:
            self._scheduler.plan.callback_came(record.called)
