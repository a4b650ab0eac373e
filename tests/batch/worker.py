"""A process that works on a batch and is killed for it: `python -m tests.batch.worker FOLDER
MANIFEST`.

The service comes from the environment, and so may a moment to die in. Prints "open" once the ledger
is open, and "done" at the end.
"""

from __future__ import annotations

import asyncio
import os
import sys

import attrs

from happyhorse_async import Budget, Polling, RetryPolicy, Session
from happyhorse_async.batch._manifest import Manifest
from tests.downloader.victim import PHASES

POLLING = Polling(
    target_delay=0.02, min_interval=0.02, max_interval=0.1, max_reads_per_minute=1_000_000
)
RETRY = RetryPolicy(first_pause=0.01, longest_pause=0.05)
PAUSES = {"first_pause": 3600.0, "longest_pause": 3600.0}
"""Of a process that is killed before the next attempt of a job."""


async def main(folder: str, manifest: str) -> None:
    """Run the batch once."""
    PHASES.get(os.environ.get("BATCH_DIES", ""), lambda: None)()
    budget = os.environ.get("BATCH_CREDITS")
    options = {
        "max_in_flight": 12,
        "retry": attrs.evolve(RETRY, **PAUSES) if "BATCH_PAUSES" in os.environ else RETRY,
        "budget": Budget(credits=budget) if budget else None,
    }
    async with (
        Session(polling=POLLING, retry=RETRY) as session,
        session.batch(folder, **options) as batch,
    ):
        print("open", flush=True)
        async for outcome in batch.run(Manifest(manifest).jobs()):
            if outcome.error is not None:
                print(outcome.id, repr(outcome.error), flush=True)
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
