"""What the poller keeps of tasks: a small slotted record of each one that is waited for, and who
waits for it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .._models import Task
from .._rules import lifecycle, pacing, wire
from .._rules.pacing import is_moment
from ..events import Completed, Failed
from .waiters import publish_end

if TYPE_CHECKING:
    import asyncio

    from .._rules.pacing import Skew
    from ..events import Events
    from .waiters import Subscriber

Kind = tuple[float | None, float | None, bool, int]
"""What decides when a task is worth a read: estimate, predicted life, whether a callback is
expected, and the age, rounded."""


class Record:
    """One unfinished task that someone waits for. Times are seconds of the event loop's clock."""

    __slots__ = (
        "absent",
        "aged",
        "alone",
        "asked",
        "born",
        "callback",
        "called",
        "due",
        "estimate",
        "failures",
        "first",
        "hinted",
        "id",
        "kind",
        "others",
        "predicted",
        "progress",
        "slot",
        "status",
    )

    def __init__(self, task_id: str, now: float) -> None:
        self.id = task_id
        self.status: str | None = None
        """The service's word, as it came; None until it is known."""
        self.progress: object = None
        """The service's number, as it came."""
        self.born = now
        self.aged = False
        """Whether `born` is known, not only the moment from which on it was watched."""
        self.asked = now
        """When the last answer that was believed was asked for; the task was unfinished then."""
        self.estimate: float | None = None
        self.predicted: float | None = None
        """The life in seconds that its progress speaks for."""
        self.kind: Kind | None = None
        """What it had in common with those that it was last entered with; None when it has changed
        since."""
        self.slot = -1
        self.due: float | None = None
        """When it was to be read next, at the moment when the last waiter left."""
        self.first: Subscriber | None = None
        """Who waits; None when nobody does. Most tasks have one waiter, and a list for each would
        cost as much as all the rest."""
        self.others: list[Subscriber] | None = None
        """Who else waits."""
        self.failures = 0
        """Reads in a row that said nothing."""
        self.absent = 0
        """Reads in a row in which the service did not know the task."""
        self.alone = False
        """To be read by itself next time, to confirm what a batch said."""
        self.callback = False
        """A callback is expected: reading is only the heartbeat."""
        self.called = False
        """Something called for it to be read."""
        self.hinted = False
        """There is reason to read it at once."""

    @property
    def subscribers(self) -> tuple[Subscriber, ...]:
        """All who wait, in the order of their coming."""
        return () if self.first is None else (self.first, *(self.others or ()))

    def take(self) -> tuple[Subscriber, ...]:
        """All who wait; they wait no more, and the task is not wanted any more."""
        subscribers = self.subscribers
        self.first = self.others = None
        return subscribers

    def add(self, subscriber: Subscriber) -> None:
        """Let one more wait."""
        if self.first is None:
            self.first = subscriber
        elif self.others is None:
            self.others = [subscriber]
        else:
            self.others.append(subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        """Let one wait no more; harmless when it does not."""
        if self.first is subscriber:
            self.first = self.others.pop(0) if self.others else None
        elif self.others and subscriber in self.others:
            self.others.remove(subscriber)

    def snapshot(self, known: Task | None = None) -> Task | None:
        """What is known, as a value: `known` itself when it is the present state; None before the
        first answer.
        """
        if self.status is None:
            return None
        if known is not None and (known.status, known.progress) == (self.status, self.progress):
            return known
        progress = self.progress if isinstance(self.progress, int) else 0
        return Task(
            id=self.id, status=self.status, progress=progress, estimated_seconds=self.estimate
        )


def value_of(task: Task) -> Mapping[str, Any]:
    """Give the JSON object of a task, or one in its stead for a task that was made by hand."""
    return (
        task.raw
        if "status" in task.raw
        else {"id": task.id, "status": str(task.status), "progress": task.progress}
    )


# --- Waits for the end of tasks that were never read: most of them end with the first read, and
# need no record for it.


class FirstReads:
    """One future for each such task, before its first read leaves and while that is on the wire."""

    def __init__(self, finals: Finals) -> None:
        self._finals = finals
        self.new: OrderedDict[str, asyncio.Future[Task]] = OrderedDict()
        """Those whose first read has not left yet, the oldest first."""
        self.asked: dict[str, asyncio.Future[Task]] = {}
        """Those whose first read is on the wire."""

    def __len__(self) -> int:
        return len(self.new) + len(self.asked)

    def __iter__(self) -> Iterator[str]:
        return iter((*self.new, *self.asked))

    def take(self, most: int) -> list[str]:
        """Give up to so many tasks to be read now, the oldest first."""
        taken = [self.new.popitem(last=False) for _ in range(min(most, len(self.new)))]
        self.asked.update(taken)
        return [task_id for task_id, _ in taken]

    def drop(self, task_id: str, subscriber: Subscriber) -> None:
        """Forget a wait; harmless when it is not here."""
        for waits in (self.new, self.asked):
            if waits.get(task_id) is subscriber:
                del waits[task_id]

    def ended(self, task_id: str, value: Mapping[str, Any]) -> bool:
        """Take the first answer about a task; gives whether the task has ended, so that nothing
        need be kept of it.
        """
        future = self.asked.get(task_id)
        if future is None or value["status"] not in lifecycle.FINAL_STATUSES:
            return False
        del self.asked[task_id]
        task = wire.task_from(value)
        is_news = self._finals.add(task)
        publish_end(future, task)
        if is_news:
            self._finals.announce(task)
        return True


# --- How old tasks are and how long they live, as far as the service's answers tell: what the
# outlook learns from.


LONGEST = 10.0**7
"""Seconds; ages and estimates beyond are nonsense."""


class Ages:
    """Fills in what records say of age, estimate and progress, and hands on what was learned by it."""

    def __init__(self, outlook: pacing.Outlook, wall: Callable[[], float], skew: Skew) -> None:
        self._outlook = outlook
        self._wall = wall
        self._skew = skew

    def note(self, task: Task) -> None:
        """Learn from a task how far the service's clock is ahead of ours."""
        self._skew.note(task.raw.get("created"), self._wall())

    def describe(self, record: Record, value: Mapping[str, Any], asked: float) -> None:
        """Take over what an answer says of an unfinished task."""
        if not record.aged:
            self._age(record, value, asked)
        record.status, record.progress, record.asked = value["status"], value.get("progress"), asked
        record.kind = None
        progress = record.progress
        if isinstance(progress, (int, float)) and record.aged:
            record.predicted = pacing.predicted_life(asked - record.born, progress)

    def begin(self, record: Record, value: Mapping[str, Any]) -> None:
        """Take over what was known of a task before it was watched: true when it was created, and
        perhaps no more.
        """
        self.describe(record, value, record.asked)
        if record.aged:
            record.asked, record.predicted = record.born, None

    def _age(self, record: Record, value: Mapping[str, Any], asked: float) -> None:
        info, created = value.get("task_info"), value.get("created")
        estimate = info.get("estimated_time") if isinstance(info, dict) else None
        if isinstance(estimate, (int, float)) and 0 < estimate < LONGEST:
            record.estimate = float(estimate)
        if is_moment(created):
            age = self._skew.at_service(self._wall()) - created
            record.born = asked - min(max(0.0, age), LONGEST)
            record.aged = True

    def survived(self, record: Record, asked: float, times: int = 1) -> None:
        """Learn that a task was unfinished at a time, and that it speaks for so many."""
        if record.aged and asked > record.asked:
            since, until = record.asked - record.born, asked - record.born
            self._outlook.survived(since, until, record.estimate, record.predicted, times)
        record.asked = max(asked, record.asked)

    def ended(self, record: Record, task: Task, asked: float) -> None:
        """Learn how long a task has lived, that was seen before its end."""
        since, until = record.asked - record.born, max(asked, record.asked) - record.born
        reported = task.seconds
        at = (
            reported if reported is not None and since <= reported <= until else (since + until) / 2
        )
        if at > 0:
            self._outlook.ended(min(since, at), at, record.estimate, record.predicted)


# --- Tasks that have ended: a bounded memory of their last states, and the news of each end, told
# once.


logger = logging.getLogger("happyhorse_async")


class Finals:
    """The last states of tasks that have ended, the newest ones only, and which of them were
    announced.

    What is remembered is kept in two halves, of which the older one is dropped when the newer one
    is full: that costs next to nothing, however many tasks end at once.
    """

    def __init__(self, events: Events, *, states: int = 512, announced: int = 8192) -> None:
        self._events = events
        self._listeners: list[Callable[[Task], None]] = []
        self._states: dict[str, Task] = {}
        self._older_states: dict[str, Task] = {}
        self._announced: set[str] = set()
        self._older_announced: set[str] = set()
        self._half_states = states // 2
        self._half_announced = announced // 2

    def get(self, task_id: str) -> Task | None:
        """The last state of a task, when it is remembered."""
        return self._states.get(task_id) or self._older_states.get(task_id)

    def add(self, task: Task) -> bool:
        """Remember an ended task; tells whether that is news."""
        if len(self._states) >= self._half_states:
            self._states, self._older_states = {}, self._states
        self._states[task.id] = task
        if task.id in self._announced or task.id in self._older_announced:
            return False
        if len(self._announced) >= self._half_announced:
            self._announced, self._older_announced = set(), self._announced
        self._announced.add(task.id)
        return True

    def on_final(self, listener: Callable[[Task], None]) -> None:
        """Call a function with the last state of every task that this session sees end: once for
        each.
        """
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


# --- A memory of the newest things only.


V = TypeVar("V")


class Recent(OrderedDict[str, V]):
    """What is known of so many tasks at most; the oldest is forgotten for the newest."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def remember(self, task_id: str, value: V) -> None:
        """Keep what is known of a task."""
        self[task_id] = value
        if len(self) > self._most:
            self.popitem(last=False)
