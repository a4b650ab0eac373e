"""What things cost and who may buy them: rules, estimates, and refusals with all their details."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Account, Fault, Features, Sandbox
from tests.sandbox.conftest import MODEL, Reply, Wire

pytestmark = pytest.mark.anyio
NEWER = "happyhorse-1.1-image-to-video"
KINDS = ("image-to-video", "reference-to-video", "text-to-video", "video-edit")
EVERY = [f"happyhorse-1.0-{kind}" for kind in KINDS] + [
    f"happyhorse-1.1-{kind}" for kind in KINDS[:3]
]
START = 1_800_000_000.0  # 2027-01-15 08:00 UTC


@asynccontextmanager
async def standing(http: aiohttp.ClientSession, **account: Any) -> AsyncIterator[Wire]:
    """Run a sandbox with one account, whose time stands still at `START`."""
    account = {"key": "k", **account}
    features = account.pop("features", Features())
    async with Sandbox(
        video="stub", speed=0, start=START, accounts=[Account(**account)], features=features
    ) as sandbox:
        yield Wire(sandbox, http)


async def estimate(wire: Wire, model: str = MODEL, **parameters: Any) -> Reply:
    """Ask for the account's own price."""
    body = {"model_id": model, "operation": "image_to_video", "parameters": parameters}
    return await wire.post("/v1/agent-estimates", body)


# --- Prices.


@pytest.mark.parametrize("quality", ["720p", "1080p"])
@pytest.mark.parametrize(("model", "finer"), [(MODEL, "1.72"), (NEWER, "1.29")])
async def test_each_model_has_its_own_price_in_whole_uc(
    http: aiohttp.ClientSession, model: str, finer: str, quality: str
) -> None:
    """76,160 uc a second, times 1.72 or 1.29 for 1080p, at least 228,480, half up."""
    factor = Decimal(finer) if quality == "1080p" else Decimal(1)
    async with standing(http) as wire:
        for seconds in range(3, 16):
            exact = (76_160 * seconds * factor).quantize(Decimal(1), ROUND_HALF_UP)
            expected = max(exact, Decimal(228_480)) / 10_000
            told = await estimate(wire, model, duration_seconds=seconds, quality=quality)
            await wire.accepted(model=model, duration=seconds, quality=quality)
            assert wire.sandbox.tasks[-1].reserved == expected
            assert Decimal(told.json["amounts"]["credits"]) == expected
        wire.sandbox.finish()
        assert all(task.charged == task.reserved for task in wire.sandbox.tasks)
        assert (await wire.task(wire.sandbox.tasks[0].id))["model"] == model


@pytest.mark.parametrize("model", EVERY)
async def test_the_catalogue_has_the_rules_of_all_seven_models(
    http: aiohttp.ClientSession, model: str
) -> None:
    """Without a key, published and available, and fresh for five minutes from each answer on."""
    async with standing(http) as wire:
        for _ in range(2):
            rule = (await wire.get(f"/v1/catalog/pricing-rules/{model}", key=None)).json
            fresh = datetime.fromisoformat(rule["meta"]["fresh_until"]).timestamp()
            assert fresh == wire.sandbox.now + 300
            wire.sandbox.advance(1000)
    assert rule["model"]["model_id"] == model
    assert (rule["model"]["pricing_status"], rule["model"]["policy_source"]) == (
        "available",
        "published",
    )
    assert rule["model"]["components"][0]["rate"] == {
        "uc": "76160",
        "credits": "7.616",
        "cny": "0.7616",
        "usd": "0.112",
    }


async def test_a_rule_that_is_still_true_is_not_sent_again(http: aiohttp.ClientSession) -> None:
    """304 for its ETag, also in a list of several, until the price changes."""
    path = f"/v1/catalog/pricing-rules/{MODEL}"
    async with standing(http) as wire:
        etag = (await wire.get(path)).headers["ETag"]
        wire.sandbox.advance(86_400)
        for known in (etag, f'"other", {etag}', "*"):
            assert (await wire.get(path, headers={"If-None-Match": known})).status == 304
        assert (await wire.get(path, headers={"If-None-Match": '"other"'})).status == 200
        wire.sandbox.fail(Fault("price", factor=2))
        await wire.accepted()
        assert (await wire.get(path, headers={"If-None-Match": etag})).status == 200


