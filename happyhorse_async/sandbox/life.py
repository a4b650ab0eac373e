"""How long a task lives and how far it has come: pure functions of time and a seeded source of chance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from random import Random

__all__ = ["Life", "estimate_of", "plan_life", "progress_at"]

_ESTIMATED_SECONDS = 2400
"""What the service announces as `task_info.estimated_time`: its reference's example, the far end of the range."""

_MEDIAN, _SIGMA = 180.0, 0.75
_SHORTEST, _LONGEST = 60.0, 2400.0
_QUEUED_SHARE = 0.1


@attrs.frozen
class Life:
    """The seconds that a task waits in the queue and then works."""

    queued: float
    working: float


def plan_life(chance: Random, *, duration: int, quality: str, fixed: float | None) -> Life:
    """Return a task's life: `fixed` seconds, or lognormal around 3 minutes, between 1 and 40.

    Longer and finer videos take longer.
    """
    if fixed is None:
        factor = (0.6 + 0.08 * duration) * (1.6 if quality == "1080p" else 1.0)
        seconds = _MEDIAN * factor * math.exp(chance.gauss(0.0, _SIGMA))
        seconds = min(max(seconds, _SHORTEST), _LONGEST)
    else:
        seconds = fixed
    return Life(seconds * _QUEUED_SHARE, seconds * (1 - _QUEUED_SHARE))


def estimate_of(fixed: float | None) -> int:
    """Return what to announce as `task_info.estimated_time`: the true life where it is fixed, in whole seconds."""
    return _ESTIMATED_SECONDS if fixed is None else max(1, math.ceil(fixed))


def progress_at(started: float, ends: float, now: float) -> int:
    """Return the progress of a task at work: 1 to 99, faster at first as the service's own bar is."""
    if now >= ends or ends <= started:
        return 99
    share = (now - started) / (ends - started)
    return max(1, min(99, int(100 * (1 - (1 - share) ** 1.5))))
