"""Where prices come from."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async import (
    Budget,
    BudgetExceededError,
    ConfigurationError,
    Estimate,
    ImageToVideo,
    InvalidRequestError,
    PriceUnavailableError,
    Session,
)
from happyhorse_async._pricing import Pricing, bundled_rule
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.conftest import QUICK_RETRY, open_session

pytestmark = pytest.mark.anyio

LINK = "https://example.com/frame.png"
RULES = "/v1/catalog/pricing-rules/happyhorse-1.0-image-to-video"
DATE = "2026-10-10"


def live_rule(**changes: Any) -> dict[str, Any]:
    """Make a live rule: the published one, with its one component changed."""
    rule: dict[str, Any] = copy.deepcopy(dict(bundled_rule() or {}))
    rule["meta"].pop("fresh_until")
    rule["model"]["components"][0].update(changes)
    return rule


def answering(body: Any, *, times: int | None = None, status: int = 200) -> Fault:
    """Make the fault that answers the next questions for the rule with this."""
    return Fault("refuse", path=RULES, status=status, body=body, times=times)


ACCOUNT = "/v1/agent-estimates"


def quote(uc: object = "300000", **changes: Any) -> dict[str, Any]:
    """Make the service's answer about the account's own price."""
    return {
        "estimate_id": "est_1",
        "price_scope": "account",
        "model_id": "happyhorse-1.0-image-to-video",
        "operation": "image_to_video",
        "amounts": {"uc": uc, "credits": "30", "cny": "3", "usd": "0.44117647"},
        **changes,
    }


def quoting(body: Any, *, times: int | None = None, status: int = 200) -> Fault:
    """Make the fault that answers the next questions for the account's price with this."""
    return Fault("refuse", path=ACCOUNT, status=status, body=body, times=times)


