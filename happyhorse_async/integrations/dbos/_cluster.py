"""`Cluster`: a batch in a database: entering rows, looking how it stands, reporting, and
working.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ..._downloader.destinations import is_object_link, look_at, refuse_unwritable
from ..._request import made_path, require_path, require_several
from ..._rules.lifecycle import JobState
from ..._rules.numbers import to_credits
from ...batch._admission import Input
from ...batch._database import STORE, Database
from ...batch._outcome import Outcome, Totals
from ...batch._videos import StoreFolder, VideoFolder
from ...batch.report import PACE_SECONDS, write_reports_of
from ...errors import ConfigurationError, DownloadError, HappyHorseError, LedgerError
from ._connection import LostError, check_url, cluster_errors, reaching
from ._database import ClusterDatabase
from ._ledger import ClusterLedger
from ._sqlite import QUICK_TRY, is_sqlite
from ._values import ClusterLimits, Enqueued, LimitsToSet, WorkerFacts, WorkerOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..._session import Session
    from ._enqueue import Enqueuer
    from ._worker import Worker


OUT = "out"
"""The fact that says where the videos go."""


@attrs.frozen(kw_only=True)
class ClusterOverview:
    """How a cluster stands."""

    out: str
    totals: Totals
    per_hour: float
    """Jobs that ended, by the pace of the last quarter of an hour."""
    workers: tuple[WorkerFacts, ...]
    limits: ClusterLimits
    left: int
    """Jobs that have not ended."""
    missing: int | None = 0
    """Saved videos that are not in their place any more, or not with their size; None: their place
    was not looked at, or cannot be seen from here."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        totals, limits = self.totals, self.limits
        return {
            "out": self.out,
            "states": {state.value: count for state, count in totals.states.items()},
            "jobs": totals.jobs,
            "left": self.left,
            "credits_spent": totals.spent,
            "credits_reserved": totals.reserved,
            "failures": dict(totals.failures),
            "links_about_to_die": totals.dying,
            "first_death": totals.first_death,
            "missing": self.missing,
            "per_hour": round(self.per_hour, 1),
            "limits": {
                "unfinished": limits.unfinished,
                "per_second": limits.rate,
                "credits": None if limits.budget is None else to_credits(limits.budget),
            },
            "workers": [attrs.asdict(worker) for worker in self.workers],
        }


