"""One writer for one folder: the operating system lets the lock go when its holder dies, however it
dies. The lock says who holds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from ..errors import LedgerError
from . import disk

LOCK_NAME = "happyhorse.lock"

_FAR = 1 << 30
"""Where the locked byte is. On Windows it cannot be read, and the text says who holds the lock."""


class FolderLock(disk.Locked):
    """The right to write in a batch's folder, held from `take` to `release` or until the process
    ends.
    """

    def __init__(self, folder: Path, *, name: str = LOCK_NAME) -> None:
        super().__init__()
        self._path = folder / name

    def take(self) -> None:
        """Take the lock; raises `LedgerError` with the holder's process id when another process has
        it.
        """
        if not self.try_take():
            raise LedgerError(
                f"the batch in {self._path.parent} is being worked on by {self.holder()}",
                next_step="Wait for that process, or stop it. Another folder would pay again for "
                "the same input.",
            )

    def try_take(self) -> bool:
        """Take the lock unless another process has it, and return whether it was taken; raises
        `LedgerError` where locks do not work.
        """
        self._file = file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            disk.lock_at_once(file, _FAR)
        except OSError as error:
            self.close_file()
            if error.errno in disk.LOCK_HELD:
                return False
            raise LedgerError(
                f"the file system of {self._path.parent} has no locks that work: "
                f"{error.strerror or error}",
                next_step="Put the folder on a local disk: network file systems often have no "
                "locks.",
            ) from error
        note = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S%z"),
        }
        # The lock holds without its note, which a full disk does not take.
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, json.dumps(note).encode())
        return True

    def holder(self) -> str:
        """Say who wrote into the lock's file last."""
        try:
            note = json.loads(self._path.read_bytes())
            return f"process {note['pid']} on {note['host']}, since {note['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Let go; the file stays, because taking it away could hit the lock of a process that came
        right after.
        """
        if self.is_open:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            self.close_file()
