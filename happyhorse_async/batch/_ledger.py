"""The ledger as the event loop sees it: changes are handed to one thread, which writes whatever has
gathered as one transaction.

Grouping is what keeps the ledger out of the way: a group is one wake-up of the thread, a handful of
statements, one sync of the disk and one call back into the loop, however many jobs are in it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import LedgerError
from ._database import LEDGER_NAME, Change, Store

T = TypeVar("T")

GATHER_SECONDS = 0.002
"""How long a group gathers: nothing beside a video's minutes, and enough to take many jobs along
when many are on the move."""


class _Group:
    """What is written together."""

    __slots__ = ("calls", "changes", "fold", "waiters")

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.waiters: list[asyncio.Future[None]] = []
        self.calls: list[tuple[Callable[[Store], Any], asyncio.Future[Any]]] = []
        self.fold = False


class Ledger:
    """An open ledger, for one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._next: _Group | None = None
        self._lock = threading.Lock()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._opened: asyncio.Future[str] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="happyhorse ledger", daemon=True)
        self._failure: LedgerError | None = None
        self.on_failure: Callable[[LedgerError], None] | None = None
        """Called once, in the loop, when the ledger cannot be written any more."""
        self.batch_id = ""

    @classmethod
    async def open(cls, folder: Path) -> Ledger:
        """Open a folder's ledger, made when there is none; raises `LedgerError` when it is damaged,
        newer, or no ledger.
        """
        ledger = cls(folder / LEDGER_NAME)
        ledger._thread.start()
        ledger.batch_id = await ledger._opened
        return ledger

    # --- the loop's side --------------------------------------------------------------------------

    def post(self, kind: str, *row: Any) -> None:
        """Hand a change over without waiting for it."""
        with self._lock:
            self._group().changes.append((kind, row))

    async def write(self, kind: str, *row: Any, fold: bool = False) -> None:
        """Hand a change over and wait until it is on the disk; with `fold` in the database itself,
        not only in its log.
        """
        done = self._loop.create_future()
        with self._lock:
            group = self._group()
            group.changes.append((kind, row))
            group.waiters.append(done)
            group.fold |= fold
        await done

    async def call(self, call: Callable[[Store], T]) -> T:
        """Call a function with the open store, in the ledger's thread and inside a transaction."""
        done: asyncio.Future[T] = self._loop.create_future()
        with self._lock:
            self._group().calls.append((call, done))
        return await done

    def _group(self) -> _Group:
        if self._failure is not None:
            raise self._failure
        if self._next is None:
            self._next = _Group()
            self._wake.put(True)
        return self._next

    async def aclose(self) -> None:
        """Write what has gathered, fold the log in, and end the thread; may be called twice."""
        self._wake.put(False)
        await asyncio.shield(asyncio.to_thread(self._thread.join))
        self._failure = self._failure or LedgerError("the ledger is closed")

    # --- the thread's side ------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            store = Store(self._path)
        except BaseException as error:  # noqa: BLE001 whatever it is, it belongs to the one who opens
            self._back(_fail, [self._opened], error)
            return
        self._back(_give, [(self._opened, store.batch_id)])
        try:
            while self._wake.get():
                time.sleep(GATHER_SECONDS)
                self._write(store)
            self._write(store)
            store.close(fold=self._failure is None)
        except LedgerError as error:
            self._broken(error, [])

    def _write(self, store: Store) -> None:
        with self._lock:
            group, self._next = self._next, None
        if group is None:
            return
        try:
            results = store.apply(group.changes, [call for call, _ in group.calls], fold=group.fold)
        except LedgerError as error:
            self._broken(error, [*group.waiters, *(done for _, done in group.calls)])
            return
        except BaseException as error:  # noqa: BLE001 a call's own error belongs to its caller; the group was rolled back as a whole
            self._broken(
                LedgerError(f"the ledger's thread failed: {error!r}", charged="unknown"),
                group.waiters,
            )
            self._back(_fail, [done for _, done in group.calls], error)
            return
        answers = [(done, result) for (_, done), result in zip(group.calls, results, strict=True)]
        self._back(_give, [*((done, None) for done in group.waiters), *answers])

    def _broken(self, error: LedgerError, waiting: Sequence[asyncio.Future[Any]]) -> None:
        first, self._failure = self._failure is None, self._failure or error
        self._back(_fail, waiting, error)
        if first and self.on_failure is not None:
            self._back(self.on_failure, error)

    def _back(self, function: Callable[..., None], *values: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *values)
        except RuntimeError:
            # The loop is closed: whoever waited is gone. What was written stays written.
            return


def _give(answers: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for done, value in answers:
        if not done.done():
            done.set_result(value)


def _fail(waiting: Sequence[asyncio.Future[Any]], error: BaseException) -> None:
    for done in waiting:
        if not done.done():
            done.set_exception(error)
