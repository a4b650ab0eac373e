"""When a task is worth asking about.

A task that has ended unseen costs its waiter time; a read costs the service work. So each task is
read when its *expected undetected waiting* reaches a price in seconds. That is the integral of the
probability that it has ended since the last read. The probability comes from the hazard of ending,
learned by age. Ages are counted in units of the task's predicted life. So what one task teaches
serves others whose estimate differs. No clock and no randomness here; may import the policies only.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from .._config import Polling
from .numbers import is_moment

USUAL_LIFE = 180.0
"""Seconds that a task is taken to live while neither the service nor this session knows better."""
LEAST_LIFE = 0.05
"""Seconds; an estimate below this says nothing."""
LEAST_PROGRESS = 3
"""Progress below this says nothing yet about the end."""

_PER_OCTAVE = 6
_LOWEST = 2.0**-14
_OCTAVES = 20
_BUCKETS = _PER_OCTAVE * _OCTAVES
_EDGES = tuple(_LOWEST * 2 ** (index / _PER_OCTAVE) for index in range(_BUCKETS + 1))
_PER_LOG = _PER_OCTAVE / math.log(2)
_LOG_LOWEST = math.log(_LOWEST)

# A hazard that is only carried on falls with age. So a task that is late is taken to stay late.
_FADE = 2 ** (-0.5 / _PER_OCTAVE)
# Reads that survivors may add before the hazards are calculated anew. And the number of ends up to
# which each one does it.
_FRESH = 96
_FEW = 50
# Gaps that are kept until the next change. They are calculated from what was learned, so losing one
# costs only time.
_MOST_PLANS = 10_000
_BEFORE_ALL = -1000
# How many tasks the assumption weighs before anything was seen.
_PRIOR_TASKS = 1.5
# The price of a read in a full batch, in seconds of waiting, for a target delay and lives of one
# second. Dearer reads would miss the target where little is known of lives. Cheaper ones would ask
# the service more for nothing where much is known.
_PRICE = 3.0
# Lives count as no longer than this (seconds) in the price. Who waits for half an hour still wants
# to see the end in time.
_LONGEST_PRICED = 180.0


class Prior(NamedTuple):
    """What is assumed of lives, in units of the predicted life, until enough were seen."""

    peak: float
    """Where most tasks end."""
    sigma: float
    """The spread of the logarithm around the peak."""
    trust: float
    """The share of tasks that the peak speaks for; the rest may end anywhere between `_FIRST` and
    `_LAST`."""


_FIRST, _LAST = 0.008, 8.0

BY_ESTIMATE = Prior(0.95, 0.3, 0.6)
BY_PROGRESS = Prior(1.18, 0.15, 0.95)
BY_NOTHING = Prior(0.8, 0.8, 0.8)


class Lives:
    """The hazard of ending by age, as far as it was seen. Deaths and time at risk are in buckets of
    the age's logarithm.
    """

    def __init__(self, prior: Prior) -> None:
        self._assumed = _prior_hazards(prior)
        self._deaths = [0.0] * _BUCKETS
        self._exposure = [0.0] * _BUCKETS
        self._hazards: Sequence[float] = self._assumed
        self._changes: float = _FRESH
        self._spread = prior.sigma**2 * _PRIOR_TASKS
        self._mean = math.log(prior.peak)
        self._weight = _PRIOR_TASKS
        self._middle = self._typical = 1.0
        self.plans: dict[tuple[int, int, int], float] = {}
        """Gaps that were calculated since the last change, by age, unit and company, each rounded
        to a few percent."""

    @property
    def dispersion(self) -> float:
        """The standard deviation of the logarithm of the lives: how little this way of predicting
        knows.
        """
        return math.sqrt(self._spread / self._weight)

    def survived(self, since: float, until: float, times: int = 1) -> None:
        """Learn that a task was alive between two ages, and that it speaks for so many."""
        exposure = self._exposure
        index = _bucket(since)
        while since < until and index < _BUCKETS:
            end = _EDGES[index + 1]
            exposure[index] += times * (min(until, end) - since)
            since = end
            index += 1
        self._changes += 1

    def ended(self, at: float) -> None:
        """Learn that a task ended at an age."""
        self._deaths[min(_bucket(at), _BUCKETS - 1)] += 1
        self._weight += 1
        # The first ends count at once, later ones when there are enough of them to tell something
        # new.
        self._changes += max(1.0, _FRESH * _FEW / self._weight)
        logarithm = math.log(max(at, _LOWEST))
        off = logarithm - self._mean
        self._mean += off / self._weight
        self._spread += off * (logarithm - self._mean)

    def middle(self) -> float:
        """The age that half of all tasks reach, in units of the predicted life; those that still
        live count too.
        """
        self.refresh()
        return self._middle

    def typical(self) -> float:
        """The hazard that decides the mean delay. A price that suits it gives the delay that was
        aimed at over all lives.
        """
        self.refresh()
        return self._typical

    def gap(self, age: float, price: float, most: float) -> float:
        """How far beyond an age the expected undetected waiting reaches a price; at most `most`.
        All in units of the predicted life.
        """
        self.refresh()
        hazards, index, at, end = self._hazards, _bucket(age), age, age + most
        risk = waiting = 0.0
        while at < end and index < _BUCKETS:
            hazard = hazards[index]
            step = min(_EDGES[index + 1], end) - at
            missed = -math.expm1(-risk) if risk else 0.0
            further = waiting + step * -math.expm1(-(risk + hazard * step / 2))
            if further >= price:
                return (
                    at - age + min(step, _time_to(price - waiting, missed, hazard * (1 - missed)))
                )
            waiting, risk = further, risk + hazard * step
            at += step
            index += 1
        return most

    def refresh(self) -> None:
        """Let what was learned count, if it is enough to tell something new."""
        if self._changes < _FRESH:
            return
        self._changes = 0
        self.plans.clear()
        hazards, before = [], 0.0
        for index, assumed in enumerate(self._assumed):
            # Where nothing was seen yet, the hazard goes on from the age before, as when many tasks
            # grow old together.
            expected = max(assumed, before * _FADE)
            width = _PRIOR_TASKS * (_EDGES[index + 1] - _EDGES[index])
            before = (self._deaths[index] + width * expected) / (self._exposure[index] + width)
            hazards.append(before)
        self._hazards = hazards
        self._middle, self._typical = _summary(hazards)


def _summary(hazards: list[float]) -> tuple[float, float]:
    """Return the age that half of all reach, and the hazard whose gaps equal the average over all
    lives.
    """
    alive, root, middle = 1.0, 0.0, 0.0
    for index, hazard in enumerate(hazards):
        dying = alive * -math.expm1(-hazard * (_EDGES[index + 1] - _EDGES[index]))
        if alive >= 0.5 > alive - dying:
            middle = _EDGES[index + 1]
        alive -= dying
        root += dying / math.sqrt(hazard) if hazard > 0 else 0.0
    return middle or _EDGES[-1], (1 - alive) / root**2 if root else 1.0


def _bucket(age: float) -> int:
    return int((math.log(age) - _LOG_LOWEST) * _PER_LOG) if age > _LOWEST else 0


def rounded(value: float) -> int:
    """Round an age or a life to three percent: its place on a logarithmic scale."""
    return int(math.log(value) * _PER_LOG * 4) if value > _LOWEST else _BEFORE_ALL


@functools.cache
def _prior_hazards(prior: Prior) -> Sequence[float]:
    # Every session begins with the same ones, and they take milliseconds.
    return tuple(_prior_hazard(prior, index) for index in range(_BUCKETS))


def _prior_hazard(prior: Prior, index: int) -> float:
    low, high = _EDGES[index], _EDGES[index + 1]
    alive = 1 - _prior_share(prior, low)
    dying = _prior_share(prior, high) - _prior_share(prior, low)
    # Far out in the tail the hazard falls with age: a task that is late tends to stay late.
    least = 0.5 / high if low >= prior.peak else 0.0
    return max(dying / alive / (high - low) if alive > 1e-9 else 0.0, least)


def _prior_share(prior: Prior, age: float) -> float:
    at_peak = 0.5 * math.erfc(-math.log(age / prior.peak) / prior.sigma / math.sqrt(2))
    anywhere = min(1.0, max(0.0, math.log(age / _FIRST) / math.log(_LAST / _FIRST)))
    return prior.trust * at_peak + (1 - prior.trust) * anywhere


def _time_to(waiting: float, missed: float, growth: float) -> float:
    # Solves missed * t + growth * t^2 / 2 = waiting.
    if growth <= 0:
        return waiting / missed if missed > 0 else math.inf
    return (math.sqrt(missed * missed + 2 * growth * waiting) - missed) / growth


class Outlook:
    """What a session knows of how long tasks live, and when to read one accordingly."""

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        self.by_estimate = Lives(BY_ESTIMATE)
        self.by_progress = Lives(BY_PROGRESS)
        self.by_nothing = Lives(BY_NOTHING)

    def lives(self, estimate: float | None) -> Lives:
        """The lives of tasks with or without an estimate."""
        return self.by_estimate if estimate else self.by_nothing

    def pause(
        self, age: float, estimate: float | None, predicted: float | None, company: int = 50
    ) -> float:
        """Seconds until a task is worth its next read.

        `age` is the task's age in seconds at the last read. `estimate` is the service's guess of
        its life, `predicted` what its progress speaks for; both in seconds or None. `company` is
        how many tasks share a request (1 to 50).
        """
        polling = self._polling
        lives, unit = self.lives(estimate), estimate or USUAL_LIFE
        if predicted and self.by_progress.dispersion <= lives.dispersion:
            lives, unit = self.by_progress, predicted
        lives.refresh()
        plan = (rounded(age / unit), rounded(unit), company)
        gap = lives.plans.get(plan)
        if gap is None:
            gap = lives.gap(
                age / unit, self._price(lives, unit, company) / unit, polling.max_interval / unit
            )
            if len(lives.plans) < _MOST_PLANS:
                lives.plans[plan] = gap
        return min(polling.max_interval, max(polling.min_interval, gap * unit))

    def _price(self, lives: Lives, unit: float, company: int) -> float:
        usual, typical = (
            _PRICE / min(_LONGEST_PRICED, lives.middle() * unit),
            2 * lives.typical() / unit,
        )
        shared = max(0.6 * usual, min(usual, 1.15 * typical))
        # A read that has a request for itself may cost as much as the target allows.
        alone = max(shared, typical)
        price = self._polling.target_delay**2 * (shared + (alone - shared) / company)
        # Of lives that are short beside the target, none may wait for longer than it.
        return min(self._polling.target_delay, price)

    def survived(
        self,
        since: float,
        until: float,
        estimate: float | None,
        predicted: float | None,
        times: int = 1,
    ) -> None:
        """Learn that a task lived between two ages (seconds), and speaks for so many."""
        unit = estimate or USUAL_LIFE
        self.lives(estimate).survived(since / unit, until / unit, times)
        if predicted:
            self.by_progress.survived(since / predicted, until / predicted, times)

    def ended(
        self, since: float, at: float, estimate: float | None, predicted: float | None
    ) -> None:
        """Learn that a task that was alive at one age ended at another (seconds)."""
        self.survived(since, at, estimate, predicted)
        self.lives(estimate).ended(at / (estimate or USUAL_LIFE))
        if predicted:
            self.by_progress.ended(at / predicted)


def life_by_estimate(estimate: float, age: float) -> float:
    """Return the life in seconds that the service's estimate speaks for, at an age in seconds.

    The reference shows it as the whole life, the vendor's client takes it for the time left. For a
    task that is much older than the estimate only the second can be meant.
    """
    return estimate if age <= 1.5 * estimate else age + estimate


def growing_pause(polling: Polling, count: int) -> float:
    """Return the seconds before a task is asked for again whose answer cannot be the last word. For
    the count-th time in a row: half as long again each time, up to `max_interval`.
    """
    return min(polling.max_interval, polling.min_interval * 1.5 ** min(max(0, count - 1), 64))


def predicted_life(age: float, progress: float) -> float | None:
    """The life in seconds that a task's progress (0 to 100) at an age speaks for; None when it says
    nothing.
    """
    if age <= 0 or not LEAST_PROGRESS <= progress <= 100:
        return None
    # No bar is exact to three percent, and tasks that are alike to that can be treated together.
    return math.exp2(round(math.log2(age * 100 / progress) * 24) / 24)


# --- What time it is at the service, as far as new tasks tell. Knows no clock: times are passed in.
# `now` counts steadily from some moment (the event loop's clock), `wall` in Unix seconds. The wall
# clock can be set at any time, so it counts only until a task has told more.


SKEW_WINDOW = 900.0
"""Seconds for which an observation counts."""
SKEW_KEPT = 16
"""Observations that are kept."""
SKEW_JUMP = 60.0
"""Seconds by which one task alone cannot move the service's time forward: it may be a mistake."""


class Skew:
    """How far the service's clock is ahead of the steady one."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=SKEW_KEPT)
        self._doubted: float | None = None

    def note(self, created: object, wall: float, now: float) -> None:
        """Learn from a task that was created before now, by the service's clock: the newest one
        tells best.
        """
        if not is_moment(created):
            return
        ahead = created - now
        if self._recent and self._recent[-1][0] > now - 1 and ahead <= self._recent[-1][1]:
            # Moments come in whole seconds: a second sample of the same second tells less.
            self._doubted = None
            return
        agreed = self._doubted is not None and abs(ahead - self._doubted) <= SKEW_JUMP
        if created > self.at_service(wall, now) + SKEW_JUMP and not agreed:
            self._doubted = ahead
            return
        self._doubted = None
        self._recent.append((now, ahead))

    def at_service(self, wall: float, now: float) -> float:
        """Return the time at the service, in Unix seconds."""
        recent = self._recent
        while recent and recent[0][0] < now - SKEW_WINDOW:
            recent.popleft()
        return now + max(ahead for _, ahead in recent) if recent else wall
