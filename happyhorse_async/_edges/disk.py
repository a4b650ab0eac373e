"""Folders whose names survive a loss of power, and what else only a disk can tell.

Blocks, and runs in worker threads.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    with synced_folder(folder):
        pass


@contextmanager
def synced_folder(folder: Path) -> Iterator[None]:
    """Make the names in a folder durable after they were changed, where its file system can.

    The folder is opened first: when no descriptor is left, nothing has been changed yet.
    """
    descriptor = -1
    if sys.platform != "win32":
        # A folder that may be written to but not read cannot be synced.
        with suppress(PermissionError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
        if descriptor >= 0:
            _sync(descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


def out_of_descriptors(error: BaseException) -> bool:
    """Whether an error came because this process, or the machine, has no file descriptor left.

    That is over as soon as others close theirs. A name that cannot be looked up does not say why,
    so it is tried whether a descriptor can be had now.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NO_DESCRIPTORS:
            return True
        if isinstance(cause, socket.gaierror):
            return not _has_descriptors()
        inner = getattr(cause, "os_error", None)
        cause = inner if isinstance(inner, OSError) else cause.__cause__
    return False


def _has_descriptors() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno not in NO_DESCRIPTORS
    return True
