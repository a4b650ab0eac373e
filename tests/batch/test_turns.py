"""A batch takes turns with the single calls of its session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, Limits
from happyhorse_async.sandbox import Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://cdn.example.com/cat.png"


async def test_a_single_call_overtakes_the_batch_that_waits(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """With one slot and a hundred jobs in line, a single call waits for a turn or two, not for the
    batch.
    """
    some = asyncio.Event()
    loop = asyncio.get_running_loop()
    sandbox.watch_requests(
        lambda record: loop.call_soon_threadsafe(some.set) if len(sandbox.tasks) >= 5 else None
    )
    requests = [ImageToVideo(LINK, seed=seed) for seed in range(1, 101)]

    async def work() -> None:
        async with session.batch(tmp_path, max_in_flight=100) as batch:
            async for _ in batch.run(requests):
                pass

    async with open_session(sandbox, limits=Limits(max_submissions=1)) as session:
        running = asyncio.create_task(work())
        await some.wait()
        before = len(sandbox.tasks)
        mine = await session.submit(LINK)
        place = [task.id for task in sandbox.tasks].index(mine.id)
        running.cancel()
        await asyncio.wait([running])
    assert before < 90
    assert place - before <= 3
