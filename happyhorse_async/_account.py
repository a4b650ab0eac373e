"""What the service says of an account, as frozen values: its list of tasks, money, files.

Times are timezone-aware datetimes in UTC, sizes bytes, credits exact decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal

import attrs

from ._models import TaskStatus
from ._values import Value, plain


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
    """"account": what this account pays, discounts included. "public": what everybody else pays,
    without a key or where the service does not tell the account's price."""
    source: Source = "bundled"
    """"account": the service was asked for the account's own price. "catalog": the service's live
    rule. "bundled": the rule that came with this package, where the live one could not be read. Of
    several requests the weakest one counts."""
    as_of: str = ""
    """The day of the rule's last change, or of the account's price (ISO 8601). "" when not
    known."""


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
