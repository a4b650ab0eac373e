"""Nothing that the service says within minutes of acceptance or completion is the last word: on
simulated time, over the real scheduler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import polling
from happyhorse_async import ConfigurationError, Polling, Task, TaskNotFoundError, WaitTimeoutError
from happyhorse_async._account import TaskPage, TaskSummary
from happyhorse_async._poller import Poller
from happyhorse_async.errors import BadRequestError, InternalServerError, NotFoundError
from tests.poller.test_returning import simulated

LIFE = 30.0
PATIENCE = Polling().patience

Answers = Callable[[str, float], dict[str, Any] | None]
"""Gives the answer about a task at a time; None denies it."""


def now() -> float:
    """Return the simulated time."""
    return asyncio.get_running_loop().time()


def answering(server: polling.Service, change: Answers) -> None:
    """Let the service answer what `change` says, by batch and alone."""
    one, many = server.read_raw_task_once, server.read_raw_tasks_once

    async def alone(task_id: str) -> dict[str, Any]:
        await one(task_id)
        value = change(task_id, now())
        if value is None:
            raise TaskNotFoundError("no such task", status=404, code="task_not_found")
        return value

    async def together(task_ids: list[str]) -> dict[str, dict[str, Any]]:
        found = {task_id: change(task_id, now()) for task_id in await many(task_ids)}
        return {task_id: value for task_id, value in found.items() if value is not None}

    server.read_raw_task_once, server.read_raw_tasks_once = alone, together  # type: ignore[assignment,method-assign]


def denying(server: polling.Service, since: float, until: float) -> None:
    """Let the service deny all tasks for a while."""
    answering(server, lambda task_id, at: None if since <= at < until else server._view(task_id))


def listing(server: polling.Service, *ids: str, error: Exception | None = None) -> list[int]:
    """Give the service a list of tasks; return the pages that are read of it, as they are."""
    pages: list[int] = []

    async def list_tasks(*, page: int, page_size: int) -> TaskPage:
        pages.append(page)
        if error is not None:
            raise error
        first = (page - 1) * page_size
        items = tuple(TaskSummary(id=task_id, status="processing") for task_id in ids)
        return TaskPage(
            items=items[first : first + page_size], total=len(ids), page=page, page_size=page_size
        )

    server.list_tasks = list_tasks  # type: ignore[attr-defined]
    return pages


@pytest.mark.parametrize("count", [1, 120])
@pytest.mark.parametrize(("since", "until"), [(0.0, 8.0), (10.0, 34.0), (5.0, 600.0)])
def test_tasks_that_are_denied_for_a_while_are_waited_for(
    count: int, since: float, until: float
) -> None:
    """After acceptance and in mid-life, one and many: no wait ends by it,
    and few reads are made.
    """

    async def work(server: polling.Service, poller: Poller) -> None:
        tasks = [server.accept(LIFE, LIFE) for _ in range(count)]
        denying(server, since, until)
        ends = await asyncio.gather(*(poller.wait(task.id, known=task) for task in tasks))
        assert {task.status for task in ends} == {"completed"}
        assert now() < max(LIFE, 1.5 * until) + Polling().max_interval
        assert server.requests < 60 + count

    simulated(work)


def ways(task: Task) -> dict[str, Callable[[Poller], Any]]:
    """Return the ways by which a session can know that the service has accepted a task."""

    async def read_before(poller: Poller) -> Task:
        await poller.read(task.id)
        return await poller.wait(task.id)

    async def learned_before(poller: Poller) -> Task:
        poller.learn(task)
        return await poller.wait(task.id)

    return {
        "its acceptance": lambda poller: poller.wait(task.id, known=task),
        "a ledger": lambda poller: poller.wait(task.id, seen=True),
        "a submission": learned_before,
        "a read": read_before,
    }


@pytest.mark.parametrize("way", ["its acceptance", "a ledger", "a submission", "a read"])
def test_a_task_that_is_known_from_anywhere_is_waited_for(way: str) -> None:
    """The session submitted it, has read it once, or has it from a ledger: each is enough."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(LIFE, LIFE)

        async def read_task(task_id: str) -> Task:
            return task

        server.read_task = read_task  # type: ignore[attr-defined]
        denying(server, 0.0, 60.0)
        assert (await ways(task)[way](poller)).status == "completed"

    simulated(work)


