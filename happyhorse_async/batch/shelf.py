"""The uploads of one run: how many may wait for their submission, who still needs them, and when they are too old to be given away."""

from __future__ import annotations

import time
from datetime import timedelta

import anyio

from ..rules import wire
from .jobs import Record
from .ledger import Ledger
from .parts import Parts

LONGEST_GOODBYE = 5.0
"""Seconds that taking an upload away may hold up its job's outcome."""
SAFETY_MARGIN = timedelta(hours=6)
"""How long before its end an upload counts as gone: the service fetches it when the task starts. As in the uploader."""
MOST_AHEAD = 32
"""Uploads that wait for their submission: they take room in the account's quota of files, and grow old."""


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
        """Take an upload away when nobody needs it any more: an account has room for two thousand files, and a night for more jobs."""
        if job.image_url and job.uploaded is not None:
            with anyio.move_on_after(LONGEST_GOODBYE):
                await self._parts.uploader.give_back(job.image_url, self.borrower(job))
