"""One job from where it stands to its end: upload, reserve, submit, watch, save.

`Follower.follow` is the life of a job, straight down, in one asyncio task. Each step returns at
once when an earlier try or run has done it. The order of the ledger's notes is the promise: key and
reservation before the POST, the task id right after the answer, the digest after the rename. What
follows from a failure stands in the table of `_rules.job_failures`.

Plain asyncio, without anyio: a task and two semaphores of anyio's cost a job 36 us more, a tenth.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .._budget import BatchBook
from .._config import Budget, RetryPolicy
from .._models import Task, TaskStatus
from .._request import ImageToVideo
from .._rules import job_failures, lifecycle, retry, wire
from .._rules.job_failures import Facts, Next
from .._rules.lifecycle import JOB_TRANSITIONS, JobState
from .._rules.prices import to_credits, to_millionths
from .._submitter import Earlier, Group
from .._video import Video
from ..errors import (
    ConfigurationError,
    DestinationExistsError,
    HappyHorseError,
    LinkExpiredError,
    PriceUnavailableError,
    SubmissionOutcomeUnknownError,
    TaskFailedError,
    TaskNotFoundError,
)
from ._database import Doubts
from ._jobs import JobChanged, JobRow, Outcome, key_of, outcome_of
from ._ledger import Ledger
from ._videos import is_here, put_aside, put_back, verified

if TYPE_CHECKING:
    from .._parts import Parts

MOST_AHEAD = 32
"""Uploads that are made before their submissions: they take room in the account's quota of files,
and grow old."""
SAFETY_MARGIN = timedelta(hours=6)
"""How long before its end an upload counts as gone: the service fetches it when the task starts. As
in the uploader."""
LONGEST_GOODBYE = 5.0
"""Seconds that taking an upload away may hold up its job's outcome."""
PAUSES = RetryPolicy(attempts=4, first_pause=20.0, longest_pause=600.0)
"""Jobs are tried again more slowly than calls are: each call has had its own tries before."""

NOWHERE: nullcontext[None] = nullcontext()


@attrs.frozen(kw_only=True)
class BatchOptions:
    """How a batch works."""

    max_in_flight: int = 200
    """Tasks that are being made at once, and so the most that are paid for and not here yet."""
    budget: Budget | None = None
    """The most that the folder's jobs may cost together, over all runs."""
    retry: RetryPolicy = PAUSES
    """`attempts`: the most tasks for one job, and the most tries of whatever else fails; and the
    pauses between them."""
    timeout: float | None = None
    """Seconds that one run waits for one task; the next run goes on waiting."""
    verify: bool = False
    """Read every saved video and compare its digest, not only its size."""

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.max_in_flight, int) or self.max_in_flight < 1:
            raise ConfigurationError(
                f"max_in_flight: expected a whole number of at least 1, got {self.max_in_flight!r}"
            )
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise ConfigurationError(
                f"budget: expected a Budget, for example Budget(credits=500), got {self.budget!r}"
            )


class LeftError(Exception):
    """A job is left as the ledger has it, for the next run: the batch is stopping, or its image is
    not here.
    """


# --- The steps: what is done with one job, and what the ledger is told of it, in which order. They
# know nothing of other jobs, so that another engine can drive them over another ledger. It needs a
# ledger with `batch_id`, `post` and `write`.


