"""Files on disk. A part file survives any end of the process, and only whole, verified files get a
final name.

Everything here blocks and runs in worker threads, one call of a part file at a time. Beside
`name.mp4.part` lies a note, `name.mp4.part.json`, that says of which video the bytes are. Without a
fitting note a part is never resumed.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import itertools
import mmap
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from .._formats import filenames, mp4
from .._formats.http_ranges import Held
from ..errors import DestinationExistsError, DownloadError, IncompleteDownloadError
from . import disk, part_notes

BLOCK = 1024 * 1024
"""Bytes read at once when what is there already is hashed again."""
_MOST_VECTORS = 512
_NO_SPACE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "no file may be so large here",
}
_LOOKS = 100
"""How often in a row a part may be another file by its name than the one that was opened."""


class Tally:
    """What is learned of a file while its bytes pass: length, digest, and whether it is a video.

    No byte stops it: what the file is worth is said at its end.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._walk = mp4.BoxWalk()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._walk.position

    @property
    def makes_sense(self) -> bool:
        """Whether the bytes so far can be a video's."""
        return self._walk.makes_sense

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._digest.update(data)
        self._walk.feed(data)

    def feed_all(self, pieces: Sequence[bytes]) -> None:
        """Take more bytes, piece by piece."""
        for piece in pieces:
            self.feed(piece)

    def finish(self) -> tuple[str, mp4.Movie]:
        """Return digest and description of the whole; raises `BrokenVideoError`."""
        return self._digest.hexdigest(), self._walk.finish()


