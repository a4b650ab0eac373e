"""`Range` and `If-Range` as a file host understands them: pure functions over header values."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

__all__ = ["UnsatisfiableRangeError", "applies", "parse_range"]

_SINGLE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*")


class UnsatisfiableRangeError(Exception):
    """No byte of the range is in the file: answer 416."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first and the last byte of a single range; None when the header is to be ignored.

    Several ranges and malformed ones are ignored, as HTTP allows. Raises `UnsatisfiableRangeError`.
    """
    found = _SINGLE.fullmatch(header)
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
        if last and int(last) < start:
            return None
    if start >= size:
        raise UnsatisfiableRangeError
    return start, end


def applies(if_range: str | None, *, etag: str, modified: float) -> bool:
    """Return whether `If-Range` lets a range apply: the validator is the file's own, or there is none."""
    if if_range is None:
        return True
    if if_range.startswith(('"', "W/")):
        return if_range == etag
    try:
        return parsedate_to_datetime(if_range).timestamp() == int(modified)
    except ValueError:
        return False