async def test_an_estimate_has_the_accounts_discount_and_so_has_the_charge(
    http: aiohttp.ClientSession,
) -> None:
    """Three quarters of the public price, while the rule tells the public one."""
    async with standing(http, discount="0.75") as wire:
        told = (await estimate(wire, duration_seconds=5)).json
        await wire.completed(duration=5)
        assert (told["price_scope"], told["amounts"]) == (
            "account",
            {"uc": "285600", "credits": "28.56", "cny": "2.856", "usd": "0.42"},
        )
        assert datetime.fromisoformat(told["expires_at"]).timestamp() > wire.sandbox.now
        assert wire.sandbox.tasks[0].charged == Decimal("28.56")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model_id": "other"}, 404, None),
        ({"model_id": 5}, 400, "model_id"),
        ({"model_id": MODEL, "operation": "fly"}, 400, "operation"),
        ({"model_id": MODEL, "operation": "image_to_video", "parameters": []}, 400, "parameters"),
        ({"parameters": {"duration": 5}}, 400, "parameters"),
        ({"parameters": {"duration_seconds": 99}}, 400, "duration_seconds"),
        ({"parameters": {"duration_seconds": "x"}}, 400, "duration_seconds"),
        ({"parameters": {"duration_seconds": "1/0"}}, 400, "duration_seconds"),
        ({"parameters": {"duration_seconds": "1e999999999"}}, 400, "duration_seconds"),
        ({"parameters": {"duration_seconds": True}}, 400, "duration_seconds"),
        ({"parameters": {"quality": "4k"}}, 400, "quality"),
    ],
)
async def test_an_estimate_refuses_what_it_cannot_price(
    http: aiohttp.ClientSession, body: dict[str, Any], status: int, param: str | None
) -> None:
    """The refusal names the parameter, and no price is guessed."""
    async with standing(http) as wire:
        told = {"model_id": MODEL, "operation": "image_to_video", **body}
        reply = await wire.post("/v1/agent-estimates", told)
        assert (reply.status, reply.error.get("param")) == (status, param)
        assert (await wire.post("/v1/agent-estimates", told, key=None)).status == 401


async def test_an_estimate_takes_a_length_of_any_precision(http: aiohttp.ClientSession) -> None:
    """The rule declares a decimal: 76,160 uc times what was asked for, half up."""
    async with standing(http) as wire:
        told = (await estimate(wire, duration_seconds=3.177187248831662)).json
    assert told["amounts"]["uc"] == "241975"


async def test_models_are_those_that_the_key_may_use(http: aiohttp.ClientSession) -> None:
    """Both by default; fewer when the account says so."""
    async with standing(http) as wire:
        listed = (await wire.get("/v1/models")).json["data"]
    assert [model["id"] for model in listed] == [MODEL, NEWER]
    async with standing(http, models=(NEWER,)) as wire:
        assert [each["id"] for each in (await wire.get("/v1/models")).json["data"]] == [NEWER]


# --- Refusals that prove that nothing was charged.


async def test_an_empty_account_says_what_is_left_and_what_is_needed(
    http: aiohttp.ClientSession,
) -> None:
    """402 with balances, the key's name, and where to go; the word is the account's."""
    for code in ("insufficient_quota", "account_balance_insufficient"):
        async with standing(http, credits=30, balance_code=code, name="nightly") as wire:
            reply = await wire.submit(duration=5)
            assert (reply.status, reply.error["code"], reply.error["limit_scope"]) == (
                402,
                code,
                "account",
            )
            told = [reply.error[name] for name in ("estimated_credits", "remaining_credits")]
            assert told == [38.08, 30]
            assert reply.error["key_name"] == "nightly"
            assert reply.error["action_url"].startswith("https://")
            assert wire.sandbox.paid == 0


