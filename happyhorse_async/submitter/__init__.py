"""One request -> one task, exactly once; many under a limit."""

from __future__ import annotations

from .submitter import Orphan, Submissions, Submitter

__all__ = ["Orphan", "Submissions", "Submitter"]
