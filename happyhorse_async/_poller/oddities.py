"""What is odd about answers, told once: numbers that cannot be true, words that stay for long."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._formats.texts import printable
from .._rules import numbers, wire
from .._rules.lifecycle import GOING_ON
from ..events import OddNumbers
from .watched import Recent

if TYPE_CHECKING:
    from ..events import Events
    from .watched import Watched

logger = logging.getLogger("happyhorse_async")

LONG = 3600.0
"""Seconds for which a task may be pending or processing before that is worth a word."""
LONG_UNKNOWN = 60.0
"""Seconds for which it may have a status that is newer than this package."""
MOST_WORDS = 100
_MOST_TASKS = 8192


class Oddities:
    """Tells of each once: of a task's numbers, and of a status word in this session."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._tasks: Recent[None] = Recent(_MOST_TASKS)
        self._words: set[str] = set()

    def look_at_numbers(self, value: Mapping[str, Any]) -> None:
        """Tell of the numbers of a task's JSON object that cannot be true, as log and event."""
        odd = numbers.odd_numbers(value)
        task = wire.task_of(value) if odd else None
        if task is None or task.id in self._tasks:
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
        """Tell of a status that has stayed for long, with what is known: it may be a newer word for
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
