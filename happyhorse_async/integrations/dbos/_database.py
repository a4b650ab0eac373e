"""The cluster's database: the jobs of a batch in PostgreSQL, as plain synchronous code.

It is the ledger of `batch`, with its queries in another dialect. So admission, reports and totals
are the same code over both. What is added: a job is in the hands of one worker, and limits hold
over all of them. Called by one thread only, the one that owns the connection.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import psycopg

from ..._budget import Dearness
from ..._rules.lifecycle import JobState
from ..._rules.numbers import to_credits, to_millionths
from ...batch._database import Change, Database, Doubts
from ...batch._jobs import CHANGES, JobRow
from ...batch._late_charges import DEARNESS_FACT, dearness_of
from ...batch._videos import VideoFolder
from ...errors import BudgetExceededError, LedgerError
from ._connection import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    SCHEMA,
    LostError,
    cluster_errors,
    cluster_queries,
    connect,
    over,
)
from ._values import ClusterLimits, LimitsToSet, WorkerFacts

logger = logging.getLogger("happyhorse_async")

VERSION = "1"
WORKER_COLUMNS = tuple(f.name for f in attrs.fields(WorkerFacts) if f.name != "alive")
LONGEST_TASK = 3600.0
"""Seconds for which a task of unknown fate counts as unfinished."""
BORN_AGAIN = (
    *("key", "image_url", "uploaded", "callback_url", "task_id", "accepted", "completed"),
    *("expires", "ended", "seconds"),
)
_FIXED = {
    "submitting": ("state = 'submitting'", "error = NULL"),
    "running": ("state = 'running'",),
    "completed": ("state = 'completed'",),
    "saved": ("state = 'saved'", "reserved = 0", "error = NULL"),
    "ended": (),
    "again": (
        "state = 'new'",
        "reserved = 0",
        "ended_run = 0",
        *(f"{name} = NULL" for name in BORN_AGAIN),
    ),
}
"""What each kind of change sets beside its columns, as in `ledger.sql`."""


class Admittance(Enum):
    """What became of a job's wish to be submitted."""

    IN = "in"
    FULL = "full"
    """A limit is reached: others have to end first."""
    LOST = "lost"
    """Another worker has the job, or another request has replaced it."""


