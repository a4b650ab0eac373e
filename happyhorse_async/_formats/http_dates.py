"""Dates as HTTP writes them. Pure functions over text, standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def http_date(text: str | None) -> datetime | None:
    """Read a date of a header; None when there is none, or when it cannot be read.

    All of them are in UTC (RFC 9110, section 5.6.7), also where no zone stands.
    """
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def date_of(headers: Mapping[str, str]) -> float | None:
    """Read the host's own time, in Unix seconds; None when it does not say it."""
    told = http_date(headers.get("Date"))
    return told.timestamp() if told is not None else None