@pytest.fixture
async def public(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    """A session without a key."""
    monkeypatch.delenv("EVOLINK_API_KEY", raising=False)
    async with keyless(sandbox) as session:
        yield session


def keyless(sandbox: Sandbox) -> Session:
    """Make a session without a key."""
    return Session(base_url=sandbox.url, files_url=sandbox.files_url, retry=QUICK_RETRY)


class Clock:
    """Time that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_an_estimate_follows_the_live_rule(sandbox: Sandbox, public: Session) -> None:
    """Eight seconds in 1080p: 76,160 x 8 x 1.72 uc, half up to whole uc, by the service's live
    rule, read once; no key is needed.
    """
    expected = Estimate(
        credits=Decimal("104.7962"),
        usd=Decimal("1.54112059"),
        uc=1_047_962,
        scope="public",
        requests=1,
        source="catalog",
        as_of=DATE,
    )
    assert expected == await public.estimate(ImageToVideo(LINK, duration=8, quality="1080p"))
    await asyncio.gather(*(public.estimate(ImageToVideo(LINK)) for _ in range(10)))
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


async def test_a_long_estimate_leaves_others_their_turn(public: Session) -> None:
    """A hundred thousand requests, made as they are asked for, take a third of a second."""
    await public.estimate(LINK)  # what follows waits for no answer
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    estimate = await public.estimate(ImageToVideo(LINK, seed=seed) for seed in range(1, 20_001))
    task.cancel()
    assert (estimate.requests, turns >= 30) == (20_000, True)


async def test_an_estimate_takes_what_a_submission_takes(public: Session) -> None:
    """An image with fields, several of them, or requests; no file is read for a price."""
    nine = await public.estimate(ImageToVideo(LINK, duration=9))
    assert nine == await public.estimate("not-there.jpg", duration=9)
    assert nine == await public.estimate(Path("not-there.jpg"), duration=9)
    several = await public.estimate(["a.jpg", ImageToVideo("b.jpg", duration=5)])
    assert (several.requests, several.credits) == (2, Decimal("76.16"))
    same = await public.estimate(iter(["a.jpg", "b.jpg"]), quality="1080p")
    assert same.credits == 2 * Decimal("65.4976")


@pytest.mark.parametrize(
    ("requests", "fields", "problem"),
    [
        ("cat.jpg", {"duration": 99}, "duration: expected whole seconds"),
        ("cat.jpg", {"promt": "x"}, "promt: the service has no such field"),
        (7, {}, "requests: expected an ImageToVideo"),
        (["a.jpg", 7], {}, r"requests\[1\]: image: expected one"),
        ([ImageToVideo("a.jpg")], {"duration": 9}, r"requests\[0\]: duration: give it to"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said_before_a_price(
    public: Session, requests: Any, fields: dict[str, Any], problem: str
) -> None:
    """A wrong field has no price; of several requests the wrong one is named."""
    with pytest.raises(InvalidRequestError, match=problem):
        await public.estimate(requests, **fields)


async def test_a_session_without_a_key_only_does_what_is_public(
    sandbox: Sandbox, public: Session
) -> None:
    """Prices and problems can be asked for; every other verb says that the key is missing, before
    anything is sent.
    """
    assert await public.problems(LINK) == []
    for verb in (
        lambda: public.submit(LINK),
        lambda: public.generate(LINK),
        lambda: public.credits(),
        lambda: public.models(),
        lambda: public.upload(b""),
        lambda: public.find_tasks(),
        lambda: public.read("task-unified-1"),
    ):
        with pytest.raises(ConfigurationError, match="no API key"):
            await verb()
    for plain in (
        lambda: public.task("task-unified-1"),
        lambda: public.batch("videos"),
        lambda: public.submit_many([]),
        lambda: public.watch([]),
    ):
        with pytest.raises(ConfigurationError, match="no API key"):
            plain()
    assert sandbox.requests == []


async def test_the_accounts_own_price_counts_where_the_service_tells_it(
    sandbox: Sandbox, session: Session
) -> None:
    """With a key the service is asked for what this account pays, once a kind of request; the
    estimate says so.
    """
    later = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    sandbox.fail(quoting(quote(expires_at=later)))
    estimate = await session.estimate([ImageToVideo(LINK)] * 3)
    assert (estimate.uc, estimate.credits, estimate.requests) == (900_000, 90, 3)
    assert (estimate.scope, estimate.source) == ("account", "account")
    await session.estimate(LINK)
    asked = [json.loads(call.body) for call in sandbox.requests if call.path == ACCOUNT]
    assert asked == [
        {
            "model_id": "happyhorse-1.0-image-to-video",
            "operation": "image_to_video",
            "parameters": {"duration_seconds": 5, "quality": "720p"},
        }
    ]


@pytest.mark.parametrize(
    "fault",
    [
        quoting({"error": {"code": "not_found", "message": "no"}}, status=404),
        quoting({"error": {"code": "permission_denied", "message": "no"}}, status=403),
        quoting({"error": {"code": "invalid_request", "message": "no"}}, status=400),
        quoting("<html>"),
        quoting({}),
        quoting(quote(price_scope="public_default")),
        quoting(quote(model_id="another")),
        quoting(quote(operation="text_to_video")),
        quoting(quote(expires_at="2001-01-01T00:00:00Z")),
        quoting(quote("310000")),
        *(
            quoting(quote(amounts={"uc": uc}))
            for uc in (
                "-300000",
                "0",
                "NaN",
                "Infinity",
                "1e305",
                "9" * 400,
                0.5,
                "300000.5",
                None,
                [],
                True,
            )
        ),
    ],
)
async def test_the_public_price_counts_where_the_accounts_cannot_be_had(
    sandbox: Sandbox, session: Session, fault: Fault
) -> None:
    """A server without it, a refusal, and whatever cannot be true: none of it is an error or is
    believed, and none of it is asked for again at once.
    """
    sandbox.fail(fault)
    estimate = await session.estimate(LINK)
    assert (estimate.credits, estimate.scope, estimate.source) == (
        Decimal("38.08"),
        "public",
        "catalog",
    )
    asked = sandbox.count("POST", ACCOUNT)
    await session.estimate(LINK)
    assert sandbox.count("POST", ACCOUNT) == asked > 0


async def test_the_weakest_price_speaks_for_the_sum(sandbox: Sandbox, session: Session) -> None:
    """One request with the account's price and one without: the sum is called public."""
    sandbox.fail(quoting({"error": {"code": "invalid_request", "message": "no"}}, status=400))
    sandbox.fail(quoting(quote(), times=1))
    mixed = await session.estimate([ImageToVideo(LINK), ImageToVideo(LINK, duration=9)])
    assert (mixed.credits, mixed.scope, mixed.source) == (
        30 + Decimal("68.544"),
        "public",
        "catalog",
    )


async def test_a_budget_reserves_what_the_account_pays(sandbox: Sandbox) -> None:
    """An account with a discount fits more into a budget than the public price would let in."""
    sandbox.fail(quoting(quote()))
    async with open_session(sandbox, budget=Budget(credits=90)) as session:
        for _ in range(3):
            await session.submit(LINK)
        with pytest.raises(BudgetExceededError):
            await session.submit(LINK)


async def test_prices_go_by_the_model(sandbox: Sandbox, public: Session) -> None:
    """Each model has its own rule, and one that nobody knows has no price."""
    newer = "happyhorse-1.1-image-to-video"
    sandbox.fail(
        Fault(
            "refuse",
            path=f"/v1/catalog/pricing-rules/{newer}",
            status=404,
            body={"error": {"code": "not_found", "message": "no"}},
            times=None,
        )
    )
    one = await public.estimate([ImageToVideo(LINK, quality="1080p")])
    two = await public.estimate([ImageToVideo(LINK, quality="1080p", model=newer)])
    assert (one.uc, two.uc) == (654_976, 491_232)
    assert (one.source, two.source) == ("catalog", "bundled")
    with pytest.raises(PriceUnavailableError, match="'happyhorse-9'"):
        await public.estimate(LINK, model="happyhorse-9")


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
        answering({}, status=304),
    ],
    ids=["missing", "failing", "unreachable", "not the service's", "unchanged to a cache"],
)
async def test_the_bundled_rule_stands_in(sandbox: Sandbox, fault: Fault) -> None:
    """When the live rule cannot be had, the bundled one is used; the estimate says so, and of when
    it is.
    """
    sandbox.fail(fault)
    async with keyless(sandbox) as session:
        estimate = await session.estimate(ImageToVideo(LINK))
        assert estimate == Estimate(
            credits=Decimal("38.08"),
            usd=Decimal("0.56"),
            uc=380_800,
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
    sandbox.fail(quoting({"error": {"code": "not_found", "message": "no"}}, status=404))
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
    async with keyless(sandbox) as session:
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
    pricing = Pricing(session._open().api, keyed=False, clock=clock)
    request = [ImageToVideo(LINK)]
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
    pricing = Pricing(session._open().api, keyed=False, clock=clock)
    sandbox.fail(answering(live_rule(rate={"uc": "100000"}), times=1))
    await pricing.estimate([ImageToVideo(LINK)])
    clock.now += 301
    sandbox.fail(answering({"error": {"code": "not_found", "message": "no"}}, status=404))
    with caplog.at_level(logging.WARNING, "happyhorse_async"):
        estimate = await pricing.estimate([ImageToVideo(LINK)])
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
    sandbox: Sandbox, public: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalogue that does not answer within the limit gives the bundled rule."""
    monkeypatch.setattr("happyhorse_async._pricing.PATIENCE", 0.05)
    sandbox.fail(Fault("hang-before", path=RULES, times=None))
    assert (await public.estimate(ImageToVideo(LINK))).source == "bundled"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("hang-before", path=ACCOUNT, times=None),
        quoting({"error": {"code": "internal_error", "message": "no"}}, status=500),
        quoting("<html>"),
    ],
    ids=["hanging", "failing", "a gateway's page"],
)
async def test_who_answers_nobody_is_asked_for_one_kind_alone(
    sandbox: Sandbox, session: Session, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """A sum of many kinds waits once for an account's price that nobody gets, and not for each."""
    monkeypatch.setattr("happyhorse_async._pricing.PATIENCE", 0.05)
    sandbox.fail(fault)
    kinds = [ImageToVideo(LINK, duration=seconds) for seconds in range(3, 16)]
    estimate = await session.estimate(kinds)
    assert (estimate.requests, estimate.source) == (13, "catalog")
    asked = {call.body for call in sandbox.requests if call.path == ACCOUNT}
    assert len(asked) <= 1


async def test_credits_are_what_is_left(sandbox: Sandbox, session: Session) -> None:
    """credits() tells what the account has left, which a submission lowers at once."""
    before = (await session.credits()).spendable
    await session.submit(LINK)
    assert before - (await session.credits()).spendable == Decimal("38.08")
