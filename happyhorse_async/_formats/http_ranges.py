"""What a file host's answer means for a download that may have begun before: Range, If-Range and
Content-Range. Pure functions over header values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum

import attrs

from .http_headers import encoding_of, http_date

_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
_UNSATISFIED = re.compile(r"bytes\s+\*/(\d{1,18})", re.ASCII)

_BUSY = frozenset({408, 425, 429})


@attrs.frozen
class Held:
    """What is there of a file already."""

    size: int = 0
    validator: str | None = None
    """The ETag or Last-Modified of the file that the bytes are from; None: they cannot be gone on
    with."""
    length: int | None = None
    """The size of the whole file, when the host said it."""

    @property
    def resumable(self) -> bool:
        """Whether the rest can be asked for safely."""
        return self.size > 0 and self.validator is not None

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self.size > 0 and self.size == self.length


class Meaning(StrEnum):
    """What to do with an answer."""

    WHOLE = "whole"
    """The whole file follows, from its first byte."""
    REST = "rest"
    """The missing bytes follow."""
    COMPLETE = "complete"
    """There was nothing missing."""
    DEAD = "dead"
    """The link gives no video: a fresh one is needed."""
    BUSY = "busy"
    """Try again later."""
    CONFUSED = "confused"
    """The host does not do ranges right: ask for the whole file."""


@attrs.frozen
class RangeAnswer:
    """The meaning of an answer, with what it says of the file."""

    meaning: Meaning
    reason: str = ""
    length: int | None = None
    validator: str | None = None


def range_headers(held: Held) -> dict[str, str]:
    """Return the headers that ask for what is missing; {} when all of it is."""
    if not held.resumable or held.validator is None:
        return {}
    return {"Range": f"bytes={held.size}-", "If-Range": held.validator}


def validator_of(headers: Mapping[str, str]) -> str | None:
    """Find what identifies this very version of a file: a strong ETag, else a strong Last-Modified,
    else None.

    A weak ETag does not promise the same bytes (RFC 9110, section 13.1.5). So no download resumes
    on one. Nor on a file modified in the second of the answer: that second may change it once more
    (section 8.8.2.2).
    """
    version = _version(headers)
    return (
        version
        if version is None
        or version.startswith('"')
        or _is_settled(version, headers.get("Date", ""))
        else None
    )


def _is_settled(modified: str, date: str) -> bool:
    changed, now = http_date(modified), http_date(date)
    return changed is not None and now is not None and now - changed >= timedelta(seconds=1)


def _version(headers: Mapping[str, str]) -> str | None:
    etag = headers.get("ETag", "").strip()
    if len(etag) >= 2 and etag.startswith('"') and etag.endswith('"') and etag.isprintable():
        return etag
    modified = headers.get("Last-Modified", "").strip()
    return modified if modified.isprintable() and modified else None


def judge(status: int, headers: Mapping[str, str], held: Held) -> RangeAnswer:
    """Say what an answer means to a download that asked with `range_headers(held)`."""
    if status == 206:
        return _judge_part(headers, held)
    if status == 416:
        return _judge_unsatisfied(headers, held)
    if status in _BUSY or status >= 500:
        return RangeAnswer(Meaning.BUSY, f"the file host answered {status}")
    if status not in (200, 203):  # 203: a proxy on the way has changed something
        return RangeAnswer(Meaning.DEAD, f"the file host answered {status}")
    if _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip()):
        # Some hosts send a part, and say 200 all the same.
        return _judge_part(headers, held)
    # Whatever Content-Type says: the bytes decide.
    return RangeAnswer(
        Meaning.WHOLE, length=content_length(headers), validator=validator_of(headers)
    )


def _judge_part(headers: Mapping[str, str], held: Held) -> RangeAnswer:
    value = headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(value.strip())
    if found is not None and _is_all(found, content_length(headers)):
        # Some hosts answer so to everyone: nothing is missing, whatever was asked for.
        return RangeAnswer(
            Meaning.WHOLE, length=content_length(headers), validator=validator_of(headers)
        )
    if not held.resumable and (not value if found is None else int(found[1]) == 0):
        # Nobody asked for a part. The bytes decide whether this is all, as with 200.
        total = None if found is None or found[3] == "*" else int(found[3])
        return RangeAnswer(Meaning.WHOLE, length=total, validator=validator_of(headers))
    if found is None or not held.resumable:
        return RangeAnswer(
            Meaning.CONFUSED,
            f"the file host sent a part that was not asked for (Content-Range: {value!r})",
        )
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    # It may be less than was asked for: then the next request asks for what is still missing.
    problem = _part_problem(first, last, total, content_length(headers), held)
    validator = _version(headers)
    if (
        not problem
        and validator not in (None, held.validator)
        and _same_kind(validator, held.validator)
    ):
        problem = f"the file has changed ({held.validator} is now {validator})"
    if not problem and encoding_of(headers):
        problem = f"the file host sent a part of the file in the encoding {encoding_of(headers)}"
    if problem:
        return RangeAnswer(Meaning.CONFUSED, problem)
    return RangeAnswer(
        Meaning.REST, length=total if total is not None else held.length, validator=held.validator
    )


def _is_all(found: re.Match[str], length: int | None) -> bool:
    """Whether a Content-Range, with the answer's Content-Length, spans the file from end to end."""
    if length is None or found[3] == "*":
        return False
    return int(found[1]) == 0 and int(found[3]) == length == int(found[2]) + 1


def _part_problem(first: int, last: int, total: int | None, length: int | None, held: Held) -> str:
    if first != held.size or last < first or (total is not None and last >= total):
        return f"the file host sent bytes {first}-{last}/{total}, not those from {held.size} on"
    if total is None and held.length is None:
        return "the file host does not say how long the file is, so it may not be whole"
    if total is not None and held.length is not None and total != held.length:
        return f"the file was {held.length} bytes long, and is {total} now"
    return (
        ""
        if length is None or length == last - first + 1
        else "Content-Length and Content-Range contradict each other"
    )


def _same_kind(one: str | None, other: str | None) -> bool:
    return (one or "").startswith('"') == (other or "").startswith('"')


def _judge_unsatisfied(headers: Mapping[str, str], held: Held) -> RangeAnswer:
    found = _UNSATISFIED.fullmatch(headers.get("Content-Range", "").strip())
    if (
        found is not None
        and held.resumable
        and int(found[1]) == held.size
        and held.length in (None, held.size)
    ):
        return RangeAnswer(Meaning.COMPLETE, length=held.size, validator=held.validator)
    return RangeAnswer(Meaning.CONFUSED, "the file host has no such range")


def content_length(headers: Mapping[str, str]) -> int | None:
    """Read Content-Length; None when there is none that can be read."""
    text = headers.get("Content-Length", "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
