"""What the poller keeps of tasks: a small slotted record of each one that is waited for, and a bounded memory of those that have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        "estimate",
        "failures",
        "hinted",
        "id",
        "kind",
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
        self.kind: Kind | None = None
        """What it had in common with those that it was last entered with; None when it has changed since."""
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
    """The last states of tasks that have ended, the newest ones only, and which of them were announced.

    What is remembered is kept in two halves, of which the older one is dropped when the newer one is full: that costs next to nothing,
    however many tasks end at once.
    """

    def __init__(self, states: int = 512, announced: int = 32_768) -> None:
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
