"""When a task is worth asking about: arithmetic only, so nothing here waits."""

from __future__ import annotations

import math
import random

import pytest

from happyhorse_async._config import Polling
from happyhorse_async._rules import pacing

POLLING = Polling()


def taught(lives: list[float], estimate: float | None = None) -> pacing.Outlook:
    """Make an outlook that has seen tasks live so long."""
    outlook = pacing.Outlook(POLLING)
    for life in lives:
        outlook.ended(0.0, life, estimate, None)
    return outlook


def lognormal(median: float, sigma: float, count: int = 400) -> list[float]:
    """Draw lives, the same ones each time."""
    chance = random.Random(5)
    return [median * math.exp(chance.gauss(0, sigma)) for _ in range(count)]


@pytest.mark.parametrize("age", [0.0, 0.001, 1.0, 60.0, 3600.0, 10.0**7])
@pytest.mark.parametrize("estimate", [None, 0.5, 120.0, 2400.0, 10.0**7])
@pytest.mark.parametrize("predicted", [None, 0.001, 100.0, 10.0**7])
def test_every_pause_keeps_the_policys_bounds(
    age: float, estimate: float | None, predicted: float | None
) -> None:
    """Whatever the service says about a task, it is never read more often or more seldom than the
    policy allows.
    """
    for company in (1, 50):
        pause = pacing.Outlook(POLLING).pause(age, estimate, predicted, company)
        assert POLLING.min_interval <= pause <= POLLING.max_interval


def test_the_first_read_never_waits_longer_than_the_longest_interval() -> None:
    """An estimate of 40 minutes does not make a task that ends in one wait unseen for 40."""
    assert pacing.Outlook(Polling(max_interval=30.0)).pause(0.0, 2400.0, None) <= 30.0


def test_a_tiny_target_reads_early_whatever_the_estimate() -> None:
    """Who asks for a delay of milliseconds gets reads at once, even of a task that is announced to
    take minutes.
    """
    eager = Polling(target_delay=0.01, min_interval=0.01, max_interval=60.0)
    assert pacing.Outlook(eager).pause(20.0, 2400.0, None, 1) < 1.0


def test_tasks_are_left_alone_until_they_can_have_ended() -> None:
    """When all tasks of the session lived 100 to 140 seconds, a young one is read later than one of
    that age.
    """
    outlook = taught([100.0 + index % 40 for index in range(400)])
    assert outlook.pause(20.0, None, None) > 4 * outlook.pause(115.0, None, None)


def test_a_learned_ratio_corrects_the_estimate() -> None:
    """Tasks announced with 2,400 seconds that live 120 are read around 120, and so is one announced
    with 1,200 around 60.
    """
    outlook = taught(lognormal(120.0, 0.1), estimate=2400.0)
    assert outlook.pause(115.0, 2400.0, None) < outlook.pause(40.0, 2400.0, None) / 2
    assert outlook.pause(57.0, 1200.0, None) < outlook.pause(20.0, 1200.0, None) / 2


def test_progress_is_believed_more_the_better_it_has_predicted() -> None:
    """A task at 10 % is read later than one at 97 % of the same age."""
    outlook = pacing.Outlook(POLLING)
    early, late = pacing.predicted_life(60.0, 10), pacing.predicted_life(60.0, 97)
    assert outlook.pause(60.0, 2400.0, early) > outlook.pause(60.0, 2400.0, late)


def test_progress_that_has_misled_is_no_longer_believed() -> None:
    """When the bar says nothing about the end, the ages of the tasks decide."""
    outlook = pacing.Outlook(POLLING)
    for index, life in enumerate(lognormal(120.0, 0.1)):
        outlook.ended(0.0, life, None, life * 10.0 ** (index % 5 - 2))
    assert outlook.pause(50.0, None, 51.0) == outlook.pause(50.0, None, None)


def test_a_straggler_is_read_less_and_less() -> None:
    """The longer a task outlives all others, the longer the pauses: it stays late."""
    outlook = taught(lognormal(120.0, 0.2))
    pauses, age = [], 300.0
    for _ in range(60):
        pause = outlook.pause(age, None, None)
        outlook.survived(age, age + pause, None, None)
        pauses.append(pause)
        age += pause
    assert sum(pauses[-10:]) > sum(pauses[:10])


