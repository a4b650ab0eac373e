"""Where a video's bytes go: into a part file, or through one into an object store.

A part file's steps run in worker threads. For `save_to="s3://bucket/prefix/"`, gs:// or az:// the
part lies on this machine. It is verified, and put under its key with one request. So a store never
holds half of a video, and nothing is left behind in it when the process ends. With
`overwrite=False` that request is conditional: the store itself refuses to replace an object.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from .._concurrency import Threads
from .._formats import filenames
from .._formats.http_ranges import Held
from .._formats.mp4 import Movie
from ..errors import DestinationExistsError, DownloadError, HappyHorseError
from . import disk
from .object_store import ENDPOINTS, Bucket, refusal
from .part_files import PartFile, in_the_way

T = TypeVar("T")


class FileSink:
    """Streams one video into a part file. One call at a time."""

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
        """Open the part file, and say what is in it, ready to be resumed. It is hashed some at a
        time, so that a cancellation is soon obeyed.
        """
        if self._new:
            self._new = False
            return Held()
        await self._do(self._file.open)
        while self._file.held.size and await self._do(self._file.rehash):
            pass
        return self._file.held

    async def restart(self, held: Held, pieces: Sequence[bytes]) -> None:
        """Begin anew, with the version of the file that is described and its first bytes. Raises as
        `require` and `write` do.
        """
        await self._do(lambda: self._append(pieces, held))

    def _append(self, pieces: Sequence[bytes], anew: Held | None) -> None:
        if anew is not None:
            self._file.restart(anew)
            self._file.require(anew.length or 0)
        self._file.write(pieces)

    async def require(self, needed: int) -> None:
        """Raise `DownloadError` when there is no room for so many more bytes."""
        await self._do(lambda: self._file.require(needed))

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Append bytes: they are written and hashed in one hand-over to a thread."""
        await self._do(lambda: self._file.write(pieces))

    async def publish(self, pieces: Sequence[bytes], anew: Held | None = None) -> tuple[str, Movie]:
        """Append the last bytes, verify all, and only then make it visible under its name. Return
        its SHA-256 and description.

        With `anew` these are all bytes of that version of the file, as with `restart`. All is one
        hand-over to a thread. Raises `BrokenVideoError`.
        """

        def finish() -> tuple[str, Movie]:
            self._append(pieces, anew)
            return self._file.publish()

        return await self._do(finish)

    async def reject(self, page: bytes | None = None) -> str:
        """Keep what is there beside the final name, or a page that came instead; return where."""
        return str(await self._do(lambda: self._file.reject(page)))

    async def discard(self) -> None:
        """Remove the part file and its note."""
        await self._do(self._file.discard, last=True)

    async def close(self) -> None:
        """Close the part file, which stays for another attempt."""
        self._new = False
        if self._file.is_open:
            await self._do(self._file.close, last=True)


def disk_error(error: OSError, path: str) -> DownloadError:
    """Turn an error of the operating system into one of ours."""
    if error.errno in (errno.EISDIR, errno.ELOOP):
        return in_the_way(error.filename2 or error.filename or path)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    # A disk that is full may have bytes left, and no room for the name of another file.
    space = "Free some space, or take files away where no more of them fit"
    step = space if full else "Make the place writable, or choose another path"
    return DownloadError(
        f"{path} cannot be written: {error.strerror or error}",
        path=path,
        next_step=f"{step}, then call download() again: it goes on where it stopped.",
    )


LONGEST_KEY = 1024
"""Bytes of a key, in all usual stores."""
KEPT_SECONDS = 48 * 3600.0
"""A part that nobody resumed for so long is taken away: its link died a day ago."""


async def refuse_unusable(bucket: Bucket, key: str, *, known: bool, overwrite: bool) -> None:
    """Raise `DownloadError` when no video can be put under a key, as far as the store can say. It
    is asked for the bucket, the key, the rights under its prefix, and conditional puts.

    With `known=False` it is only a key like the one that will be.
    """
    link = f"{bucket.link}/{key}"
    refuse_key(bucket.link, key)
    if known and not overwrite and await bucket.size(key) is not None:
        raise DestinationExistsError(f"{link} exists already", path=link)
    await bucket.prove(key, create=not overwrite)


