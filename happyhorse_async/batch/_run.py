"""One run of a batch: first what is paid for, then the input, until nothing is on its way any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .._budget import Purse
from .._config import RetryPolicy
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
from ._database import Store
from ._follow import Outcomes, Stages, Work
from ._jobs import Job, Outcome, Record, outcome_of
from ._ledger import Ledger

if TYPE_CHECKING:
    from .._parts import Parts

Row = ImageToVideo | Job


@attrs.frozen(kw_only=True)
class RunOptions:
    """How much a run does at once."""

    uploads: int = 8
    downloads: int = 8
    in_flight: int = 200
    replays: bool = True
    """Whether a submission whose fate is unknown may be sent again with its key."""
    policy: RetryPolicy = attrs.field(factory=RetryPolicy)
    timeout: float | None = None
    service: str = ""
    """Whose tasks the folder's ledger knows."""
    key: str = attrs.field(default="", repr=False)
    """The API key, by which the account is told from others."""

    @property
    def tokens(self) -> int:
        """Jobs in memory at once: as many again wait for their turn, so that no slot is ever empty
        for want of the next job.
        """
        return 2 * self.in_flight + GROUP


class Run:
    """A run, from its first job to its last."""

    def __init__(
        self, parts: Parts, ledger: Ledger, folder: Path, purse: Purse, options: RunOptions
    ) -> None:
        self._parts = parts
        self._ledger = ledger
        self._folder = folder
        self._purse = purse
        self._options = options
        self._intake = Intake(ledger)
        self._number = 0
        self._stages: Stages | None = None
        self._work: Work | None = None
        self._outcomes: Outcomes | None = None
        self._begun = anyio.Event()
        self._feeding = anyio.CancelScope()
        self._stop_asked = False
        self.failure: BaseException | None = None
        """What ended the run before its time."""

    # --- life -------------------------------------------------------------------------------------

    async def drive(self, feed: Callable[[Run], Awaitable[None]]) -> None:
        """Do the whole run; `failure` says afterwards what stopped it."""
        how = "cancelled"
        try:
            self._number = await self._ledger.call(Store.begin_run)
            totals = await self._ledger.call(Store.totals)
            self._purse.begin(spent=totals.spent, reserved=totals.reserved)
            async with anyio.create_task_group() as group:
                await self._through_stages(group, feed)
                group.cancel_scope.cancel()
            how = "done" if not self._stop_asked and self.failure is None else "stopped"
        except BaseExceptionGroup as errors:
            self.failure = _first(errors)
            how = "failed"
        except HappyHorseError as error:
            self.failure = error
            how = "failed"
        except asyncio.CancelledError:
            self.failure = SessionClosedError(
                "the batch was closed while it ran",
                next_step="Run it again: it goes on where it stopped.",
            )
            raise
        finally:
            self._begun.set()
            if self._stages is not None:
                self._stages.close()
            with anyio.CancelScope(shield=True):
                await self._note_end(how)

    async def _through_stages(
        self, group: anyio.abc.TaskGroup, feed: Callable[[Run], Awaitable[None]]
    ) -> None:
        options = self._options
        stages = self._stages = Stages(options.tokens, group)
        work = self._work = Work(
            self._parts,
            self._ledger,
            self._folder,
            self._purse,
            stages,
            run=self._number,
            policy=options.policy,
            replays=options.replays,
            timeout=options.timeout,
        )
        self._outcomes = stages.outcomes
        stages.on_stop(self._stopped)
        self._ledger.on_failure = partial(self._lost, group)
        # More downloads wait than are under way, so that the downloader can choose the one whose
        # link dies first.
        stages.uploads.start(group, options.uploads, work.upload)
        stages.submissions.start(group, options.in_flight, work.submit_and_watch)
        stages.downloads.start(group, 4 * options.downloads, work.download)
        self._begun.set()
        if self._stop_asked:
            stages.stop()
        await feed(self)
        stages.fed()
        await stages.empty()
        self.failure = stages.reason

    async def _note_end(self, how: str) -> None:
        try:
            await self._ledger.call(lambda store: store.end_run(self._number, how))
        except LedgerError as error:
            self.failure = self.failure or error

    def _lost(self, group: anyio.abc.TaskGroup, error: LedgerError) -> None:
        """End at once when the ledger cannot be written: nothing may be paid that cannot be noted."""
        self.failure = error
        group.cancel_scope.cancel()

    def stop(self) -> None:
        """Submit nothing new, and finish what is paid for."""
        self._stop_asked = True
        if self._stages is not None:
            self._stages.stop()

    def _stopped(self) -> None:
        self._purse.close()
        self._feeding.cancel()
        if self._work is not None:
            self._work.turn_away()

    async def take(self) -> Outcome | None:
        """Wait for the next outcome; None after the last."""
        await self._begun.wait()
        if self._outcomes is None or self._stages is None:
            return None
        try:
            outcome = await self._outcomes.receive()
        except anyio.EndOfStream:
            self.close()
            return None
        self._stages.give_back()
        return outcome

    def close(self) -> None:
        """Let go of the outcomes that nobody will take, and of whoever waits for the run to begin."""
        self._begun.set()
        outcomes, self._outcomes = self._outcomes, None
        if outcomes is not None:
            outcomes.close()

    # --- feeding ----------------------------------------------------------------------------------

    async def over(self, requests: Input, *, retry: bool = False) -> None:
        """Feed what is at stake from earlier runs, then the input."""
        await self._resume()
        with self._feeding:
            await self._take_all(requests, retry=retry)

    async def _take_all(self, requests: Input, *, retry: bool) -> None:
        send, receive = anyio.create_memory_object_stream[Row](GROUP)
        try:
            async with anyio.create_task_group() as group, receive:
                group.start_soon(self._read, requests, send)
                async for row in receive:
                    await self._take_in(_gather(row, receive), retry=retry)
        finally:
            send.close()  # the reader may have been cancelled before it began

    @staticmethod
    async def _read(requests: Input, send: MemoryObjectSendStream[Row]) -> None:
        async with send, aclosing(rows_of(requests)) as rows:
            async for row in rows:
                await send.send(row)

    async def _resume(self) -> None:
        """Take up what is paid for, or may be; no stop cuts this short, or else links would die
        unwatched until the next run.
        """
        for state in AT_STAKE:
            await self._feed_pages("at-stake", state, self._admit)

    async def over_failed(self) -> None:
        """Feed what is at stake, then what has failed or is in doubt."""
        await self._resume()
        with self._feeding:
            for state in (JobState.UNKNOWN, JobState.FAILED):
                await self._feed_pages("in-trouble", state, self._begin_again)
            await self._feed_pages("begun-again", JobState.NEW, self._begin_again)

    async def _feed_pages(
        self, condition: str, state: JobState, feed: Callable[[Record], Awaitable[None]]
    ) -> None:
        stages, after = self._at_work[0], 0

        def look(store: Store) -> tuple[list[Record], list[Record]]:
            page = store.page(condition, state=state, after=after)
            # Jobs of this run that have come into this state since are in good hands. Looked at in
            # one moment with the states: a job leaves the run only after the ledger has its end.
            return page, [job for job in page if job.seq not in stages.live]

        while True:
            page, idle = await self._ledger.call(look)
            if not page:
                return
            for job in idle:
                await stages.token()
                await feed(job)
            after = page[-1].seq

    async def _admit(self, job: Record) -> None:
        self._purse.wake(job.reserved)
        self._at_work[0].admit(job)

    async def _begin_again(self, job: Record) -> None:
        stages, work = self._at_work
        if job.ended_run == self._number:
            stages.give_back()
            return
        try:
            # With its link, or perhaps none, a request that may be paid for can be asked for
            # without its image.
            _ = job.posted if job.state is JobState.UNKNOWN else job.wanted
            if job.state is JobState.FAILED:
                await work.fate.begin_again(job)
            elif job.state is JobState.NEW:
                job.image_url = job.uploaded = None
        except HappyHorseError as error:
            stages.tell(outcome_of(job, self._folder, error=error, resumed=True))
            return
        await self._admit(job)

    async def _take_in(self, rows: Sequence[Row], *, retry: bool) -> None:
        """Enter a group of rows into the ledger, and send each on its way."""
        stages = self._at_work[0]
        for _ in rows:
            await stages.token()
        found = await self._intake.look(rows)
        candidates = [row for row in found if isinstance(row, Candidate)]
        admissions = await self._ledger.call(
            lambda store: admit(store, self._number, candidates, live=stages.live, retry=retry)
        )
        for admission in admissions:
            # Before anything else: a job that is under way must know whose id it has.
            for job in filter(None, (admission.old, admission.record)):
                if job.seq in stages.live:
                    stages.live[job.seq].rename(job)
        following = iter(admissions)
        for row in found:
            if isinstance(row, BadRow):
                self._refuse(row.id, row.error, row.request, row.extra)
            else:
                await self._receive(row, next(following))

    async def _receive(self, row: Candidate, admission: Admission) -> None:
        (stages, work), job, verdict = self._at_work, admission.record, admission.verdict
        if verdict is Verdict.TWICE or job is None:
            self._refuse(
                row.id,
                InvalidRequestError([f"id: {row.id!r} came before in this input"]),
                row.request,
            )
        elif verdict is Verdict.STRANGER:
            path = self._folder / job.name
            taken = DestinationExistsError(
                f"{path} exists already, and is not this batch's", path=str(path), charged="no"
            )
            self._refuse(job.id, taken, row.request, job.columns)
        elif verdict is Verdict.TOLD:
            stages.tell(outcome_of(job, self._folder, resumed=True))
        elif verdict is Verdict.IN_HAND:
            await self._hand_over(row.request, job)
        else:
            if job.state is JobState.FAILED:
                await work.fate.begin_again(job)
            elif job.state is JobState.NEW:
                # An upload of an earlier run may be gone, and nothing hangs on its link: the
                # service never accepted it.
                job.image_url = job.uploaded = None
            await self._admit(job)

    async def _hand_over(self, request: ImageToVideo, job: Record) -> None:
        """Give a job in hand the image that its row brings."""
        stages = self._at_work[0]
        if job.seq not in stages.live and job.state is JobState.NEW:
            # It has left since its row was looked at; if for want of its image, it is still new,
            # and comes in again with its row.
            [job] = map(
                Record.of_row,
                await self._ledger.call(lambda store: store.set_of("by-id", [job.id])),
            )
            if job.state is JobState.NEW:
                job.asked = request
                stages.admit(job)
                return
        if job.seq in stages.live:
            stages.live[job.seq].given(request)
        stages.give_back()

    def _refuse(
        self,
        job_id: str,
        error: HappyHorseError,
        request: ImageToVideo | None,
        extra: dict[str, object] | None = None,
    ) -> None:
        outcome = Outcome(
            id=job_id,
            state=JobState.FAILED,
            error=error,
            request=request,
            extra=extra or {},
            attempts=0,
        )
        self._at_work[0].tell(outcome)

    @property
    def _at_work(self) -> tuple[Stages, Work]:
        assert self._stages is not None, "feeding begins after the stages stand"  # noqa: S101
        assert self._work is not None, "feeding begins after the stages stand"  # noqa: S101
        return self._stages, self._work


def _gather(first: Row, more: MemoryObjectReceiveStream[Row]) -> list[Row]:
    """Take along what has come already: a slow input is not waited for."""
    rows = [first]
    while len(rows) < GROUP:
        try:
            rows.append(more.receive_nowait())
        except (anyio.WouldBlock, anyio.EndOfStream):
            break
    return rows


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
