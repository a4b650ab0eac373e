"""The ledger's database, as plain synchronous code: called by one thread only, the one that owns
the connection.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .._edges.disk import sync_folder
from .._rules.lifecycle import JobState
from .._rules.numbers import to_credits
from ..errors import LedgerError
from ._identity import folded
from ._jobs import CHANGES, JobRow, queries
from ._ledger_file import (
    APPLICATION_ID,
    LEDGER_NAME,
    WRITER_PATIENCE,
    Patience,
    clear_draft,
    connect,
    connect_for_reading,
    damaged,
    foreign,
    ledger_errors,
    log_of,
    look_at_file,
    newer,
    size_of,
)
from ._outcome import Totals
from ._videos import VideoFolder

MIGRATIONS = ("schema-1",)
"""Named queries; the n-th leads from version n - 1 to version n."""
LARGEST_LOG = 16 * 1024 * 1024
"""The write-ahead log is folded into the database when it is longer than this many bytes."""
READER_PATIENCE = 200
"""Milliseconds to wait for readers before the log is left as it is for now."""
FOLD_PAUSE = 1.0
"""Seconds between two attempts to fold the log in."""
PAGE_CACHE = 8 * 1024
"""KiB of the database kept in memory. With less, a group's own pages do not fit, and are written to
the log before their time."""
STORE = "store"
"""The fact that says under which link the videos lie, when they are in an object store."""
DYING_SECONDS = 2 * 3600
PAGE = 500
"""Jobs that are in memory at once when many are read."""
LOOKED_AT = 2000
"""Saved videos that are looked at in one go."""

__all__ = ["LEDGER_NAME", "Change", "Database", "Doubts", "ledger_errors"]

Change = tuple[str, Sequence[Any]]


class Doubts(NamedTuple):
    """What the ledger knows of requests that earlier runs may have sent."""

    since: float | None
    """None of them was sent before this time, in Unix seconds: the first run began then."""
    claimed: Set[str]
    """The tasks of other jobs since the first of them was sent."""
    known: tuple[str, str] | None = None
    """The key and the id of another job's task, the newest: the service has had that key."""


