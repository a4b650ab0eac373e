"""A prefix of an object store as a folder of videos: what is there, and whether it is what was put.

Blocks: reports read a folder without a session, and a batch looks from its worker threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import DestinationExistsError, HappyHorseError
from .object_store import StoreBusyError, library, opened, our_errors, split_link

T = TypeVar("T")

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try of a store that is busy."""


class ObjectFolder:
    """One prefix of a bucket; the environment says how to reach it."""

    def __init__(self, link: str) -> None:
        """Open it; raises `ConfigurationError` when that cannot be done."""
        self.link = link.rstrip("/")
        bucket, key = split_link(self.link)
        self._prefix = f"{key}/" if key else ""
        self._store = opened(bucket)

    def key(self, name: str) -> str:
        """Return the key of a name in the folder."""
        return self._prefix + name

    def sizes(self) -> dict[str, int]:
        """List what is in the folder: the bytes of each object, by its name."""
        found: dict[str, int] = {}

        def look() -> None:
            for page in library().list(self._store, prefix=self._prefix.rstrip("/") or None):
                for each in page:
                    name = each["path"].removeprefix(self._prefix)
                    if "/" not in name:
                        found[name] = each["size"]

        self._tried(look)
        return found

    def size(self, name: str) -> int | None:
        """Return how many bytes an object has; None when there is none."""

        def look() -> int | None:
            try:
                return int(library().head(self._store, self.key(name))["size"])
            except FileNotFoundError:
                return None

        return self._tried(look)

    def pieces(self, name: str) -> Iterator[bytes]:
        """Read an object from its beginning to its end; raises `FileNotFoundError`."""
        with our_errors(f"{self.link}/{name}", missing=True):
            for piece in library().get(self._store, self.key(name)).stream():
                yield bytes(piece)

    def move(self, name: str, to: str) -> None:
        """Give an object another name; raises `DestinationExistsError` when that is taken."""
        if self.size(to) is not None:
            taken = f"{self.link}/{to}"
            raise DestinationExistsError(f"{taken} exists already", path=taken)
        self._tried(lambda: library().rename(self._store, self.key(name), self.key(to)))

    def _tried(self, call: Callable[[], T]) -> T:
        for pause in (*PAUSES, None):
            try:
                with our_errors(self.link):
                    return call()
            except StoreBusyError as error:
                if pause is None:
                    raise HappyHorseError(f"{self.link} cannot be read: {error}") from error
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")