def test_a_lone_read_is_dearer_than_one_in_company() -> None:
    """A task that has a request for itself is read no more often than one that shares it with 49
    others.
    """
    outlook = taught(lognormal(120.0, 0.1))
    assert outlook.pause(115.0, None, None, 1) >= outlook.pause(115.0, None, None, 50)


def test_survivors_lower_the_hazard_and_ends_raise_it() -> None:
    """The same age is read sooner after tasks were seen to end there, later after they were seen to
    pass it.
    """
    before = pacing.Outlook(POLLING).pause(100.0, None, None)
    passed = pacing.Outlook(POLLING)
    for _ in range(100):
        passed.survived(90.0, 130.0, None, None)
    ended = taught([104.0] * 50)
    assert ended.pause(100.0, None, None) < before < passed.pause(100.0, None, None)


def test_the_gap_grows_with_the_price() -> None:
    """Expected undetected waiting only grows with time, so a higher price is reached later."""
    lives = pacing.Lives(pacing.BY_NOTHING)
    gaps = [lives.gap(0.5, price, 10.0) for price in (0.0001, 0.001, 0.01, 0.1, 1.0)]
    assert gaps == sorted(gaps)
    assert len(set(gaps)) == len(gaps)


@pytest.mark.parametrize("progress", [0, 2, 101, -5])
def test_progress_that_says_nothing_predicts_nothing(progress: int) -> None:
    """A bar at its very beginning, or outside of 0 to 100, is no prediction."""
    assert pacing.predicted_life(60.0, progress) is None


def test_a_life_of_zero_and_a_life_without_end_are_learned_without_harm() -> None:
    """Broken clocks make absurd ages; they neither raise nor make a pause leave its bounds."""
    outlook = taught([0.0, 10.0**9, 120.0])
    outlook.survived(0.0, 10.0**9, None, None)
    assert POLLING.min_interval <= outlook.pause(60.0, None, None) <= POLLING.max_interval


@pytest.mark.parametrize(
    ("estimate", "age", "life"), [(120.0, 0.0, 120.0), (120.0, 150.0, 120.0), (30.0, 400.0, 430.0)]
)
def test_an_estimate_is_the_whole_life_or_the_time_left(
    estimate: float, age: float, life: float
) -> None:
    """A task that is much older than its estimate has that much left; else it is its life."""
    assert pacing.life_by_estimate(estimate, age) == life


# --- the service's clock --------------------------------------------------------------------------

WALL = 1_790_000_000.0


def test_the_services_time_is_our_own_until_a_task_tells_more() -> None:
    """Then it is what the newest task says, whatever our wall clock is set to meanwhile."""
    skew = pacing.Skew()
    assert skew.at_service(WALL, 100.0) == WALL
    skew.note(WALL - 5, WALL, 100.0)
    for wall in (WALL, WALL + 30 * 3600, WALL - 400 * 86400):
        assert skew.at_service(wall, 160.0) == WALL + 55


def test_an_old_task_does_not_set_the_services_time_back() -> None:
    """It was created long before now: the newest task tells best."""
    skew = pacing.Skew()
    skew.note(WALL, WALL, 0.0)
    skew.note(WALL - 86400, WALL, 1.0)
    assert skew.at_service(WALL, 1.0) == WALL + 1


def test_one_wrong_moment_is_not_believed() -> None:
    """A task from tomorrow is a mistake; two that agree say that our own clock is wrong."""
    skew = pacing.Skew()
    skew.note(WALL + 86400, WALL, 0.0)
    assert skew.at_service(WALL, 0.0) == WALL
    skew.note(WALL + 86410, WALL + 10, 10.0)
    assert skew.at_service(WALL, 20.0) == WALL + 86420


def test_what_was_observed_is_forgotten() -> None:
    """Each observation counts for a quarter of an hour, so that no mistake lasts."""
    skew = pacing.Skew()
    for at in (0.0, 1.0):
        skew.note(WALL + 86400 + at, WALL + at, at)
    later = 2.0 + pacing.SKEW_WINDOW
    assert skew.at_service(WALL + later, later) == WALL + later


@pytest.mark.parametrize("odd", [None, True, -1, 0, 10**400, 1.8e12, "2026", math.nan, math.inf])
def test_what_is_no_moment_teaches_nothing(odd: object) -> None:
    """Values that no clock can show are left out."""
    skew = pacing.Skew()
    skew.note(odd, WALL, 0.0)
    assert skew.at_service(WALL, 0.0) == WALL
