"""What may change between two runs of one folder: the request behind an id, there and back again, and where the service calls back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, Polling, Session
from happyhorse_async.batch import Job, JobState
from happyhorse_async.sandbox import Features, Sandbox
from tests.conftest import open_session

from .support import results, until
from .test_resume import SUBMIT, killed_while_submitting, left_running, rows, run

pytestmark = pytest.mark.anyio

A, B = rows(2)
OFTEN = Polling(target_delay=0.02, min_interval=0.01, max_interval=0.05, max_reads_per_minute=1_000_000, heartbeat=0.05)
"""Reads often enough without callbacks."""


@pytest.fixture
async def quick(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service whose tasks take a moment."""
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        yield sandbox


@pytest.fixture
async def session(quick: Sandbox) -> AsyncIterator[Session]:
    """A session wired to it."""
    async with open_session(quick) as session:
        yield session


def mine(request: ImageToVideo) -> list[Job]:
    """Make an input of one job with a caller's id."""
    return [Job(request, id="mine")]


# --- an id whose request changes ------------------------------------------------------------------------------------------------------


async def test_back_to_a_saved_request(quick: Sandbox, session: Session, tmp_path: Path) -> None:
    """A request that was made before under the id, and then replaced, is told again when it comes back: it is paid for and here."""
    [first] = await run(session, tmp_path, mine(A))
    await run(session, tmp_path, mine(B))
    [again] = await run(session, tmp_path, mine(A))
    assert first.video is not None
    assert again.video is not None
    assert (again.id, again.resumed, again.video.path, again.video.sha256) == ("mine", True, first.video.path, first.video.sha256)
    assert [outcome.resumed for outcome in await run(session, tmp_path, mine(B))] == [True]
    assert quick.paid == 2
    assert len(list(tmp_path.glob("*.mp4"))) == 2


async def test_back_to_a_failed_request(quick: Sandbox, session: Session, tmp_path: Path) -> None:
    """One that had failed is told as failed, and made under the id's own name when it is begun again."""
    quick.speed = 0
    failing = asyncio.create_task(run(session, tmp_path, mine(A)))
    await until(lambda: len(quick.tasks) == 1)
    quick.end(quick.tasks[0].id, "failed", error_code="content_policy_violation")
    await failing
    quick.speed = 1000
    await run(session, tmp_path, mine(B))
    async with session.batch(tmp_path) as batch:
        totals = await batch.totals()
        assert (totals.states, totals.failures) == ({JobState.SAVED: 1}, {})
    assert [line["id"] for line in results(tmp_path)] == ["mine"]
    [again] = await run(session, tmp_path, mine(A))
    assert (again.id, again.state, again.resumed) == ("mine", JobState.FAILED, True)
    async with session.batch(tmp_path) as batch:
        [retried] = [outcome async for outcome in batch.retry()]
    assert (retried.ok, retried.id) == (True, "mine")
    assert retried.video is not None
    assert retried.video.path.suffix == ".mp4"
    assert quick.paid - quick.refunded == 2


async def test_back_to_a_running_request(tmp_path: Path) -> None:
    """One whose task still runs is the id's job again, and not another purchase."""
    async with Sandbox(video="stub", speed=0, task_seconds=5) as sandbox, open_session(sandbox) as session:
        await left_running(sandbox, tmp_path, mine(A))
        await left_running(sandbox, tmp_path, mine(B))
        async with session.batch(tmp_path) as batch:
            outcomes = batch.run(mine(A))
            ending = asyncio.create_task(anext(outcomes))
            while [record.id for record in await batch._ledger.call(lambda store: list(store.pages("shown")))] != [
                "mine",
                "mine~3",
            ]:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            sandbox.finish()
            ended = [await ending, *[outcome async for outcome in outcomes]]
        assert {outcome.id: outcome.request.seed for outcome in ended if outcome.request} == {"mine": A.seed, "mine~3": B.seed}
        assert sandbox.paid == 2


async def test_ids_that_look_like_replaced_ones(quick: Sandbox, session: Session, tmp_path: Path) -> None:
    """A caller's id may be what a replaced job would be called; neither takes the other's place."""
    [c] = rows(1, first=3)
    await run(session, tmp_path, [*mine(A), Job(c, id="mine~2")])
    await run(session, tmp_path, [*mine(B), Job(c, id="mine~2")])
    assert sorted((line["id"], line["seed"]) for line in results(tmp_path)) == [("mine", 2), ("mine~2", 3), ("mine~2~", 1)]
    assert [outcome.resumed for outcome in await run(session, tmp_path, mine(A))] == [True]
    assert quick.paid == 3


# --- where the service calls back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("then", "now"), [("/then", "/now"), (None, "/now"), ("/then", None)])
@pytest.mark.parametrize("listing", [True, False])
async def test_another_webhook_after_a_crash(tmp_path: Path, then: str | None, now: str | None, listing: bool) -> None:
    """A request whose answer was lost is sent again as it was, though the place for callbacks has changed: its key is for that body."""

    def at(path: str | None) -> dict[str, object]:
        return {"public_url": f"https://hooks.example.com{path}", "polling": OFTEN} if path is not None else {}

    async with Sandbox(video="stub", speed=1000, task_seconds=5, features=Features(listing=listing)) as sandbox:
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(1), **at(then))
        sent = sandbox.count("POST", SUBMIT)
        async with open_session(sandbox, **at(now)) as session:
            assert [outcome.ok for outcome in await run(session, left, rows(1))] == [True]
            assert (sandbox.paid, sandbox.count("POST", SUBMIT) - sent) == (1, 1)
            # A new one gets the place of now.
            assert [outcome.ok for outcome in await run(session, left, rows(1, first=2))] == [True]
        first, second = (task.request.get("callback_url") for task in sandbox.tasks)
    assert [
        url is not None and url.startswith(f"https://hooks.example.com{path}") for url, path in ((first, then), (second, now))
    ] == [
        then is not None,
        now is not None,
    ]
