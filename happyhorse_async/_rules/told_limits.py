"""What an answer's headers say of a limit, by the IETF's drafts on RateLimit header fields and by
GitHub's API.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple


class Told(NamedTuple):
    """What the headers of an answer say of the limit."""

    remaining: float
    """Requests that may still come in this window."""
    reset: float
    """Seconds until the next window."""
    rate: float | None
    """Requests a second, when the length of the window is told too."""


# Text, compiled with the first answer that tells a limit.
_NUMBER = r"\s*(\d{1,15}(?:\.\d{1,9})?)"
_WINDOW = r";\s*w=(\d{1,9}(?:\.\d{1,9})?)"
_FAMILIES = "ratelimit-", "x-ratelimit-"
_EPOCH = 1e9
"""A reset that is larger is a moment in Unix seconds and no duration."""
_LEAST_RESET = 10.0
"""Resets come in whole seconds: from so many on they tell a rate."""


def tells(headers: Mapping[str, str]) -> bool:
    """Return whether an answer may tell of a limit: then `told_by` is worth its time."""
    return "ratelimit-remaining" in headers or "x-ratelimit-remaining" in headers


def told_by(headers: Mapping[str, str], date: datetime | None = None) -> Told | None:
    """Read `RateLimit-*` or `X-RateLimit-*` headers; None when there are none that make sense.

    `date` is the service's time of the answer, for a reset that is a moment. The names and forms
    are those of the IETF's drafts on RateLimit header fields, and of GitHub's API.
    """
    for family in _FAMILIES:
        said = headers.get(family + "remaining")
        if said is not None:
            return _read(said, family, headers, date)
    return None


def _read(said: str, family: str, headers: Mapping[str, str], date: datetime | None) -> Told | None:
    remaining, reset = re.match(_NUMBER, said), re.match(_NUMBER, headers.get(family + "reset", ""))
    if remaining is None or reset is None:
        return None
    seconds = float(reset[1])
    if seconds > _EPOCH:
        if date is None:
            return None
        seconds = max(0.0, seconds - date.timestamp())
    limit = headers.get(family + "limit", "")
    most = re.match(_NUMBER, limit)
    window = re.search(_WINDOW, limit) or re.search(_WINDOW, headers.get(family + "policy", ""))
    rate = None
    if most is not None and window is not None and float(window[1]) > 0:
        rate = float(most[1]) / float(window[1])
    elif seconds >= _LEAST_RESET:
        rate = float(remaining[1]) / seconds
    return Told(float(remaining[1]), seconds, rate or None)