def test_a_task_that_is_really_gone_is_given_up_after_patience_and_a_look() -> None:
    """What patience costs: a quarter of an hour, two dozen reads, and one look in the list."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task, pages = server.accept(LIFE, LIFE), listing(server, "another")
        denying(server, 0.0, float("inf"))
        with pytest.raises(TaskNotFoundError) as caught:
            await poller.wait(task.id, known=task)
        assert PATIENCE <= now() < PATIENCE + 2 * Polling().max_interval
        assert server.requests <= 25
        assert pages == [1]
        assert (caught.value.task_id, caught.value.charged) == (task.id, "unknown")

    simulated(work)


def test_many_that_are_gone_share_their_looks() -> None:
    """A list of 120 tasks is read once for all, and batches stay full while they are denied."""

    async def work(server: polling.Service, poller: Poller) -> None:
        tasks = [server.accept(LIFE, LIFE) for _ in range(200)]
        pages = listing(server, *(f"another-{number}" for number in range(120)))
        denying(server, 0.0, float("inf"))
        ends = await asyncio.gather(
            *(poller.wait(task.id, known=task) for task in tasks), return_exceptions=True
        )
        assert {type(end) for end in ends} == {TaskNotFoundError}
        assert server.requests < 200 + 20 * 25
        assert len(pages) <= 3 * (1 + (now() - PATIENCE) // 60)

    simulated(work)


def test_a_task_in_the_list_is_not_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """The list knows what the query denies: the wait goes on, and it is said once each time."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(LIFE, LIFE)
        listing(server, *(f"another-{number}" for number in range(60)), task.id)
        denying(server, 0.0, 1.5 * PATIENCE)
        assert (await poller.wait(task.id, known=task)).status == "completed"

    simulated(work)
    assert [getattr(each, "action", "") for each in caplog.records] == ["denied_but_listed"]


@pytest.mark.parametrize(
    ("error", "patiences"),
    [
        (NotFoundError("no list", status=404, code="not_found"), 1),
        (InternalServerError("oops", status=500), 2),
    ],
)
def test_a_list_that_cannot_be_read_does_not_keep_a_wait_for_ever(
    error: Exception, patiences: int
) -> None:
    """Without a list the denial stands; one that is out of order gets as much time again."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(LIFE, LIFE)
        listing(server, error=error)
        denying(server, 0.0, float("inf"))
        with pytest.raises(TaskNotFoundError):
            await poller.wait(task.id, known=task)
        assert patiences * PATIENCE <= now() < patiences * PATIENCE + 2 * Polling().max_interval

    simulated(work)


def test_an_answer_between_two_denials_begins_the_count_anew() -> None:
    """Denied for most of an hour, but never for a quarter of it without an answer."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(3600.0, 3600.0)
        listing(server)
        answering(
            server,
            lambda task_id, at: server._view(task_id) if at % 800 < 100 or at >= 3600 else None,
        )
        assert (await poller.wait(task.id, known=task)).status == "completed"

    simulated(work)