class Cluster:
    """A batch in a PostgreSQL database. One database holds one batch, as one folder does.

    For a quick try it may be a file of SQLite, which one worker at a time works on.
    """

    def __init__(self, database: str) -> None:
        """Take a link like `postgresql://user@host/name`, or `sqlite:///file.db`; raises
        `ConfigurationError` for others.
        """
        self.url: str = check_url(database)
        self.caveat: str = QUICK_TRY if is_sqlite(self.url) else ""
        """What its user must know of this kind of database, in one sentence; may be empty."""

    async def set_limits(
        self,
        *,
        unfinished: int | None = None,
        rate: float | None = None,
        credits: float | str | None = None,  # noqa: A002 the service's word for its money
    ) -> None:
        """Set what holds over all workers together; what is None stays as it is.

        `unfinished`: tasks that have not ended. `rate`: submissions a second. `credits`: what all
        jobs may cost. Workers that run take note within a second. Raises `ConfigurationError` for
        what is no limit.
        """
        limits = LimitsToSet(unfinished=unfinished, rate=rate, credits=credits)
        async with self._open() as ledger:
            await ledger.call_cluster("set_limits", limits)

    def refuse_place(self, out: str | os.PathLike[str]) -> None:
        """Raise `ConfigurationError` for a place in which no worker can save videos, as far as this
        machine can tell. Reads the disk; `enqueue` asks too.
        """
        _refuse(out, here=is_sqlite(self.url))

    async def enqueue(
        self,
        requests: Input,
        *,
        out: str | os.PathLike[str] | None = None,
        retry_failed: bool = False,
    ) -> Enqueued:
        """Enter requests or `Job`s; those that were entered before are not entered again.

        `out` is where the videos go, said once: a folder that all workers see, or an object store's
        link. With `retry_failed` failed jobs of the input begin again, which costs money again. A
        worker asks for each one's task first, and buys no other when that goes on. Those of unknown
        fate are asked for with the same key.
        """
        require_several("requests", requests)
        async with self._entering(out) as enqueuer:
            return await enqueuer.enqueue(requests, retry_failed=retry_failed)

    async def take_over(self, folder: str | os.PathLike[str]) -> Enqueued:
        """Go on with a folder's batch in the cluster; what it has paid for is found.

        The videos stay where they are, and the folder's own ledger is closed to `batch run`. Raises
        `LedgerError` when there is none, and when another process works on it.
        """
        from ._enqueue import OpenFolder

        with await asyncio.to_thread(OpenFolder, made_path("folder", folder)) as opened:
            async with self._entering(opened.place, strangers=opened.strangers) as enqueuer:
                return await asyncio.to_thread(opened.copy_to, enqueuer)

    async def overview(self, *, look: bool = True) -> ClusterOverview:
        """Read how the cluster stands, also while it works.

        With `look` it is counted too which saved videos are not in their place any more.
        """
        async with self._open() as ledger:
            facts = await ledger.call(lambda database: _overview(ledger.database))
            missing = await _missing(ledger, facts) if look else None
            return attrs.evolve(facts, missing=missing)

    async def write_reports(
        self,
        kinds: Sequence[str] = ("html", "jsonl", "csv"),
        *,
        out: str | os.PathLike[str] | None = None,
        verify: bool = False,
        title: str | None = None,
    ) -> list[Path]:
        """Write what became of every job, as a batch does; return the files' paths.

        They lie beside the videos, or in `out`; those of an object store's videos lie here. With
        `verify` every video is read, and its digest counts too. The gallery's `title` is the
        folder's name unless it is given.
        """
        async with self._open() as ledger:
            place = await _place(ledger, None)
            folder = folder_of(place) if out is None else made_path("out", out)

            def write(database: Database) -> list[Path]:
                database.videos = videos_at(place)
                return write_reports_of(database, folder, kinds, verify=verify, title=title)

            return await ledger.call(write)

    async def place(self, out: str | os.PathLike[str] | None = None) -> str:
        """Return where the videos go: `out`, or what was said when jobs were entered."""
        async with self._open() as ledger:
            return await _place(ledger, out)

    def worker(
        self,
        session: Session,
        *,
        out: str | os.PathLike[str],
        options: WorkerOptions | None = None,
        told: Callable[[Outcome], None] = lambda outcome: None,
    ) -> Worker:
        """Make a worker over an open session; `told` hears of each job that ends in it.

        `out` is where this machine sees the place of the videos, see `place`.
        """
        from ._worker import Worker

        parts, settings = session._open(), session._settings
        service = "a service on this machine" if settings.on_loopback else settings.base_url
        return Worker(
            parts,
            self.url,
            options or WorkerOptions(),
            videos=videos_at(place_of(out)),
            service=service,
            told=told,
        )

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[ClusterLedger]:
        ledger = await ClusterLedger.connect(self.url)
        try:
            yield ledger
        finally:
            await ledger.aclose()

    @asynccontextmanager
    async def _entering(
        self,
        out: str | os.PathLike[str] | None,
        *,
        strangers: Sequence[str] | None = None,
    ) -> AsyncIterator[Enqueuer]:
        from ._enqueue import Enqueuer, prepare

        async with self._open() as ledger:
            with reaching():
                await asyncio.to_thread(prepare, self.url)
            here = is_sqlite(self.url)
            videos = await _bound(ledger, out, strangers, here=here)
            run = await ledger.call(lambda database: database.begin_run())
            enqueuer = await asyncio.to_thread(Enqueuer, self.url, ledger, videos, run)
            how = "failed"
            try:
                yield enqueuer
                how = "done"
            except LostError as error:
                raise LedgerError(
                    f"the database was lost: {error}",
                    next_step="Run the same line again: what was entered is not entered twice.",
                ) from error
            finally:
                await asyncio.to_thread(enqueuer.close)
                await ledger.call(lambda database: database.end_run(run, how))


def _overview(database: ClusterDatabase) -> ClusterOverview:
    with cluster_errors():
        now = time.time()
        return ClusterOverview(
            out=database.fact(OUT) or "",
            totals=database.totals(),
            per_hour=3600 * database.ended_since(now - PACE_SECONDS) / PACE_SECONDS,
            workers=tuple(database.workers()),
            limits=database.limits(),
            left=database.left_to_do(),
        )


