"""One request -> one task, exactly once; many under a limit."""

from __future__ import annotations

from .submitter import Beside, Earlier, Group, Orphan, Submitter

__all__ = ["Beside", "Earlier", "Group", "Orphan", "Submitter"]
