"""What is watched, and what each answer means for those who wait.

The way is one way. The plan says which tasks are due. The scheduler reads them and hands each
reading to `take_in`. From there it goes to the waiters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .._formats.texts import printable
from .._recent import Recent
from .._rules import lifecycle, numbers, wire
from .._rules.lifecycle import COMPLETED, GOING_ON, closed
from ..errors import HappyHorseError, WrongEventLoopError
from ..events import Updated
from . import patience
from .patience import Belief
from .plan import Plan
from .scheduler import Reader, Reading, Scheduler
from .waiters import fail, tell, tell_end
from .watched import Ages, Finals, Oddities, Watched, value_of

if TYPE_CHECKING:
    from .._concurrency import Background
    from .._config import Limits, Polling, RetryPolicy
    from .._dispatcher import Events
    from .._edges.api import Api
    from .._models import Task
    from .._rules.pacing import Skew
    from .waiters import Waiter

logger = logging.getLogger("happyhorse_async")

MOST_EXPECTED = 65_536
"""Tasks whose callback is expected while nobody waits for them yet. The oldest are forgotten, and
then read at the usual pace."""
MOST_EARLY = 2048
"""Tasks of which a callback spoke before the answer to their submission was here."""
MOST_DOUBTED = 8192
"""Failed tasks about which the service is asked once more."""
MOST_LEFT = 2048
"""Tasks that are remembered after the last waiter has left."""
SPEAKERS = 3
"""So many of a batch's unchanged tasks speak for all when they differ. Of alike ones one does."""


