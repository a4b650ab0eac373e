"""Those who come back to a task, and hints and sessions that end at odd moments: on simulated time,
over the real scheduler.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from benchmarks import polling, virtual
from happyhorse_async import (
    AuthenticationError,
    HappyHorseError,
    Polling,
    Session,
    Task,
    WaitTimeoutError,
)
from happyhorse_async._concurrency import Background
from happyhorse_async._poller import Poller
from happyhorse_async.errors import InternalServerError, SessionClosedError
from happyhorse_async.events import Retrying

Work = Callable[[polling.Service, Poller], Awaitable[Any]]


def simulated(work: Work, **service: Any) -> Any:
    """Do something with a poller on simulated time."""

    async def main() -> Any:
        server, background = polling.Service(progress=False, **service), Background()
        poller = polling.poller_of(server, background)
        try:
            return await work(server, poller)
        finally:
            poller.close()
            await background.aclose()

    return virtual.run(main())


async def in_short_waits(poller: Poller, task: Task, seconds: float) -> tuple[Task, int]:
    """Wait for a task as a long-polling endpoint does; gives its end,
    and how many waits it took.
    """
    for count in range(1, 10_000):
        try:
            return await poller.wait(task.id, timeout=seconds, known=task), count
        except WaitTimeoutError:
            continue
    raise AssertionError("never seen")


@pytest.mark.parametrize("estimate", [60.0, 2400.0])
def test_short_waits_in_a_loop_see_the_end(estimate: float) -> None:
    """Each wait goes on where the last one stopped, also for a handle whose own knowledge is as old
    as the task.
    """

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(60.0, estimate)
        _, waits = await in_short_waits(poller, task, 5.0)
        assert asyncio.get_running_loop().time() < 60.0 + 30.0
        assert waits <= 18
        assert server.requests <= 18

    simulated(work)


def test_very_short_waits_do_not_read_more_often() -> None:
    """The least time between two reads of a task holds for those who ask again at once, too."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(30.0, 30.0)
        await in_short_waits(poller, task, 0.05)
        assert server.requests <= 30.0 / Polling().min_interval + 1

    simulated(work)


def test_a_stale_handle_does_not_set_others_back() -> None:
    """Who joins with an old state gets the present one, and nobody else hears of it."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task, seen = server.accept(100.0, 100.0), []
        first = poller.updates(task.id, known=task)
        seen.append((await anext(first)).status)
        server.lives[task.id] = server.lives[task.id]._replace(seconds=100.0)
        poller.learn(
            Task(
                id=task.id,
                status="processing",
                progress=60,
                raw={"id": task.id, "status": "processing", "progress": 60},
            )
        )
        assert (await anext(first)).progress == 60
        second = poller.updates(task.id, known=task)
        assert (await anext(second)).progress == 60
        rest = [update.progress async for update in first]
        assert rest[-1] == 100
        await second.aclose()

    simulated(work)


def test_a_callback_that_came_early_is_remembered() -> None:
    """A wait that begins after the callback reads at once instead of waiting for the heartbeat."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(10.0, 2400.0)
        poller.learn(task)
        poller.expect_callback(task.id)
        await asyncio.sleep(20.0)
        poller.hint(task.id)
        await poller.wait(task.id, known=task)
        assert asyncio.get_running_loop().time() < 21.0

    simulated(work)


def test_a_callback_that_came_before_the_submission_was_answered_is_remembered() -> None:
    """Nobody here knew the task then; it is read at once as soon as somebody does."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(10.0, 2400.0)
        poller.hint(task.id)
        poller.learn(task)
        poller.expect_callback(task.id)
        await asyncio.sleep(20.0)
        await poller.wait(task.id, known=task)
        assert asyncio.get_running_loop().time() < 21.0

    simulated(work)


def test_a_callback_whose_task_is_not_seen_to_have_ended_yet() -> None:
    """No second callback comes, so the usual pace finds the end, and not the next heartbeat."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(24.0, 24.0)
        poller.expect_callback(task.id)
        waiting = asyncio.create_task(poller.wait(task.id, known=task))
        await asyncio.sleep(20.0)
        poller.hint(task.id)
        await waiting
        assert asyncio.get_running_loop().time() < 40.0

    simulated(work)