class Database:
    """An open ledger."""

    def __init__(
        self, path: Path, *, read_only: bool = False, patience: Patience | None = None
    ) -> None:
        """Open a ledger, made when there is none; raises `LedgerError` when it cannot be used."""
        self.path = path
        self.videos: VideoFolder = VideoFolder(path.parent)
        """Where the videos of its jobs lie: beside it, unless it was said."""
        self.gone: bool = False
        """The file is not there any more, and what it knew is nowhere else."""
        self._sql = queries()
        self._log = log_of(path)
        self._fold_due = False
        self._folded = 0.0
        self._copy: Path | None = None
        self._patience = patience or Patience(path)
        there = look_at_file(path, newest=len(MIGRATIONS))
        if not there and read_only:
            raise LedgerError(
                f"there is no ledger in {path.parent}",
                next_step="Give the folder that `batch run` was given with --out.",
            )
        with ledger_errors(path):
            if not there:
                self._make()
            self._patience.wait(lambda: self._open(read_only=read_only))

    # --- opening and closing ----------------------------------------------------------------------

    def _make(self) -> None:
        """Make a ledger under another name, and give it its own when it is whole."""
        draft = clear_draft(self.path)
        self._db = connect(draft, "mode=rwc")
        try:
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("BEGIN IMMEDIATE")
            self._run_script(MIGRATIONS[0])
            self._db.execute("PRAGMA user_version = 1")
            self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._db.execute(self._sql["set-fact"], ("batch", uuid.uuid4().hex))
            self.add_strangers(self.videos.names())
            self._db.execute("COMMIT")
        finally:
            self._db.close()
        draft.rename(self.path)
        sync_folder(self.path.parent)

    def _run_script(self, name: str) -> None:
        for statement in self._sql[name].split(";"):
            if statement.strip():
                self._db.execute(statement)

    def _open(self, *, read_only: bool) -> None:
        self._db, self._copy = connect_for_reading(self.path)
        try:
            # Before anything may change: even closing a connection that may write folds a log in.
            self._check_version()
            if not read_only:
                self._disconnect()
                self._db = connect(self.path, "mode=rw")
                self._set_up()
                # Not for readers: it takes a while, in which the log cannot be folded in.
                self._check_pages()
                self._migrate()
            self.batch_id: str = str(self.fact("batch") or "")
            facts = os.stat(self.path)
            self._file = facts.st_dev, facts.st_ino
        except BaseException:
            self._disconnect()
            raise

    def _set_up(self) -> None:
        """Set the connection up for writing."""
        self._db.execute("PRAGMA journal_mode = WAL")
        # FULL: a commit is on the platter before the POST that it allows. No automatic checkpoints.
        # Those leave the log at its full length with its pages copied already. Such a log, cut
        # short, would lay old pages over new ones. Ours always empty it.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA wal_autocheckpoint = 0")
        self._db.execute(f"PRAGMA cache_size = {-PAGE_CACHE}")

    def _check_version(self) -> None:
        """Look at what the log says too, which the file's first bytes do not."""
        version, mark = self._one("PRAGMA user_version"), self._one("PRAGMA application_id")
        if not version or mark != APPLICATION_ID:
            raise foreign(self.path)
        if version > len(MIGRATIONS):
            raise newer(self.path, version, len(MIGRATIONS))

    def _check_pages(self) -> None:
        found = self._one("PRAGMA integrity_check(1)")
        if found != "ok":
            raise damaged(self.path, found)

    def _migrate(self) -> None:
        version = self._one("PRAGMA user_version")
        for number in range(version + 1, len(MIGRATIONS) + 1):
            self._db.execute("BEGIN IMMEDIATE")
            self._run_script(MIGRATIONS[number - 1])
            self._db.execute(f"PRAGMA user_version = {number}")
            self._db.execute("COMMIT")
        if version < len(MIGRATIONS):
            self.checkpoint()

    def checkpoint(self) -> None:
        """Fold the log into the database and empty it. When a reader is in the way, this is made up
        for soon after.
        """
        self._db.execute(f"PRAGMA busy_timeout = {READER_PATIENCE}")
        [(busy, *_)] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._db.execute(f"PRAGMA busy_timeout = {WRITER_PATIENCE}")
        self._fold_due = bool(busy)
        self._folded = time.monotonic()

    def close(self, fold: bool = True) -> None:
        """Close the connection; with `fold` after folding the log in."""
        try:
            with ledger_errors(self.path):
                if fold:
                    self.checkpoint()
        finally:
            self._disconnect()

    def hurry(self) -> None:
        """Wait only a little longer for other programs: the ledger is to be closed."""
        self._patience.hurry()

    def _disconnect(self) -> None:
        self._db.close()
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy = None

    # --- writing ----------------------------------------------------------------------------------

    def _is_there(self) -> bool:
        """Whether the file that is written is still the one under its name. A folder may be removed
        while its batch runs.
        """
        try:
            facts = os.stat(self.path)
        except OSError:
            return False
        return (facts.st_dev, facts.st_ino) == self._file

    def apply(
        self,
        changes: Sequence[Change],
        calls: Sequence[Callable[[Database], Any]],
        fold: bool = False,
    ) -> list[Any]:
        """Write a group of changes and make calls, in one transaction; gives the calls' results.

        With `fold` the log is folded in before this returns.
        """
        if not self._is_there():
            self.gone = True
            raise LedgerError(
                f"the ledger {self.path} was removed while the batch ran",
                charged="unknown",
                next_step="Put the folder back where it was before you run the batch again: a new "
                "ledger would pay again.",
            )
        with ledger_errors(self.path):
            self._patience.wait(lambda: self._db.execute("BEGIN IMMEDIATE"))
            try:
                self._write(changes)
                results = [call(self) for call in calls]
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            due = self._fold_due or size_of(self._log) > LARGEST_LOG
            if fold or (due and time.monotonic() > self._folded + FOLD_PAUSE):
                self.checkpoint()
            return results

    def _write(self, changes: Sequence[Change]) -> None:
        rows: dict[str, list[Sequence[Any]]] = {}
        for kind, row in changes:
            rows.setdefault(kind, []).append(row)
        for kind in CHANGES:
            if kind in rows:
                self._change(kind, rows[kind])

    def _change(self, kind: str, rows: Sequence[Sequence[Any]]) -> None:
        self._db.execute(self._sql[kind], (json.dumps(rows),))

    def begin_run(self) -> int:
        """Note that a run begins; gives its number."""
        return int(
            self._db.execute(self._sql["begin-run"], (os.getpid(), time.time())).lastrowid or 0
        )

    def end_run(self, number: int, how: str) -> None:
        """Note how a run ended."""
        self._db.execute(self._sql["end-run"], (time.time(), how, number))

    # --- reading ----------------------------------------------------------------------------------

    def _one(self, sql: str, *values: Any) -> Any:
        row = self._db.execute(sql, values).fetchone()
        return row[0] if row is not None else None

    def fact(self, name: str) -> str | None:
        """Return a fact about the batch as a whole."""
        value = self._one(self._sql["get-fact"], name)
        return str(value) if value is not None else None

    def bind(self, service: str) -> None:
        """Note whose tasks these are; raises `LedgerError` when they are another service's: a
        sandbox's videos are not the real ones.
        """
        bound = self.fact("service")
        if bound is None:
            self.set_fact("service", service)
        elif bound != service:
            raise LedgerError(
                f"the batch in {self.path.parent} belongs to {bound}, and this session speaks to "
                f"{service}",
                next_step="Use another folder, or a session to that service.",
            )

    def set_fact(self, name: str, value: str) -> None:
        """Note a fact about the batch as a whole."""
        self._db.execute(self._sql["set-fact"], (name, value))

    def proofs(self) -> tuple[int, list[str]]:
        """Count the jobs that may be paid for and are not here. Give a few tasks by which their
        account can be known.
        """
        return int(self._one(self._sql["count-at-stake"])), [
            row[0] for row in self._db.execute(self._sql["proofs"])
        ]

    def doubts(self, *states: JobState) -> Doubts:
        """Return what is known of the requests that earlier runs may have sent."""
        first_run, since = self._db.execute(self._sql["doubts"], (json.dumps(states),)).fetchone()
        if since is None:
            return Doubts(first_run, frozenset())
        claimed = frozenset(row[0] for row in self._db.execute(self._sql["claimed"], (since,)))
        known = self._db.execute(self._sql["known-key"]).fetchone()
        return Doubts(first_run, claimed, known)

    def add_strangers(self, names: Sequence[str]) -> None:
        """Note videos that are not this batch's: they were there before it."""
        self.write_set("add-strangers", sorted({*names, *map(folded, names)}))

    def strangers(self) -> list[str]:
        """List the videos that were there before the batch."""
        with ledger_errors(self.path):
            return [name for (name,) in self._db.execute("SELECT name FROM strangers")]

    def bind_store(self, link: str, names: Sequence[str]) -> None:
        """Note that the videos lie under a prefix of an object store, where some are already."""
        self.set_fact(STORE, link)
        self.add_strangers(names)

    def is_stranger(self, name: str) -> bool:
        """Whether a video of this name was in the folder before the ledger."""
        return bool(self._one("SELECT 1 FROM strangers WHERE name IN (?, ?)", name, folded(name)))

    def set_of(self, query: str, values: Sequence[Any]) -> Any:
        """Run a query over a JSON array that answers with one JSON value."""
        return json.loads(self._one(self._sql[query], json.dumps(values)) or "null")

    def write_set(self, query: str, rows: Sequence[Any]) -> None:
        """Run a statement over a JSON array."""
        if rows:
            self._db.execute(self._sql[query], (json.dumps(rows),))

    def page(
        self, condition: str, *, state: JobState | None = None, after: int = 0
    ) -> list[JobRow]:
        """Return the next jobs after some place that meet one of the ledger's conditions."""
        where = self._sql[f"where-{condition}"].format(state=state)
        with ledger_errors(self.path):
            rows = self._db.execute(self._sql["page"].format(where=where), (after, PAGE)).fetchall()
        return [JobRow.of_row(row) for row in rows]

    def missing(
        self, after: int, *, run: int = -1, every: bool = False
    ) -> tuple[int | None, list[str]]:
        """Look at a page of saved videos, without those of a run's input.

        Return from where to go on (None: that was all), and the ids of jobs whose videos are gone.
        With `every` it is all of the page.
        """
        rows = self._db.execute(self._sql["saved-files"], (after, run, run, LOOKED_AT)).fetchall()
        has_size = self.videos.has_size
        ids = [job_id for _, job_id, name, size in rows if every or not has_size(name, size)]
        return (rows[-1][0] if len(rows) == LOOKED_AT else None), ids

    def count_missing(self) -> int:
        """Count the saved videos that are not here any more."""
        after: int | None = 0
        count = 0
        with ledger_errors(self.path):
            while after is not None:
                after, ids = self.missing(after)
                count += len(ids)
        return count

    def jobs(self, ids: Sequence[str]) -> list[JobRow]:
        """Read jobs by their ids; those that are not there are left out."""
        with ledger_errors(self.path):
            return [JobRow.of_row(row) for row in self.set_of("by-id", ids)] if ids else []

    def image_sizes(self) -> set[str]:
        """Return the sizes of the local images that were read, as stamps have them."""
        return set(json.loads(self._one(self._sql["digest-sizes"])))

    def pages(self, condition: str) -> Iterator[JobRow]:
        """Yield all jobs that meet a condition, a page in memory at a time."""
        after = 0
        while page := self.page(condition, after=after):
            yield from page
            after = page[-1].seq

    def totals(self) -> Totals:
        """Count how the batch stands."""
        shown = self._sql["where-shown"]
        with ledger_errors(self.path):
            rows = self._db.execute(self._sql["totals"].format(shown=shown)).fetchall()
            failures = dict(self._db.execute(self._sql["failures"].format(shown=shown)).fetchall())
            dying, first = self._db.execute(
                self._sql["dying"], (time.time() + DYING_SECONDS,)
            ).fetchone()
        return Totals(
            states={JobState(state): count for state, count, *_ in rows if count},
            spent=to_credits(sum(row[2] for row in rows)),
            reserved=to_credits(sum(row[3] for row in rows)),
            failures=failures,
            dying=dying,
            first_death=first,
        )

    def rows_for_copy(self, columns: Sequence[str], after: int, size: int) -> list[tuple[Any, ...]]:
        """Return some columns of the next jobs after some place, `seq` among them."""
        sql = f"SELECT {', '.join(columns)} FROM jobs WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 our own names
        with ledger_errors(self.path):
            return self._db.execute(sql, (after, size)).fetchall()

    def ended_since(self, moment: float) -> int:
        """Count the jobs that ended since a time."""
        return int(self._one(self._sql["pace"], moment) or 0)

    def last_run(self) -> tuple[int, int, float, float | None, str | None] | None:
        """Return the last run's number, process id, beginning, end and how it ended."""
        row: tuple[int, int, float, float | None, str | None] | None = self._db.execute(
            self._sql["last-run"]
        ).fetchone()
        return row


@contextmanager
def reading(path: Path) -> Iterator[Database]:
    """Open a ledger to read it; whatever cannot be made sense of in it is a `LedgerError`."""
    database = Database(path, read_only=True)
    try:
        with ledger_errors(path):
            yield database
    finally:
        database.close(fold=False)
