"""A part file as something to stream into: each step runs in a worker thread, and the system's errors become ours."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import DownloadError, HappyHorseError
from ..rules.mp4 import Movie
from ..rules.ranges import Held
from .disk import PartFile
from .threads import Threads

T = TypeVar("T")


class FileSink:
    """Streams one video into a part file; see `transfer.Sink`."""

    def __init__(self, file: PartFile, threads: Threads) -> None:
        self._file = file
        self._threads = threads

    async def _do(self, call: Callable[[], T]) -> T:
        try:
            return await self._threads.run(call)
        except HappyHorseError:
            raise
        except OSError as error:
            raise disk_error(error, str(self._file.final)) from error

    async def open(self) -> Held:
        """Open the part file, and hash what is in it, some at a time so that a cancellation is soon obeyed."""
        await self._do(self._file.open)
        while self._file.held.size and await self._do(self._file.rehash):
            pass
        return self._file.held

    async def restart(self, held: Held) -> None:
        """Empty the part file."""
        await self._do(lambda: self._file.restart(held))

    async def require(self, needed: int) -> None:
        """Look whether there is room."""
        await self._do(lambda: self._file.require(needed))

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Write and hash in one hand-over to a thread."""
        await self._do(lambda: self._file.write(pieces))

    async def publish(self) -> tuple[str, Movie]:
        """Verify, sync and name the file."""
        return await self._do(self._file.publish)

    async def discard(self) -> None:
        """Remove the part file and its note."""
        await self._do(self._file.discard)

    async def close(self) -> None:
        """Close the part file; it stays."""
        await self._do(self._file.close)


def disk_error(error: OSError, path: str) -> DownloadError:
    """Turn an error of the operating system into one of ours."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    step = "Free some space" if full else "Make the place writable, or choose another path"
    return DownloadError(
        f"{path} cannot be written: {error.strerror or error}",
        path=path,
        next_step=f"{step}, then call download() again: it goes on where it stopped.",
    )