def test_the_first_state_of_a_foreign_task_comes_at_once() -> None:
    """An id of another process is read without waiting for company, for updates as for waits."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(100.0, 100.0)
        updates = poller.updates(task.id)
        await anext(updates)
        assert asyncio.get_running_loop().time() < 0.2
        await updates.aclose()

    simulated(work)


def test_a_pause_that_outlives_every_link_is_not_kept() -> None:
    """A Retry-After of two days ends after ten minutes at most."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(30.0, 30.0)
        true = server.read_raw_task_once

        async def busy(task_id: str) -> dict[str, Any]:
            server.read_raw_task_once = true  # type: ignore[method-assign]
            raise InternalServerError("busy", status=503, retry_after=172_800.0)

        server.read_raw_task_once = busy  # type: ignore[method-assign]
        await poller.wait(task.id, known=task)
        assert asyncio.get_running_loop().time() < 700.0

    simulated(work)


def test_a_pause_that_the_service_asks_for_is_told() -> None:
    """A listener sees how long reads pause, and why; the caller's own limit ends the wait."""

    async def work(server: polling.Service, poller: Poller) -> None:
        told: list[Retrying] = []
        poller._watchlist._events.subscribe(told.append, Retrying)
        task = server.accept(30.0, 30.0)

        async def busy(task_id: str) -> dict[str, Any]:
            raise InternalServerError("busy", status=503, retry_after=120.0)

        server.read_raw_task_once = busy  # type: ignore[method-assign]
        with pytest.raises(WaitTimeoutError):
            await poller.wait(task.id, known=task, timeout=60.0)
        assert asyncio.get_running_loop().time() == pytest.approx(60.0, abs=0.1)
        assert [(event.what, event.pause) for event in told] == [("reading tasks", 120.0)]

    simulated(work)


def test_a_refused_key_ends_every_wait() -> None:
    """However many wait: a key that the service refuses again and again is told to all of them."""

    async def work(server: polling.Service, poller: Poller) -> None:
        async def refuse(*_: Any) -> Any:
            raise AuthenticationError("no such key", status=401, code="unauthorized")

        server.read_raw_tasks_once = server.read_raw_task_once = refuse  # type: ignore[method-assign,assignment]
        tasks = [server.accept(30.0, 30.0) for _ in range(200)]
        ends = await asyncio.gather(
            *(poller.wait(task.id, known=task) for task in tasks), return_exceptions=True
        )
        assert {type(end) for end in ends} == {AuthenticationError}
        assert len({id(end) for end in ends}) == 200

    simulated(work)


@pytest.mark.parametrize(
    "odd",
    [{"created": 10**400}, {"created": 1.8e12}, {"progress": math.inf}, {"progress": 10**400}],
)
def test_odd_numbers_end_no_wait(odd: dict[str, Any]) -> None:
    """Values that no clock and no bar can have are left out of what is learned."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task, others = server.accept(30.0, 30.0), [server.accept(30.0, 30.0) for _ in range(3)]
        view = server._view

        def strange(task_id: str) -> dict[str, Any]:
            shown = view(task_id)
            return (
                {**shown, **odd} if task_id == task.id and shown["status"] != "completed" else shown
            )

        server._view = strange  # type: ignore[method-assign]
        updates = [update.status async for update in poller.updates(task.id)]
        assert updates[-1] == "completed"
        await asyncio.gather(*(poller.wait(other.id) for other in others))

    simulated(work)


def test_a_wait_without_end_is_a_wait_without_limit() -> None:
    """An infinite time limit is none, and leaves nothing behind."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(30.0, 30.0)
        assert (await poller.wait(task.id, timeout=math.inf)).status == "completed"
        assert poller.waiting == 0

    simulated(work)


@pytest.mark.anyio
async def test_a_wait_on_a_closed_session_is_refused(anyio_backend: str) -> None:
    """Also when nobody waited before it was closed, and as often as one asks."""
    session = Session("sk-test-0123456789", base_url="http://127.0.0.1:9")
    async with session:
        handle = session.task("task-unified-1761313744-h1i2vcd9")
    for _ in range(2):
        with pytest.raises(SessionClosedError):
            await handle.wait()
        with pytest.raises(HappyHorseError):
            await handle.read()
