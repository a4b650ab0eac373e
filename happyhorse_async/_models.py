"""What the service says, as frozen values: tasks, money, files.

Imports nothing of ours. Times are timezone-aware datetimes in UTC, durations seconds, sizes bytes,
credits exact decimals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ._values import Value, plain


class Model(StrEnum):
    """The image-to-video models that this package knows; the service may have newer ones."""

    HAPPYHORSE_1_0 = "happyhorse-1.0-image-to-video"
    HAPPYHORSE_1_1 = "happyhorse-1.1-image-to-video"
    """Costs 1.29 times as much in 1080p as in 720p, where 1.0 costs 1.72 times as much."""


MODEL: str = Model.HAPPYHORSE_1_0.value
"""The model of a request that names none."""


TASK_ID = re.compile("[A-Za-z0-9._:-]{1,128}")
"""Task ids that can be asked for: those of the reference begin with "task-unified-", the vendor's
client takes any of these."""


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
    _late: Callable[[Task], Mapping[str, Any]] | None = attrs.field(
        default=None, init=False, repr=False, eq=False
    )
    """Reads the other fields from `raw` when the first of them is asked for. Of ten thousand tasks
    that end at once, few are looked at."""

    _answer: Callable[[Task], Mapping[str, Any]] | None = attrs.field(
        default=None, init=False, repr=False, eq=False
    )
    """Reads `raw` anew when it is asked for, where the answer is kept as bytes: as an object it
    takes four times the memory, and of ten thousand tasks in flight nobody looks at it."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name == "raw" and (answer := self._answer) is not None:
                return answer(self)
            late = None if name == "_late" else self._late
            if late is None or name not in Task.__slots__:
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
                )
            for field, value in late(self).items():
                object.__setattr__(self, field, value)
            object.__setattr__(self, "_late", None)
            return object.__getattribute__(self, name)


@attrs.frozen(kw_only=True)
class TaskSummary(Value):
    """One line of the service's task list; it has no result links."""

    id: str
    status: TaskStatus | str
    model: str = ""
    created: datetime | None = None
    progress: int = 0
    has_results: bool = False
    has_error: bool = False
    credits_used: Decimal | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)


@attrs.frozen(kw_only=True)
class TaskPage(Value):
    """One page of the service's task list, newest first."""

    items: tuple[TaskSummary, ...]
    total: int
    page: int
    page_size: int

    @property
    def is_last(self) -> bool:
        """Whether no further page follows: this one is short, and `total` promises no more."""
        read = (self.page - 1) * self.page_size + len(self.items)
        return not self.items or (len(self.items) < self.page_size and read >= self.total)


Source = Literal["account", "catalog", "bundled"]


@attrs.frozen(kw_only=True)
class Estimate(Value):
    """What one or more requests will cost; settlement follows the actual length of the output."""

    credits: Decimal
    """Exact, in whole uc: four decimal places."""
    usd: Decimal
    """The same in US dollars, at the service's fixed rate, to eight decimal places."""
    uc: int
    """The same in the service's smallest unit: 10,000 uc are one credit, 680,000 one US dollar."""
    requests: int = 1
    scope: Literal["account", "public"] = "public"
    """"account": what this account pays, discounts included. "public": what everybody pays who has
    none, because there is no key or the service does not tell the account's price."""
    source: Source = "bundled"
    """"account": the service was asked for the account's own price. "catalog": the service's live
    rule. "bundled": the rule that came with this package, because the live one could not be had. Of
    several requests the weakest one counts."""
    as_of: str = ""
    """The day on which the rule was last changed, or the account's price was told (ISO 8601); ""
    when that is not known."""


@attrs.frozen(kw_only=True)
class RefusalDetails(Value):
    """What the service adds to a refusal over money or rights. What it did not say, or not in a
    usable way, is None.
    """

    as_of: datetime
    """The service's time of the refusal."""
    key_name: str | None = None
    """What the key is called on the dashboard; not the key."""
    estimated_credits: Decimal | None = None
    """What the request would have cost."""
    account_balance_credits: Decimal | None = None
    total_limit_credits: Decimal | None = None
    """The key's own spending limit."""
    used_credits: Decimal | None = None
    """What the key has spent of that."""
    remaining_credits: Decimal | None = None
    """What is left of the limit that is used up."""
    daily_limit_credits: Decimal | None = None
    daily_used_credits: Decimal | None = None
    reset_timezone: str | None = None
    """The name of the time zone at whose midnight the daily limit resets."""
    allowed_models: tuple[str, ...] = ()
    """The models that the key may use."""
    expired_at: datetime | None = None
    limit_scope: str | None = None
    """Whose limit it is, in the service's word."""
    action_url: str | None = None
    """Where the service says that this can be mended. Show it; do not open it unasked."""

    @property
    def resets_at(self) -> datetime | None:
        """Return when the daily limit resets, in UTC: the next midnight of `reset_timezone`.

        None when the service named no zone, or one that this machine does not know.
        """
        if self.reset_timezone is None:
            return None
        from zoneinfo import ZoneInfo  # late: few programs meet a daily limit

        try:
            zone = ZoneInfo(self.reset_timezone)
            tomorrow = self.as_of.astimezone(zone).date() + timedelta(days=1)
            return datetime.combine(tomorrow, time(), zone).astimezone(UTC)
        except (LookupError, ValueError, OverflowError, OSError):
            return None


@attrs.frozen(kw_only=True)
class Credits(Value):
    """What is left in the account and in the key."""

    remaining: Decimal
    used: Decimal
    key_remaining: Decimal | None = None
    key_used: Decimal | None = None
    key_unlimited: bool = False

    @property
    def spendable(self) -> Decimal:
        """The credits that this key can still spend: the lesser of the account's and the key's."""
        if self.key_unlimited or self.key_remaining is None:
            return self.remaining
        return min(self.remaining, self.key_remaining)

    def to_dict(self) -> dict[str, Any]:
        """Return the credits as JSON has them, with `spendable`."""
        return {**super().to_dict(), "spendable": plain(self.spendable)}


@attrs.frozen(kw_only=True)
class UploadedFile(Value):
    """A file on the service's file host; public, and gone 72 hours after the upload."""

    url: str
    id: str = ""
    name: str = ""
    size: int = 0
    mime_type: str = ""
    expires_at: datetime | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)
