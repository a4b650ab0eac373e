"""Nothing is there at once: the faults of an eventually consistent service, on a clock of our own.

Each is denied or empty for its seconds and right ever after, and the task is paid once all along.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Fault, Sandbox
from tests.sandbox.conftest import Wire

pytestmark = pytest.mark.anyio
KEY = "0123456789abcdef"


async def seen(wire: Wire, task_id: str) -> tuple[int, bool, bool]:
    """Return a single read's status, and whether a query of many and the list have the task."""
    single = await wire.get(f"/v1/tasks/{task_id}")
    many = (await wire.post("/v1/tasks/batch", {"task_ids": [task_id]})).json["data"]
    listed = (await wire.get("/v1/tasks")).json["data"]
    return single.status, bool(many), task_id in [row["id"] for row in listed]


async def test_a_task_is_not_found_for_seconds_after_its_acceptance(wire: Wire) -> None:
    """Single reads, queries of many and the list deny it, and a replay still gives it back."""
    wire.sandbox.fail(Fault("not-found-window", seconds=20))
    task_id = await wire.accepted(idempotency_key=KEY)
    wire.sandbox.advance(19)
    assert await seen(wire, task_id) == (404, False, False)
    assert (await wire.get(f"/v1/tasks/{task_id}")).error["code"] == "task_not_found"
    assert (await wire.submit(idempotency_key=KEY)).json["id"] == task_id
    wire.sandbox.advance(1)
    assert await seen(wire, task_id) == (200, True, True)
    assert wire.sandbox.paid == 1


async def test_a_task_is_not_found_in_the_middle_of_its_life(wire: Wire) -> None:
    """It was there, is denied for a while, and is there again; the list may have it all along."""
    wire.sandbox.fail(Fault("not-found-window", at=10, seconds=5, listed=True))
    task_id = await wire.accepted()
    states = []
    for seconds in (9, 1, 5):
        wire.sandbox.advance(seconds)
        states.append(await seen(wire, task_id))
    assert states == [(200, True, True), (404, False, True), (200, True, True)]


async def test_two_windows_of_one_task_add_up(wire: Wire) -> None:
    """A task that two faults strike is denied in both."""
    wire.sandbox.fail(Fault("not-found-window", seconds=1))
    wire.sandbox.fail(Fault("not-found-window", at=5, seconds=1))
    task_id = await wire.accepted()
    statuses = []
    for _ in range(4):
        statuses.append((await wire.get(f"/v1/tasks/{task_id}")).status)
        wire.sandbox.advance(2.5)
    assert statuses == [404, 200, 404, 200]


async def test_completed_comes_before_the_results(wire: Wire) -> None:
    """Status and progress say that all is done, and the links follow."""
    wire.sandbox.fail(Fault("late-results", seconds=10))
    task_id = await wire.accepted()
    wire.sandbox.finish()
    wire.sandbox.advance(9)
    early = await wire.task(task_id)
    assert (early["status"], early["progress"]) == ("completed", 100)
    assert not early.keys() & {"results", "result_data"}
    assert [row["has_results"] for row in (await wire.get("/v1/tasks")).json["data"]] == [False]
    wire.sandbox.advance(1)
    assert (await wire.task(task_id))["results"] == wire.sandbox.tasks[0].results


@pytest.mark.parametrize("status", [403, 404])
async def test_a_fresh_link_is_denied_until_its_host_has_the_file(wire: Wire, status: int) -> None:
    """The same link that answered 403 or 404 gives the video later."""
    wire.sandbox.fail(Fault("late-link", seconds=60, status=status))
    link = await wire.completed()
    wire.sandbox.advance(59)
    assert (await wire.download(link)).status == status
    wire.sandbox.advance(1)
    assert (await wire.download(link)).status == 200


async def test_short_links_live_for_seconds_and_every_read_signs_another(wire: Wire) -> None:
    """Each link dies after its seconds; a new one gives the same video, and so resumes it."""
    wire.sandbox.fail(Fault("short-links", seconds=5))
    task_id = await wire.accepted(seed=3)
    wire.sandbox.finish()
    first, second = [(await wire.task(task_id))["results"][0] for _ in range(2)]
    assert first != second
    whole = await wire.download(first)
    wire.sandbox.advance(5)
    assert (await wire.download(first)).status == (await wire.download(second)).status == 403
    batch = (await wire.post("/v1/tasks/batch", {"task_ids": [task_id]})).json["data"]
    again = await wire.download(batch[0]["results"][0], If_Range=whole.headers["ETag"])
    assert (again.status, again.body) == (200, whole.body)


async def test_completed_comes_before_the_charge_is_settled(wire: Wire) -> None:
    """`credits_used` is 0 and the charge only reserved; then it is charged, and counted once."""
    wire.sandbox.fail(Fault("late-settlement", seconds=10))
    task_id = await wire.accepted(duration=5)
    wire.sandbox.finish()
    wire.sandbox.advance(9)
    early = await wire.task(task_id)
    assert (early["status"], early["usage"]["credits_used"]) == ("completed", 0)
    assert (early["billing"]["charge_status"], early["billing"]["reserved_credits"]) == (
        "reserved",
        38.08,
    )
    wire.sandbox.advance(1)
    late = await wire.task(task_id)
    assert (late["usage"]["credits_used"], late["billing"]["charge_status"]) == (38.08, "charged")
    assert [entry.kind for entry in wire.sandbox.ledger] == ["reserve", "settle"]


