"""What is remembered of the newest of very many things. Imports nothing of ours."""

from __future__ import annotations

from typing import Generic, TypeVar, overload

V = TypeVar("V")
D = TypeVar("D")

MOST_SEEN = 65_536
"""Tasks of which it is remembered that the service has accepted them; the oldest are forgotten."""


class Recent(Generic[V]):
    """Values by id, of the newest ids: at most so many, and half of these at least.

    The older half is dropped when the newer one is full. So no order has to be kept beside the ids,
    which would take as much memory again.
    """

    __slots__ = ("_half", "_newer", "_older", "used")

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self._newer: dict[str, V] = {}
        self._older: dict[str, V] = {}
        self.used = False
        """Whether anything was ever remembered: most sessions remember nothing of some kinds."""

    def remember(self, name: str, value: V) -> None:
        """Keep a value; its id is the newest now."""
        if len(self._newer) >= self._half and name not in self._newer:
            # In this order: who looks from another thread finds each id in one of them.
            self._older, self._newer = self._newer, {}
        self._newer[name] = value
        self.used = True

    @overload
    def get(self, name: str) -> V | None: ...
    @overload
    def get(self, name: str, default: D) -> V | D: ...
    def get(self, name: str, default: object = None) -> object:
        """Return the newest value of an id; may be called from any thread."""
        newer = self._newer
        return newer[name] if name in newer else self._older.get(name, default)

    def pop(self, name: str) -> V | None:
        """Return the newest value of an id, and forget it."""
        older = self._older.pop(name, None)
        return self._newer.pop(name, older)

    def __contains__(self, name: str) -> bool:
        return name in self._newer or name in self._older
