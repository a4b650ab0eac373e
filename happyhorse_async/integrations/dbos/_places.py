"""Where a cluster's videos go: a folder that all workers see, or a prefix of an object store."""

from __future__ import annotations

import os
from pathlib import Path

from ..._downloader.destinations import is_object_link
from ...batch._videos import StoreFolder, VideoFolder


def place_of(out: str | os.PathLike[str]) -> str:
    """Return a place as it is noted: an absolute path, or a link without a slash at its end."""
    text = os.fspath(out)
    return text.rstrip("/") if is_object_link(text) else os.path.abspath(text)


def videos_at(place: str) -> VideoFolder:
    """Return the videos of a place. Raises `ConfigurationError` for a store that cannot be
    opened.
    """
    return StoreFolder(place) if is_object_link(place) else VideoFolder(Path(place))


def folder_of(place: str) -> Path:
    """Return the folder for reports: beside the videos, or here when those are in a store."""
    return Path() if is_object_link(place) else Path(place)
