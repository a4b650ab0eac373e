"""How far the service's clock is ahead of ours, as far as new tasks tell. Knows no clock: times are passed in, in Unix seconds."""

from __future__ import annotations

from typing import TypeGuard

LATEST = 10**11
"""Times from here on are no Unix seconds: milliseconds, or nonsense."""


def is_moment(value: object) -> TypeGuard[float]:
    """Whether a JSON value can be a time in Unix seconds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < LATEST


class Skew:
    """The difference of two clocks."""

    def __init__(self) -> None:
        self._ahead: float | None = None

    def note(self, created: object, now: float) -> None:
        """Learn from a task that was created, by the service's clock, before `now` by ours: the newest one tells best."""
        if is_moment(created):
            ahead = created - now
            self._ahead = ahead if self._ahead is None else max(self._ahead, ahead)

    def at_service(self, now: float) -> float:
        """Turn a time by our clock into one by the service's."""
        return now + (self._ahead or 0.0)
