"""Faults as data: which requests suffer, and what. A decorated function is a fault.

    @fault("before", path="/v1/tasks")
    def refuse(act: Act, *, status: Status = 503) -> None:
        ...

Its name is the function's, its details are the keyword-only parameters, and their annotations are
the check. `before` and `after` say whether it strikes before or after a request is handled;
`callback` faults befall the callbacks. The functions are in `_fault_actions` and `_task_faults`.
"""

from __future__ import annotations

import inspect
import json
import shlex
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import attrs

from ._fault_values import Count, Kind, Positions, Share, Span, Times, check, kinds_of

if TYPE_CHECKING:
    from ._http import Call, Reply

RESULTS = "/results/"
TASKS = "/v1/tasks"
SUBMIT = "/v1/videos/generations"

Stage = Literal["before", "after", "callback"]
_Do = TypeVar("_Do", bound=Callable[..., None])


@attrs.frozen
class Action:
    """A misbehaviour by name: when it strikes, where unless a fault says otherwise, and how."""

    name: str
    stage: Stage
    path: str | None
    """None: every path of the service."""
    run: Callable[..., None]
    details: dict[str, Kind]

    @property
    def summary(self) -> str:
        """Return the first paragraph of its documentation, in one line."""
        return " ".join((inspect.getdoc(self.run) or "").partition("\n\n")[0].split())


ACTIONS: dict[str, Action] = {}
"""Every misbehaviour by name."""


def fault(stage: Stage, *, path: str | None = None) -> Callable[[_Do], _Do]:
    """Make a fault of a function; see the module's documentation."""

    def _register(run: _Do) -> _Do:
        name = run.__name__.replace("_", "-")
        ACTIONS[name] = Action(name, stage, path, run, kinds_of(run))
        return run

    return _register


# --- What an action is given to work on.


@attrs.define
class Delivery:
    """How an answer leaves: as it should, unless a fault says otherwise."""

    delay: float = 0.0
    """Real seconds before the first byte."""
    silent: bool = False
    """Nothing is sent: after `delay`, or at the sandbox's end when it is infinite, the connection
    is dropped."""
    chunk: int | None = None
    """Send the body in pieces of so many bytes, `interval` real seconds apart."""
    interval: float = 0.0
    stop_after: int | None = None
    """Send only so many bytes of the body that was announced, then close the connection."""
    reset: bool = False
    """Close with a reset instead of an orderly end."""
    encoding: Literal["gzip", "deflate"] | None = None
    """Compress the body, whether the client asked for that or not."""
    surplus: bytes = b""
    """What follows the answer on the same connection, `surplus_delay` real seconds later."""
    surplus_delay: float = 0.0


@attrs.define
class Act:
    """One exchange while faults are at work on it."""

    service: Any
    call: Call
    delivery: Delivery
    answer: Reply | None = None
    """None while the call has not been handled; a `before` fault that sets it prevents that."""
    request_id: str | None = None
    """What an error's body names for support."""

    @property
    def true_answer(self) -> Reply:
        """Return the answer so far; only after the call has been handled."""
        if self.answer is None:
            raise RuntimeError("the call has not been handled yet")
        return self.answer


@attrs.define
class Post:
    """How one callback leaves: once and at once, unless faults say otherwise."""

    copies: int = 1
    delay: float = 0.0
    """Sandbox seconds before the first copy."""
    held: bool = False
    """It waits until another one has overtaken it."""
    dropped: bool = False


@attrs.frozen(init=False, eq=False)
class Fault:
    """One misbehaviour of the sandbox and the requests that suffer it.

    `nth`, `after`, `times` and `probability` count the requests that match `method`, `path` and
    `sending` since the fault was added. With `lasting` each that suffers begins a spell: all that
    match suffer for so many sandbox seconds, uncounted.
    """

    action: str
    """One of `ACTIONS`."""
    method: str | None
    path: str | None
    """A prefix, or a glob when it contains `*`, `?` or `[`; None: wherever the action makes sense.
    """
    sending: frozenset[int] | None
    """Only these sendings of one `Idempotency-Key`, counted from 1: 2 is the first replay."""
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
    lasting: float
    """Sandbox seconds for which all suffer once one does: maintenance, a key that is changed."""
    details: dict[str, Any]
    """What the action needs: `status`, `body`, `headers`, `seconds`, `bytes`, `fraction`, ..."""

    def __init__(
        self,
        action: str,
        *,
        method: str | None = None,
        path: str | None = None,
        sending: Positions | None = None,
        nth: Positions | None = None,
        times: Times | None = -1,
        probability: Share | None = None,
        seed: int = 0,
        after: Count = 0,
        lasting: Span = 0.0,
        **details: Any,
    ) -> None:
        known = _action(action, details)
        given: dict[str, Any] = {
            "method": method,
            "path": path,
            "sending": sending,
            "nth": nth,
            "times": times,
        }
        given |= {"probability": probability, "seed": seed, "after": after, "lasting": lasting}
        check(action, given, CONDITIONS)
        check(action, details, known.details)
        positions = _positions(nth)
        if times == -1:
            times = (
                None if probability is not None else len(positions) if positions is not None else 1
            )
        self.__attrs_init__(
            action,
            method,
            known.path if path is None else path,
            _positions(sending),
            positions,
            times,
            probability,
            seed,
            after,
            lasting,
            details,
        )

    @property
    def stage(self) -> Stage:
        """Return when it strikes."""
        return ACTIONS[self.action].stage

    def run(self, act: Act | Post) -> None:
        """Do to an exchange, or to a callback, what the fault is about."""
        ACTIONS[self.action].run(act, **self.details)

    def matches(self, method: str, path: str, sending: int | None = None) -> bool:
        """Return whether the fault is about such a request at all.

        `sending` is how often the request's key was sent, this time included; None without one.
        """
        if self.method is not None and self.method.upper() != method:
            return False
        if self.sending is not None and sending not in self.sending:
            return False
        if self.path is None:
            return True
        return (
            fnmatchcase(path, self.path)
            if any(mark in self.path for mark in "*?[")
            else path.startswith(self.path)
        )


