"""Lines of the contract that are easily forgotten, one test each."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.sandbox.conftest import Wire

pytestmark = pytest.mark.anyio
BATCH = "/v1/tasks/batch"


async def test_an_error_sometimes_carries_the_request_id(wire: Wire) -> None:
    """A server error names the id of its header in `error.request_id`,
    a client's mistake does not.
    """
    wire.sandbox.fail(Fault("refuse", path="/v1/credits", status=503))
    reply = await wire.get("/v1/credits")
    assert reply.error["request_id"] == reply.headers["x-request-id"]
    assert "request_id" not in (await wire.submit(duration=2)).error


async def test_an_error_has_no_request_id_where_the_server_has_none(
    http: aiohttp.ClientSession,
) -> None:
    """With the feature off neither header nor body has one."""
    async with Sandbox(video="stub", features=Features(request_ids="absent")) as sandbox:
        sandbox.fail(Fault("refuse", path="/v1/credits", status=503))
        assert "request_id" not in (await Wire(sandbox, http).get("/v1/credits")).error


@pytest.mark.parametrize("status", [404, 405])
async def test_the_batch_endpoint_may_be_missing_as_404_or_405(
    http: aiohttp.ClientSession, status: Any
) -> None:
    """Both stand for its absence, and tasks can still be read one by one."""
    async with Sandbox(video="stub", features=Features(batch=False, missing=status)) as sandbox:
        wire = Wire(sandbox, http)
        task_id = await wire.accepted()
        reply = await wire.post(BATCH, {"task_ids": [task_id]})
        assert (reply.status, set(reply.error)) == (status, {"code", "message", "type"})
        assert (await wire.task(task_id))["id"] == task_id


async def test_the_settled_charge_may_be_absent(http: aiohttp.ClientSession) -> None:
    """Without the feature an ended task has neither `credits_used` nor `cost`; what was reserved is
    still there.
    """
    for has_them in (True, False):
        async with Sandbox(video="stub", features=Features(settlement=has_them)) as sandbox:
            wire = Wire(sandbox, http)
            task_id = await wire.accepted()
            sandbox.finish()
            usage = (await wire.task(task_id))["usage"]
        assert ("credits_used" in usage, "cost" in usage) == (has_them, has_them)
        assert usage["credits_reserved"] == 380_800


async def test_a_failed_task_sometimes_has_a_suggestion(http: aiohttp.ClientSession) -> None:
    """Without the feature its error is code, message and type alone."""
    for has_it in (True, False):
        async with Sandbox(video="stub", features=Features(suggestions=has_it)) as sandbox:
            wire = Wire(sandbox, http)
            task_id = await wire.accepted()
            sandbox.end(task_id, "failed", error_code="service_error")
            error = (await wire.task(task_id))["error"]
        assert set(error) == {"code", "message", "type"} | ({"suggestion"} if has_it else set())
        assert error["type"] == "task_error"


async def test_the_receiver_of_a_callback_has_10_seconds(wire: Wire) -> None:
    """That is the time-out unless a test sets another one."""
    service = wire.sandbox._service
    assert service is not None
    assert service.callbacks._timeout.total == service.options.callback_timeout == 10


async def test_code_is_a_string_and_was_seen_once_as_an_integer(
    http: aiohttp.ClientSession,
) -> None:
    """It depends on the feature for every error of the API, whether the service makes it or a
    fault.
    """
    for as_integer, codes in (
        (False, ["invalid_request", "task_not_found", "service_unavailable"]),
        (True, [400, 404, 503]),
    ):
        async with Sandbox(video="stub", features=Features(integer_codes=as_integer)) as sandbox:
            wire = Wire(sandbox, http)
            sandbox.fail(Fault("refuse", path="/v1/credits", status=503))
            replies = [
                await wire.submit(duration=2),
                await wire.get("/v1/tasks/task-unified-1"),
                await wire.get("/v1/credits"),
            ]
        assert [reply.error["code"] for reply in replies] == codes
