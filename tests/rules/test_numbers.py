"""The service's numbers: what can be true is read exactly, what cannot counts as not said."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._rules import numbers

ODD = [
    -1,
    -0.5,
    10**400,
    -(10**400),
    1e305,
    5e-324,
    math.nan,
    math.inf,
    -math.inf,
    "NaN",
    "Infinity",
    "-5",
    "1e999",
    "9" * 400,
    "0." + "0" * 60 + "1",
    "many",
    "",
    True,
    [],
    {},
]
ANY = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.decimals().map(str)
    | st.sampled_from(ODD)
    | st.lists(st.integers(), max_size=2)
)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: numbers.shown(odd)[:20])
def test_an_amount_that_cannot_be_counts_as_not_said(odd: Any) -> None:
    """Below zero, not finite, too large, too small to be counted, or no number at all."""
    assert numbers.amount(odd) is None


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (0, "0"),
        (-0.0, "0"),
        (38.08, "38.08"),
        ("38.08", "38.08"),
        (607500, "607500"),
        (0.0001, "0.0001"),
        ("22.8480000000", "22.848"),
        ("1E+3", "1000"),
        (1e9, "1000000000"),
    ],
)
def test_an_amount_is_read_exactly(said: Any, read: str) -> None:
    """A number and a text say the same, to the last digit that the service counts."""
    assert numbers.amount(said) == Decimal(read)


@pytest.mark.parametrize(
    ("said", "read", "odd"),
    [
        ("42%", 42, False),
        (" 7 % ", 7, False),
        ("100", 100, False),
        ("900%", 100, True),
        ("%", 0, True),
        ("half", 0, True),
    ],
)
def test_a_progress_may_be_text(said: str, read: int, odd: bool) -> None:
    """Gateways write it so, and a task whose word for the end is newer ends by it."""
    assert numbers.progress(said) == read
    assert bool(numbers.odd_numbers({"progress": said})) is odd


@given(ANY)
def test_no_value_breaks_a_reader(value: Any) -> None:
    """Each reader gives a number within its bounds, or none; and every value can be shown."""
    amount, seconds = numbers.amount(value), numbers.seconds(value)
    assert amount is None or 0 <= amount <= numbers.MOST_CREDITS
    assert amount is None or amount == 0 or amount >= numbers.LEAST_CREDITS
    assert seconds is None or 0 <= seconds <= numbers.LONGEST
    assert 0 <= numbers.progress(value) <= 100
    assert 0 <= numbers.count(value) < 2**63
    balance, moment = numbers.balance(value), numbers.moment(value)
    assert balance is None or 0 <= balance <= numbers.MOST_CREDITS
    assert moment is None or moment.tzinfo is not None
    assert len(numbers.shown(value)) < 100


@given(st.decimals(min_value=0, max_value=10**6, places=4))
def test_what_the_service_counts_in_comes_through(amount: Decimal) -> None:
    """Any number of its smallest unit is read as it is, as text and as a number."""
    assert numbers.amount(str(amount)) == amount
    assert numbers.amount(float(amount)) == amount


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05+00:00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05", None),
        ("2026-01-02T03:04:05+08:00", None),
        ("2026-01-02T03:04:05-00:00", None),
        ("yesterday, Z", None),
        (1761313744, None),
        (None, None),
    ],
)
def test_a_time_in_utc_says_that_it_is_one(said: Any, read: datetime | None) -> None:
    """What proves a refund must not be a guess about the zone of a time."""
    assert numbers.utc_moment(said) == read


@pytest.mark.parametrize("odd", [0, -1, 1.8e12, 10**400, math.nan, "0001-01-01", "9" * 20, True])
def test_a_time_that_cannot_be_is_none(odd: Any) -> None:
    """The beginning of all counting, milliseconds, and texts that are no time."""
    assert numbers.moment(odd) is None


@given(st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,8})?", fullmatch=True) | st.text(max_size=12))
def test_an_amount_in_text_is_odd_when_it_cannot_be_read(text: str) -> None:
    """Usual texts are told by their look, and reading them would have said the same."""
    odd = numbers.odd_numbers({"usage": {"credits_used": text}})
    assert bool(odd) == (numbers.amount(text) is None)


def test_odd_numbers_are_named_with_their_place() -> None:
    """Each number of a task that was not believed, wherever it stands; the others not."""
    value = {
        "progress": 101,
        "created": -5,
        "duration": "long",
        "task_info": {"estimated_time": 5e-324},
        "usage": {
            "credits_reserved": 10**400,
            "credits_used": -5,
            "cost": {"credits": math.nan, "usd": "x" * 400},
        },
        "billing": {"charged_credits": 1e305, "refunded_credits": 0, "reserved_credits": []},
    }
    assert [text.split("=")[0] for text in numbers.odd_numbers(value)] == [
        "progress",
        "created",
        "duration",
        "task_info.estimated_time",
        "usage.credits_reserved",
        "usage.credits_used",
        "usage.cost.credits",
        "usage.cost.usd",
        "billing.reserved_credits",
        "billing.charged_credits",
    ]
    assert "usage.credits_used=-5" in numbers.odd_numbers(value)
    assert max(map(len, numbers.odd_numbers(value))) < 80


@pytest.mark.parametrize("value", [{}, {"usage": None, "billing": 5, "task_info": "soon"}])
def test_what_is_left_out_is_not_odd(value: dict[str, Any]) -> None:
    """A number that the service does not tell is no wrong one."""
    assert numbers.odd_numbers(value) == []
