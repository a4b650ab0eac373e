"""What requests will cost: the account's own price where the service tells it, else the public one.
That comes from the live pricing rule, or from the bundled rule when there is no live one.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import anyio
import anyio.lowlevel
import attrs

from ._account import Estimate, Source
from ._edges.api import Api
from ._models import MODEL, Model
from ._request import ImageToVideo
from ._rules import prices
from ._rules.price_trees import PricingRuleError
from .errors import BadRequestError, HappyHorseError, PriceUnavailableError

logger = logging.getLogger("happyhorse_async")

PATIENCE = 10.0
"""Seconds that an answer may take before there has to be a price without it. A price must not hold
up a submission for long."""
RETRY_AFTER = 600.0
"""Seconds until something is asked for again that could not be had."""

SLICE = 500
"""Requests that are summed up in one turn of the event loop: making each takes microseconds."""

Kind = tuple[str, int, str]
"""What a price depends on: model, duration and quality."""

_RANK: tuple[Source, ...] = ("bundled", "catalog", "account")
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
class _Rule:
    """One model's public rule, and the prices that it has given."""

    rule: Mapping[str, Any] | None = None
    source: Literal["catalog", "bundled"] = "bundled"
    etag: str | None = None
    good_until: float = float("-inf")
    known: dict[Kind, int | str] = attrs.field(factory=dict)
    """What each kind costs in uc, or why that cannot be said."""
    lock: anyio.Lock = attrs.field(factory=anyio.Lock)

    def price(self, request: ImageToVideo) -> int:
        """Return what a request costs, in uc; raises `PriceUnavailableError`."""
        kind = _kind(request)
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
        except PricingRuleError as error:
            return str(error)


@attrs.define(eq=False)
class _Quote:
    """What the account pays for one kind of request, as far as it is known."""

    uc: int | None = None
    as_of: str = ""
    good_until: float = float("-inf")
    lock: anyio.Lock = attrs.field(factory=anyio.Lock)


class _Price(NamedTuple):
    """What one request costs, and who says so."""

    uc: int
    source: Source
    as_of: str


def _kind(request: ImageToVideo) -> Kind:
    return request.model, request.duration, request.quality


@lru_cache(maxsize=16)  # a program may name any models
def _stand_in(model: str) -> _Rule:
    """Return the bundled rule with the prices that it has given: traces ask for each request."""
    return _Rule(bundled_rule(model))


