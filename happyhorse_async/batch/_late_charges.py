"""Charges that the service settles after their videos are here.

A budget that took estimates for the last word would be passed as soon as prices rise.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .._budget import DEARNESS, PAUSES, BatchBook, settled
from .._rules import lifecycle
from ._jobs import JobRow
from ._ledger import Ledger

if TYPE_CHECKING:
    from .._models import Task
    from .._parts import Parts

DEARNESS_FACT = "dearness"
"""The ledger's fact of what tasks cost of late, as a multiple of their estimates."""


class LateCharges:
    """Settles the money of saved jobs, now or as soon as the service does.

    Until then a job's estimate stays reserved. A run does not wait for that at its end: the ledger
    has the estimate as the cost then.
    """

    def __init__(self, parts: Parts, ledger: Ledger, book: BatchBook) -> None:
        self._parts = parts
        self._ledger = ledger
        self._book = book
        self._waiting: set[asyncio.Task[None]] = set()

    async def learn(self, job: JobRow) -> None:
        """Take note of what a job's video has cost, as soon as that can be known."""
        task = job.task
        if not self._book.limited or task is None or not lifecycle.is_settled(task):
            return
        before = self._book.dearness.factor
        self._book.learn(job.seq, job.cost)
        after = self._book.dearness.factor
        if after != before:
            await self._ledger.call(lambda database: database.set_fact(DEARNESS_FACT, str(after)))

    def settle(self, job: JobRow, estimate: int, cost: int) -> None:
        """Settle a saved job, whose task has cost so much as far as is known."""
        task = job.task
        if self._book.limited and task is not None and not lifecycle.is_settled(task):
            try:
                work = self._parts.background.start(
                    self._await_charge(job, task, estimate, cost), name=f"the charge of {task.id}"
                )
            except RuntimeError:  # the session is closing: nobody reserves anything any more
                pass
            else:
                self._book.await_charge(job.seq)
                self._waiting.add(work)
                work.add_done_callback(self._waiting.discard)
                return
        self._book.settle(job.seq, cost)

    async def end(self) -> None:
        """Wait for no charge any more."""
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)

    async def _await_charge(self, job: JobRow, task: Task, estimate: int, cost: int) -> None:
        spent = job.spent - cost

        async def again(task: Task) -> Task:
            read = await self._parts.poller.read(task.id)
            return read if lifecycle.is_completed(read) else task

        job.task, job.reserved = await settled(task, again, PAUSES), estimate
        await self.learn(job)
        cost = job.cost
        job.spent, job.reserved = spent + cost, 0
        self._ledger.post("saved", job)
        self._book.settle(job.seq, cost)


def dearness_of(said: str | None) -> int:
    """Read the ledger's fact."""
    return int(said) if said is not None and said.isdecimal() else DEARNESS
