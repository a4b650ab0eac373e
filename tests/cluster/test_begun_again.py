"""Failed jobs that the user begins again: their tasks are asked for before another one is paid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOSClient

from happyhorse_async import ImageToVideo, RetryPolicy
from happyhorse_async._rules.lifecycle import JobState
from happyhorse_async.batch import Job, Outcome
from happyhorse_async.integrations.dbos import Cluster, WorkerOptions, _worker
from happyhorse_async.sandbox import Fault, Sandbox
from tests.batch.support import until
from tests.cluster.support import WorkerProcess, needs_sqlite
from tests.conftest import open_session

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROW = Job(ImageToVideo("https://example.com/1.png", seed=1, duration=3), id="one")
PRICE = Decimal("22.848")
ONCE = RetryPolicy(attempts=1, first_pause=0.01)
HELD = {"billing": {"charge_status": "pending", "refund_status": "pending"}}
"""Of a failed task: it still holds money, which counts as spent."""


@pytest.fixture(params=[pytest.param("sqlite", marks=needs_sqlite), "postgresql"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Cluster:
    """A cluster over a database of either kind."""
    if request.param == "sqlite":
        return Cluster(f"sqlite:///{tmp_path / 'night.db'}")
    return Cluster(str(request.getfixturevalue("database")))


@pytest.fixture
async def sandbox(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """A service whose time is the test's, for workers that wait for nothing long."""
    monkeypatch.setattr(_worker, "LATER", RetryPolicy(first_pause=0.01, longest_pause=0.1))
    monkeypatch.setattr(_worker, "POLLING", 0.1)
    async with Sandbox(video="stub", speed=0, task_seconds=100) as sandbox:
        yield sandbox


async def work(cluster: Cluster, sandbox: Sandbox, folder: Path) -> list[Outcome]:
    """Let a worker bring all jobs to their ends; return what it tells of them."""
    told: list[Outcome] = []
    options = WorkerOptions(until_done=True, retry=ONCE)
    async with open_session(sandbox) as session:
        await cluster.worker(session, out=folder, options=options, told=told.append).run()
    return told


async def fail_once(cluster: Cluster, sandbox: Sandbox, folder: Path) -> None:
    """Enter a job, whose task says that it has failed; by now it would go on."""
    sandbox.fail(Fault("false-failure", seconds=30))
    assert (await cluster.enqueue([ROW], out=folder)).added == 1
    [outcome] = await work(cluster, sandbox, folder)
    assert outcome.state is JobState.FAILED
    sandbox.advance(40)


async def begin_again(cluster: Cluster) -> None:
    """Say the user's word."""
    assert (await cluster.enqueue([ROW], retry_failed=True)).added == 1
    assert (await cluster.enqueue([ROW], retry_failed=True)).added == 0, "it is under way"


async def states(cluster: Cluster) -> dict[JobState, int]:
    """Count the jobs by their states, when nothing is reserved any more."""
    totals = (await cluster.overview()).totals
    assert totals.reserved == 0
    return dict(totals.states)


def looks(sandbox: Sandbox) -> int:
    """Count the reads of the first task by itself."""
    return sandbox.count("GET", f"/v1/tasks/{sandbox.tasks[0].id}")


@pytest.mark.parametrize("meanwhile", ["goes on", "has its video"])
async def test_a_task_that_goes_on_after_all_is_not_bought_again(
    cluster: Cluster, sandbox: Sandbox, tmp_path: Path, meanwhile: str
) -> None:
    """Its video comes home. It was paid for, so no limit is in its way; and what its seeming
    failure has cost is not counted beside it.
    """
    sandbox.fail(Fault("unknown-fields", fields=HELD, times=None))
    await fail_once(cluster, sandbox, tmp_path / "videos")
    sandbox.clear_faults()
    assert (await cluster.overview()).totals.spent == PRICE
    if meanwhile == "has its video":
        sandbox.finish()
    await cluster.set_limits(credits=1, unfinished=1)
    await begin_again(cluster)
    looked = looks(sandbox)
    working = asyncio.create_task(work(cluster, sandbox, tmp_path / "videos"))
    await until(lambda: looks(sandbox) > looked or working.done())
    sandbox.finish()
    [outcome] = await working
    assert (outcome.ok, outcome.attempts, outcome.credits) == (True, 1, PRICE)
    assert (await states(cluster), sandbox.paid) == ({JobState.SAVED: 1}, 1)
    limits = await cluster.overview()
    assert (limits.limits.spent, limits.limits.reserved) == (PRICE * 1_000_000, 0)


