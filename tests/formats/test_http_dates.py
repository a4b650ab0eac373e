"""Dates of headers: all in UTC, whatever this machine's zone is, and never an error."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._formats.http_dates import date_of, http_date

MOMENT = 784111777.0


@pytest.mark.parametrize(
    "told",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 10:49:37 +0200",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process can be set on Unix")
def test_a_date_is_in_utc(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A date without a zone was this machine's time: a link seemed to be dead hours too early."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert date_of({"Date": told}) == MOMENT
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text() | st.text(alphabet="SunNov0123456789,:+-. GMT"))
def test_what_is_no_date_is_none(told: str) -> None:
    """Nothing that a host says is an error."""
    read = http_date(told)
    assert read is None or read.tzinfo is not None
    assert (date_of({"Date": told}) is None) is (read is None)
    assert http_date(None) is None is date_of({})
