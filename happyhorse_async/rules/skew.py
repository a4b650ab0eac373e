"""How far the service's clock is ahead of ours, as far as new tasks tell. Knows no clock: times are passed in, in Unix seconds."""

from __future__ import annotations


class Skew:
    """The difference of two clocks."""

    def __init__(self) -> None:
        self._ahead: float | None = None

    def note(self, created: object, now: float) -> None:
        """Learn from a task that was created, by the service's clock, before `now` by ours: the newest one tells best."""
        if isinstance(created, (int, float)) and not isinstance(created, bool):
            ahead = created - now
            self._ahead = ahead if self._ahead is None else max(self._ahead, ahead)

    def at_service(self, now: float) -> float:
        """Turn a time by our clock into one by the service's."""
        return now + (self._ahead or 0.0)
