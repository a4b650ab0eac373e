"""One request -> one task, exactly once; many under a limit."""

from __future__ import annotations

from .gate import Group
from .shared import Beside, Earlier, Orphan
from .submitter import Submitter

__all__ = ["Beside", "Earlier", "Group", "Orphan", "Submitter"]
