"""The contract's table of HTTP errors and of task failures, one test each."""

from __future__ import annotations

import io
from email.utils import parsedate_to_datetime

import aiohttp
import pytest

from happyhorse_async.sandbox import Account, Fault, Features, Sandbox
from tests.sandbox.conftest import Wire

pytestmark = pytest.mark.anyio


async def test_http_errors_carry_code_message_and_type(wire: Wire) -> None:
    """The envelope is `error`, and `param` is there when one parameter is to blame."""
    error = (await wire.submit(duration=2)).error
    assert set(error) == {"code", "message", "type", "param"}
    assert error["type"] == "invalid_request_error"
    assert set((await wire.get("/v1/tasks/task-unified-1")).error) == {"code", "message", "type"}


async def test_code_was_once_an_integer(http: aiohttp.ClientSession) -> None:
    """With the feature, `code` is the HTTP status."""
    async with Sandbox(video="stub", features=Features(integer_codes=True)) as sandbox:
        assert (await Wire(sandbox, http).submit(duration=2)).error["code"] == 400


async def test_the_file_service_answers_success_false_instead(wire: Wire) -> None:
    """Its envelope has `success`, `code` and `msg`."""
    reply = await wire.files("GET", "/api/v1/files/quota", key="wrong")
    assert reply.json["success"] is False
    assert reply.json["code"] == reply.status == 401
    assert reply.json["msg"]


@pytest.mark.parametrize("task_id", ["video%201", "x" * 129, "%C3%A9"])
async def test_400_invalid_task_id(wire: Wire, task_id: str) -> None:
    """An id that cannot be one, for its letters or its length, is refused with its own code."""
    reply = await wire.get(f"/v1/tasks/{task_id}")
    assert (reply.status, reply.error["code"]) == (400, "invalid_task_id")


@pytest.mark.parametrize("body", [b"", b"{", b"[1", b"nothing", b"\xff\xfe", b'{"model": NaN}'])
async def test_400_invalid_request_for_a_body_that_is_not_json(wire: Wire, body: bytes) -> None:
    """Broken JSON is the client's mistake, never a 500."""
    reply = await wire.call("POST", "/v1/videos/generations", data=body)
    assert (reply.status, reply.error["code"]) == (400, "invalid_request")


async def test_402_insufficient_quota_when_the_account_has_too_few_credits(
    http: aiohttp.ClientSession,
) -> None:
    """Reserved credits count, so that the second task is refused; after a refund there is room
    again.
    """
    async with Sandbox(video="stub", credits=60) as sandbox:
        wire = Wire(sandbox, http)
        first = await wire.accepted()
        reply = await wire.submit()
        assert (reply.status, reply.error["code"]) == (402, "insufficient_quota")
        assert reply.error["type"] == "insufficient_quota"
        sandbox.end(first, "failed")
        assert (await wire.submit()).status == 200
        assert sandbox.paid == 2


async def test_403_model_access_denied_and_permission_denied(http: aiohttp.ClientSession) -> None:
    """The reference's own words: a key without the model, an account that is switched off."""
    accounts = [
        Account(key="poor", models=(), model_code="model_access_denied"),
        Account(key="off", active=False),
    ]
    async with Sandbox(video="stub", accounts=accounts) as sandbox:
        wire = Wire(sandbox, http)
        poor, off = await wire.submit(key="poor"), await wire.submit(key="off")
    assert (poor.status, poor.error["code"]) == (403, "model_access_denied")
    assert (off.status, off.error["code"]) == (403, "permission_denied")


async def test_404_task_not_found(wire: Wire) -> None:
    """An id that could be one but is none."""
    reply = await wire.get("/v1/tasks/task-unified-1761313744-h1i2vcd9")
    assert (reply.status, reply.error["code"]) == (404, "task_not_found")


async def test_413_request_too_large(wire: Wire) -> None:
    """A body over the limit is refused on both hosts."""
    assert (
        await wire.call("POST", "/v1/videos/generations", data=io.BytesIO(b"x" * 1_100_000))
    ).status == 413
    assert (await wire.upload(b"x" * 34_000_000)).status == 413


