"""How long a result link is asked for, after which pauses, and how fast its bytes must come.

Nothing is there at once. A fresh link can answer 403 or 404 for minutes. A signed one can be dead
seconds after each read of its task. So no answer about a link is final as long as the link can be
alive. Pure: time and randomness are passed in.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from . import retry

if TYPE_CHECKING:
    from .._config import RetryPolicy

MEANINGFUL_BYTES = 64 * 1024
MEANINGFUL_SHARE = 0.01
"""An attempt that brought so many bytes, or this share of the file, has not failed. The next one is
free. A host that gives a byte a time must not be asked for ever."""
LONGEST_WISH = 300.0
"""Seconds for which a file host's Retry-After is obeyed at most. The host is not trusted, and the
link dies meanwhile."""


class Setback(enum.Enum):
    """Why an attempt brought no video."""

    HOST = "host"
    """The file host cut, or broke. `RetryPolicy.attempts` bounds these."""
    BUSY = "busy"
    """The file host gives no more at once, or is unwell and says so. That passes, and the link
    lives for a day: time bounds these."""
    LINK = "link"
    """The link gives no video: it is not there yet, or not any more, or its host is out of reach.
    Time bounds these."""
    MACHINE = "machine"
    """This machine had no file descriptor left. Time bounds these."""


@attrs.define
class Persistence:
    """The attempts of one download so far, and the next pause."""

    policy: RetryPolicy
    patience: float
    """Seconds for which a link may give nothing."""
    until: float | None = None
    """When the caller's own time ends: no pause that a host asks for goes beyond it."""
    attempt: int = 0
    """Attempts in vain since bytes came."""
    _failures: int = 0
    _since: float | None = None
    _best: int = 0
    _free: frozenset[Setback] = frozenset()
    """The setbacks that cost no pause: one of each kind after bytes came. A link that served may
    have died with its connection."""

    def received(self, size: int, length: int | None) -> None:
        """Note how much of the file is there: what brings bytes has not failed."""
        step = min(MEANINGFUL_BYTES, max(1, int((length or size) * MEANINGFUL_SHARE)))
        if size >= self._best + step:
            self._best, self._free = size, frozenset(Setback)
            self.attempt, self._failures, self._since = 0, 0, None

    def pause(
        self, setback: Setback, *, now: float, random: float, wish: float | None = None
    ) -> float | None:
        """Return the seconds until the next attempt, or None to give up.

        `wish` is the pause that the host asked for. The last attempt is made as late as it may be.
        """
        self.attempt += 1
        free, self._free = setback in self._free, self._free - {setback}
        pause = 0.0 if free else retry.pause_before(self.policy, self.attempt, None, random)
        wished = min(wish or 0.0, LONGEST_WISH)
        if self.until is not None:
            wished = min(wished, max(0.0, self.until - now))
        pause = max(pause, wished)
        if setback is Setback.HOST:
            self._failures += 1
            return pause if self._failures < self.policy.attempts else None
        self._since = now if self._since is None else self._since
        end = self._since + self.patience
        end = end if self.until is None else min(end, self.until)
        return min(pause, end - now) if now < end else None

    def waited(self, now: float) -> float:
        """Return the seconds since the link first gave nothing."""
        return now - self._since if self._since is not None else 0.0


def urgency(expires_at: datetime | None) -> float:
    """Return the order of downloads: the earlier a link can die, the smaller; links without an end
    come last.
    """
    if expires_at is None:
        return float("inf")
    return (
        expires_at if expires_at.tzinfo is not None else expires_at.replace(tzinfo=UTC)
    ).timestamp()


class SpeedFloor:
    """Whether bytes come fast enough: the average over each window of `window` seconds must reach
    `least` bytes a second.
    """

    def __init__(self, *, window: float, least: float, now: float) -> None:
        self._window = window
        self._needed = least * window
        self._since = now
        self._received = 0

    def too_slow(self, received: int, now: float) -> bool:
        """Note `received` more bytes; True when the window that ends now brought too few."""
        self._received += received
        if now - self._since < self._window:
            return False
        slow = self._received < self._needed
        self._since, self._received = now, 0
        return slow
