"""What requests will cost: by the service's live pricing rule, or by the bundled one when that
cannot be had.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any, Literal, Protocol

import anyio

from ._models import Estimate
from ._request import DURATIONS, QUALITIES, ImageToVideo
from ._rules import prices
from .errors import HappyHorseError, InvalidRequestError

logger = logging.getLogger("happyhorse_async")

LIVE_RULE_LIMIT = 10.0
"""Seconds that the live rule may take before the bundled one is used: a price must not hold up a
submission for long."""
RETRY_AFTER = 600.0
"""Seconds until the live rule is asked for again after it could not be had."""


class RuleSource(Protocol):
    """Where the live rule comes from."""

    async def pricing_rules(self) -> dict[str, object]:
        """Read the rule as the service gives it."""


@cache
def bundled_rule() -> Mapping[str, Any]:
    """Read the rule that came with this package; `meta.as_of` is its date."""
    text = resources.files(__package__).joinpath("pricing_rule.json").read_text(encoding="utf-8")
    rule: Mapping[str, Any] = json.loads(text)
    return rule


class Pricing:
    """Estimates. The live rule is read once, when it is first needed."""

    def __init__(self, api: RuleSource) -> None:
        self._api = api
        self._rule: Mapping[str, Any] = {}
        self._source: Literal["catalog", "bundled"] = "bundled"
        self._good_until: float | None = 0.0
        self._prices: dict[tuple[int, str], prices.Price] = {}
        self._lock = anyio.Lock()

    async def estimate(self, requests: ImageToVideo | Iterable[ImageToVideo]) -> Estimate:
        """Say what one or more requests will cost together."""
        await self._load()
        listed = [requests] if isinstance(requests, ImageToVideo) else requests
        credits_, usd, count = Decimal(0), Decimal(0), 0
        for request in listed:
            if not isinstance(request, ImageToVideo):
                raise InvalidRequestError(
                    [f"requests: expected an ImageToVideo, or several, got {request!r:.200}"]
                )
            price = self._price(request)
            credits_, usd, count = credits_ + price.credits, usd + price.usd, count + 1
        as_of = prices.date_of(self._rule)
        return Estimate(credits=credits_, usd=usd, requests=count, source=self._source, as_of=as_of)

    async def credits_for(self, request: ImageToVideo) -> Decimal:
        """Say what one request will cost, in credits."""
        if self._good_until is not None:
            await self._load()
        return self._price(request).credits

    def _price(self, request: ImageToVideo) -> prices.Price:
        what = request.duration, request.quality
        price = self._prices.get(what)
        if price is None:
            price = self._prices[what] = prices.price_of(self._rule, request)
        return price

    async def _load(self) -> None:
        if not self._stale():
            return
        async with self._lock:
            if self._stale():
                await self._read()

    def _stale(self) -> bool:
        return self._good_until is not None and anyio.current_time() >= self._good_until

    async def _read(self) -> None:
        rule: Mapping[str, Any] = {}
        why: object = f"no answer within {LIVE_RULE_LIMIT:g} s"
        with anyio.move_on_after(LIVE_RULE_LIMIT):
            try:
                rule = await self._api.pricing_rules()
                _check(rule)
            except (HappyHorseError, prices.PricingRuleError) as error:
                rule, why = {}, error
        self._prices = {}
        if rule:
            self._rule, self._source, self._good_until = rule, "catalog", None
            return
        self._rule, self._source = bundled_rule(), "bundled"
        self._good_until = anyio.current_time() + RETRY_AFTER
        logger.warning(
            "no live pricing rule (%s): estimating with the one of %s",
            why,
            prices.date_of(self._rule),
            extra={"action": "bundled_price"},
        )


def _check(rule: Mapping[str, Any]) -> None:
    # All that can be asked for is tried: a rule that is not understood must be found out before
    # anything is promised by it.
    for quality in QUALITIES:
        for duration in DURATIONS:
            prices.price_of(
                rule,
                ImageToVideo("https://example.com/frame.png", quality=quality, duration=duration),
            )
