"""How long an answer that cannot be the last word is not taken for it.

Within minutes a service of many replicas denies tasks that it has accepted. It also completes tasks
whose links it does not have yet. Pure: times are passed in.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

import attrs

from .._config import Polling
from .._rules.pacing import growing_pause

STRANGER_SECONDS = 8.0
STRANGER_REFUSALS = 3
"""For an id that nobody here has seen: the seconds of denial, or refusals in a row, before waiters
are told. It may be a typing error, and they should not wait for long."""


@attrs.define(eq=False, repr=False)
class ReadTrouble:
    """What is wrong with reading one task. A good answer ends it."""

    failures: int = 0
    """Reads in a row that failed."""
    denials: int = 0
    """Reads in a row in which the service did not know the task."""
    refusals: int = 0
    """Those of them in which it was asked for the task alone."""
    denied_since: float = math.inf
    """When the first of them was answered."""
    empty: int = 0
    """Reads that said that the task is completed, and gave no links."""
    empty_since: float = math.inf
    """When the first of them was answered."""
    alone: bool = False
    """To be read by itself next time, to confirm what a batch said."""
    look: bool = False
    """To be looked for in the account's list, should it be denied once more."""

    def allow(self) -> None:
        """Forget the denials: the service knows the task."""
        self.denials = self.refusals = 0
        self.denied_since = math.inf
        self.alone = self.look = False


class Belief(Enum):
    """What follows from an answer that may not be the last word."""

    LATER = "later"
    """The task is asked for again after a pause."""
    ALONE = "alone"
    """It is asked for at once, by itself: a batch that lacks it, or its links, is no last word."""
    BELIEVE = "believe"
    """The answer is the last word."""


class Believing(NamedTuple):
    """The decision, and the pause in seconds when it is a later one."""

    what: Belief
    pause: float = 0.0


def after_denial(
    trouble: ReadTrouble,
    polling: Polling,
    now: float,
    *,
    seen: bool,
    refused: bool,
    listed: bool | None,
    room: bool,
) -> Believing:
    """Decide what follows when the service does not know a task.

    `seen`: it is known to have accepted the task. `refused`: it was asked for the task alone, and
    `listed` is what its list said then (None: nothing). `room`: few tasks are asked for alone.
    """
    trouble.denials += 1
    trouble.refusals += refused
    trouble.denied_since = min(trouble.denied_since, now)
    denied = now - trouble.denied_since
    left = polling.patience - denied if seen else _left_of_a_stranger(trouble, denied)
    if refused and left <= 0:
        # A list that cannot be looked at gets as much time again; no wait is without end for it.
        if not seen or listed is False or denied >= 2 * polling.patience:
            return Believing(Belief.BELIEVE)
        if listed:
            trouble.allow()
    elif not refused and (left <= 0 or (trouble.denials == 1 and room)):
        trouble.look = seen and left <= 0
        return Believing(Belief.ALONE)
    pause = growing_pause(polling, trouble.denials if seen else trouble.refusals)
    if left > 0:
        pause = min(pause, max(left, polling.min_interval))
    trouble.look = seen and pause >= left and not listed
    trouble.alone = trouble.look or not seen
    return Believing(Belief.LATER, pause)


def _left_of_a_stranger(trouble: ReadTrouble, denied: float) -> float:
    if trouble.refusals >= STRANGER_REFUSALS:
        return 0.0
    return STRANGER_SECONDS - denied if trouble.denials > 1 else STRANGER_SECONDS


def after_emptiness(
    trouble: ReadTrouble, polling: Polling, now: float, *, alone: bool, room: bool
) -> Believing:
    """Decide what follows when a task is completed, and its links are not there.

    `alone`: it was asked for alone. An answer about many may tell links as little as the list does.
    So from the second time on the task is asked for alone, while there is `room`.
    """
    trouble.allow()
    trouble.empty += 1
    trouble.empty_since = min(trouble.empty_since, now)
    if now - trouble.empty_since >= polling.patience:
        return Believing(Belief.BELIEVE)
    if trouble.empty > 1 and room and not alone:
        return Believing(Belief.ALONE)
    return Believing(Belief.LATER, growing_pause(polling, trouble.empty))
