"""What the workers of each stage do with a job: upload, submit and watch, download; and what
follows when that fails.

The order of the ledger's notes is the promise: key and reservation before the POST, the task id
right after the answer, the digest after the rename. What a failure means is decided in
`rules.job_failures`.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from .._budget import Purse
from .._config import RetryPolicy
from .._edges.part_files import BLOCK, Tally
from .._formats.mp4 import BrokenVideoError
from .._models import Task, TaskStatus
from .._request import ImageToVideo
from .._rules import job_failures, lifecycle, retry, wire
from .._rules.job_failures import Next
from .._rules.lifecycle import JOB_TRANSITIONS, JobState
from .._rules.prices import to_credits, to_millionths
from .._submitter import Group
from .._video import Video
from ..errors import (
    DestinationExistsError,
    HappyHorseError,
    NotAVideoError,
    PriceUnavailableError,
    SubmissionOutcomeUnknownError,
    TaskFailedError,
)
from ._jobs import JobChanged, Outcome, Record, key_of, outcome_of
from ._ledger import Ledger

if TYPE_CHECKING:
    from .._parts import Parts


class Work:
    """The workers of one run."""

    def __init__(
        self,
        parts: Parts,
        ledger: Ledger,
        folder: Path,
        purse: Purse,
        stages: Stages,
        *,
        run: int,
        policy: RetryPolicy,
        replays: bool,
        timeout: float | None,
    ) -> None:
        self._parts = parts
        # One line for the whole batch, which takes turns with the single calls of the session, and
        # one for what may have left before.
        self._line, self._owed = Group(), Group()
        self._ledger = ledger
        self._folder = folder
        self._purse = purse
        self._stages = stages
        self._replays = replays
        self._timeout = timeout
        self._prices: dict[tuple[str, str, int], int] = {}
        self._tries = Tries(policy)
        self._shelf = Shelf(parts, ledger)
        self.fate = Fate(parts, ledger, folder, purse, stages, self._shelf, self._tries, run=run)

    def turn_away(self) -> None:
        """Let nothing new leave any more, also not what waits at the session's gate; its key can be
        used again.
        """
        self._line.close()

    # --- upload -----------------------------------------------------------------------------------

    async def upload(self, job: Record) -> None:
        """Put a local first frame on the service's file host."""
        await self._shelf.place(job)
        if self._stages.stopping or not job.image_at_hand:
            # Without its bytes it stays new, for the run whose input brings them.
            await self.fate.drop(job)
            return
        image, borrower = job.wanted.image, self._shelf.borrower(job)
        try:
            url = (
                image
                if isinstance(image, str)
                else await self._parts.uploader.borrow(image, borrower)
            )
        except HappyHorseError as error:
            await self._unsubmitted(job, error)
            return
        self._shelf.hold(job, url)
        self._stages.submissions.put(job)

    # --- submit and watch -------------------------------------------------------------------------

    async def submit_and_watch(self, job: Record) -> None:
        """Turn a job into a task, if it is none yet, and follow the task to its end."""
        job.doubtful = job.state in (JobState.SUBMITTING, JobState.UNKNOWN)
        if job.state in (JobState.NEW, JobState.SUBMITTING, JobState.UNKNOWN):
            try:
                if (
                    job.state is JobState.NEW
                    and not self._stages.stopping
                    and not job.reserved
                    and not await self._reserved(job)
                ):
                    # Not here: jobs that are paid for, and would give money back, need the workers.
                    self._stages.aside(self._save_up, job)
                    return
                self._shelf.taken_up(job)
                if not await self._submitted(job):
                    await self.fate.drop(job)
                    return
            except HappyHorseError as error:
                await self._unsubmitted(job, error)
                return
        await self._watch(job)

    async def _submitted(self, job: Record) -> bool:
        """Commit, POST; gives False when the batch is stopping and nothing has left."""
        # A job that another request has replaced meanwhile is finished when it is paid for, and
        # else not begun.
        if job.state is JobState.NEW and (job.superseded or self._stages.stopping):
            return False
        if job.state is JobState.SUBMITTING and not self._replays:
            raise SubmissionOutcomeUnknownError(
                "an earlier run may have sent this request, and it must not be sent again (replays=0)",
                idempotency_key=job.key,
                next_step="Look for it on the service's dashboard; `retry` asks for it again, with the same key.",
            )
        if job.state is not JobState.SUBMITTING:
            await self._commit_key(job)
        # What may be paid already is not turned away when the batch stops.
        line = self._owed if job.doubtful else self._line
        accepted = await self._parts.submitter.submit(
            job.posted,
            idempotency_key=job.key,
            group=line,
            image_url=job.image_url,
            callback_url=job.callback_url,
        )
        job.task, job.task_id, job.accepted = accepted.task, accepted.task.id, time.time()
        self.fate.move(job, JobState.RUNNING)
        # Not waited for: should a crash come before it is on the disk, the key brings the same task
        # back.
        self._ledger.post("running", job.seq, job.task_id, job.accepted)
        return True

    async def _save_up(self, job: Record) -> None:
        """Wait until there is money for a job, and then send it on."""
        price = self._prices[job.posted.model, job.posted.quality, job.posted.duration]
        try:
            job.reserved = price if await self._purse.reserve(price) else 0
        except HappyHorseError as error:
            await self._unsubmitted(job, error)
            return
        # One without money by now is dropped there, as all that is new when the batch stops.
        self._stages.route(job)

    async def _reserved(self, job: Record) -> bool:
        """Set a job's price aside; gives False when that has to wait."""
        request = job.posted
        kind = request.model, request.quality, request.duration
        if kind not in self._prices:
            self._prices[kind] = await self._price(request)
        if not self._purse.take(self._prices[kind]):
            return False
        job.reserved = self._prices[kind]
        return True

    async def _price(self, request: ImageToVideo) -> int:
        try:
            return to_millionths(await self._parts.pricing.credits_for(request))
        except PriceUnavailableError:
            if self._purse.limited:
                raise
            return 0  # nothing hangs on it: there is no cap that it could pass

    async def _commit_key(self, job: Record) -> None:
        job.key = job.key or key_of(self._ledger.batch_id, job.id, job.fingerprint, job.attempt)
        if job.state is JobState.NEW:
            job.callback_url = job.posted.callback_url or self._parts.submitter.callback_url or ""
        self.fate.move(job, JobState.SUBMITTING)
        # An upload's link is part of the body that the key stands for, and cannot be had again: it
        # must not hang on the log alone.
        fold = job.uploaded is not None
        body = job.image_url, job.uploaded, job.callback_url
        await self._ledger.write("submitting", job.seq, job.key, job.reserved, *body, fold=fold)

    async def _watch(self, job: Record) -> None:
        poller, known, task_id = self._parts.poller, job.task, job.task_id or ""
        try:
            # The answer to a replayed submission may show the end of the task, but not its links
            # and its charge.
            ended = known is not None and lifecycle.is_final(known)
            task = await (
                poller.read(task_id)
                if ended
                else poller.wait(task_id, timeout=self._timeout, known=known)
            )
        except HappyHorseError as error:
            await self._unwatched(job, error)
            return
        job.task = task
        if not lifecycle.is_completed(task):
            await self._failed(job, task)
            return
        if job.state is JobState.RUNNING:
            self.fate.move(job, JobState.COMPLETED)
            job.completed, job.seconds = time.time(), task.seconds
            job.expires = task.expires_at.timestamp() if task.expires_at else None
            self._ledger.post("completed", job.seq, job.completed, job.expires, job.seconds)
        self._stages.downloads.put(job)

    # --- download ---------------------------------------------------------------------------------

    async def download(self, job: Record) -> None:
        """Fetch a job's video, or find it where it was put before a crash."""
        try:
            video = await self._video(job)
        except HappyHorseError as error:
            await self._undownloaded(job, error)
            return
        await self.fate.saved(job, video)

    async def _video(self, job: Record) -> Video:
        path, task = self._folder / job.name, job.task
        assert task is not None, "a job comes to its download from its watch"  # noqa: S101
        try:
            return await self._parts.downloader.download(task, path, request=job.asked, exact=True)
        except DestinationExistsError:
            # Whatever was there before the ledger is known as a stranger: this is ours, renamed
            # before the ledger could note it.
            video = await verified(path, task, job.asked)
            if video is None:
                raise
            return video

    # --- when it fails ----------------------------------------------------------------------------

    async def _unsubmitted(self, job: Record, error: HappyHorseError) -> None:
        """Go on after an upload or a submission that failed."""
        following = job_failures.after_submission(error)
        paid = job.state is JobState.SUBMITTING and self._may_be_paid(job, error)
        if (
            not paid
            and job_failures.proves_absence(error)
            and job.state is JobState.SUBMITTING
            and is_old(job)
        ):
            # It may be the upload that is at fault. Another link is another body, which needs
            # another key.
            following = Next.LATER
            await self.fate.release(job)
            await self.fate.renew(job)
        elif not paid:
            await self.fate.release(job)
        if (
            following is Next.LATER
            and (self._replays or not paid)
            and self._tries.may_be_again(job)
        ):
            self._shelf.taken_up(job)
            self._stages.later(job, self._tries.count(job, error))
        elif paid:
            await self._leave_in_doubt(job, error, following)
        elif following is Next.GIVE_UP:
            await self.fate.give_up(job, JobState.FAILED, error)
        else:
            await self.fate.drop(job)
            self._stages.stop(error)

    @staticmethod
    def _may_be_paid(job: Record, error: HappyHorseError) -> bool:
        return job_failures.may_be_paid(error) or (
            job.doubtful and not job_failures.proves_absence(error)
        )

    async def _leave_in_doubt(self, job: Record, error: HappyHorseError, following: Next) -> None:
        """Let go of a job that may be paid; its reservation stays."""
        stopped = following is Next.STOP or (
            following is Next.LATER and not job_failures.may_be_paid(error)
        )
        if stopped or self._stages.stopping:
            # It stays submitting: the next run replays it.
            await self.fate.drop(job)
            self._stages.stop(error)
            return
        await self.fate.give_up(job, JobState.UNKNOWN, error, reserved=job.reserved)
        if following is Next.LATER and self._replays:
            self._stages.stop(error)

    async def _unwatched(self, job: Record, error: HappyHorseError) -> None:
        """Go on after a wait that ended before the task."""
        following = job_failures.after_watching(error)
        if following is Next.GIVE_UP:
            await self._forgotten(job, error)
            return
        if following is Next.STOP:
            await self.fate.drop(job)
            self._stages.stop(error)
        else:
            self.fate.end(job, error)

    async def _forgotten(self, job: Record, error: HappyHorseError) -> None:
        """Go on after the service has said that it does not know a task any more."""
        task = Task(id=job.task_id or "", status=TaskStatus.COMPLETED)
        try:
            video = await verified(self._folder / job.name, task, job.asked)
        except HappyHorseError:
            video = None
        if video is None:
            # It cannot be said what the task has cost: its estimate counts.
            await self.fate.give_up(job, JobState.FAILED, error, spent=job.reserved)
            return
        # It was fetched before a crash.
        if job.state is JobState.RUNNING:
            self.fate.move(job, JobState.COMPLETED)
        await self.fate.saved(job, video)

    async def _failed(self, job: Record, task: Task) -> None:
        """Go on after a task that ended without a video."""
        spent = self.fate.cost(job)
        error = lifecycle.failure_of(task, job.key)
        if not self._tries.may_be_bought_again(job, error):
            await self.fate.give_up(job, JobState.FAILED, error, spent=spent)
            return
        self.fate.move(job, JobState.FAILED, error.code)
        self._purse.settle(job.reserved, spent)
        pause = self._tries.pause(job.attempt, error)
        self.fate.move(job, JobState.NEW)
        await self.fate.renew(job, spent=spent)
        if self._stages.stopping:
            await self.fate.drop(job)
        else:
            self._stages.later(job, pause)

    async def _undownloaded(self, job: Record, error: HappyHorseError) -> None:
        """Go on after a download that failed."""
        following = job_failures.after_download(error)
        if following is Next.GIVE_UP:
            await self.fate.give_up(job, JobState.FAILED, error, spent=self.fate.cost(job))
        elif following is Next.STOP:
            await self.fate.drop(job)
            self._stages.stop(error)
        elif self._tries.may_be_again(job) and not self._stages.stopping:
            self._stages.later(job, self._tries.count(job, error))
        else:
            # It stays completed: the next run fetches it as long as the link lives.
            job.error = fault_of(error)
            await self._ledger.write(
                "ended", job.seq, JobState.COMPLETED, 0, None, job.reserved, 0, job.error
            )
            self.fate.end(job, error)