class ClusterDatabase(Database):
    """An open database, over one connection."""

    def __init__(self, url: str) -> None:
        """Connect."""
        self._begin(url, VideoFolder(Path()))
        with cluster_errors():
            self._db: Any = connect(url)
            try:
                self._prepare()
                self.batch_id = str(self.fact("batch") or "")
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def over(cls, raw: Any, videos: VideoFolder) -> ClusterDatabase:
        """Use somebody else's connection, whose transactions are theirs."""
        self = cls.__new__(cls)
        self._begin("", videos)
        self._db = over(raw)
        self.batch_id = str(self.fact("batch") or "")
        return self

    def _begin(self, url: str, videos: VideoFolder) -> None:
        self.url = url
        self.path = Path(SCHEMA)
        self.videos = videos
        self.worker = 0
        """In whose name jobs are written."""
        self.lost: set[int] = set()
        """Jobs that were in this worker's hands and are not any more, by their numbers."""
        self._sql = cluster_queries()
        self._closing = threading.Event()

    def _prepare(self) -> None:
        """Make the tables when there are none."""
        with self._db.transaction():
            if self._db.make_tables(self._sql["schema-1"]):
                self.set_fact("batch", os.urandom(16).hex())
                self.set_fact("version", VERSION)
            elif self.fact("version") != VERSION:
                raise LedgerError(
                    f"the schema {SCHEMA} of this database was not made by this version of the "
                    "package",
                    next_step="Upgrade happyhorse-async, or use another database.",
                )

    def close(self, fold: bool = True) -> None:
        """Close the connection."""
        self._db.close()

    def hurry(self) -> None:
        """Let nobody wait for a lost database any more; may be called from any thread."""
        self._closing.set()

    # --- writing ----------------------------------------------------------------------------------

    def apply(
        self,
        changes: Sequence[Change],
        calls: Sequence[Callable[[Database], Any]],
        fold: bool = False,
    ) -> list[Any]:
        """Write a group of changes and make calls, in one transaction; give the calls' results.

        A lost database is waited for, and all is done again. Every change, and every call that is
        made here, may be done twice.
        """
        pause = FIRST_PAUSE
        while True:
            try:
                with cluster_errors(), self._db.transaction():
                    before = self._money(changes)
                    self._write(changes)
                    results = [call(self) for call in calls]
                    self._move_money(changes, before)
                return results
            except LostError as error:
                if self._closing.is_set():
                    raise LedgerError(
                        f"the database was lost: {error}", charged="unknown"
                    ) from error
                logger.warning(
                    "the database is waited for: %s", error, extra={"action": "database_lost"}
                )
                self._closing.wait(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
                self._reconnect()

    def _reconnect(self) -> None:
        if self._db.usable:
            return
        try:
            found = connect(self.url)
        except psycopg.Error as error:
            logger.debug("the database cannot be reached: %s", error)
            return
        self._db.close()
        self._db = found

    def _change(self, kind: str, rows: Sequence[Sequence[Any]]) -> None:
        sql = self._sql["change"].format(sets=_sets(kind))
        told = self._db.execute(sql, (json.dumps(rows), self.worker)).fetchall()
        self.lost.update({row[0] for row in rows} - {seq for (seq,) in told})

    def _money(self, changes: Sequence[Change]) -> tuple[int, int]:
        numbers = [row[0] for kind, row in changes if kind in ("saved", "ended", "again")]
        if not numbers:
            return 0, 0
        spent, reserved = self._db.execute(self._sql["money-of"], (numbers,)).fetchone()
        return spent, reserved

    def _move_money(self, changes: Sequence[Change], before: tuple[int, int]) -> None:
        after = self._money(changes)
        if after != before:
            moved = (after[0] - before[0], after[1] - before[1])
            self._db.execute(self._sql["move-money"], moved)

    def submit(self, rows: Sequence[Sequence[Any]]) -> dict[int, Admittance | BudgetExceededError]:
        """Let jobs be submitted, in their order, as far as the limits have room.

        Key, reservation and place are committed together, before the POST. The rows are those of
        the change "submitting".
        """
        places = {name: place for place, name in enumerate(CHANGES["submitting"], 1)}
        shown = json.dumps([(row[0], row[places["key"]]) for row in rows])
        limits = self.limits(lock=True)
        dearness = Dearness(dearness_of(self.fact(DEARNESS_FACT)))
        standing = {
            seq: (let_in, replaced)
            for seq, let_in, replaced in self._db.execute(
                self._sql["standing"], (shown, self.worker)
            ).fetchall()
        }
        told: dict[int, Admittance | BudgetExceededError] = {}
        entering: list[Sequence[Any]] = []
        room = self._room(limits)
        reserved = limits.reserved
        for row in rows:
            seq, price = row[0], row[places["reserved"]]
            let_in, replaced = standing.get(seq, (False, True))
            if let_in or replaced:
                told[seq] = Admittance.IN if let_in else Admittance.LOST
            elif limits.budget is not None and (
                # What tasks cost of late counts, and not what was estimated.
                limits.spent + dearness.of(reserved + price) > limits.budget
            ):
                # What is paid for may cost less, and its worker may die: nobody ends before it has.
                waits = bool(entering) or bool(self._one(self._sql["any-at-stake"]))
                told[seq] = Admittance.FULL if waits else exceeded(limits, reserved, price)
            elif len(entering) >= room:
                told[seq] = Admittance.FULL
            else:
                told[seq] = Admittance.IN
                reserved += price
                entering.append(row)
        if entering:
            self._change("submitting", entering)
            self._db.execute(self._sql["move-money"], (0, reserved - limits.reserved))
        return told

    def _room(self, limits: ClusterLimits) -> int:
        if limits.unfinished is None:
            return 1 << 30
        [count] = self._db.execute(
            self._sql["unfinished"], (time.time() - LONGEST_TASK,)
        ).fetchone()
        return max(0, limits.unfinished - int(count))

    def limits(self, *, lock: bool = False) -> ClusterLimits:
        """Read what holds over all workers. With `lock` it stays so until the commit; the rate is
        left out.
        """
        if lock:
            row = self._db.execute(self._sql["lock-limits"]).fetchone()
            return ClusterLimits(row[0], None, *row[1:])
        return ClusterLimits(*self._db.execute(self._sql["get-limits"]).fetchone())

    def set_limits(self, limits: LimitsToSet) -> None:
        """Set what is given; what is None stays as it is."""
        most = limits.credits
        budget = None if most is None else to_millionths(Decimal(str(most)))
        given: list[Any] = []
        for value in (limits.unfinished, limits.rate, budget):
            given += [value is not None, value]
        self._db.execute(self._sql["set-limits"], given)

    def copied(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[JobRow]:
        """Write down copied jobs; return those that were taken, and add up all money anew."""
        self.limits(lock=True)
        sql = self._sql["copy"].format(
            names=", ".join(columns),
            values=", ".join(f"(v.value->>{n})::{type_of(name)}" for n, name in enumerate(columns)),
            sets=", ".join(f"{name} = excluded.{name}" for name in columns if name != "id"),
        )
        ids = [job_id for (job_id,) in self._db.execute(sql, (json.dumps(rows),)).fetchall()]
        self._db.execute(self._sql["count-money"])
        return self.jobs(ids)

    def slots(self, lead: float, span: float) -> tuple[float, float]:
        """Take places in the row of submissions; return their beginning and the time now."""
        [(start, now)] = self.rows("slots", lead, span, span)
        return start, now

    def enter_alone(self) -> None:
        """Let nobody else enter jobs until this transaction is committed."""
        self._db.enter_alone()

    def workers(self) -> list[WorkerFacts]:
        """Return the workers, dead ones too whose jobs nobody has taken over yet."""
        living = self._db.living()
        return [
            WorkerFacts(**dict(zip(WORKER_COLUMNS, row, strict=True)), alive=row[0] in living)
            for row in self.rows("workers")
        ]

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a query, and return its rows."""
        return list(self._db.execute(self._sql[query], values).fetchall())

    def begin_run(self) -> int:
        """Note that rows are entered; return the number of this time."""
        [number] = self._db.execute(self._sql["begin-run"], (os.getpid(), time.time())).fetchone()
        return int(number)

    # --- jobs and workers -------------------------------------------------------------------------

    def claim(self, seq: int) -> JobRow | None:
        """Take a job into this worker's hands: from now on nobody else's changes of it count.

        None when its workflow is not this worker's any more.
        """
        who = self.worker, seq, executor_of(self.worker)
        row = self._db.execute(self._sql["claim"], who).fetchone()
        self.lost.discard(seq)
        return JobRow.of_row(row) if row is not None else None

    def begin_again(self, job: JobRow) -> None:
        """Take an ended job to its next attempt at the user's word, or ask again whether it is
        paid.

        Of a failed one the money stays spent. Where its task has failed, its worker asks for that
        task first: until then the job keeps it. One of unknown fate keeps its key and reservation.
        """
        if job.state is JobState.FAILED and job.has_failed_task:
            self._db.execute(self._sql["look-again"], (job.seq,))
            job.state = JobState.NEW
        elif job.state is JobState.FAILED:
            before = self._money([("again", (job.seq,))])
            self._db.execute(
                self._sql["begin-again"].format(sets=", ".join(_FIXED["again"])), (job.seq,)
            )
            self._move_money([("again", (job.seq,))], before)
            job.state, job.key, job.attempt = JobState.NEW, None, job.attempt + 1
        else:
            self._db.execute(self._sql["ask-again"], (job.seq,))
            job.state = JobState.SUBMITTING

    def leave(self, seq: int) -> bool:
        """Let go of a job that was replaced; False when it is wanted again meanwhile."""
        return self._db.execute(self._sql["leave"], (seq,)).fetchone() is not None

    def known_since(self, since: float) -> Doubts:
        """Return what is known of requests that were sent since some time."""
        claimed = {task_id for (task_id,) in self._db.execute(self._sql["claimed"], (since,))}
        return Doubts(since, claimed, self._db.execute(self._sql["known-key"]).fetchone())

    def orphans(self, worker: int, workflows: Sequence[str]) -> dict[str, str]:
        """Return the states of jobs by their workflows, with those that a worker had in hand."""
        return dict(self._db.execute(self._sql["orphans"], (list(workflows), worker)).fetchall())

    def release(self, worker: int) -> None:
        """Take all jobs out of a worker's hands: whatever it still writes does not count."""
        self._db.execute(self._sql["release"], (worker,))

    def in_hand(self) -> set[int]:
        """Return the numbers of the jobs that workers have in their hands."""
        return {seq for (seq,) in self._db.execute(self._sql["in-hand"]).fetchall()}

    def left_to_do(self) -> int:
        """Count the jobs that are to be worked on and have not ended."""
        return int(self._one(self._sql["left-to-do"]))


def exceeded(limits: ClusterLimits, reserved: int, price: int) -> BudgetExceededError:
    """Make the error for a job that will not fit whatever the jobs under way cost."""
    left = (limits.budget or 0) - limits.spent - reserved
    return BudgetExceededError(
        f"the next job needs about {to_credits(price)} credits, and {to_credits(left)} of the "
        f"cluster's {to_credits(limits.budget or 0)} are left",
        needed=str(to_credits(price)),
        left=str(to_credits(left)),
        next_step="Raise the limit with --max-credits, and start the workers again.",
    )


def executor_of(worker: int) -> str:
    """Return the name by which DBOS knows a worker."""
    return f"happyhorse-{worker}"


# --- SQL ------------------------------------------------------------------------------------------


BESIDE = {"own": "int", "twins": "int", "was": "text"}
"""Columns that are kept of a job for its admission alone, and their types."""


def type_of(column: str) -> str:
    """Return PostgreSQL's type of a job's column, by the value that it is in Python."""
    if column in BESIDE:
        return BESIDE[column]
    kind = str(getattr(attrs.fields(JobRow), column).type)
    return "float8" if "float" in kind else "bigint" if "int" in kind else "text"


@cache
def _sets(kind: str) -> str:
    columns = (
        f"{name} = (v.value->>{place})::{type_of(name)}"
        for place, name in enumerate(CHANGES[kind], 1)
    )
    return ", ".join((*_FIXED[kind], *columns))
