"""How fast an account's workers submit together: each submission waits for a place in one row.

The row is one number in the database, the moment of the next place, by the database's clock. A
worker takes a few places at once and sends each request at its moment. A request that comes too
late for its place leaves it empty and takes another one. So requests that a stalled machine held
back never leave as a burst.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import attrs
import psycopg

from ..._concurrency import heed_cancellation
from ._connection import FIRST_PAUSE, LONGEST_PAUSE, cluster_queries, in_postgres, reconnected

logger = logging.getLogger("happyhorse_async")

TOLERANCE = 0.1
"""Seconds by which a submission may come late for its place. Places are so much farther apart that
no second can have more submissions than the rate, however their lateness falls."""
MOST_OVER = 1.2
"""How many times the rate any one second may have at the service."""
MOST_AHEAD = 0.5
"""Seconds of places that one worker takes at once: what it leaves empty when it dies."""
LONGEST_LEAD = 1.0
"""Seconds into the future from which places are taken at most, for a slow database's sake."""

Slots: TypeAlias = Callable[[float, float], Awaitable[tuple[float, float]]]
"""Takes places: for how soon and how long, in seconds; tells their beginning and the time now."""


def gap(rate: float) -> float:
    """Return the seconds between two places, for a rate of submissions a second.

    A second and its tolerance hold `rate` places. That leaves a fifth of the rate for the way to
    the service and a service that looks late. At low rates they lie so far apart that no second
    holds over 1.2 times the rate, or one.
    """
    most = max(1, math.floor(MOST_OVER * rate))
    return (1 + TOLERANCE) * max(1 / rate, 1.001 / most)


@attrs.define
class Clocks:
    """How far the database's clock is ahead of the event loop's, by the quickest answer of late."""

    ahead: float = 0.0
    error: float = math.inf
    measured: float = -math.inf
    lead: float = 0.02

    def learn(self, sent: float, received: float, database: float) -> None:
        """Take note of an answer: when it was asked for, when it came, and what its clock said."""
        trip = received - sent
        self.lead = min(LONGEST_LEAD, 0.01 + 2 * trip)
        if trip <= self.error or received - self.measured > 60:
            self.ahead, self.error, self.measured = database - received + trip / 2, trip, received


class AccountPace:
    """The row of submissions as one worker sees it. Belongs to one event loop."""

    def __init__(self, url: str, slots: Slots | None) -> None:
        """`slots` takes places in a row where no connection to PostgreSQL can."""
        self._url = url
        self._slots = slots or self._slots_over_postgres
        self.rate: float | None = None
        """Submissions a second over all workers; None: no limit."""
        self._clocks = Clocks()
        self._waiting: deque[asyncio.Future[float]] = deque()
        """Those who wait for a place: told its moment, by the event loop's clock."""
        self._asking: asyncio.Task[None] | None = None
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def permit(self) -> None:
        """Wait for the moment at which one submission may leave."""
        loop = asyncio.get_running_loop()
        while self.rate is not None:
            slot = await self._slot(loop)
            await asyncio.sleep(max(0.0, slot - loop.time()))
            if loop.time() <= slot + TOLERANCE:
                return

    async def aclose(self) -> None:
        """Take no more places, and close the connection."""
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking
        for told in self._waiting:
            told.cancel()
        if self._connection is not None:
            await self._connection.close()

    async def _slot(self, loop: asyncio.AbstractEventLoop) -> float:
        told: asyncio.Future[float] = loop.create_future()
        self._waiting.append(told)
        if self._asking is None or self._asking.done():
            self._asking = loop.create_task(self._ask())
        return await told

    async def _ask(self) -> None:
        """Take places until nobody waits for one; a lost database is waited for."""
        pause = FIRST_PAUSE
        while self._live():
            rate = self.rate or 1e6
            count = min(len(self._waiting), max(1, int(rate * MOST_AHEAD)))
            try:
                slots = await self._take(count, gap(rate))
            except (psycopg.Error, OSError) as error:
                heed_cancellation()
                logger.debug("no place can be had now: %s", error)
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)
                continue
            pause = FIRST_PAUSE
            for slot in slots:
                if self._live():
                    self._waiting.popleft().set_result(slot)

    def _live(self) -> bool:
        """Forget those that wait no longer; return whether anybody does."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        return bool(self._waiting)

    async def _take(self, count: int, apart: float) -> list[float]:
        loop = asyncio.get_running_loop()
        span, sent = count * apart, loop.time()
        start, now = await self._slots(self._clocks.lead, span)
        self._clocks.learn(sent, loop.time(), now)
        first = start - self._clocks.ahead
        return [first + n * apart for n in range(count)]

    async def _slots_over_postgres(self, lead: float, span: float) -> tuple[float, float]:
        connection = self._connection = await reconnected(self._connection, self._url)
        sql = in_postgres(cluster_queries()["slots"])
        [(start, now)] = await (await connection.execute(sql, (lead, span, span))).fetchall()
        return start, now
