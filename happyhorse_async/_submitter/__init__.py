"""One request -> one task, exactly once; many under a limit."""

from __future__ import annotations

from .submitter import Beside, Group, Orphan, Submitter

__all__ = ["Beside", "Group", "Orphan", "Submitter"]
