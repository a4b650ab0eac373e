"""Durable batches: a folder with the videos and a ledger, worked on until everything that is wanted is there."""

from __future__ import annotations

from ..rules.lifecycle import JobState
from .jobs import Job, JobChanged, Outcome, Totals
from .runner import Batch, Outcomes

__all__ = ["Batch", "Job", "JobChanged", "JobState", "Outcome", "Outcomes", "Totals"]
