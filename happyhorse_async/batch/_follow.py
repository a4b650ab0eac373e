"""The jobs of one run beside each other: each is brought from where it stands to its end.

`Follower.follow` is the life of a job, straight down, in one asyncio task: upload, reserve, submit,
watch, save. Each step returns at once when an earlier try or run has done it. What follows from a
failure stands in the table of `_rules.job_failures`.

Plain asyncio, without anyio: a task and two semaphores of anyio's cost a job 36 us more, a tenth.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .._budget import BatchBook
from .._concurrency import hand_over
from .._config import Budget, RetryPolicy
from .._request import ImageToVideo
from .._rules import job_failures, lifecycle, retry
from .._rules.job_failures import Facts, Next
from .._rules.lifecycle import JobState
from .._rules.numbers import to_millionths
from .._submitter import Earlier, Group
from ..errors import (
    APIStatusError,
    ConfigurationError,
    HappyHorseError,
    LinkExpiredError,
    PriceUnavailableError,
    SubmissionOutcomeUnknownError,
)
from ._daily_limit import DailyLimit
from ._database import Doubts
from ._jobs import JobRow
from ._late_charges import LateCharges
from ._ledger import Ledger
from ._outcome import Outcome, outcome_of
from ._steps import LeftError, Steps, is_stale
from ._videos import VideoFolder

if TYPE_CHECKING:
    from .._models import Task
    from .._parts import Parts

MOST_AHEAD = 32
"""Uploads that are made before their submissions: they take room in the account's quota of files,
and grow old."""
MOST_LOOKS = 16
"""Failed tasks that the service is asked about at once before they are bought again."""
PAUSES = RetryPolicy(attempts=4, first_pause=20.0, longest_pause=600.0)
"""Jobs are tried again more slowly than calls are: each call has had its own tries before."""

NOWHERE: nullcontext[None] = nullcontext()


def retry_policy(owner: object, field: attrs.Attribute[RetryPolicy], value: object) -> None:
    """Raise `ConfigurationError` for what is no policy, when a value is made."""
    if not isinstance(value, RetryPolicy):
        raise ConfigurationError(
            f"retry: expected a RetryPolicy, for example RetryPolicy(attempts=2), got {value!r}"
        )


@attrs.frozen(kw_only=True)
class BatchOptions:
    """How a batch works."""

    max_in_flight: int = 200
    """Tasks that are being made at once, and so the most that are paid for and not here yet."""
    budget: Budget | None = None
    """The most that the folder's jobs may cost together, over all runs."""
    retry: RetryPolicy = attrs.field(default=PAUSES, validator=retry_policy)
    """`attempts`: the most tasks for one job, and the most tries of whatever else fails; and the
    pauses between them."""
    timeout: float | None = None
    """Seconds that one run waits for one task; the next run goes on waiting."""
    verify: bool = False
    """Read every saved video and compare its digest, not only its size."""
    wait_for_reset: bool = True
    """Wait when the key's daily limit is used up, until it resets; False: the run stops instead."""

    def __attrs_post_init__(self) -> None:
        whole = isinstance(self.max_in_flight, int) and not isinstance(self.max_in_flight, bool)
        if not whole or self.max_in_flight < 1:
            raise ConfigurationError(
                f"max_in_flight: expected a whole number of at least 1, got {self.max_in_flight!r}"
            )
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise ConfigurationError(
                f"budget: expected a Budget, for example Budget(credits=500), got {self.budget!r}"
            )


