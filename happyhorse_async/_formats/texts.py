"""Texts from outside, made harmless where they enter errors, logs, terminals and tables.

Pure functions over text, standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from reprlib import Repr
from typing import Any
from urllib.parse import quote

LONGEST_PRINTED = 2000
"""Characters of a foreign text that an error or a log line shows."""

# Control characters: a terminal obeys them, and a newline forges log lines. Marks that turn the
# direction of writing, characters without a width, halves of surrogate pairs. Blanks of other
# scripts stay: Chinese texts have U+3000. Text as the other patterns, compiled when it is first
# needed: that takes longer than all else here.
_HARMFUL = (
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_SURROGATE = "[\ud800-\udfff]"


def printable(text: str, *, most: int = LONGEST_PRINTED) -> str:
    """Return a text with everything in it spelled out that could steer a terminal or forge a line.

    A newline becomes a backslash and an n. What is longer than `most` characters is cut, and says
    so. Doing it twice changes nothing more.
    """
    text = _cut(text, most)
    return text if text.isprintable() else _cut(re.sub(_HARMFUL, _spelled, text), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most + 1 else text[:most] + "…"


def _spelled(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


class _Brief(Repr):
    """Shows a value without making a text of all of it: of an image's bytes that takes a second."""

    MOST = 100
    """Characters, bytes or digits of one value that are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.MOST
        self.maxlevel = 2

    def repr_bytes(self, value: bytes | bytearray, level: int) -> str:
        """Show the first ones, and how many there are."""
        shown = repr(value[: self.MOST])
        return shown if len(value) <= self.MOST else f"{shown}... ({len(value):,} bytes)"

    repr_bytearray = repr_bytes

    def repr_int(self, value: int, level: int) -> str:
        """Show a number, or of a very long one how long it is."""
        # Python makes no text of very large ones.
        return (
            repr(value) if abs(value) < 10**self.MOST else f"a number of {value.bit_length()} bits"
        )


def shown(value: Any) -> str:
    """Return a value as an error shows it: short and soon, whatever was passed by mistake."""
    return _Brief().repr(value)


def has_surrogate(text: str) -> bool:
    """Return whether half of a surrogate pair is in a text: no JSON, URL or file can carry it."""
    return not text.isascii() and re.search(_SURROGATE, text) is not None


def without_surrogates(text: str) -> str:
    """Return a text with U+FFFD for every half of a surrogate pair."""
    return text if text.isascii() else re.sub(_SURROGATE, "\ufffd", text)


# JSON's escapes, of which those for printable ASCII are undone. Not those for quotation marks and
# backslashes, which JSON needs.
_ESCAPES = rb"(?s)\\(?:u00([2-7][0-9a-fA-F])|.)"
_HIDDEN = "***"
_BACKSLASH = ord("\\")


class Redactor:
    """Takes secrets out of what comes from outside, also where they stand escaped for JSON or for
    URLs. Services have repeated a key that they refuse.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in (secret, quote(secret, safe=""))}
        self._forms = tuple(sorted(forms, key=len, reverse=True))
        self._bytes = tuple(form.encode() for form in self._forms)

    def is_in(self, text: str | bytes) -> bool:
        """Return whether a secret stands in a text."""
        if isinstance(text, str):
            return any(form in text for form in self._forms)
        for form in self._bytes:  # noqa: SIM110 every response is looked at, and `any` costs more
            if text.find(form) >= 0:  # `in` makes an error of bytes first, and drops it
                return True
        return False

    def text(self, text: str) -> str:
        """Return a text without the secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, _HIDDEN)
        return text

    def body(self, body: bytes) -> bytes:
        """Return a body without the secrets; JSON stays JSON."""
        if _BACKSLASH in body and self._bytes and (b"\\u00" in body or rb"\/" in body):
            plain = re.sub(_ESCAPES, _unescaped, body)
            if self.is_in(plain):
                body = plain
        for form in self._bytes:
            if body.find(form) >= 0:
                body = body.replace(form, _HIDDEN.encode())
        return body


NOTHING_TO_HIDE = Redactor(())


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[0] == b"\\/":
        return b"/"
    if found[1] is None or found[1].lower() in (b"22", b"5c"):
        return found[0]
    return bytes([int(found[1], 16)])
