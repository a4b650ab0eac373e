"""Workflows that somebody cancels with DBOS's own tools: a job that is not submitted ends so, and
one that is paid for goes on.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from dbos import DBOSClient

from happyhorse_async.integrations.dbos import Cluster
from happyhorse_async.sandbox import Sandbox
from tests.cluster.support import Submissions, WorkerProcess, command, needs_sqlite, rows

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(params=[pytest.param("sqlite", marks=needs_sqlite), "postgresql"])
def link(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The link to a database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'night.db'}"
    return str(request.getfixturevalue("database"))


async def enter(service: Sandbox, link: str, tmp_path: Path, count: int, *words: str) -> int:
    """Enter jobs with the command; return how many were new."""
    table = rows(tmp_path / "rows.jsonl", count)
    enqueue = ("cluster", "enqueue", str(table), "--yes", "--json", "--database", link, *words)
    code, told = await command(*enqueue, "--out", str(tmp_path / "videos"), **service.env())
    assert code == 0
    return int(json.loads(told.splitlines()[-1])["added"])


async def cancel(link: str, count: int) -> None:
    """Cancel workflows that are not done, the newest first."""

    def blocking() -> None:
        client = DBOSClient(system_database_url=link)
        alive = client.list_workflows(status=["ENQUEUED", "PENDING"], sort_desc=True)
        client.cancel_workflows([each.workflow_id for each in alive[:count]])
        client.destroy()

    await asyncio.to_thread(blocking)


async def states(link: str) -> dict[str, int]:
    """Count the jobs by their states."""
    return {str(state): n for state, n in (await Cluster(link).overview()).totals.states.items()}


async def test_a_job_that_is_cancelled_before_it_is_submitted_ends(
    service: Sandbox, link: str, tmp_path: Path
) -> None:
    """A worker tells it as cancelled, and so do status and report; the user's word begins it again.

    Without that the worker would wait for it for ever.
    """
    await enter(service, link, tmp_path, 4)
    await cancel(link, 1)
    worker = await WorkerProcess.start(service, link, "--until-done")
    assert await worker.ended() == 1
    assert await states(link) == {"saved": 3, "failed": 1}
    told = [outcome for outcome in worker.outcomes if not outcome["ok"]]
    assert [(outcome["state"], outcome["task_id"]) for outcome in told] == [("failed", None)]
    overview = await Cluster(link).overview()
    assert (overview.totals.failures, overview.left, service.paid) == ({"cancelled": 1}, 0, 3)
    [lines] = await Cluster(link).write_reports(("jsonl",))
    assert "its workflow was cancelled before anything was submitted" in lines.read_text()
    assert await enter(service, link, tmp_path, 4, "--retry-failed") == 1
    worker = await WorkerProcess.start(service, link, "--until-done")
    assert await worker.ended() == 0
    assert (await states(link), service.paid) == ({"saved": 4}, 4)


async def test_a_job_that_waits_for_a_limit_is_not_submitted_once_it_is_cancelled(
    anyio_backend: str, link: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those that wait in a worker's hands end; the one that is paid for is saved.

    DBOS tells of them too, as of errors of the program; the worker shows no such page.
    """
    async with Sandbox(video="stub", speed=0) as service:
        await enter(service, link, tmp_path, 3, "--max-unfinished", "1")
        submissions = Submissions(service)
        worker = await WorkerProcess.start(service, link, "--until-done")
        await submissions.reach(1)
        await cancel(link, 3)
        await worker.told(2)
        assert await states(link) == {"running": 1, "failed": 2}
        service.finish(service.tasks[0].id)
        assert await worker.ended() == 1
        assert (await states(link), service.paid) == ({"saved": 1, "failed": 2}, 1)
    assert "Traceback" not in capfd.readouterr().err


async def test_a_paid_job_that_is_cancelled_is_saved_by_the_next_worker(
    anyio_backend: str, link: str, tmp_path: Path
) -> None:
    """Its worker is killed: DBOS itself would never give it to another one."""
    async with Sandbox(video="stub", speed=0) as service:
        await enter(service, link, tmp_path, 3)
        submissions = Submissions(service)
        first = await WorkerProcess.start(service, link)
        await submissions.reach(3)
        await cancel(link, 2)
        first.kill()
        await first.ended()
        service.speed = 1000.0
        second = await WorkerProcess.start(service, link, "--until-done")
        assert await second.ended() == 0
        assert (await states(link), service.paid) == ({"saved": 3}, 3)
        assert len(list((tmp_path / "videos").glob("*.mp4"))) == 3