class Follower:
    """Brings the jobs of one run to their ends, each in a task of its own."""

    def __init__(
        self,
        parts: Parts,
        ledger: Ledger,
        videos: VideoFolder,
        book: BatchBook,
        options: BatchOptions,
        *,
        run: int,
        doubts: Doubts,
        on_stop: Callable[[], object],
    ) -> None:
        self.steps = Steps(parts, ledger, videos, run=run)
        self._parts = parts
        self._videos = videos
        self._book = book
        self._options = options
        self.doubts = doubts
        """What is known of requests that earlier runs may have sent."""
        self._replays = parts.settings.retry.replays > 0
        # One line for the whole batch, which takes turns with the session's single calls. One for
        # what may have left before.
        self._line, self._owed = Group(), Group()
        self._ahead = asyncio.Semaphore(MOST_AHEAD)
        self._in_flight = asyncio.Semaphore(options.max_in_flight)
        self._looks = asyncio.Semaphore(MOST_LOOKS)
        self._prices: dict[tuple[str, str, int], int] = {}
        self.charges = LateCharges(parts, ledger, book)
        self._daily = DailyLimit(parts.events, self.pause)
        self._accepted = 0
        """Submissions of this run that were accepted."""
        self._on_stop = on_stop
        self._stopping = asyncio.Event()
        self.reason: HappyHorseError | None = None
        """Why the run stopped before its input ended, when it was not the user's wish."""

    @property
    def stopping(self) -> bool:
        """Whether nothing new is sent any more."""
        return self._stopping.is_set()

    def stop(self, reason: HappyHorseError | None = None) -> None:
        """Send nothing new from now on, and finish what is paid for.

        Also what waits at the session's gate does not leave any more; its key can be used again.
        """
        if not self.stopping:
            self.reason = reason
            self._stopping.set()
            self._book.close()
            self._line.close()
            self._on_stop()

    async def follow(self, job: JobRow) -> Outcome | None:
        """Bring a job from where it stands to its end, and return its outcome.

        None: it stays as the ledger has it, for the next run.
        """
        if job.state in (JobState.SAVED, JobState.FAILED) or job.begins_again:
            saved = job.state is JobState.SAVED
            return await (self._bring_back(job) if saved else self._begin_again(job))
        job.earlier = self._earlier(job)
        tries, accepted = 0, 0
        while True:
            try:
                if job.state is not JobState.COMPLETED or job.task is None:
                    await self._make(job)
                # Here nothing is held: downloads wait in the downloader's own queue, where those
                # whose links die first go first.
                estimate = job.reserved
                self.charges.settle(job, estimate, await self.steps.save(job))
                return outcome_of(job, self._videos)
            except LeftError:
                await self._hold(job)
                return None
            except HappyHorseError as error:
                if not tries:
                    accepted = self._accepted
                tries += job_failures.counts(error)
                facts = self._facts(job, tries, others_go_on=self._accepted > accepted)
                following = await self._fail(job, error, facts, tries)
                if following is Next.HELD:
                    await self._hold(job)
                    return None
                if following is not Next.AGAIN:
                    self._book.park(job.seq)
                    return outcome_of(job, self._videos, error=error)
                # What may have left in this run is not sent blindly again either.
                job.earlier = job.earlier or self._earlier(job)

    async def _make(self, job: JobRow) -> None:
        """Have the service make a job's video."""
        await self._take_place(job)
        try:
            await self._submit(job)
            await self.steps.watch(job, timeout=self._options.timeout)
            # While the place is held: what takes it next must know what videos cost by now.
            await self.charges.learn(job)
        finally:
            self._in_flight.release()

    async def _take_place(self, job: JobRow) -> None:
        """Prepare a job, and take one of the places of jobs that are under way."""
        while True:
            if job.state is JobState.NEW:
                await self._daily.passed()
            async with self._ahead if job.awaits_upload else NOWHERE:
                await self._upload(job)
                await self._reserve(job)
                await self._in_flight.acquire()
            if job.state is not JobState.NEW or self._book.fits():
                return
            # Prices have risen since its money was set aside: that may be too little now.
            self._in_flight.release()
            self._book.free(job.seq)
            job.reserved = 0

    async def _upload(self, job: JobRow) -> None:
        if self.stopping and job.awaits_upload:
            raise LeftError
        await self.steps.upload(job)

    async def _reserve(self, job: JobRow) -> None:
        """Set a job's price aside, which may have to wait for others to end.

        No place is held meanwhile: jobs that are paid for, and would give money back, need those.
        """
        if job.state is not JobState.NEW or job.reserved:
            return
        price = await self._price_of(job.posted)
        if self.stopping or not await self._book.reserve(job.seq, price):
            raise LeftError
        job.reserved = price

    async def _price_of(self, request: ImageToVideo) -> int:
        kind = request.model, request.quality, request.duration
        if kind not in self._prices:
            self._prices[kind] = await self._price(request)
        return self._prices[kind]

    async def _price(self, request: ImageToVideo) -> int:
        try:
            return to_millionths(await self._parts.pricing.credits_for(request))
        except PriceUnavailableError:
            if self._book.limited:
                raise
            return 0  # nothing hangs on it: there is no budget that it could exceed

    async def _submit(self, job: JobRow) -> None:
        # A job that another request has replaced meanwhile is finished when it is paid for, and
        # else not begun.
        if job.state is JobState.NEW and (job.superseded or self.stopping):
            raise LeftError
        if job.task_id is None:
            await self.steps.submit(job, replays=self._replays, line=self._line, owed=self._owed)
            self._accepted += 1
            self._daily.accepted()

    async def _bring_back(self, job: JobRow) -> Outcome | None:
        """Tell a job that an earlier run saved. When its video is gone, fetch it again while its
        link can live; else say so.

        The ledger keeps such a job as saved. It was paid for and delivered, so `retry` must never
        buy it again.
        """
        looking = partial(self._videos.is_here, job, digest=self._options.verify)
        if await hand_over(None, looking):
            return outcome_of(job, self._videos, resumed=True)
        over = job.is_over(time.time())
        try:
            if over:
                raise lost(self._videos.place(job.name), job)
            await self.steps.fetch_again(job)
            return outcome_of(job, self._videos)
        except HappyHorseError as error:
            facts = Facts(JobState.COMPLETED, tries_left=False, over=over)
            if job_failures.next_step(facts, error).stops:
                self.stop(error)
                return None
            state = JobState.FAILED if over else JobState.COMPLETED
            return outcome_of(job, self._videos, error=error, state=state, resumed=True)

    def _earlier(self, job: JobRow) -> Earlier | None:
        """Say what is known of a key that an earlier run may have sent. Before it is sent again the
        list of tasks is looked at: a service without keys would be paid twice.
        """
        if job.state not in (JobState.SUBMITTING, JobState.UNKNOWN):
            return None
        since = job.accepted if job.accepted is not None else self.doubts.since
        return Earlier(
            since=since,
            claimed=self.doubts.claimed.__contains__,
            by_user=job.state is JobState.UNKNOWN,
            known=self.doubts.known,
        )

    # --- when it fails ----------------------------------------------------------------------------

    async def _fail(self, job: JobRow, error: HappyHorseError, facts: Facts, tries: int) -> Next:
        """Do what follows from a failure. Return AGAIN when the job goes on, HELD when it is left
        untold, and anything else when it is told.
        """
        following, stops = job_failures.next_step(facts, error)
        unsent = job.state is JobState.SUBMITTING and following in (
            Next.AGAIN,
            Next.RESET,
            Next.LEFT,
            Next.HELD,
        )
        if unsent and not (job.sent_before or job_failures.may_be_paid(error)):
            await self.steps.release(job)
            self._book.free(job.seq)
        if stops:
            self.stop(job_failures.last_failure(error))
        if following in (Next.AGAIN, Next.RESET):
            await self._wait(error, tries, reset=following is Next.RESET)
            return Next.AGAIN
        if following is Next.ANEW:
            return await self._begin_anew(job, error)
        if following is Next.UNKNOWN:
            if error.charged == "no":  # which is true of the last try alone
                error.charged = "unknown"
                error.next_step = SubmissionOutcomeUnknownError.default_next_step
            await self.steps.end(job, JobState.UNKNOWN, error, reserved=job.reserved)
        elif following is Next.FAILED:
            cost = job.cost if job.task_id is not None else 0
            await self.steps.end(job, JobState.FAILED, error, cost=cost)
            self._book.settle(job.seq, cost)
        elif following is Next.LEFT:
            await self._leave(job, error)
        return following

    async def _leave(self, job: JobRow, error: HappyHorseError) -> None:
        """Tell a job as it stands."""
        if job.state is JobState.COMPLETED:
            await self.steps.end(job, JobState.COMPLETED, error, reserved=job.reserved)
        elif job.state is JobState.NEW:
            await self._hold(job)

    async def _wait(self, error: HappyHorseError, tries: int, *, reset: bool) -> None:
        if reset:
            self._daily.met(job_failures.last_failure(error))
            await self._daily.passed()
        else:
            await self.pause(retry.pause_before(self._options.retry, tries, error, random.random()))

    def _facts(self, job: JobRow, tries: int, *, others_go_on: bool) -> Facts:
        attempts = self._options.retry.attempts
        # A process may have ended after the user's word, which is not written down. But only that
        # leads beyond the limit. So every full set of attempts that lies behind has been followed
        # by one.
        before = job.before or (job.attempt - 1) // attempts * attempts
        return Facts(
            state=job.state,
            sent_before=job.sent_before,
            tries_left=tries < attempts,
            attempts_left=not job.superseded and job.attempt - before < attempts,
            replays=self._replays,
            stopping=self.stopping,
            waits=self._options.wait_for_reset,
            others_go_on=others_go_on,
            over=job.is_over(time.time()),
            stale_upload=is_stale(job),
        )

    async def _begin_anew(self, job: JobRow, error: HappyHorseError) -> Next:
        """Take a job whose task has failed to its next attempt, which is another task.

        Before that comes its pause, and then the service is asked once more. What has failed for a
        moment only is not bought again. Until then the job stays as it is.
        """
        if self._parts.poller.doubt(job.task_id or ""):
            policy = self._options.retry
            await self.pause(retry.pause_before(policy, job.attempt, error, random.random()))
            job.task = None
        else:
            cost = job.cost
            self.steps.move(job, JobState.FAILED, job_failures.code_of(error))
            self._book.settle(job.seq, cost)
            await self.steps.renew(job, cost=cost)
        return Next.HELD if self.stopping else Next.AGAIN

    async def pause(self, seconds: float) -> bool:
        """Wait, but only until the run stops; return whether it goes on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return not self.stopping

    async def _hold(self, job: JobRow) -> None:
        """Leave a job untold as the ledger has it, for the next run."""
        if job.state is JobState.NEW:
            await self.steps.discard_upload(job)
            self._book.free(job.seq)
        self._book.park(job.seq)

    async def _begin_again(self, job: JobRow) -> Outcome | None:
        """Take a failed job to its next attempt at the user's word, and follow that.

        The service is asked once more before. A task that only seemed to have failed is waited for,
        and not bought again. Where nobody can say now, the job stays as it is.
        """
        try:
            async with self._looks:
                if self.stopping:
                    return None
                task = await self._gone_on(job)
        except HappyHorseError as error:
            facts = Facts(JobState.COMPLETED, tries_left=False)
            if job_failures.next_step(facts, error).stops:
                self.stop(error)
                return None
            return outcome_of(job, self._videos, error=error, resumed=True)
        job.before = job.attempt
        job.state = JobState.FAILED  # which it has not been in a cluster since the user's word
        if task is None:
            await self.steps.renew(job)
        else:
            with suppress(PriceUnavailableError):
                job.reserved = await self._price_of(job.posted)
            self._book.take_back(job.seq, job.failure_cost, estimate=job.reserved)
            await self.steps.take_up(job, task)
        return await self.follow(job)

    async def _gone_on(self, job: JobRow) -> Task | None:
        """Return the task of a failed job when it goes on, or has its video; None when it has
        failed indeed. Raises `HappyHorseError` when nobody can say now.
        """
        if job.task_id is None or not job.has_failed_task:
            return None
        try:
            task = await self._parts.poller.read(job.task_id)
        except APIStatusError as error:
            if retry.worth_retrying(error):
                raise
            return None
        has_failed = lifecycle.is_final(task) and not lifecycle.is_completed(task)
        return None if has_failed else task


def lost(place: str | Path, job: JobRow) -> LinkExpiredError:
    """Make the error for a video that was saved, is not here any more, and has no link either."""
    return LinkExpiredError(
        f"{place}: the saved video of task {job.task_id} is not here any more, or not as it was; "
        "its link is dead by now",
        path=str(place),
        task_id=job.task_id,
        next_step="Put the file back. To have the video made again, which costs money, give its "
        "row another id.",
    )
