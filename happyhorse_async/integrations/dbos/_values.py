"""What a cluster is told and what it tells, as values; loads neither DBOS nor SQLAlchemy."""

from __future__ import annotations

from typing import Any

import attrs

from ..._config import Budget, RetryPolicy, number, refuse, time_limit
from ...batch._follow import PAUSES, retry_policy
from ...errors import HappyHorseError

MOST = 1_000_000_000
"""More tasks, jobs, submissions a second or credits are a slip, and do not fit into every column.
"""


@attrs.frozen
class ClusterLimits:
    """What holds over all workers together; None: no limit."""

    unfinished: int | None = None
    """Tasks that have not ended."""
    rate: float | None = None
    """Submissions a second."""
    budget: int | None = None
    """Millionths of a credit."""
    spent: int = 0
    reserved: int = 0


def _check_credits(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and float(Budget(credits=value).credits) > MOST:
        refuse(owner, field, value, f"at most {MOST:,} credits")


@attrs.frozen(kw_only=True)
class LimitsToSet:
    """Limits as somebody sets them; None leaves one as it is. Raises `ConfigurationError` for what
    is none: it would be no limit, or end every worker.
    """

    unfinished: int | None = attrs.field(validator=number(1, MOST, whole=True, optional=True))
    rate: float | None = attrs.field(validator=number(0.01, MOST, optional=True))
    credits: float | str | None = attrs.field(validator=_check_credits)


@attrs.frozen(kw_only=True)
class WorkerOptions:
    """How a worker works."""

    in_flight: int = attrs.field(default=300, validator=number(1, MOST, whole=True))
    """Jobs that each worker has in its hands at once; the same for all, the last one started says.
    """
    drain: float = attrs.field(default=25.0, validator=number(0))
    """Seconds after SIGTERM in which paid jobs may end; the rest goes on in other workers."""
    until_done: bool = False
    """End when no job is left."""
    retry: RetryPolicy = attrs.field(default=PAUSES, validator=retry_policy)
    """As in a batch."""
    timeout: float | None = None
    """Seconds to wait for one task before it is told as not ended, and waited for again."""

    def __attrs_post_init__(self) -> None:
        time_limit(self.timeout, paid=True)


@attrs.frozen(kw_only=True)
class WorkerFacts:
    """A worker as the others see it."""

    id: int
    host: str
    pid: int
    started: float
    seen: float
    """When it last said that it is there, in Unix seconds."""
    in_hand: int
    """Jobs that it works on."""
    adopted: int
    """Jobs that it has taken over from dead workers."""
    word: str
    """What it waits for, if it does."""
    alive: bool
    """Whether it holds its lock."""


@attrs.frozen(kw_only=True)
class RefusedRow:
    """A row that did not become a job."""

    id: str
    error: HappyHorseError


@attrs.define(kw_only=True)
class Enqueued:
    """What became of an input."""

    added: int = 0
    """Jobs that were put into the queue."""
    known: int = 0
    """Rows whose jobs are in the queue, or have ended."""
    taken_over: int = 0
    """Jobs of a folder that are paid for, or may be."""
    saved: int = 0
    """Jobs of a folder whose videos are there."""
    refused: list[RefusedRow] = attrs.field(factory=list)
