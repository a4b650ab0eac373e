"""The contract's lines on query, query many and list, one test each."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Account, Features, Sandbox
from tests.sandbox.conftest import MODEL, Wire

pytestmark = pytest.mark.anyio


async def test_task_ids_start_with_task_unified(wire: Wire) -> None:
    """Every accepted task's id has the documented beginning."""
    assert (await wire.accepted()).startswith("task-unified-")


async def test_status_goes_from_pending_to_processing_to_completed(
    http: aiohttp.ClientSession,
) -> None:
    """The statuses come in their order, with the progress never going back."""
    async with Sandbox(video="stub", speed=0, task_seconds=100) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted()
        seen = []
        for _ in range(11):
            view = await wire.task(task_id)
            seen.append((view["status"], view["progress"]))
            sandbox.advance(10)
    assert list(dict.fromkeys(status for status, _ in seen)) == [
        "pending",
        "processing",
        "completed",
    ]
    assert [progress for _, progress in seen] == sorted(progress for _, progress in seen)
    assert seen[0] == ("pending", 0)
    assert seen[-1] == ("completed", 100)


async def test_a_failed_task_has_an_error_and_no_results(wire: Wire) -> None:
    """The error has code, message and the type `task_error`, and a suggestion."""
    task_id = await wire.accepted()
    wire.sandbox.end(task_id, "failed", error_code="content_policy_violation")
    view = await wire.task(task_id)
    assert view["status"] == "failed"
    assert view["error"]["code"] == "content_policy_violation"
    assert view["error"]["type"] == "task_error"
    assert view["error"]["message"]
    assert view["error"]["suggestion"]
    assert "results" not in view


@pytest.mark.parametrize(("as_failed", "shown"), [(False, "cancelled"), (True, "failed")])
async def test_a_cancelled_task_comes_as_cancelled_or_as_failed(
    http: aiohttp.ClientSession, as_failed: bool, shown: str
) -> None:
    """Either status is possible, and `request_cancelled` is the code of both."""
    async with Sandbox(video="stub", features=Features(cancelled_as_failed=as_failed)) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted()
        sandbox.end(task_id, "cancelled", error_code="request_cancelled")
        view = await wire.task(task_id)
    assert (view["status"], view["error"]["code"]) == (shown, "request_cancelled")


async def test_new_statuses_can_appear(wire: Wire) -> None:
    """A status that nobody knows is shown, and stays while the task would have ended."""
    task_id = await wire.accepted()
    wire.sandbox.end(task_id, "archiving")
    wire.sandbox.advance(3600)
    assert (await wire.task(task_id))["status"] == "archiving"


async def test_results_are_links_that_are_dead_24_hours_later(wire: Wire) -> None:
    """A link works one second before its day is over and not at its end."""
    link = await wire.completed()
    wire.sandbox.advance(86_399)
    assert (await wire.download(link)).status == 200
    wire.sandbox.advance(1)
    assert (await wire.download(link)).status == 403


async def test_usage_of_an_ended_task_has_the_settled_charge(wire: Wire) -> None:
    """`credits_used` and `cost` are the rule's price: 7.616 credits and 0.112 USD a second."""
    task_id = await wire.accepted(duration=10)
    assert "credits_used" not in (await wire.task(task_id))["usage"]
    wire.sandbox.finish()
    usage = (await wire.task(task_id))["usage"]
    assert usage["credits_used"] == 76.16
    assert usage["cost"] == {"credits": 76.16, "usd": 1.12}


async def test_duration_is_the_seconds_that_the_task_took(http: aiohttp.ClientSession) -> None:
    """An ended task says how long it took on the sandbox's clock."""
    async with Sandbox(video="stub", speed=0, task_seconds=90) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted()
        sandbox.advance(1000)
        assert (await wire.task(task_id))["duration"] == 90