def refuse_key(link: str, key: str) -> None:
    """Raise `DownloadError` for a key that no object can have."""
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        problem = 'its key has an empty segment, or one that is "." or ".."'
    elif not key.isprintable():
        problem = "its key has characters that cannot be printed"
    elif (size := len(key.encode())) > LONGEST_KEY:
        problem = f"its key has {size} bytes, more than {LONGEST_KEY}"
    else:
        return
    raise refusal(f"{link}/{key}", problem)


def spool_folder() -> Path:
    """Return the folder of this user for parts, made if need be; raises `DownloadError`."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    folder = Path(tempfile.gettempdir()) / f"happyhorse-async{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise disk_error(error, str(folder)) from error
    others = hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022)
    problem = disk.folder_problem(folder)
    if not stat.S_ISDIR(found.st_mode) or others:
        problem = "it is not a folder of this user alone"
    if problem:
        raise DownloadError(
            f"{folder} cannot be used for parts of videos: {problem}",
            path=str(folder),
            next_step="Set TMPDIR to a folder of your own.",
        )
    return folder


def clear_spool(folder: Path) -> None:
    """Take away the parts that nobody will resume; what was rejected stays."""
    for path in folder.iterdir():
        with suppress(OSError):
            old = path.lstat().st_mtime < time.time() - KEPT_SECONDS
            if old and path.name.endswith((filenames.PART_SUFFIX, filenames.NOTE_SUFFIX)):
                path.unlink()


def spooled(bucket: str, key: str, *, task_id: str, index: int) -> PartFile:
    """Make the part file of a video; the next run, or another process, finds the same one."""
    folder = spool_folder()
    clear_spool(folder)
    # Other tasks, and stores behind other endpoints, have parts of their own.
    places = [bucket, key, task_id, str(index), *(os.environ.get(name, "") for name in ENDPOINTS)]
    name = hashlib.sha256("\n".join(places).encode()).hexdigest()[:32] + ".mp4"
    return PartFile(folder / name, task_id=task_id, index=index, overwrite=True)


class ObjectSink(FileSink):
    """Streams one video into a part file, and puts it under its key once it is verified."""

    def __init__(
        self, bucket: Bucket, key: str, file: PartFile, threads: Threads, *, new: bool, create: bool
    ) -> None:
        super().__init__(file, threads, new=new)
        self.url = f"{bucket.link}/{key}"
        self._bucket = bucket
        self._key = key
        self._create = create
        self._begun = not new

    async def open(self) -> Held:
        """Say what is there already; raises `DestinationExistsError` when another object is.

        An object beside a part may be this very video, whose answer was lost. Then that is found
        out when it is put.
        """
        if self._create and not self._begun and await self._bucket.size(self._key) is not None:
            raise DestinationExistsError(f"{self.url} exists already", path=self.url)
        self._begun = True
        return await super().open()

    async def publish(self, pieces: Sequence[bytes], anew: Held | None = None) -> tuple[str, Movie]:
        """Verify the part, and put it under its key."""

        def finish() -> tuple[str, Movie]:
            self._append(pieces, anew)
            return self._file.tally.finish()

        described = await self._do(finish)
        await self._bucket.put(self._key, await self._do(self._file.content), create=self._create)
        with suppress(DownloadError):  # it is put: what stays here is cleared away later
            await self.discard()
        return described

    async def reject(self, page: bytes | None = None) -> str:
        """Keep what is there, or a page that came instead, under a key beside the final one. Where
        the store refuses that, keep it on this machine.
        """
        data = page if page is not None else await self._do(self._file.content)
        number = 1
        folder, slash, name = self._key.rpartition("/")
        while True:
            key = folder + slash + filenames.rejected_name(name, number)
            try:
                await self._bucket.put(key, data, create=True, kind="application/octet-stream")
            except DestinationExistsError:
                number += 1
                continue
            except DownloadError:
                return await super().reject(page)
            if page is None:
                await self.discard()
            return f"{self._bucket.link}/{key}"
