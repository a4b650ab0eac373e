"""Link -> verified file, earliest deadline first."""

from __future__ import annotations

from .downloader import Downloader, Leftover, leftovers

__all__ = ["Downloader", "Leftover", "leftovers"]
