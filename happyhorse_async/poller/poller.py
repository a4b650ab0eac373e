"""Waiting for tasks: `wait`, `updates` and `watch` over one scheduler, and what an answer of the service means for those who wait."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import HappyHorseError, SessionClosedError
from ..events import Completed, Failed, Updated
from ..rules import lifecycle, pacing, wire
from .channels import Subscriber, Updates, Waiter, Watch
from .failures import failure_of
from .reader import Reader
from .records import Finals, Record
from .scheduler import Scheduler

if TYPE_CHECKING:
    from ..background import Background
    from ..config import Limits, Polling, RetryPolicy
    from ..edges.api import Api
    from ..events import Events
    from ..models import Task

__all__ = ["Poller", "Updates", "Watch"]

logger = logging.getLogger("happyhorse_async")

_MOST_EXPECTED = 32_768
"""Tasks whose callback is expected while nobody waits for them yet; the oldest are forgotten, and then read at the usual pace."""


class Poller:
    """All waiting of a session. Every task that is waited for is one small record; many waiters on one task cost one read."""

    def __init__(
        self,
        api: Api,
        *,
        polling: Polling,
        limits: Limits,
        policy: RetryPolicy,
        events: Events,
        background: Background,
        clock: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._events = events
        self._wall = wall
        self._records: dict[str, Record] = {}
        self._finals = Finals()
        self._listeners: list[Callable[[Task], None]] = []
        self._expected: OrderedDict[str, None] = OrderedDict()
        self._ahead: float | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._scheduler = Scheduler(
            Reader(api),
            self,
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
        return len(self._records)

    # --- verbs --------------------------------------------------------------------------------------------------------------------

    async def read(self, task_id: str) -> Task:
        """Ask the service once, now, with retries; those who wait for the task learn the answer too."""
        asked = self._scheduler.clock()
        task = await self._api.read_task(task_id)
        self._learn(task, asked)
        return task

    async def wait(self, task_id: str, *, timeout: float | None = None, known: Task | None = None) -> Task:
        """Wait for the end of a task, whatever it is.

        `timeout` is in seconds. Raises `WaitTimeoutError`, `TaskNotFoundError` and `SessionClosedError`.
        """
        waiter = self._waiter(task_id, timeout, known)
        try:
            return await waiter.future
        finally:
            self._leave(waiter)

    async def wait_completed(
        self, task_id: str, *, timeout: float | None = None, known: Task | None = None, idempotency_key: str | None = None
    ) -> Task:
        """Wait for a task's video; raises `TaskFailedError` (`TaskCancelledError`) when it ended without, and what `wait` raises."""
        # Not by way of `wait`: of very many callers that are woken at once, each further step of a coroutine counts.
        waiter = self._waiter(task_id, timeout, known)
        try:
            task = await waiter.future
        finally:
            self._leave(waiter)
        if lifecycle.is_completed(task):
            return task
        raise failure_of(task, idempotency_key)

    def _waiter(self, task_id: str, timeout: float | None, known: Task | None) -> Waiter:
        waiter = Waiter(task_id, self._loop.create_future())
        self.subscribe(task_id, waiter, known)
        if timeout is not None:
            self._scheduler.remind(waiter, timeout)
        return waiter

    def _leave(self, waiter: Waiter) -> None:
        self.unsubscribe(waiter.task_id, waiter)
        if waiter.slot >= 0:
            self._scheduler.forget(waiter)

    def updates(self, task_id: str, *, timeout: float | None = None, known: Task | None = None) -> Updates:
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
        """Read a task soon, because something says that it has changed; nothing happens when nobody waits for it."""
        record = self._records.get(task_id)
        if record is not None:
            record.called = True
            self._scheduler.soon(record)

    def expect_callback(self, task_id: str) -> None:
        """Read a task only now and then, because the service will call back."""
        record = self._records.get(task_id)
        if record is not None:
            record.callback, record.kind = True, None
        elif self._finals.get(task_id) is None:
            self._expected[task_id] = None
            if len(self._expected) > _MOST_EXPECTED:
                self._expected.popitem(last=False)

    def on_final(self, listener: Callable[[Task], None]) -> None:
        """Call a function with the last state of every task that this session sees end: once for each."""
        self._listeners.append(listener)

    def close(self) -> None:
        """Give all who wait `SessionClosedError`; may be called twice."""
        self._closed = True
        records, self._records = self._records, {}
        for record in records.values():
            self._scheduler.drop(record)
            self._fail(record, _closed())

    # --- for those who wait -------------------------------------------------------------------------------------------------------

    def subscribe(self, task_id: str, subscriber: Subscriber, known: Task | None = None) -> None:
        """Publish a task's states to a subscriber: what is known at once, the rest as it comes; raises `SessionClosedError`."""
        if self._closed:
            raise _closed()
        last = self._finals.get(task_id)
        if last is None and known is not None and not lifecycle.is_short(known):
            self._learn(known, self._scheduler.clock(), watch=True)
            last = known
        if last is not None:
            subscriber.publish(last)
            if lifecycle.is_final(last):
                return
        record = self._records.get(task_id) or self._watch(task_id)
        record.subscribers.append(subscriber)
        if subscriber.every_state and not _knows(last, record):
            # Whatever is read next is news to this subscriber, and it should not wait long for it.
            record.status = None
            self._scheduler.soon(record)

    def unsubscribe(self, task_id: str, subscriber: Subscriber) -> None:
        """End a subscription; when nobody else waits, the task is read no more."""
        record = self._records.get(task_id)
        if record is None or subscriber not in record.subscribers:
            return
        record.subscribers.remove(subscriber)
        if not record.wanted:
            del self._records[task_id]
            self._scheduler.drop(record)

    def remind(self, subscriber: Subscriber, timeout: float | None) -> None:
        """Tell a subscriber after a time that it has waited long enough."""
        if timeout is not None:
            self._scheduler.remind(subscriber, timeout)

    def forget(self, subscriber: Subscriber) -> None:
        """Take that back."""
        self._scheduler.forget(subscriber)

    # --- for the scheduler --------------------------------------------------------------------------------------------------------

    def answered(self, record: Record, value: Mapping[str, Any], asked: float) -> bool:
        """Take a task's JSON object; gives whether the task is still to be watched."""
        status, progress = value["status"], value.get("progress")
        if status == record.status and progress == record.progress:
            self._survived(record, asked)
            return True
        if status not in lifecycle.FINAL_STATUSES:
            if asked >= record.asked and not lifecycle.is_outdated(status, record.status):
                self._advance(record, value, status, progress, asked)
            return True
        task = wire.task_of(value)
        if task is not None:
            self._end(task, asked)
        return task is None

    def unknown(self, record: Record, error: HappyHorseError) -> None:
        """Give an error to all who wait for a task."""
        self._records.pop(record.id, None)
        self._scheduler.drop(record)
        error.task_id = record.id
        self._fail(record, error)

    def late(self, subscriber: Subscriber) -> None:
        """Tell a subscriber that its time is over."""
        records = {task_id: self._records.get(task_id) for task_id in subscriber.awaited()}
        if records:
            subscriber.late({task_id: record.snapshot() if record else None for task_id, record in records.items()})

    def broke(self, error: BaseException) -> None:
        """Wake all who wait when the scheduler itself failed: nobody would wake them ever after."""
        for record in list(self._records.values()):
            self.unknown(record, HappyHorseError(f"reading tasks broke: {error!r}; this is a bug", charged="yes"))

    # --- what an answer means -----------------------------------------------------------------------------------------------------

    def _learn(self, task: Task, asked: float, *, watch: bool = False) -> None:
        if self._closed:
            return
        if task.created is not None and not lifecycle.is_final(task):
            ahead = task.created.timestamp() - self._wall()
            # The newest task tells best how far the service's clock is ahead of ours.
            self._ahead = ahead if self._ahead is None else max(self._ahead, ahead)
        record = self._records.get(task.id)
        if lifecycle.is_final(task):
            self._end(task, asked)
        elif record is not None:
            self.answered(record, _value_of(task), asked)
        elif watch:
            self._watch(task.id, task)

    def _watch(self, task_id: str, known: Task | None = None) -> Record:
        record = self._records[task_id] = Record(task_id, self._scheduler.clock())
        if task_id in self._expected:
            del self._expected[task_id]
            record.callback = True
        if known is not None:
            self._describe(record, _value_of(known), record.asked)
        self._scheduler.watch(record)
        return record

    def _describe(self, record: Record, value: Mapping[str, Any], asked: float) -> None:
        if not record.aged:
            self._age(record, value, asked)
        record.status, record.progress, record.asked = value["status"], value.get("progress"), asked
        record.kind = None
        progress = record.progress
        if isinstance(progress, (int, float)) and record.aged:
            record.predicted = pacing.predicted_life(asked - record.born, progress)

    def _age(self, record: Record, value: Mapping[str, Any], asked: float) -> None:
        info, created = value.get("task_info"), value.get("created")
        estimate = info.get("estimated_time") if isinstance(info, dict) else None
        if isinstance(estimate, (int, float)) and 0 < estimate < 10**7:
            record.estimate = float(estimate)
        if isinstance(created, (int, float)) and not isinstance(created, bool):
            age = self._wall() + (self._ahead or 0.0) - created
            record.born = asked - min(max(0.0, age), 10.0**7)
            record.aged = True

    def _survived(self, record: Record, asked: float) -> None:
        if record.aged and asked > record.asked:
            since, until = record.asked - record.born, asked - record.born
            self._scheduler.outlook.survived(since, until, record.estimate, record.predicted)
        record.asked = max(asked, record.asked)

    def _advance(self, record: Record, value: Mapping[str, Any], status: str, progress: Any, asked: float) -> None:
        self._survived(record, asked)
        self._describe(record, value, asked)
        if not self._events and not any(subscriber.every_state for subscriber in record.subscribers):
            return
        task = wire.task_of(value)
        if task is not None:
            for subscriber in tuple(record.subscribers):
                subscriber.publish(task)
            if self._events:
                self._events.emit(Updated(task=task))

    def _end(self, task: Task, asked: float) -> None:
        is_news = self._finals.add(task)
        if self._expected:
            self._expected.pop(task.id, None)
        record = self._records.pop(task.id, None)
        if record is not None:
            self._scheduler.drop(record)
            self._learn_life(record, task, asked)
            if record.callback:
                self._scheduler.callback_came(record.called)
            subscribers, record.subscribers = record.subscribers, []
            for subscriber in subscribers:
                subscriber.publish(task)
        if is_news:
            self._announce(task)

    def _learn_life(self, record: Record, task: Task, asked: float) -> None:
        if not record.aged or record.status is None:
            return
        since, until = record.asked - record.born, max(asked, record.asked) - record.born
        reported = task.seconds
        at = reported if reported is not None and since <= reported <= until else (since + until) / 2
        if at > 0:
            self._scheduler.outlook.ended(min(since, at), at, record.estimate, record.predicted)

    def _announce(self, task: Task) -> None:
        for listener in self._listeners:
            try:
                listener(task)
            except Exception:
                # What somebody else makes of a task must not stop the others' waiting.
                logger.exception("a listener failed on task %s", task.id, extra={"action": "listener_failed", "task_id": task.id})
        if self._events:
            self._events.emit(Completed(task=task) if lifecycle.is_completed(task) else Failed(task=task))

    def _fail(self, record: Record, error: HappyHorseError) -> None:
        subscribers, record.subscribers = record.subscribers, []
        for subscriber in subscribers:
            # Each waiter raises its own: a shared one would collect everybody's traceback.
            subscriber.fail(record.id, copy.copy(error))


def _closed() -> SessionClosedError:
    return SessionClosedError(
        "the session was closed while the task was being waited for; the task itself goes on",
        charged="unknown",
        next_step="Open a new session and wait again with session.task(task_id).",
    )


def _knows(task: Task | None, record: Record) -> bool:
    return task is not None and (task.status, task.progress) == (record.status, record.progress)


def _value_of(task: Task) -> Mapping[str, Any]:
    return task.raw if "status" in task.raw else {"id": task.id, "status": str(task.status), "progress": task.progress}
