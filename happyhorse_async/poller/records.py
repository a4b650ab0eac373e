"""What the poller keeps of tasks: a small slotted record of each one that is waited for, and who waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..models import Task

if TYPE_CHECKING:
    from .channels import Subscriber

Kind = tuple[float | None, float | None, bool, int]
"""What decides when a task is worth a read: estimate, predicted life, whether a callback is expected, and the age, rounded."""


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
        """What it had in common with those that it was last entered with; None when it has changed since."""
        self.slot = -1
        self.due: float | None = None
        """When it was to be read next, at the moment when the last waiter left."""
        self.first: Subscriber | None = None
        """Who waits; None when nobody does. Most tasks have one waiter, and a list for each would cost as much as all the rest."""
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
        """What is known, as a value: `known` itself when it is the present state; None before the first answer."""
        if self.status is None:
            return None
        if known is not None and (known.status, known.progress) == (self.status, self.progress):
            return known
        progress = self.progress if isinstance(self.progress, int) else 0
        return Task(id=self.id, status=self.status, progress=progress, estimated_seconds=self.estimate)


def value_of(task: Task) -> Mapping[str, Any]:
    """Give the JSON object of a task, or one in its stead for a task that was made by hand."""
    return task.raw if "status" in task.raw else {"id": task.id, "status": str(task.status), "progress": task.progress}
