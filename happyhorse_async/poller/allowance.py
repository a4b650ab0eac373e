"""How often the service may be asked: a rate with some room for what comes at once, and the pauses that failed reads call for."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from ..errors import APIStatusError, RateLimitError
from ..rules import retry

if TYPE_CHECKING:
    from ..config import Polling, RetryPolicy
    from ..errors import HappyHorseError

# Of the reads that a minute may have, the share that may go at once after a quiet time; the rest comes at a steady rate. Any minute
# has no more than it may have by that.
AT_ONCE = 1 / 3
# Failed reads in a row before all reads pause.
FAILURES = 3
# Refusals in a row (of the key, for example) before those who wait are told: one can be a gateway's hiccup, five are the service's word.
REFUSALS = 5
# The most seconds for which reads pause, whatever the service asks for: links die.
LONGEST_PAUSE = 600.0


def is_refusal(error: HappyHorseError) -> bool:
    """Whether the service itself refuses the request. Only its own word counts: a gateway's page says nothing."""
    return (
        isinstance(error, APIStatusError) and error.own_body and 400 <= error.status < 500 and error.status not in (408, 425, 429)
    )


class Allowance:
    """When the next read may leave. Times are those of the caller's clock."""

    def __init__(self, polling: Polling, policy: RetryPolicy) -> None:
        self._policy = policy
        self._spacing = 60.0 / polling.max_reads_per_minute / (1 - AT_ONCE)
        self._credit = AT_ONCE * polling.max_reads_per_minute * self._spacing
        self._next = self._paused_until = self._failed_at = -math.inf
        self._failures = self._refusals = 0

    def next(self) -> float:
        """When the next read may leave."""
        return max(self._next, self._paused_until)

    def spend(self, now: float) -> None:
        """Note that a read leaves."""
        # What was not used lately may be used now; but a pause that the service asked for must not end in a burst.
        self._next = max(self._next, now - self._credit, min(self._paused_until, now)) + self._spacing

    def answered(self) -> None:
        """Note that a read was answered."""
        self._failures = self._refusals = 0

    def failed(self, error: HappyHorseError, asked: float, now: float) -> bool:
        """Note that a read failed, and pause all of them when that is called for; gives whether those who wait are to be told."""
        if asked >= self._failed_at:
            # Reads that were on the wire together fail together: that counts once.
            self._failures += 1
            self._refusals = self._refusals + 1 if is_refusal(error) else 0
            self._failed_at = now
        if isinstance(error, RateLimitError) or (isinstance(error, APIStatusError) and error.retry_after is not None):
            self._pause_all(now, self.pause(self._failures, error))
        elif self._failures >= FAILURES:
            self._pause_all(now, self.pause(self._failures - FAILURES + 1, error))
        return self._refusals >= REFUSALS

    def _pause_all(self, now: float, pause: float) -> None:
        self._paused_until = max(self._paused_until, now + min(pause, LONGEST_PAUSE))

    def pause(self, attempt: int, error: HappyHorseError | None = None) -> float:
        """Seconds before the n-th try of the same read."""
        return retry.pause_before(self._policy, attempt, error, random.random())
