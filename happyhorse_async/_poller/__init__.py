"""One scheduler for all waiters of a session."""

from __future__ import annotations

from .poller import Poller
from .waiters import Updates, Watch
from .watchlist import Watchlist

__all__ = ["Poller", "Updates", "Watch", "Watchlist"]
