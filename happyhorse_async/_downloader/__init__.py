"""Link -> verified file, earliest deadline first."""

from __future__ import annotations

from .._edges.part_notes import Leftover
from .downloader import Downloader

__all__ = ["Downloader", "Leftover"]