async def test_429_rate_limit_exceeded_with_retry_after_in_seconds(
    http: aiohttp.ClientSession,
) -> None:
    """The bucket holds one second's worth; then the answer says how long to wait, and nothing is
    paid.
    """
    async with Sandbox(video="stub", rate_limit=2) as sandbox:
        wire = Wire(sandbox, http)
        replies = [await wire.submit() for _ in range(6)]
        limited = [reply for reply in replies if reply.status == 429]
        assert [reply.status for reply in replies[:2]] == [200, 200]
        assert limited
        assert limited[0].error["code"] == "rate_limit_exceeded"
        assert int(limited[0].headers["Retry-After"]) == 1
        assert sandbox.paid == len(replies) - len(limited)


async def test_429_rate_limits_hold_for_each_key_alone(http: aiohttp.ClientSession) -> None:
    """One account's storm does not slow another one."""
    accounts = [Account(key="busy", rate_limit=0.001), Account(key="calm", rate_limit=0.001)]
    async with Sandbox(video="stub", accounts=accounts) as sandbox:
        wire = Wire(sandbox, http)
        assert [(await wire.submit(key=key)).status for key in ("busy", "busy", "calm")] == [
            200,
            429,
            200,
        ]


async def test_429_retry_after_may_be_an_http_date_or_absent(http: aiohttp.ClientSession) -> None:
    """A date lies in the future of the answer's own `Date`."""
    accounts = [Account(key="k", rate_limit=0.01)]
    async with Sandbox(
        video="stub", accounts=accounts, features=Features(retry_after="date")
    ) as sandbox:
        wire = Wire(sandbox, http)
        await wire.submit()
        headers = (await wire.submit()).headers
    assert parsedate_to_datetime(headers["Retry-After"]) > parsedate_to_datetime(headers["Date"])
    async with Sandbox(
        video="stub", accounts=accounts, features=Features(retry_after="absent")
    ) as sandbox:
        wire = Wire(sandbox, http)
        await wire.submit()
        assert "Retry-After" not in (await wire.submit()).headers


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "internal_error"), (503, "service_unavailable"), (503, "no_available_channel")],
)
async def test_500_and_503_come_with_the_services_own_error_body(
    wire: Wire, status: int, code: str
) -> None:
    """A fault gives any of them, and the next request is fine."""
    body = {"error": {"code": code, "message": "try again", "type": "api_error"}}
    wire.sandbox.fail(Fault("refuse", status=status, body=body))
    reply = await wire.submit()
    assert (reply.status, reply.json) == (status, body)
    assert (await wire.submit()).status == 200
    assert wire.sandbox.paid == 1


async def test_502_comes_from_a_gateway_with_a_page(wire: Wire) -> None:
    """Such an answer is no JSON at all."""
    wire.sandbox.fail(Fault("refuse", status=502, body="<h1>Bad gateway</h1>"))
    reply = await wire.submit()
    assert (reply.status, reply.body) == (502, b"<h1>Bad gateway</h1>")
    assert reply.headers["Content-Type"].startswith("text/html")


async def test_unknown_paths_and_methods_are_404_and_405(wire: Wire) -> None:
    """A 405 says what is possible."""
    assert (await wire.get("/v1/nothing")).status == 404
    reply = await wire.call("DELETE", "/v1/videos/generations")
    assert (reply.status, reply.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "code",
    [
        "content_policy_violation",
        "invalid_parameters",
        "image_processing_error",
        "image_dimension_mismatch",
        "request_cancelled",
        "service_error",
        "service_unavailable",
        "resource_exhausted",
        "generation_timeout",
        "quota_exceeded",
        "generation_failed_no_content",
        "resource_not_found",
        "unknown_error",
        "an_error_of_tomorrow",
    ],
)
async def test_a_task_fails_with_every_documented_code_and_is_not_charged(
    wire: Wire, code: str
) -> None:
    """The task ends as failed with this code, and its credits are free again."""
    wire.sandbox.fail(Fault("fail-task", code=code))
    task_id = await wire.accepted()
    wire.sandbox.advance(2400)
    view = await wire.task(task_id)
    assert (view["status"], view["error"]["code"]) == ("failed", code)
    assert view["billing"]["refund_status"] == "completed"
    assert (await wire.get("/v1/credits")).json["data"]["user"]["remaining_credits"] == 1_000_000
