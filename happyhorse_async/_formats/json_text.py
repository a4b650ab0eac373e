"""JSON from outside: read if it can be read at all, and harmless afterwards.

What comes out has no half of a surrogate pair and no endless number. Its depth never makes writing
it again fail. May import nothing but the standard library, and orjson where it is installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import isfinite
from typing import Any

DEEPEST = 100
"""Levels of lists and objects. The service's own answers have five."""

MOST_BRACKETS = 500_000
"""Brackets in one text. A read of fifty tasks has a thousand. Eight megabytes of them would hold
the event loop for seconds."""

SMALL = 4096
"""Bytes up to which the standard library reads. orjson is faster at it by a few microseconds. But
where it was measured, all that followed it took longer by many (benchmarks/RESULTS.md)."""

_fast: Callable[[bytes], Any] | None
try:
    from orjson import loads as _fast
except ImportError:
    _fast = None

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BLANKS = " \t\n\r"
_LONGEST_INTEGER = 20
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_INTEGER = b"0" * 19
"""How one looks once all its digits are zeros: a regular expression would cost as much as reading.
"""
# Escapes one after another, so that the second backslash of a pair begins none. Pairs of
# surrogates stay; a half that is left is replaced.
_ESCAPE = (
    r"(?s)\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


def loads(body: bytes) -> Any:
    """Read JSON; raises `ValueError` for what is none, is nested deeper than `DEEPEST`, or has more
    than `MOST_BRACKETS`.

    Half of a surrogate pair becomes U+FFFD, and a number that is infinite or none becomes None.
    """
    # As few as a single task has make no depth. In larger texts counting takes longer than looking.
    small = len(body) <= SMALL
    few = small and body.count(b"{") + body.count(b"[") <= DEEPEST // 2
    if not few and _may_be_deep(body):
        value = _patient(body)
        if _is_too_deep(value):
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        return value
    if _fast is None or small:
        return _patient(body)
    try:
        return _fast(body)
    except ValueError:  # there are answers that it alone refuses
        return _patient(body)


def _patient(body: bytes) -> Any:
    # As nearly all begin: the next byte tells whether characters have one byte or more.
    usual = body[:1] == b"{" and body[1:2] != b"\0"
    text = body.decode("utf-8" if usual else json.detect_encoding(body), "replace")
    if "\\" in text and ("\\ud" in text or "\\uD" in text):
        text = without_halves(text)
    digits = body if usual else text.encode()
    # Not by `in`, which makes an error of bytes first, and drops it.
    decoder = _CAREFUL if digits.translate(_ZEROS).find(_LONG_INTEGER) >= 0 else _PLAIN
    try:
        if usual:
            # Without the searches for blanks around it, which cost half as much as the rest.
            value, end = decoder.raw_decode(text)
            if not text[end:].strip(_BLANKS):
                return value
        return decoder.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def without_halves(text: str) -> str:
    """Return JSON with U+FFFD for each half of a surrogate pair that stands in it as an escape.

    Over megabytes of escapes it takes most of a second. Python lets other threads go on meanwhile.
    """
    return re.sub(_ESCAPE, lambda found: r"\ufffd" if found[1] else found[0], text)


def _integer(text: str) -> int | float | None:
    # As orjson does it: what has no place in 64 bits is a number with a point.
    if len(text) <= _LONGEST_INTEGER and -(2**63) <= (number := int(text)) < 2**64:
        return number
    return _finite(text)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if isfinite(number) else None


_HABITS: dict[str, Any] = {
    "strict": False,
    "parse_float": _finite,
    "parse_constant": lambda _: None,
}
# Made once: making one takes longer than reading a task with it. So does looking at each integer.
_PLAIN = json.JSONDecoder(**_HABITS)
_CAREFUL = json.JSONDecoder(**_HABITS, parse_int=_integer)


def _may_be_deep(body: bytes) -> bool:
    """Whether a text may be nested deeper than can be read: never wrong when it says no.

    The brackets alone are looked at, and few make no depth. Each turn takes the innermost pairs
    away, so that few turns are left with few brackets. Those inside of strings may stay, which is
    why this only guesses.
    """
    brackets = body.translate(None, _NO_BRACKETS)
    if len(brackets) > MOST_BRACKETS:
        raise ValueError(f"it has more than {MOST_BRACKETS:,} brackets")
    for _ in range(DEEPEST // 2):
        if len(brackets) <= DEEPEST // 2:
            return False
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    return True


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