class Steps:
    """The steps of a job, over the parts of a session, a ledger and a folder."""

    def __init__(self, parts: Parts, ledger: Ledger, folder: Path, *, run: int) -> None:
        self._parts = parts
        self._ledger = ledger
        self._folder = folder
        self._run = run

    async def upload(self, job: JobRow) -> None:
        """Put a local first frame on the service's file host."""
        if not job.awaits_upload:
            return
        if not job.image_at_hand:
            raise LeftError  # it stays new, for the run whose input brings its bytes
        image = job.wanted.image
        if not isinstance(image, str):
            job.image_url = await self._parts.uploader.borrow(image, self._borrower(job))
            job.uploaded = time.time()

    async def submit(self, job: JobRow, *, replays: bool, line: Group, owed: Group) -> None:
        """Commit a job's key, then send its request; at last note its task.

        New requests wait in one `line`, and what may have left before in another, which no stop
        turns away.
        """
        job.sent_before = job.state in (JobState.SUBMITTING, JobState.UNKNOWN)
        if job.state is JobState.SUBMITTING and not replays:
            raise SubmissionOutcomeUnknownError(
                "an earlier run may have sent this request, and it must not be sent again "
                "(replays=0)",
                idempotency_key=job.key,
                next_step="Look for it on the service's dashboard; `retry` asks for it again, with "
                "the same key.",
            )
        if job.state is not JobState.SUBMITTING:
            await self._commit_key(job)
        accepted = await self._parts.submitter.submit(
            job.posted,
            idempotency_key=job.key,
            group=owed if job.sent_before else line,
            image_url=job.image_url,
            callback_url=job.callback_url,
            resent=job.earlier or False,
        )
        job.task, job.task_id, job.accepted = accepted.task, accepted.task.id, time.time()
        self.move(job, JobState.RUNNING)
        # Not waited for: should a crash come before it is on the disk, the key brings the same task
        # back.
        self._ledger.post("running", job)

    async def _commit_key(self, job: JobRow) -> None:
        job.key = job.key or key_of(self._ledger.batch_id, job.id, job.fingerprint, job.attempt)
        if job.state is JobState.NEW:
            job.accepted = time.time()
            job.callback_url = job.posted.callback_url or self._parts.submitter.callback_url or ""
        self.move(job, JobState.SUBMITTING)
        # An upload's link is part of the body that the key stands for, and cannot be had again: it
        # must not hang on the log alone.
        await self._ledger.write("submitting", job, fold=job.uploaded is not None)

    async def watch(self, job: JobRow, *, timeout: float | None) -> None:
        """Wait until a job's task has its video; raises `TaskFailedError` when it ended without."""
        task = await self._task_of_video_here(job) or await self._waited(job, timeout)
        job.task = task
        if not lifecycle.is_completed(task):
            raise lifecycle.failure_of(task, job.key)
        if job.state is JobState.RUNNING:
            self.move(job, JobState.COMPLETED)
            job.completed, job.seconds = time.time(), task.seconds
            job.expires = task.expires_at.timestamp() if task.expires_at else None
            self._ledger.post("completed", job)

    async def _task_of_video_here(self, job: JobRow) -> Task | None:
        """Return the task of a video that an earlier run put in place right before it was killed.

        The service may not know it any more. Whether the video is whole is seen when it is saved.
        """
        if job.task is not None or not (self._folder / job.name).exists():
            return None
        task_id = job.task_id or ""
        try:
            task = await self._parts.poller.read(task_id)
        except TaskNotFoundError:
            return Task(id=task_id, status=TaskStatus.COMPLETED)
        return task if lifecycle.is_completed(task) else None

    async def _waited(self, job: JobRow, timeout: float | None) -> Task:
        poller, known, task_id = self._parts.poller, job.task, job.task_id or ""
        if known is not None and lifecycle.is_final(known):
            # The answer to a replayed submission may show the end of the task, but not its links
            # and its charge.
            return await poller.read(task_id)
        with self._parts.events.work("wait", task_id=task_id) as facts:
            facts["task"] = task = await poller.wait(
                task_id, timeout=timeout, known=known, seen=True
            )
            return task

    async def save(self, job: JobRow) -> int:
        """Fetch a job's video, or find it where it was put before a crash; return what its task has
        cost.
        """
        video, cost = await self._video(job), self.cost(job)
        self.move(job, JobState.SAVED)
        job.spent, job.reserved, job.error = job.spent + cost, 0, None
        self._describe(job, video)
        await self._ledger.write("saved", job)
        await self.discard_upload(job)
        return cost

    async def _video(self, job: JobRow) -> Video:
        path, task = self._folder / job.name, job.task
        assert task is not None, "a job is saved after it was watched"  # noqa: S101
        try:
            return await self._parts.downloader.download(task, path, request=job.asked, exact=True)
        except (DestinationExistsError, TaskNotFoundError):
            # Whatever was there before the ledger is known as a stranger: this is ours, renamed
            # before the ledger could note it.
            video = await asyncio.to_thread(verified, path, task, job.asked)
            if video is None:
                raise
            return video

    async def fetch_again(self, job: JobRow) -> None:
        """Fetch the video of a saved job that is not here any more, which costs nothing.

        What lies in its place is put aside first, and put back when the video cannot be had.
        """
        path, task_id = self._folder / job.name, job.task_id or ""
        job.task = await self._parts.poller.read(task_id)
        aside = await asyncio.to_thread(put_aside, path)
        try:
            video = await self._parts.downloader.download(
                job.task, path, request=job.asked, exact=True
            )
        except BaseException:
            if aside is not None:
                put_back(aside, path)
            raise
        self._describe(job, video)
        await self._ledger.write("saved", job)

    def _describe(self, job: JobRow, video: Video) -> None:
        job.size, job.sha256, job.length = video.size, video.sha256, video.duration
        job.width, job.height = video.width, video.height
        job.seconds = (job.task.seconds if job.task is not None else None) or job.seconds
        job.ended, job.ended_run = time.time(), self._run

    async def end(
        self,
        job: JobRow,
        state: JobState,
        error: HappyHorseError,
        *,
        cost: int = 0,
        reserved: int = 0,
    ) -> None:
        """End a job without a video, for now or for good."""
        if state is not job.state:
            self.move(job, state, job_failures.code_of(error))
        job.spent, job.reserved, job.error = job.spent + cost, reserved, fault_of(error)
        if state in (JobState.FAILED, JobState.UNKNOWN):
            job.ended, job.ended_run = time.time(), self._run
        await self._ledger.write("ended", job)
        if state is JobState.FAILED:
            await self.discard_upload(job)

    async def release(self, job: JobRow) -> None:
        """Take a job that was certainly not accepted back to new; its key and its upload can be
        used again.
        """
        self.move(job, JobState.NEW)
        job.reserved, job.error = 0, None
        await self._ledger.write("ended", job)

    async def renew(self, job: JobRow, *, cost: int = 0) -> None:
        """Take a failed job to its next attempt, which is another task, with another key."""
        self.move(job, JobState.NEW)
        await self.discard_upload(job)
        job.attempt, job.spent, job.reserved = job.attempt + 1, job.spent + cost, 0
        job.key = job.image_url = job.callback_url = job.task_id = job.task = job.error = None
        job.uploaded = job.accepted = job.completed = job.expires = job.ended = job.seconds = None
        job.ended_run, job.earlier = 0, None
        await self._ledger.write("again", job)

    def move(self, job: JobRow, state: JobState, code: str | None = None) -> None:
        """Take a job to another state, which is an event; the caller tells the ledger."""
        if state not in JOB_TRANSITIONS[job.state]:
            raise RuntimeError(f"a job cannot go from {job.state} to {state}")
        was, job.state = job.state, state
        if self._parts.events:
            self._parts.events.emit(
                JobChanged(id=job.id, was=was, state=state, task_id=job.task_id, code=code)
            )

    def cost(self, job: JobRow) -> int:
        """Return what the present task has cost, in millionths, as far as the service says."""
        if job.task is None:
            return job.reserved
        return to_millionths(lifecycle.cost_of(job.task, to_credits(job.reserved)))

    def _borrower(self, job: JobRow) -> tuple[str, int]:
        return self._ledger.batch_id, job.seq

    async def discard_upload(self, job: JobRow) -> None:
        """Take an upload away when nobody needs it any more: an account has room for two thousand
        files, and a night for more jobs.
        """
        if job.image_url and job.uploaded is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_GOODBYE):
                    await self._parts.uploader.give_back(job.image_url, self._borrower(job))


