"""Waiting for a session's tasks: `wait`, `updates` and `watch` with their limits of time."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from .._rules import lifecycle
from .._rules.lifecycle import failure_of
from ..errors import HappyHorseError, TaskNotFoundError
from .plan import TimingWheel
from .waiters import TimeLimit, Updates, Watch

if TYPE_CHECKING:
    from .._edges.api import Api
    from .._models import Task
    from .waiters import Channel
    from .watchlist import Watchlist

# Of all time limits that end at once, so many are told before the event loop gets its turn.
CHUNK = 500


class Poller:
    """All waiting of a session. Many waiters on one task cost one read."""

    def __init__(self, api: Api, watchlist: Watchlist) -> None:
        self._api = api
        self._loop = asyncio.get_running_loop()
        self._watchlist = watchlist
        self._time_limits = _TimeLimits(self._late)
        self.on_final = watchlist.finals.on_final
        self.hint = watchlist.hint
        self.expect_callback = watchlist.expect_callback
        self.doubt = watchlist.doubt
        self.close = watchlist.close

    @property
    def waiting(self) -> int:
        """How many unfinished tasks are waited for."""
        return len(self._watchlist.watched)

    async def read(self, task_id: str) -> Task:
        """Ask the service once, now, with retries; those who wait for the task learn it too."""
        asked = self._loop.time()
        try:
            task = await self._api.read_task(task_id)
        except HappyHorseError as error:
            # A denial is no proof that nothing was paid: see `Polling.patience`.
            charged = "unknown" if isinstance(error, TaskNotFoundError) else error.charged
            error.with_facts(task_id=task_id, charged=charged)
            raise
        if not lifecycle.is_final(task):
            self._watchlist.finals.forget(task_id)  # what was taken for its end was none
        self._watchlist.learn(task, asked)
        return task

    async def wait(
        self,
        task_id: str,
        *,
        timeout: float | None = None,
        known: Task | None = None,
        seen: bool = False,
    ) -> Task:
        """Wait for the end of a task, whatever it is.

        `timeout` is in seconds; `known` is what is known of the task. `seen`: the service is known
        to have accepted it, as for an id from a ledger. Such a task, or one that this session has
        submitted or read, is given up only after `Polling.patience` of denial. Raises
        `WaitTimeoutError`, `TaskNotFoundError` and `SessionClosedError`.
        """
        future: asyncio.Future[Task] = self._loop.create_future()
        limit = TimeLimit(task_id, future) if timeout is not None else None
        try:
            self._watchlist.subscribe(task_id, future, known, seen)
            if limit is not None:
                self._time_limits.enter(limit, timeout)
            return await future
        finally:
            self._end_wait(task_id, future, limit)
            del future, limit  # an error that its own frame holds would keep all that is in it

    async def wait_completed(
        self,
        task_id: str,
        *,
        timeout: float | None = None,
        known: Task | None = None,
        idempotency_key: str | None = None,
    ) -> Task:
        """Wait for a task's video.

        Raises `TaskFailedError` (`TaskCancelledError`) when it ended without one, and what `wait`
        raises.
        """
        # Not by way of `wait`. Of very many callers that are woken at once, each further step of a
        # coroutine counts.
        future: asyncio.Future[Task] = self._loop.create_future()
        limit = TimeLimit(task_id, future) if timeout is not None else None
        try:
            self._watchlist.subscribe(task_id, future, known)
            if limit is not None:
                self._time_limits.enter(limit, timeout)
            known = None  # as long as the task lives, it would be memory for nothing
            task = await future
        except HappyHorseError as error:
            # A task of this session's is paid for, whatever became of waiting for it.
            charged = "yes" if idempotency_key is not None else error.charged
            raise error.with_facts(idempotency_key=idempotency_key, charged=charged) from None
        finally:
            # A waiter who is told is forgotten in the same moment.
            if limit is not None or not future.done() or future.cancelled():
                self._end_wait(task_id, future, limit)
            del future, limit  # as in `wait`
        if lifecycle.is_completed(task):
            return task
        raise failure_of(task, idempotency_key)

    def _end_wait(
        self, task_id: str, future: asyncio.Future[Task], limit: TimeLimit | None
    ) -> None:
        self._watchlist.unsubscribe(task_id, future)
        if limit is not None:
            self._time_limits.remove(limit)

    def updates(
        self, task_id: str, *, timeout: float | None = None, known: Task | None = None
    ) -> Updates:
        """Iterate over a task's states, from the next use on; see `wait`."""
        attach = partial(self._attach, known=known, timeout=timeout)
        return Updates(task_id, attach=attach, detach=self._detach)

    def watch(self, task_ids: Iterable[str], *, timeout: float | None = None) -> Watch:
        """Merge the updates of many tasks."""
        attach = partial(self._attach, timeout=timeout)
        return Watch(task_ids, attach=attach, detach=self._detach)

    def learn(self, task: Task) -> None:
        """Take a state that no read brought: that of an accepted submission, for example."""
        # The response to a replayed submission may say that the task has ended, and not how.
        if lifecycle.says_how_it_ended(task) or not lifecycle.is_final(task):
            self._watchlist.learn(task, self._loop.time())
        else:
            seen = self._watchlist.seen
            seen.remember(task.id, seen.get(task.id))

    def _attach(
        self, channel: Channel, *, known: Task | None = None, timeout: float | None = None
    ) -> None:
        for task_id in channel.awaited():
            self._watchlist.subscribe(task_id, channel, known)
        self._time_limits.enter(channel, timeout)

    def _detach(self, channel: Channel) -> None:
        for task_id in channel.awaited():
            self._watchlist.unsubscribe(task_id, channel)
        self._time_limits.remove(channel)

    def _late(self, waiter: Channel | TimeLimit) -> None:
        known = {}
        for task_id in waiter.awaited():
            watched = self._watchlist.watched.get(task_id)
            known[task_id] = watched.snapshot() if watched is not None else None
        if known:
            waiter.late(known)


class _TimeLimits:
    """Calls a function with each thing whose time is over: one timer for all, for the first."""

    def __init__(self, on_late: Callable[[Channel | TimeLimit], None]) -> None:
        self._on_late = on_late
        self._loop = asyncio.get_running_loop()
        self._wheel: TimingWheel[Channel | TimeLimit] = TimingWheel(0.01)
        self._alarm: asyncio.TimerHandle | None = None

    def enter(self, thing: Channel | TimeLimit, timeout: float | None) -> None:
        """Call with a thing after a time (seconds); None and infinity are no limit."""
        if timeout is not None and timeout < math.inf:
            self._wheel.enter(thing, self._loop.time() + timeout)
            self._set_alarm()

    def remove(self, thing: Channel | TimeLimit) -> None:
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
