"""What the service says of a task, as frozen values.

Imports nothing of ours. What the service says of an account is apart, in `_account`. Making those
classes takes time, and a first submission needs none of them. Times are timezone-aware datetimes in
UTC, durations seconds, credits exact decimals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

from ._values import Value


class Model(StrEnum):
    """The image-to-video models that this package knows; the service may have newer ones."""

    HAPPYHORSE_1_0 = "happyhorse-1.0-image-to-video"
    HAPPYHORSE_1_1 = "happyhorse-1.1-image-to-video"
    """Costs 1.29 times as much in 1080p as in 720p, where 1.0 costs 1.72 times as much."""


MODEL: str = Model.HAPPYHORSE_1_0.value
"""The model of a request that names none."""


TASK_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._:-]{1,128}")
"""Task ids that can be asked for. Those of the reference begin with "task-unified-"; the vendor's
client takes any of these. One or two dots alone would be another path."""


class TaskStatus(StrEnum):
    """The statuses that the service's reference names. It may send newer ones: those stay plain
    text, and count as unfinished.
    """

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@attrs.frozen(kw_only=True)
class TaskError(Value):
    """Why a task failed, in the service's words."""

    code: str = "unknown_error"
    """The service's code; codes newer than this package are kept as they come."""
    message: str = ""
    """The service's sentence about it."""
    suggestion: str | None = None
    """What the service suggests, when it does."""


@attrs.frozen(kw_only=True)
class Usage(Value):
    """What a task has reserved or cost; each field is None while the service has not said it."""

    credits_reserved: Decimal | None = None
    """As reported at submission; its unit has differed between the service's pages, so do not
    calculate with it."""
    credits_used: Decimal | None = None
    """The settled charge in credits."""
    usd: Decimal | None = None
    """The settled charge in US dollars."""


@attrs.frozen(kw_only=True)
class Billing(Value):
    """The ledger facts of a task, where the service sends them: open text, kept as it comes.

    They are valid only with the `refund_scope` "account_balance".
    """

    charge_status: str | None = None
    """Seen: "unknown", "reserved", "charged", "released"."""
    refund_status: str | None = None
    """Seen: "unknown", "not_required", "pending", "failed", "completed"."""
    refund_scope: str | None = None
    """What the facts are about; "account_balance" is the only scope that says anything."""
    reserved_credits: Decimal | None = None
    charged_credits: Decimal | None = None
    refunded_credits: Decimal | None = None
    refunded_at: datetime | None = None
    """When the reservation was given back; None unless the service names a time in UTC."""


@attrs.frozen(kw_only=True)
class Task(Value):
    """What the service last said of a task: one snapshot."""

    id: str
    """Usually starts with "task-unified-"."""
    status: TaskStatus | str
    """A `TaskStatus`, or plain text when the word is newer than this package."""
    progress: int = 0
    """0 to 100."""
    results: tuple[str, ...] = ()
    """Links to the videos, each dead 24 hours after completion. Treat them as untrusted input:
    `download` does."""
    error: TaskError | None = None
    """Set when the task failed."""
    usage: Usage = Usage()
    """Reserved and settled credits."""
    billing: Billing | None = None
    """The service's ledger facts; the only proof of whether a failed task was charged."""
    model: str = MODEL
    created: datetime | None = None
    """When the service accepted it."""
    expires_at: datetime | None = None
    """The earliest time at which the links can die; None while there are none."""
    estimated_seconds: float | None = None
    """The service's guess in seconds: of how long the task takes in all, or of the time left. The
    reference shows the first, the vendor's client takes later ones for the second."""
    seconds: float | None = None
    """How long it took in all, once that is known."""
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)
    """The answer as it came, with the fields that are newer than this package."""
    _late: Callable[[Task, str], Mapping[str, Any]] | None = attrs.field(
        default=None, init=False, repr=False, eq=False
    )
    """Reads the other fields from `raw` when one of them is asked for: `results` alone, or all. Of
    ten thousand tasks that end at once, few are looked at but for their links."""

    _answer: Callable[[str], Mapping[str, Any]] | None = attrs.field(
        default=None, init=False, repr=False, eq=False
    )
    """Reads `raw` anew for an id when it is asked for, where the answer is kept as bytes. As an
    object it takes four times the memory, and nobody looks at it for ten thousand tasks in flight.
    """

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name == "raw" and (answer := self._answer) is not None:
                return answer(self.id)
            late = None if name == "_late" else self._late
            if late is None or name not in Task.__slots__:
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
                )
            for field, value in late(self, name).items():
                object.__setattr__(self, field, value)
            if name != "results":
                object.__setattr__(self, "_late", None)
            return object.__getattribute__(self, name)
