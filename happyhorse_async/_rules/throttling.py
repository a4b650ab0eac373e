"""How fast may we submit: the service's limit, found without being told.

The limits differ by model and account and are not published. So a session begins with few
submissions at once, and with more as they are accepted. The first 429 measures a rate, at which the
next ones are spread over time. Now and then the rate is tried a little higher. Each 429 then tells
again where the limit is, whatever its kind: a bucket of tokens, a sliding or a fixed window, of a
second or of a minute, shared with others or not. Headers that tell the limit are believed at once.

Arithmetic over numbers that are passed in: no clock, no randomness.
"""

from __future__ import annotations

import math
from collections import deque

import attrs

from .responses import Told

FIRST = 8.0
"""Submissions at once to begin with: what is too many is refused before anybody knows better."""
CAREFUL = 300
"""Acceptances during which a session grows slowly: the least that a minute's limit allows, as far
as services are known. What is on the wire when the limit is met is refused."""
SLOWLY = 1 / 40
"""Submissions at once that each of those adds; later ones add a whole one."""
SILENCE = 0.5
"""Seconds without any answer after which a session that still grows sends more. The service may be
slow, and has refused nothing."""
SHORTEST = 1.0
"""Seconds that a measurement takes at least: limits are counted over a second or longer."""
MEMORY = 6.0
"""Seconds after which a measurement forgets its older half."""
SOON = 0.15
"""Seconds of a refusal that the service asked no pause for: it costs no more than that."""
LONG = 5.0
"""Seconds of refusals that show a window much longer than a second."""
TRIAL = 2.0
"""Seconds until another submission leaves after a pause, unless the first is answered before."""
ENOUGH = 20
"""Acceptances within a second that tell more than chance does."""
MARGIN = 0.98
"""The share of a measured rate that is used."""
CHANCE = 5.0
"""Seconds for which a rate that is too high is hardly ever let pass: a later refusal may come of
others who share the limit."""
TOLD_SHARE = 0.97
"""The share of a told rate that is used. Resets come in whole seconds, so a window that is used up
early costs most of the next one."""
PAUSED, REFUSED = 0.015, 0.01
"""The share of the time, and of the requests, that looking for a higher rate may cost."""
HOLDS = 5.0, 90.0
"""The least and the most seconds for which a rate is kept before a higher one is tried."""
CREEP = 0.02
"""How much faster it grows each second then, in shares of the rate."""
SPRINT = 3.0, 2.0
"""Seconds after which that growth doubles the rate every so many seconds: the limit has changed."""
MOST_PAUSE = 10.0
"""Seconds between two looks whether a window is over whose end nobody tells."""
MINUTE = 60.0
"""The window of nearly all limits that are longer than seconds."""
FASTEST = 1000.0
"""Submissions a second from which on they are not spread at all."""
IDLE = 1.0
"""Seconds without any answer after which what was counted before says nothing of the limit."""


TOLD_FOR = 60.0
"""Seconds for which a rate that a header told is believed. What it told of a window is heeded for
so long after that window's end."""


