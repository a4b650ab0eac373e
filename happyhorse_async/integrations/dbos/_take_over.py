"""From a folder's ledger into the cluster's: the batch goes on where it stood, on more machines.

Each job keeps its key, its task and its video, so nothing is paid twice. The folder's lock is held
meanwhile. Then its ledger is marked, so that no `batch run` goes on beside the cluster.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..._edges.part_files import FolderLock
from ..._rules.lifecycle import JobState
from ...batch._admission import GROUP
from ...batch._database import LEDGER_NAME, Database
from ...batch._jobs import COLUMNS, JobRow
from ...batch._videos import has_size
from ...errors import LedgerError
from ._database import ClusterDatabase, cluster_errors, type_of
from ._enqueue import Enqueuer
from ._values import Enqueued

MOVED = "moved"
"""The fact in a folder's ledger that says that its jobs are a cluster's."""
BESIDE = ("own", "twins", "was")
"""What the ledger keeps of a job for its admission alone."""
COPIED = tuple(name for name in COLUMNS if name != "seq") + BESIDE


async def taken_over(enqueuer: Enqueuer, folder: Path) -> Enqueued:
    """Copy a folder's jobs, and put into the queue what has not ended."""
    return await asyncio.to_thread(_take_over, enqueuer, folder)


def _take_over(enqueuer: Enqueuer, folder: Path) -> Enqueued:
    if not (folder / LEDGER_NAME).exists():
        raise LedgerError(
            f"there is no ledger in {folder}",
            next_step="Give the folder that `batch run` was given with --out.",
        )
    lock = FolderLock(folder)
    lock.take()
    try:
        local = Database(folder / LEDGER_NAME)
        try:
            return _copy(enqueuer, local, folder)
        finally:
            local.close()
    finally:
        lock.release()


def _copy(enqueuer: Enqueuer, local: Database, folder: Path) -> Enqueued:
    told = Enqueued()
    with cluster_errors(), enqueuer.transaction() as connection:
        database = enqueuer.database(connection)
        _take_facts(database, local)
    # Marked before the copy: should this stop half-way, nobody but the cluster goes on with it.
    local.apply([], [lambda opened: opened.set_fact(MOVED, database.batch_id)])
    for rows in _pages(local):
        with cluster_errors(), enqueuer.transaction() as connection:
            database = enqueuer.database(connection)
            jobs = _enter(database, rows)
            told.saved += sum(job.state is JobState.SAVED for job in jobs)
            wanted = [job for job in jobs if _goes_on(job, folder)]
            told.taken_over += sum(job.state is not JobState.NEW for job in wanted)
            told.added += enqueuer.queue(connection, database, wanted)
    return told


def _take_facts(database: ClusterDatabase, local: Database) -> None:
    """Take the folder's identity, as long as the cluster has no jobs of its own."""
    service = local.fact("service")
    if service is not None:
        database.bind(service)
    if not database.rows("any-job"):
        # Keys are made of the batch's id, and the account's mark too.
        database.set_fact("batch", local.batch_id)
        account = local.fact("account")
        if account is not None:
            database.set_fact("account", account)
        database.batch_id = local.batch_id


def _pages(local: Database) -> Iterator[list[tuple[object, ...]]]:
    after = 0
    while rows := local.rows_for_copy(("seq", *COPIED), after, GROUP):
        yield [row[1:] for row in rows]
        after = rows[-1][0]


def _enter(database: ClusterDatabase, rows: Sequence[Sequence[object]]) -> list[JobRow]:
    """Write rows down; return the jobs that are the folder's now."""
    sql = database.query("copy").format(
        names=", ".join(COPIED),
        values=", ".join(f"(v.value->>{n})::{_type(name)}" for n, name in enumerate(COPIED)),
        sets=", ".join(f"{name} = excluded.{name}" for name in COPIED if name != "id"),
    )
    ids = database.copied(sql, json.dumps(rows))
    return database.jobs(ids)


def _type(column: str) -> str:
    return {"own": "int", "twins": "int", "was": "text"}.get(column) or type_of(column)


def _goes_on(job: JobRow, folder: Path) -> bool:
    if job.state is JobState.SAVED:
        return not has_size(folder / job.name, job.size) and not job.is_over(time.time())
    return job.state not in (JobState.FAILED, JobState.UNKNOWN)
