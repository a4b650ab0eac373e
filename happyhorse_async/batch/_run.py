"""One run of a batch: first what is paid for, then the input, until nothing is on its way any more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from .._budget import BatchBook
from .._concurrency import to_the_end
from .._request import ImageToVideo
from .._rules.lifecycle import AT_STAKE, JobState
from ..errors import (
    DestinationExistsError,
    HappyHorseError,
    InvalidRequestError,
    LedgerError,
    SessionClosedError,
)
from ._admission import GROUP, Admission, BadRow, Candidate, Input, Intake, Verdict, admit, rows_of
from ._database import Database
from ._follow import BatchOptions, Follower
from ._jobs import Job, JobRow
from ._late_charges import DEARNESS_FACT, dearness_of
from ._ledger import Ledger
from ._outcome import Outcome, UnsavedOutcome, outcome_of
from ._videos import VideoFolder

if TYPE_CHECKING:
    from .._parts import Parts

logger = logging.getLogger("happyhorse_async")

Row = ImageToVideo | Job


class Outcomes:
    """The outcomes of one run, in the order in which jobs end. The run begins with the first `async
    for`, and belongs to its batch.
    """

    def __init__(
        self,
        parts: Parts,
        ledger: Ledger,
        videos: VideoFolder,
        book: BatchBook,
        options: BatchOptions,
        feed: Callable[[Outcomes], Awaitable[None]],
        *,
        retry: bool,
    ) -> None:
        self._parts = parts
        self._ledger = ledger
        self._videos = videos
        self._book = book
        self._options = options
        self._feed = feed
        # At the user's word also what an earlier run has left in doubt is sent again.
        self._doubtful = (JobState.SUBMITTING, *([JobState.UNKNOWN] if retry else []))
        self._intake = Intake(ledger)
        self._number = 0
        self._live: dict[int, JobRow] = {}
        """The jobs that this run has in hand, by their number in the ledger; no more than there are
        tokens."""
        # As many jobs as are in flight wait for their turn, so that no place is ever empty for want
        # of the next job. A job's token is given back when its outcome has been taken.
        self._tokens = asyncio.Semaphore(2 * options.max_in_flight + GROUP)
        self._told: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._follower: Follower | None = None
        self._jobs: asyncio.TaskGroup | None = None
        self._feeding: asyncio.Task[None] | None = None
        self._stop_asked = False
        self._failure: BaseException | None = None
        self.over: bool = False
        """Whether the run has ended."""

    # --- for who iterates -------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        self._parts.here()
        if self._task is None and not self.over:
            self._task = self._parts.background.start(self._drive(), name="batch", for_caller=True)
            self._task.add_done_callback(self._ended)
        outcome = await self._told.get()
        if outcome is not None:
            self._tokens.release()
            return outcome
        self._told.put_nowait(None)  # for whoever else asks
        self.over = True
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        raise StopAsyncIteration

    def stop(self) -> None:
        """Submit nothing new from now on, and finish what is paid for."""
        self._stop_asked = True
        if self._follower is not None:
            self._follower.stop()

    async def aclose(self) -> None:
        """End the run at once. What has left is known to the ledger by its key, and found again by
        the next run.
        """
        self.over = True
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        while not self._told.empty():
            self._told.get_nowait()  # nobody will take them
        self._told.put_nowait(None)

    # --- the run ----------------------------------------------------------------------------------

    async def _drive(self) -> None:
        """Do the whole run; `_failure` says afterwards what stopped it."""
        how = "failed"
        try:
            await self._work()
            how = "done" if not self._stop_asked and self._failure is None else "stopped"
        except BaseExceptionGroup as errors:
            self._failure = _first(errors)
        except HappyHorseError as error:
            self._failure = error
        except asyncio.CancelledError:
            how, self._failure = "cancelled", _closed()
            raise
        finally:
            await to_the_end(asyncio.ensure_future(self._note_end(how)))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and not self.over:
            self._failure = _closed()  # also when it had not begun
        self._told.put_nowait(None)

    async def _work(self) -> None:
        self._number = await self._ledger.call(Database.begin_run)
        totals = await self._ledger.call(Database.totals)
        if totals.states:
            await asyncio.to_thread(self._videos.look)
        said = await self._ledger.call(lambda database: database.fact(DEARNESS_FACT))
        self._book.begin(spent=totals.spent, reserved=totals.reserved, dearness=dearness_of(said))
        follower = self._follower = Follower(
            self._parts,
            self._ledger,
            self._videos,
            self._book,
            self._options,
            run=self._number,
            doubts=await self._ledger.call(lambda database: database.doubts(*self._doubtful)),
            on_stop=self._end_feeding,
        )
        if self._stop_asked:
            follower.stop()
        try:
            async with asyncio.TaskGroup() as around:
                # Nothing may be paid that cannot be noted: when the ledger is lost, all ends at
                # once.
                guard = around.create_task(_raised_by(self._ledger.lost))
                async with asyncio.TaskGroup() as self._jobs:
                    await self._feed(self)
                guard.cancel()
        finally:
            await follower.charges.end()
        self._failure = follower.reason

    async def _note_end(self, how: str) -> None:
        try:
            await self._ledger.call(lambda database: database.end_run(self._number, how))
        except LedgerError as error:
            self._failure = self._failure or error

    def _start(self, job: JobRow) -> None:
        """Take a job in, wherever it stands; the caller holds a token."""
        self._live[job.seq] = job
        self._group.create_task(self._bring_home(job))

    async def _bring_home(self, job: JobRow) -> None:
        with self._traced(job):
            outcome = await self._at_work.follow(job)
        # The ledger has its end by now, so whoever looks there sees a job that has left.
        del self._live[job.seq]
        if outcome is None:
            self._tokens.release()
        else:
            self._told.put_nowait(outcome)

    def _traced(self, job: JobRow) -> AbstractContextManager[object]:
        if job.state is JobState.SAVED:
            return nullcontext()
        return self._parts.events.work(
            "generate", task_id=job.task_id, key=job.key, request=job.asked
        )

    def _end_feeding(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()

    @property
    def _group(self) -> asyncio.TaskGroup:
        assert self._jobs is not None, "jobs are taken in while the run goes on"  # noqa: S101
        return self._jobs

    @property
    def _at_work(self) -> Follower:
        assert self._follower is not None, "jobs are taken in while the run goes on"  # noqa: S101
        return self._follower

    # --- feeding ----------------------------------------------------------------------------------

    async def over_input(self, requests: Input, *, retry: bool = False) -> None:
        """Feed what is at stake from earlier runs, then the input."""
        await self._resume()
        self._begin_feeding(partial(self._take_all, requests, retry=retry), self._look_for_the_rest)

    async def over_failed(self) -> None:
        """Feed what is at stake, then what has failed or is in doubt."""
        await self._resume()
        self._begin_feeding(self._take_failed, self._look_for_the_rest)

    def _begin_feeding(self, *sources: Callable[[], Awaitable[None]]) -> None:
        """Feed new jobs until a stop ends it; the run waits for it as for its jobs."""
        self._feeding = self._group.create_task(_one_by_one(sources))
        if self._at_work.stopping:
            self._feeding.cancel()

    async def _take_all(self, requests: Input, *, retry: bool) -> None:
        read: asyncio.Queue[Row | None] = asyncio.Queue(GROUP)
        async with asyncio.TaskGroup() as group:
            group.create_task(_read(requests, read))
            while rows := await _gathered(read):
                await self._take_in(rows, retry=retry)

    async def _resume(self) -> None:
        """Take up what is paid for, or may be; no stop cuts this short, or else links would die
        unwatched until the next run.
        """
        for state in AT_STAKE:
            await self._feed_pages("at-stake", state, self._admit)

    async def _take_failed(self) -> None:
        for state in (JobState.UNKNOWN, JobState.FAILED):
            await self._feed_pages("in-trouble", state, self._begin_again)
        await self._feed_pages("begun-again", JobState.NEW, self._begin_again)

    async def _look_for_the_rest(self) -> None:
        """Take up saved jobs that are not in the input, and whose videos are not here any more."""
        after: int | None = 0
        gone, verify = 0, self._options.verify

        def look(database: Database) -> tuple[int | None, list[JobRow]]:
            following, ids = database.missing(after or 0, run=self._number, every=verify)
            return following, database.jobs(ids)

        while after is not None:
            after, jobs = await self._ledger.call(look)
            for job in jobs:
                if verify and await asyncio.to_thread(self._videos.is_here, job, digest=True):
                    continue
                if job.is_over(time.time()):
                    gone += 1  # nothing can be done: not told at every run
                    continue
                await self._tokens.acquire()
                self._start(job)
        if gone:
            logger.warning(
                "%d saved videos are not in %s any more, and their links are dead",
                gone,
                self._videos,
                extra={"action": "videos_missing", "count": gone},
            )

    async def _feed_pages(
        self, condition: str, state: JobState, feed: Callable[[JobRow], Awaitable[None]]
    ) -> None:
        after = 0

        def look(database: Database) -> tuple[list[JobRow], list[JobRow]]:
            page = database.page(condition, state=state, after=after)
            # Jobs of this run that have come into this state since are in good hands. Looked at in
            # one moment with the states: a job leaves the run only after the ledger has its end.
            return page, [job for job in page if job.seq not in self._live]

        while True:
            page, idle = await self._ledger.call(look)
            if not page:
                return
            for job in idle:
                await self._tokens.acquire()
                await feed(job)
            after = page[-1].seq

    async def _admit(self, job: JobRow) -> None:
        self._book.claim(job.seq, job.reserved)
        self._start(job)

    async def _begin_again(self, job: JobRow) -> None:
        if job.ended_run == self._number:
            self._tokens.release()
            return
        try:
            # With its link, or perhaps none, a request that may be paid for can be asked for
            # without its image.
            _ = job.posted if job.state is JobState.UNKNOWN else job.wanted
            if job.state is JobState.FAILED:
                await self._at_work.begin_again(job)
            elif job.state is JobState.NEW:
                job.image_url = job.uploaded = None
        except HappyHorseError as error:
            self._told.put_nowait(outcome_of(job, self._videos, error=error, resumed=True))
            return
        await self._admit(job)

    async def _take_in(self, rows: Sequence[Row], *, retry: bool) -> None:
        """Enter a group of rows into the ledger, and send each on its way."""
        for _ in rows:
            await self._tokens.acquire()
        found = await self._intake.look(rows)
        candidates = [row for row in found if isinstance(row, Candidate)]
        admissions = await self._ledger.call(
            lambda database: admit(
                database,
                self._number,
                candidates,
                live=self._live,
                retry=retry,
                verify=self._options.verify,
            )
        )
        for admission in admissions:
            # Before anything else: a job that is under way must know whose id it has.
            for job in filter(None, (admission.old, admission.job)):
                if job.seq in self._live:
                    self._live[job.seq].rename(job)
        following = iter(admissions)
        for row in found:
            if isinstance(row, BadRow):
                self._refuse(row.id, row.error, row.request, row.extra)
            else:
                await self._receive(row, next(following))

    async def _receive(self, row: Candidate, admission: Admission) -> None:
        job, verdict = admission.job, admission.verdict
        if verdict is Verdict.TWICE or job is None:
            self._refuse(
                row.id,
                InvalidRequestError([f"id: {row.id!r} came before in this input"]),
                row.request,
            )
        elif verdict is Verdict.STRANGER:
            path = self._videos.place(job.name)
            taken = DestinationExistsError(
                f"{path} exists already, and is not this batch's", path=str(path), charged="no"
            )
            self._refuse(job.id, taken, row.request, job.columns)
        elif verdict is Verdict.TOLD:
            self._told.put_nowait(outcome_of(job, self._videos, resumed=True))
        elif verdict is Verdict.IN_HAND:
            await self._hand_over(row.request, job)
        else:
            if job.state is JobState.FAILED:
                await self._at_work.begin_again(job)
            elif job.state is JobState.NEW:
                # An upload of an earlier run may be gone, and nothing hangs on its link: the
                # service never accepted it.
                job.image_url = job.uploaded = None
            await self._admit(job)

    async def _hand_over(self, request: ImageToVideo, job: JobRow) -> None:
        """Give a job in hand the image that its row brings."""
        if job.seq not in self._live and job.state is JobState.NEW:
            # It has left since its row was looked at; if for want of its image, it is still new,
            # and comes in again with its row.
            [job] = await self._ledger.call(lambda database: database.jobs([job.id]))
            if job.state is JobState.NEW:
                job.asked = request
                self._start(job)
                return
        if job.seq in self._live:
            self._live[job.seq].given(request)
        self._tokens.release()

    def _refuse(
        self,
        job_id: str,
        error: HappyHorseError,
        request: ImageToVideo | None,
        extra: dict[str, object] | None = None,
    ) -> None:
        outcome = UnsavedOutcome(
            id=job_id,
            state=JobState.FAILED,
            error=error,
            request=request,
            extra=extra or {},
            attempts=0,
        )
        self._told.put_nowait(outcome)


async def _one_by_one(sources: Sequence[Callable[[], Awaitable[None]]]) -> None:
    # Called here and not before: a task that is cancelled before it begins leaves nothing behind.
    for source in sources:
        await source()


async def _read(requests: Input, read: asyncio.Queue[Row | None]) -> None:
    async with aclosing(rows_of(requests)) as rows:
        async for row in rows:
            await read.put(row)
    await read.put(None)


async def _gathered(read: asyncio.Queue[Row | None]) -> list[Row]:
    """Take the next row, and along with it what has come already: a slow input is not waited for.

    Nothing after the last row.
    """
    rows: list[Row] = []
    while len(rows) < GROUP and (not rows or not read.empty()):
        row = await read.get()
        if row is None:
            if rows:
                read.put_nowait(None)
            break
        rows.append(row)
    return rows


def _closed() -> SessionClosedError:
    return SessionClosedError(
        "the batch was closed while it ran",
        next_step="Run it again: it goes on where it stopped.",
    )


async def _raised_by(lost: asyncio.Future[None]) -> None:
    await asyncio.shield(lost)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