# --- The driver: the jobs of one run beside each other.


class Follower:
    """Brings the jobs of one run to their ends, each in a task of its own."""

    def __init__(
        self,
        parts: Parts,
        ledger: Ledger,
        folder: Path,
        book: BatchBook,
        options: BatchOptions,
        *,
        run: int,
        doubts: Doubts,
        on_stop: Callable[[], object],
    ) -> None:
        self.steps = Steps(parts, ledger, folder, run=run)
        self._parts = parts
        self._folder = folder
        self._book = book
        self._options = options
        self._doubts = doubts
        self._replays = parts.settings.retry.replays > 0
        # One line for the whole batch, which takes turns with the single calls of the session, and
        # one for what may have left before.
        self._line, self._owed = Group(), Group()
        self._ahead = asyncio.Semaphore(MOST_AHEAD)
        self._in_flight = asyncio.Semaphore(options.max_in_flight)
        self._prices: dict[tuple[str, str, int], int] = {}
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
        if job.state is JobState.SAVED:
            return await self._bring_back(job)
        job.earlier = self._earlier(job)
        tries, accepted = 0, 0
        while True:
            try:
                if job.state is not JobState.COMPLETED or job.task is None:
                    async with self._ahead if job.awaits_upload else NOWHERE:
                        await self._upload(job)
                        await self._reserve(job)
                        await self._in_flight.acquire()
                    try:
                        await self._submit(job)
                        await self.steps.watch(job, timeout=self._options.timeout)
                    finally:
                        self._in_flight.release()
                # Here nothing is held: downloads wait in the downloader's own queue, where those
                # whose links die first go first.
                self._book.settle(job.seq, await self.steps.save(job))
                return outcome_of(job, self._folder)
            except LeftError:
                await self._hold(job)
                return None
            except HappyHorseError as error:
                if not tries:
                    accepted = self._accepted
                tries += not isinstance(error, TaskFailedError)
                facts = self._facts(job, tries, others_go_on=self._accepted > accepted)
                following = await self._fail(job, error, facts, tries)
                if following is Next.HELD:
                    await self._hold(job)
                    return None
                if following is not Next.AGAIN:
                    self._book.park(job.seq)
                    return outcome_of(job, self._folder, error=error)

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
        request = job.posted
        kind = request.model, request.quality, request.duration
        if kind not in self._prices:
            self._prices[kind] = await self._price(request)
        if self.stopping or not await self._book.reserve(job.seq, self._prices[kind]):
            raise LeftError
        job.reserved = self._prices[kind]

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

    async def _bring_back(self, job: JobRow) -> Outcome | None:
        """Tell a job that an earlier run saved; when its video is not here any more, fetch it again
        as long as its link can live, and else say so.

        The ledger keeps such a job as saved: it was paid for and delivered, so `retry` must never
        buy it again.
        """
        path = self._folder / job.name
        if await asyncio.to_thread(is_here, path, job, digest=self._options.verify):
            return outcome_of(job, self._folder, resumed=True)
        over = job.is_over(time.time())
        try:
            if over:
                raise lost(path, job)
            await self.steps.fetch_again(job)
            return outcome_of(job, self._folder)
        except HappyHorseError as error:
            facts = Facts(JobState.COMPLETED, tries_left=False, over=over)
            if job_failures.next_step(facts, error).stops:
                self.stop(error)
                return None
            state = JobState.FAILED if over else JobState.COMPLETED
            return outcome_of(job, self._folder, error=error, state=state, resumed=True)

    def _earlier(self, job: JobRow) -> Earlier | None:
        """Say what is known of a key that an earlier run may have sent. Before it is sent again the
        list of tasks is looked at: a service without keys would be paid twice.
        """
        if job.state not in (JobState.SUBMITTING, JobState.UNKNOWN):
            return None
        since = job.accepted if job.accepted is not None else self._doubts.since
        return Earlier(
            since=since,
            claimed=self._doubts.claimed.__contains__,
            by_user=job.state is JobState.UNKNOWN,
        )

    # --- when it fails ----------------------------------------------------------------------------

    async def _fail(self, job: JobRow, error: HappyHorseError, facts: Facts, tries: int) -> Next:
        """Do what follows from a failure; return AGAIN when the job goes on, HELD when it is left
        untold, and anything else when it is told.
        """
        following, stops = job_failures.next_step(facts, error)
        unsent = job.state is JobState.SUBMITTING and following in (Next.AGAIN, Next.HELD)
        if unsent and not (job.sent_before or job_failures.may_be_paid(error)):
            await self.steps.release(job)
            self._book.free(job.seq)
        if stops:
            self.stop(job_failures.last_failure(error))
        if following is Next.AGAIN:
            await self.pause(retry.pause_before(self._options.retry, tries, error, random.random()))
        elif following is Next.ANEW:
            return await self._begin_anew(job, error)
        elif following is Next.UNKNOWN:
            if error.charged == "no":  # which is true of the last try alone
                error.charged = "unknown"
                error.next_step = SubmissionOutcomeUnknownError.default_next_step
            await self.steps.end(job, JobState.UNKNOWN, error, reserved=job.reserved)
        elif following is Next.FAILED:
            cost = self.steps.cost(job) if job.task_id is not None else 0
            await self.steps.end(job, JobState.FAILED, error, cost=cost)
            self._book.settle(job.seq, cost)
        elif following is Next.LEFT and job.state is JobState.COMPLETED:
            await self.steps.end(job, JobState.COMPLETED, error, reserved=job.reserved)
        return following

    def _facts(self, job: JobRow, tries: int, *, others_go_on: bool) -> Facts:
        attempts = self._options.retry.attempts
        # A process may have ended after the user's word, which is not written down. But only that
        # leads beyond the limit, so that every full set of attempts that lies behind has been
        # followed by one.
        before = job.before or (job.attempt - 1) // attempts * attempts
        return Facts(
            state=job.state,
            sent_before=job.sent_before,
            tries_left=tries < attempts,
            attempts_left=not job.superseded and job.attempt - before < attempts,
            replays=self._replays,
            stopping=self.stopping,
            others_go_on=others_go_on,
            over=job.is_over(time.time()),
            stale_upload=is_stale(job),
        )

    async def _begin_anew(self, job: JobRow, error: HappyHorseError) -> Next:
        """Take a job whose task has failed to its next attempt, which is another task."""
        cost, attempt = self.steps.cost(job), job.attempt
        self.steps.move(job, JobState.FAILED, job_failures.code_of(error))
        self._book.settle(job.seq, cost)
        await self.steps.renew(job, cost=cost)
        if self.stopping:
            return Next.HELD
        await self.pause(retry.pause_before(self._options.retry, attempt, error, random.random()))
        return Next.AGAIN

    async def pause(self, seconds: float) -> None:
        """Wait, but only until the run stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _hold(self, job: JobRow) -> None:
        """Leave a job untold as the ledger has it, for the next run."""
        if job.state is JobState.NEW:
            await self.steps.discard_upload(job)
            self._book.free(job.seq)
        self._book.park(job.seq)

    async def begin_again(self, job: JobRow) -> None:
        """Take a failed job to its next attempt at the user's word."""
        job.before = job.attempt
        await self.steps.renew(job)


