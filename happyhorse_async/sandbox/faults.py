"""Faults as data: which request, which misbehaviour. Matching is pure; carrying them out is for `misbehave`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from random import Random
from typing import Any

import attrs

__all__ = ["ACTIONS", "Fault", "FaultPlan"]

_RESULTS = "/results/"
_TASKS = "/v1/tasks"

ACTIONS: dict[str, str | None] = {
    "refuse": None,
    "drop-before": None,
    "drop-after": None,
    "hang-before": None,
    "hang-after": None,
    "answer-after": None,
    "slow": None,
    "slow-bytes": None,
    "skew": None,
    "truncate": _RESULTS,
    "reset": _RESULTS,
    "short": _RESULTS,
    "html": _RESULTS,
    "json": _RESULTS,
    "empty": _RESULTS,
    "ignore-range": _RESULTS,
    "wrong-range": _RESULTS,
    "new-etag": _RESULTS,
    "corrupt": _RESULTS,
    "redirect": _RESULTS,
    "expire": _RESULTS,
    "absent": "/v1/tasks/batch",
    "unknown-status": _TASKS,
    "unknown-fields": _TASKS,
    "fail-task": "/v1/videos/generations",
    "undecided": "/v1/videos/generations",
    "duplicate-callback": "*",
    "reorder-callbacks": "*",
    "late-callback": "*",
    "no-callback": "*",
}
"""Every action, with the path that it applies to unless the fault names one; None: every path of the service."""


def _positions(nth: int | set[int] | frozenset[int] | list[int] | None) -> frozenset[int] | None:
    if nth is None:
        return None
    return frozenset({nth}) if isinstance(nth, int) else frozenset(nth)


@attrs.frozen(init=False, eq=False)
class Fault:
    """One misbehaviour of the sandbox and the requests that suffer it.

    `nth`, `after`, `times` and `probability` count the requests that match `method` and `path` since the fault was added.
    """

    action: str
    """One of `ACTIONS`."""
    method: str | None
    path: str | None
    """A prefix, or a glob when it contains `*`, `?` or `[`; None: wherever the action makes sense."""
    nth: frozenset[int] | None
    """Only these matching requests, counted from 1 after `after` ones."""
    times: int | None
    """At most so often; None: for ever. By default once, with `nth` for each of them, with `probability` for ever."""
    probability: float | None
    """The chance of each matching request to suffer."""
    seed: int
    after: int
    """The first so many matching requests are spared."""
    details: dict[str, Any]
    """What the action needs: `status`, `body`, `headers`, `seconds`, `bytes`, `fraction`, ..."""

    def __init__(
        self,
        action: str,
        *,
        method: str | None = None,
        path: str | None = None,
        nth: int | set[int] | frozenset[int] | list[int] | None = None,
        times: int | None = -1,
        probability: float | None = None,
        seed: int = 0,
        after: int = 0,
        **details: Any,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(f"no such fault: {action!r}; there are {', '.join(ACTIONS)}")
        if probability is not None and not 0 <= probability <= 1:
            raise ValueError(f"a probability is between 0 and 1, not {probability}")
        positions = _positions(nth)
        if times == -1:
            times = None if probability is not None else len(positions) if positions is not None else 1
        path = ACTIONS[action] if path is None else path
        self.__attrs_init__(action, method, path, positions, times, probability, seed, after, details)

    def matches(self, method: str, path: str) -> bool:
        """Return whether the fault is about such a request at all."""
        if self.method is not None and self.method.upper() != method:
            return False
        if self.path is None:
            return True
        return fnmatchcase(path, self.path) if any(mark in self.path for mark in "*?[") else path.startswith(self.path)


@attrs.define
class _Armed:
    """A fault that waits for its requests."""

    fault: Fault
    chance: Random
    seen: int = 0
    fired: int = 0

    def strikes(self, method: str, path: str) -> bool:
        fault = self.fault
        if not fault.matches(method, path):
            return False
        self.seen += 1
        position = self.seen - fault.after
        spared = position < 1 or (fault.nth is not None and position not in fault.nth)
        if spared or (fault.times is not None and self.fired >= fault.times):
            return False
        if fault.probability is not None and self.chance.random() >= fault.probability:
            return False
        self.fired += 1
        return True


class FaultPlan:
    """The faults of a sandbox, in the order in which they were added."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def __bool__(self) -> bool:
        return bool(self._armed)

    def add(self, fault: Fault) -> Fault:
        """Add a fault, whose counts start at zero."""
        self._armed.append(_Armed(fault, Random(fault.seed)))
        return fault

    def clear(self) -> None:
        """Forget every fault."""
        self._armed.clear()

    def fired(self, fault: Fault) -> int:
        """Return how many requests have suffered a fault."""
        return sum(armed.fired for armed in self._armed if armed.fault is fault)

    @property
    def faults(self) -> list[Fault]:
        """Return the faults that are there."""
        return [armed.fault for armed in self._armed]

    def strike(self, method: str, path: str) -> list[Fault]:
        """Return the faults that one request suffers, and count it."""
        return [armed.fault for armed in self._armed if armed.fault.action not in CALLBACKS and armed.strikes(method, path)]

    def strike_callback(self, path: str) -> list[Fault]:
        """Return the faults that one callback suffers, and count it."""
        return [armed.fault for armed in self._armed if armed.fault.action in CALLBACKS and armed.strikes("POST", path)]


CALLBACKS = frozenset({"duplicate-callback", "reorder-callbacks", "late-callback", "no-callback"})
"""The actions that befall callbacks, not requests."""