# --- The stages that jobs go through, as bounded streams with a few workers at the end of each, and
# the tokens that bound them all.


Worker = Callable[[Record], Awaitable[None]]


class Stage:
    """One stage: a stream of jobs, and workers that take them one by one."""

    def __init__(self, tokens: int) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Record](tokens)

    def put(self, job: Record) -> None:
        """Hand a job over."""
        self._send.send_nowait(job)

    def start(self, group: TaskGroup, workers: int, work: Worker) -> None:
        """Start the workers, which end with the group."""
        for _ in range(workers):
            group.start_soon(self._work, work)

    async def _work(self, work: Worker) -> None:
        async for job in self._receive:
            await work(job)

    def close(self) -> None:
        """Close both ends."""
        self._send.close()
        self._receive.close()


class Stages:
    """The stages of one run, and what is on its way through them."""

    def __init__(self, tokens: int, group: TaskGroup) -> None:
        self.uploads = Stage(tokens)
        self.submissions = Stage(tokens)
        self.downloads = Stage(tokens)
        self._group = group
        self._tell, self.outcomes = anyio.create_memory_object_stream[Outcome](tokens)
        self._tokens = anyio.Semaphore(tokens, max_value=tokens)
        self.live: dict[int, Record] = {}
        """The jobs that this run has in hand, by their number in the ledger; no more than there are
        tokens."""
        self._fed = False
        self._empty = anyio.Event()
        self._stopping = anyio.Event()
        self._on_stop: Callable[[], None] = lambda: None
        self.reason: HappyHorseError | None = None
        """Why the batch stopped before its input ended, when it was not the user's wish."""

    # --- in and out -------------------------------------------------------------------------------

    async def token(self) -> None:
        """Wait for room for one more job."""
        await self._tokens.acquire()

    def give_back(self) -> None:
        """Free the room of a job whose outcome has been taken, or that was none."""
        self._tokens.release()

    def admit(self, job: Record) -> None:
        """Take a job in, wherever it stands; a token must have been had for it."""
        self.live[job.seq] = job
        self.route(job)

    def route(self, job: Record) -> None:
        """Send a job to the stage that it is due for."""
        if job.state is JobState.COMPLETED and job.task is not None:
            self.downloads.put(job)
        elif job.state is JobState.NEW and job.image_url is None and job.is_local:
            self.uploads.put(job)
        else:
            self.submissions.put(job)

    def later(self, job: Record, pause: float) -> None:
        """Send a job on after a pause, which ends early when the batch stops."""
        self._group.start_soon(self._after, pause, job)

    def aside(self, work: Callable[[Record], Coroutine[Any, Any, None]], job: Record) -> None:
        """Do something with a job beside the stages, without holding one of their workers."""
        self._group.start_soon(work, job)

    async def _after(self, pause: float, job: Record) -> None:
        with anyio.move_on_after(pause):
            await self._stopping.wait()
        self.route(job)

    def tell(self, outcome: Outcome) -> None:
        """Hand an outcome to the consumer."""
        self._tell.send_nowait(outcome)

    def end(self, job: Record, outcome: Outcome) -> None:
        """Tell a job's outcome, with which it leaves."""
        self.tell(outcome)
        self._leave(job)

    def drop(self, job: Record) -> None:
        """Let a job leave untold: it stays as the ledger has it, for the next run."""
        self.give_back()
        self._leave(job)

    def _leave(self, job: Record) -> None:
        del self.live[job.seq]
        self._look()

    # --- the end ----------------------------------------------------------------------------------

    def fed(self) -> None:
        """Say that no more jobs will come in."""
        self._fed = True
        self._look()

    def _look(self) -> None:
        if self._fed and not self.live:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until every job that came in has left."""
        await self._empty.wait()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call a function when the batch begins to stop."""
        self._on_stop = callback

    def stop(self, reason: HappyHorseError | None = None) -> None:
        """Send nothing new from now on, and finish what is paid for."""
        if not self._stopping.is_set():
            self.reason = reason
            self._stopping.set()
            self._on_stop()

    @property
    def stopping(self) -> bool:
        """Whether nothing new is sent any more."""
        return self._stopping.is_set()

    def close(self) -> None:
        """Close all streams; outcomes that were told can still be taken."""
        for stage in (self.uploads, self.submissions, self.downloads):
            stage.close()
        self._tell.close()


