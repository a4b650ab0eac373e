"""Draws two moments of a board on the terminal it is given: `python -m tests.cli.draw_board`.

The second one has fewer rows; a newline then ends it, so that the board can be looked at.
"""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal
from typing import Any

from happyhorse_async import APIConnectionError, Session
from happyhorse_async._rules.lifecycle import JobState
from happyhorse_async.batch import Totals
from happyhorse_async.cli._board import BatchDisplay
from happyhorse_async.events import Retrying

BUSY = Totals(
    states={
        JobState.NEW: 6,
        JobState.SUBMITTING: 3,
        JobState.RUNNING: 5,
        JobState.COMPLETED: 2,
        JobState.SAVED: 10,
        JobState.FAILED: 2,
    },
    spent=Decimal("228.48"),
    reserved=Decimal("114.24"),
    failures={"content_policy_violation": 1, "generation_failed_no_content": 1},
    dying=1,
)
CALM = Totals(states={JobState.SAVED: 28, JobState.FAILED: 2}, spent=Decimal("639.74"))


class StandIn:
    """Stands where a batch is not asked."""


async def main() -> None:
    """Draw the moment that was asked for."""
    now = 1000.0
    batch: Any = StandIn()
    async with Session("k" * 32) as session:
        display = BatchDisplay(session, batch, as_json=False, expected=30, clock=lambda: now)
        now += 120
        refused = "POST /v1/videos/generations: Connection refused"
        for attempt in range(14):
            event = Retrying(
                what="submission",
                error=APIConnectionError(refused),
                pause=20.0,
                attempt=attempt,
            )
            session._open().events.emit(event)
        display._ended = 8
        with display:
            assert display._live is not None
            display._live.update(display.board(BUSY), refresh=True)
            if sys.argv[1] == "calm":
                display._trouble.times = 0
                display._live.update(display.board(CALM), refresh=True)
            print("drawn", file=sys.stdout, flush=True)
            await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main())
