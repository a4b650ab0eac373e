"""The contract's sentences between its tables, and what its tables only hint at, one test each."""

from __future__ import annotations

import inspect
import io
from decimal import Decimal
from typing import Any

import aiohttp
import av
import pytest
from aiohttp import web

from happyhorse_async.sandbox import Account, Fault, Features, Sandbox
from tests.sandbox.conftest import MODEL, Wire

pytestmark = pytest.mark.anyio

CALLS = [
    ("api", "POST", "/v1/videos/generations"),
    ("api", "GET", "/v1/tasks/task-unified-1"),
    ("api", "POST", "/v1/tasks/batch"),
    ("api", "GET", "/v1/tasks"),
    ("api", "GET", "/v1/credits"),
    ("files", "POST", "/api/v1/files/upload/stream"),
    ("files", "POST", "/api/v1/files/upload/base64"),
    ("files", "POST", "/api/v1/files/upload/url"),
    ("files", "GET", "/api/v1/files/quota"),
    ("files", "GET", "/api/v1/files/list"),
    ("files", "DELETE", "/api/v1/files/file-1"),
]


async def test_the_api_and_the_file_service_are_two_hosts(wire: Wire) -> None:
    """Neither has the paths of the other one."""
    assert (await wire.files("GET", "/v1/credits")).status == 404
    assert (await wire.get("/api/v1/files/quota")).status == 404


@pytest.mark.parametrize(("host", "method", "path"), CALLS)
async def test_401_unauthorized_on_every_call_to_both_hosts(
    wire: Wire, host: str, method: str, path: str
) -> None:
    """Each is refused without a key, with a wrong one and in another scheme, before its body is
    looked at.
    """
    base = wire.sandbox.url if host == "api" else wire.sandbox.files_url
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {wire.sandbox.key}"},
    ):
        reply = await wire.call(method, base + path, key=None, headers=headers)
        assert reply.status == 401
        if host == "api":
            assert (reply.error["code"], reply.error["type"]) == (
                "unauthorized",
                "authentication_error",
            )
        else:
            assert reply.json["success"] is False


async def test_the_request_id_is_sometimes_in_the_error_too(wire: Wire) -> None:
    """An answer without it in its body has it in its header all the same."""
    reply = await wire.submit(duration=2)
    assert "request_id" not in reply.error
    assert reply.headers["x-request-id"]


async def test_progress_is_an_integer_from_0_to_100(http: aiohttp.ClientSession) -> None:
    """At the start, on the way and at the end."""
    async with Sandbox(video="stub", speed=0, task_seconds=10) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted()
        seen = []
        for seconds in (0, 5, 4.99, 0.01):
            sandbox.advance(seconds)
            seen.append((await wire.task(task_id))["progress"])
    assert all(type(progress) is int for progress in seen)
    assert (seen[0], seen[-1]) == (0, 100)
    assert 0 < seen[1] <= seen[2] < 100


async def test_usage_can_lack_the_settled_charge(http: aiohttp.ClientSession) -> None:
    """Without the feature an ended task's `usage` has neither `credits_used` nor `cost`."""
    async with Sandbox(video="stub", features=Features(settlement=False)) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted()
        sandbox.finish()
        assert set((await wire.task(task_id))["usage"]) == {
            "billing_rule",
            "credits_reserved",
            "user_group",
        }


async def test_an_error_can_lack_its_suggestion(http: aiohttp.ClientSession) -> None:
    """Without the feature a failed task's `error` has the three documented fields."""
    async with Sandbox(video="stub", features=Features(suggestions=False)) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted()
        sandbox.end(task_id, "failed")
        assert set((await wire.task(task_id))["error"]) == {"code", "message", "type"}


async def test_query_many_can_be_missing_with_405(wire: Wire) -> None:
    """A server may know the path by other methods only; a fault without end stands for it."""
    task_id = await wire.accepted()
    wire.sandbox.fail(
        Fault("refuse", method="POST", path="/v1/tasks/batch", times=None, status=405)
    )
    assert [
        (await wire.post("/v1/tasks/batch", {"task_ids": [task_id]})).status for _ in range(2)
    ] == [405, 405]
    assert (await wire.get(f"/v1/tasks/{task_id}")).status == 200


