"""The cluster's ledger as the event loop sees it: groups of changes in one thread, like a batch's.

What differs is who decides. A job that another worker has taken over is left at its next note. A
submission waits here until the limits over all workers have room for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import attrs

from ...batch._jobs import JobRow, values_of
from ...batch._ledger import Ledger
from ...batch._steps import LeftError
from ._connection import reaching
from ._database import Admittance, ClusterDatabase

logger = logging.getLogger("happyhorse_async")

T = TypeVar("T")

LOOK_AGAIN = 0.25
"""Seconds between looks for room that other workers may have made."""
MOST_AT_ONCE = 200
"""Jobs that ask to be let in with one transaction."""
ROOM_MAKERS = frozenset({"completed", "saved", "ended", "again"})
"""Changes after which there may be room."""


@attrs.define(eq=False)
class _Wish:
    """A job that waits to be let in."""

    row: tuple[Any, ...]
    done: asyncio.Future[None]


class ClusterLedger(Ledger):
    """An open ledger of the cluster, for one event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.database: ClusterDatabase
        """The open database; only for the ledger's own thread."""
        self._wishes: deque[_Wish] = deque()
        self._room = asyncio.Event()
        self._letting_in: asyncio.Task[None] | None = None
        self._shut = False

    @classmethod
    async def connect(cls, url: str) -> ClusterLedger:
        """Connect to a cluster's database, whose tables are made when there are none.

        Raises `LedgerError` when it cannot be reached, or was made by another version. A
        cancellation closes it again.
        """
        ledger = cls()
        with reaching():
            ledger.database = await ledger._take(partial(ClusterDatabase, url))
        return ledger

    @property
    def waiting(self) -> int:
        """Jobs that wait until the limits over all workers have room."""
        return len(self._wishes)

    def post(self, change: str, job: JobRow) -> None:
        """Hand a job's change over without waiting for it."""
        super().post(change, job)
        if change in ROOM_MAKERS:
            self._room.set()

    async def write(self, change: str, job: JobRow, *, fold: bool = False) -> None:
        """Hand a job's change over and wait until it is committed.

        Raises `LeftError` when another worker has the job by now.
        """
        if change == "submitting" and not job.sent_before:
            await self._let_in(job)
            return
        await super().write(change, job)
        if job.seq in self.database.lost:
            logger.warning(
                "%s is in other hands by now", job.id, extra={"action": "job_taken_over"}
            )
            raise LeftError
        if change in ROOM_MAKERS:
            self._room.set()

    async def call_cluster(self, name: str, *values: Any) -> Any:
        """Call a method of the cluster's database in the ledger's thread, in a transaction."""
        return await self.call(lambda database: getattr(database, name)(*values))

    def shut(self) -> None:
        """Let no more jobs in; those that wait are left as they are."""
        self._shut = True
        for wish in self._wishes:
            if not wish.done.done():
                wish.done.set_exception(LeftError())
        self._wishes.clear()

    async def aclose(self) -> None:
        """Write what has gathered, as far as the database can be reached, and end the thread."""
        self.shut()
        if self._letting_in is not None:
            self._letting_in.cancel()
            with suppress(asyncio.CancelledError):
                await self._letting_in
        await super().aclose()

    # --- letting in -------------------------------------------------------------------------------

    async def _let_in(self, job: JobRow) -> None:
        """Commit a job's key, price and place as soon as the limits have room, in turns."""
        if self._shut:
            raise LeftError
        wish = _Wish(values_of("submitting", job), self._loop.create_future())
        self._wishes.append(wish)
        if self._letting_in is None or self._letting_in.done():
            self._letting_in = self._loop.create_task(self._let_all_in())
        await wish.done

    async def _let_all_in(self) -> None:
        while self._wishes:
            first = [w for w in self._wishes if not w.done.done()][:MOST_AT_ONCE]
            self._room.clear()
            try:
                told = await self.call_cluster("submit", [wish.row for wish in first])
            except Exception as error:  # noqa: BLE001 told to those who wait
                told = {wish.row[0]: error for wish in first}
            for wish in first:
                _tell(wish, told.get(wish.row[0], Admittance.LOST))
            self._wishes = deque(wish for wish in self._wishes if not wish.done.done())
            if Admittance.FULL in told.values():
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN):
                        await self._room.wait()


def _tell(wish: _Wish, entry: Admittance | Exception) -> None:
    if wish.done.done() or entry is Admittance.FULL:
        return
    if entry is Admittance.IN:
        wish.done.set_result(None)
    else:
        wish.done.set_exception(LeftError() if entry is Admittance.LOST else entry)
