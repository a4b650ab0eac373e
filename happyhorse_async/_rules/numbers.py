"""The service's numbers: which of them can be true, and what counts for the others.

No number is believed that nobody could have meant: below zero, not finite, beyond all bounds. Such
a one counts as not said. So it can neither raise, nor free a budget, nor break a ledger. Pure
functions over JSON values; none of them raises.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import (
    ROUND_CEILING,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from typing import Any, TypeGuard

from .._formats.texts import printable

EXACT = Context(prec=28, traps=[InvalidOperation, DivisionByZero, Overflow])
"""How amounts are calculated with, whatever the caller's program has set for its own decimals."""
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
    found = signed(value)
    return None if found is None or found < 0 else found.copy_abs()


def signed(value: Any) -> Decimal | None:
    """Return an amount as `amount` does, which may be below zero as well."""
    found = _decimal(value)
    if found is None or 0 < found.copy_abs() < LEAST_CREDITS:
        return None
    return _to_millionths(found)


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
    fits = found is not None and found.is_finite() and found.copy_abs() <= MOST_CREDITS
    return found if fits else None


def _to_millionths(found: Decimal) -> Decimal:
    exponent = found.as_tuple().exponent
    exact = isinstance(exponent, int) and -6 <= exponent <= 0
    return found if exact else found.quantize(Decimal("0.000001"), context=EXACT)


def seconds(value: Any) -> float | None:
    """Return a duration in seconds, zero or more; None when it is none that can be."""
    fits = _is_number(value) and (value == 0 or SHORTEST <= value <= LONGEST)
    return float(value) if fits else None


def progress(value: Any) -> int:
    """Return a progress as a whole number from 0 to 100: the nearest, 0 for what is no number.

    Gateways of this kind also write it as text: "100%".
    """
    if type(value) is int and 0 <= value <= 100:
        return value
    value = _read_percent(value)
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


# Every task that ends is looked at. So plain numbers, nearly all, are told by a comparison, and
# only others are read.
_Bounds = tuple[str, int, Callable[[Any], object]]
"""A field's name; from 1 to where its numbers are plain; what reads all others, None for unreadable
ones."""


def _read_percent(value: Any) -> Any:
    """Return the number that a text of a percentage means; what is none as it is."""
    short = type(value) is str and len(value) <= _LONGEST_NUMBER
    digits = value.strip().removesuffix("%").rstrip() if short else ""
    return int(digits) if digits.isascii() and digits.isdigit() else value


def _percent(value: Any) -> float | None:
    value = _read_percent(value)
    return value if _is_number(value) and 0 <= value <= 100 else None


@functools.lru_cache(maxsize=1024)
def _text_amount(text: str) -> Decimal | None:
    # An account sees few different ones, and to read one takes as long as all the rest.
    return amount(text)


def _amount(value: Any) -> Decimal | None:
    short = type(value) is str and len(value) <= _LONGEST_NUMBER
    return _text_amount(value) if short else amount(value)


def _amounts(*fields: str) -> tuple[_Bounds, ...]:
    return tuple((name, int(MOST_CREDITS), _amount) for name in fields)


_OWN: tuple[_Bounds, ...] = (
    ("progress", 100, _percent),
    ("created", LATEST - 1, moment),
    ("duration", int(LONGEST), seconds),
)
_INFO: tuple[_Bounds, ...] = (("estimated_time", int(LONGEST), seconds),)
_USAGE = _amounts("credits_reserved", "credits_used")
_COST = _amounts("credits", "usd")
_BILLING = _amounts("reserved_credits", "charged_credits", "refunded_credits")


def odd_numbers(value: Mapping[str, Any]) -> list[str]:
    """Return the numbers of a task's JSON object that cannot be true, as "field=number"."""
    odd: list[str] = []
    if type(value) is not dict:
        value = dict(value)
    usage = value.get("usage")
    cost = usage.get("cost") if type(usage) is dict else None
    for where, facts, fields in (
        ("", value, _OWN),
        ("task_info.", value.get("task_info"), _INFO),
        ("usage.", usage, _USAGE),
        ("usage.cost.", cost, _COST),
        ("billing.", value.get("billing"), _BILLING),
    ):
        if type(facts) is not dict:
            continue
        for name, most, read in fields:
            number: Any = facts.get(name)
            kind = type(number)
            plain = (kind is int or kind is float) and 1 <= number <= most
            if not plain and number is not None and read(number) is None:
                odd.append(f"{where}{name}={shown(number)}")
    return odd


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
    return int(EXACT.multiply(amount, MILLION).to_integral_value(ROUND_CEILING, EXACT))


def to_credits(millionths: int) -> Decimal:
    """Return credits from what the ledger keeps."""
    return EXACT.add(EXACT.divide(Decimal(millionths), MILLION).normalize(EXACT), 0)
