"""What the poller keeps of tasks: a small slotted record of each one that is waited for, and a bounded memory of those that have ended."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from ..models import Task

if TYPE_CHECKING:
    from .channels import Subscriber


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
        "estimate",
        "failures",
        "hinted",
        "id",
        "predicted",
        "progress",
        "slot",
        "status",
        "subscribers",
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
        self.slot = -1
        self.subscribers: list[Subscriber] = []
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
    def wanted(self) -> bool:
        """Whether anyone still waits."""
        return bool(self.subscribers)

    def snapshot(self) -> Task | None:
        """What is known, as a value; None before the first answer."""
        if self.status is None:
            return None
        progress = self.progress if isinstance(self.progress, int) else 0
        return Task(id=self.id, status=self.status, progress=progress, estimated_seconds=self.estimate)


class Finals:
    """The last states of tasks that have ended, the newest ones only, and which of them were announced."""

    def __init__(self, states: int = 512, announced: int = 32_768) -> None:
        self._states: OrderedDict[str, Task] = OrderedDict()
        self._announced: OrderedDict[str, None] = OrderedDict()
        self._most_states = states
        self._most_announced = announced

    def get(self, task_id: str) -> Task | None:
        """The last state of a task, when it is remembered."""
        task = self._states.get(task_id)
        if task is not None:
            self._states.move_to_end(task_id)
        return task

    def add(self, task: Task) -> bool:
        """Remember an ended task; tells whether that is news."""
        self._states[task.id] = task
        self._states.move_to_end(task.id)
        if len(self._states) > self._most_states:
            self._states.popitem(last=False)
        if task.id in self._announced:
            return False
        self._announced[task.id] = None
        if len(self._announced) > self._most_announced:
            self._announced.popitem(last=False)
        return True