Outcomes = MemoryObjectReceiveStream[Outcome]


# --- How a job ends, leaves or begins anew: in the ledger, in the purse and in the run at once.


class Fate:
    """Moves the jobs of one run on."""

    def __init__(
        self,
        parts: Parts,
        ledger: Ledger,
        folder: Path,
        purse: Purse,
        stages: Stages,
        shelf: Shelf,
        tries: Tries,
        *,
        run: int,
    ) -> None:
        self._events = parts.events
        self._ledger = ledger
        self._folder = folder
        self._purse = purse
        self._stages = stages
        self._shelf = shelf
        self._tries = tries
        self._run = run

    async def give_up(
        self,
        job: Record,
        state: JobState,
        error: HappyHorseError,
        *,
        reserved: int = 0,
        spent: int = 0,
    ) -> None:
        """End a job without a video."""
        self.move(job, state, job_failures.code_of(error))
        self._purse.settle(job.reserved - reserved, spent)
        job.spent, job.reserved, job.error = job.spent + spent, reserved, fault_of(error)
        await self._ledger.write(
            "ended", job.seq, state, self._run, time.time(), reserved, spent, job.error
        )
        if state is JobState.FAILED:
            await self._shelf.let_go(job)
        self.end(job, error)

    async def saved(self, job: Record, video: Video) -> None:
        """End a job with its video."""
        spent = self.cost(job)
        self._purse.settle(job.reserved, spent)
        self.move(job, JobState.SAVED)
        job.spent, job.reserved, job.error = job.spent + spent, 0, None
        job.size, job.sha256, job.length, job.width, job.height = (
            video.size,
            video.sha256,
            video.duration,
            video.width,
            video.height,
        )
        seconds = job.task.seconds if job.task is not None else None
        facts = (video.size, video.sha256, video.duration, video.width, video.height, seconds)
        await self._ledger.write("saved", job.seq, self._run, time.time(), spent, *facts)
        await self._shelf.let_go(job)
        self.end(job)

    async def release(self, job: Record) -> None:
        """Take a job that was certainly not accepted back to new; its key and its upload can be
        used again.
        """
        if job.state is JobState.SUBMITTING:
            self.move(job, JobState.NEW)
            self._purse.settle(job.reserved, 0)
            job.reserved = 0
            await self._ledger.write("ended", job.seq, JobState.NEW, 0, None, 0, 0, None)

    async def begin_again(self, job: Record) -> None:
        """Take a failed job to its next attempt at the user's word."""
        self.move(job, JobState.NEW)
        job.before = job.attempt
        await self.renew(job)

    async def renew(self, job: Record, *, spent: int = 0) -> None:
        """Give a job that is new again its next attempt, which is another task, with another key."""
        await self._shelf.let_go(job)
        job.attempt, job.spent, job.reserved = job.attempt + 1, job.spent + spent, 0
        job.key = job.image_url = job.uploaded = job.callback_url = job.task_id = job.task = (
            job.accepted
        ) = job.error = None
        await self._ledger.write("again", job.seq, job.attempt, spent)

    def cost(self, job: Record) -> int:
        """What the present task has cost, as far as the service says."""
        return (
            to_millionths(job_failures.settled(job.task, to_credits(job.reserved)))
            if job.task is not None
            else job.reserved
        )

    def move(self, job: Record, state: JobState, code: str | None = None) -> None:
        """Take a job to another state, which is an event; the ledger is told by whoever calls."""
        if state not in JOB_TRANSITIONS[job.state]:
            raise RuntimeError(f"a job cannot go from {job.state} to {state}")
        was, job.state = job.state, state
        if self._events:
            self._events.emit(
                JobChanged(id=job.id, was=was, state=state, task_id=job.task_id, code=code)
            )

    def end(self, job: Record, error: HappyHorseError | None = None) -> None:
        """Tell a job's outcome, with which it leaves the run."""
        self._tries.forget(job)
        self._shelf.taken_up(job)
        self._purse.rest(job.reserved)
        self._stages.end(job, outcome_of(job, self._folder, error=error))

    async def drop(self, job: Record) -> None:
        """Let a job leave the run untold: it stays as the ledger has it, for the next run."""
        if job.state is JobState.NEW:
            await self._shelf.let_go(job)
            self._purse.settle(job.reserved, 0)
            job.reserved = 0
        self._purse.rest(job.reserved)
        self._tries.forget(job)
        self._shelf.taken_up(job)
        self._stages.drop(job)


