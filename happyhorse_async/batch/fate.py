"""How a job ends, leaves or begins anew: in the ledger, in the purse and in the run at once."""

from __future__ import annotations

import time
from pathlib import Path

from ..errors import HappyHorseError
from ..models import Video
from ..rules import verdicts
from ..rules.lifecycle import JOB_TRANSITIONS, JobState
from .faults import fault_of
from .jobs import JobChanged, Record, outcome_of, to_credits, to_millionths
from .ledger import Ledger
from .parts import Parts
from .purse import Purse
from .shelf import Shelf
from .stages import Stages
from .tries import Tries


class Fate:
    """Moves the jobs of one run on."""

    def __init__(
        self, parts: Parts, ledger: Ledger, folder: Path, purse: Purse, stages: Stages, shelf: Shelf, tries: Tries, *, run: int
    ) -> None:
        self._events = parts.events
        self._ledger = ledger
        self._folder = folder
        self._purse = purse
        self._stages = stages
        self._shelf = shelf
        self._tries = tries
        self._run = run

    async def give_up(self, job: Record, state: JobState, error: HappyHorseError, *, reserved: int = 0, spent: int = 0) -> None:
        """End a job without a video."""
        self.move(job, state, verdicts.code_of(error))
        self._purse.settle(job.reserved - reserved, spent)
        job.spent, job.reserved, job.error = job.spent + spent, reserved, fault_of(error)
        await self._ledger.write("ended", job.seq, state, self._run, time.time(), reserved, spent, job.error)
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
        """Take a job that was certainly not accepted back to new; its key and its upload can be used again."""
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
        job.key = job.image_url = job.uploaded = job.callback_url = job.task_id = job.task = job.accepted = job.error = None
        await self._ledger.write("again", job.seq, job.attempt, spent)

    def cost(self, job: Record) -> int:
        """What the present task has cost, as far as the service says."""
        return to_millionths(verdicts.settled(job.task, to_credits(job.reserved))) if job.task is not None else job.reserved

    def move(self, job: Record, state: JobState, code: str | None = None) -> None:
        """Take a job to another state, which is an event; the ledger is told by whoever calls."""
        if state not in JOB_TRANSITIONS[job.state]:
            raise RuntimeError(f"a job cannot go from {job.state} to {state}")
        was, job.state = job.state, state
        if self._events:
            self._events.emit(JobChanged(id=job.id, was=was, state=state, task_id=job.task_id, code=code))

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