class Watchlist:
    """All tasks of a session that someone waits for, and the one callback for what is read."""

    def __init__(
        self,
        api: Api,
        *,
        polling: Polling,
        limits: Limits,
        policy: RetryPolicy,
        events: Events,
        background: Background,
        skew: Skew,
        wall: Callable[[], float] = time.time,
        seen: Recent[float | None],
    ) -> None:
        self._polling = polling
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._closed = False
        self.watched: dict[str, Watched] = {}
        """The unfinished tasks that someone waits for."""
        self.finals = Finals(events)
        self._oddities = Oddities(events)
        self._left: Recent[Watched] = Recent(MOST_LEFT)
        """Tasks that nobody waits for at present. Who comes back to one, as short waits in a loop
        do, finds it as it was."""
        self._expected: Recent[bool] = Recent(MOST_EXPECTED)
        """Tasks whose callback is expected, and whether it came."""
        self._early: Recent[bool] = Recent(MOST_EARLY)
        """Tasks that nobody here knows, and of which a callback spoke."""
        self._doubted: Recent[float] = Recent(MOST_DOUBTED)
        """Tasks that were said to have failed, and since when that is doubted."""
        self.seen = seen
        """Tasks that this session has submitted or read, and when it saw them unfinished: a denial
        is not the last word on them, nor is a time that the service tells."""
        self._plan = Plan(polling)
        self._ages = Ages(self._plan.outlook, wall, self._clock, skew)
        self._scheduler = Scheduler(
            Reader(api),
            self._plan,
            on_reading=self.take_in,
            on_broken=self._broke,
            polling=polling,
            limits=limits,
            policy=policy,
            events=events,
            background=background,
        )

    # --- coming and going -------------------------------------------------------------------------

    def subscribe(
        self, task_id: str, waiter: Waiter, known: Task | None, seen: bool = False
    ) -> None:
        """Hand a waiter a task's states: what is known at once, the rest as it comes.

        `seen`: the service is known to have accepted the task. Raises `SessionClosedError`.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise WrongEventLoopError("the session lives in another event loop than this wait")
        if self._closed:
            raise closed()
        last = self.finals.get(task_id)
        if last is not None or known is not None:
            last = self._last_state(last, known)
            if last is not None:
                tell_end(waiter, last)
                return
            seen = seen or known is not None
            known = None if known is None or lifecycle.is_final(known) else known
        watched = self.watched.get(task_id) or self._watch(task_id, known)
        begins = watched.first is None
        if seen:
            watched.seen = True
        watched.add(waiter)
        if watched.status is not None and not isinstance(waiter, asyncio.Future):
            state = watched.snapshot(known)
            if state is not None and not lifecycle.is_final(state):
                waiter.publish(state)
        if begins:
            self._begin(watched)  # last: asyncio's eager tasks may read it in this very call

    def _last_state(self, last: Task | None, known: Task | None) -> Task | None:
        """Return the last state of a task that has ended, as far as it says how."""
        # The answer to a replayed submission may say that the task has ended, and not how.
        if known is not None and last is None and lifecycle.says_how_it_ended(known):
            self.learn(known, self._clock())
            last = known
        return None if last is None or wire.lacks_results(last) else last

    def _watch(self, task_id: str, known: Task | None) -> Watched:
        now = self._clock()
        watched = self._left.pop(task_id) if self._left.used else None
        if watched is None:
            watched = Watched(task_id, now, now)
            if known is not None:
                value = value_of(known)
                self._ages.note(value)
                self._ages.begin(watched, value)
        self.watched[task_id] = watched
        if task_id in self.seen:
            watched.seen = True
        return watched

    def _begin(self, watched: Watched) -> None:
        """Read a task from now on."""
        called = self._expected.pop(watched.id) if self._expected.used else None
        if called is not None:
            watched.expect_callback(came=called)
        self._scheduler.wake_by(self._plan.begin(watched, self._clock()))
        if called:
            self._scheduler.soon(watched)

    def unsubscribe(self, task_id: str, waiter: Waiter) -> None:
        """Let a waiter go; when nobody else waits, the task is read no more."""
        watched = self.watched.get(task_id)
        if watched is None:
            return
        watched.remove(waiter)
        if watched.first is None:
            self._plan.drop(watched)
            self._left.remember(task_id, self.watched.pop(task_id))

    def hint(self, task_id: str) -> None:
        """Read a task soon, because something says that it has changed.

        Nothing happens when nobody waits for it.
        """
        watched = self.watched.get(task_id)
        if watched is not None:
            watched.called, watched.kind = True, None
            self._scheduler.soon(watched)
        elif task_id in self._expected:
            # A later waiter need not wait for a second callback.
            self._expected.remember(task_id, True)
        elif self.finals.get(task_id) is None:
            # A task that ends at once may be told of before its submission is answered.
            self._early.remember(task_id, True)

    def expect_callback(self, task_id: str) -> None:
        """Read a task only now and then, because the service will call back."""
        watched = self.watched.get(task_id)
        came = self._early.used and self._early.pop(task_id) is not None
        if watched is not None:
            watched.expect_callback(came=came)
        elif self.finals.get(task_id) is None:
            self._expected.remember(task_id, came)

    def doubt(self, task_id: str) -> bool:
        """Forget that a task has failed, so that the next wait for it asks the service once more.

        False when that was done before, and nothing but the failure was seen since.
        """
        since = self._doubted.pop(task_id)
        if since is not None and (self.seen.get(task_id) or 0.0) <= since:
            return False
        self._doubted.remember(task_id, self._clock())
        self.finals.forget(task_id)
        return True

    def close(self) -> None:
        """Give all who wait `SessionClosedError`; may be called twice."""
        self._closed = True
        for watched in tuple(self.watched.values()):
            self._give_up(watched, closed())

    # --- what an answer means ---------------------------------------------------------------------

    def take_in(self, group: list[Watched], reading: Reading, asked: float) -> None:
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
            status, known = value["status"], watched.status
            if status == known and value.get("progress") == watched.progress and known in GOING_ON:
                watched.trouble = None
                same.append(watched)
            elif wire.has_ended(value):
                self._end(wire.task_from(value), asked)
            elif status == COMPLETED:
                self._lacks_results(watched, value, asked, now, alone=reading.alone)
            else:
                watched.trouble = None
                self._goes_on(watched, value, asked)
                self._plan.again(watched, asked, now)
        if same:
            self._unchanged(same, asked, now)

    def _unchanged(self, same: list[Watched], asked: float, now: float) -> None:
        """Take in that nothing has changed: by far the most frequent answer, so it does little."""
        groups = self._plan.alike(same, asked)
        each = len(same) if len(groups) == 1 else -(-len(same) // SPEAKERS)
        for watched in same[::each]:
            self._ages.survived(watched, asked, each)
            self._oddities.look_at_stay(watched, asked)
        for watched in same:
            if watched.asked < asked:
                watched.asked = asked
        self._plan.again_all(groups, asked, now)

    def _goes_on(self, watched: Watched, value: Mapping[str, Any], asked: float) -> None:
        """Take a state of a task that has not ended, and publish it if it is news."""
        status = value["status"]
        progress = numbers.progress(value.get("progress"))
        if status == watched.status and progress == numbers.progress(watched.progress):
            self._ages.survived(watched, asked)
            self._oddities.look_at_stay(watched, asked)
            return
        if asked < watched.asked or lifecycle.is_outdated(status, watched.status):
            return
        if watched.status is None:
            self.seen.remember(watched.id, asked)
        self._ages.survived(watched, asked)
        if status != watched.status:
            watched.since = asked
        self._ages.describe(watched, value, asked)
        self._oddities.look_at_numbers(value)
        channels = [each for each in watched.waiters if not isinstance(each, asyncio.Future)]
        if not channels and not self._events:
            return
        task = wire.task_from(value)
        for channel in channels:
            tell(channel, task)
        if self._events:
            self._events.emit(Updated(task=task))

    def _lacks_results(
        self, watched: Watched, value: Mapping[str, Any], asked: float, now: float, *, alone: bool
    ) -> None:
        """Take in that a task is completed, and that its links are not there yet."""
        step = patience.after_emptiness(
            watched.troubled(), self._polling, now, alone=alone, room=self._scheduler.has_room
        )
        if step.what is Belief.BELIEVE:
            self._end(wire.task_from(value), asked)
            return
        self.seen.remember(watched.id, asked)
        watched.status, watched.progress, watched.kind = COMPLETED, 100, None
        if step.what is Belief.ALONE:
            self._scheduler.alone(watched)
        else:
            self._plan.enter(watched, now + step.pause)

    def _denied(self, watched: Watched, reading: Reading, now: float) -> None:
        """Take in that the service does not know a task."""
        step = patience.after_denial(
            watched.troubled(),
            self._polling,
            now,
            seen=watched.is_seen,
            refused=reading.refused is not None,
            listed=reading.listed,
            room=self._scheduler.has_room,
        )
        if reading.listed:
            logger.warning(
                "the service says that it does not know task %s, and has it in its list: "
                "waiting on",
                printable(watched.id),
                extra={"action": "denied_but_listed", "task_id": watched.id},
            )
        if step.what is Belief.BELIEVE and reading.refused is not None:
            self._give_up(watched, reading.refused)
        elif step.what is Belief.ALONE:
            self._scheduler.alone(watched)
        else:
            self._plan.enter(watched, now + step.pause)

    def learn(self, task: Task, asked: float) -> None:
        """Take a state that came by another way than a read that was due."""
        final = lifecycle.is_final(task)
        self.seen.remember(task.id, self.seen.get(task.id) if final else asked)
        if self._closed or wire.lacks_results(task):
            return
        if final:
            self._end(task, asked)
            return
        value, watched = value_of(task), self.watched.get(task.id)
        self._ages.note(value)
        if watched is not None:
            self._goes_on(watched, value, asked)

    def _end(self, task: Task, asked: float) -> None:
        is_news = self.finals.add(task)
        if is_news:
            self._oddities.look_at_numbers(task.raw)
        if self._expected.used:
            self._expected.pop(task.id)
        if self._left.used:
            self._left.pop(task.id)
        watched = self.watched.pop(task.id, None)
        if watched is not None:
            self._settle(watched, task, asked)
            for waiter in watched.release():
                tell_end(waiter, task)
        if is_news:
            self.finals.announce(task)

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
        self.watched.pop(watched.id, None)
        self._plan.drop(watched)
        error.task_id = watched.id
        if error.charged == "no":
            error.charged = "unknown"  # that it cannot be read says nothing of what it has cost
        for waiter in watched.release():
            fail(waiter, watched.id, error)

    def _broke(self, error: BaseException) -> None:
        """Wake all who wait when reading itself failed: nobody would wake them ever after."""
        for watched in tuple(self.watched.values()):
            self._give_up(
                watched,
                HappyHorseError(f"reading tasks broke: {error!r}; this is a bug", charged="yes"),
            )
