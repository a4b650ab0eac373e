"""Waiting for tasks: `wait`, `updates` and `watch`, and what each answer means for those who wait.

The way is one way: the plan says which tasks are due, the scheduler reads them and hands each
reading to `_take_in`, and from there it goes to the waiters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .._rules import lifecycle, pacing, wire
from .._rules.lifecycle import closed, failure_of
from .._rules.pacing import Skew
from ..errors import HappyHorseError, WrongEventLoopError
from ..events import Updated
from .plan import Plan
from .scheduler import Reader, Reading, Scheduler, TimeLimits
from .waiters import TimeLimit, Updates, Watch, fail, tell, tell_end
from .watched import Ages, Finals, Recent, Trouble, Watched, value_of

if TYPE_CHECKING:
    from .._concurrency import Background
    from .._config import Limits, Polling, RetryPolicy
    from .._edges.api import Api
    from .._models import Task
    from ..events import Events
    from .waiters import Channel, Waiter

__all__ = ["Poller", "Updates", "Watch"]

logger = logging.getLogger("happyhorse_async")

_MOST_EXPECTED = 32_768
"""Tasks whose callback is expected while nobody waits for them yet; the oldest are forgotten, and
then read at the usual pace."""

_MOST_LEFT = 1024
"""Tasks that are remembered after the last waiter has left."""

_STRANGER = 8.0, 3
"""After so many seconds of denial, or so many refusals in a row, the waiters are told of an id that
nobody here has seen: it may be a typing error, and they should not wait for long."""

_MOST_SEEN = 32_768
"""Tasks of which it is remembered that the service has accepted them; the oldest are forgotten."""

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
        seen: Iterable[str] = (),
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
        self._seen: Recent[None] = Recent(_MOST_SEEN)
        """Tasks that this session has submitted or read: a denial is not the last word on them."""
        for task_id in seen:
            self._seen.remember(task_id, None)
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
        self._seen.remember(task.id, None)
        self._learn(task, asked)
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
            self._begin(task_id, future, limit, timeout, known, seen)
            return await future
        finally:
            self._end_wait(task_id, future, limit)

    async def wait_completed(
        self,
        task_id: str,
        *,
        timeout: float | None = None,
        known: Task | None = None,
        seen: bool = False,
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
            self._begin(task_id, future, limit, timeout, known, seen)
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
        seen: bool,
    ) -> None:
        self._subscribe(task_id, future, known, seen)
        if limit is not None:
            self._time_limits.enter(limit, timeout)

    def _end_wait(
        self, task_id: str, future: asyncio.Future[Task], limit: TimeLimit | None
    ) -> None:
        self._unsubscribe(task_id, future)
        if limit is not None:
            self._time_limits.remove(limit)

    def updates(
        self,
        task_id: str,
        *,
        timeout: float | None = None,
        known: Task | None = None,
        seen: bool = False,
    ) -> Updates:
        """Iterate over a task's states, from the next use on; see `wait`."""
        attach = partial(self._attach, known=known, seen=seen, timeout=timeout)
        return Updates(task_id, attach=attach, detach=self._detach)

    def watch(self, task_ids: Iterable[str], *, timeout: float | None = None) -> Watch:
        """Merge the updates of many tasks."""
        attach = partial(self._attach, timeout=timeout)
        return Watch(task_ids, attach=attach, detach=self._detach)

    def learn(self, task: Task) -> None:
        """Take a state that came by another way than a read: an accepted submission, for example."""
        self._seen.remember(task.id, None)
        if lifecycle.says_how_it_ended(task) or not lifecycle.is_final(task):
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
        self,
        channel: Channel,
        *,
        known: Task | None = None,
        seen: bool = False,
        timeout: float | None = None,
    ) -> None:
        for task_id in channel.awaited():
            self._subscribe(task_id, channel, known, seen)
        self._time_limits.enter(channel, timeout)

    def _detach(self, channel: Channel) -> None:
        for task_id in channel.awaited():
            self._unsubscribe(task_id, channel)
        self._time_limits.remove(channel)

    def _subscribe(self, task_id: str, waiter: Waiter, known: Task | None, seen: bool) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoopError("the session lives in another event loop than this wait")
        if self._closed:
            raise closed()
        last = self._last_state(task_id, known)
        if last is not None:
            tell_end(waiter, last)
            return
        seen = seen or known is not None
        known = None if known is None or lifecycle.is_final(known) else known
        watched = self._watched.get(task_id)
        if watched is None:
            watched = self._watch(task_id, known)
        if seen:
            watched.seen = True
        watched.add(waiter)
        if watched.status is not None and not isinstance(waiter, asyncio.Future):
            state = watched.snapshot(known)
            if state is not None and not lifecycle.is_final(state):
                waiter.publish(state)

    def _last_state(self, task_id: str, known: Task | None) -> Task | None:
        """Return the last state of a task that has ended, as far as it says how."""
        last = self._finals.get(task_id)
        # The answer to a replayed submission may say that the task has ended, and not how.
        if known is not None and last is None and lifecycle.says_how_it_ended(known):
            self._learn(known, self._clock())
            last = known
        return None if last is None or lifecycle.lacks_results(last) else last

    def _watch(self, task_id: str, known: Task | None) -> Watched:
        watched = self._left.pop(task_id, None) if self._left else None
        if watched is None:
            watched = Watched(task_id, self._clock())
            if known is not None:
                self._ages.note(known)
                self._ages.begin(watched, value_of(known))
        self._watched[task_id] = watched
        if self._seen and task_id in self._seen:
            watched.seen = True
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
            if value is None:
                self._denied(watched, reading, now)
                continue
            status = value["status"]
            if status not in lifecycle.FINAL_STATUSES:
                watched.trouble = None
                if status == watched.status and value.get("progress") == watched.progress:
                    same.append(watched)
                else:
                    self._goes_on(watched, value, asked)
                    self._plan.again(watched, asked, now)
            elif wire.has_ended(value):
                self._end(wire.task_from(value), asked)
            else:
                self._lacks_results(watched, value, asked, now)
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

    def _lacks_results(
        self, watched: Watched, value: Mapping[str, Any], asked: float, now: float
    ) -> None:
        """Take in that a task is completed, and wait for its links, which may come minutes later."""
        trouble = watched.troubled()
        trouble.allow()
        missing = trouble.emptied(now)
        if missing >= self._polling.patience:
            self._end(wire.task_from(value), asked)
            return
        watched.status, watched.progress, watched.kind = value["status"], 100, None
        self._plan.enter(watched, now + pacing.growing_pause(self._polling, trouble.empty))

    def _denied(self, watched: Watched, reading: Reading, now: float) -> None:
        """Take in that the service does not know a task. Within minutes that is not final."""
        trouble, error = watched.troubled(), reading.refused
        denied = trouble.denied(now, alone=error is not None)
        left = self._patience_left(watched, trouble, denied)
        if error is not None and left <= 0 and self._is_final(watched, reading, denied):
            self._give_up(watched, error)
        elif error is None and (left <= 0 or (trouble.denials == 1 and self._scheduler.has_room)):
            # A batch that does not have it is no refusal of the service: it is asked for alone.
            trouble.look = watched.is_seen and left <= 0
            self._scheduler.alone(watched)
        else:
            count = trouble.denials if watched.is_seen else trouble.refusals
            pause = pacing.growing_pause(self._polling, count)
            if left > 0:
                pause = min(pause, max(left, self._polling.min_interval))
            trouble.look = watched.is_seen and pause >= left
            trouble.alone = trouble.look or not watched.is_seen
            self._plan.enter(watched, now + pause)

    def _patience_left(self, watched: Watched, trouble: Trouble, denied: float) -> float:
        """Return for how many seconds more a denial of a task is not the last word."""
        if watched.is_seen:
            return self._polling.patience - denied
        seconds, refusals = _STRANGER
        if trouble.refusals >= refusals:
            return 0.0
        return seconds - denied if trouble.denials > 1 else seconds

    def _is_final(self, watched: Watched, reading: Reading, denied: float) -> bool:
        """Return whether a refusal is the last word, after long enough a denial."""
        if not watched.is_seen or reading.listed is False:
            return True
        if reading.listed:
            logger.warning(
                "the service says that it does not know task %s, and has it in its list: waiting on",
                watched.id,
                extra={"action": "denied_but_listed", "task_id": watched.id},
            )
            watched.troubled().allow()
            return False
        # The list could not be looked at; but no wait is without end for that.
        return denied >= 2 * self._polling.patience

    def _learn(self, task: Task, asked: float) -> None:
        if self._closed or lifecycle.lacks_results(task):
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
