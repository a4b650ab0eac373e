"""When a task is worth asking about.

A task that has ended unseen costs its waiter time; a read costs the service work. So each task is read when its *expected undetected
waiting* (the integral of the probability that it has ended since the last read) reaches a price in seconds. The probability comes from
the hazard of ending, learned by age: ages are counted in units of the task's predicted life, so that what one task teaches serves
others whose estimate differs. No clock and no randomness here; may import the policies only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..config import Polling

USUAL_LIFE = 180.0
"""Seconds that a task is taken to live while neither the service nor this session knows better."""
LEAST_PROGRESS = 3
"""Progress below this says nothing yet about the end."""

_PER_OCTAVE = 6
_LOWEST = 2.0**-14
_OCTAVES = 20
_BUCKETS = _PER_OCTAVE * _OCTAVES
_EDGES = tuple(_LOWEST * 2 ** (index / _PER_OCTAVE) for index in range(_BUCKETS + 1))
_PER_LOG = _PER_OCTAVE / math.log(2)
_LOG_LOWEST = math.log(_LOWEST)

# How many tasks the assumption weighs before anything was seen.
_PRIOR_TASKS = 1.5
# The price of a read in seconds of waiting, for a target delay of one second. With it, batches of tasks whose end is well known are
# read less often *and* seen sooner than the target, and the target itself bounds the price for those that are not.
_PRICE = 0.0183


class Prior(NamedTuple):
    """What is assumed of lives, in units of the predicted life, until enough were seen."""

    peak: float
    """Where most tasks end."""
    sigma: float
    """The spread of the logarithm around the peak."""
    trust: float
    """The share of tasks that the peak speaks for; the rest may end anywhere between `_FIRST` and `_LAST`."""


_FIRST, _LAST = 0.02, 8.0

BY_ESTIMATE = Prior(0.95, 0.3, 0.7)
BY_PROGRESS = Prior(1.05, 0.15, 0.8)
BY_NOTHING = Prior(0.8, 0.8, 0.8)


class Lives:
    """The hazard of ending by age, as far as it was seen: deaths and time at risk in buckets of the age's logarithm."""

    def __init__(self, prior: Prior) -> None:
        assumed = [_prior_hazard(prior, index) for index in range(_BUCKETS)]
        weights = [_PRIOR_TASKS * (_EDGES[index + 1] - _EDGES[index]) for index in range(_BUCKETS)]
        self._deaths = [weight * hazard for weight, hazard in zip(weights, assumed, strict=True)]
        self._exposure = weights
        self._spread = prior.sigma**2 * _PRIOR_TASKS
        self._mean = math.log(prior.peak)
        self._weight = _PRIOR_TASKS
        self._typical = 0.0
        self._typical_until = 0.0
        self.seen = 0
        """How many ends were learned from."""

    def survived(self, since: float, until: float) -> None:
        """Learn that a task was alive between two ages."""
        exposure = self._exposure
        index = _bucket(since)
        while since < until and index < _BUCKETS:
            end = _EDGES[index + 1]
            exposure[index] += min(until, end) - since
            since = end
            index += 1

    def ended(self, at: float) -> None:
        """Learn that a task ended at an age."""
        index = _bucket(at)
        self._deaths[min(index, _BUCKETS - 1)] += 1
        self.seen += 1
        self._weight += 1
        off = math.log(max(at, _LOWEST)) - self._mean
        self._mean += off / self._weight
        self._spread += off * (math.log(max(at, _LOWEST)) - self._mean)

    @property
    def dispersion(self) -> float:
        """The standard deviation of the logarithm of the lives: how little this way of predicting knows."""
        return math.sqrt(self._spread / self._weight)

    def hazard(self, age: float) -> float:
        """The chance of ending per unit of age, at an age."""
        index = min(_bucket(age), _BUCKETS - 1)
        return self._deaths[index] / self._exposure[index]

    def typical(self) -> float:
        """The hazard that decides the mean delay: equal prices at this hazard give the delay that the lives give altogether."""
        if self.seen >= self._typical_until:
            self._typical = self._typical_now()
            self._typical_until = self.seen * 1.1 + 1
        return self._typical

    def _typical_now(self) -> float:
        alive, root = 1.0, 0.0
        for index in range(_BUCKETS):
            hazard = self._deaths[index] / self._exposure[index]
            dying = alive * -math.expm1(-hazard * (_EDGES[index + 1] - _EDGES[index]))
            alive -= dying
            root += dying / math.sqrt(hazard) if hazard > 0 else 0.0
        return (1 - alive) / root**2 if root else 1.0

    def gap(self, age: float, price: float, most: float) -> float:
        """How far beyond an age the expected undetected waiting reaches a price; at most `most`. All in units of the predicted life."""
        index, at, end = _bucket(age), age, age + most
        risk = waiting = 0.0
        while at < end and index < _BUCKETS:
            hazard = self._deaths[index] / self._exposure[index]
            step = min(_EDGES[index + 1], end) - at
            missed = -math.expm1(-risk) if risk else 0.0
            further = waiting + step * -math.expm1(-(risk + hazard * step / 2))
            if further >= price:
                return at - age + min(step, _time_to(price - waiting, missed, hazard * (1 - missed)))
            waiting, risk = further, risk + hazard * step
            at += step
            index += 1
        return most


def _bucket(age: float) -> int:
    return int((math.log(age) - _LOG_LOWEST) * _PER_LOG) if age > _LOWEST else 0


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
    """What a session has learned about how long tasks live, and what follows for when to read one."""

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        self.by_estimate = Lives(BY_ESTIMATE)
        self.by_progress = Lives(BY_PROGRESS)
        self.by_nothing = Lives(BY_NOTHING)

    def lives(self, estimate: float | None) -> Lives:
        """The lives of tasks with or without an estimate."""
        return self.by_estimate if estimate else self.by_nothing

    def pause(self, age: float, estimate: float | None, predicted: float | None, pressure: float = 1.0) -> float:
        """Seconds until a task is worth its next read.

        `age` is the task's age in seconds at the last read, `estimate` the service's guess of its life and `predicted` the life that its
        progress speaks for, both in seconds or None. `pressure` (1 and up) multiplies the price of a read, for when reads are short.
        """
        polling = self._polling
        lives, unit = self.lives(estimate), estimate or USUAL_LIFE
        if predicted and self.by_progress.dispersion <= lives.dispersion:
            lives, unit = self.by_progress, predicted
        price = polling.target_delay**2 * min(_PRICE, 2 * lives.typical() / unit) * pressure
        pause = lives.gap(age / unit, price / unit, polling.max_interval / unit) * unit
        return min(polling.max_interval, max(polling.min_interval, pause))

    def survived(self, since: float, until: float, estimate: float | None, predicted: float | None) -> None:
        """Learn that a task was alive between two ages (seconds)."""
        unit = estimate or USUAL_LIFE
        self.lives(estimate).survived(since / unit, until / unit)
        if predicted:
            self.by_progress.survived(since / predicted, until / predicted)

    def ended(self, since: float, at: float, estimate: float | None, predicted: float | None) -> None:
        """Learn that a task that was alive at one age ended at another (seconds)."""
        self.survived(since, at, estimate, predicted)
        self.lives(estimate).ended(at / (estimate or USUAL_LIFE))
        if predicted:
            self.by_progress.ended(at / predicted)


def predicted_life(age: float, progress: float) -> float | None:
    """The life in seconds that a task's progress (0 to 100) at an age speaks for; None when it says nothing."""
    return age * 100 / progress if age > 0 and LEAST_PROGRESS <= progress <= 100 else None
