"""Refusals over money, rights and capacity: their errors, their details, and what helps."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import (
    APIStatusError,
    AuthenticationError,
    HappyHorseError,
    InsufficientCreditsError,
    PermissionDeniedError,
    RefusalDetails,
)
from happyhorse_async._rules import refusals, retry
from happyhorse_async._rules.responses import Answer, decode_object, error_of


def at(*moment: int) -> datetime:
    """Return a moment of UTC: year, month, day, hour, minute, second."""
    return datetime(*moment, tzinfo=UTC)  # type: ignore[misc, arg-type]


NOW = at(2026, 10, 10, 12)
DATE = {"date": "Sat, 10 Oct 2026 12:00:00 GMT"}


def refusal(status: int, code: str, **more: Any) -> APIStatusError:
    """Make the error of an answer."""
    body = {"error": {"code": code, "message": "no", "type": "x", **more}}
    return error_of(Answer(status, DATE, json.dumps(body).encode()))


@pytest.mark.parametrize("status", [400, 402, 403, 429, 500])
@pytest.mark.parametrize(
    ("codes", "kind", "helps"),
    [
        (refusals.BALANCE_CODES, InsufficientCreditsError, "top up"),
        (refusals.KEY_LIMIT_CODES, InsufficientCreditsError, "raise the key's limit"),
        (refusals.DAILY_CODES, InsufficientCreditsError, "wait until"),
        (refusals.OFF_CODES, AuthenticationError, "enable or extend"),
        (refusals.MODEL_CODES, PermissionDeniedError, "another model"),
    ],
    ids=["balance", "key limit", "daily limit", "switched off", "model"],
)
def test_the_code_says_what_kind_of_refusal_it_is_and_what_helps(
    status: int, codes: frozenset[str], kind: type[APIStatusError], helps: str
) -> None:
    """Whatever the HTTP status is, an admission code gives its own error and its own advice, and
    proves that nothing was charged.
    """
    for code in codes:
        error = refusal(status, code)
        assert type(error) is kind
        assert helps in error.next_step
        assert retry.certainty_of(error) is retry.Certainty.REFUSED
        assert refusals.is_daily_limit(error) == (code in refusals.DAILY_CODES)


def test_a_lack_of_capacity_says_that_it_passes() -> None:
    """Its advice is to come back later, with the same key."""
    for code in refusals.CAPACITY_CODES:
        assert "later with the same key" in refusal(503, code).next_step


def test_everything_that_the_service_adds_is_there_typed() -> None:
    """Credits are exact decimals, times are times, and the advice names zone,
    models and address.
    """
    error = refusal(
        402,
        "token_daily_quota_exceeded",
        key_name="batch key",
        estimated_credits=38.08,
        account_balance_credits="120.5",
        total_limit_credits=1000,
        used_credits=0,
        remaining_credits=-2.5,
        daily_limit_credits=100,
        daily_used_credits=99.9,
        reset_timezone="Asia/Shanghai",
        allowed_models=["a", "b"],
        expired_at=1_791_633_600,
        limit_scope="key_daily",
        action_url="https://evolink.ai/keys",
    )
    assert error.details == RefusalDetails(
        as_of=NOW,
        key_name="batch key",
        estimated_credits=Decimal("38.08"),
        account_balance_credits=Decimal("120.5"),
        total_limit_credits=Decimal(1000),
        used_credits=Decimal(0),
        remaining_credits=Decimal("-2.5"),
        daily_limit_credits=Decimal(100),
        daily_used_credits=Decimal("99.9"),
        reset_timezone="Asia/Shanghai",
        allowed_models=("a", "b"),
        expired_at=NOW,
        limit_scope="key_daily",
        action_url="https://evolink.ai/keys",
    )
    assert error.details.resets_at == datetime(2026, 10, 10, 16, 0, tzinfo=UTC)
    assert error.action_url == "https://evolink.ai/keys"
    assert "2026-10-10 16:00 UTC" in error.next_step
    assert "https://evolink.ai/keys" in error.next_step
    assert pickle.loads(pickle.dumps(error)).details == error.details
    models = refusal(403, "key_model_not_allowed", allowed_models=["happyhorse-1.1"])
    assert "happyhorse-1.1" in models.next_step


@pytest.mark.parametrize(
    ("zone", "now", "resets"),
    [
        ("UTC", NOW, at(2026, 10, 11)),
        ("America/New_York", NOW, at(2026, 10, 11, 4)),
        ("America/New_York", at(2026, 11, 1, 12), at(2026, 11, 2, 5)),
        ("Asia/Shanghai", at(2026, 10, 10, 16), at(2026, 10, 11, 16)),
        ("Asia/Kolkata", at(2026, 10, 10, 18, 29, 59), at(2026, 10, 10, 18, 30)),
        ("Nowhere/At_All", NOW, None),
        ("../../etc/passwd", NOW, None),
        ("/etc/localtime", NOW, None),
        ("America", NOW, None),
        ("x" * 300, NOW, None),
        ("\x00", NOW, None),
        ("UTC", datetime.max.replace(tzinfo=UTC), None),
        (None, NOW, None),
    ],
)  # fmt: skip
def test_the_daily_limit_resets_at_the_next_midnight_of_its_zone(
    zone: str | None, now: datetime, resets: datetime | None
) -> None:
    """In UTC, also over a change of the clocks; a zone that this machine does not know says
    nothing, and nothing raises.
    """
    assert RefusalDetails(as_of=now, reset_timezone=zone).resets_at == resets


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), 1e305, "1e305", "NaN", "inf", 5e-324, "9" * 400, True, [], {}, None, ""],
)
def test_numbers_that_are_none_of_credits_count_as_not_said(value: Any) -> None:
    """What no sum of credits can be is left out, and never raises."""
    error = {"used_credits": value, "remaining_credits": 1}
    details = refusals.details_of(error, NOW)
    assert details is not None
    assert (details.used_credits, details.remaining_credits) == (None, Decimal(1))


@pytest.mark.parametrize(
    "url",
    [
        "http://evolink.ai",
        "javascript:alert(1)",
        "https://a b",
        "https://a\n",
        "https://é",
        7,
        "https://" + "a" * 3000,
    ],
)
def test_an_address_that_is_not_fit_to_be_shown_is_left_out(url: Any) -> None:
    """Only a plain https address is passed on: it comes from a remote answer."""
    assert refusals.details_of({"action_url": url}, NOW) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (
    *refusals._CREDITS,
    *("code", "type", "message", "param", "key_name", "reset_timezone", "allowed_models"),
    *("expired_at", "limit_scope", "action_url", "request_id"),
)


@given(
    status=st.integers(200, 599),
    error=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=8),
)
def test_no_error_of_the_service_makes_another_one(status: int, error: dict[str, Any]) -> None:
    """Any JSON as an error is an error of ours that shows itself, survives pickling, knows its next
    step, and computes its reset.
    """
    body = json.dumps({"error": error}).encode()
    with pytest.raises(HappyHorseError) as caught:
        decode_object(Answer(status, DATE, body))
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.next_step
    if isinstance(again, APIStatusError) and again.details is not None:
        assert again.details.resets_at is None or again.details.resets_at > NOW - timedelta(days=2)
