"""One scheduler for all waiters of a session."""

from __future__ import annotations

from .poller import Poller
from .waiters import Updates, Watch

__all__ = ["Poller", "Updates", "Watch"]
