"""From a folder to a cluster, and back to one report: the same input tells the same."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from happyhorse_async import Session
from happyhorse_async.batch._manifest import Manifest
from happyhorse_async.batch.report import write_reports
from happyhorse_async.cli._app import app
from happyhorse_async.errors import LedgerError
from happyhorse_async.integrations.dbos import Cluster, WorkerOptions
from happyhorse_async.sandbox import Fault, Sandbox
from tests.batch.support import write_manifest
from tests.cluster.support import Submissions
from tests.conftest import QUICK_POLLING, QUICK_RETRY

pytestmark = pytest.mark.anyio

OWN = frozenset({"task_id", "seconds", "image"})
"""What differs between two runs of one input: the service's ids, and where the images lie."""


def session(sandbox: Sandbox) -> Session:
    """Open a session that is quick to look."""
    return Session(
        sandbox.key,
        base_url=sandbox.url,
        files_url=sandbox.files_url,
        polling=QUICK_POLLING,
        retry=QUICK_RETRY,
    )


def results(folder: Path) -> list[dict[str, object]]:
    """Read a report, without what is each run's own."""
    lines = (folder / "results.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in OWN} for line in lines]


async def worked(cluster: Cluster, sandbox: Sandbox) -> None:
    """Let one worker bring all to its end."""
    async with session(sandbox) as opened:
        place = await cluster.place()
        await cluster.worker(opened, out=place, options=WorkerOptions(until_done=True)).run()


async def test_the_report_is_that_of_a_local_batch(
    quick: Sandbox, database: str, tmp_path: Path
) -> None:
    """The same table, as a batch and as a cluster: the same ids, names, states, prices and columns.

    Some images are local, two rows are equal, and one is no job at all.
    """
    manifest = write_manifest(tmp_path / "input", links=12, files=3)
    with manifest.open("a") as table:
        table.write('{"image": "https://example.com/0.png", "seed": 10000, "duration": 3}\n' * 2)
        table.write('{"image": "https://example.com/x.png", "id": "own id", "seed": 1}\n')
    local, videos = tmp_path / "local", tmp_path / "videos"
    async with session(quick) as opened, opened.batch(local) as batch:
        async for _ in batch.run(Manifest(str(manifest)).jobs()):
            pass
    write_reports(local, ("jsonl",))

    cluster = Cluster(database)
    told = await cluster.enqueue(Manifest(str(manifest)).jobs(), out=videos)
    again = await cluster.enqueue(Manifest(str(manifest)).jobs(), out=videos)
    assert (told.added, again.added, again.known) == (18, 0, 18)
    await worked(cluster, quick)
    await cluster.write_reports(("jsonl",))
    assert results(local) == results(videos)
    assert {path.name for path in local.glob("*.mp4")} == {p.name for p in videos.glob("*.mp4")}


@pytest.mark.slow
async def test_a_half_done_folder_goes_on_in_the_cluster(
    quick: Sandbox, database: str, tmp_path: Path
) -> None:
    """What the folder has paid for is found by its keys and tasks: 20 jobs, 20 tasks, 20 videos.

    Some are saved, some are being made, some were not begun. The folder's own batch is closed then.
    """
    videos = tmp_path / "videos"
    manifest = write_manifest(tmp_path / "input", links=20, files=0)
    quick.speed = 0  # tasks end when they are told to
    submissions = Submissions(quick)
    async with session(quick) as opened, opened.batch(videos, max_in_flight=8) as batch:
        outcomes = batch.run(Manifest(str(manifest)).jobs())
        first = asyncio.ensure_future(anext(outcomes))
        await submissions.reach(8)
        while len(quick.tasks) < 8:
            await asyncio.sleep(0)
        for task in quick.tasks[:6]:
            quick.finish(task.id)
        await first
        for _ in range(5):
            await anext(outcomes)
        await submissions.reach(14)
    quick.speed = 1.0
    assert (len(list(videos.glob("*.mp4"))), quick.paid) == (6, 14)

    cluster = Cluster(database)
    told = await cluster.take_over(videos)
    assert (told.saved, told.added, told.taken_over) == (6, 14, 8)
    with pytest.raises(LedgerError, match="cluster"):
        async with session(quick) as opened, opened.batch(videos):
            pass
    assert (await cluster.take_over(videos)).added == 0, "a second time adds nothing"
    added = await cluster.enqueue(Manifest(str(manifest)).jobs())
    assert added.added == 0, "the same table is the same jobs"
    await worked(cluster, quick)
    assert 20 == quick.paid == len(list(videos.glob("*.mp4")))


@pytest.mark.slow
async def test_the_same_rows_entered_by_two_at_once_are_entered_once(
    quick: Sandbox, database: str, tmp_path: Path
) -> None:
    """Two people enter one table at the same moment: each row becomes one job and one workflow."""
    manifest = write_manifest(tmp_path / "input", links=300, files=0)
    both = [Cluster(database), Cluster(database)]
    await both[0].enqueue([], out=tmp_path / "videos")
    told = await asyncio.gather(
        *(cluster.enqueue(Manifest(str(manifest)).jobs()) for cluster in both)
    )
    assert 300 == sum(each.added for each in told) == sum(each.known for each in told)
    assert (await both[0].overview()).left == 300


@pytest.mark.slow
async def test_failed_jobs_begin_again_at_the_user_s_word(
    quick: Sandbox, database: str, tmp_path: Path
) -> None:
    """A job that failed stays so when it is entered again, and begins again with `retry_failed`."""
    manifest = write_manifest(tmp_path / "input", links=3, files=0)
    cluster = Cluster(database)
    quick.fail(Fault("fail-task", code="content_policy_violation"))
    await cluster.enqueue(Manifest(str(manifest)).jobs(), out=tmp_path / "videos")
    await worked(cluster, quick)
    watch = ["cluster", "status", "--watch", "--database", database]
    assert (await asyncio.to_thread(CliRunner().invoke, app, watch)).exit_code == 0
    states = {s.value: n for s, n in (await cluster.overview()).totals.states.items()}
    assert states == {"saved": 2, "failed": 1}
    assert (await cluster.enqueue(Manifest(str(manifest)).jobs())).added == 0
    again = await cluster.enqueue(Manifest(str(manifest)).jobs(), retry_failed=True)
    assert again.added == 1
    await worked(cluster, quick)
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == 3
