"""How fast may we submit: submissions at once (additive increase, halved on 429) and, once the
service has said 429, a rate as well.

The service's limits differ by model and account and are not published, so they are learned. Halving
alone cannot find a limit of requests a second: on a fast line even one submission at a time is too
quick. So each 429 also measures how many were accepted since the last one, and the next ones are
spread over time at that rate, which grows again slowly. Arithmetic over numbers that are passed in:
no clock.
"""

from __future__ import annotations

import attrs

DOUBLING = 10.0
"""Seconds without a 429 after which the rate has doubled."""
FASTEST = 1000.0
"""Submissions a second from which on they are not spread at all."""
SHORTEST = 1.0
"""Seconds that a measurement takes at least: limits are counted over a second or longer, and a
burst says nothing of them."""
IDLE = 1.0
"""Seconds without any submission after which what was counted before says nothing of the service's
limit."""


@attrs.define(kw_only=True)
class Pace:
    """What is allowed at present."""

    ceiling: int
    """The most submissions at once, whatever is learned."""
    limit: float = attrs.field(init=False)
    """Submissions at once; never below 1."""
    epoch: int = 0
    """How often it was halved. A 429 to a submission of an earlier epoch says nothing new."""
    refusals: int = 0
    """Halvings since the last acceptance."""
    _rate: float | None = None
    _rate_at: float = 0.0
    _since: float | None = None
    _accepted: int = 0
    _latest: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.limit = float(self.ceiling)

    @property
    def free(self) -> bool:
        """Whether nothing holds submissions back but the ceiling."""
        return self._rate is None and self.limit >= self.ceiling

    def interval(self, now: float) -> float:
        """Seconds between two submissions; 0 while no rate is known."""
        if self._rate is None:
            return 0.0
        rate: float = self._rate * 2.0 ** min(32.0, max(0.0, now - self._rate_at) / DOUBLING)
        if rate >= FASTEST:
            self._rate = None
            return 0.0
        return 1.0 / rate

    def accepted(self, now: float) -> None:
        """Learn from a submission that was not answered with 429."""
        if self._since is None or now - self._latest > IDLE:
            self._since, self._accepted = now, 0
        self._latest = now
        self._accepted += 1
        self.refusals = 0
        if self.limit < self.ceiling:
            self.limit = min(float(self.ceiling), self.limit + 1.0 / self.limit)

    def refused(self, now: float, epoch: int, pause: float) -> bool:
        """Learn from a 429 to a submission that left in `epoch`; gives whether it is news. No
        submission leaves for `pause` seconds.
        """
        if epoch != self.epoch:
            return False
        self.epoch += 1
        self.refusals += 1
        self.limit = max(1.0, self.limit / 2)
        self._measure(now)
        # The rate grows from the end of the pause on. The pause itself is part of the measurement.
        self._rate_at = self._latest = now + pause
        return True

    def _measure(self, now: float) -> None:
        """Take the rate at which submissions were accepted since the last measurement."""
        if self._since is None:
            self._since = now
        elapsed = now - self._since
        if elapsed < SHORTEST:
            return
        if self._accepted:
            self._rate = self._accepted / elapsed
        elif self._rate is not None:
            self._rate /= 2
        self._since, self._accepted = now, 0
