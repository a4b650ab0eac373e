"""The log of requests that tests assert on, bounded in entries and in bytes."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .exchange import Host

__all__ = ["Journal", "RequestRecord"]

_MOST_ENTRIES = 100_000
_MOST_BYTES = 256 * 1024 * 1024


@attrs.define(eq=False)
class RequestRecord:
    """A request as it arrived, and the status of its answer."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    """Case-insensitive."""
    body: bytes = attrs.field(repr=False)
    at: float
    """Sandbox time of arrival."""
    host: Host
    status: int | None = None
    """None while it is unanswered, and for ever when the connection was dropped."""


class Journal:
    """The latest requests, oldest first; the oldest are forgotten after 100,000 requests or 256 MB of bodies."""

    def __init__(self) -> None:
        self._records: deque[RequestRecord] = deque()
        self._bytes = 0
        self.on_answer: Callable[[RequestRecord], None] | None = None

    def add(self, record: RequestRecord) -> None:
        """Keep a request."""
        records = self._records
        records.append(record)
        self._bytes += len(record.body)
        while len(records) > _MOST_ENTRIES or self._bytes > _MOST_BYTES:
            self._bytes -= len(records.popleft().body)

    def answered(self, record: RequestRecord, status: int | None) -> None:
        """Note how a request ended."""
        record.status = status
        if self.on_answer is not None:
            self.on_answer(record)

    def all(self) -> list[RequestRecord]:
        """Return the requests in order of arrival."""
        return list(self._records)

    def latest(self, most: int) -> list[RequestRecord]:
        """Return the last requests, oldest first."""
        return list(islice(reversed(self._records), most))[::-1]

    def count(self, method: str | None, path: str | None) -> int:
        """Return how many requests had this method and exactly this path."""
        return sum(
            (method is None or record.method == method) and (path is None or record.path == path) for record in self._records
        )
