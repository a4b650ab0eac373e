"""Accounts, prices and the ledger of charges: reserve on acceptance, settle on success, refund on
failure.

Amounts are credits as exact `Decimal`; 68 credits are 1 USD and 1 credit is 10,000 uc (seen in the
vendor's clients).
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from email.utils import formatdate
from math import ceil
from typing import Any, Literal

import attrs

from ._errors import Refusal
from ._submissions import MODEL

__all__ = [
    "Account",
    "Charge",
    "Entry",
    "RateLimited",
    "Wallet",
    "price",
    "pricing_rule",
    "uc",
    "usd",
]

_RATE = Decimal("7.616")
_QUALITY_FACTOR = {"720p": Decimal(1), "1080p": Decimal("1.72")}
_MINIMUM = Decimal("22.848")
_CREDITS_PER_USD = Decimal(68)
_UC_PER_CREDIT = Decimal(10_000)
_CNY_PER_USD = Decimal("6.8")


def price(duration: float, quality: str) -> Decimal:
    """Return the credits for a video of `duration` seconds, half up to whole uc (seen)."""
    exact = _RATE * _QUALITY_FACTOR[quality] * Decimal(str(duration))
    return max(exact.quantize(1 / _UC_PER_CREDIT, ROUND_HALF_UP), _MINIMUM)


def usd(credits_: Decimal) -> Decimal:
    """Return credits as US dollars, to six places."""
    return (credits_ / _CREDITS_PER_USD).quantize(Decimal("0.000001"))


def uc(credits_: Decimal) -> int:
    """Return credits in the service's smallest unit, rounded."""
    return int((credits_ * _UC_PER_CREDIT).to_integral_value())


@attrs.frozen(kw_only=True)
class Account:
    """A customer of the sandbox: what its key may do and what it owns."""

    key: str
    credits: Decimal = attrs.field(default=Decimal(1_000_000), converter=Decimal)
    token_credits: Decimal | None = attrs.field(
        default=None, converter=attrs.converters.optional(Decimal)
    )
    """A limit of this key alone; None: unlimited."""
    file_quota: int = 2000
    rate_limit: float | None = None
    """Submissions a second; None: no limit."""
    models: tuple[str, ...] = (MODEL,)
    """The models that the account may use."""
    active: bool = True
    """Off: every call answers 403 `permission_denied`."""


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
    charged: Decimal = Decimal(0)
    refunded: Decimal = Decimal(0)
    status: Literal["reserved", "settled", "released"] = "reserved"


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

    @property
    def remaining(self) -> Decimal:
        """Return the account's credits that are neither used nor reserved."""
        return self.account.credits - self.reserved - self.used

    @property
    def token_remaining(self) -> Decimal | None:
        """Return the key's own credits that are left; None when it has no limit of its own."""
        limit = self.account.token_credits
        return None if limit is None else limit - self.reserved - self.used

    def reserve(self, amount: Decimal) -> Charge:
        """Set credits aside for a task; raises `Refusal` (402) when there are too few."""
        if self.remaining < amount:
            raise Refusal(
                402, "insufficient_quota", f"{amount} credits are needed, {self.remaining} are left"
            )
        if self.token_remaining is not None and self.token_remaining < amount:
            raise Refusal(
                402,
                "quota_exceeded",
                f"{amount} credits are needed, the key has {self.token_remaining} left",
            )
        self.reserved += amount
        return Charge(reserved=amount)

    def settle(self, charge: Charge, amount: Decimal) -> None:
        """Take the true price of a finished task and free the rest of its reservation."""
        self.reserved -= charge.reserved
        self.used += amount
        charge.charged, charge.status = amount, "settled"

    def refund(self, charge: Charge) -> None:
        """Free the whole reservation of a failed task."""
        self.reserved -= charge.reserved
        charge.refunded, charge.status = charge.reserved, "released"

    def admit(self, real_now: float) -> None:
        """Count one submission against the rate limit; raises `Refusal` (429) when it is used up.

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


class RateLimited(Refusal):
    """429 `rate_limit_exceeded`: `wait` real seconds are left until the next submission is
    accepted.
    """

    def __init__(self, wait: float) -> None:
        super().__init__(429, "rate_limit_exceeded", "too many requests, slow down")
        self._wait = max(1, ceil(wait))

    def retry_after(self, now: float, *, as_date: bool) -> str:
        """Return the value of `Retry-After`: whole seconds, or an HTTP date."""
        return formatdate(int(now) + self._wait, usegmt=True) if as_date else str(self._wait)


def pricing_rule(now: float) -> dict[str, Any]:
    """Return the answer of the catalogue for this model (seen; the shape and the amounts of
    2026-10-10).

    `now` is Unix seconds: the rule is fresh until five minutes later, as the service's is.
    """
    factors = {quality: str(factor) for quality, factor in reversed(_QUALITY_FACTOR.items())}
    quality: dict[str, Any] = {"op": "variable", "name": "quality"}
    quantity = {
        "op": "multiply",
        "args": [
            {"op": "variable", "name": "duration_seconds"},
            {"op": "lookup", "key": quality, "values": factors},
        ],
    }
    component = {
        "id": "video_output",
        "role": "video_output",
        "dimension": "output_second",
        "sku_id": "4201",
        "unit": "output_second",
        "billing_unit_size": 1,
        "display_unit_size": 1,
        "rate": _amounts(_RATE),
        "minimum_charge": _amounts(_MINIMUM),
        "billing_rule": "per_second",
        "pricing_status": "available",
        "effective_at": "2026-10-08T20:40:06.504Z",
        "quantity_rule": quantity,
        "rounding": {"point": "per_component_subtotal", "mode": "half_up"},
        "tiers": [],
    }
    duration = {"name": "duration_seconds", "type": "decimal", "minimum": "3", "maximum": "15"}
    qualities = {"name": "quality", "type": "enum", "values": list(_QUALITY_FACTOR)}
    model = {
        "model_id": MODEL,
        "product_id": "happyhorse-1-0",
        "operation": "image_to_video",
        "modality": "video",
        "lifecycle": "active",
        "pricing_status": "available",
        "settlement_basis": "request_then_actual",
        "policy_version": 1,
        "policy_checksum": "21f051dd45f93273393c604565a7ec1c54d5207bd17f3e39b6ab19682c5bec53",
        "policy_source": "published",
        "parameters": [{**duration, "default": "5"}, {**qualities, "default": "720p"}],
        "components": [component],
    }
    meta = {
        "schema_version": "2",
        "pricing_version": "prc_8f4a873281b23540f02304d1",
        "price_scope": "public_default",
        "currency": "USD",
        "exchange_rate_version": "pricing-fx/v1:USD-CNY=6.8",
        "updated_at": "2026-10-10T06:52:34.303000193Z",
        "fresh_until": datetime.fromtimestamp(now + 300, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "catalog_version": "cat_ee94a2120e4b53ca78cbeb30",
    }
    return {"meta": meta, "model": model}


def _amounts(credits_: Decimal) -> dict[str, str]:
    dollars = credits_ / _CREDITS_PER_USD
    amounts = {
        "uc": credits_ * _UC_PER_CREDIT,
        "credits": credits_,
        "cny": dollars * _CNY_PER_USD,
        "usd": dollars,
    }
    return {unit: f"{amount.normalize():f}" for unit, amount in amounts.items()}
