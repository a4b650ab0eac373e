"""Jobs whose workflows somebody cancels with DBOS's own tools.

Before its submission such a job ends. One that is, or may be, paid for goes on: its video is not
given up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable

from dbos import DBOS
from dbos import error as dbos_errors

from ...batch._jobs import JobRow
from ...batch._outcome import Outcome, outcome_of
from ...batch._videos import VideoFolder
from ._ledger import ClusterLedger

logger = logging.getLogger("happyhorse_async")

HEED = 2.0
"""Seconds between two looks."""
FAULT = json.dumps(
    {
        "code": "cancelled",
        "message": "its workflow was cancelled before anything was submitted",
        "charged": "no",
        "next_step": "To have it made after all, enter its row again with --retry-failed.",
    }
)
"""Why such a job has no video, as the ledger keeps it."""


class Cancelled:
    """Looks for cancelled jobs, for one worker."""

    def __init__(
        self, ledger: ClusterLedger, videos: VideoFolder, told: Callable[[Outcome], None]
    ) -> None:
        self._ledger = ledger
        self._videos = videos
        self._told = told
        logging.getLogger("dbos").addFilter(is_trouble)

    async def heed(self, owed: str) -> None:
        """End or go on with what nobody has in hand, until this is cancelled; `owed` is the queue
        of jobs that are, or may be, paid for.
        """
        while True:
            await self.end()
            worker = self._ledger.database.worker
            paid = await self._ledger.call_cluster("rows", "take-cancelled", worker)
            if paid:
                logger.warning(
                    "%d jobs were cancelled, and go on: they are, or may be, paid for",
                    len(paid),
                    extra={"action": "cancelled_go_on", "count": len(paid)},
                )
                await DBOS.resume_workflows_async([each for (each,) in paid], queue_name=owed)
            await asyncio.sleep(HEED)

    async def end(self, seq: int = 0) -> bool:
        """End jobs that were cancelled before their submission; return whether there were any.

        They are in nobody's hands, except for `seq`, which is in this worker's.
        """
        rows = await self._ledger.call_cluster("rows", "end-cancelled", FAULT, time.time(), seq)
        for row in rows:
            self._told(outcome_of(JobRow.of_row(row), self._videos))
        return bool(rows)


def is_trouble(record: logging.LogRecord) -> bool:
    """Whether DBOS tells of what is wrong.

    It is no error that a cancelled workflow has come to its end: of that we tell ourselves. Nor is
    it that DBOS took a job out of the queue while the worker ended: the next one goes on with it.
    """
    error = record.exc_info[1] if record.exc_info else None
    ending = isinstance(error, RuntimeError) and "after shutdown" in str(error)
    return not (ending or isinstance(error, dbos_errors.DBOSAwaitedWorkflowCancelledError))