async def test_a_keys_own_limit_is_not_the_accounts_balance(http: aiohttp.ClientSession) -> None:
    """The balance is told beside the limit, and what was used of it."""
    async with standing(http, token_credits=60) as wire:
        await wire.completed(duration=5)
        error = (await wire.submit(duration=5)).error
        assert (error["code"], error["limit_scope"]) == ("insufficient_token_quota", "key")
        assert (error["total_limit_credits"], error["used_credits"]) == (60, 38.08)
        assert error["account_balance_credits"] == pytest.approx(1_000_000 - 38.08)


async def test_a_daily_limit_is_free_again_at_midnight_of_its_time_zone(
    http: aiohttp.ClientSession,
) -> None:
    """08:00 UTC is 16:00 in Shanghai: eight hours later there is a new day,
    and no minute before.
    """
    async with standing(http, daily_credits=50, reset_timezone="Asia/Shanghai") as wire:
        await wire.completed(duration=5)
        refused = (await wire.submit(duration=5)).error
        assert (refused["code"], refused["limit_scope"]) == (
            "token_daily_quota_exceeded",
            "key_daily",
        )
        assert refused["reset_timezone"] == "Asia/Shanghai"
        assert (refused["daily_limit_credits"], refused["daily_used_credits"]) == (50, 38.08)
        wire.sandbox.advance(8 * 3600 - 60)
        assert (await wire.submit(duration=5)).status == 402
        wire.sandbox.advance(60)
        assert (await wire.submit(duration=5)).status == 200


async def test_a_refund_gives_the_day_its_credits_back(http: aiohttp.ClientSession) -> None:
    """A failed task counts for nothing on the day of its submission, nor on the next."""
    async with standing(http, daily_credits=50) as wire:
        first = await wire.accepted(duration=5)
        wire.sandbox.end(first, "failed")
        second = await wire.accepted(duration=5)
        wire.sandbox.end(second, "a word that stays")
        wire.sandbox.advance(86_400)
        assert (await wire.submit(duration=5)).status == 200
        wire.sandbox.end(second, "failed")
        assert (await wire.submit(duration=5)).status == 402


@pytest.mark.parametrize("code", ["permission_denied", "key_disabled", "user_disabled"])
async def test_a_key_or_account_can_be_switched_off(http: aiohttp.ClientSession, code: str) -> None:
    """Every call is refused with the word that was set."""
    async with standing(http, active=False, inactive_code=code, key="off") as wire:
        for reply in (await wire.submit(), await wire.get("/v1/credits")):
            assert (reply.status, reply.error["code"]) == (403, code)


async def test_a_key_expires_at_its_time(http: aiohttp.ClientSession) -> None:
    """It works until then, and says since when it does not."""
    async with standing(http, expires_at=START + 60) as wire:
        assert (await wire.submit()).status == 200
        wire.sandbox.advance(60)
        reply = await wire.submit()
        assert (reply.status, reply.error["code"]) == (403, "key_expired")
        assert reply.error["expired_at"] == int(START) + 60


async def test_a_model_that_the_key_may_not_use_is_refused_with_those_it_may(
    http: aiohttp.ClientSession,
) -> None:
    """Submissions and estimates alike."""
    async with standing(http, models=(NEWER,)) as wire:
        for reply in (await wire.submit(), await estimate(wire)):
            assert (reply.status, reply.error["code"]) == (403, "key_model_not_allowed")
            assert reply.error["allowed_models"] == [NEWER]
        assert (await wire.submit(model=NEWER)).status == 200


async def test_details_can_be_missing(http: aiohttp.ClientSession) -> None:
    """An older server says code and message alone."""
    async with standing(http, credits=1, features=Features(error_details=False)) as wire:
        assert set((await wire.submit()).error) == {"code", "message", "type"}


# --- Facts of a task that came with the newer contract.


@pytest.mark.parametrize(("form", "length"), [("unified", None), ("short", 1), ("long", 128)])
async def test_task_ids_are_1_to_128_characters(
    http: aiohttp.ClientSession, form: Any, length: int | None
) -> None:
    """Each form can be read alone, among many and in the list."""
    async with standing(http, features=Features(task_ids=form)) as wire:
        task_id = await wire.accepted()
        assert length in (None, len(task_id))
        assert (await wire.task(task_id))["id"] == task_id
        many = await wire.post("/v1/tasks/batch", {"task_ids": [task_id]})
        listed = await wire.get("/v1/tasks")
        assert [view["id"] for view in many.json["data"] + listed.json["data"]] == [task_id] * 2


