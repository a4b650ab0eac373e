"""A memory of the newest things only."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

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
