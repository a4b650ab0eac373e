"""What a fault's conditions and details may be: one check for each, so that a mistake is told when the fault is made."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import attrs

__all__ = ["CONDITIONS", "DETAILS", "Kind", "check_values"]

_MOST = 1e10
"""Above it a number of seconds is no length of time that a clock can use."""


@attrs.frozen
class Kind:
    """A kind of value: in words, and as a test."""

    words: str
    fits: Callable[[Any], bool]

    def or_none(self) -> Kind:
        """Return the kind that also takes None."""
        fits = self.fits
        return Kind(f"{self.words}, or none", lambda value: value is None or fits(value))


def _whole(low: int, high: int | None = None) -> Kind:
    words = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    return Kind(words, lambda value: _is_whole(value) and low <= value and (high is None or value <= high))


def _number(words: str, low: float, high: float) -> Kind:
    return Kind(words, lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_positions(value: Any) -> bool:
    values = [value] if isinstance(value, int) else value
    is_many = isinstance(values, Collection) and not isinstance(values, (str, bytes, dict))
    return is_many and all(_is_whole(position) and position >= 1 for position in values)


def _are_places(value: Any) -> bool:
    is_many = isinstance(value, Collection) and not isinstance(value, (str, bytes, dict))
    return is_many and all(_is_whole(place) and place >= 0 for place in value)


def _are_headers(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_line(name) and name and _is_line(text) for name, text in value.items())


def _are_ids(value: Any) -> bool:
    is_many = isinstance(value, Collection) and not isinstance(value, (str, bytes, dict))
    return value == "all" or (is_many and all(isinstance(task_id, str) for task_id in value))


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and not any(mark in value for mark in "\r\n\0")


_TEXT = Kind("a string", lambda value: isinstance(value, str))
_LINE = Kind("a string of one line", _is_line)
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_SECONDS = _number("a number of seconds", -_MOST, _MOST)
_WAIT = Kind(
    "a number of seconds that is not negative",
    lambda value: value == float("inf") or _number("", 0, _MOST).fits(value),
)
_HTTP_STATUS = _whole(200, 599)

CONDITIONS = {
    "method": _TEXT.or_none(),
    "path": _TEXT.or_none(),
    "nth": Kind("an integer of at least 1, several of them, or none", lambda value: value is None or _are_positions(value)),
    "times": _whole(-1).or_none(),
    "probability": _number("a number between 0 and 1", 0, 1).or_none(),
    "seed": Kind("an integer", _is_whole),
    "after": _whole(0),
}
"""The conditions of every fault."""

DETAILS = {
    "at": Kind("places in the body, integers of at least 0", _are_places),
    "body": Kind("text, bytes or JSON", lambda value: value is None or isinstance(value, (str, bytes, int, float, list, dict))),
    "bytes": _whole(0),
    "chunk": _whole(1),
    "code": _TEXT,
    "content_range": _LINE,
    "count": _whole(0, 1000),
    "fields": Kind("an object", lambda value: isinstance(value, dict) and all(isinstance(name, str) for name in value)),
    "fraction": _number("a number between 0 and 1", 0, 1),
    "fresh": _FLAG,
    "headers": Kind("an object of strings of one line", _are_headers),
    "ids": Kind('task ids, or "all"', _are_ids),
    "interval": _number("a number of seconds that is not negative", 0, _MOST),
    "message": _TEXT.or_none(),
    "refund": _FLAG,
    "seconds": _SECONDS,
    "status": _HTTP_STATUS,
    "to": _LINE,
    # The following are details of one action, where the same name means something else.
    "fail-task.status": Kind('"failed" or "cancelled"', lambda value: value in ("failed", "cancelled")),
    "unknown-status.status": _TEXT,
    "html.body": Kind("text or bytes", lambda value: value is None or isinstance(value, (str, bytes))),
    "hang-before.seconds": _WAIT,
    "hang-after.seconds": _WAIT,
    "slow.seconds": _WAIT,
}
"""The details by name, and by action and name where an action has its own."""


def check_values(action: str, conditions: dict[str, Any], details: dict[str, Any]) -> None:
    """Raise `ValueError`, which says what was expected, unless every value is of its kind."""
    for name, value in conditions.items():
        _check(action, name, value, CONDITIONS[name])
    for name, value in details.items():
        _check(action, name, value, DETAILS.get(f"{action}.{name}", DETAILS[name]))


def _check(action: str, name: str, value: Any, kind: Kind) -> None:
    if not kind.fits(value):
        raise ValueError(f"{name} of {action} must be {kind.words}, not {value!r}")
