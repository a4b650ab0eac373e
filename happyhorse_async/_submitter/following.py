"""Accepted tasks until they end: each keeps its place in flight and its reservation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .._budget import BudgetBook
from .._concurrency import Background
from .._models import Task
from .._rules import lifecycle
from ..errors import HappyHorseError
from .gate import Gate


class Following:
    """Gives the places and the reservations of accepted tasks back when those end."""

    def __init__(
        self,
        gate: Gate,
        budget: BudgetBook,
        background: Background,
        wait: Callable[[str], Awaitable[Task]],
    ) -> None:
        self._gate = gate
        self._budget = budget
        self._background = background
        self._wait = wait
        self._running: dict[str, str] = {}
        """Keys by task id."""
        self._watched: set[str] = set()

    def begin(self, task: Task, key: str) -> None:
        """Keep a place and a reservation until the task has ended."""
        if lifecycle.is_final(task):
            self._budget.settle(key, task)
            self._gate.release_place()
        elif task.id in self._running:
            self._gate.release_place()  # a replay: the task has its place
        else:
            self._running[task.id] = key
            if self._gate.full and self._gate.waiting:
                self.watch()

    def ended(self, task: Task) -> None:
        """Note that a task has ended; one that is not followed is none of ours."""
        key = self._running.pop(task.id, None)
        if key is not None:
            self._watched.discard(task.id)
            self._budget.settle(key, task)
            self._gate.release_place()

    def watch(self) -> None:
        """Watch the unfinished tasks, because their places are wanted: there may be nobody else who
        does.
        """
        for task_id in self._running.keys() - self._watched:
            self._watched.add(task_id)
            self._background.start(self._await_end(task_id), name=f"watching {task_id}")

    async def _await_end(self, task_id: str) -> None:
        try:
            self.ended(await self._wait(task_id))
        except HappyHorseError:
            # It cannot be followed (the service does not know it any more): its place must not be
            # lost for ever.
            if self._running.pop(task_id, None) is not None:
                self._gate.release_place()
            self._watched.discard(task_id)
