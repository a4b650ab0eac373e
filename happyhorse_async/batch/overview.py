"""How a batch stands, read from its ledger alone, also while another process writes it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import attrs

from .jobs import Totals
from .store import LEDGER_NAME, Store

PACE_SECONDS = 900.0
"""The rate is that of the last quarter of an hour."""


@attrs.frozen(kw_only=True)
class Overview:
    """What `happyhorse batch status` shows."""

    folder: str
    totals: Totals
    per_hour: float
    """Jobs that ended, by the pace of the last quarter of an hour."""
    run: int
    """The last run's number; 0 when there was none."""
    pid: int
    started: float
    """Unix seconds."""
    how: str | None
    """How the last run ended: "done", "stopped", "failed", "cancelled"; None while it goes on, or when it was killed."""

    def as_json(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        totals = self.totals
        return {
            "folder": self.folder,
            "states": {state.value: count for state, count in totals.states.items()},
            "jobs": totals.jobs,
            "credits_spent": totals.spent,
            "credits_reserved": totals.reserved,
            "failures": dict(totals.failures),
            "links_about_to_die": totals.dying,
            "first_death": totals.first_death,
            "per_hour": round(self.per_hour, 1),
            "run": {"number": self.run, "pid": self.pid, "started": self.started, "ended": self.how},
        }


def overview(folder: Path) -> Overview:
    """Read a folder's ledger without touching it; raises `LedgerError` when there is none."""
    store = Store(folder / LEDGER_NAME, read_only=True)
    try:
        now = time.time()
        number, pid, started, _, how = store.last_run() or (0, 0, now, None, None)
        span = max(1.0, min(PACE_SECONDS, now - started))
        ended = store.ended_since(now - span)
        return Overview(
            folder=str(folder), totals=store.totals(), per_hour=3600 * ended / span, run=number, pid=pid, started=started, how=how
        )
    finally:
        store.close(fold=False)
