"""From a folder's ledger into the cluster's: the batch goes on where it stood, on more machines.

Each job keeps its key, its task and its video, so nothing is paid twice. The folder's lock is held
meanwhile. Then its ledger is marked, so that no `batch run` goes on beside the cluster.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..._edges.folder_lock import FolderLock
from ..._rules.lifecycle import JobState
from ...batch._admission import GROUP
from ...batch._database import LEDGER_NAME, STORE, Database
from ...batch._jobs import COLUMNS, JobRow
from ...batch._videos import VideoFolder
from ...errors import LedgerError
from ._database import ClusterDatabase, type_of
from ._enqueue import Enqueuer, entering
from ._values import Enqueued

MOVED = "moved"
"""The fact in a folder's ledger that says that its jobs are a cluster's."""
BESIDE = ("own", "twins", "was")
"""What the ledger keeps of a job for its admission alone."""
COPIED = tuple(name for name in COLUMNS if name != "seq") + BESIDE


class OpenFolder:
    """A folder's batch that this process alone has, until it is closed. Blocks."""

    def __init__(self, folder: Path) -> None:
        if not (folder / LEDGER_NAME).exists():
            raise LedgerError(
                f"there is no ledger in {folder}",
                next_step="Give the folder that `batch run` was given.",
            )
        self._lock = FolderLock(folder)
        self._lock.take()
        try:
            self._local = Database(folder / LEDGER_NAME)
        except BaseException:
            self._lock.release()
            raise
        self.place: str | Path = self._local.fact(STORE) or folder
        """Where its videos are."""
        self.strangers: list[str] = self._local.strangers()
        """Videos there that are not its own."""

    def __enter__(self) -> OpenFolder:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._local.close()
        finally:
            self._lock.release()

    def copy_to(self, enqueuer: Enqueuer) -> Enqueued:
        """Copy the jobs, and put into the queue what has not ended."""
        told, local = Enqueued(), self._local
        with entering(), enqueuer.transaction() as connection:
            database = enqueuer.database(connection)
            _take_facts(database, local)
        # Marked before the copy: should this stop half-way, only the cluster goes on with it.
        local.apply([], [lambda opened: opened.set_fact(MOVED, database.batch_id)])
        for rows in _pages(local):
            with entering(), enqueuer.transaction() as connection:
                database = enqueuer.database(connection)
                jobs = _enter(database, rows)
                told.saved += sum(job.state is JobState.SAVED for job in jobs)
                wanted = [job for job in jobs if _goes_on(job, enqueuer.videos)]
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


def _goes_on(job: JobRow, videos: VideoFolder) -> bool:
    if job.state is JobState.SAVED:
        return not videos.has_size(job.name, job.size) and not job.is_over(time.time())
    return job.state not in (JobState.FAILED, JobState.UNKNOWN)
