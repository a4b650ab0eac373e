"""How long a result link is asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import RetryPolicy
from happyhorse_async._rules.fetching import (
    MEANINGFUL_BYTES,
    Persistence,
    Setback,
    SpeedFloor,
    urgency,
)

POLICY = RetryPolicy(attempts=4, first_pause=1.0, longest_pause=30.0, jitter=0.0)
TIMED = [Setback.LINK, Setback.MACHINE]


def pauses(persistence: Persistence, setback: Setback, *, start: float = 0.0) -> list[float]:
    """Live through the same setback again and again; list the pauses until it is given up."""
    now, found = start, []
    while (pause := persistence.pause(setback, now=now, random=0.0)) is not None:
        found.append(pause)
        now += pause
    return found


def test_a_host_is_tried_as_often_as_the_policy_says() -> None:
    """Its pauses double."""
    assert pauses(Persistence(POLICY, 900.0), Setback.HOST) == [1, 2, 4]


@pytest.mark.parametrize("setback", TIMED)
def test_a_link_is_asked_for_until_patience_ends(setback: Setback) -> None:
    """The pauses grow up to the longest, and the last attempt is made at the very end."""
    found = pauses(Persistence(POLICY, 900.0), setback)
    assert found[:6] == [1, 2, 4, 8, 16, 30]
    assert sum(found) == 900.0


@pytest.mark.parametrize(("until", "waited"), [(50.0, 50.0), (5000.0, 900.0), (0.0, 0.0)])
def test_the_callers_own_time_ends_it_sooner(until: float, waited: float) -> None:
    """A wait of a minute is not made a quarter of an hour."""
    assert sum(pauses(Persistence(POLICY, 900.0, until), Setback.LINK)) == waited


@given(
    bytes_each=st.integers(MEANINGFUL_BYTES, 10**7),
    setbacks=st.lists(st.sampled_from(Setback), min_size=1, max_size=40),
)
def test_whenever_bytes_arrived_the_next_attempt_is_free(
    bytes_each: int, setbacks: list[Setback]
) -> None:
    """It comes at once, and neither the count nor the clock of earlier ones weighs on it."""
    persistence = Persistence(POLICY, 900.0)
    for number, setback in enumerate(setbacks, 1):
        persistence.received(number * bytes_each, None)
        assert persistence.pause(setback, now=number * 1000.0, random=0.5) == 0.0
        assert persistence.attempt == 1


@given(setback=st.sampled_from(Setback), wish=st.floats(0, 10**6), until=st.floats(0, 10**4))
def test_no_wish_of_a_host_outlasts_the_callers_time(
    setback: Setback, wish: float, until: float
) -> None:
    """A Retry-After of a day does not put a download to sleep whose caller waits for seconds."""
    pause = Persistence(POLICY, 900.0, until).pause(setback, now=0.0, random=0.0, wish=wish)
    assert pause is None or pause <= max(POLICY.first_pause, until)


def test_a_small_file_moves_in_small_steps() -> None:
    """A hundredth of a file is progress too, however little that is; a crumb is none."""
    small, huge = Persistence(POLICY, 900.0), Persistence(POLICY, 900.0)
    small.received(3_000, 300_000)
    huge.received(3_000, 300_000_000)
    assert small.pause(Setback.HOST, now=0.0, random=0.0) == 0.0
    assert small.pause(Setback.LINK, now=0.0, random=0.0) == 0.0
    assert small.pause(Setback.LINK, now=0.0, random=0.0) == 4.0
    assert huge.pause(Setback.HOST, now=0.0, random=0.0) == 1.0
    assert huge.pause(Setback.HOST, now=0.0, random=0.0) == 2.0


@given(wish=st.floats(0, 1e12), setback=st.sampled_from(Setback))
def test_what_the_host_asks_for_is_bounded(wish: float, setback: Setback) -> None:
    """Its Retry-After is obeyed, for five minutes at most: the link dies meanwhile."""
    pause = Persistence(POLICY, 900.0).pause(setback, now=0.0, random=0.0, wish=wish)
    assert pause == min(max(wish, 1.0), 300.0)


def test_one_try_is_one_try() -> None:
    """A policy of one attempt is not stretched by bytes that came."""
    persistence = Persistence(RetryPolicy(attempts=1), 900.0)
    persistence.received(10**6, 10**7)
    assert persistence.pause(Setback.HOST, now=0.0, random=0.0) is None


def test_earlier_ends_are_more_urgent() -> None:
    """Whatever their time zone; links without an end come last."""
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    same = datetime(2026, 11, 22, 14, tzinfo=timezone(timedelta(hours=2)))
    assert urgency(noon) == urgency(same) == urgency(noon.replace(tzinfo=None))
    assert urgency(noon) < urgency(noon + timedelta(seconds=1)) < urgency(None)


def test_the_pace_is_an_average_over_windows() -> None:
    """A pause inside a window is made up for by what comes in it; a window with too little is too
    slow; a rate of 0 asks for nothing.
    """
    pace = SpeedFloor(window=10, least=100, now=0)
    assert not pace.too_slow(1, 5)
    assert not pace.too_slow(999, 10)
    assert not pace.too_slow(500, 15)
    assert pace.too_slow(499, 20)
    assert not SpeedFloor(window=10, least=0, now=0).too_slow(0, 100)