# --- How often a job is tried, and how long it waits in between.


class Tries:
    """Counts the tries of whatever fails without having become a task; those that became one are
    attempts, which the ledger counts.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failed: dict[int, int] = {}

    def may_be_again(self, job: Record) -> bool:
        """Whether what has failed may be tried once more."""
        return self._failed.get(job.seq, 0) + 1 < self._policy.attempts

    def count(self, job: Record, error: HappyHorseError) -> float:
        """Count a failed try; gives the seconds to wait before the next one."""
        failed = self._failed[job.seq] = self._failed.get(job.seq, 0) + 1
        return self.pause(failed, error)

    def pause(self, failed: int, error: HappyHorseError) -> float:
        """Give the seconds to wait after so many failures."""
        return retry.pause_before(self._policy, failed, error, random.random())

    def forget(self, job: Record) -> None:
        """Begin to count anew."""
        self._failed.pop(job.seq, None)

    def may_be_bought_again(self, job: Record, error: TaskFailedError) -> bool:
        """Whether a task that failed may be followed by another one, which costs money again."""
        # A process may have ended after the user's word, which is not written down. But only that
        # leads beyond the limit, so that every full set of attempts that lies behind has been
        # followed by one.
        before = job.before or (job.attempt - 1) // self._policy.attempts * self._policy.attempts
        retryable = error.retryable or (error.code == "image_processing_error" and is_old(job))
        return retryable and not job.superseded and job.attempt - before < self._policy.attempts


# --- The uploads of one run: how many may wait for their submission, who still needs them, and when
# they are too old to be given away.


LONGEST_GOODBYE = 5.0
"""Seconds that taking an upload away may hold up its job's outcome."""
SAFETY_MARGIN = timedelta(hours=6)
"""How long before its end an upload counts as gone: the service fetches it when the task starts. As
in the uploader."""
MOST_AHEAD = 32
"""Uploads that wait for their submission: they take room in the account's quota of files, and grow
old."""