async def test_what_has_failed_indeed_is_bought_again_after_one_look(
    cluster: Cluster, sandbox: Sandbox, tmp_path: Path
) -> None:
    """One read of the failed task, and then another task."""
    folder = tmp_path / "videos"
    sandbox.fail(Fault("fail-task", status="failed", code="service_error", nth=1))
    await cluster.enqueue([ROW], out=folder)
    working = asyncio.create_task(work(cluster, sandbox, folder))
    await until(lambda: sandbox.paid == 1)
    sandbox.finish()
    assert not (await working)[0].ok
    looked = looks(sandbox)
    await begin_again(cluster)
    working = asyncio.create_task(work(cluster, sandbox, folder))
    await until(lambda: len(sandbox.tasks) == 2)
    assert looks(sandbox) == looked + 1
    sandbox.finish()
    [outcome] = await working
    assert (outcome.ok, outcome.attempts, await states(cluster)) == (True, 2, {JobState.SAVED: 1})


@pytest.mark.parametrize("answer", ["a page", "none"])
async def test_nothing_is_bought_while_nobody_can_say_what_became_of_it(
    cluster: Cluster, sandbox: Sandbox, tmp_path: Path, answer: str
) -> None:
    """The job waits, and is told as nothing, until the service says it."""
    await fail_once(cluster, sandbox, tmp_path / "videos")
    await begin_again(cluster)
    where: dict[str, Any] = {"path": "/v1/tasks/", "times": None}
    page, none = Fault("refuse", status=502, **where), Fault("drop-before", **where)
    sandbox.fail(page if answer == "a page" else none)
    looked = looks(sandbox)
    working = asyncio.create_task(work(cluster, sandbox, tmp_path / "videos"))
    await until(lambda: looks(sandbox) >= looked + 8 or working.done())
    assert (await states(cluster), sandbox.paid) == ({JobState.NEW: 1}, 1)
    sandbox.clear_faults()
    sandbox.finish()
    [outcome] = await working
    assert (outcome.ok, outcome.attempts, sandbox.paid) == (True, 1, 1)


async def test_one_that_is_cancelled_before_the_look_fails_as_it_did(
    cluster: Cluster, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Somebody cancels its workflow with DBOS's own tools before a worker has it. It ends, keeps
    its task and the reason why that failed, and can be begun again.
    """
    await fail_once(cluster, sandbox, tmp_path / "videos")
    await begin_again(cluster)

    def cancel() -> None:
        client = DBOSClient(system_database_url=cluster.url)
        waiting = client.list_workflows(status="ENQUEUED")
        client.cancel_workflows([each.workflow_id for each in waiting])
        client.destroy()

    await asyncio.to_thread(cancel)
    [outcome] = await work(cluster, sandbox, tmp_path / "videos")
    assert (outcome.state, outcome.task_id) == (JobState.FAILED, sandbox.tasks[0].id)
    await begin_again(cluster)
    sandbox.finish()
    [outcome] = await work(cluster, sandbox, tmp_path / "videos")
    assert (outcome.ok, outcome.attempts, sandbox.paid) == (True, 1, 1)


@pytest.mark.parametrize("when", ["it looks", "it has taken the task up"])
async def test_a_worker_that_is_killed_at_the_look_forgets_no_task(
    cluster: Cluster, sandbox: Sandbox, tmp_path: Path, when: str
) -> None:
    """The task's id is in the database all the time, so the next worker finds it."""
    await fail_once(cluster, sandbox, tmp_path / "videos")
    await begin_again(cluster)
    looked = looks(sandbox)
    if when == "it looks":
        sandbox.fail(Fault("hang-before", path="/v1/tasks/", seconds=1e6))
    words = ("--drain", "0", "--until-done")
    first = await WorkerProcess.start(sandbox, cluster.url, *words)
    await until(lambda: looks(sandbox) > looked)
    if when == "it has taken the task up":
        while (await cluster.overview()).totals.states != {JobState.RUNNING: 1}:
            await asyncio.sleep(0.01)
    first.kill()
    await first.ended()
    sandbox.clear_faults()
    sandbox.finish()
    second = await WorkerProcess.start(sandbox, cluster.url, *words)
    async with asyncio.timeout(100):
        assert await second.ended() == 0
    assert (await states(cluster), sandbox.paid) == ({JobState.SAVED: 1}, 1)
