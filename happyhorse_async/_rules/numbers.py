"""The service's numbers: which of them can be true, and what counts for the others.

No number is believed that nobody could have meant: below zero, not finite, beyond all bounds. Such
a one counts as not said. So it can neither raise, nor free a budget, nor break a ledger. Pure
functions over JSON values; none of them raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, NamedTuple, TypeGuard

from .._formats.texts import printable

MOST_CREDITS = Decimal(10**9)
"""Credits, and dollars, beyond which a number is a mistake."""
LEAST_CREDITS = Decimal("0.0001")
"""The service counts in ten-thousandths of a credit (its "uc"); a smaller amount above zero is
none."""
LONGEST = 10.0**7
"""Seconds: no task lives for four months."""
SHORTEST = 10.0**-6
"""Seconds; less than that is nothing that a service could measure."""
LATEST = 10**11
"""Times from here on are no Unix seconds: milliseconds, or nonsense."""
_LONGEST_NUMBER = 64
"""Characters of a number that is written as text."""


def amount(value: Any) -> Decimal | None:
    """Return an amount of credits or dollars, zero or more; None when it is none that can be.

    It comes as a number or as text, and is exact to a millionth.
    """
    found = _decimal(value)
    if found is None or found < 0 or 0 < found < LEAST_CREDITS:
        return None
    return _to_millionths(abs(found))


def balance(value: Any) -> Decimal | None:
    """Return what an account has: an overdrawn one has nothing; None when it is no number."""
    found = _decimal(value)
    return None if found is None else _to_millionths(max(Decimal(0), found))


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, int):
        return Decimal(value) if abs(value) <= MOST_CREDITS else None
    text = str(value)
    try:
        found = Decimal(text) if len(text) <= _LONGEST_NUMBER else None
    except InvalidOperation:
        return None
    return found if found is not None and found.is_finite() and abs(found) <= MOST_CREDITS else None


def _to_millionths(found: Decimal) -> Decimal:
    exponent = found.as_tuple().exponent
    exact = isinstance(exponent, int) and -6 <= exponent <= 0
    return found if exact else found.quantize(Decimal("0.000001"))


def seconds(value: Any) -> float | None:
    """Return a duration in seconds, zero or more; None when it is none that can be."""
    fits = _is_number(value) and (value == 0 or SHORTEST <= value <= LONGEST)
    return float(value) if fits else None


def progress(value: Any) -> int:
    """Return a progress as a whole number from 0 to 100: the nearest, 0 for what is no number."""
    if type(value) is int and 0 <= value <= 100:
        return value
    return int(min(100, max(0, value))) if _is_number(value) and value == value else 0


def count(value: Any) -> int:
    """Return a number of things or bytes, zero or more; 0 for what is no such number."""
    return value if type(value) is int and 0 <= value < 2**63 else 0


def is_moment(value: Any) -> TypeGuard[float]:
    """Return whether a JSON value can be a time in Unix seconds."""
    return _is_number(value) and 0 < value < LATEST


def moment(value: Any) -> datetime | None:
    """Return a time: Unix seconds, or ISO 8601 (UTC when it names no offset); None for others."""
    try:
        if is_moment(value):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            read = datetime.fromisoformat(value)
            read = read if read.tzinfo is not None else read.replace(tzinfo=UTC)
            return read if read.year > 1970 else None
    except (ValueError, OverflowError, OSError):
        pass
    return None


def utc_moment(value: Any) -> datetime | None:
    """Return a time that is written as one in UTC: ISO 8601 with Z or an offset of zero."""
    named = isinstance(value, str) and value.endswith(("Z", "+00:00"))
    return moment(value) if named else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- Which numbers of a task were not believed. ---------------------------------------------------


class _Bounds(NamedTuple):
    """What a number can be. Every task that ends is looked at. So plain numbers, nearly all, are
    told by a comparison, and only others are read.
    """

    least: float
    most: float
    read: Callable[[Any], object]
    """Reads what is no plain number; None: it cannot be."""


_PERCENT = _Bounds(0, 100, lambda value: value if _is_number(value) and 0 <= value <= 100 else None)
_MOMENT = _Bounds(1, LATEST - 1, moment)
_SECONDS = _Bounds(SHORTEST, LONGEST, seconds)
_AMOUNT = _Bounds(float(LEAST_CREDITS), float(MOST_CREDITS), amount)

_USUAL = re.compile(r"[1-9][0-9]{0,7}(?:\.[0-9]{1,6})?")
"""The text of an amount that can be: reading it would take ten times as long."""

_OWN = {"progress": _PERCENT, "created": _MOMENT, "duration": _SECONDS}
_INFO = {"estimated_time": _SECONDS}
_USAGE = {"credits_reserved": _AMOUNT, "credits_used": _AMOUNT}
_COST = {"credits": _AMOUNT, "usd": _AMOUNT}
_BILLING = {
    "reserved_credits": _AMOUNT,
    "charged_credits": _AMOUNT,
    "refunded_credits": _AMOUNT,
}


def odd_numbers(value: Mapping[str, Any]) -> list[str]:
    """Return the numbers of a task's JSON object that cannot be true, as "field=number"."""
    odd: list[str] = []
    _check(odd, value, "", _OWN)
    usage, billing, info = value.get("usage"), value.get("billing"), value.get("task_info")
    if type(info) is dict:
        _check(odd, info, "task_info.", _INFO)
    if type(usage) is dict:
        _check(odd, usage, "usage.", _USAGE)
        if type(usage.get("cost")) is dict:
            _check(odd, usage["cost"], "usage.cost.", _COST)
    if type(billing) is dict:
        _check(odd, billing, "billing.", _BILLING)
    return odd


def _check(odd: list[str], part: Mapping[str, Any], where: str, fields: dict[str, _Bounds]) -> None:
    for name, (least, most, read) in fields.items():
        number = part.get(name)
        if number is None:
            continue
        if type(number) is int or type(number) is float:
            plain = least <= number <= most
        else:  # amounts come as text
            plain = read is amount and type(number) is str and bool(_USUAL.fullmatch(number))
        if not plain and read(number) is None:
            odd.append(f"{where}{name}={shown(number)}")


def shown(value: Any) -> str:
    """Return a JSON value as a short text, whatever it is."""
    if isinstance(value, int) and abs(value) > 10**20:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, (int, float)):
        return repr(value)
    return repr(printable(value, most=40)) if isinstance(value, str) else type(value).__name__


# --- credits as the ledger keeps them -------------------------------------------------------------

MILLION = 1_000_000
"""The ledger keeps credits as whole millionths, so that sums are exact."""


def to_millionths(amount: Decimal) -> int:
    """Return credits as the ledger keeps them, rounded up: a budget must not be exceeded by a
    rounding.
    """
    return int((amount * MILLION).to_integral_value(ROUND_CEILING))


def to_credits(millionths: int) -> Decimal:
    """Return credits from what the ledger keeps."""
    return (Decimal(millionths) / MILLION).normalize() + 0