class PartFile(disk.Locked):
    """One video on its way to one path."""

    def __init__(self, final: Path, *, task_id: str, index: int, overwrite: bool) -> None:
        super().__init__()
        self.final = final
        part, note = filenames.part_names(final.name)
        self.part = final.with_name(part)
        self._note = final.with_name(note)
        self._identity = part_notes.Note(task_id=task_id, index=index, name=final.name)
        self._overwrite = overwrite
        self.tally = Tally()
        self.held = Held()

    def check(self) -> None:
        """Raise `DestinationExistsError` when the final path is taken and must not be."""
        if problem := disk.replacing_problem(self.final):
            raise DestinationExistsError(
                f"{self.final} {problem}", path=str(self.final), next_step="Choose another path."
            )
        if not self._overwrite and os.path.lexists(self.final):
            raise DestinationExistsError(f"{self.final} exists already", path=str(self.final))

    def is_new(self) -> bool:
        """Whether there is nothing to resume; no file is made before the first bytes come."""
        self.check()
        return not os.path.lexists(self.part)

    def open(self) -> Held:
        """Take the part file for this process, making it when it is not there, and say what is in
        it; `rehash` has to follow.
        """
        self._take()
        size, held = os.fstat(self._file).st_size, self._noted()
        usable = (
            held is not None
            and (held.validator is not None or size == held.length)
            and size <= (held.length or size)
        )
        self.held = attrs.evolve(held, size=size) if held is not None and usable else Held()
        self.tally = Tally()
        return self.held

    def _take(self) -> None:
        self.check()
        disk.make_folders(self.final.parent)
        self._file = _open_alone(self.part)
        self.check()  # another process may have finished just before

    def rehash(self) -> bool:
        """Take the next bytes that are there already into the tally; False when all of them are.

        They have to be read for their digest. Bytes that are no video's are not resumed.
        """
        stop = min(self.held.size, self.tally.size + 8 * BLOCK)
        os.lseek(self._file, self.tally.size, os.SEEK_SET)
        while self.tally.size < stop:
            data = os.read(self._file, min(BLOCK, stop - self.tally.size))
            if not data:
                raise OSError(errno.EIO, "the part file became shorter")
            self.tally.feed(data)
        if not self.tally.makes_sense:
            self.tally, self.held = Tally(), Held()
        return self.tally.size < self.held.size

    def restart(self, held: Held) -> None:
        """Begin anew with another version of the file. The bytes go first, so that they never lie
        under a note that is not theirs.
        """
        if self._file < 0:
            self._take()
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self.tally, self.held = Tally(), attrs.evolve(held, size=0)
        note = attrs.evolve(self._identity, validator=held.validator, length=held.length)
        part_notes.write(self._note, note)

    def _noted(self) -> Held | None:
        note = part_notes.read(self._note)
        if note is None:
            return None
        # After a loss of power the end of a file that was not synced may be zeros. Nothing written
        # before is trusted then, and `boot` is not the same.
        same = attrs.evolve(note, validator=None, length=None) == self._identity
        return Held(validator=note.validator, length=note.length) if same else None

    def require(self, needed: int) -> None:
        """Raise `DownloadError` when the disk has no room for `needed` more bytes."""
        usage = shutil.disk_usage(self.final.parent)
        # Some file systems over a network tell no sizes at all.
        if usage.total and usage.free < needed:
            raise self._no_space(needed, usage.free)

    def _no_space(self, needed: int | None, free: int, number: int = errno.ENOSPC) -> DownloadError:
        more = "more space" if needed is None else f"{needed:,} bytes more"
        step = f"Free {more} in {self.final.parent}"
        if number == errno.EFBIG:
            step = "Raise the limit on the size of files (`ulimit -f`), or choose another disk"
        return DownloadError(
            f"{_NO_SPACE[number]}: {self.final} needs {more}, and {free:,} are free; "
            f"what has come is kept in {self.part.name}",
            path=str(self.final),
            next_step=f"{step}, then call download() again: it resumes where it stopped.",
        )

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append bytes; raises `DownloadError` when the disk is full."""
        try:
            for start in range(0, len(pieces), _MOST_VECTORS):
                _write_all(self._file, pieces[start : start + _MOST_VECTORS])
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            missing = (
                None
                if self.held.length is None
                else self.held.length - os.fstat(self._file).st_size
            )
            free = shutil.disk_usage(self.final.parent).free
            raise self._no_space(missing, free, error.errno) from error
        self.tally.feed_all(pieces)

    def content(self) -> bytes | memoryview:
        """Return all bytes that are there, without reading them into memory."""
        if not self.tally.size:
            return b""
        # Opened once more: the lock would last as long as anybody has the bytes.
        descriptor = disk.open_regular(self.part, follow=False)
        try:
            return memoryview(mmap.mmap(descriptor, self.tally.size, access=mmap.ACCESS_READ))
        finally:
            os.close(descriptor)

    def publish(self) -> tuple[str, mp4.Movie]:
        """Verify the file, make it durable, and only then give it its final name; raises
        `BrokenVideoError`.
        """
        described = self.tally.finish()
        self._sync()
        if sys.platform == "win32":
            self.close_file()
        with disk.synced_folder(self.final.parent):
            if self._overwrite:
                self.part.replace(self.final)
            else:
                self._publish_as_new()
            _clear_away(self._note)
        self.close_file()
        return described

    def _sync(self) -> None:
        try:
            if os.fstat(self._file).st_size != self.tally.size:
                raise OSError(errno.EIO, "the part file has not the length that was written")
            os.fsync(self._file)
        except OSError as error:
            if error.errno in disk.NO_SYNC:
                return  # as safe as files can be there
            # A lost write is reported once, and its bytes can be read for a while yet. The next run
            # must not take them for saved.
            self._note.unlink(missing_ok=True)
            raise

    def _publish_as_new(self) -> None:
        try:
            # A second name is never put over an existing file, unlike a rename.
            os.link(self.part, self.final)
        except OSError as error:
            # Over a network a lost answer makes the system ask again: then it was just given.
            if self._file < 0 or not _is_same(os.fstat(self._file), self.final):
                if isinstance(error, FileExistsError):
                    raise DestinationExistsError(
                        f"{self.final} exists already", path=str(self.final)
                    ) from None
                # File systems without hard links say so in many ways. Downloads of ours are kept
                # apart by the lock on the part.
                self.check()
                self.part.rename(self.final)
                return
        _clear_away(self.part)  # who looks for leftovers just then does so too

    def reject(self, page: bytes | None = None) -> Path:
        """Keep what is there, or a page that came instead, under a name beside the final one.
        Return where. It is not believed, and yet all that there is.
        """
        if page is not None:
            disk.make_folders(self.final.parent)
            return next(path for path in self._rejected_names() if _write_new(path, page))
        if sys.platform == "win32":
            self.close_file()
        kept = next(path for path in self._rejected_names() if _rename_new(self.part, path))
        _clear_away(self._note)
        self.close_file()
        return kept

    def _rejected_names(self) -> Iterator[Path]:
        for number in itertools.count(1):
            yield self.final.with_name(filenames.rejected_name(self.final.name, number))

    def discard(self) -> None:
        """Throw away what is there: it is no video. Where its file cannot be removed just now, it
        stays empty.
        """
        if sys.platform == "win32":
            self.close_file()
        try:
            self.part.unlink(missing_ok=True)
        except OSError:
            if self._file < 0:
                raise
            os.ftruncate(self._file, 0)
        _clear_away(self._note)
        self.close_file()

    def close(self) -> None:
        """Leave what is there for the next time; nothing when there is nothing. May be called
        twice.
        """
        try:
            if self._file >= 0 and os.fstat(self._file).st_size == 0:
                with suppress(OSError):  # it is empty: whoever comes next takes it over
                    self.discard()
        finally:
            self.close_file()


def _clear_away(path: Path) -> None:
    """Remove what is of no use any more: nothing fails for that. A virus
    scanner, or another machine, may hold it; who looks next clears it away.
    """
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes) -> bool:
    """Write a new file; False when another one lies there. The same bytes are not kept twice."""
    if os.path.lexists(path):
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def _rename_new(path: Path, to: Path) -> bool:
    """Rename a file; False when another one lies there. The same bytes are not kept twice."""
    if os.path.lexists(to):
        if not to.is_file() or not filecmp.cmp(path, to, shallow=False):
            return False
        path.unlink()
        return True
    path.rename(to)
    return True


def _open_alone(path: Path) -> int:
    """Open a part file and lock it; raises `DownloadError` when another download has it."""
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_BINARY"):
        flags |= getattr(os, name, 0)
    for _ in range(_LOOKS):
        file = os.open(path, flags, 0o666)
        try:
            _lock(file, path)
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise in_the_way(path)
            # Some file systems count no names at all.
            if found.st_nlink <= 1 and _is_same(found, path):
                return file
            # Another download has finished with it meanwhile, or was killed between giving the
            # final name and removing this one. Writing here would write into a finished video.
            if found.st_nlink > 1:
                path.unlink(missing_ok=True)
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    raise DownloadError(
        f"{path} is another file each time that it is opened",
        path=str(path),
        next_step="Choose a folder on another file system.",
    )


def in_the_way(path: object) -> DestinationExistsError:
    """Return the error for what is no file in the place of a video's file, or of one beside it."""
    # Of this kind, since it is one video's trouble: it stops no batch and no worker.
    return DestinationExistsError(
        f"{path} is in the way of the download: it is not a file",
        path=str(path),
        next_step="Move it away, then call download() again.",
    )


def _lock(file: int, path: Path) -> None:
    try:
        disk.lock_at_once(file, 2**40)  # behind the last byte of any video
    except OSError as error:
        if error.errno not in disk.LOCK_HELD:
            return  # a file system without locks
        # Of this kind, since it is one video's trouble and passes: it stops no batch and no worker.
        raise IncompleteDownloadError(
            f"{path} is being written by another download",
            path=str(path),
            next_step="Wait for the other download, or choose another path.",
        ) from None


def _is_same(found: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(found, path.lstat())
    except FileNotFoundError:
        return False


def _write_all(file: int, pieces: Sequence[bytes]) -> None:
    if hasattr(os, "writev"):
        written = os.writev(file, pieces)
        if written == sum(map(len, pieces)):
            return
        rest = memoryview(b"".join(pieces))[written:]
    else:
        rest = memoryview(b"".join(pieces))
    while rest:
        rest = rest[os.write(file, rest) :]
