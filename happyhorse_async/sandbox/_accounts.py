"""Accounts and their money: what a key may do, and the ledger of charges.

Reserve on acceptance, settle on success, refund on failure. Amounts are credits as exact `Decimal`,
always whole uc (10,000 uc are 1 credit).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from email.utils import formatdate
from math import ceil
from typing import Any, Literal
from zoneinfo import ZoneInfo

import attrs

from ._errors import Refused
from ._features import one_of
from ._prices import IMAGE_TO_VIDEO


def _limit(value: Any) -> Decimal | None:
    return None if value is None else Decimal(value)


@attrs.frozen(kw_only=True)
class Account:
    """A customer of the sandbox: what its key may do and what it owns."""

    key: str
    name: str = "sandbox key"
    """What the key is called in refusals."""
    credits: Decimal = attrs.field(default=Decimal(1_000_000), converter=Decimal)
    token_credits: Decimal | None = attrs.field(default=None, converter=_limit)
    """A limit of this key alone; None: unlimited."""
    daily_credits: Decimal | None = attrs.field(default=None, converter=_limit)
    """What this key may spend a day; None: unlimited."""
    reset_timezone: str = "UTC"
    """Where the day of `daily_credits` begins at midnight."""
    discount: Decimal = attrs.field(default=Decimal(1), converter=Decimal)
    """The share of the public price that this account pays; its estimates say so."""
    file_quota: int = 2000
    rate_limit: float | None = None
    """Submissions a second; None: no limit."""
    models: tuple[str, ...] = IMAGE_TO_VIDEO
    """The models that the key may use."""
    active: bool = True
    """Off: every call answers 403 with `inactive_code`."""
    expires_at: float | None = None
    """Sandbox time from which on every call answers 403 `key_expired`."""
    action_url: str = "https://sandbox.example.com/billing"
    """Where the refusals send the owner."""
    balance_code: str = one_of(
        "insufficient_quota",
        "insufficient_user_quota",
        "quota_not_enough",
        "account_balance_insufficient",
    )
    """What an empty account answers; the service has several words for each refusal."""
    key_code: str = one_of("insufficient_token_quota", "key_quota_exhausted", "quota_exceeded")
    """What a key answers whose own limit is used up."""
    daily_code: str = one_of("token_daily_quota_exceeded", "key_daily_quota_exhausted")
    """What a key answers whose day is used up."""
    model_code: str = one_of("key_model_not_allowed", "model_access_denied")
    """What a model answers that is not in `models`."""
    inactive_code: str = one_of("permission_denied", "key_disabled", "user_disabled")

    def check(self, now: float) -> None:
        """Raise `Refused` (403) when the key is switched off or has expired."""
        told = {"key_name": self.name, "action_url": self.action_url}
        if not self.active:
            scope = "account" if self.inactive_code == "user_disabled" else "key"
            raise Refused(
                403, self.inactive_code, "not active", details={**told, "limit_scope": scope}
            )
        if self.expires_at is not None and now >= self.expires_at:
            told["limit_scope"] = "key"
            raise Refused(
                403,
                "key_expired",
                "this key has expired",
                details={**told, "expired_at": int(self.expires_at)},
            )

    def check_model(self, model: str) -> None:
        """Raise `Refused` (403) when the key may not use a model."""
        if model not in self.models:
            details = {"key_name": self.name, "allowed_models": list(self.models)}
            message = f"this key may not use {model}"
            raise Refused(403, self.model_code, message, param="model", details=details)

    @property
    def zone(self) -> tzinfo:
        """Return the time zone of `reset_timezone`."""
        return UTC if self.reset_timezone == "UTC" else ZoneInfo(self.reset_timezone)


@attrs.frozen
class Entry:
    """A line of the ledger of charges."""

    at: float
    kind: Literal["reserve", "settle", "refund"]
    task_id: str
    credits: Decimal


@attrs.define
class Charge:
    """What one task costs so far."""

    reserved: Decimal
    day: date
    """The day on whose limit it counts."""
    charged: Decimal = Decimal(0)
    refunded: Decimal = Decimal(0)
    refunded_at: float | None = None
    status: Literal["reserved", "charged", "released"] = "reserved"


@attrs.define(eq=False)
class Wallet:
    """The money and the limits of one account while the sandbox runs."""

    account: Account
    reserved: Decimal = Decimal(0)
    used: Decimal = Decimal(0)
    files: int = 0
    tokens: float = 1.0
    """Submissions that the rate limit permits right now."""
    refilled: float = 0.0
    day: date = date.min
    spent_today: Decimal = Decimal(0)
    """What is reserved or charged of the day's limit."""

    @property
    def remaining(self) -> Decimal:
        """Return the account's credits that are neither used nor reserved."""
        return self.account.credits - self.reserved - self.used

    @property
    def token_remaining(self) -> Decimal | None:
        """Return the key's own credits that are left; None when it has no limit of its own."""
        limit = self.account.token_credits
        return None if limit is None else limit - self.reserved - self.used

    def reserve(self, amount: Decimal, now: float) -> Charge:
        """Set credits aside for a task; raises `Refused` (402) when there are too few."""
        account = self.account
        today = date.min if account.daily_credits is None else self._today(now)
        if self.remaining < amount:
            self._refuse(account.balance_code, amount, "account", self.remaining)
        if self.token_remaining is not None and self.token_remaining < amount:
            limits = {"total_limit_credits": account.token_credits, "used_credits": self.used}
            self._refuse(account.key_code, amount, "key", self.token_remaining, **limits)
        if account.daily_credits is not None:
            left = account.daily_credits - self.spent_today
            if left < amount:
                limits = {"daily_limit_credits": account.daily_credits}
                limits["daily_used_credits"] = self.spent_today
                self._refuse(account.daily_code, amount, "key_daily", left, **limits)
        self.reserved += amount
        self.spent_today += amount
        return Charge(reserved=amount, day=today)

    def settle(self, charge: Charge, amount: Decimal) -> None:
        """Take the true price of a finished task and free the rest of its reservation."""
        self._free(charge, amount)
        self.used += amount
        charge.charged, charge.status = amount, "charged"

    def refund(self, charge: Charge, now: float) -> None:
        """Free the whole reservation of a failed task."""
        self._free(charge, Decimal(0))
        charge.refunded, charge.refunded_at, charge.status = charge.reserved, now, "released"

    def admit(self, real_now: float) -> None:
        """Count one submission against the rate limit; raises `Refused` (429) when it is used up.

        A bucket that holds one second's worth and fills in real time: clients wait in real time.
        """
        rate = self.account.rate_limit
        if rate is None:
            return
        room = max(1.0, rate)
        full = self.tokens + (real_now - self.refilled) * rate if self.refilled else room
        self.tokens, self.refilled = min(room, full), real_now
        if self.tokens < 1:
            raise RateLimited((1 - self.tokens) / rate)
        self.tokens -= 1

    def _today(self, now: float) -> date:
        today = datetime.fromtimestamp(now, self.account.zone).date()
        if today != self.day:
            self.day, self.spent_today = today, Decimal(0)
        return today

    def _free(self, charge: Charge, kept: Decimal) -> None:
        self.reserved -= charge.reserved
        if charge.day == self.day:
            self.spent_today += kept - charge.reserved

    def _refuse(
        self, code: str, amount: Decimal, scope: str, left: Decimal, **limits: Decimal | None
    ) -> None:
        told = {"estimated_credits": amount, "account_balance_credits": self.remaining, **limits}
        details: dict[str, Any] = {name: float(told[name] or 0) for name in told}
        details |= {"remaining_credits": float(left), "limit_scope": scope}
        details |= {"key_name": self.account.name, "action_url": self.account.action_url}
        if scope == "key_daily":
            details["reset_timezone"] = self.account.reset_timezone
        message = f"{amount} credits are needed, {left} are left"
        raise Refused(402, code, message, details=details)


class RateLimited(Refused):
    """429 `rate_limit_exceeded`: `wait` real seconds are left until the next submission is
    accepted.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(429, "rate_limit_exceeded", "too many requests, slow down")
        self._wait = max(1, ceil(wait))

    def retry_after(self, now: float, *, as_date: bool) -> str:
        """Return the value of `Retry-After`: whole seconds, or an HTTP date."""
        return formatdate(int(now) + self._wait, usegmt=True) if as_date else str(self._wait)
