"""How old tasks are and how long they live, as far as the service's answers tell: what the outlook learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..rules import pacing
from ..rules.skew import is_moment

if TYPE_CHECKING:
    from ..models import Task
    from ..rules.skew import Skew
    from .records import Record

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
        """Take over what was known of a task before it was watched: true when it was created, and perhaps no more."""
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
        at = reported if reported is not None and since <= reported <= until else (since + until) / 2
        if at > 0:
            self._outlook.ended(min(since, at), at, record.estimate, record.predicted)
