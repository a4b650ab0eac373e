"""Faults as data: which request, which misbehaviour. Matching is pure; carrying them out is for
`misbehave`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from random import Random
from typing import Any

import attrs

__all__ = ["ACTIONS", "Fault", "FaultPlan"]

_RESULTS = "/results/"
_TASKS = "/v1/tasks"
_SUBMIT = "/v1/videos/generations"


@attrs.frozen
class Action:
    """A misbehaviour: where it applies unless a fault says otherwise, and the details that it
    takes.
    """

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
    "output-length": _action(_SUBMIT, "length"),
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
        raise ValueError(
            f"{action} takes {', '.join(sorted(known)) or 'no details'}, not {', '.join(sorted(unknown))}"
        )


@attrs.frozen(init=False, eq=False)
class Fault:
    """One misbehaviour of the sandbox and the requests that suffer it.

    `nth`, `after`, `times` and `probability` count the requests that match `method` and `path`
    since the fault was added.
    """

    action: str
    """One of `ACTIONS`."""
    method: str | None
    path: str | None
    """A prefix, or a glob when it contains `*`, `?` or `[`; None: wherever the action makes sense.
    """
    nth: frozenset[int] | None
    """Only these matching requests, counted from 1 after `after` ones."""
    times: int | None
    """At most so often; None: for ever. By default once, with `nth` for each of them, with
    `probability` for ever."""
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
        check_values(
            action,
            {**conditions, "probability": probability, "seed": seed, "after": after},
            details,
        )
        positions = _positions(nth)
        if times == -1:
            times = (
                None if probability is not None else len(positions) if positions is not None else 1
            )
        path = ACTIONS[action].path if path is None else path
        self.__attrs_init__(
            action, method, path, positions, times, probability, seed, after, details
        )

    def matches(self, method: str, path: str) -> bool:
        """Return whether the fault is about such a request at all."""
        if self.method is not None and self.method.upper() != method:
            return False
        if self.path is None:
            return True
        return (
            fnmatchcase(path, self.path)
            if any(mark in self.path for mark in "*?[")
            else path.startswith(self.path)
        )


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
        return [
            armed.fault
            for armed in self._armed
            if armed.fault.action not in CALLBACKS and armed.strikes(method, path)
        ]

    def strike_callback(self, path: str) -> list[Fault]:
        """Return the faults that one callback suffers, and count it."""
        return [
            armed.fault
            for armed in self._armed
            if armed.fault.action in CALLBACKS and armed.strikes("POST", path)
        ]


CALLBACKS = frozenset({"duplicate-callback", "reorder-callbacks", "late-callback", "no-callback"})
"""The actions that befall callbacks, not requests."""


# --- Bad days by name: sets of faults, seeded, so that the same scenario is the same bad day every
# time.


_SUBMIT = "/v1/videos/generations"
_READS = "/v1/tasks"
_RESULTS = "/results/"
_GATEWAY_PAGE = (
    "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)


def _storm() -> list[Fault]:
    return [
        Fault(
            "refuse",
            method="POST",
            path=_SUBMIT,
            probability=0.5,
            seed=1,
            status=429,
            headers={"Retry-After": "1"},
        ),
        Fault("refuse", path=_READS, probability=0.2, seed=2, status=429),
    ]


def _flaky_network() -> list[Fault]:
    return [
        Fault("drop-before", probability=0.05, seed=1),
        Fault("drop-after", probability=0.05, seed=2),
        Fault("slow", probability=0.1, seed=3, seconds=0.3),
        Fault(
            "answer-after", path="/v1/", probability=0.05, seed=4, status=502, body=_GATEWAY_PAGE
        ),
        Fault("truncate", probability=0.15, seed=5, fraction=0.6),
        Fault("reset", probability=0.15, seed=6, fraction=0.3),
    ]


def _expired_links() -> list[Fault]:
    return [
        Fault("expire", probability=0.3, seed=1, status=403, fresh=True),
        Fault("expire", probability=0.2, seed=2, status=404, fresh=True),
        Fault("expire", probability=0.2, seed=3, status=410, fresh=True),
        Fault("expire", probability=0.2, seed=4, status=200, fresh=True),
    ]


def _lost_answers() -> list[Fault]:
    return [
        Fault("drop-after", method="POST", path=_SUBMIT, probability=0.3, seed=1),
        Fault(
            "answer-after",
            method="POST",
            path=_SUBMIT,
            probability=0.2,
            seed=2,
            status=502,
            body=_GATEWAY_PAGE,
        ),
        Fault(
            "answer-after",
            method="POST",
            path=_SUBMIT,
            probability=0.1,
            seed=3,
            status=200,
            body="",
        ),
    ]


def _slow_disk_host() -> list[Fault]:
    return [
        Fault("slow", path=_RESULTS, probability=0.3, seed=1, seconds=0.5),
        Fault("slow-bytes", path=_RESULTS, probability=0.5, seed=2, chunk=65536, interval=0.05),
        Fault("truncate", path=_RESULTS, probability=0.2, seed=3, fraction=0.8),
        Fault(
            "refuse", path=_RESULTS, probability=0.1, seed=4, status=503, body="the disk is busy"
        ),
    ]


SCENARIOS = {
    "429-storm": _storm,
    "flaky-network": _flaky_network,
    "expired-links": _expired_links,
    "lost-answers": _lost_answers,
    "slow-disk-host": _slow_disk_host,
}
"""The scenarios by name."""


def scenario_faults(name: str) -> list[Fault]:
    """Return the faults of a scenario; raises `ValueError` when there is none of that name."""
    if name not in SCENARIOS:
        raise ValueError(f"no such scenario: {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]()


# --- What a fault's conditions and details may be: one check for each, so that a mistake is told
# when the fault is made.


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


def _whole(low: int, high: int | None = None) -> Kind:
    words = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    return Kind(
        words, lambda value: _is_whole(value) and low <= value and (high is None or value <= high)
    )


def _number(words: str, low: float, high: float) -> Kind:
    return Kind(
        words,
        lambda value: (
            isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        ),
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_positions(value: Any) -> bool:
    values = [value] if isinstance(value, int) else value
    is_many = isinstance(values, Collection) and not isinstance(values, (str, bytes, dict))
    return is_many and all(_is_whole(position) and position >= 1 for position in values)


def _are_places(value: Any) -> bool:
    is_many = isinstance(value, Collection) and not isinstance(value, (str, bytes, dict))
    return is_many and all(_is_whole(place) and place >= 0 for place in value)


def _are_headers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_line(name) and name and _is_line(text) for name, text in value.items()
    )


def _are_ids(value: Any) -> bool:
    is_many = isinstance(value, Collection) and not isinstance(value, (str, bytes, dict))
    return value == "all" or (is_many and all(isinstance(task_id, str) for task_id in value))


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and not any(mark in value for mark in "\r\n\0")


_TEXT = Kind("a string", lambda value: isinstance(value, str))
_LINE = Kind("a string of one line", _is_line)
_FLAG = Kind("true or false", lambda value: isinstance(value, bool))
_SECONDS = _number("a number of seconds", -_MOST, _MOST)
_WAIT = Kind(
    "a number of seconds that is not negative",
    lambda value: value == float("inf") or _number("", 0, _MOST).fits(value),
)
_HTTP_STATUS = _whole(200, 599)

CONDITIONS = {
    "method": _TEXT.or_none(),
    "path": _TEXT.or_none(),
    "nth": Kind(
        "an integer of at least 1, several of them, or none",
        lambda value: value is None or _are_positions(value),
    ),
    "times": _whole(-1).or_none(),
    "probability": _number("a number between 0 and 1", 0, 1).or_none(),
    "seed": Kind("an integer", _is_whole),
    "after": _whole(0),
}
"""The conditions of every fault."""

DETAILS = {
    "at": Kind("places in the body, integers of at least 0", _are_places),
    "body": Kind(
        "text, bytes or JSON",
        lambda value: value is None or isinstance(value, (str, bytes, int, float, list, dict)),
    ),
    "bytes": _whole(0),
    "chunk": _whole(1),
    "code": _TEXT,
    "content_range": _LINE,
    "count": _whole(0, 1000),
    "fields": Kind(
        "an object",
        lambda value: isinstance(value, dict) and all(isinstance(name, str) for name in value),
    ),
    "fraction": _number("a number between 0 and 1", 0, 1),
    "fresh": _FLAG,
    "headers": Kind("an object of strings of one line", _are_headers),
    "ids": Kind('task ids, or "all"', _are_ids),
    "interval": _number("a number of seconds that is not negative", 0, _MOST),
    "length": _whole(1, 60),
    "message": _TEXT.or_none(),
    "refund": _FLAG,
    "seconds": _SECONDS,
    "status": _HTTP_STATUS,
    "to": _LINE,
    # The following are details of one action, where the same name means something else.
    "fail-task.status": Kind(
        '"failed" or "cancelled"', lambda value: value in ("failed", "cancelled")
    ),
    "unknown-status.status": _TEXT,
    "html.body": Kind(
        "text or bytes", lambda value: value is None or isinstance(value, (str, bytes))
    ),
    "hang-before.seconds": _WAIT,
    "hang-after.seconds": _WAIT,
    "slow.seconds": _WAIT,
}
"""The details by name, and by action and name where an action has its own."""


def check_values(action: str, conditions: dict[str, Any], details: dict[str, Any]) -> None:
    """Raise `ValueError`, which says what was expected, unless every value is of its kind."""
    for name, value in conditions.items():
        _check_kind(action, name, value, CONDITIONS[name])
    for name, value in details.items():
        _check_kind(action, name, value, DETAILS.get(f"{action}.{name}", DETAILS[name]))


def _check_kind(action: str, name: str, value: Any, kind: Kind) -> None:
    if not kind.fits(value):
        raise ValueError(f"{name} of {action} must be {kind.words}, not {value!r}")