async def test_billing_has_the_ledgers_facts(wire: Wire) -> None:
    """Reserved, then charged; a failed task is refunded, unless the service kept the charge."""
    first, second, third = [await wire.accepted(duration=3) for _ in range(3)]
    assert (await wire.task(first))["billing"]["charge_status"] == "reserved"
    wire.sandbox.finish(first)
    wire.sandbox.end(second, "failed")
    wire.sandbox.end(third, "failed", refund=False)
    bills = [(await wire.task(task_id))["billing"] for task_id in (first, second, third)]
    assert [
        (bill["charge_status"], bill["refund_status"], bill["charged_credits"]) for bill in bills
    ] == [
        ("charged", "not_required", 22.848),
        ("released", "completed", 0.0),
        ("charged", "not_required", 22.848),
    ]
    assert [entry.kind for entry in wire.sandbox.ledger] == ["reserve"] * 3 + [
        "settle",
        "refund",
        "settle",
    ]
    assert (wire.sandbox.paid, wire.sandbox.refunded) == (3, 1)


@pytest.mark.parametrize(
    ("features", "present"),
    [
        (Features(), {"results", "result_data", "billing", "duration"}),
        (Features(result_data="absent"), {"results", "billing", "duration"}),
        (Features(results=False), {"result_data", "billing", "duration"}),
        (Features(billing=False, task_duration=False), {"results", "result_data"}),
    ],
)
async def test_fields_that_were_only_seen_can_be_absent(
    http: aiohttp.ClientSession, features: Features, present: set[str]
) -> None:
    """Each of them is there with its feature, and only with it."""
    async with Sandbox(video="stub", features=features) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted()
        sandbox.finish()
        view = await wire.task(task_id)
    assert {"results", "result_data", "billing", "duration"} & set(view) == present


@pytest.mark.parametrize("shape", ["object", "list"])
async def test_result_data_is_an_object_or_a_list_with_the_same_link(
    http: aiohttp.ClientSession, shape: Any
) -> None:
    """Both shapes repeat the link as `video_url`, beside the video's metadata."""
    async with Sandbox(video="stub", features=Features(result_data=shape)) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted(duration=7)
        sandbox.finish()
        view = await wire.task(task_id)
    data = view["result_data"] if shape == "object" else view["result_data"][0]
    assert data["video_url"] == view["results"][0]
    assert data["duration"] == 7


async def test_query_many_answers_up_to_50_tasks(wire: Wire) -> None:
    """Fifty ids give fifty tasks as the query shows them; fifty-one are refused."""
    ids = [await wire.accepted() for _ in range(51)]
    reply = await wire.post("/v1/tasks/batch", {"task_ids": ids[:50]})
    assert [view["id"] for view in reply.json["data"]] == ids[:50]
    assert reply.json["data"][0] == await wire.task(ids[0])
    too_many = await wire.post("/v1/tasks/batch", {"task_ids": ids})
    assert (too_many.status, too_many.error["param"]) == (400, "task_ids")


async def test_query_many_leaves_out_unknown_ids_and_those_of_other_accounts(
    http: aiohttp.ClientSession,
) -> None:
    """They are simply absent from `data`."""
    async with Sandbox(
        video="stub", accounts=[Account(key="mine"), Account(key="theirs")]
    ) as sandbox:
        wire = Wire(sandbox, http)
        mine, theirs = await wire.accepted(key="mine"), await wire.accepted(key="theirs")
        reply = await wire.post(
            "/v1/tasks/batch", {"task_ids": [mine, theirs, "task-unified-0-nothing"]}
        )
        assert (await wire.get(f"/v1/tasks/{theirs}")).status == 404
    assert [view["id"] for view in reply.json["data"]] == [mine]


@pytest.mark.parametrize("body", [None, [], {"task_ids": "one"}, {"task_ids": [1]}, {}])
async def test_query_many_refuses_a_body_that_is_not_a_list_of_ids(wire: Wire, body: Any) -> None:
    """The answer is 400."""
    assert (await wire.post("/v1/tasks/batch", body)).status == 400


async def test_a_server_can_lack_query_many_list_and_prices(http: aiohttp.ClientSession) -> None:
    """Each endpoint that was only seen answers 404 when it is switched off."""
    features = Features(batch=False, listing=False, pricing=False, file_listing=False)
    async with Sandbox(video="stub", features=features) as sandbox:
        wire = Wire(sandbox, http)
        assert (await wire.post("/v1/tasks/batch", {"task_ids": ["x"]})).status == 404
        assert (await wire.get("/v1/tasks")).status == 404
        assert (await wire.get(f"/v1/catalog/pricing-rules/{MODEL}")).status == 404
        assert (await wire.files("GET", "/api/v1/files/list")).status == 404
        assert (await wire.files("DELETE", "/api/v1/files/file-1")).status == 404


