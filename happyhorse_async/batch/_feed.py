"""What a run is fed with: jobs at stake from earlier runs, its input's rows, failed jobs, missing
saved ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial

import attrs

from .._budget import BatchBook
from .._concurrency import IN_INPUT, hand_over, is_own_cancellation
from .._request import ImageToVideo, cut_off
from .._rules.lifecycle import AT_STAKE, JobState
from ..errors import HappyHorseError
from ._admission import (
    GROUP,
    Admission,
    BadRow,
    Candidate,
    Entrance,
    Input,
    Intake,
    Verdict,
    rows_of,
)
from ._database import Database
from ._follow import BatchOptions
from ._jobs import Job, JobRow
from ._ledger import Ledger
from ._outcome import Outcome, UnsavedOutcome, outcome_of
from ._videos import VideoFolder

logger = logging.getLogger("happyhorse_async")

Row = ImageToVideo | Job
Rows = asyncio.Queue[tuple[Row] | None]
"""Rows as they are read; None is the end. Each row stands in a tuple, since an input may have
None among its rows."""


@attrs.define(kw_only=True, eq=False)
class InHand:
    """What a run has in hand, and what it works with."""

    ledger: Ledger
    videos: VideoFolder
    book: BatchBook
    options: BatchOptions
    number: int = 0
    """The run's, in the ledger."""
    live: dict[int, JobRow] = attrs.field(factory=dict)
    """The jobs that this run has in hand, by their number in the ledger; no more than there are
    tokens."""
    tokens: asyncio.Semaphore
    """A job's token is given back when its outcome has been taken."""
    told: asyncio.Queue[Outcome | None] = attrs.field(factory=asyncio.Queue)
    """Outcomes that nobody has taken yet; None is the end."""
    start: Callable[[JobRow], None]
    """Take a job in, wherever it stands; the caller holds a token."""


class Feed:
    """Feeds one run, as fast as there are tokens."""

    def __init__(self, run: InHand) -> None:
        self._run = run
        self._intake = Intake(run.ledger)

    async def input(self, requests: Input, *, retry: bool = False) -> None:
        """Feed the rows of an input; with `retry` those that failed begin again."""
        read: Rows = asyncio.Queue(GROUP)
        async with asyncio.TaskGroup() as group:
            group.create_task(_read(requests, read))
            while rows := await _gathered(read):
                await self._take_in(rows, retry=retry)

    async def resume(self) -> None:
        """Take up what is paid for, or may be. No stop cuts this short, or else links would die
        unwatched until the next run.
        """
        for state in AT_STAKE:
            await self._feed_pages("at-stake", state, self._admit)

    async def failed(self) -> None:
        """Feed what has failed or is in doubt."""
        for state in (JobState.UNKNOWN, JobState.FAILED):
            await self._feed_pages("in-trouble", state, self._begin_again)
        await self._feed_pages("begun-again", JobState.NEW, self._begin_again)

    async def the_rest(self) -> None:
        """Take up saved jobs that are not in the input, and whose videos are not here any more."""
        after: int | None = 0
        gone, verify = 0, self._run.options.verify

        def look(database: Database) -> tuple[int | None, list[JobRow]]:
            following, ids = database.missing(after or 0, run=self._run.number, every=verify)
            return following, database.jobs(ids)

        while after is not None:
            after, jobs = await self._run.ledger.call(look)
            for job in jobs:
                looking = partial(self._run.videos.is_here, job, digest=True)
                if verify and await hand_over(None, looking):
                    continue
                if job.is_over(time.time()):
                    gone += 1  # nothing can be done: not told at every run
                    continue
                await self._run.tokens.acquire()
                self._run.start(job)
        if gone:
            logger.warning(
                "%d saved videos are not in %s any more, and their links are dead",
                gone,
                self._run.videos,
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
            return page, [job for job in page if job.seq not in self._run.live]

        while True:
            page, idle = await self._run.ledger.call(look)
            if not page:
                return
            for job in idle:
                await self._run.tokens.acquire()
                await feed(job)
            after = page[-1].seq

    async def _admit(self, job: JobRow) -> None:
        self._run.book.claim(job.seq, job.reserved)
        self._run.start(job)

    async def _begin_again(self, job: JobRow) -> None:
        if job.ended_run == self._run.number:
            self._run.tokens.release()
            return
        try:
            # With its link, or perhaps none, a request that may be paid for can be asked for
            # without its image.
            _ = job.posted if job.state is JobState.UNKNOWN else job.wanted
            if job.state is JobState.NEW:
                job.forget_upload()
        except HappyHorseError as error:
            self._run.told.put_nowait(outcome_of(job, self._run.videos, error=error, resumed=True))
            return
        await self._admit(job)

    async def _take_in(self, rows: Sequence[Row], *, retry: bool) -> None:
        """Enter a group of rows into the ledger, and send each on its way."""
        for _ in rows:
            await self._run.tokens.acquire()
        found = await self._intake.look(rows)
        candidates = [row for row in found if isinstance(row, Candidate)]
        admissions = await self._run.ledger.call(
            lambda database: Entrance(
                database,
                self._run.number,
                live=self._run.live,
                retry=retry,
                verify=self._run.options.verify,
            ).admit(candidates)
        )
        for admission in admissions:
            # Before anything else: a job that is under way must know whose id it has.
            for job in filter(None, (admission.old, admission.job)):
                if job.seq in self._run.live:
                    self._run.live[job.seq].rename(job)
        following = iter(admissions)
        for row in found:
            if isinstance(row, BadRow):
                self._refuse(row.id, row.error, row.request, row.extra)
            else:
                await self._receive(row, next(following))

    async def _receive(self, row: Candidate, admission: Admission) -> None:
        job, verdict = admission.job, admission.verdict
        if admission.error is not None:
            columns = job.columns if job is not None else None
            self._refuse((job or row).id, admission.error, row.request, columns)
            return
        assert job is not None, "a row that is not refused has its job"  # noqa: S101
        if verdict is Verdict.TOLD:
            self._run.told.put_nowait(outcome_of(job, self._run.videos, resumed=True))
        elif verdict is Verdict.IN_HAND:
            await self._hand_over(row.request, job)
        else:
            if job.state is JobState.NEW:
                job.forget_upload()
            await self._admit(job)

    async def _hand_over(self, request: ImageToVideo, job: JobRow) -> None:
        """Give a job in hand the image that its row brings."""
        if job.seq not in self._run.live and job.state is JobState.NEW:
            # It has left since its row was looked at. If for want of its image, it is still new,
            # and comes in again with its row.
            [job] = await self._run.ledger.call(lambda database: database.jobs([job.id]))
            if job.state is JobState.NEW:
                job.asked = request
                self._run.start(job)
                return
        if job.seq in self._run.live:
            self._run.live[job.seq].given(request)
        self._run.tokens.release()

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
        self._run.told.put_nowait(outcome)


async def _read(requests: Input, read: Rows) -> None:
    IN_INPUT.set(True)
    try:
        async with aclosing(rows_of(requests)) as rows:
            async for row in rows:
                await read.put((row,))
    except asyncio.CancelledError as error:
        if is_own_cancellation(error):
            raise cut_off(error) from error
        raise
    await read.put(None)


async def _gathered(read: Rows) -> list[Row]:
    """Take the next row, and along with it what has come already: a slow input is not waited for.

    Nothing after the last row.
    """
    rows: list[Row] = []
    while len(rows) < GROUP and (not rows or not read.empty()):
        item = await read.get()
        if item is None:
            if rows:
                read.put_nowait(None)
            break
        rows.append(item[0])
    return rows
