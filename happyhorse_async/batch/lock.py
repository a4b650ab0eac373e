"""One writer for one folder: a lock that the operating system lets go when its holder dies, however it dies, and that says who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path

from ..errors import LedgerError

LOCK_NAME = "happyhorse.lock"

if sys.platform == "win32":
    import msvcrt

    # A byte far behind the text is locked: on Windows a locked byte cannot be read, and the text says who holds the lock.
    _FAR = 1 << 30

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FolderLock:
    """The right to write in a batch's folder, held from `take` to `release` or until the process ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock; raises `LedgerError` with the holder's process id when another process has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
        except OSError:
            os.close(descriptor)
            raise LedgerError(
                f"the batch in {self._path.parent} is being worked on by {self.holder()}",
                next_step="Wait for that process, stop it, or use another folder.",
            ) from None
        self._descriptor = descriptor
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S%z")}
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(note).encode())

    def holder(self) -> str:
        """Say who wrote into the lock's file last."""
        try:
            note = json.loads(self._path.read_bytes())
            return f"process {note['pid']} on {note['host']}, since {note['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Let go; the file stays, because taking it away could hit the lock of a process that came right after."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)