async def test_list_is_newest_first_in_pages_of_at_most_50(wire: Wire) -> None:
    """`page`, `page_size` and `total` are as asked; 51 on a page is refused."""
    ids = [await wire.accepted() for _ in range(5)]
    reply = (await wire.get("/v1/tasks?page=2&page_size=2")).json
    assert [row["id"] for row in reply["data"]] == [ids[2], ids[1]]
    assert (reply["total"], reply["page"], reply["page_size"]) == (5, 2, 2)
    default = (await wire.get("/v1/tasks")).json
    assert (default["page"], default["page_size"]) == (1, 20)
    assert (await wire.get("/v1/tasks?page_size=51")).error["param"] == "page_size"
    assert (await wire.get("/v1/tasks?page=0")).error["param"] == "page"


async def test_list_accepts_four_statuses_and_processing_includes_queued_ones(wire: Wire) -> None:
    """Each status finds its own tasks; `pending` is no value of the filter."""
    queued, done, failed, cancelled = [await wire.accepted() for _ in range(4)]
    wire.sandbox.finish(done)
    wire.sandbox.end(failed, "failed")
    wire.sandbox.end(cancelled, "cancelled")
    found = {
        status: [row["id"] for row in (await wire.get(f"/v1/tasks?status={status}")).json["data"]]
        for status in ("processing", "completed", "failed", "cancelled")
    }
    assert found == {
        "processing": [queued],
        "completed": [done],
        "failed": [failed],
        "cancelled": [cancelled],
    }
    assert (await wire.get("/v1/tasks?status=pending")).error["param"] == "status"


async def test_list_finds_a_cancelled_task_under_the_status_that_it_is_shown_with(
    http: aiohttp.ClientSession,
) -> None:
    """Where cancelled tasks come as failed, the filter knows them as failed too."""
    async with Sandbox(video="stub", features=Features(cancelled_as_failed=True)) as sandbox:
        wire = Wire(sandbox, http)
        sandbox.end(await wire.accepted(), "cancelled")
        found = [
            (await wire.get(f"/v1/tasks?status={status}")).json["data"]
            for status in ("failed", "cancelled")
        ]
    assert [[row["status"] for row in rows] for rows in found] == [["failed"], []]


async def test_list_filters_by_type_and_model(wire: Wire) -> None:
    """All tasks here are videos of the one model."""
    await wire.accepted()
    assert (await wire.get(f"/v1/tasks?type=video&model={MODEL}")).json["total"] == 1
    assert (await wire.get("/v1/tasks?type=image")).json["total"] == 0
    assert (await wire.get("/v1/tasks?model=other")).json["total"] == 0


async def test_list_items_have_no_links_but_say_whether_there_are_some(wire: Wire) -> None:
    """`has_results`, `created_at`, `credits_used` and `has_error` stand instead."""
    done, failed = await wire.accepted(duration=3), await wire.accepted()
    wire.sandbox.finish(done)
    wire.sandbox.end(failed, "failed")
    rows = (await wire.get("/v1/tasks")).json["data"]
    assert all("results" not in row and "result_data" not in row for row in rows)
    assert [(row["has_results"], row["has_error"], row["credits_used"]) for row in rows] == [
        (False, True, 0.0),
        (True, False, 22.848),
    ]
    assert rows[0]["created_at"] == int(wire.sandbox.now)


async def test_tasks_take_1_to_40_minutes_and_the_same_time_with_the_same_seed(
    http: aiohttp.ClientSession,
) -> None:
    """A hundred lives are within the range, differ, and repeat with the seed."""

    async def lives(seed: int) -> list[int]:
        async with Sandbox(video="stub", speed=0, seed=seed) as sandbox:
            wire = Wire(sandbox, http)
            ids = [await wire.accepted() for _ in range(100)]
            sandbox.advance(3600)
            return [(await wire.task(task_id))["duration"] for task_id in ids]

    first = await lives(1)
    assert min(first) >= 60
    assert max(first) <= 2400
    assert len(set(first)) > 50
    assert first == await lives(1)
    assert first != await lives(2)
