"""When the next request may leave: at the rate that is found, and not while a 429 holds all.

Submissions, reads and uploads have one each. Arithmetic over times that are passed in.
"""

from __future__ import annotations

import math

from .throttling import RateFinder


class Departures:
    """Times are seconds of one clock."""

    __slots__ = ("finder", "held_until", "next")

    def __init__(self, *, ceiling: int) -> None:
        self.finder = RateFinder(ceiling=ceiling)
        self.next = self.held_until = -math.inf
        """By the rate, and by the last 429."""

    @property
    def at(self) -> float:
        """When the next one may leave; it may be long ago."""
        return max(self.next, self.held_until)

    def leaves(self, now: float, *, late: float = 0.0) -> None:
        """Note that one leaves. So many seconds that timers ring late are made up for, if they are
        not more than a few places.
        """
        self.finder.departed()
        if interval := self.finder.interval(now):
            self.next = max(self.next, now - min(5 * interval, late)) + interval

    def let_in(self, now: float, epoch: int) -> bool:
        """Note that one of `epoch` was not answered with 429; return whether it ended a trial. Then
        the others follow at the rate that was found.
        """
        trial = self.finder.accepted(now, epoch)
        if trial:
            self.next = now + self.finder.interval(now)
        return trial

    def refused(
        self, now: float, epoch: int, asked: float | None, wanted: float
    ) -> tuple[bool, float]:
        """Let nothing leave for a while, because of a 429 to one of `epoch`.

        `asked` are the seconds of its Retry-After, `wanted` those of the retry policy. Return
        whether it was news, and the seconds.
        """
        pause = self.finder.pause(now, epoch, asked, wanted)
        self.held_until = max(self.held_until, now + pause)
        news = self.finder.refused(now, epoch, pause)
        if news:  # what was to leave next was planned before it
            self.next = min(self.next, self.held_until)
        return news, pause
