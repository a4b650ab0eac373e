"""What a fault's conditions and details may be: each kind in words and as a test.

A signature is its own check: `kinds_of` reads the kinds from the annotations of the keyword-only
parameters. `check` holds values against them when a fault is made.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs

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


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and not any(mark in value for mark in "\r\n\0")


def _are_many(value: Any, fits: Callable[[Any], bool]) -> bool:
    is_many = isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))
    return is_many and all(fits(member) for member in value)


def _is_position(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _are_headers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_line(name) and name and _is_line(text) for name, text in value.items()
    )


def _whole(low: int, high: int | None = None) -> Kind:
    words = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    return Kind(
        words, lambda value: _is_whole(value) and low <= value and (high is None or value <= high)
    )


def _number(words: str, low: float, high: float) -> Kind:
    return Kind(words, lambda value: _is_number(value) and low <= value <= high)


_NOT_NEGATIVE = "a number of seconds that is not negative"

Positions = Annotated[
    int | Collection[int],
    Kind(
        "an integer of at least 1, several of them",
        lambda value: _is_position(value) or _are_many(value, _is_position),
    ),
]
"""Which of several, counted from 1: one, or a set of them."""
Count = Annotated[int, _whole(0)]
Copies = Annotated[int, _whole(0, 1000)]
Times = Annotated[int, _whole(-1)]
Length = Annotated[int, _whole(1, 60)]
Size = Annotated[int, _whole(0)]
Piece = Annotated[int, _whole(1)]
HeaderSize = Annotated[int, _whole(1, 1_000_000)]
Status = Annotated[int, _whole(200, 599)]
Share = Annotated[float, _number("a number between 0 and 1", 0, 1)]
Factor = Annotated[float, _number("a number from 0 to 1000", 0, 1000)]
Shift = Annotated[float, _number("a number of seconds", -_MOST, _MOST)]
Span = Annotated[float, _number(_NOT_NEGATIVE, 0, _MOST)]
Wait = Annotated[
    float,
    Kind(
        _NOT_NEGATIVE,
        lambda value: _is_number(value) and (0 <= value <= _MOST or value == float("inf")),
    ),
]
"""Like `Span`, or for ever."""
Line = Annotated[str, Kind("a string of one line", _is_line)]
Headers = Annotated[dict[str, str], Kind("an object of strings of one line", _are_headers)]
Body = Annotated[
    Any,
    Kind(
        "text, bytes or JSON",
        lambda value: value is None or isinstance(value, (str, bytes, int, float, list, dict)),
    ),
]
Page = Annotated[str | bytes, Kind("text or bytes", lambda value: isinstance(value, (str, bytes)))]
Fields = Annotated[
    dict[str, Any],
    Kind(
        "an object",
        lambda value: isinstance(value, dict) and all(isinstance(name, str) for name in value),
    ),
]
Names = Annotated[
    Collection[str],
    Kind("names, as strings", lambda value: _are_many(value, lambda name: isinstance(name, str))),
]
Ids = Annotated[
    Collection[str] | Literal["all"],
    Kind(
        'task ids, or "all"',
        lambda value: value == "all" or _are_many(value, lambda name: isinstance(name, str)),
    ),
]
Places = Annotated[
    Collection[int],
    Kind(
        "places in the body, integers of at least 0",
        lambda value: _are_many(value, lambda place: _is_whole(place) and place >= 0),
    ),
]
OddNumber = Annotated[
    float | str,
    Kind(
        "a number, or the text of one",
        lambda value: _is_number(value) or (isinstance(value, str) and _is_numeral(value)),
    ),
]
"""Any number that JSON text can carry, also one that Python has no value for: "1e999", "NaN"."""


def _is_numeral(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and text.strip() == text and "_" not in text


_PLAIN = {
    str: Kind("a string", lambda value: isinstance(value, str)),
    bool: Kind("true or false", lambda value: isinstance(value, bool)),
    int: Kind("an integer", _is_whole),
}


def kinds_of(function: Callable[..., Any]) -> dict[str, Kind]:
    """Return the kind of each keyword-only parameter, from its annotation."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return {
        parameter.name: _kind(parameter.annotation)
        for parameter in parameters
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _kind(annotation: Any) -> Kind:
    if get_origin(annotation) is Annotated:
        return next(mark for mark in annotation.__metadata__ if isinstance(mark, Kind))
    if get_origin(annotation) in (Union, types.UnionType):
        (one,) = (member for member in get_args(annotation) if member is not types.NoneType)
        return _kind(one).or_none()
    if get_origin(annotation) is Literal:
        words = get_args(annotation)
        quoted = [f'"{word}"' for word in words]
        listed = " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
        return Kind(listed, lambda value: isinstance(value, str) and value in words)
    return _PLAIN[annotation]


def check(what: str, values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Raise `ValueError`, which says what was expected, unless every value is of its kind."""
    for name, value in values.items():
        if not kinds[name].fits(value):
            raise ValueError(f"{name} of {what} must be {kinds[name].words}, not {value!r}")
