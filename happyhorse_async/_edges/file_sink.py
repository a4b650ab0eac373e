"""Where a video's bytes go (`Sink`); and the one that is a part file, whose steps run in worker
threads.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from .._concurrency import Threads
from .._formats.http_ranges import Held
from .._formats.mp4 import Movie
from ..errors import DownloadError, HappyHorseError
from .part_files import PartFile

T = TypeVar("T")


class Sink(Protocol):
    """Where the bytes of one video go. One call at a time."""

    async def open(self) -> Held:
        """Say what is there already, ready to be resumed."""

    async def restart(self, held: Held, pieces: Sequence[bytes]) -> None:
        """Begin anew, with the version of the file that is described and its first bytes. Raises as
        `require` and `write` do.
        """

    async def require(self, needed: int) -> None:
        """Raise `DownloadError` when there is no room for so many more bytes."""

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append bytes."""

    async def publish(self, pieces: Sequence[bytes], anew: Held | None = None) -> tuple[str, Movie]:
        """Append the last bytes, verify all, and only then make it visible under its name. Return
        its SHA-256 and description.

        With `anew` these are all bytes of that version of the file, as with `restart`. Raises
        `BrokenVideoError`.
        """

    async def reject(self, page: bytes | None = None) -> str:
        """Keep what is there beside the final name, or a page that came instead; return where."""

    async def discard(self) -> None:
        """Throw away what is there."""

    async def close(self) -> None:
        """Leave what is there for another attempt."""

    async def release(self) -> None:
        """Let go of everything: there will be no other attempt in this call."""


class FileSink:
    """Streams one video into a part file; see `Sink`."""

    def __init__(self, file: PartFile, threads: Threads, *, new: bool) -> None:
        self._file = file
        self._threads = threads
        self._new = new

    async def _do(self, call: Callable[[], T], *, last: bool = False) -> T:
        try:
            return await self._threads.run(call, last=last)
        except HappyHorseError:
            raise
        except OSError as error:
            raise disk_error(error, str(self._file.final)) from error

    async def open(self) -> Held:
        """Open the part file, and hash what is in it. That is done some at a time, so that a
        cancellation is soon obeyed.
        """
        if self._new:
            self._new = False
            return Held()
        await self._do(self._file.open)
        while self._file.held.size and await self._do(self._file.rehash):
            pass
        return self._file.held

    async def restart(self, held: Held, pieces: Sequence[bytes]) -> None:
        """Empty the part file, and write the first bytes."""
        await self._do(lambda: self._append(pieces, held))

    def _append(self, pieces: Sequence[bytes], anew: Held | None) -> None:
        if anew is not None:
            self._file.restart(anew)
            self._file.require(anew.length or 0)
        self._file.write(pieces)

    async def require(self, needed: int) -> None:
        """Look whether there is room."""
        await self._do(lambda: self._file.require(needed))

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Write and hash in one hand-over to a thread."""
        await self._do(lambda: self._file.write(pieces))

    async def publish(self, pieces: Sequence[bytes], anew: Held | None = None) -> tuple[str, Movie]:
        """Write the last bytes; verify, sync and name the file. All in one hand-over to a thread,
        also for a file that is whole in its first bytes.
        """

        def finish() -> tuple[str, Movie]:
            self._append(pieces, anew)
            return self._file.publish()

        return await self._do(finish)

    async def reject(self, page: bytes | None = None) -> str:
        """Keep what is there, or a page that came instead, beside the final name."""
        return str(await self._do(lambda: self._file.reject(page)))

    async def discard(self) -> None:
        """Remove the part file and its note."""
        await self._do(self._file.discard, last=True)

    async def release(self) -> None:
        """Have nothing to let go of: `close` has."""

    async def close(self) -> None:
        """Close the part file; it stays."""
        self._new = False
        if self._file.is_open:
            await self._do(self._file.close, last=True)


def disk_error(error: OSError, path: str) -> DownloadError:
    """Turn an error of the operating system into one of ours."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    step = "Free some space" if full else "Make the place writable, or choose another path"
    return DownloadError(
        f"{path} cannot be written: {error.strerror or error}",
        path=path,
        next_step=f"{step}, then call download() again: it goes on where it stopped.",
    )
