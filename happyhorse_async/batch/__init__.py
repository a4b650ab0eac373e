"""Durable batches: a folder with the videos and a ledger, worked on until everything that is wanted
is there.
"""

from __future__ import annotations

from .._rules.lifecycle import JobState
from ._batch import Batch
from ._daily_limit import WaitingForReset
from ._jobs import Job, JobChanged
from ._outcome import Outcome, SavedOutcome, Totals, UnsavedOutcome
from ._run import Outcomes
from ._sweep import sweep

__all__ = [
    "Batch",
    "Job",
    "JobChanged",
    "JobState",
    "Outcome",
    "Outcomes",
    "SavedOutcome",
    "Totals",
    "UnsavedOutcome",
    "WaitingForReset",
    "sweep",
]
