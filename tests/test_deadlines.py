"""Time limits of calls."""

import asyncio

import pytest

from happyhorse_async._concurrency import Deadlines

pytestmark = pytest.mark.anyio


async def test_a_call_that_takes_too_long_is_a_timeout():
    """It ends with TimeoutError, and its task is not left cancelled."""
    deadlines = Deadlines(0.01)
    with pytest.raises(TimeoutError), deadlines.begin():
        await asyncio.Event().wait()
    assert asyncio.current_task().cancelling() == 0
    deadlines.close()


async def test_a_call_in_time_is_not_touched():
    """What it gives is given, also when others run out of time meanwhile."""
    deadlines = Deadlines(0.01)
    with deadlines.begin():
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError), deadlines.begin():
        await asyncio.Event().wait()
    await asyncio.sleep(0)
    deadlines.close()


async def test_calls_end_each_in_its_time():
    """One alarm serves all, in the order in which they began."""
    deadlines, ended = Deadlines(0.01), []

    async def call(number: int) -> None:
        try:
            with deadlines.begin():
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(call(number))
    assert ended == [0, 1, 2]
    deadlines.close()


async def test_a_cancellation_stays_a_cancellation():
    """Only the time limit becomes a TimeoutError."""
    deadlines = Deadlines(60)
    began = asyncio.Event()

    async def call() -> None:
        with deadlines.begin():
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()


async def test_both_at_once_are_a_cancellation():
    """Who was cancelled from outside must end as cancelled, whatever the clock says."""
    deadlines = Deadlines(60)
    began = asyncio.Event()
    limits = []

    async def call() -> None:
        with (limit := deadlines.begin()):
            limits.append(limit)
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await began.wait()
    limits[0].expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()


async def test_calls_that_have_ended_are_forgotten():
    """A thousand short calls hold no more than one."""
    deadlines = Deadlines(60)
    for _ in range(1000):
        with deadlines.begin():
            pass
    assert len(deadlines._open) == 1
    deadlines.close()


async def test_a_limit_needs_a_task():
    """Without one there is nothing to end."""
    loop, raised = asyncio.get_running_loop(), asyncio.Event()
    deadlines = Deadlines(60)

    def outside() -> None:
        with pytest.raises(RuntimeError, match="within an asyncio task"):
            deadlines.begin()
        raised.set()

    loop.call_soon(outside)
    await raised.wait()
