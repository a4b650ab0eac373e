"""What the poller keeps: tasks that are waited for, their ages, ended tasks, and what was odd about
answers.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from .._formats.texts import printable
from .._models import Task
from .._recent import Recent
from .._rules import lifecycle, numbers, pacing, wire
from .._rules.lifecycle import GOING_ON
from .._rules.numbers import LONGEST, is_moment
from ..events import ChargeSettled, Completed, Failed, OddNumbers
from .patience import ReadTrouble

if TYPE_CHECKING:
    from .._dispatcher import Events
    from .._rules.pacing import Skew
    from .waiters import Waiter

logger = logging.getLogger("happyhorse_async")

Kind = tuple[float | None, float | None, bool, int]
"""Decides when a task is worth a read: estimate, predicted life, whether a callback is expected,
and the age, rounded."""


@attrs.define(eq=False, repr=False, weakref_slot=False)
class Watched:
    """One unfinished task that someone waits for. Times are seconds of the event loop's clock.

    Very many are made at once, and live for minutes: slots take half the memory of attributes.
    """

    id: str
    asked: float
    """When the last answer that was believed was asked for; the task was unfinished then."""
    born: float
    slot: int = -1
    """Belongs to the wheel of reads."""
    first: Waiter | None = None
    """The first waiter; None when nobody waits. Most tasks have one waiter, and a list for each
    would cost as much as all the rest."""
    others: list[Waiter] | None = None
    status: str | None = None
    """The service's word, as it came; None until it is known."""
    progress: object = None
    """The service's number, as it came."""
    aged: bool = False
    """Whether `born` is known, not only the moment from which on it was watched."""
    estimate: float | None = None
    """The service's guess of its life, in seconds."""
    predicted: float | None = None
    """The life in seconds that its progress speaks for."""
    kind: Kind | None = None
    """What it had in common with those that it was last entered with; None when it has changed
    since."""
    trouble: ReadTrouble | None = None
    """What is wrong with reading it; None when nothing is."""
    due: float | None = None
    """When it was to be read next, at the moment when the last waiter left."""
    callback: bool = False
    """A callback was expected."""
    called: bool = False
    """Something called for it to be read."""
    since: float = -math.inf
    """When its status was first seen; known only for one that came while it was watched."""
    hinted: bool = False
    """There is reason to read it at once."""
    seen: bool = False
    """This session submitted it, has read it, or has it from a ledger: a denial is not the last
    word."""

    @property
    def waiters(self) -> tuple[Waiter, ...]:
        """All who wait, in the order of their coming."""
        return () if self.first is None else (self.first, *(self.others or ()))

    def release(self) -> Sequence[Waiter]:
        """Return all who wait, and forget them: the task is not wanted any more."""
        first, others = self.first, self.others
        self.first = self.others = None
        if first is None:
            return ()
        return (first,) if others is None else (first, *others)

    def add(self, waiter: Waiter) -> None:
        """Let one more wait."""
        if self.first is None:
            self.first = waiter
        elif self.others is None:
            self.others = [waiter]
        else:
            self.others.append(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Let one wait no more; harmless when it does not."""
        if self.first is waiter:
            self.first = self.others.pop(0) if self.others else None
        elif self.others and waiter in self.others:
            self.others.remove(waiter)

    @property
    def awaits_callback(self) -> bool:
        """A callback is still to come: reading is only the heartbeat. The service sends it once, so
        a task that has not ended when it is read then is read at the usual pace again.
        """
        return self.callback and not self.called

    def expect_callback(self, *, came: bool = False) -> None:
        """Read it only now and then; `came`: its callback has come already."""
        self.callback, self.called, self.kind = True, self.called or came, None

    @property
    def is_seen(self) -> bool:
        """Whether the service is known to have accepted it."""
        return self.seen or self.status is not None

    @property
    def is_alone(self) -> bool:
        """Whether it is to be read by itself."""
        return self.trouble is not None and self.trouble.alone

    def troubled(self) -> ReadTrouble:
        """Return what is wrong with reading it, to be added to."""
        if self.trouble is None:
            self.trouble = ReadTrouble()
        return self.trouble

    def snapshot(self, known: Task | None = None) -> Task | None:
        """Return what is known, as a value: `known` itself when it is the present state.

        None before the first answer.
        """
        if self.status is None:
            return None
        progress = numbers.progress(self.progress)
        if known is not None and (known.status, known.progress) == (self.status, progress):
            return known
        return Task(
            id=self.id, status=self.status, progress=progress, estimated_seconds=self.estimate
        )


def value_of(task: Task) -> Mapping[str, Any]:
    """Return the JSON object of a task, with a status also where its answer had none, or where it
    was made by hand.
    """
    raw = task.raw  # read anew each time, where it is kept as bytes
    status = raw.get("status")
    if status and isinstance(status, str):
        return raw
    return {"id": task.id, "progress": task.progress, **raw, "status": str(task.status)}


# --- How old tasks are and how long they live, as far as the service's answers tell.


# What many tasks have in common is one object, not as many as there are answers.
_WORDS = {word: word for word in wire.STATUSES}


@functools.lru_cache(maxsize=1024)
def _one(estimate: float | None) -> float | None:
    return estimate


class Ages:
    """Fills in what answers say of age, estimate and progress, and hands on what it learns."""

    def __init__(
        self,
        outlook: pacing.Outlook,
        wall: Callable[[], float],
        clock: Callable[[], float],
        skew: Skew,
    ) -> None:
        self._outlook = outlook
        self._wall = wall
        self._clock = clock
        self._skew = skew

    def note(self, value: Mapping[str, Any]) -> None:
        """Learn from a new task how far the service's clock is ahead of ours."""
        self._skew.note(value.get("created"), self._wall(), self._clock())

    def describe(self, watched: Watched, value: Mapping[str, Any], asked: float) -> None:
        """Take over what an answer says of an unfinished task."""
        if not watched.aged:
            self._age(watched, value, asked)
        progress = value.get("progress")
        status = value["status"]
        watched.status, watched.progress, watched.asked = (
            _WORDS.get(status, status),
            progress,
            asked,
        )
        watched.kind = None
        if watched.aged:
            life = pacing.predicted_life(asked - watched.born, numbers.progress(progress))
            watched.predicted = life

    def begin(self, watched: Watched, value: Mapping[str, Any]) -> None:
        """Take over what was known before the task was watched: true when it was created."""
        self.describe(watched, value, watched.asked)
        if watched.aged:
            watched.asked, watched.predicted = watched.born, None

    def _age(self, watched: Watched, value: Mapping[str, Any], asked: float) -> None:
        info, created = value.get("task_info"), value.get("created")
        estimate = info.get("estimated_time") if isinstance(info, dict) else None
        found = numbers.seconds(estimate)
        watched.estimate = found if found and found >= pacing.LEAST_LIFE else None
        if is_moment(created):
            age = self._skew.at_service(self._wall(), self._clock()) - created
            watched.born = asked - min(max(0.0, age), LONGEST)
            watched.aged = True
            if watched.estimate is not None:
                watched.estimate = pacing.life_by_estimate(watched.estimate, asked - watched.born)
        watched.estimate = _one(watched.estimate)

    def survived(self, watched: Watched, asked: float, times: int = 1) -> None:
        """Learn that a task was unfinished at a time, and that it speaks for so many."""
        if watched.aged and asked > watched.asked:
            since, until = watched.asked - watched.born, asked - watched.born
            self._outlook.survived(since, until, watched.estimate, watched.predicted, times)
        watched.asked = max(asked, watched.asked)

    def ended(self, watched: Watched, task: Task, asked: float) -> None:
        """Learn how long a task has lived, that was seen before its end."""
        since, until = watched.asked - watched.born, max(asked, watched.asked) - watched.born
        reported = task.seconds
        at = (
            reported if reported is not None and since <= reported <= until else (since + until) / 2
        )
        if at > 0:
            self._outlook.ended(min(since, at), at, watched.estimate, watched.predicted)


# --- Tasks that have ended: a bounded memory of their last states, and the news of each end.


MOST_STATES = 512
"""Ended tasks whose last states are remembered."""
MOST_ANNOUNCED = 8192
"""Ended tasks of which it is remembered that they were announced."""


class Finals:
    """The last states of the newest tasks that have ended, and which of them were announced."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._listeners: list[Callable[[Task], None]] = []
        self._states: Recent[Task] = Recent(MOST_STATES)
        self._announced: Recent[None] = Recent(MOST_ANNOUNCED)
        self.get = self._states.get
        """Return the last state of a task, when it is remembered."""
        self.forget = self._states.pop
        """Forget the last state of a task that may not be its last. That it was announced stays."""

    def add(self, task: Task) -> bool:
        """Remember an ended task; return whether that is news."""
        if (before := self.get(task.id)) is not None:
            self._compare_charge(before, task)
        self._states.remember(task.id, task)
        is_news = task.id not in self._announced
        if is_news:
            self._announced.remember(task.id, None)
        return is_news

    def _compare_charge(self, before: Task, task: Task) -> None:
        """Tell of a charge that was not settled when its task ended, and is now."""
        late = self._events and before.status == task.status and not lifecycle.is_settled(before)
        if late and lifecycle.is_settled(task):
            self._events.emit(ChargeSettled(task=task))

    def on_final(self, listener: Callable[[Task], None]) -> None:
        """Call a function with the last state of every task that this session sees end, once."""
        self._listeners.append(listener)

    def announce(self, task: Task) -> None:
        """Tell all who want to know of every end."""
        for listener in self._listeners:
            try:
                listener(task)
            except Exception:
                # What somebody else makes of a task must not stop the others' waiting.
                logger.exception(
                    "a listener failed on task %s",
                    task.id,
                    extra={"action": "listener_failed", "task_id": task.id},
                )
        if self._events:
            self._events.emit(
                Completed(task=task) if lifecycle.is_completed(task) else Failed(task=task)
            )


# --- What is odd about answers, told once: numbers that cannot be true, words that stay for long.


LONG = 3600.0
"""Seconds for which a task may be pending or processing before that is worth a word."""
LONG_UNKNOWN = 60.0
"""Seconds for which it may have a status that is newer than this package."""
MOST_WORDS = 100
MOST_TASKS = 8192


class Oddities:
    """Tells of each once: of a task's numbers, and of a status word in this session."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._tasks: Recent[None] = Recent(MOST_TASKS)
        self._words: set[str] = set()

    def look_at_numbers(self, value: Mapping[str, Any]) -> None:
        """Tell of the numbers of a task's JSON object that cannot be true, as log and event."""
        odd = numbers.odd_numbers(value)
        if not odd or (task := wire.task_of(value)) is None or task.id in self._tasks:
            return
        self._tasks.remember(task.id, None)
        logger.warning(
            "numbers of task %s cannot be true, and count as not said: %s",
            printable(task.id),
            ", ".join(odd),
            extra={"action": "odd_numbers", "task_id": task.id},
        )
        if self._events:
            self._events.emit(OddNumbers(task=task, numbers=tuple(odd)))

    def look_at_stay(self, watched: Watched, now: float) -> None:
        """Tell of a status that has stayed for long, with what is known. It may be a newer word for
        an end.
        """
        status = watched.status or ""
        known = status in GOING_ON
        stayed = now - max(watched.since, watched.born)
        longest = max(LONG, 3 * (watched.estimate or 0.0)) if known else LONG_UNKNOWN
        if stayed < longest or status in self._words or len(self._words) >= MOST_WORDS:
            return
        self._words.add(status)
        logger.warning(
            "task %s has been %r at %s for %.0f s%s: waiting on",
            printable(watched.id),
            status,
            numbers.shown(watched.progress),
            stayed,
            "" if known else ", a status that is newer than this package",
            extra={"action": "long_status", "task_id": watched.id},
        )