class Pricing:
    """The session's one book of prices. Each is asked for when it is first needed, and again when
    it is no longer fresh.
    """

    def __init__(
        self, api: Api, *, keyed: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._clock = clock
        self._rules: defaultdict[str, _Rule] = defaultdict(_Rule)
        self._quotes: defaultdict[Kind, _Quote] = defaultdict(_Quote)
        self._no_quotes_until = float("-inf") if keyed else float("inf")
        """When the service may be asked for the account's prices, which it may not have at all."""

    async def estimate(self, requests: Iterable[ImageToVideo]) -> Estimate:
        """Say what requests will cost together.

        Raises `PriceUnavailableError` when there is no price for one of them.
        """
        counts = Counter[Kind]()
        first: dict[Kind, ImageToVideo] = {}
        for number, request in enumerate(requests, 1):
            if number % SLICE == 0:
                await anyio.lowlevel.checkpoint()  # others have their turn
            kind = _kind(request)
            counts[kind] += 1
            first.setdefault(kind, request)
        found = {kind: await self._price(request) for kind, request in first.items()}
        uc = sum(price.uc * counts[kind] for kind, price in found.items())
        # The weakest source of all speaks for the sum.
        source: Source = min(
            (price.source for price in found.values()), key=_RANK.index, default="bundled"
        )
        return Estimate(
            credits=prices.credits_of(uc),
            usd=prices.usd_of(uc),
            uc=uc,
            requests=counts.total(),
            scope="account" if source == "account" else "public",
            source=source,
            as_of=min((price.as_of for price in found.values()), default=""),
        )

    async def credits_for(self, request: ImageToVideo) -> Decimal:
        """Say what one request will cost, in credits; raises `PriceUnavailableError`."""
        return prices.credits_of((await self._price(request)).uc)

    def last_known(self, request: ImageToVideo) -> Decimal | None:
        """Return what one request costs by what is known already, in credits; nothing is asked.

        Without anything better that is the bundled rule; None: no rule gives a price.
        """
        quote, rule = self._quotes.get(_kind(request)), self._rules.get(request.model)
        if quote is not None and quote.uc is not None:
            return prices.credits_of(quote.uc)
        if rule is None or rule.rule is None:
            rule = _stand_in(request.model)
        try:
            return prices.credits_of(rule.price(request))
        except PriceUnavailableError:
            return None

    async def _price(self, request: ImageToVideo) -> _Price:
        quote = await self._quote(request)
        if quote is not None and quote.uc is not None:
            return _Price(quote.uc, "account", quote.as_of)
        rule = await self._rule(request.model)
        return _Price(rule.price(request), rule.source, prices.date_of(rule.rule or {}))

    # --- the account's own price ------------------------------------------------------------------

    async def _quote(self, request: ImageToVideo) -> _Quote | None:
        if self._clock() < self._no_quotes_until:
            return None
        quote = self._quotes[_kind(request)]
        if self._clock() >= quote.good_until:
            async with quote.lock:
                if max(quote.good_until, self._no_quotes_until) <= self._clock():
                    await self._read_quote(request, quote)
        return quote

    async def _read_quote(self, request: ImageToVideo, quote: _Quote) -> None:
        quote.uc, why = None, f"no answer within {PATIENCE:g} s"
        for_others = False
        with anyio.move_on_after(PATIENCE):
            try:
                answer, date = await self._api.account_estimate(prices.question(request))
                now = date or datetime.now(UTC)
                quote.uc, fresh = prices.quoted(answer, request, now)
                quote.as_of, quote.good_until = now.date().isoformat(), self._clock() + fresh
                return
            except PricingRuleError as error:
                why, for_others = str(error), True
            except HappyHorseError as error:
                why, for_others = str(error), isinstance(error, BadRequestError)
        if not for_others:
            # It answers nobody, or not this key. A sum of 26 kinds must not wait for each of them.
            self._no_quotes_until = self._clock() + RETRY_AFTER
        quote.good_until = self._clock() + RETRY_AFTER
        logger.info(
            "the account's own price cannot be had (%s): the public one counts",
            why,
            extra={"action": "public_price"},
        )

    # --- the public rule --------------------------------------------------------------------------

    async def _rule(self, model: str) -> _Rule:
        rule = self._rules[model]
        if self._clock() >= rule.good_until:
            async with rule.lock:
                if self._clock() >= rule.good_until:
                    await self._read_rule(model, rule)
        return rule

    async def _read_rule(self, model: str, rule: _Rule) -> None:
        why: object = f"no answer within {PATIENCE:g} s"
        with anyio.move_on_after(PATIENCE):
            try:
                live = await self._api.pricing_rule(model, etag=rule.etag)
                if live.rule is not None:
                    rule.rule, rule.etag, rule.known = live.rule, live.etag, {}
                    rule.source = "catalog"
                if rule.source == "catalog":
                    age = prices.fresh_for(live.rule or {}, live.date or datetime.now(UTC))
                    rule.good_until = self._clock() + age
                    return
                why = "it is told as unchanged, and was never had"  # by a cache on the way
            except HappyHorseError as error:
                why = error
        self._do_without(model, rule, why)

    def _do_without(self, model: str, rule: _Rule, why: object) -> None:
        """Go on with what is there: the last live rule is nearer to the truth than the bundled."""
        rule.good_until = self._clock() + RETRY_AFTER
        if rule.source == "bundled":
            rule.rule, rule.known = bundled_rule(model), {}
        logger.warning(
            "no live pricing rule (%s): estimating with the one of %s",
            why,
            prices.date_of(rule.rule or {}) or "no date",
            extra={"action": "old_price"},
        )
