"""Which task can a submission have become whose answer was lost. May import the models."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from datetime import datetime, timedelta
from typing import Any, TypeVar

from ..models import ImageToVideo, Task

K = TypeVar("K", bound=Hashable)

ROUNDING = timedelta(seconds=1)
"""The service's times are whole seconds, cut off."""


def may_be(request: ImageToVideo, task: Task) -> bool:
    """Whether a task can be what a request has become, by everything that can be compared: the answer shows little of the request."""
    info, data = _object(task.raw.get("task_info")), _object(task.raw.get("result_data"))
    shown = (
        (info.get("video_duration"), request.duration),
        (data.get("quality"), request.quality),
        (data.get("seed"), request.seed),
    )
    return all(value is None or wanted is None or value == wanted for value, wanted in shown)


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, dict) else {}


def earliest(left: float, now: float, listed: datetime, before: tuple[datetime, float] | None) -> datetime:
    """Give the earliest time, by the service's clock, at which a submission can have become a task.

    `left` and `now` are seconds of this machine's clock: when it left, and when the service's time `listed` was received. `before` is a
    service's time that was received before it left, and when. Two estimates are taken, and the earlier one counts: either clock may run
    unevenly, and a window that is too narrow would hide the task.
    """
    estimates = [listed - timedelta(seconds=now - left)]
    if before is not None:
        estimates.append(before[0] + timedelta(seconds=left - before[1]))
    return min(estimates) - ROUNDING


def assign(wanted: Mapping[K, Set[str]], rivals: Mapping[str, int]) -> dict[K, str]:
    """Give each submission the one task that it can have become, if nobody else can have become it.

    `wanted` has the possible tasks of each submission, `rivals` how many others, outside of `wanted`, can have become a task.
    """
    claims: dict[str, int] = dict(rivals)
    for tasks in wanted.values():
        for task in tasks:
            claims[task] = claims.get(task, 0) + 1
    return {key: task for key, tasks in wanted.items() if len(tasks) == 1 and claims[task := next(iter(tasks))] == 1}