@attrs.define(kw_only=True, eq=False, repr=False)
class RateFinder:
    """What is allowed at present, and what was learned of it. Times are seconds of one clock."""

    ceiling: int
    """The most submissions at once, whatever is learned."""
    epoch: int = 0
    """How often a 429 was news. One to a submission of an earlier epoch says nothing new."""
    refusals: int = 0
    """News of 429 since the last acceptance."""
    _limit: float = attrs.field(init=False)
    _growing: bool = True
    _answers: int = 0
    _heard_at: float = -math.inf
    _grown_at: float = -math.inf
    # The rate, and what is known of it.
    _rate: float | None = None
    _hold_until: float = 0.0
    _candidate: float | None = None
    _back_to: float = 0.0
    """A rate that was a little too high; the present one grows back towards it during the hold."""
    _held_since: float = 0.0
    _tried: int = 0
    """Acceptances since the hold was over."""
    # The measurement since the last pause, the last second, and the time since the last starvation.
    _since: float | None = None
    _accepted: float = 0.0
    _before: float | None = None
    """The rate before one that is a guess, since what a bucket had saved may have let more in."""
    _second: deque[float] = attrs.field(factory=deque)
    _cycle_since: float = 0.0
    _cycle_accepted: int = 0
    _refused_at: float = 0.0
    _looked_at: float = 0.0
    """When the first and the last of the refusals in a row came."""
    _sure_until: float = -math.inf
    _asked: bool = False
    """The service said how long to pause."""

    # What headers told.
    _told_rate: float | None = None
    _told_until: float = -math.inf
    _heeded_until: float = -math.inf
    """-inf: nothing is told, or it is forgotten."""
    _remaining: float = math.inf
    _reset_at: float = -math.inf

    def __attrs_post_init__(self) -> None:
        self._limit = min(FIRST, float(self.ceiling))

    @property
    def limit(self) -> float:
        """Submissions at once; never below 1."""
        return self._limit

    @property
    def free(self) -> bool:
        """Whether submissions need not be spread over time."""
        return self._rate is None and not self.refusals and self._heeded_until == -math.inf

    def interval(self, now: float) -> float:
        """Seconds between two submissions; 0 while no rate is known."""
        if self.refusals:
            return TRIAL
        rate = self._told_rate if now < self._told_until else self._rate_at(now)
        if rate is None:
            return 0.0
        if rate >= FASTEST:
            self._rate = None
            return 0.0
        return min(MINUTE, 1.0 / rate)

    def _rate_at(self, now: float) -> float | None:
        if self._rate is None:
            return None
        base = self._rate
        if now < self._hold_until:
            back = max(0.0, self._back_to - base)
            return base + back * (now - self._held_since) / (self._hold_until - self._held_since)
        base = max(base, self._back_to)
        tried = now - self._hold_until
        sprint = min(32.0, max(0.0, tried - SPRINT[0]) / SPRINT[1])
        return float(base * (1 + CREEP * tried) * 2.0**sprint)

    # --- headers ----------------------------------------------------------------------------------

    def tell(self, now: float, told: Told, on_wire: int) -> None:
        """Take what an answer told of the limit, while `on_wire` submissions are on their way.

        No number holds submissions for longer than a minute. A reset may be in milliseconds, or a
        limit of days that somebody raises. Then one leaves, and its answer tells how it stands.
        """
        self._remaining = told.remaining - on_wire
        self._reset_at = now + min(told.reset, MINUTE)
        self._heeded_until = self._reset_at + TOLD_FOR
        if told.rate is not None and told.rate >= 1 / MINUTE:
            self._told_rate, self._told_until = TOLD_SHARE * told.rate, now + TOLD_FOR
            self._growing, self._limit = False, float(self.ceiling)

    def departed(self) -> None:
        """Note that a submission leaves."""
        self._remaining -= 1

    def open_at(self, now: float) -> float:
        """Return when the told limit lets the next one leave; it may be long ago."""
        if self._remaining < 1 and now < self._reset_at:
            return self._reset_at
        if self._heeded_until == -math.inf:
            return 0.0
        if now >= self._heeded_until:
            self._forget_told()
        elif now >= self._reset_at:
            # A new window, of which the answer to the first of it tells.
            self._remaining, self._reset_at = 1, now + TRIAL
        return 0.0

    def _forget_told(self) -> None:
        self._remaining, self._heeded_until = math.inf, -math.inf
        if self._rate is None:  # nothing else is known of the limit: it is found out anew
            self._growing, self._answers = True, 0
            self._limit = min(FIRST, float(self.ceiling))

    # --- while nothing was refused yet ------------------------------------------------------------

    def patient_until(self, now: float) -> float | None:
        """Return when a session that still grows may send more although nothing was answered."""
        if not self._growing or self._limit >= self.ceiling:
            return None
        return max(self._heard_at, self._grown_at, now - SILENCE) + SILENCE

    def silent(self, now: float) -> None:
        """Send more: all that may be on the wire is, and for long nothing was answered."""
        until = self.patient_until(now)
        if until is not None and self._grown_at > -math.inf and now >= until:
            self._limit = min(float(self.ceiling), self._limit * 2)
            self._grown_at = now
        elif self._grown_at == -math.inf:
            self._grown_at = now

    def _grow(self) -> None:
        self._answers += 1
        step = 1 / self._limit
        if self._growing:
            step = SLOWLY if self._answers <= CAREFUL else 1.0
        self._limit = min(float(self.ceiling), self._limit + step)

    # --- answers ----------------------------------------------------------------------------------

    def accepted(self, now: float, epoch: int) -> bool:
        """Learn that a submission of `epoch` was not answered with 429; return whether it ended a
        trial.
        """
        trial = self.refusals > 0 and epoch == self.epoch
        if trial:
            self._resume(now)
        elif self._since is None or now - self._heard_at > max(IDLE, 3 * self.interval(now)):
            self._since, self._accepted = now, 0.0
            self._cycle_since, self._cycle_accepted = now, 0
        elif now - self._since > MEMORY:
            self._since += (now - self._since) / 2
            self._accepted /= 2
        self._heard_at = now
        self._accepted += 1
        if now > self._hold_until:
            self._tried += 1
        self._cycle_accepted += 1
        self._second.append(now)
        self._forget(now)
        if self._limit < self.ceiling:
            self._grow()
        return trial

    def _forget(self, now: float) -> None:
        while self._second and self._second[0] <= now - SHORTEST:
            self._second.popleft()

    def refused(self, now: float, epoch: int, pause: float) -> bool:
        """Learn from a 429 to a submission that left in `epoch`; return whether it is news. No
        submission leaves for `pause` seconds.
        """
        if epoch != self.epoch:
            return False
        self.epoch += 1
        self.refusals += 1
        self._looked_at = now
        if self.refusals == 1:
            self._refused_at = now
            self._candidate = self._judge(now, pause)
            if self._growing:
                self._growing = False
                self._limit = max(1.0, self._limit / 2)
        self._heard_at = now + pause
        return True

    def pause(self, now: float, epoch: int, asked: float | None, wanted: float) -> float:
        """Return how many seconds to pause after a 429. That is what the service `asked` for, else
        what the retry policy `wanted`. It is next to nothing while a rate is tried that is hardly
        too high.
        """
        if asked is not None:
            self._asked = True
            return wanted
        if epoch != self.epoch:
            return 0.0
        self._asked = False
        if self._rate is not None and not self.refusals:
            return min(wanted, self.interval(now))
        minute = self._cycle_since + MINUTE + SOON - now
        return min(wanted, MOST_PAUSE, minute if minute > 0 else wanted)

    def _resume(self, now: float) -> None:
        """Go on after a pause, at the rate that the refusals have shown."""
        starved = now - self._refused_at
        rate = self._candidate
        if starved >= LONG and self._cycle_accepted:
            # The window's budget was used up: what it held, over all of its time, is the rate.
            # A late answer to an earlier submission may have begun it in this very moment.
            took = max(SHORTEST, now - self._cycle_since)
            if self._looked_at - self._cycle_since < MINUTE < took:
                took = MINUTE
            rate = MARGIN * self._cycle_accepted / took
            self._back_to = 0.0
            self._cycle_since, self._cycle_accepted = now, 0
            self._sure_until = now + MINUTE
        self.refusals = 0
        self._since, self._accepted = now, 0.0
        if rate is None:
            return
        # A slower rate is none: at least one a minute leaves, and none at all would divide by zero.
        self._rate = rate = max(rate, 1 / MINUTE)
        dear = starved if self._asked or starved >= LONG else min(starved, SOON)
        hold = max(dear / PAUSED, 2 / (REFUSED * rate))
        self._held_since, self._tried = now, 0
        self._hold_until = now + min(max(hold, HOLDS[0]), HOLDS[1])

    def _judge(self, now: float, pause: float) -> float | None:
        """Return the rate that follows from what was accepted before a 429."""
        self._forget(now)
        second = len(self._second) / SHORTEST
        rate = self._rate_at(now)
        back, self._back_to = self._back_to, 0.0
        before, self._before = self._before, None
        if self._rate is None or rate is None:
            return MARGIN * second if second else None
        took = max(SHORTEST, now - self._since) if self._since is not None else SHORTEST
        if now >= self._hold_until:
            return self._beyond(now, rate, max(self._rate, back), second, took)
        if before is not None:
            return 1.03 * before
        if now < self._sure_until:
            return 0.98 * rate  # a whole window was measured, and frees up unevenly
        if second and second < 0.8 * rate - 1:
            return MARGIN * second  # the limit has become lower
        # Refused at a rate that was thought to be allowed: the sooner, and the dearer, the slower.
        step = max(0.3 / max(1.0, self._accepted), 0.15 * pause / took)
        lower = rate * (1 - min(0.1, max(0.005, step)))
        if ENOUGH <= second < rate - 1:  # less is the chance of where the second begins
            lower = max(0.95 * rate, min(lower, MARGIN * second))
        self._back_to = (MARGIN if took < CHANCE else 1.0) * rate
        return lower

    def _beyond(self, now: float, rate: float, base: float, second: float, took: float) -> float:
        """Return the rate that follows from a 429 to one that was tried beyond a kept one."""
        saved = (1 - MARGIN) * base * (self._hold_until - self._held_since)
        if self._tried - base * (now - self._hold_until) > saved + base:
            # More than a bucket can have saved meanwhile, if it was known to the percent.
            self._before = base
            # At less than one a second there may have been none within the last one.
            return min(0.85 * rate, 0.95 * second) if second else 0.85 * rate
        better = min(MARGIN * min(rate, second), 1.01 * self._accepted / took, 1.03 * base)
        return max(base, better)


class Departures:
    """When the next request may leave: at the rate that is found, and not while a 429 holds all.

    Submissions, reads and uploads have one each. Times are seconds of one clock.
    """

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
