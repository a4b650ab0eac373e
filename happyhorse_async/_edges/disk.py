"""Folders whose names survive a loss of power. Blocks, and runs in worker threads."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

_NO_FOLDER_SYNC = frozenset(
    {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)
"""What file systems answer that cannot sync a folder, as some over a network; the video is in place
by then."""


def make_folders(folder: Path) -> None:
    """Make a folder and those above it; their names are synced too, since a video in a folder that
    is lost is lost.
    """
    if folder.is_dir() or folder == folder.parent:
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where its file system can."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a folder that may be written to but not read cannot be synced
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
