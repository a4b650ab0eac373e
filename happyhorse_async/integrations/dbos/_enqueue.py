"""From an input, or from a folder's batch, to jobs in the database. Each comes with its key and its
workflow, in one transaction.

Admission is that of a batch: the same rows are the same jobs. A job whose workflow is alive is left
alone. So the same input twice, or once more after a change, adds only what is new.

A folder's batch goes on where it stood. Each job keeps its key, its task and its video, so nothing
is paid twice. The folder's lock is held meanwhile. Then its ledger is marked, so that no
`batch run` goes on beside the cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from dbos import DBOS, DBOSClient

from ..._edges.disk import FolderLock
from ..._request import ImageToVideo
from ..._rules.lifecycle import AT_STAKE, JobState
from ...batch._admission import (
    GROUP,
    BadRow,
    Candidate,
    Entrance,
    Input,
    Intake,
    Verdict,
    rows_of,
)
from ...batch._database import LEDGER_NAME, STORE, Database
from ...batch._identity import key_of
from ...batch._jobs import COLUMNS, Job, JobRow
from ...batch._ledger_file import is_there
from ...batch._videos import VideoFolder
from ...errors import InvalidRequestError, LedgerError
from ._connection import EVERY_TEXT, LostError, cluster_errors
from ._database import BESIDE, ClusterDatabase
from ._ledger import ClusterLedger
from ._sqlite import engine_of, is_sqlite
from ._values import Enqueued, RefusedRow
from ._worker import APPLICATION, APPLICATION_VERSION, OWED, QUEUE, WORKFLOW

LONGEST_ID = 2000
"""Bytes of a job's id. An index of PostgreSQL holds 2,704 of a text that it cannot compress."""
PAUSES = (0.1, 0.5, 2.0)
"""Seconds before a transaction is made again."""


class Enqueuer:
    """Enters rows into a cluster's database."""

    def __init__(self, url: str, ledger: ClusterLedger, videos: VideoFolder, run: int) -> None:
        self._ledger = ledger
        self.videos = videos
        self._run = run
        self._intake = Intake(ledger)
        self._engine = _engine(url)
        self._client = DBOSClient(system_database_engine=self._engine, application_name=APPLICATION)

    def close(self) -> None:
        """Close the connections."""
        self._client.destroy()
        self._engine.dispose()

    async def enqueue(self, requests: Input, *, retry_failed: bool = False) -> Enqueued:
        """Enter all rows, a group at a time; each group is there when it is told."""
        told = Enqueued()
        async with aclosing(_grouped(requests)) as groups:
            async for rows in groups:
                found = await self._intake.look(rows)
                good: list[Candidate] = []
                for row in found:
                    if isinstance(row, BadRow):
                        told.refused.append(RefusedRow(id=row.id, error=row.error))
                    elif isinstance(row.request.image, bytes):
                        told.refused.append(_only_here(row.id))
                    elif len(row.id.encode()) > LONGEST_ID:
                        told.refused.append(_too_long(row.id))
                    else:
                        good.append(row)
                await self._enter_surely(good, retry_failed, told)
        return told

    async def _enter_surely(self, rows: list[Candidate], retry: bool, told: Enqueued) -> None:
        """Enter a group; a transaction that met another one's locks is made again."""
        for pause in (*PAUSES, None):
            try:
                entered = await asyncio.to_thread(self._enter, rows, retry)
                break
            except LostError:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        told.added += entered.added
        told.known += entered.known
        told.refused += entered.refused

    def _enter(self, rows: Sequence[Candidate], retry: bool) -> Enqueued:
        told, wanted = Enqueued(), list[JobRow]()
        with self.transaction() as (connection, database):
            entrance = Entrance(
                database, self._run, live=database.in_hand(), retry=retry, verify=False
            )
            admissions = entrance.admit(rows)
            for row, admission in zip(rows, admissions, strict=True):
                if admission.error is not None:
                    refused = (admission.job or row).id
                    told.refused.append(RefusedRow(id=refused, error=admission.error))
                elif admission.job is not None and admission.verdict is Verdict.WORK:
                    wanted.append(admission.job)
                else:
                    told.known += 1
            told.added = self.queue(connection, database, wanted, again=retry)
            told.known += len(wanted) - told.added
        return told

    @contextmanager
    def transaction(self) -> Iterator[tuple[sqlalchemy.Connection, ClusterDatabase]]:
        """Begin a transaction in which nobody else enters jobs; it ends with the context."""
        with cluster_errors(), self._engine.begin() as connection:
            raw: Any = connection.connection.driver_connection
            database = ClusterDatabase.over(raw, self.videos)
            # Who enters the same rows at this moment waits, and finds them entered.
            database.enter_alone()
            yield connection, database

    def queue(
        self,
        connection: sqlalchemy.Connection,
        database: ClusterDatabase,
        jobs: Sequence[JobRow],
        *,
        again: bool = False,
    ) -> int:
        """Give each job its key and its workflow, unless it has one that is alive; count them."""
        rounds = database.set_of("rounds", [job.seq for job in jobs]) or {}
        drawn: list[list[Any]] = []
        for job in jobs:
            times, workflow = rounds[str(job.seq)]
            begun = job.state in (JobState.FAILED, JobState.UNKNOWN) and again
            if workflow is not None and not begun and job.state is not JobState.SAVED:
                continue
            if begun:
                database.begin_again(job)
            key = job.key or key_of(database.batch_id, job.id, job.fingerprint, job.attempt)
            name = key if not times else f"{key}-{times + 1}"
            drawn.append([job.seq, key, name])
            self._client.enqueue_in_transaction(
                connection,
                {
                    "queue_name": OWED if job.state in AT_STAKE else QUEUE,
                    "workflow_name": WORKFLOW,
                    "workflow_id": name,
                    "app_version": APPLICATION_VERSION,
                },
                job.seq,
            )
        database.write_set("draw", drawn)
        return len(drawn)


