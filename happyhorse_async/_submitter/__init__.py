"""One request -> one task, exactly once; many under a limit."""

from __future__ import annotations

from .submitter import Group, Orphan, Submitter

__all__ = ["Group", "Orphan", "Submitter"]
