"""One run of a batch: first what is paid for, then the input, until nothing is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from .._budget import BatchBook
from .._concurrency import hand_over, to_the_end
from .._rules.lifecycle import JobState
from ..errors import HappyHorseError, LedgerError, SessionClosedError
from ._admission import GROUP
from ._database import Database
from ._feed import Feed, InHand
from ._follow import BatchOptions, Follower
from ._jobs import JobRow
from ._late_charges import DEARNESS_FACT, dearness_of
from ._ledger import Ledger
from ._outcome import Outcome
from ._videos import VideoFolder

if TYPE_CHECKING:
    from .._parts import Parts


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
        source: Callable[[Feed], Awaitable[None]],
        *,
        retry: bool,
    ) -> None:
        """`source` feeds the run, after what is at stake from earlier ones."""
        self._parts = parts
        self._ledger = ledger
        self._source = source
        # At the user's word also what an earlier run has left in doubt is sent again.
        self._doubtful = (JobState.SUBMITTING, *([JobState.UNKNOWN] if retry else []))
        self._run = InHand(
            ledger=ledger,
            videos=videos,
            book=book,
            options=options,
            # As many jobs as are in flight wait for their turn. So no place is ever empty for want
            # of the next job.
            tokens=asyncio.Semaphore(2 * options.max_in_flight + GROUP),
            start=self._start,
        )
        self._task: asyncio.Task[None] | None = None
        self._follower: Follower | None = None
        self._jobs: asyncio.TaskGroup | None = None
        self._feeding: asyncio.Task[None] | None = None
        self._stop_asked = False
        self._failure: BaseException | None = None
        self._over = False
        """Nobody gets a further outcome."""

    # --- for who iterates -------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        self._parts.here()
        if self._task is None and not self._over:
            self._parts.require_open()
            self._task = self._parts.background.start(self._drive(), name="batch", for_caller=True)
            self._task.add_done_callback(self._ended)
        outcome = await self._run.told.get()
        if outcome is not None:
            self._run.tokens.release()
            return outcome
        self._run.told.put_nowait(None)  # for whoever else asks
        self._over = True
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        raise StopAsyncIteration

    @property
    def over(self) -> bool:
        """Whether the run has ended, with all that it had in hand."""
        return self._over and (self._task is None or self._task.done())

    def stop(self) -> None:
        """Submit nothing new from now on, and finish what is paid for."""
        self._stop_asked = True
        if self._follower is not None:
            self._follower.stop()

    async def aclose(self) -> None:
        """End the run at once. What has left is known to the ledger by its key, and found again by
        the next run.
        """
        self._over = True
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        while not self._run.told.empty():
            self._run.told.get_nowait()  # nobody will take them
        self._run.told.put_nowait(None)

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
            if self._ledger.gone:
                self._keep_ids()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and not self._over:
            self._failure = _closed()  # also when it had not begun
        self._run.told.put_nowait(None)

    async def _work(self) -> None:
        follower = self._follower = await self._begin()
        if self._stop_asked:
            follower.stop()
        try:
            async with asyncio.TaskGroup() as around:
                # Nothing may be paid that cannot be noted: when the ledger is lost, all ends at
                # once.
                guard = around.create_task(_raised_by(self._ledger.lost))
                async with asyncio.TaskGroup() as self._jobs:
                    await self._feed(Feed(self._run), self._jobs)
                guard.cancel()
        finally:
            await follower.charges.end()
        self._failure = follower.reason

    async def _begin(self) -> Follower:
        """Take over what the ledger says of earlier runs."""
        ledger, run = self._ledger, self._run
        run.number = await ledger.call(Database.begin_run)
        totals = await ledger.call(Database.totals)
        if totals.states:
            await hand_over(None, run.videos.look)
        said = await ledger.call(lambda database: database.fact(DEARNESS_FACT))
        run.book.begin(spent=totals.spent, reserved=totals.reserved, dearness=dearness_of(said))
        return Follower(
            self._parts,
            ledger,
            run.videos,
            run.book,
            run.options,
            run=run.number,
            doubts=await ledger.call(lambda database: database.doubts(*self._doubtful)),
            on_stop=self._end_feeding,
        )

    async def _feed(self, feed: Feed, group: asyncio.TaskGroup) -> None:
        """Feed what is at stake, then new jobs until a stop ends it. The run waits for it as for
        its jobs.
        """
        await feed.resume()

        async def rest() -> None:
            await self._source(feed)
            await feed.the_rest()

        self._feeding = group.create_task(rest())
        if self._follower is not None and self._follower.stopping:
            self._feeding.cancel()

    async def _note_end(self, how: str) -> None:
        try:
            await self._ledger.call(lambda database: database.end_run(self._run.number, how))
        except LedgerError as error:
            self._failure = self._failure or error

    def _keep_ids(self) -> None:
        """Keep what is paid for among the session's orphans: no ledger knows it any more."""
        for job in self._run.live.values():
            if job.task_id is not None and job.state is not JobState.SAVED:
                self._parts.submitter.orphan(job.posted, job.key, job.task_id)

    def _start(self, job: JobRow) -> None:
        assert self._jobs is not None, "jobs are taken in while the run goes on"  # noqa: S101
        self._run.live[job.seq] = job
        self._jobs.create_task(self._bring_home(job))

    async def _bring_home(self, job: JobRow) -> None:
        assert self._follower is not None, "a run begins before its jobs"  # noqa: S101
        with self._traced(job):
            outcome = await self._follower.follow(job)
        # The ledger has its end by now, so whoever looks there sees a job that has left.
        del self._run.live[job.seq]
        if outcome is None:
            self._run.tokens.release()
        else:
            self._run.told.put_nowait(outcome)

    def _traced(self, job: JobRow) -> AbstractContextManager[object]:
        if job.state is JobState.SAVED:
            return nullcontext()
        # What has failed begins again, most often as another task.
        task_id, key = (job.task_id, job.key) if job.state is not JobState.FAILED else (None, None)
        return self._parts.events.work("generate", task_id=task_id, key=key, request=job.asked)

    def _end_feeding(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()


def _closed() -> SessionClosedError:
    return SessionClosedError(
        "the batch was closed while it ran",
        charged="unknown",
        next_step="Run it again: it goes on where it stopped.",
    )


async def _raised_by(lost: asyncio.Future[None]) -> None:
    await asyncio.shield(lost)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
