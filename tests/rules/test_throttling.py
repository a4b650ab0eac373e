"""How the pace of submissions is learned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._rules.throttling import DOUBLING, Pace


def test_it_is_halved_by_news_and_grows_by_one_a_round() -> None:
    """A 429 halves the submissions at once; as many acceptances as are allowed at once add one."""
    pace = Pace(ceiling=16)
    assert pace.refused(0.0, 0, 1.0)
    assert pace.limit == 8
    for _ in range(9):
        pace.accepted(1.0)
    assert 9 <= pace.limit < 9.1


def test_one_storm_halves_once() -> None:
    """Many 429 answers to submissions that left before the first of them was known are one piece of
    news.
    """
    pace = Pace(ceiling=100)
    assert [pace.refused(0.0, 0, 1.0) for _ in range(50)] == [True] + [False] * 49
    assert (pace.limit, pace.epoch) == (50, 1)


@given(
    ceiling=st.integers(1, 200),
    moves=st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.integers(0, 2)), max_size=100),
)
def test_it_stays_between_one_and_the_ceiling(
    ceiling: int, moves: list[tuple[bool, float, int]]
) -> None:
    """Whatever is answered, the limit is at least 1 and at most the ceiling, and the interval
    finite and not negative.
    """
    pace, now = Pace(ceiling=ceiling), 1000.0
    for accepted, seconds, behind in moves:
        now += seconds
        if accepted:
            pace.accepted(now)
        else:
            pace.refused(now, max(0, pace.epoch - behind), seconds)
        assert 1 <= pace.limit <= ceiling
        assert 0 <= pace.interval(now) < float("inf")


def test_the_rate_is_what_was_accepted_since_the_last_measurement() -> None:
    """100 acceptances within two seconds, then a 429: submissions are spread at 50 a second, from
    the end of the pause on.
    """
    pace = Pace(ceiling=10)
    for number in range(100):
        pace.accepted(number * 0.02)
    assert pace.interval(2.0) == 0
    pace.refused(2.0, 0, 1.0)
    assert pace.interval(3.0) == pytest.approx(1 / 50)
    assert pace.interval(3.0 + DOUBLING) == pytest.approx(1 / 100)


def test_a_burst_is_not_measured() -> None:
    """What was accepted within a moment says nothing of a limit: the pause and the halving are all
    that follows.
    """
    pace = Pace(ceiling=10)
    for _ in range(3):
        pace.accepted(0.0)
    pace.refused(0.1, 0, 0.0)
    assert pace.interval(0.2) == 0


def test_idle_time_is_not_measured() -> None:
    """An hour without submissions does not look like a limit of a few an hour."""
    pace = Pace(ceiling=10)
    pace.accepted(0.0)
    for number in range(200):
        pace.accepted(3600 + number * 0.01)
    pace.refused(3602.0, 0, 0.0)
    assert pace.interval(3602.0) == pytest.approx(1 / 100)


def test_without_refusals_it_becomes_free_again() -> None:
    """After long enough without a 429, neither a rate nor a limit below the ceiling is left."""
    pace = Pace(ceiling=4)
    for number in range(20):
        pace.accepted(number * 0.1)
    pace.refused(2.0, 0, 0.0)
    assert not pace.free
    for number in range(200):
        pace.accepted(2.0 + number)
    assert pace.interval(2.0 + 10 * DOUBLING) == 0
    assert pace.free


def test_refusals_alone_slow_down_further() -> None:
    """While nothing is accepted, each further measurement halves the rate that is known."""
    pace = Pace(ceiling=4)
    for number in range(20):
        pace.accepted(number * 0.1)
    pace.refused(2.0, 0, 0.0)
    before = pace.interval(4.0)
    pace.refused(4.0, 1, 0.0)
    assert pace.interval(4.0) == pytest.approx(before * 2, rel=0.2)
    assert pace.refusals == 2
