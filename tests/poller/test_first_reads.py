"""What happens to a wait while the first read of its task, of which nothing is known yet, is on the
wire: on simulated time.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from benchmarks import polling
from happyhorse_async import Task
from happyhorse_async._poller import Poller
from happyhorse_async.errors import SessionClosedError
from tests.poller.test_returning import simulated

LIFE = 30.0


async def asked(
    server: polling.Service, poller: Poller, count: int = 1
) -> list[asyncio.Task[Task]]:
    """Start waits by ids alone, for tasks that are not done, and come back when their first read is
    on the wire.
    """
    tasks = [server.accept(LIFE, LIFE) for _ in range(count)]
    waits = [asyncio.ensure_future(poller.wait(task.id)) for task in tasks]
    while not server.requests:
        await asyncio.sleep(0)
    await asyncio.sleep(polling.LATENCY / 4)  # by half of it the answer is there
    return waits


def test_a_task_that_has_ended_is_kept_nowhere_but_among_the_ended() -> None:
    """The first read tells the end: one request, one announcement, nothing that is still waited
    for.
    """

    async def work(server: polling.Service, poller: Poller) -> None:
        seen: list[Task] = []
        poller.on_final(seen.append)
        task = server.accept(LIFE, LIFE)
        await asyncio.sleep(LIFE)
        ended = await poller.wait(task.id)
        assert (await poller.wait(task.id)) is ended
        assert (seen, server.requests, poller.waiting) == ([ended], 1, 0)

    simulated(work)


def test_a_task_that_goes_on_is_read_until_its_end() -> None:
    """The first answer makes it one of those that are read when it is worth it."""

    async def work(server: polling.Service, poller: Poller) -> None:
        waits = await asked(server, poller, 3)
        assert poller.waiting == 3
        assert {task.status for task in await asyncio.gather(*waits)} == {"completed"}
        assert asyncio.get_running_loop().time() < 2 * LIFE

    simulated(work)


def test_a_second_waiter_gets_the_same_answer() -> None:
    """Who comes while the read is on the wire is told by it, without a second one."""

    async def work(server: polling.Service, poller: Poller) -> None:
        [wait] = await asked(server, poller)
        updates = poller.updates("task-unified-0")
        assert (await anext(updates)).status == "processing"
        assert server.requests == 1
        assert [task.status async for task in updates] == ["completed"]
        assert (await wait).status == "completed"

    simulated(work)


def test_one_who_leaves_is_forgotten() -> None:
    """The answer that comes then is nobody's, and the task is read no more."""

    async def work(server: polling.Service, poller: Poller) -> None:
        stays, leaves = await asked(server, poller, 2)
        leaves.cancel()
        await asyncio.wait([leaves])
        assert poller.waiting == 1
        await stays
        assert server.reads == server.requests + 1
        assert poller.waiting == 0

    simulated(work)


def test_a_hint_is_kept_for_after_the_answer() -> None:
    """What was asked before the hint may be older than what the hint is about: the task is read
    once more, soon.
    """

    async def work(server: polling.Service, poller: Poller) -> None:
        [wait] = await asked(server, poller)
        poller.hint("task-unified-0")
        await asyncio.sleep(2.5)
        assert server.requests == 2
        await wait

    simulated(work)


def test_what_is_learned_by_another_way_ends_the_wait() -> None:
    """A read by hand says that the task has ended; the older answer on the wire changes nothing."""

    async def work(server: polling.Service, poller: Poller) -> None:
        [wait] = await asked(server, poller)
        ended = Task(
            id="task-unified-0",
            status="completed",
            results=("https://files.example.com/video.mp4",),
        )
        poller.learn(ended)
        assert await wait is ended
        await asyncio.sleep(LIFE)
        assert (server.requests, poller.waiting) == (1, 0)

    simulated(work)


@pytest.mark.parametrize("failing", [0.0, 0.9])
def test_closing_wakes_them(failing: float) -> None:
    """Whatever becomes of the read."""

    async def work(server: polling.Service, poller: Poller) -> Any:
        waits = await asked(server, poller, 60)
        poller.close()
        outcomes = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {SessionClosedError}

    simulated(work, failing=failing)


@pytest.mark.parametrize("batches", [True, False])
def test_failed_first_reads_are_made_again(batches: bool) -> None:
    """With and without a way to read many tasks."""

    async def work(server: polling.Service, poller: Poller) -> None:
        waits = await asked(server, poller, 10)
        assert {task.status for task in await asyncio.gather(*waits)} == {"completed"}
        assert poller.waiting == 0

    simulated(work, failing=0.5, batches=batches)
