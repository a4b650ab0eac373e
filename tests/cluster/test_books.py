"""The sums of all money, while a worker that seems dead writes and its jobs go elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from happyhorse_async import ImageToVideo
from happyhorse_async.batch._jobs import JobRow, values_of
from happyhorse_async.integrations.dbos import Cluster
from happyhorse_async.integrations.dbos._database import ClusterDatabase

pytestmark = pytest.mark.anyio

PRICE = 5_000_000
UNLOCKED = "(SELECT seq FROM happyhorse.jobs FOR UPDATE SKIP LOCKED)"
"""The jobs that somebody else could change at this moment without waiting."""


@pytest.fixture
async def worker(anyio_backend: str, database: str, tmp_path: Path) -> Any:
    """The database as worker 1 has it, with one job in hand."""
    await Cluster(database).enqueue(
        [ImageToVideo("https://example.com/1.png")], out=tmp_path / "videos"
    )
    with closing(ClusterDatabase(database)) as opened:
        opened.worker = 1
        opened.apply([], [lambda _: execute(opened, "UPDATE jobs SET worker = 1")])
        yield opened


def execute(database: ClusterDatabase, statement: str) -> list[Any]:
    """Run a statement over a worker's own connection."""
    cursor = database._db.execute(statement)
    return list(cursor.fetchall()) if cursor.description else []


def elsewhere(database: ClusterDatabase, statement: str) -> int:
    """Run a statement over another connection; return how many rows it has met."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        return connection.execute(statement.encode()).rowcount


def before(method: Callable[..., Any], other: Callable[[], object]) -> Callable[..., Any]:
    """Let something happen right before a method is called."""

    def called(*values: Any) -> Any:
        other()
        return method(*values)

    return called


def job_of(database: ClusterDatabase) -> JobRow:
    """Read the one job."""
    [job] = database.apply([], [lambda found: found.jobs(ids(database))])[0]
    assert isinstance(job, JobRow)
    return job


def ids(database: ClusterDatabase) -> list[str]:
    """Return the ids of all jobs."""
    return [job_id for (job_id,) in execute(database, "SELECT id FROM jobs")]


def books(database: ClusterDatabase) -> Iterator[tuple[int, int]]:
    """Return the sums as they are kept, and as the jobs have them."""
    for table in ("limits", "jobs"):
        [row] = execute(database, f"SELECT sum(spent)::int, sum(reserved)::int FROM {table}")
        yield row


async def test_a_job_that_is_taken_away_while_it_is_let_in_reserves_nothing(
    worker: ClusterDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either it is let in and its price is reserved, or it was taken away and nothing is."""
    take_away = f"UPDATE happyhorse.jobs SET worker = NULL WHERE seq IN {UNLOCKED}"
    monkeypatch.setattr(worker, "_room", before(worker._room, lambda: elsewhere(worker, take_away)))
    job = job_of(worker)
    job.key, job.reserved = "key", PRICE
    worker.apply([], [lambda _: worker.submit([values_of("submitting", job)])])
    kept, true = books(worker)
    assert kept == true


async def test_a_charge_that_another_worker_notes_at_the_same_moment_counts_once(
    worker: ClusterDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that lost a job notes its end beside the one that has it now."""
    job = job_of(worker)
    job.spent = PRICE
    elsewhere(worker, "UPDATE happyhorse.jobs SET worker = 2")

    def end_elsewhere() -> None:
        if elsewhere(worker, f"UPDATE happyhorse.jobs SET spent = {PRICE} WHERE seq IN {UNLOCKED}"):
            elsewhere(worker, f"UPDATE happyhorse.limits SET spent = {PRICE}")

    monkeypatch.setattr(worker, "_write", before(worker._write, end_elsewhere))
    worker.apply([("saved", values_of("saved", job))], [])
    kept, true = books(worker)
    assert kept == true


async def test_a_machine_that_slept_in_a_transaction_does_it_again(
    worker: ClusterDatabase,
) -> None:
    """The server has ended the session meanwhile, as it is told to; the next one goes on."""
    sessions: list[int] = []

    def look(found: Any) -> list[str]:
        """Sleep the first time, until the server has given the session up."""
        sessions.append(found._db.raw.info.backend_pid)
        if len(sessions) == 1:
            execute(found, "SET LOCAL idle_in_transaction_session_timeout = 1")
            alive = f"SELECT FROM pg_stat_activity WHERE pid = {sessions[0]}"
            while elsewhere(found, alive):
                pass
        return ids(found)

    assert len(worker.apply([], [look])[0]) == 1
    assert len(set(sessions)) == 2
