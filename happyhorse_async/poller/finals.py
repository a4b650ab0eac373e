"""Tasks that have ended: a bounded memory of their last states, and the news of each end, told once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..events import Completed, Failed
from ..rules import lifecycle

if TYPE_CHECKING:
    from ..dispatcher import Events
    from ..models import Task

logger = logging.getLogger("happyhorse_async")


class Finals:
    """The last states of tasks that have ended, the newest ones only, and which of them were announced.

    What is remembered is kept in two halves, of which the older one is dropped when the newer one is full: that costs next to nothing,
    however many tasks end at once.
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
        """Call a function with the last state of every task that this session sees end: once for each."""
        self._listeners.append(listener)

    def announce(self, task: Task) -> None:
        """Tell all who want to know of every end."""
        for listener in self._listeners:
            try:
                listener(task)
            except Exception:
                # What somebody else makes of a task must not stop the others' waiting.
                logger.exception("a listener failed on task %s", task.id, extra={"action": "listener_failed", "task_id": task.id})
        if self._events:
            self._events.emit(Completed(task=task) if lifecycle.is_completed(task) else Failed(task=task))
