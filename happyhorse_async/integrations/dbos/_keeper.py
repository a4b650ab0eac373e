"""Who is alive: each worker holds a lock of the database's, which ends with its connection.

The locks of the others are tried every few seconds. A worker whose lock is free is dead. Its jobs
go back into the queue. This takes the place of the recovery that DBOS sells with its conductor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from ..._concurrency import heed_cancellation, to_the_end
from ..._edges.disk import FolderLock
from ...errors import LedgerError
from ._connection import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    WORKER_LOCKS,
    cluster_queries,
    in_postgres,
    reconnected,
)
from ._sqlite import GLANCE, SqliteConnection, is_sqlite, lock_of, path_of

logger = logging.getLogger("happyhorse_async")

T = TypeVar("T")

ROUND = 2.0
"""Seconds between two looks at the others."""
RECALL = 30
"""Rounds between two looks for workers that are not noted and have jobs."""
GRACE = 12.0
"""Seconds after a start of the database in which nobody is taken for dead. All have lost their
locks, and those that live take them again."""

_YOUNG = "SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8 < ?"


class Keeper:
    """Keeps one worker's lock, and looks after the others. Belongs to one event loop."""

    def __init__(self, url: str, adopt: Callable[[int], Awaitable[int]]) -> None:
        """`adopt` takes over a dead worker's jobs, and says how many."""
        self._url = url
        self._adopt = adopt
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self.id = 0
        """This worker's number."""
        self.in_hand = 0
        self.adopted = 0
        self.word = ""
        self._started = time.time()
        self._rounds = 0

    async def enter(self) -> None:
        """Get a number and its lock; raises the driver's errors when the database is not there."""
        connection = await self._connect()
        async with connection.transaction():
            # In one transaction: a number without a lock would be taken for a dead worker's.
            await self._add()
            await connection.execute("SELECT pg_advisory_lock(%s, %s)", (WORKER_LOCKS, self.id))

    async def keep(self) -> None:
        """Say that this worker is there, and look after the others, until it is cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self._round()
                pause = FIRST_PAUSE
                await asyncio.sleep(ROUND)
            except (psycopg.Error, sqlite3.Error, SQLAlchemyError, OSError) as error:
                heed_cancellation()
                logger.debug("the others cannot be looked at now: %s", error)
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)

    async def aclose(self, *, finished: bool = False) -> None:
        """Let go of the lock; unless all is `finished`, whoever looks next takes over the rest."""
        if self._connection is None:
            return
        with suppress(psycopg.Error, OSError):
            if finished:
                await self._rows("drop-worker", self.id)
        await self._connection.close()

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        before = self._connection
        connection = self._connection = await reconnected(before, self._url)
        if connection is not before and self.id and not await self._lock(self.id):
            await connection.close()
            raise psycopg.OperationalError("somebody looks at this worker's lock just now")
        return connection

    async def _add(self) -> None:
        who = socket.gethostname(), os.getpid()
        [[number]] = await self._rows("add-worker", *who, self._started, time.time())
        self.id = int(number)

    async def _note(self) -> None:
        who = self.id, socket.gethostname(), os.getpid(), self._started
        how = time.time(), self.in_hand, self.adopted, self.word
        await self._rows("note-worker", *who, *how)
        if self._rounds % RECALL == 0:
            await self._rows("recall-workers")
        self._rounds += 1

    async def _round(self) -> None:
        await self._connect()
        await self._note()
        [[young]] = await self._rows(_YOUNG, GRACE)
        # The workers whose locks nobody holds, with one look at all locks.
        for (other,) in await self._rows("suspects", WORKER_LOCKS, self.id) if not young else ():
            if not await self._lock(other):
                continue
            try:
                await self._bury(other)
            finally:
                await self._rows("SELECT pg_advisory_unlock(?, ?)", WORKER_LOCKS, other)

    async def _bury(self, other: int) -> None:
        count = await self._adopt(other)
        self.adopted += count
        await self._rows("drop-worker", other)
        if count:
            logger.warning(
                "worker %d is gone: its %d jobs go on elsewhere",
                other,
                count,
                extra={"action": "worker_buried", "worker": other, "count": count},
            )

    async def _lock(self, number: int) -> bool:
        [[got]] = await self._rows("SELECT pg_try_advisory_lock(?, ?)", WORKER_LOCKS, number)
        return bool(got)

    async def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a query, by its name or as it is, and return its rows if it has any."""
        assert self._connection is not None, "the connection is made first"  # noqa: S101
        sql = cluster_queries().get(query, query)
        cursor = await self._connection.execute(in_postgres(sql), values)
        return await cursor.fetchall() if cursor.description is not None else []


class LoneKeeper(Keeper):
    """The keeper of a file of SQLite: its lock is for one worker, so all others are dead."""

    _held: tuple[FolderLock, SqliteConnection] | None = None

    async def enter(self) -> None:
        """Get the lock and a number; raises `LedgerError` when another worker has the file."""
        await _in_thread(self._take)
        await self._add()

    async def aclose(self, *, finished: bool = False) -> None:
        """Let go of the file; unless all is `finished`, the next worker takes over the rest."""
        if self._held is None:
            return
        lock, file = self._held
        with suppress(sqlite3.Error):
            if finished:
                await self._rows("drop-worker", self.id)
        file.close()
        lock.release()

    def _take(self) -> None:
        """Take the lock and open the file; what is had is kept at once, so that `aclose` finds it,
        whatever comes in between.
        """
        lock = lock_of(path_of(self._url))
        for patience in (*[GLANCE] * 10, None):
            try:
                lock.take()
                break
            except LedgerError as error:
                if isinstance(error.__cause__, OSError):
                    raise  # there are no locks in this place
                if patience is None:
                    raise LedgerError(
                        f"{path_of(self._url)} has its one worker: {lock.holder()}",
                        next_step="Leave it to that one, or stop it. Several workers need "
                        "--database postgresql://user@host/name.",
                    ) from error
                # Whoever looks at the state holds the lock for an instant.
                time.sleep(patience)
            except OSError as error:
                raise LedgerError(
                    f"nothing can be written beside {path_of(self._url)}: {error.strerror or error}"
                ) from error
        try:
            self._held = lock, SqliteConnection.to(self._url, one_thread=False)
        except BaseException:
            lock.release()
            raise

    async def _round(self) -> None:
        await self._note()
        for (other,) in await self._rows("SELECT id FROM workers WHERE id <> ?", self.id):
            await self._bury(other)

    async def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        assert self._held is not None, "the file is opened first"  # noqa: S101
        _, file = self._held
        sql = cluster_queries().get(query, query)
        return await _in_thread(lambda: file.execute(sql, values).fetchall())


async def _in_thread(work: Callable[[], T]) -> T:
    """Do what blocks in a thread, to its end: nobody closes a file that it still uses."""
    return await to_the_end(asyncio.get_running_loop().run_in_executor(None, work))


def keeper_of(url: str, adopt: Callable[[int], Awaitable[int]]) -> Keeper:
    """Return the keeper for a database's link."""
    return (LoneKeeper if is_sqlite(url) else Keeper)(url, adopt)