async def test_no_endpoint_cancels_a_task(wire: Wire) -> None:
    """The likely guesses are refused, and the task goes on."""
    task_id = await wire.accepted()
    assert (await wire.call("DELETE", f"/v1/tasks/{task_id}")).status == 405
    assert (await wire.post(f"/v1/tasks/{task_id}/cancel")).status == 404
    assert (await wire.task(task_id))["status"] == "pending"


@pytest.mark.parametrize("encoding", ["identity", "gzip, br"])
async def test_a_result_is_sent_as_it_is(wire: Wire, encoding: str) -> None:
    """With `Accept-Encoding: identity` nothing is encoded, and here with another one neither."""
    reply = await wire.download(await wire.completed(), Accept_Encoding=encoding)
    assert "Content-Encoding" not in reply.headers
    assert int(reply.headers["Content-Length"]) == len(reply.body)


async def test_a_broken_link_can_answer_200_with_a_json_body(wire: Wire) -> None:
    """The status says that all is well, and the body is no video."""
    link = await wire.completed()
    wire.sandbox.fail(Fault("json"))
    reply = await wire.download(link)
    assert (reply.status, reply.headers["Content-Type"], "error" in reply.json) == (
        200,
        "application/json",
        True,
    )


async def test_a_callback_has_no_signature_and_no_key(wire: Wire) -> None:
    """Its headers are those of any POST of JSON, so a receiver has nothing to believe."""
    got: list[Any] = []

    async def take(request: web.BaseRequest) -> web.Response:
        got.append((request.method, {name.lower() for name in request.headers}))
        return web.Response(status=204)

    runner = web.ServerRunner(web.Server(take))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    await wire.accepted(callback_url=f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
    wire.sandbox.finish()
    while not wire.sandbox.callbacks:
        await wire.get("/v1/credits")
    await runner.cleanup()
    assert got == [
        (
            "POST",
            {"host", "content-type", "content-length", "user-agent", "accept", "accept-encoding"},
        )
    ]


def test_a_receiver_of_callbacks_has_10_seconds() -> None:
    """That is the time-out unless a test shortens it."""
    assert inspect.signature(Sandbox).parameters["callback_timeout"].default == 10.0


async def test_credits_show_a_keys_own_limit(http: aiohttp.ClientSession) -> None:
    """A key with a limit is not unlimited, and what is reserved is not remaining."""
    async with Sandbox(
        video="stub", speed=0, accounts=[Account(key="k", credits=1000, token_credits=100)]
    ) as sandbox:
        wire = Wire(sandbox, http)
        await wire.accepted(duration=10)
        data = (await wire.get("/v1/credits")).json["data"]
    assert data["user"] == {"remaining_credits": 923.84, "used_credits": 0.0}
    assert data["token"] == {
        "remaining_credits": 23.84,
        "used_credits": 0.0,
        "unlimited_credits": False,
    }


async def test_68_credits_are_1_usd_and_1_credit_is_10000_uc(wire: Wire) -> None:
    """The catalogue's rate and minimum are the same amount in each unit."""
    (component,) = (await wire.get(f"/v1/catalog/pricing-rules/{MODEL}", key=None)).json["model"][
        "components"
    ]
    for amounts in (component["rate"], component["minimum_charge"]):
        exact = {unit: Decimal(amount) for unit, amount in amounts.items()}
        assert exact["credits"] == exact["usd"] * 68 == exact["uc"] / 10_000


async def test_settlement_follows_the_actual_output_length(wire: Wire) -> None:
    """What is charged is the rate times the seconds that a decoder finds in the video."""
    video = (await wire.download(await wire.completed(duration=7))).body
    with av.open(io.BytesIO(video)) as container:
        seconds = Decimal(container.duration or 0) / av.time_base
    assert wire.sandbox.tasks[0].charged == Decimal("7.616") * seconds