def prepare(url: str) -> None:
    """Make DBOS's tables when there are none. Blocks."""
    DBOS.migrate(url)


def _engine(url: str) -> sqlalchemy.Engine:
    if is_sqlite(url):
        return engine_of(url)
    link = "postgresql+psycopg://" + url.partition("://")[2]
    return sqlalchemy.create_engine(link, pool_size=2, connect_args=EVERY_TEXT)


async def _grouped(requests: Input) -> AsyncGenerator[list[ImageToVideo | Job], None]:
    rows: list[ImageToVideo | Job] = []
    async with aclosing(rows_of(requests)) as source:
        async for row in source:
            rows.append(row)
            if len(rows) == GROUP:
                yield rows
                rows = []
    if rows:
        yield rows


def _only_here(row: str) -> RefusedRow:
    problem = "image: given as bytes, which no worker has; expected a link, or a file they all see"
    return RefusedRow(id=row, error=InvalidRequestError([problem]))


def _too_long(row: str) -> RefusedRow:
    problem = f"id: expected at most {LONGEST_ID:,} bytes, got {len(row.encode()):,}: {row:.100}..."
    return RefusedRow(id=row, error=InvalidRequestError([problem]))


# --- A folder's batch, taken over.


MOVED = "moved"
"""The fact in a folder's ledger that says that its jobs are a cluster's."""
COPIED = (*(name for name in COLUMNS if name != "seq"), *BESIDE)
"""What the ledger keeps of a job, but for its number."""


class OpenFolder:
    """A folder's batch that this process alone has, until it is closed. Blocks."""

    def __init__(self, folder: Path) -> None:
        if not is_there(folder / LEDGER_NAME):
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
        with enqueuer.transaction() as (_, database):
            _refuse_two_accounts(database, local)
            _take_facts(database, local)
        # Marked before the copy: should this stop half-way, only the cluster goes on with it.
        local.apply([], [lambda opened: opened.set_fact(MOVED, database.batch_id)])
        for rows in _pages(local):
            with enqueuer.transaction() as (connection, database):
                jobs = database.copied(COPIED, rows)
                told.saved += sum(job.state is JobState.SAVED for job in jobs)
                ongoing = [job for job in jobs if _goes_on(job, enqueuer.videos)]
                wanted = [job for job in ongoing if not _awaits_bytes(job)]
                told.refused += [_only_here(job.id) for job in ongoing if _awaits_bytes(job)]
                told.taken_over += sum(job.state is not JobState.NEW for job in wanted)
                told.added += enqueuer.queue(connection, database, wanted)
        return told


def _refuse_two_accounts(database: ClusterDatabase, local: Database) -> None:
    """Refuse jobs that may be paid for beside those that another key may have worked on. A worker's
    account is known by its key or by one task, which says nothing of the other jobs.
    """
    if database.batch_id in (local.batch_id, local.fact(MOVED)) or not database.rows("any-job"):
        return
    at_stake, _ = local.proofs()
    if at_stake and (database.fact("account") is not None or database.proofs()[0]):
        raise LedgerError(
            f"{at_stake} jobs of this folder may be paid for, and the cluster has jobs of its own: "
            "were those another account's, its workers would pay for the folder's again",
            charged="no",
            next_step="Finish the folder with `happyhorse batch run`, or take it over into another "
            "database.",
        )


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


def _goes_on(job: JobRow, videos: VideoFolder) -> bool:
    if job.state is JobState.SAVED:
        return not videos.has_size(job.name, job.size) and not job.is_over(time.time())
    return job.state not in (JobState.FAILED, JobState.UNKNOWN)


def _awaits_bytes(job: JobRow) -> bool:
    return job.awaits_upload and not job.image_at_hand