async def test_a_refund_that_comes_late_is_no_refund_before(wire: Wire) -> None:
    """A failed task's reservation is free only when the refund is there, with its time."""
    wire.sandbox.fail(Fault("late-settlement", seconds=10))
    wire.sandbox.fail(Fault("fail-task"))
    task_id = await wire.accepted()
    wire.sandbox.finish()
    early = (await wire.task(task_id))["billing"]
    assert (early["charge_status"], early["refund_status"]) == ("reserved", "unknown")
    assert "refunded_at" not in early
    wire.sandbox.advance(10)
    late = (await wire.task(task_id))["billing"]
    assert (late["charge_status"], late["refund_status"]) == ("released", "completed")
    assert late["refunded_at"].endswith("Z")
    assert late["refunded_credits"] == late["reserved_credits"] == 38.08


async def test_a_newer_word_stands_for_completed_and_has_the_results(wire: Wire) -> None:
    """Only the word is new: results, progress and charge are those of a completed task."""
    wire.sandbox.fail(Fault("newer-status", status="succeeded"))
    task_id = await wire.accepted()
    assert (await wire.task(task_id))["status"] == "pending"
    wire.sandbox.finish()
    view = await wire.task(task_id)
    assert (view["status"], view["progress"], len(view["results"])) == ("succeeded", 100, 1)


async def test_the_control_path_adds_each_of_them(wire: Wire) -> None:
    """Another process can do all that Python can."""
    for action in ("not-found-window", "late-results", "late-link", "short-links"):
        told: dict[str, Any] = {"action": action, "times": None, "details": {"seconds": 7}}
        assert (await wire.post("/sandbox/faults", told)).status == 200
    faults = (await wire.get("/sandbox/state")).json["faults"]
    assert [fault["details"] for fault in faults] == [{"seconds": "7"}] * 4


async def test_the_scenario_eventual_is_right_in_the_end(http: aiohttp.ClientSession) -> None:
    """Some of 40 tasks are denied, late or short at first, and all are whole after minutes."""
    async with Sandbox(video="stub", speed=0, task_seconds=60) as sandbox:
        wire = Wire(sandbox, http)
        sandbox.scenario("eventual")
        ids = [await wire.accepted() for _ in range(40)]
        first = [(await wire.get(f"/v1/tasks/{task_id}")).status for task_id in ids]
        assert 5 < first.count(404) < 30
        sandbox.advance(60 + 120)
        sandbox.clear_faults()
        for task_id in ids:
            view = await wire.task(task_id)
            assert view["billing"]["charge_status"] == "charged"
            assert (await wire.download(view["results"][0])).status == 200
        assert sandbox.paid == 40


async def test_a_failure_of_a_moment_is_told_and_taken_back(wire: Wire) -> None:
    """Reads say that the task has failed, with an error, and later that it goes on; it ends well
    and is charged.
    """
    wire.sandbox.fail(Fault("false-failure", at=5, seconds=10))
    task_id = await wire.accepted()
    told = []
    for _ in range(3):
        task = await wire.task(task_id)
        told.append((task["status"] == "failed", task.get("error", {}).get("code")))
        wire.sandbox.advance(8)
    assert told == [(False, None), (True, "service_error"), (False, None)]
    assert wire.sandbox.tasks[0].error is None
    wire.sandbox.finish()
    assert (await wire.task(task_id))["status"] == "completed"
    assert wire.sandbox.paid == 1


@pytest.mark.parametrize(
    ("status", "code"), [("completed", None), ("cancelled", "request_cancelled")]
)
async def test_another_end_of_a_moment_has_no_results(
    wire: Wire, status: str, code: str | None
) -> None:
    """What is said to be completed too early has neither results nor an error."""
    wire.sandbox.fail(Fault("false-failure", seconds=10, status=status))
    early = await wire.task(await wire.accepted())
    assert early["status"] == status
    assert early.get("error", {}).get("code") == code
    assert not early.keys() & {"results", "result_data"}
    wire.sandbox.advance(11)
    assert (await wire.task(early["id"]))["status"] not in ("completed", "cancelled")


async def test_a_lagging_replica_shows_a_task_as_it_was(wire: Wire) -> None:
    """An answer says of an ended task that it is being made, without results; the next is true."""
    task_id = await wire.accepted()
    wire.sandbox.finish()
    wire.sandbox.fail(Fault("stale", times=2))
    early = await wire.task(task_id)
    assert (early["status"], early["progress"]) == ("processing", 99)
    assert not early.keys() & {"results", "result_data", "billing", "error"}
    [row] = (await wire.get("/v1/tasks")).json["data"]
    assert (row["status"], row["has_results"]) == ("processing", False)
    assert (await wire.task(task_id))["status"] == "completed"


async def test_a_list_that_lags_lacks_a_task_that_reads_have(wire: Wire) -> None:
    """The list leaves a new task out for a while; a read has it at once."""
    wire.sandbox.fail(Fault("unlisted", seconds=60))
    task_id = await wire.accepted()
    assert (await wire.task(task_id))["id"] == task_id
    assert (await wire.get("/v1/tasks")).json["data"] == []
    wire.sandbox.advance(60)
    assert [row["id"] for row in (await wire.get("/v1/tasks")).json["data"]] == [task_id]