def test_the_waits_own_limit_ends_it_before_patience() -> None:
    """Who waits for 20 s gets an answer after 20 s, whatever is denied."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(LIFE, LIFE)
        denying(server, 0.0, float("inf"))
        with pytest.raises(WaitTimeoutError):
            await poller.wait(task.id, known=task, timeout=20.0)
        assert now() == pytest.approx(20.0, abs=0.1)

    simulated(work)


@pytest.mark.parametrize("beside", [0, 60])
def test_an_id_that_nobody_has_seen_is_answered_within_ten_seconds(beside: int) -> None:
    """It may be a typing error: some confirming reads, no look in the list, and the error."""

    async def work(server: polling.Service, poller: Poller) -> None:
        others = [server.accept(100.0, 100.0) for _ in range(beside)]
        waits = [asyncio.ensure_future(poller.wait(task.id, known=task)) for task in others]
        known = set(server.lives)
        answering(server, lambda task_id, at: server._view(task_id) if task_id in known else None)
        true = server.read_raw_tasks_once

        async def present(task_ids: list[str]) -> dict[str, dict[str, Any]]:
            return await true([task_id for task_id in task_ids if task_id in known])

        server.read_raw_tasks_once = present  # type: ignore[assignment,method-assign]
        with pytest.raises(TaskNotFoundError):
            await poller.wait("task-unified-1-typo")
        assert 4.0 < now() < 10.0
        await asyncio.gather(*waits)

    simulated(work)


def test_an_id_that_the_service_finds_malformed_is_answered_as_soon() -> None:
    """Its own refusal is the error that the waiter gets."""

    async def work(server: polling.Service, poller: Poller) -> None:
        async def refuse(task_id: str) -> dict[str, Any]:
            raise BadRequestError("malformed", status=400, code="invalid_task_id")

        server.read_raw_task_once = refuse  # type: ignore[method-assign]
        with pytest.raises(BadRequestError):
            await poller.wait("cat")
        assert now() < 10.0

    simulated(work)


# --- completed, and the links come later ----------------------------------------------------------


def lacking(server: polling.Service, until: float) -> None:
    """Let completed tasks have no links for a while."""

    def view(task_id: str, at: float) -> dict[str, Any]:
        value = server._view(task_id)
        return value if at >= until else {**value, "results": []}

    answering(server, view)


@pytest.mark.parametrize("missing", [3.0, 240.0])
def test_links_that_come_after_the_completion_are_waited_for(missing: float) -> None:
    """Results decide: a task is not at its end before they are there; one word of it is told."""

    async def work(server: polling.Service, poller: Poller) -> None:
        seen: list[Task] = []
        poller.on_final(seen.append)
        task = server.accept(LIFE, LIFE)
        lacking(server, LIFE + missing)
        updates = [update async for update in poller.updates(task.id, known=task)]
        assert updates[-1].results
        assert [update for update in updates[:-1] if update.status == "completed"] == []
        assert seen == [updates[-1]]
        assert now() < LIFE + 1.5 * missing + 10.0
        assert server.requests < 30

    simulated(work)


@pytest.mark.parametrize("count", [2, 120])
def test_links_that_an_answer_about_many_does_not_tell_are_asked_for_alone(count: int) -> None:
    """The list tells no links, and reads of many may be like it: no video comes late by that."""

    async def work(server: polling.Service, poller: Poller) -> None:
        tasks = [server.accept(LIFE + index, LIFE + index) for index in range(count)]
        many = server.read_raw_tasks_once

        async def without(task_ids: list[str]) -> dict[str, Any]:
            return {
                name: {**value, "results": []} for name, value in (await many(task_ids)).items()
            }

        server.read_raw_tasks_once = without  # type: ignore[method-assign, assignment]
        ended = await asyncio.gather(*(poller.wait(task.id, known=task) for task in tasks))
        assert all(task.results for task in ended)
        assert now() < LIFE + count + PATIENCE / 6
        assert server.requests < 20 + 3 * count

    simulated(work)


def test_links_that_never_come_end_the_wait_after_patience() -> None:
    """Then the completion is the last word, and a later wait asks again."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(LIFE, LIFE)
        lacking(server, LIFE + 2000.0)
        ended = await poller.wait(task.id, known=task)
        assert (ended.status, ended.results) == ("completed", ())
        assert LIFE + PATIENCE <= now() < LIFE + PATIENCE + 2 * Polling().max_interval
        assert server.requests < 40
        await asyncio.sleep(2000.0)
        assert (await poller.wait(task.id, known=task)).results

    simulated(work)


def test_a_limit_of_time_says_that_the_links_are_missing() -> None:
    """The error has the completed task, and says what is not there yet."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(LIFE, LIFE)
        lacking(server, float("inf"))
        with pytest.raises(WaitTimeoutError, match="without its links") as caught:
            await poller.wait(task.id, known=task, timeout=2 * LIFE)
        assert caught.value.task is not None
        assert caught.value.task.status == "completed"

    simulated(work)


def test_who_joins_while_the_links_are_missing_waits_for_them_too() -> None:
    """An iteration that begins then is not over with a completion that has no links."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(LIFE, LIFE)
        lacking(server, LIFE + 60.0)
        first = asyncio.ensure_future(poller.wait(task.id, known=task))
        await asyncio.sleep(LIFE + 30.0)
        assert [update.results for update in [u async for u in poller.updates(task.id)]] == [
            (await first).results
        ]

    simulated(work)


@pytest.mark.parametrize("patience", [-1, float("nan"), "long", None])
def test_patience_checks_itself(patience: Any) -> None:
    """A policy that makes no sense is refused when it is made."""
    with pytest.raises(ConfigurationError, match="patience"):
        Polling(patience=patience)