def lost(path: Path, job: JobRow) -> LinkExpiredError:
    """Make the error for a video that was saved, is not here any more, and has no link either."""
    return LinkExpiredError(
        f"{path}: the video of task {job.task_id} was saved here and is not here any more, or not "
        "as it was; its link is dead by now",
        path=str(path),
        task_id=job.task_id,
        next_step="Put the file back. To have the video made again, which costs money, give its row "
        "another id.",
    )


def is_stale(job: JobRow) -> bool:
    """Whether a job's upload was too old when it was given to the service."""
    if job.uploaded is None:
        return False
    given = job.accepted if job.accepted is not None else time.time()
    return given - job.uploaded > (wire.FILE_LIFE - SAFETY_MARGIN).total_seconds()


def fault_of(error: HappyHorseError) -> str:
    """Write an error for the ledger."""
    facts: dict[str, Any] = {
        "code": job_failures.code_of(error),
        "message": str(error),
        "charged": error.charged,
    }
    if isinstance(error, TaskFailedError):
        reason = error.task.error if error.task is not None else None
        facts |= {
            "task": True,
            "retryable": error.retryable,
            "message": reason.message if reason is not None else str(error),
        }
    elif error.next_step:
        facts["next_step"] = error.next_step
    return json.dumps(facts, ensure_ascii=False)
