"""How often the service may be asked for tasks.

A rate with some room for what comes at once, and the pauses that failed reads call for. Knows no
clock; waits for nothing.
"""

from __future__ import annotations

import math
import random

from .._config import Polling, RetryPolicy
from .._rules import retry
from .._rules.throttling import Departures
from ..errors import APIStatusError, HappyHorseError, RateLimitError

# Of the reads that a minute may have, the share that may go at once after a quiet time. The rest
# comes at a steady rate. Any minute has no more than it may have by that.
AT_ONCE = 1 / 3
# Failed reads in a row before all reads pause.
FAILURES = 3
# Refusals in a row (of the key, for example) before those who wait are told. One can be a gateway's
# hiccup, five are the service's word.
REFUSALS = 5
# The most seconds for which reads pause, whatever the service asks for: links die.
LONGEST_PAUSE = 600.0


def is_refusal(error: HappyHorseError) -> bool:
    """Return whether the service itself refuses the request for good. A gateway's page says
    nothing, and what asks to be tried again is no refusal.
    """
    refused = isinstance(error, APIStatusError) and error.own_body and 400 <= error.status < 500
    return refused and not retry.worth_retrying(error)


class ReadBudget:
    """Says when the next read may leave. Times are those of the caller's clock."""

    def __init__(self, polling: Polling, policy: RetryPolicy) -> None:
        self._policy = policy
        self._spacing = 60.0 / polling.max_reads_per_minute / (1 - AT_ONCE)
        self._credit = AT_ONCE * polling.max_reads_per_minute * self._spacing
        # How many are on the wire at once is not its business here.
        self._departures = Departures(ceiling=1)
        self._next = self._paused_until = self._failed_at = -math.inf
        self._failures = self._refusals = 0

    @property
    def failures(self) -> int:
        """Failed reads in a row."""
        return self._failures

    def next(self) -> float:
        """Return when the next read may leave."""
        return max(self._next, self._paused_until, self._departures.at)

    def spend(self, now: float) -> None:
        """Note that a read leaves."""
        self._departures.leaves(now)
        # What was not used lately may be used now. But a pause that the service asked for must not
        # end in a burst.
        paused = max(self._paused_until, self._departures.held_until)
        self._next = max(self._next, now - self._credit, min(paused, now)) + self._spacing

    def answered(self, asked: float, now: float) -> None:
        """Note that a read was answered."""
        self._failures = self._refusals = 0
        self._departures.let_in(now, self._epoch(asked))

    def _epoch(self, asked: float) -> int:
        """Return the finder's epoch of a read; of those refused together, one counts."""
        return self._departures.finder.epoch - (asked < self._failed_at)

    def failed(self, error: HappyHorseError, asked: float, now: float) -> bool:
        """Note that a read failed, and pause all of them when that is called for.

        Return whether those who wait are to be told.
        """
        epoch = self._epoch(asked)
        if asked >= self._failed_at:
            # Reads that were on the wire together fail together: that counts once.
            self._failures += 1
            self._refusals = self._refusals + 1 if is_refusal(error) else 0
            self._failed_at = now
        if isinstance(error, RateLimitError):
            wanted = min(self.pause(self._failures, error), LONGEST_PAUSE)
            self._departures.refused(now, epoch, error.retry_after, wanted)
            return False
        if isinstance(error, APIStatusError):
            self._departures.let_in(now, epoch)
        if isinstance(error, APIStatusError) and error.retry_after is not None:
            self._pause_all(now, self.pause(self._failures, error))
        elif self._failures >= FAILURES:
            self._pause_all(now, self.pause(self._failures - FAILURES + 1, error))
        return self._refusals >= REFUSALS

    def _pause_all(self, now: float, pause: float) -> None:
        self._paused_until = max(self._paused_until, now + min(pause, LONGEST_PAUSE))

    def pause(self, attempt: int, error: HappyHorseError | None = None) -> float:
        """Return the seconds before the n-th try of the same read."""
        return retry.pause_before(self._policy, attempt, error, random.random())