async def _missing(ledger: ClusterLedger, facts: ClusterOverview) -> int | None:
    """Count the saved videos that are not there, a page at a time, so that nobody waits for it."""
    if not facts.totals.states.get(JobState.SAVED):
        return 0
    try:
        videos = await asyncio.to_thread(_looked_at, facts.out)
    except HappyHorseError:
        return None
    if videos is None:
        return None
    count, after = 0, 0
    while True:

        def look(database: Database, after: int = after) -> tuple[int | None, list[str]]:
            """Look for the next page of jobs, in the place where this machine sees their videos."""
            database.videos = videos
            return database.missing(after)

        further, ids = await ledger.call(look)
        count += len(ids)
        if further is None:
            return count
        after = further


def _looked_at(place: str) -> VideoFolder | None:
    """Return the videos of a place as they lie there; None for a folder that is not on this
    machine.
    """
    if not is_object_link(place) and not os.path.isdir(place):
        return None
    videos = videos_at(place)
    videos.look()
    return videos


async def _place(ledger: ClusterLedger, out: str | os.PathLike[str] | None) -> str:
    known = await ledger.call(lambda database: database.fact(OUT))
    if out is None and known is None:
        raise ConfigurationError(
            "nothing was entered into this database yet",
            next_step="Begin with `happyhorse cluster enqueue`.",
        )
    return place_of(out or known or "")


async def _bound(
    ledger: ClusterLedger,
    out: str | os.PathLike[str] | None,
    strangers: Sequence[str] | None,
    *,
    here: bool,
) -> VideoFolder:
    """Return where the videos go, said once for the whole batch.

    What lay there before is no job's own, unless it is said which of it (`strangers`) are not.
    """
    known = await ledger.call(lambda database: database.fact(OUT))
    wanted = place_of(out or known or "videos")
    if known is not None and wanted != known:
        raise ConfigurationError(
            f"--out: the videos of this database's jobs go to {known}",
            next_step="Leave --out away, or use another database.",
        )

    def look() -> tuple[VideoFolder, list[str]]:
        """Look at the place, which is refused only as long as nobody has said where."""
        if known is None:
            _refuse(out or wanted, here=here)
        videos = videos_at(wanted)
        videos.look()
        return videos, videos.names()

    videos, names = await asyncio.to_thread(look)

    def bind(database: Database) -> None:
        """Note the place and what lies there, unless another process just has."""
        if database.fact(OUT) is None:
            database.set_fact(OUT, wanted)
            database.add_strangers(names if strangers is None else strangers)
            if is_object_link(wanted):
                database.set_fact(STORE, wanted)

    await ledger.call(bind)
    return videos


# --- Where the videos go: a folder that all workers see, or a prefix of an object store.


def place_of(out: str | os.PathLike[str]) -> str:
    """Return a place as it is noted: an absolute path, or a link without a slash at its end."""
    require_path("out", out)
    text = os.fspath(out)
    return text.rstrip("/") if is_object_link(text) else os.path.abspath(text)


def _refuse(out: str | os.PathLike[str], *, here: bool) -> None:
    """Raise `ConfigurationError` for a place in which no worker can save videos; looks at the disk.

    Of a folder that other machines see this one knows only what is no folder, and all of it when
    the worker is to be `here`.
    """
    require_path("out", out)
    try:
        if look_at(out, exact=True).in_store:
            return
        folder = Path(place_of(out))
        existing = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        if here or not existing.is_dir() or _is_too_long(folder):
            refuse_unwritable(folder, f"a video in {folder}")
    except DownloadError as error:
        raise ConfigurationError(
            f"--out: {error}", next_step="Choose another folder with --out."
        ) from None


def _is_too_long(folder: Path) -> bool:
    try:
        folder.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def videos_at(place: str) -> VideoFolder:
    """Return the videos of a place. Raises `ConfigurationError` for a store that cannot be
    opened.
    """
    return StoreFolder(place) if is_object_link(place) else VideoFolder(Path(place))


def folder_of(place: str) -> Path:
    """Return the folder for reports: beside the videos, or here when those are in a store."""
    return Path() if is_object_link(place) else Path(place)
