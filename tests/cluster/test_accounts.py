"""A folder's jobs in doubt stay with their account, also when a cluster takes the folder over."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, LedgerError
from happyhorse_async.batch import JobState
from happyhorse_async.batch._database import LEDGER_NAME
from happyhorse_async.integrations.dbos import Cluster, WorkerOptions
from happyhorse_async.sandbox import Account, Sandbox
from tests.batch.support import OTHER, OWN, session_of, until
from tests.cluster.support import needs_sqlite

pytestmark = [pytest.mark.anyio, needs_sqlite]


def row(number: int) -> ImageToVideo:
    """Make a request."""
    return ImageToVideo(f"https://example.com/{number}.png", duration=3)


@pytest.mark.parametrize("state", [JobState.SUBMITTING, JobState.UNKNOWN])
async def test_jobs_at_stake_are_not_mixed_with_those_of_a_cluster(
    state: JobState, tmp_path: Path
) -> None:
    """A cluster with jobs that an account has worked on takes no folder over whose tasks may be
    another's: that account would be asked for them, knows none, and pays again. Nothing is entered,
    and the folder's own account goes on with it.
    """
    accounts = [Account(key=OWN), Account(key=OTHER)]
    folder = tmp_path / "videos"
    async with Sandbox(video="stub", speed=0, task_seconds=5, accounts=accounts) as sandbox:
        async with session_of(sandbox, OWN) as session, session.batch(folder) as batch:
            first = asyncio.create_task(anext(batch.run([row(n) for n in range(3)])))
            await until(lambda: sandbox.paid == 3)
            while (await batch.totals()).states.get(JobState.RUNNING) != 3:
                await asyncio.sleep(0)
            first.cancel()
        with closing(sqlite3.connect(folder / LEDGER_NAME)) as ledger, ledger:
            # As a kill leaves them between their acceptance and its note, or an answer that was
            # lost.
            ledger.execute("UPDATE jobs SET state = ?, task_id = NULL", (state,))
        sandbox.speed = 1000.0
        cluster = Cluster(f"sqlite:///{tmp_path / 'night.db'}")
        await cluster.enqueue([row(100)], out=folder)
        done = WorkerOptions(until_done=True)
        async with session_of(sandbox, OTHER) as session:
            await cluster.worker(session, out=folder, options=done).run()
            with pytest.raises(
                LedgerError, match="3 jobs of this folder may be paid for"
            ) as refused:
                await cluster.take_over(folder)
            assert "another database" in str(refused.value.next_step)
            await cluster.worker(session, out=folder, options=done).run()
        assert (sandbox.paid, (await cluster.overview()).totals.jobs) == (4, 1)
        async with session_of(sandbox, OWN) as session, session.batch(folder) as batch:
            outcomes = [outcome async for outcome in batch.retry()]
        assert ([outcome.ok for outcome in outcomes], sandbox.paid) == ([True] * 3, 4)
