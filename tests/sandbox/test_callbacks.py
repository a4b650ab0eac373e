"""Callbacks under steering and under faults: none is lost, whoever ends the task and wherever it
points.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import pytest

from happyhorse_async.sandbox import Fault, Sandbox
from tests.sandbox.conftest import Wire
from tests.sandbox.test_contract_results import Receiver, receiver, tries

__all__ = ["receiver"]

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "end",
    [lambda sandbox, _: sandbox.finish(), lambda sandbox, task_id: sandbox.end(task_id, "failed")],
)
async def test_a_late_callback_needs_no_further_request(
    http: aiohttp.ClientSession, receiver: Receiver, end: Callable[[Sandbox, str], None]
) -> None:
    """A task that Python ends is called back when its delay is over, while nobody asks the sandbox
    for anything.
    """
    async with Sandbox(video="stub", speed=10_000, task_seconds=10**9) as sandbox:
        sandbox.fail(Fault("late-callback", seconds=100))
        task_id = await Wire(sandbox, http).accepted(callback_url=receiver.url)
        end(sandbox, task_id)
        async with asyncio.timeout(100):
            assert (await receiver.next())["id"] == task_id


async def test_a_held_callback_goes_out_although_no_other_overtakes_it(
    wire: Wire, receiver: Receiver
) -> None:
    """With `reorder-callbacks` on the last task its callback comes a little later, and once."""
    wire.sandbox.fail(Fault("reorder-callbacks"))
    task_id = await wire.accepted(callback_url=receiver.url)
    wire.sandbox.finish()
    assert wire.sandbox.callbacks == []
    wire.sandbox.advance(5)
    async with asyncio.timeout(100):
        assert (await receiver.next())["id"] == task_id
    assert await tries(wire.sandbox, 1) == [(1, 204)]


async def test_a_callback_to_a_host_name_that_is_none_is_recorded_and_tried_again(
    wire: Wire,
) -> None:
    """A name that cannot be encoded is a failed try like any other."""
    await wire.accepted(callback_url=f"https://{'x' * 64}.example.com/hook")
    wire.sandbox.finish()
    async with asyncio.timeout(100):
        assert await tries(wire.sandbox, 1) == [(1, None)]
        wire.sandbox.advance(1)
        assert await tries(wire.sandbox, 2) == [(1, None), (2, None)]


def test_a_look_at_a_task_that_has_ended_while_no_loop_runs_sends_its_callback() -> None:
    """Between two runs of its loop a sandbox can be looked at, and its time moved; what is due
    then leaves with the next run.
    """
    with asyncio.Runner() as runner:
        sandbox = Sandbox(video="stub", task_seconds=60, callback_timeout=100)
        runner.run(sandbox.__aenter__())
        task_id = runner.run(_accepted(sandbox))
        sandbox.advance(60)
        assert sandbox.task(task_id).status == "completed"
        assert runner.run(tries(sandbox, 1)) == [(1, None)]
        runner.run(sandbox.__aexit__(None, None, None))


async def _accepted(sandbox: Sandbox) -> str:
    async with aiohttp.ClientSession() as http:
        nobody = f"https://{'x' * 64}.example.com/hook"
        return await Wire(sandbox, http).accepted(callback_url=nobody)
