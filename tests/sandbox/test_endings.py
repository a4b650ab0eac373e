"""How tasks end when somebody has a say in it: faults that fail them, endings by hand, and lengths of their own."""

from __future__ import annotations

import aiohttp
import pytest

from happyhorse_async.sandbox import Fault, Sandbox

from .conftest import Wire

pytestmark = pytest.mark.anyio


async def test_fail_task_also_fails_a_task_that_ends_at_once(http: aiohttp.ClientSession) -> None:
    """With `task_seconds=0`, as the pytest fixture has it, the struck task fails and the next one completes."""
    async with Sandbox(video="stub", task_seconds=0) as sandbox:
        wire = Wire(sandbox, http)
        fault = sandbox.fail(Fault("fail-task", code="content_policy_violation"))
        struck, spared = await wire.task(await wire.accepted()), await wire.task(await wire.accepted())
        assert sandbox.fired(fault) == 1
    assert (struck["status"], struck["error"]["code"]) == ("failed", "content_policy_violation")
    assert struck["billing"]["refund_status"] == "refunded"
    assert spared["status"] == "completed"
