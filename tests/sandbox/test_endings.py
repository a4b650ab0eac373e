"""How tasks end when somebody has a say in it: faults that fail them, endings by hand, and lengths
of their own.
"""

from __future__ import annotations

from decimal import Decimal

import aiohttp
import pytest

from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.sandbox.conftest import Wire

pytestmark = pytest.mark.anyio


async def test_fail_task_also_fails_a_task_that_ends_at_once(http: aiohttp.ClientSession) -> None:
    """With `task_seconds=0`, as the pytest fixture has it, the struck task fails and the next one
    completes.
    """
    async with Sandbox(video="stub", task_seconds=0) as sandbox:
        wire = Wire(sandbox, http)
        fault = sandbox.fail(Fault("fail-task", code="content_policy_violation"))
        struck, spared = (
            await wire.task(await wire.accepted()),
            await wire.task(await wire.accepted()),
        )
        assert sandbox.fired(fault) == 1
    assert (struck["status"], struck["error"]["code"]) == ("failed", "content_policy_violation")
    assert struck["billing"]["refund_status"] == "completed"
    assert spared["status"] == "completed"


@pytest.mark.parametrize(("as_failed", "shown"), [(True, "failed"), (False, "cancelled")])
@pytest.mark.parametrize("over_http", [False, True])
async def test_a_task_cancelled_by_hand_says_so_in_its_code_and_in_the_list(
    http: aiohttp.ClientSession, as_failed: bool, shown: str, over_http: bool
) -> None:
    """Without a code it is `request_cancelled`, and the list's filter knows the status that is
    shown.
    """
    async with Sandbox(
        video="stub", speed=0, features=Features(cancelled_as_failed=as_failed)
    ) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted()
        if over_http:
            assert (
                await wire.post("/sandbox/end", {"task_id": task_id, "status": "cancelled"})
            ).status == 200
        else:
            sandbox.end(task_id, "cancelled")
        view = await wire.task(task_id)
        listed = {
            status: [
                row["status"] for row in (await wire.get(f"/v1/tasks?status={status}")).json["data"]
            ]
            for status in ("failed", "cancelled")
        }
        assert sandbox.task(task_id).status == shown
    assert (view["status"], view["error"]["code"]) == (shown, "request_cancelled")
    assert listed == {"failed": [], "cancelled": [], shown: [shown]}


@pytest.mark.parametrize("body", [{"error_code": 5}, {"message": ["x"]}, {"task_id": ["x"]}])
async def test_the_control_path_refuses_an_ending_that_is_not_text(
    wire: Wire, body: dict[str, object]
) -> None:
    """It is the caller's mistake, never a 500, and the task goes on."""
    task_id = await wire.accepted()
    reply = await wire.post("/sandbox/end", {"task_id": task_id, "status": "failed", **body})
    assert 400 <= reply.status < 500
    assert (await wire.task(task_id))["status"] == "pending"


@pytest.mark.parametrize(
    ("asked", "made", "charged"), [(5, 3, "22.848"), (5, 10, "76.16"), (3, 1, "22.848")]
)
async def test_settlement_follows_the_actual_output_length(
    wire: Wire, asked: int, made: int, charged: str
) -> None:
    """A video that came out shorter or longer than asked for is charged as it is; the reservation
    was for what was asked.
    """
    fault = wire.sandbox.fail(Fault("output-length", length=made))
    task_id = await wire.accepted(duration=asked)
    wire.sandbox.finish()
    view, task = await wire.task(task_id), wire.sandbox.task(task_id)
    assert (task.reserved, task.charged) == (Decimal("7.616") * asked, Decimal(charged))
    assert view["usage"]["credits_used"] == view["billing"]["charged_credits"] == float(charged)
    assert (view["task_info"]["video_duration"], view["result_data"]["duration"]) == (asked, made)
    user = (await wire.get("/v1/credits")).json["data"]["user"]
    assert user == {"remaining_credits": 1_000_000 - float(charged), "used_credits": float(charged)}
    assert wire.sandbox.fired(fault) == 1
