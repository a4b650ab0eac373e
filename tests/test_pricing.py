"""Where prices come from."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from happyhorse_async import Estimate, ImageToVideo, InvalidRequestError, Session
from happyhorse_async._pricing import Pricing, bundled_rule
from happyhorse_async._rules import prices
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://example.com/frame.png"
RULES = "/v1/catalog/pricing-rules/happyhorse-1.0-image-to-video"


def rule(quantity: Any) -> dict[str, Any]:
    """Make a pricing rule."""
    return {"model": {"components": [{"rate": {"credits": "9e999999"}, "quantity_rule": quantity}]}}


async def test_an_estimate_follows_the_live_rule(sandbox: Sandbox, session: Session) -> None:
    """Eight seconds in 1080p: 7.616 x 8 x 1.72 credits, exactly, by the service's live rule, read
    once.
    """
    expected = Estimate(
        credits=Decimal("104.79616"),
        usd=Decimal("1.54112"),
        requests=1,
        source="catalog",
        as_of="2026-10-10",
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
        Fault("refuse", path=RULES, status=404, times=None),
        Fault("refuse", path=RULES, status=500, times=None),
        Fault("drop-before", path=RULES, times=None),
        Fault(
            "refuse",
            path=RULES,
            status=200,
            body={"meta": {}, "model": {"components": []}},
            times=None,
        ),
        Fault("refuse", path=RULES, status=200, body="<html>", times=None),
        Fault(
            "refuse",
            path=RULES,
            status=200,
            body=rule({"type": "lookup", "variable": "duration", "values": {"5": 1}}),
            times=None,
        ),
        Fault("refuse", path=RULES, status=200, body=rule("9e999999"), times=None),
    ],
    ids=[
        "missing",
        "failing",
        "unreachable",
        "not understood",
        "not a rule",
        "not for every duration",
        "beyond all numbers",
    ],
)
async def test_the_bundled_rule_stands_in(sandbox: Sandbox, fault: Fault) -> None:
    """When the live rule cannot be had or understood, the bundled one is used, and the estimate
    says so and of when it is.
    """
    sandbox.fail(fault)
    async with open_session(sandbox) as session:
        estimate = await session.estimate(ImageToVideo(LINK))
        assert estimate == Estimate(
            credits=Decimal("38.080"),
            usd=Decimal("0.560"),
            requests=1,
            source="bundled",
            as_of="2026-10-10",
        )
        asked = len(sandbox.requests)
        await session.estimate(ImageToVideo(LINK, duration=9))
        assert len(sandbox.requests) == asked, "not asked again for every estimate"


async def test_a_missing_catalogue_does_not_stop_a_budget() -> None:
    """A server without a catalogue: submissions under a budget go on by the bundled rule."""
    from happyhorse_async import Budget

    async with (
        Sandbox(video="stub", speed=0, features=Features(pricing=False)) as sandbox,
        open_session(sandbox, budget=Budget(credits=50)) as session,
    ):
        await session.submit(LINK)
        assert sandbox.paid == 1


async def test_a_hanging_catalogue_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue that does not answer within the limit gives the bundled rule."""

    class Hanging:
        async def pricing_rules(self) -> dict[str, object]:
            await asyncio.Event().wait()
            return {}

    monkeypatch.setattr("happyhorse_async._pricing.LIVE_RULE_LIMIT", 0.01)
    assert (await Pricing(Hanging()).estimate(ImageToVideo(LINK))).source == "bundled"


async def test_the_bundled_rule_is_dated_and_says_what_the_service_charged_then() -> None:
    """The rule that comes with the package carries its date, and gives the prices of that day."""
    rule = bundled_rule()
    assert prices.date_of(rule) == "2026-10-10"
    assert prices.price_of(rule, ImageToVideo(LINK, duration=3)) == (
        Decimal("22.848"),
        Decimal("0.336"),
    )
    assert prices.price_of(
        rule, ImageToVideo(LINK, duration=15, quality="1080p")
    ).credits == Decimal("196.4928")


async def test_credits_are_what_is_left(sandbox: Sandbox, session: Session) -> None:
    """credits() tells what the account has left, which a submission lowers at once."""
    before = (await session.credits()).spendable
    await session.submit(LINK)
    assert before - (await session.credits()).spendable == Decimal("38.08")