CONDITIONS = kinds_of(Fault.__init__)
"""The conditions of every fault."""


def fault_of(told: dict[str, Any]) -> Fault:
    """Return the fault that a JSON object describes: its action, its conditions, its `details`.

    Raises `ValueError`, which says what is wrong.
    """
    details = told.get("details", {})
    if not isinstance(details, dict):
        raise ValueError("details must be an object")
    conditions = {name: value for name, value in told.items() if name in CONDITIONS}
    if unknown := told.keys() - conditions.keys() - {"action", "details"}:
        raise ValueError(f"a fault has no {', '.join(sorted(unknown))}; details are in `details`")
    if clash := details.keys() & CONDITIONS.keys():
        raise ValueError(f"{', '.join(sorted(clash))} stands beside `details`, not in them")
    return Fault(told.get("action", ""), **conditions, **details)


def fault_of_line(line: str) -> Fault:
    """Return the fault that a line of words describes, as commands take it.

    The action, then `name=value` for conditions and details: `late-link seconds=20 times=null`.
    Values are JSON, or else text; quotes work as in a shell. A whole JSON object does as well.
    Raises `ValueError`.
    """
    if line.lstrip().startswith("{"):
        return fault_of(json.loads(line))
    action, *words = shlex.split(line) or [""]
    given: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign:
            raise ValueError(f"{word!r} is not name=value, in the fault {line!r}")
        try:
            given[name.replace("-", "_")] = json.loads(text)
        except ValueError:
            given[name.replace("-", "_")] = text
    return Fault(action, **given)


def _positions(given: Positions | None) -> frozenset[int] | None:
    if given is None:
        return None
    return frozenset({given}) if isinstance(given, int) else frozenset(given)


def _action(name: str, details: dict[str, Any]) -> Action:
    if not isinstance(name, str) or name not in ACTIONS:
        raise ValueError(f"no such fault: {name!r}; there are {', '.join(sorted(ACTIONS))}")
    known = ACTIONS[name].details
    if unknown := details.keys() - known:
        raise ValueError(
            f"{name} takes {', '.join(sorted(known)) or 'no details'}, "
            f"not {', '.join(sorted(unknown))}"
        )
    return ACTIONS[name]


@attrs.define
class _Armed:
    """A fault that waits for its requests."""

    fault: Fault
    chance: Random
    seen: int = 0
    fired: int = 0
    until: float = -inf
    """When its present spell ends, in sandbox time."""

    def strikes(self, method: str, path: str, sending: int | None, now: float) -> bool:
        """Count a request if it matches, and return whether it suffers."""
        fault = self.fault
        if not fault.matches(method, path, sending):
            return False
        if now < self.until:
            return True
        self.seen += 1
        position = self.seen - fault.after
        spared = position < 1 or (fault.nth is not None and position not in fault.nth)
        if spared or (fault.times is not None and self.fired >= fault.times):
            return False
        if fault.probability is not None and self.chance.random() >= fault.probability:
            return False
        self.fired += 1
        self.until = now + fault.lasting
        return True


class FaultPlan:
    """The faults of a sandbox, in the order in which they were added."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._sendings: Counter[str] = Counter()

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

    def sent(self, key: str) -> int:
        """Count a sending of an `Idempotency-Key`, and return how often it was sent."""
        self._sendings[key] += 1
        return self._sendings[key]

    def strike(
        self,
        method: str,
        path: str,
        sending: int | None = None,
        now: float = 0.0,
        *,
        callback: bool = False,
    ) -> list[Fault]:
        """Return the faults that one request, or one callback, suffers at a time of the sandbox,
        and count it.
        """
        return [
            armed.fault
            for armed in self._armed
            if (armed.fault.stage == "callback") is callback
            and armed.strikes(method, path, sending, now)
        ]