async def test_estimated_time_may_be_what_is_left_or_missing(http: aiohttp.ClientSession) -> None:
    """The whole life, the seconds left, or no field at all."""
    told: dict[str, list[Any]] = {}
    for form in ("whole", "left", "absent"):
        async with Sandbox(
            video="stub", speed=0, task_seconds=100, features=Features(estimated_time=form)
        ) as sandbox:
            wire = Wire(sandbox, http)
            task_id = await wire.accepted()
            told[form] = []
            for _ in range(2):
                told[form].append((await wire.task(task_id))["task_info"].get("estimated_time"))
                sandbox.advance(30)
    assert told == {"whole": [100, 100], "left": [100, 70], "absent": [None, None]}


async def test_estimated_time_is_in_the_clients_seconds(http: aiohttp.ClientSession) -> None:
    """At ten times real time a task of 100 seconds is there in 10."""
    async with Sandbox(video="stub", speed=10, task_seconds=100) as sandbox:
        assert (await Wire(sandbox, http).submit()).json["task_info"]["estimated_time"] == 10


async def test_a_list_answers_with_the_page_that_was_asked_for(wire: Wire) -> None:
    """`page` and `page_size` are those of the question, beyond the end too;
    models can be chosen.
    """
    for model in (MODEL, NEWER, MODEL):
        await wire.accepted(model=model)
    page = (await wire.get("/v1/tasks?page=2&page_size=2")).json
    assert (page["page"], page["page_size"], page["total"], len(page["data"])) == (2, 2, 3, 1)
    empty = (await wire.get("/v1/tasks?page=9&page_size=50")).json
    assert (empty["page"], empty["page_size"], empty["data"]) == (9, 50, [])
    chosen = (await wire.get(f"/v1/tasks?model={NEWER}")).json
    assert [row["model"] for row in chosen["data"]] == [NEWER]


async def test_an_upload_leaves_a_receipt_for_its_owner(http: aiohttp.ClientSession) -> None:
    """By the id that the upload named; another account's, an unknown one and a gone file: 404."""
    accounts = [Account(key="mine"), Account(key="theirs")]
    name = "upload_0123456789"
    path = f"/api/v1/files/upload-receipts/{name}"
    async with Sandbox(video="stub", speed=0, accounts=accounts) as sandbox:
        wire = Wire(sandbox, http)
        body = {"base64_data": "data:image/gif;base64,R0lGODlhAQABAAAAACw=", "fileName": "a.gif"}
        upload = "/api/v1/files/upload/base64"
        headers = {"X-Evo-Upload-Id": name}
        sent = (await wire.files("POST", upload, json=body, headers=headers)).json["data"]
        told = (await wire.files("GET", path)).json["data"]
        assert (told["upload_id"], told["state"], told["result_verified"]) == (name, "done", True)
        assert (told["file"], told["file"]["file_name"]) == (sent, "a.gif")
        sandbox.fail(Fault("unknown-receipt"))
        unknown = (await wire.files("GET", path)).json["data"]
        assert (unknown["state"], "file" in unknown) == ("outcome_unknown", False)
        assert (await wire.files("GET", path, key="theirs")).status == 404
        assert (await wire.files("GET", path + "x")).status == 404
        short = {"X-Evo-Upload-Id": "short"}
        assert (await wire.files("POST", upload, json=body, headers=short)).status == 400
        assert (await wire.files("DELETE", f"/api/v1/files/{sent['file_id']}")).status == 200
        assert (await wire.files("GET", path)).status == 404


async def test_the_newer_endpoints_may_be_missing(http: aiohttp.ClientSession) -> None:
    """Models, estimates and receipts: each is switched off alone, and the rest goes on."""
    off = Features(models=False, estimates=False, upload_receipts=False, missing=405)
    async with standing(http, features=off) as wire:
        receipt = await wire.files("GET", "/api/v1/files/upload-receipts/upload_0123456789")
        replies = [await wire.get("/v1/models"), await estimate(wire), receipt]
        assert [reply.status for reply in replies] == [405, 405, 405]
        assert (await wire.submit()).status == 200
