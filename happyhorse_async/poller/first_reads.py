"""Waits for the end of tasks that were never read: most of them end with the first read, and need no record for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..rules import lifecycle, wire
from .channels import publish_end

if TYPE_CHECKING:
    import asyncio

    from ..models import Task
    from .channels import Subscriber
    from .finals import Finals


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
        """Take the first answer about a task; gives whether the task has ended, so that nothing need be kept of it."""
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
