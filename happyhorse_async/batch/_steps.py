"""The steps of one job, and what the ledger is told of each: the one definition of a job's life.

They know nothing of other jobs, so that another engine can drive them over another ledger. The
order of the ledger's notes is the promise. Key and reservation come before the POST, the task id
right after the answer, the digest after the rename.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from .._concurrency import hand_over, to_the_end
from .._models import Task, TaskStatus
from .._rules import account, job_failures, lifecycle
from .._rules.lifecycle import JOB_TRANSITIONS, JobState
from .._submitter import Group
from .._video import Video
from ..errors import (
    DestinationExistsError,
    HappyHorseError,
    SubmissionOutcomeUnknownError,
    TaskFailedError,
    TaskNotFoundError,
)
from ._identity import key_of
from ._jobs import JobChanged, JobRow
from ._ledger import Ledger
from ._videos import VideoFolder

if TYPE_CHECKING:
    from .._parts import Parts

SAFETY_MARGIN = timedelta(hours=6)
"""How long before its end an upload counts as gone: the service fetches it when the task starts. As
in the uploader."""
LONGEST_GOODBYE = 5.0
"""Seconds that taking an upload away may hold up its job's outcome."""


class LeftError(Exception):
    """A job is left as the ledger has it, for the next run. The batch is stopping, or its image is
    not here.
    """


class Steps:
    """The steps of a job, over the parts of a session, a ledger and a folder.

    Of the ledger they need `batch_id`, `post` and `write`.
    """

    def __init__(self, parts: Parts, ledger: Ledger, videos: VideoFolder, *, run: int) -> None:
        self._parts = parts
        self._ledger = ledger
        self._videos = videos
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
        # An upload's link is part of the body that the key stands for, and cannot be had again. It
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
        if job.task is not None or not self._videos.exists(job.name):
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
            task = await poller.read(task_id)
            if lifecycle.is_final(task):
                return task
            known = task  # one of the two is not up to date: time tells
        with self._parts.events.work("wait", task_id=task_id) as facts:
            facts["task"] = task = await poller.wait(
                task_id, timeout=timeout, known=known, seen=True
            )
            return task

    async def save(self, job: JobRow) -> int:
        """Fetch a job's video, or find it where it was put before a crash; return what its task has
        cost.
        """
        video, cost = await self._video(job), job.cost
        self.move(job, JobState.SAVED)
        job.spent, job.reserved, job.error = job.spent + cost, 0, None
        self._describe(job, video)
        await self._ledger.write("saved", job)
        await self.discard_upload(job)
        return cost

    async def _video(self, job: JobRow) -> Video:
        place, task = self._videos.place(job.name), job.task
        assert task is not None, "a job is saved after it was watched"  # noqa: S101
        try:
            return await self._parts.downloader.download(task, place, request=job.asked, exact=True)
        except (DestinationExistsError, TaskNotFoundError):
            # Whatever was there before the ledger is known as a stranger. This is ours, renamed
            # before the ledger could note it.
            video = await hand_over(None, self._videos.verified, job.name, task, job.asked)
            if video is None:
                raise
            return video

    async def fetch_again(self, job: JobRow) -> None:
        """Fetch the video of a saved job that is not here any more, which costs nothing.

        What lies in its place is put aside first, and put back when the video cannot be had.
        """
        place, task_id = self._videos.place(job.name), job.task_id or ""
        job.task = await self._parts.poller.read(task_id)
        aside = await hand_over(None, self._videos.put_aside, job.name)
        try:
            video = await self._parts.downloader.download(
                job.task, place, request=job.asked, exact=True
            )
        except BaseException:
            if aside is not None:
                back = partial(self._videos.put_back, aside, job.name)
                await to_the_end(hand_over(None, back))
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
        job.spent, job.reserved, job.error = job.spent + cost, reserved, fault_of(error, cost)
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

    async def take_up(self, job: JobRow, task: Task) -> None:
        """Take a failed job back to its task, which goes on or has its video after all. What its
        failure has cost is a part of what the video will.
        """
        self.move(job, JobState.RUNNING)
        job.spent -= job.failure_cost
        job.task, job.error, job.ended, job.ended_run = task, None, None, 0
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

    def _borrower(self, job: JobRow) -> tuple[str, int]:
        return self._ledger.batch_id, job.seq

    async def discard_upload(self, job: JobRow) -> None:
        """Take an upload away when nobody needs it any more. An account has room for two thousand
        files, and a night for more jobs.
        """
        if job.image_url and job.uploaded is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_GOODBYE):
                    await self._parts.uploader.give_back(job.image_url, self._borrower(job))


def is_stale(job: JobRow) -> bool:
    """Whether a job's upload was too old when it was given to the service."""
    if job.uploaded is None:
        return False
    given = job.accepted if job.accepted is not None else time.time()
    return given - job.uploaded > (account.FILE_LIFE - SAFETY_MARGIN).total_seconds()


def fault_of(error: HappyHorseError, cost: int = 0) -> str:
    """Write an error for the ledger, and what the task has cost that ended so, in millionths."""
    facts: dict[str, Any] = {
        "code": job_failures.code_of(error),
        "message": str(error),
        "charged": error.charged,
        "cost": cost,
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
    for name in ("code", "message"):
        # PostgreSQL reads no JSON with a NUL in it.
        facts[name] = facts[name].replace("\0", "\ufffd")
    return json.dumps(facts, ensure_ascii=False)