def is_old(job: Record) -> bool:
    """Whether a job's upload was, or is, too old to be given to the service."""
    if job.uploaded is None:
        return False
    given = job.accepted if job.accepted is not None else time.time()
    return given - job.uploaded > (wire.FILE_LIFE - SAFETY_MARGIN).total_seconds()


class Shelf:
    """Between the jobs under way and the uploads that they need; equal images share one."""

    def __init__(self, parts: Parts, ledger: Ledger) -> None:
        self._parts = parts
        self._ledger = ledger
        self._ahead = anyio.Semaphore(MOST_AHEAD)
        self._waiting: set[int] = set()

    async def place(self, job: Record) -> None:
        """Wait until one more upload may wait for its submission."""
        await self._ahead.acquire()
        self._waiting.add(job.seq)

    def taken_up(self, job: Record) -> None:
        """Make room for the next upload when one has come out of the line to its submission."""
        if job.seq in self._waiting:
            self._waiting.discard(job.seq)
            self._ahead.release()

    def borrower(self, job: Record) -> tuple[str, int]:
        """Say for whom an upload is made."""
        return self._ledger.batch_id, job.seq

    def hold(self, job: Record, url: str) -> None:
        """Note which upload a job needs."""
        job.image_url, job.uploaded = url, time.time()

    async def let_go(self, job: Record) -> None:
        """Take an upload away when nobody needs it any more: an account has room for two thousand
        files, and a night for more jobs.
        """
        if job.image_url and job.uploaded is not None:
            with anyio.move_on_after(LONGEST_GOODBYE):
                await self._parts.uploader.give_back(job.image_url, self.borrower(job))


# --- Videos that lie under their final name already: a crash came between the rename and the
# ledger's note of it.


async def verified(path: Path, task: Task, request: ImageToVideo | None) -> Video | None:
    """Give the video at a path after reading and checking all of it; None when there is none.

    Raises `NotAVideoError` when something else lies there.
    """
    return await anyio.to_thread.run_sync(_verified, path, task, request)


def _verified(path: Path, task: Task, request: ImageToVideo | None) -> Video | None:
    tally = Tally()
    try:
        with path.open("rb") as file:
            while data := file.read(BLOCK):
                tally.feed(data)
        sha256, movie = tally.finish()
    except FileNotFoundError:
        return None
    except BrokenVideoError as error:
        raise NotAVideoError(
            f"{path}: this file lies where the video of task {task.id} should go, and is no whole video: {error}",
            path=str(path),
            task_id=task.id,
            next_step="Move the file away, then run the batch again.",
        ) from error
    return Video(
        path=path,
        size=tally.size,
        sha256=sha256,
        duration=movie.duration,
        width=movie.width,
        height=movie.height,
        task=task,
        request=request,
        credits=task.usage.credits_used,
    )


# --- Failures of jobs: as errors, and as the ledger keeps them.


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
