"""Room for a few at once, given by urgency."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Slots:
    """Room for so many at once; who waits is let in by urgency, not by arrival."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrival = itertools.count()
        self._refusal: Callable[[], Exception] | None = None

    @asynccontextmanager
    async def hold(self, urgency: float) -> AsyncIterator[None]:
        """Wait for room, and hold it; raises what `close` was given."""
        await self._enter(urgency)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, urgency: float) -> None:
        if self._refusal is not None:
            raise self._refusal()
        if self._room > 0:
            self._room -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._arrival), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the room was given at the moment of the cancellation: it goes to the next
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._room += 1

    def close(self, refusal: Callable[[], Exception]) -> None:
        """Let nobody in any more: everyone who waits gets an error of their own, and so does who comes."""
        self._refusal = refusal
        for _, _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(refusal())
                turn.exception()  # looked at, in case that who waits is cancelled at this moment
        self._waiting.clear()
