"""The ledger as the event loop sees it. Changes are handed to one thread, which writes whatever has
gathered as one transaction.

Grouping is what keeps the ledger out of the way. However many jobs it holds, a group is one call, a
handful of statements and one sync of the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .._concurrency import hand_over, to_the_end
from ..errors import LedgerError
from ._database import LEDGER_NAME, Change, Database
from ._jobs import JobRow, values_of
from ._ledger_file import Patience

logger = logging.getLogger("happyhorse_async")

T = TypeVar("T")
D = TypeVar("D", bound=Database)

GATHER_SECONDS = 0.002
"""How long a group gathers. Nothing beside a video's minutes, and enough to take many jobs along
when many are on the move."""


class _Group:
    """What is written together."""

    __slots__ = ("calls", "changes", "fold", "waiters")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.waiters: list[asyncio.Future[None]] = []
        self.calls: list[tuple[Callable[[Database], Any], asyncio.Future[Any]]] = []
        self.fold = False

    def answer(self, results: list[Any]) -> None:
        """Tell all who wait that it is written."""
        for done in self.waiters:
            if not done.done():
                done.set_result(None)
        for (_, answer), result in zip(self.calls, results, strict=True):
            if not answer.done():
                answer.set_result(result)

    def fail(self, error: BaseException, reason: LedgerError) -> None:
        """Tell all who wait that it is not: whoever made a call gets the error itself."""
        for done in self.waiters:
            if not done.done():
                done.set_exception(reason)
        for _, answer in self.calls:
            if not answer.done():
                answer.set_exception(error)


class Ledger:
    """An open ledger, for one event loop.

    Whatever blocks goes through `loop.run_in_executor`, to one thread. So a simulated loop that
    overrides this one method runs it inline, in its own time, and no thread starts.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="happyhorse ledger")
        self._database: Database | None = None
        self._next: _Group | None = None
        self._writing: asyncio.Future[list[Any]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: LedgerError | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Ends with an error when the ledger cannot be written any more."""
        self.batch_id: str = ""

    @classmethod
    async def open(cls, folder: Path) -> Ledger:
        """Open a folder's ledger, made when there is none.

        Raises `LedgerError` when it is no whole ledger, or newer. A cancellation closes it again.
        """
        ledger, path = cls(), folder / LEDGER_NAME
        patience = Patience(path)
        # Whoever is cancelled waits for no other program.
        hurry = partial(patience.hurry, 0.0)
        await ledger._take(partial(Database, path, patience=patience), hurry)
        return ledger

    async def _take(self, make: Callable[[], D], hurry: Callable[[], None] = lambda: None) -> D:
        """Open a database in the thread, and keep it; `hurry` hastens that at a cancellation."""
        opening = hand_over(self._thread, make)
        try:
            database = await asyncio.shield(opening)
        except BaseException:
            hurry()
            # In one go: a second cancellation must not come between the two.
            await to_the_end(self._loop.create_task(self._close_opening(opening)))
            raise
        self._database, self.batch_id = database, database.batch_id
        return database

    async def _close_opening(self, opening: asyncio.Future[D]) -> None:
        """Close what is opened at this moment, as soon as it is open."""
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:
            self._database = opening.result()
        await self.aclose()

    @property
    def gone(self) -> bool:
        """Whether the file was removed, and with it all that the ledger knew."""
        return self._database is not None and self._database.gone

    def post(self, change: str, job: JobRow) -> None:
        """Hand a job's change over without waiting for it."""
        self._group().changes.append((change, values_of(change, job)))

    async def write(self, change: str, job: JobRow, *, fold: bool = False) -> None:
        """Hand a job's change over and wait until it is on the disk. With `fold` it is in the
        database itself, not only in its log.
        """
        group = self._group()
        group.changes.append((change, values_of(change, job)))
        group.fold |= fold
        done = self._loop.create_future()
        group.waiters.append(done)
        await done

    async def call(self, call: Callable[[Database], T]) -> T:
        """Call a function with the open database, in the ledger's thread and inside a transaction.

        Its own error is raised here, and ends the ledger: the whole group was rolled back.
        """
        done: asyncio.Future[T] = self._loop.create_future()
        self._group().calls.append((call, done))
        return await done

    def _group(self) -> _Group:
        if self._failure is not None:
            raise self._failure
        if self._next is None:
            self._next = _Group()
            if self._writing is None:
                self._gather()
        return self._next

    def _gather(self) -> None:
        self._timer = self._loop.call_later(GATHER_SECONDS, self._begin)

    def _begin(self) -> None:
        """Write the group that has gathered."""
        group, self._next, self._timer = self._next, None, None
        if group is None or self._database is None:
            return
        calls = [call for call, _ in group.calls]
        self._writing = hand_over(
            self._thread, self._database.apply, group.changes, calls, group.fold
        )
        self._writing.add_done_callback(lambda written: self._end(group, written))

    def _end(self, group: _Group, written: asyncio.Future[list[Any]]) -> None:
        self._writing = None
        error = written.exception()
        if error is None:
            group.answer(written.result())
            if self._next is not None:
                self._gather()
            return
        self._failure = reason = (
            error
            if isinstance(error, LedgerError)
            else LedgerError(f"the ledger's thread failed: {error!r}", charged="unknown")
        )
        for each in (group, self._next):
            if each is not None:
                each.fail(error, reason)
        self._next = None
        self.lost.set_exception(reason)
        self.lost.exception()  # looked at: there may be no run that waits for it

    async def aclose(self) -> None:
        """Write what has gathered, fold the log in, and end the thread; may be called twice.

        Another program that holds the ledger is waited for only a little longer.
        """
        if self._database is not None:
            self._database.hurry()
        while self._timer is not None or self._writing is not None:
            if self._timer is not None:
                self._timer.cancel()
                self._begin()
            if self._writing is not None:
                await asyncio.wait([self._writing])
        database, self._database = self._database, None
        failure, self._failure = self._failure, LedgerError("the ledger is closed")
        try:
            if database is not None:
                await hand_over(self._thread, database.close, failure is None)
        except LedgerError as error:
            logger.warning(
                "the ledger was closed without folding its log in, which holds what is missing: %s",
                error,
                extra={"action": "ledger_not_folded"},
            )
        finally:
            self._thread.shutdown(wait=False)
