"""What the workers of each stage do with a job: upload, submit and watch, download; and what follows when that fails.

The order of the ledger's notes is the promise: key and reservation before the POST, the task id right after the answer, the digest after
the rename. What a failure means is decided in `rules.verdicts`.
"""

from __future__ import annotations

import time
from pathlib import Path

from ..config import RetryPolicy
from ..errors import DestinationExistsError, HappyHorseError, SubmissionOutcomeUnknownError
from ..models import Task, TaskStatus, Video
from ..rules import lifecycle, verdicts
from ..rules.identity import key_of
from ..rules.lifecycle import JobState
from ..rules.verdicts import Next
from ..submitter import Group
from . import found
from .fate import Fate
from .faults import failure_of, fault_of
from .jobs import Record, to_millionths
from .ledger import Ledger
from .parts import Parts
from .purse import Purse
from .shelf import Shelf, is_old
from .stages import Stages
from .tries import Tries


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
        # One line for the whole batch, which takes turns with the single calls of the session, and one for what may have left before.
        self._line, self._owed = Group(), Group()
        self._ledger = ledger
        self._folder = folder
        self._purse = purse
        self._stages = stages
        self._replays = replays
        self._timeout = timeout
        self._prices: dict[tuple[str, int], int] = {}
        self._tries = Tries(policy)
        self._shelf = Shelf(parts, ledger)
        self.fate = Fate(parts, ledger, folder, purse, stages, self._shelf, self._tries, run=run)

    def turn_away(self) -> None:
        """Let nothing new leave any more, also not what waits at the session's gate; its key can be used again."""
        self._line.close()

    # --- upload -------------------------------------------------------------------------------------------------------------------

    async def upload(self, job: Record) -> None:
        """Put a local first frame on the service's file host."""
        await self._shelf.place(job)
        if self._stages.stopping or not job.image_at_hand:
            # Without its bytes it stays new, for the run whose input brings them.
            await self.fate.drop(job)
            return
        image, borrower = job.wanted.image, self._shelf.borrower(job)
        try:
            url = image if isinstance(image, str) else await self._parts.uploader.borrow(image, borrower)
        except HappyHorseError as error:
            await self._unsubmitted(job, error)
            return
        self._shelf.hold(job, url)
        self._stages.submissions.put(job)

    # --- submit and watch ---------------------------------------------------------------------------------------------------------

    async def submit_and_watch(self, job: Record) -> None:
        """Turn a job into a task, if it is none yet, and follow the task to its end."""
        job.doubtful = job.state in (JobState.SUBMITTING, JobState.UNKNOWN)
        if job.state in (JobState.NEW, JobState.SUBMITTING, JobState.UNKNOWN):
            try:
                if job.state is JobState.NEW and not self._stages.stopping and not job.reserved and not await self._reserved(job):
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
        # A job that another request has replaced meanwhile is finished when it is paid for, and else not begun.
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
            job.posted, idempotency_key=job.key, group=line, image_url=job.image_url, callback_url=job.callback_url
        )
        job.task, job.task_id, job.accepted = accepted.task, accepted.task.id, time.time()
        self.fate.move(job, JobState.RUNNING)
        # Not waited for: should a crash come before it is on the disk, the key brings the same task back.
        self._ledger.post("running", job.seq, job.task_id, job.accepted)
        return True

    async def _save_up(self, job: Record) -> None:
        """Wait until there is money for a job, and then send it on."""
        price = self._prices[job.posted.quality, job.posted.duration]
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
        kind = request.quality, request.duration
        if kind not in self._prices:
            self._prices[kind] = to_millionths(await self._parts.pricing.credits_for(request))
        if not self._purse.take(self._prices[kind]):
            return False
        job.reserved = self._prices[kind]
        return True

    async def _commit_key(self, job: Record) -> None:
        job.key = job.key or key_of(self._ledger.batch_id, job.id, job.fingerprint, job.attempt)
        if job.state is JobState.NEW:
            job.callback_url = job.posted.callback_url or self._parts.submitter.callback_url or ""
        self.fate.move(job, JobState.SUBMITTING)
        # An upload's link is part of the body that the key stands for, and cannot be had again: it must not hang on the log alone.
        fold = job.uploaded is not None
        body = job.image_url, job.uploaded, job.callback_url
        await self._ledger.write("submitting", job.seq, job.key, job.reserved, *body, fold=fold)

    async def _watch(self, job: Record) -> None:
        poller, known, task_id = self._parts.poller, job.task, job.task_id or ""
        try:
            # The answer to a replayed submission may show the end of the task, but not its links and its charge.
            ended = known is not None and lifecycle.is_final(known)
            task = await (poller.read(task_id) if ended else poller.wait(task_id, timeout=self._timeout, known=known))
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

    # --- download -----------------------------------------------------------------------------------------------------------------

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
            # Whatever was there before the ledger is known as a stranger: this is ours, renamed before the ledger could note it.
            video = await found.verified(path, task, job.asked)
            if video is None:
                raise
            return video

    # --- when it fails ------------------------------------------------------------------------------------------------------------

    async def _unsubmitted(self, job: Record, error: HappyHorseError) -> None:
        """Go on after an upload or a submission that failed."""
        following = verdicts.after_submission(error)
        paid = job.state is JobState.SUBMITTING and self._may_be_paid(job, error)
        if not paid and verdicts.proves_absence(error) and job.state is JobState.SUBMITTING and is_old(job):
            # It may be the upload that is at fault. Another link is another body, which needs another key.
            following = Next.LATER
            await self.fate.release(job)
            await self.fate.renew(job)
        elif not paid:
            await self.fate.release(job)
        if following is Next.LATER and (self._replays or not paid) and self._tries.may_be_again(job):
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
        return verdicts.may_be_paid(error) or (job.doubtful and not verdicts.proves_absence(error))

    async def _leave_in_doubt(self, job: Record, error: HappyHorseError, following: Next) -> None:
        """Let go of a job that may be paid; its reservation stays."""
        stopped = following is Next.STOP or (following is Next.LATER and not verdicts.may_be_paid(error))
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
        following = verdicts.after_watching(error)
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
            video = await found.verified(self._folder / job.name, task, job.asked)
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
        error = failure_of(task, job.key)
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
        following = verdicts.after_download(error)
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
            await self._ledger.write("ended", job.seq, JobState.COMPLETED, 0, None, job.reserved, 0, job.error)
            self.fate.end(job, error)
