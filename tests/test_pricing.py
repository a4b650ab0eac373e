"""Where prices come from."""

from __future__ import annotations

import asyncio
import copy
import logging
from decimal import Decimal
from typing import Any

import pytest

from happyhorse_async import (
    Budget,
    Estimate,
    ImageToVideo,
    InvalidRequestError,
    PriceUnavailableError,
    Session,
)
from happyhorse_async._pricing import Pricing, bundled_rule
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://example.com/frame.png"
RULES = "/v1/catalog/pricing-rules/happyhorse-1.0-image-to-video"
DATE = "2026-10-10T06:52:34.303000193Z"


def live_rule(**changes: Any) -> dict[str, Any]:
    """Make a live rule: the published one, with its one component changed."""
    rule: dict[str, Any] = copy.deepcopy(dict(bundled_rule() or {}))
    rule["meta"].pop("fresh_until")
    rule["model"]["components"][0].update(changes)
    return rule


def answering(body: Any, *, times: int | None = None, status: int = 200) -> Fault:
    """Make the fault that answers the next questions for the rule with this."""
    return Fault("refuse", path=RULES, status=status, body=body, times=times)


class Clock:
    """Time that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_an_estimate_follows_the_live_rule(sandbox: Sandbox, session: Session) -> None:
    """Eight seconds in 1080p: 76,160 x 8 x 1.72 uc, half up to whole uc, by the service's live
    rule, read once.
    """
    expected = Estimate(
        credits=Decimal("104.7962"),
        usd=Decimal("1.54112059"),
        requests=1,
        source="catalog",
        as_of=DATE,
    )
    assert expected == await session.estimate(ImageToVideo(LINK, duration=8, quality="1080p"))
    await asyncio.gather(*(session.estimate(ImageToVideo(LINK)) for _ in range(10)))
    assert sandbox.count("GET", RULES) == 1


async def test_an_estimate_of_many_is_their_sum(session: Session) -> None:
    """Many requests, also from a generator, are added up; the minimum charge holds for each of
    them.
    """
    many = await session.estimate(ImageToVideo(LINK, duration=duration) for duration in (3, 5, 15))
    assert (many.requests, many.credits, many.usd) == (
        3,
        Decimal("7.616") * 23,
        Decimal("0.112") * 23,
    )
    none = await session.estimate([])
    assert (none.requests, none.credits) == (0, 0)
    with pytest.raises(InvalidRequestError, match="expected an ImageToVideo"):
        await session.estimate("cat.png")  # type: ignore[arg-type]


async def test_the_price_is_what_the_service_charges(sandbox: Sandbox, session: Session) -> None:
    """For every duration and quality, the estimate is what the server reserves."""
    for quality in ("720p", "1080p"):
        for duration in range(3, 16):
            request = ImageToVideo(LINK, duration=duration, quality=quality)
            task = await session.submit(request)
            assert sandbox.task(task.id).reserved == (await session.estimate(request)).credits


@pytest.mark.parametrize(
    "fault",
    [
        answering({"error": {"code": "not_found", "message": "no"}}, status=404),
        answering({"error": {"code": "internal_error", "message": "no"}}, status=500),
        Fault("drop-before", path=RULES, times=None),
        answering("<html>"),
    ],
    ids=["missing", "failing", "unreachable", "not the service's"],
)
async def test_the_bundled_rule_stands_in(sandbox: Sandbox, fault: Fault) -> None:
    """When the live rule cannot be had, the bundled one is used; the estimate says so, and of when
    it is.
    """
    sandbox.fail(fault)
    async with open_session(sandbox) as session:
        estimate = await session.estimate(ImageToVideo(LINK))
        assert estimate == Estimate(
            credits=Decimal("38.08"),
            usd=Decimal("0.56"),
            requests=1,
            source="bundled",
            as_of=DATE,
        )
        asked = len(sandbox.requests)
        await session.estimate(ImageToVideo(LINK, duration=9))
        assert len(sandbox.requests) == asked, "not asked again for every estimate"


@pytest.mark.parametrize(
    "body",
    [
        {"meta": {}, "model": {"components": []}},
        {"meta": {}},
        live_rule(quantity_rule={"op": "phase_of_the_moon"}),
        live_rule(pricing_status="unavailable"),
        live_rule(rate={"uc": "-76160"}),
        live_rule(rate={"uc": "0"}, minimum_charge={"uc": "0"}),
        live_rule(rate={"uc": "9e999999"}),
    ],
    ids=["empty", "no rule", "unknown", "unavailable", "negative", "zero", "beyond all numbers"],
)
async def test_a_live_rule_that_is_not_understood_gives_no_price(
    sandbox: Sandbox, body: dict[str, Any]
) -> None:
    """An estimate says so, a budget lets nothing out, and without a budget requests still go."""
    sandbox.fail(answering(body))
    async with open_session(sandbox, budget=Budget(credits=1000)) as session:
        with pytest.raises(PriceUnavailableError) as caught:
            await session.estimate(ImageToVideo(LINK))
        assert caught.value.charged == "no"
        with pytest.raises(PriceUnavailableError):
            await session.submit(LINK)
        assert sandbox.paid == 0
    async with open_session(sandbox) as session:
        await session.submit(LINK)
        assert sandbox.paid == 1


async def test_a_price_for_one_quality_does_not_hang_on_the_other(sandbox: Sandbox) -> None:
    """A rule whose table lacks a quality still prices the others."""
    table = {"op": "lookup", "key": {"op": "variable", "name": "quality"}, "values": {"720p": "5"}}
    sandbox.fail(answering(live_rule(quantity_rule=table)))
    async with open_session(sandbox) as session:
        assert (await session.estimate(ImageToVideo(LINK))).credits == Decimal("38.08")
        with pytest.raises(PriceUnavailableError, match="1080p"):
            await session.estimate(ImageToVideo(LINK, quality="1080p"))


async def test_a_rule_is_asked_for_again_when_it_is_no_longer_fresh(
    sandbox: Sandbox, session: Session
) -> None:
    """For as long as `meta.fresh_until` says nothing is asked; then only whether it has changed,
    by its ETag.
    """
    clock = Clock()
    pricing = Pricing(session._open().api, clock=clock)
    request = ImageToVideo(LINK)
    await pricing.estimate(request)
    clock.now += 299
    await pricing.estimate(request)
    assert sandbox.count("GET", RULES) == 1
    clock.now += 2
    assert (await pricing.estimate(request)).credits == Decimal("38.08")
    assert [call.status for call in sandbox.requests if call.path == RULES] == [200, 304]
    clock.now += 301
    sandbox.fail(answering(live_rule(rate={"uc": "100000"}), times=1))
    assert (await pricing.estimate(request)).credits == 50


async def test_the_last_live_rule_is_better_than_the_bundled_one(
    sandbox: Sandbox, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """When a rule cannot be had again, the one that was live counts on, and the log says why."""
    clock = Clock()
    pricing = Pricing(session._open().api, clock=clock)
    sandbox.fail(answering(live_rule(rate={"uc": "100000"}), times=1))
    await pricing.estimate(ImageToVideo(LINK))
    clock.now += 301
    sandbox.fail(answering({"error": {"code": "not_found", "message": "no"}}, status=404))
    with caplog.at_level(logging.WARNING, "happyhorse_async"):
        estimate = await pricing.estimate(ImageToVideo(LINK))
    assert (estimate.credits, estimate.source) == (50, "catalog")
    assert [record.action for record in caplog.records] == ["old_price"]  # type: ignore[attr-defined]


async def test_a_missing_catalogue_does_not_stop_a_budget() -> None:
    """A server without a catalogue: submissions under a budget go on by the bundled rule."""
    async with (
        Sandbox(video="stub", speed=0, features=Features(pricing=False)) as sandbox,
        open_session(sandbox, budget=Budget(credits=50)) as session,
    ):
        await session.submit(LINK)
        assert sandbox.paid == 1


async def test_a_hanging_catalogue_is_not_waited_for(
    sandbox: Sandbox, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalogue that does not answer within the limit gives the bundled rule."""
    monkeypatch.setattr("happyhorse_async._pricing.LIVE_RULE_LIMIT", 0.05)
    sandbox.fail(Fault("hang-before", path=RULES, times=None))
    assert (await session.estimate(ImageToVideo(LINK))).source == "bundled"


async def test_credits_are_what_is_left(sandbox: Sandbox, session: Session) -> None:
    """credits() tells what the account has left, which a submission lowers at once."""
    before = (await session.credits()).spendable
    await session.submit(LINK)
    assert before - (await session.credits()).spendable == Decimal("38.08")
