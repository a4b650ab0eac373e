"""Waiting for tasks: `wait`, `updates` and `watch`, and what each answer means for those who wait.

The way is one way: the plan says which tasks are due, the scheduler reads them and hands each
reading to `_take_in`, and from there it goes to the waiters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .._rules import lifecycle, wire
from .._rules.lifecycle import closed, failure_of
from .._rules.pacing import Skew
from ..errors import HappyHorseError, WrongEventLoopError
from ..events import Updated
from .plan import Plan
from .scheduler import Reader, Reading, Scheduler, TimeLimits
from .waiters import TimeLimit, Updates, Watch, fail, tell, tell_end
from .watched import Ages, Finals, Recent, Watched, value_of

if TYPE_CHECKING:
    from .._concurrency import Background
    from .._config import Limits, Polling, RetryPolicy
    from .._edges.api import Api
    from .._models import Task
    from ..events import Events
    from .waiters import Channel, Waiter

__all__ = ["Poller", "Updates", "Watch"]

_MOST_EXPECTED = 32_768
"""Tasks whose callback is expected while nobody waits for them yet; the oldest are forgotten, and
then read at the usual pace."""

_MOST_LEFT = 1024
"""Tasks that are remembered after the last waiter has left."""

_DENIALS = 2
"""Denials of one task in a row before its waiters are told."""

_SPEAKERS = 3
"""Of the tasks of a batch that are as they were, so many speak for all when it comes to learning."""


class Poller:
    """All waiting of a session. Many waiters on one task cost one read."""

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
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._polling = polling
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._watched: dict[str, Watched] = {}
        self._finals = Finals(events)
        self.on_final = self._finals.on_final
        self._left: Recent[Watched] = Recent(_MOST_LEFT)
        """Tasks that nobody waits for at present. Who comes back to one, as short waits in a loop
        do, finds it as it was."""
        self._expected: Recent[bool] = Recent(_MOST_EXPECTED)
        """Tasks whose callback is expected, and whether it came."""
        self._closed = False
        self._plan = Plan(polling)
        self._ages = Ages(self._plan.outlook, wall, skew or Skew())
        self._time_limits = TimeLimits(self._late)
        self._scheduler = Scheduler(
            Reader(api),
            self._plan,
            on_reading=self._take_in,
            on_broken=self._broke,
            polling=polling,
            limits=limits,
            policy=policy,
            events=events,
            background=background,
        )

    @property
    def waiting(self) -> int:
        """How many unfinished tasks are waited for."""
        return len(self._watched)

    # --- verbs ------------------------------------------------------------------------------------

    async def read(self, task_id: str) -> Task:
        """Ask the service once, now, with retries; those who wait for the task learn it too."""
        asked = self._clock()
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
        future: asyncio.Future[Task] = self._loop.create_future()
        limit = TimeLimit(task_id, future) if timeout is not None else None
        try:
            self._begin(task_id, future, limit, timeout, known)
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
        """Wait for a task's video.

        Raises `TaskFailedError` (`TaskCancelledError`) when it ended without one, and what `wait`
        raises.
        """
        # Not by way of `wait`: of very many callers that are woken at once, each further step of a
        # coroutine counts.
        future: asyncio.Future[Task] = self._loop.create_future()
        limit = TimeLimit(task_id, future) if timeout is not None else None
        try:
            self._begin(task_id, future, limit, timeout, known)
            task = await future
        except HappyHorseError as error:
            # A task of this session's is paid for, whatever became of waiting for it.
            charged = "yes" if idempotency_key is not None else error.charged
            raise error.with_facts(idempotency_key=idempotency_key, charged=charged) from None
        finally:
            # A waiter who is told is forgotten in the same moment.
            if limit is not None or not future.done() or future.cancelled():
                self._end_wait(task_id, future, limit)
        if lifecycle.is_completed(task):
            return task
        raise failure_of(task, idempotency_key)

    def _begin(
        self,
        task_id: str,
        future: asyncio.Future[Task],
        limit: TimeLimit | None,
        timeout: float | None,
        known: Task | None,
    ) -> None:
        self._subscribe(task_id, future, known)
        if limit is not None:
            self._time_limits.enter(limit, timeout)

    def _end_wait(
        self, task_id: str, future: asyncio.Future[Task], limit: TimeLimit | None
    ) -> None:
        self._unsubscribe(task_id, future)
        if limit is not None:
            self._time_limits.remove(limit)

    def updates(
        self, task_id: str, *, timeout: float | None = None, known: Task | None = None
    ) -> Updates:
        """Iterate over a task's states, from the next use on."""
        attach = partial(self._attach, known=known, timeout=timeout)
        return Updates(task_id, attach=attach, detach=self._detach)

    def watch(self, task_ids: Iterable[str], *, timeout: float | None = None) -> Watch:
        """Merge the updates of many tasks."""
        attach = partial(self._attach, timeout=timeout)
        return Watch(task_ids, attach=attach, detach=self._detach)

    def learn(self, task: Task) -> None:
        """Take a state that came by another way than a read: an accepted submission, for example."""
        if not lifecycle.is_short(task):
            self._learn(task, self._clock())

    def hint(self, task_id: str) -> None:
        """Read a task soon, because something says that it has changed.

        Nothing happens when nobody waits for it.
        """
        watched = self._watched.get(task_id)
        if watched is not None:
            watched.called = True
            self._scheduler.soon(watched)
        elif task_id in self._expected:
            # A later waiter need not wait for a second callback.
            self._expected[task_id] = True

    def expect_callback(self, task_id: str) -> None:
        """Read a task only now and then, because the service will call back."""
        watched = self._watched.get(task_id)
        if watched is not None:
            watched.expect_callback()
        elif self._finals.get(task_id) is None:
            self._expected.remember(task_id, False)

    def close(self) -> None:
        """Give all who wait `SessionClosedError`; may be called twice."""
        self._closed = True
        for watched in tuple(self._watched.values()):
            self._give_up(watched, closed())

    # --- coming and going -------------------------------------------------------------------------

    def _attach(
        self, channel: Channel, *, known: Task | None = None, timeout: float | None = None
    ) -> None:
        for task_id in channel.awaited():
            self._subscribe(task_id, channel, known)
        self._time_limits.enter(channel, timeout)

    def _detach(self, channel: Channel) -> None:
        for task_id in channel.awaited():
            self._unsubscribe(task_id, channel)
        self._time_limits.remove(channel)

    def _subscribe(self, task_id: str, waiter: Waiter, known: Task | None) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoopError("the session lives in another event loop than this wait")
        if self._closed:
            raise closed()
        last = self._finals.get(task_id)
        if known is not None and last is None and lifecycle.is_final(known):
            # The answer to a replayed submission may say that the task has ended, and not how.
            if not lifecycle.is_short(known):
                self._learn(known, self._clock())
                last = known
            known = None
        if last is not None:
            tell_end(waiter, last)
            return
        watched = self._watched.get(task_id)
        if watched is None:
            watched = self._watch(task_id, known)
        watched.add(waiter)
        if watched.status is not None and not isinstance(waiter, asyncio.Future):
            state = watched.snapshot(known)
            if state is not None:
                waiter.publish(state)

    def _watch(self, task_id: str, known: Task | None) -> Watched:
        watched = self._left.pop(task_id, None) if self._left else None
        if watched is None:
            watched = Watched(task_id, self._clock())
            if known is not None:
                self._ages.note(known)
                self._ages.begin(watched, value_of(known))
        self._watched[task_id] = watched
        called = self._expected.pop(task_id, None) if self._expected else None
        if called is not None:
            watched.expect_callback(came=called)
        self._scheduler.wake_by(self._plan.begin(watched, self._clock()))
        if called:
            self._scheduler.soon(watched)
        return watched

    def _unsubscribe(self, task_id: str, waiter: Waiter) -> None:
        watched = self._watched.get(task_id)
        if watched is None:
            return
        watched.remove(waiter)
        if watched.first is None:
            self._plan.drop(watched)
            self._left.remember(task_id, self._watched.pop(task_id))

    def _late(self, waiter: Channel | TimeLimit) -> None:
        known = {}
        for task_id in waiter.awaited():
            watched = self._watched.get(task_id)
            known[task_id] = watched.snapshot() if watched is not None else None
        if known:
            waiter.late(known)

    # --- what an answer means ---------------------------------------------------------------------

    def _take_in(self, group: list[Watched], reading: Reading, asked: float) -> None:
        """Take what the service said about some tasks: the one way from the wire to the waiters."""
        if reading.error is not None:
            for watched in group:
                self._give_up(watched, reading.error)
            return
        now, find = self._clock(), reading.values.get
        same: list[Watched] = []
        for watched in group:
            value = find(watched.id)
            if watched.first is None:
                continue
            if value is None:
                self._denied(watched, reading.refused, now)
                continue
            watched.trouble = None
            if value["status"] == watched.status and value.get("progress") == watched.progress:
                same.append(watched)
            elif value["status"] in lifecycle.FINAL_STATUSES:
                self._end(wire.task_from(value), asked)
            else:
                self._goes_on(watched, value, asked)
                self._plan.again(watched, asked, now)
        if same:
            self._unchanged(same, asked, now)

    def _unchanged(self, same: list[Watched], asked: float, now: float) -> None:
        """Take in that nothing has changed: by far the most frequent answer, so it does little."""
        each = -(-len(same) // _SPEAKERS)
        for watched in same[::each]:
            self._ages.survived(watched, asked, each)
        for watched in same:
            if watched.asked < asked:
                watched.asked = asked
        self._plan.again_all(same, asked, now)

    def _goes_on(self, watched: Watched, value: Mapping[str, Any], asked: float) -> None:
        """Take a state of a task that has not ended, and publish it if it is news."""
        status = value["status"]
        if status == watched.status and value.get("progress") == watched.progress:
            self._ages.survived(watched, asked)
            return
        if asked < watched.asked or lifecycle.is_outdated(status, watched.status):
            return
        self._ages.survived(watched, asked)
        self._ages.describe(watched, value, asked)
        channels = [each for each in watched.waiters if not isinstance(each, asyncio.Future)]
        if not channels and not self._events:
            return
        task = wire.task_from(value)
        for channel in channels:
            tell(channel, task)
        if self._events:
            self._events.emit(Updated(task=task))

    def _denied(self, watched: Watched, error: HappyHorseError | None, now: float) -> None:
        """Take in that the service says nothing of a task; `error` is its refusal, if it refused."""
        trouble = watched.troubled()
        trouble.alone = True
        if error is None:
            self._scheduler.alone(watched)
            return
        trouble.denials += 1
        if trouble.denials >= _DENIALS:
            self._give_up(watched, error)
        else:
            pause = self._scheduler.pause(trouble.denials, error)
            self._plan.enter(watched, now + max(self._polling.min_interval, pause))

    def _learn(self, task: Task, asked: float) -> None:
        if self._closed:
            return
        if lifecycle.is_final(task):
            self._end(task, asked)
            return
        self._ages.note(task)
        watched = self._watched.get(task.id)
        if watched is not None:
            self._goes_on(watched, value_of(task), asked)

    def _end(self, task: Task, asked: float) -> None:
        is_news = self._finals.add(task)
        if self._expected:
            self._expected.pop(task.id, None)
        if self._left:
            self._left.pop(task.id, None)
        watched = self._watched.pop(task.id, None)
        if watched is not None:
            self._settle(watched, task, asked)
            for waiter in watched.release():
                tell_end(waiter, task)
        if is_news:
            self._finals.announce(task)

    def _settle(self, watched: Watched, task: Task, asked: float) -> None:
        """Read a task no more that has ended, and learn from it."""
        if watched.slot >= 0:
            self._plan.drop(watched)
        if watched.aged:
            self._ages.ended(watched, task, asked)
        if watched.callback:
            self._plan.callback_came(watched.called)

    def _give_up(self, watched: Watched, error: HappyHorseError) -> None:
        """Give an error to all who wait for a task."""
        self._watched.pop(watched.id, None)
        self._plan.drop(watched)
        error.task_id = watched.id
        if error.charged == "no":
            error.charged = "unknown"  # that it cannot be read says nothing of what it has cost
        for waiter in watched.release():
            fail(waiter, watched.id, error)

    def _broke(self, error: BaseException) -> None:
        """Wake all who wait when reading itself failed: nobody would wake them ever after."""
        for watched in tuple(self._watched.values()):
            self._give_up(
                watched,
                HappyHorseError(f"reading tasks broke: {error!r}; this is a bug", charged="yes"),
            )
