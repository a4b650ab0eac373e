"""One odd task must not hold up the others: a group that cannot be read is split. On simulated
time, over the real scheduler.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from benchmarks import polling
from happyhorse_async import Task, WaitTimeoutError
from happyhorse_async._poller import Poller
from happyhorse_async.errors import (
    APITimeoutError,
    HappyHorseError,
    InternalServerError,
    UnreadableAnswerError,
)
from tests.poller.test_patience import now
from tests.poller.test_returning import simulated

LIFE = 30.0
UNREADABLE = UnreadableAnswerError("is not JSON", status=200)


def poison(server: polling.Service, ids: set[str], error: HappyHorseError) -> None:
    """Let no answer about some tasks be readable, by batch or alone."""
    one, many = server.read_raw_task_once, server.read_raw_tasks_once

    async def alone(task_id: str) -> dict[str, Any]:
        value = await one(task_id)
        if task_id in ids:
            raise error
        return value

    async def together(task_ids: list[str]) -> dict[str, dict[str, Any]]:
        values = await many(task_ids)
        if ids.intersection(task_ids):
            raise error
        return values

    server.read_raw_task_once, server.read_raw_tasks_once = alone, together  # type: ignore[assignment,method-assign]


@pytest.mark.parametrize("odd", [1, 2, 7])
@pytest.mark.parametrize(
    ("error", "late"),
    [
        (UNREADABLE, 30.0),
        (InternalServerError("oops", status=500), 60.0),
        (APITimeoutError("no answer"), 60.0),
    ],
    ids=["unreadable", "500", "timeout"],
)
@pytest.mark.parametrize("count", [10, 120])
def test_the_others_of_a_group_are_served(
    odd: int, error: HappyHorseError, late: float, count: int
) -> None:
    """However many spoil their groups, and with whatever: all others are seen to end soon."""

    async def work(server: polling.Service, poller: Poller) -> None:
        tasks = [server.accept(LIFE, LIFE) for _ in range(count)]
        spoiled = {task.id for task in tasks[:: -(-count // odd)]}
        poison(server, spoiled, error)
        waits = {
            task.id: asyncio.ensure_future(poller.wait(task.id, known=task, timeout=3000.0))
            for task in tasks
        }
        await asyncio.gather(*(wait for task_id, wait in waits.items() if task_id not in spoiled))
        assert now() < LIFE + late
        assert server.requests < 40 + 30 * odd
        lost = await asyncio.gather(
            *(waits[task_id] for task_id in spoiled), return_exceptions=True
        )
        assert {type(each) for each in lost} == {WaitTimeoutError}

    simulated(work)


def test_a_task_that_can_be_read_again_is_seen() -> None:
    """It is read by itself, with growing pauses, and ends like any other."""

    async def work(server: polling.Service, poller: Poller) -> None:
        tasks = [server.accept(LIFE, LIFE) for _ in range(20)]
        ids = {tasks[7].id}
        poison(server, ids, UNREADABLE)
        asyncio.get_running_loop().call_later(90.0, ids.clear)
        ends = await asyncio.gather(*(poller.wait(task.id, known=task) for task in tasks))
        assert {task.status for task in ends} == {"completed"}
        assert now() < 90.0 + 60.0

    simulated(work)


def test_an_outage_does_not_break_the_batches_up() -> None:
    """After a minute in which nothing could be read, 1,000 tasks are read fifty at a time again."""

    async def work(server: polling.Service, poller: Poller) -> None:
        tasks: list[Task] = [server.accept(200.0, 200.0) for _ in range(1000)]
        ids = {task.id for task in tasks}
        poison(server, ids, UNREADABLE)
        waits = [asyncio.ensure_future(poller.wait(task.id, known=task)) for task in tasks]
        await asyncio.sleep(60.0)
        ids.clear()
        before = server.requests
        await asyncio.gather(*waits)
        assert before < 150
        assert server.requests - before < 600

    simulated(work)
