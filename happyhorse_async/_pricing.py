"""What requests will cost: by the service's live pricing rule, or by the bundled one when that
cannot be had.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any, Literal

import anyio
import attrs

from ._edges.api import Api
from ._models import MODEL, Estimate, Model
from ._request import ImageToVideo
from ._rules import prices
from .errors import HappyHorseError, InvalidRequestError, PriceUnavailableError

logger = logging.getLogger("happyhorse_async")

LIVE_RULE_LIMIT = 10.0
"""Seconds that the live rule may take before the bundled one is used: a price must not hold up a
submission for long."""
RETRY_AFTER = 600.0
"""Seconds until the live rule is asked for again after it could not be had."""

_BUNDLED: Mapping[str, str] = {
    Model.HAPPYHORSE_1_0: "pricing_rule.json",
    Model.HAPPYHORSE_1_1: "pricing_rule_1.1.json",
}


@cache
def bundled_rule(model: str = MODEL) -> Mapping[str, Any] | None:
    """Return the rule that came with this package, None for a model that it does not know.

    It is the service's answer of 2026-10-10, word for word.
    """
    name = _BUNDLED.get(model)
    if name is None:
        return None
    rule: Mapping[str, Any]
    rule = json.loads(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))
    return rule


@attrs.define(eq=False)
class _Prices:
    """One model's rule, and the prices that it has given."""

    rule: Mapping[str, Any] | None = None
    source: Literal["catalog", "bundled"] = "bundled"
    etag: str | None = None
    good_until: float = float("-inf")
    known: dict[tuple[int, str], int | str] = attrs.field(factory=dict)
    """What a duration and a quality cost in uc, or why that cannot be said."""
    lock: anyio.Lock = attrs.field(factory=anyio.Lock)

    def price(self, request: ImageToVideo) -> int:
        """Return what a request costs, in uc; raises `PriceUnavailableError`."""
        kind = request.duration, request.quality
        price = self.known.get(kind)
        if price is None:
            price = self.known[kind] = self._evaluated(request)
        if isinstance(price, str):
            raise PriceUnavailableError(f"the service's pricing rule gives no price: {price}")
        return price

    def _evaluated(self, request: ImageToVideo) -> int | str:
        if self.rule is None:
            return f"neither the service nor this package has one for {request.model!r}"
        try:
            return prices.price_of(self.rule, request)
        except prices.PricingRuleError as error:
            return str(error)


class Pricing:
    """The session's one book of prices; a rule is read when it is first needed, and again when it
    is no longer fresh.
    """

    def __init__(self, api: Api, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._models: dict[str, _Prices] = {}

    async def estimate(self, requests: ImageToVideo | Iterable[ImageToVideo]) -> Estimate:
        """Say what one or more requests will cost together.

        Raises `PriceUnavailableError` when the rule gives no price for one of them.
        """
        listed = [requests] if isinstance(requests, ImageToVideo) else requests
        uc, count, used = 0, 0, list[_Prices]()
        for request in listed:
            if not isinstance(request, ImageToVideo):
                raise InvalidRequestError(
                    [f"requests: expected an ImageToVideo, or several, got {request!r:.200}"]
                )
            book = await self._fresh(request.model)
            uc, count = uc + book.price(request), count + 1
            used += [book] if book not in used else []
        return Estimate(
            credits=prices.credits_of(uc),
            usd=prices.usd_of(uc),
            requests=count,
            source="bundled" if any(book.source == "bundled" for book in used) else "catalog",
            as_of=min((prices.date_of(book.rule or {}) for book in used), default=""),
        )

    async def credits_for(self, request: ImageToVideo) -> Decimal:
        """Say what one request will cost, in credits; raises `PriceUnavailableError`."""
        return prices.credits_of((await self._fresh(request.model)).price(request))

    async def _fresh(self, model: str) -> _Prices:
        book = self._models.get(model)
        if book is None:
            book = self._models[model] = _Prices()
        if self._clock() >= book.good_until:
            async with book.lock:
                if self._clock() >= book.good_until:
                    await self._read(model, book)
        return book

    async def _read(self, model: str, book: _Prices) -> None:
        why: object = f"no answer within {LIVE_RULE_LIMIT:g} s"
        with anyio.move_on_after(LIVE_RULE_LIMIT):
            try:
                live = await self._api.pricing_rule(model, etag=book.etag)
                rule, book.source = live.rule if live.rule is not None else book.rule, "catalog"
                if rule is not book.rule:
                    book.rule, book.etag, book.known = rule, live.etag, {}
                age = prices.fresh_for(live.rule or {}, live.date or datetime.now(UTC))
                book.good_until = self._clock() + age
                return
            except HappyHorseError as error:
                why = error
        self._do_without(model, book, why)

    def _do_without(self, model: str, book: _Prices, why: object) -> None:
        """Go on with what is there: the last live rule is nearer to the truth than the bundled."""
        book.good_until = self._clock() + RETRY_AFTER
        if book.source == "bundled":
            book.rule, book.known = bundled_rule(model), {}
        logger.warning(
            "no live pricing rule (%s): estimating with the one of %s",
            why,
            prices.date_of(book.rule or {}) or "no date",
            extra={"action": "old_price"},
        )
