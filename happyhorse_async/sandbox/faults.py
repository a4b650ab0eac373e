"""Faults as data: which request, which misbehaviour. Matching is pure; carrying them out is for `misbehave`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from random import Random
from typing import Any

import attrs

from .details import check_values

__all__ = ["ACTIONS", "Fault", "FaultPlan"]

_RESULTS = "/results/"
_TASKS = "/v1/tasks"
_SUBMIT = "/v1/videos/generations"


@attrs.frozen
class Action:
    """A misbehaviour: where it applies unless a fault says otherwise, and the details that it takes."""

    path: str | None
    """None: every path of the service."""
    details: frozenset[str]


def _action(path: str | None, *details: str) -> Action:
    return Action(path, frozenset(details))


ACTIONS = {
    "refuse": _action(None, "status", "body", "headers"),
    "drop-before": _action(None),
    "drop-after": _action(None),
    "hang-before": _action(None, "seconds"),
    "hang-after": _action(None, "seconds"),
    "answer-after": _action(None, "status", "body", "headers"),
    "slow": _action(None, "seconds"),
    "slow-bytes": _action(None, "chunk", "interval"),
    "skew": _action(None, "seconds"),
    "truncate": _action(_RESULTS, "bytes", "fraction"),
    "reset": _action(_RESULTS, "bytes", "fraction"),
    "short": _action(_RESULTS, "bytes", "fraction"),
    "html": _action(_RESULTS, "status", "body"),
    "json": _action(_RESULTS, "status", "body"),
    "empty": _action(_RESULTS, "status"),
    "ignore-range": _action(_RESULTS),
    "wrong-range": _action(_RESULTS, "content_range"),
    "new-etag": _action(_RESULTS),
    "corrupt": _action(_RESULTS, "at"),
    "redirect": _action(_RESULTS, "status", "to"),
    "expire": _action(_RESULTS, "status", "fresh"),
    "absent": _action("/v1/tasks/batch", "ids"),
    "unknown-status": _action(_TASKS, "status", "ids"),
    "unknown-fields": _action(_TASKS, "fields"),
    "fail-task": _action(_SUBMIT, "status", "code", "message", "refund"),
    "undecided": _action(_SUBMIT, "seconds"),
    "duplicate-callback": _action("*", "count"),
    "reorder-callbacks": _action("*"),
    "late-callback": _action("*", "seconds"),
    "no-callback": _action("*"),
}
"""Every misbehaviour by name."""


def _positions(nth: int | set[int] | frozenset[int] | list[int] | None) -> frozenset[int] | None:
    if nth is None:
        return None
    return frozenset({nth}) if isinstance(nth, int) else frozenset(nth)


def _check(action: str, details: dict[str, Any]) -> None:
    if not isinstance(action, str) or action not in ACTIONS:
        raise ValueError(f"no such fault: {action!r}; there are {', '.join(ACTIONS)}")
    known = ACTIONS[action].details
    if unknown := details.keys() - known:
        raise ValueError(f"{action} takes {', '.join(sorted(known)) or 'no details'}, not {', '.join(sorted(unknown))}")


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
        _check(action, details)
        conditions = {"method": method, "path": path, "nth": nth, "times": times}
        check_values(action, {**conditions, "probability": probability, "seed": seed, "after": after}, details)
        positions = _positions(nth)
        if times == -1:
            times = None if probability is not None else len(positions) if positions is not None else 1
        path = ACTIONS[action].path if path is None else path
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
        """Count a request if it matches, and return whether it suffers."""
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
