"""Folders whose names survive a loss of power, locks, and what else only a disk can tell.

Blocks, and runs in worker threads.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakSet

from .._formats import filenames
from ..errors import LedgerError

NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems answer that know no syncing, or no renaming, as some over a network."""
_NO_FOLDER_SYNC = NO_SYNC | {errno.EBADF}
"""The same for folders. The video is in place by then."""


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return where a path leads from the working folder; the path itself where that is gone, and
    nothing relative can be found.
    """
    try:
        return Path(path).absolute()
    except FileNotFoundError:
        return Path(path)


def make_folders(folder: Path) -> None:
    """Make a folder and those above it. Their names are synced too, since a video in a folder that
    is lost is lost.
    """
    if folder.is_dir() or folder == folder.parent:
        return
    make_folders(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:  # a file, or a link that leads nowhere or to itself
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is not a folder") from None
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


def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> int:
    """Open a regular file for reading; return its descriptor.

    A pipe, a socket or a device is refused at once, and never waited for. With `follow=False` a
    symbolic link is refused too. Raises `OSError`.
    """
    if not stat.S_ISREG(os.stat(path, follow_symlinks=follow).st_mode):
        raise OSError(errno.EINVAL, "this is not a file", os.fspath(path))
    flags = os.O_RDONLY
    # Something else may lie there a moment later: opening that must not wait either.
    for name in (
        "O_NONBLOCK",
        "O_CLOEXEC",
        "O_NOCTTY",
        "O_BINARY",
        *(() if follow else ("O_NOFOLLOW",)),
    ):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "this is not a file", os.fspath(path))
    return descriptor


# --- Locks. The operating system lets one go when its holder dies, however it dies.


if sys.platform == "win32":
    import msvcrt

    def lock_at_once(descriptor: int, far: int) -> None:
        """Lock a file, by its byte at `far`; raises `OSError` when another process has it."""
        os.lseek(descriptor, far, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def lock_at_once(descriptor: int, far: int) -> None:
        """Lock a file; raises `OSError` when another process has it."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


LOCK_HELD = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK})
"""How systems say that another process has a lock."""


class Locked:
    """Whoever holds a locked file, which is this process's alone.

    A forked child shares open files, and would keep the lock after this process has let go. So its
    copy is closed as soon as it exists.
    """

    def __init__(self) -> None:
        self._file = -1
        _LOCKED.add(self)

    @property
    def is_open(self) -> bool:
        """Whether this process holds the file."""
        return self._file >= 0

    def close_file(self) -> None:
        """Let go; may be called twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


_LOCKED: WeakSet[Locked] = WeakSet()


def _forked() -> None:
    for holder in tuple(_LOCKED):
        holder.close_file()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


LOCK_NAME = "happyhorse.lock"

_FAR = 1 << 30
"""Where the locked byte is. On Windows it cannot be read, and the text says who holds the lock."""


class FolderLock(Locked):
    """The right to write in a batch's folder, held from `take` to `release` or until the process
    ends. The lock says who holds it.
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
        # Whoever may write into the folder could make a link to any file: the note would go there.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._file = file = os.open(self._path, flags, 0o644)
        except OSError as error:
            if not self._path.is_symlink():
                raise
            raise LedgerError(
                f"{self._path} is a symbolic link, through which nothing is written",
                next_step="Take the link away, then run the batch again.",
            ) from error
        try:
            lock_at_once(file, _FAR)
        except OSError as error:
            self.close_file()
            if error.errno in LOCK_HELD:
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
        with suppress(OSError):
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
            with suppress(OSError):
                os.ftruncate(self._file, 0)
            self.close_file()


# --- What the file system says of a path before anything is written to it. "" means that nothing is
# wrong.


LEAST_ROOM = 1024 * 1024
"""Bytes that a disk must have free: no video is smaller."""


def name_problem(path: str) -> str:
    """Say why no file can have this path, as far as text tells."""
    if "\0" in path:
        return "there is a NUL in it"
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return "it holds characters that no file name can"
    return ""


def home_problem(path: str) -> str:
    """Say why a path does not begin in somebody's home, though it looks so.

    In `--out=~/videos` no shell puts a home for ~, and paid videos would lie in a folder "~". One
    that is there already is meant.
    """
    if path.partition("/")[0] != "~" or os.path.lexists("~"):
        return ""
    return "only shells put a home for ~, and not behind a ="


def replacing_problem(path: str | os.PathLike[str]) -> str:
    """Say what lies at a path that no file may take the place of.

    A file or a link is replaced by a rename, and so would be a device: a machine without /dev/null
    is broken. A link to one, such as /dev/stdout, counts as one.
    """
    if os.path.isdir(path):
        return "is a folder"
    return "is not a file" if os.path.exists(path) and not os.path.isfile(path) else ""


def folder_problem(folder: Path) -> str:
    """Say why a folder cannot be written to, or not be made."""
    if problem := home_problem(str(folder)):
        return problem
    try:
        existing = _existing(folder)
        if not existing.is_dir():
            return f"{existing} is not a folder"
        if not os.access(existing, os.W_OK | os.X_OK):
            return f"{existing} may not be written to"
        usage = shutil.disk_usage(existing)
        if existing != folder:
            _ask_about_missing(existing, folder)
            # Some file systems refuse folders, and say so only when one is made. This one has a
            # name of its own, so that nobody can have begun to use it.
            made = tempfile.mkdtemp(prefix=".happyhorse-", dir=existing)
            try:
                if problem := _part_problem(os.path.join(made, "part")):
                    return problem
            finally:
                os.rmdir(made)
    except (OSError, ValueError) as error:
        return _reason(error)
    # Some file systems over a network tell no sizes at all.
    if usage.total and usage.free < LEAST_ROOM:
        return f"the disk is full: {usage.free:,} bytes are free"
    return ""


def file_problem(final: Path) -> str:
    """Say why a video cannot be written to a path whose folder is good.

    Names are asked about as they will be: that of the video and those of its part and note. In a
    folder that exists the part is made, and taken away again.
    """
    part, note = filenames.part_names(final.name)
    # As text. Ten thousand callers may ask at once, and making a path object takes longer than the
    # file system's answer.
    folder = os.fspath(final.parent)
    existing = os.fspath(_existing(final.parent))
    try:
        for name in (final.name, part, note + "~"):
            _ask_about(os.path.join(existing, name))
        if existing == folder:
            if path := _anothers(folder, final.name, note, note + "~"):
                return f"{path} is another user's, and only they may replace it here"
            for name in (note, note + "~"):
                if os.path.isdir(os.path.join(folder, name)):
                    return f"{os.path.join(folder, name)} is a folder"
            return _part_problem(os.path.join(folder, part))
        _ask_about_missing(Path(existing), final.parent)
        _ask_about(os.path.join(folder, note + "~"))
    except (OSError, ValueError) as error:
        return _reason(error)
    return ""


def _anothers(folder: str, *names: str) -> str:
    """Return the path of a file that is another user's, in a folder such as /tmp in which nobody
    may replace others' files; "" when there is none.
    """
    around = os.stat(folder)
    if not around.st_mode & stat.S_ISVTX or not hasattr(os, "geteuid"):
        return ""
    for path in (os.path.join(folder, name) for name in names):
        if os.path.lexists(path):
            owners = (0, around.st_uid, os.lstat(path).st_uid)
            if os.geteuid() not in owners:
                return path
    return ""


def _part_problem(part: str) -> str:
    """Say why a part cannot be made, or not be renamed in the end, as on some mounted stores."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        try:
            os.close(os.open(part, flags, 0o666))
        except FileExistsError:
            return _part_problem_of(part)
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            return ""  # that says nothing about the folder
        raise
    made, problem = f"{part}.{secrets.token_hex(4)}~", ""  # a name that nobody has
    try:
        os.rename(part, made)
    except OSError as error:
        made, problem = part, "files cannot be renamed there" if error.errno in NO_SYNC else ""
    with suppress(FileNotFoundError):
        os.unlink(made)
    return problem


def _part_problem_of(part: str) -> str:
    """Say why a part that was there a moment ago cannot be gone on with. It need not be there any
    more: many ask about the same name at once, and each takes away what it has made.
    """
    try:
        if not stat.S_ISREG(os.lstat(part).st_mode):
            return f"{part} is not a file"
        # Opened, for it may go between two questions: then there is no answer to believe.
        os.close(os.open(part, os.O_RDWR | getattr(os, "O_NONBLOCK", 0)))
    except FileNotFoundError:
        return ""
    except PermissionError:
        return f"{part} may not be written to"
    return ""


def _existing(folder: Path) -> Path:
    """Find the nearest folder above, or the folder itself, that exists."""
    if os.path.lexists(folder):
        return folder
    return next(place for place in folder.absolute().parents if os.path.lexists(place))


def _ask_about_missing(existing: Path, folder: Path) -> None:
    """Let the file system refuse the names of folders that are to be made in one that exists."""
    for name in folder.absolute().relative_to(existing.absolute()).parts:
        _ask_about(os.path.join(existing, name))
    _ask_about(os.fspath(folder.absolute()))  # a path may be too long, though none of its names is


def _ask_about(path: str) -> None:
    """Let the file system refuse a name; that there is no such file is no refusal."""
    with suppress(FileNotFoundError):
        os.lstat(path)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


def out_of_descriptors(error: BaseException) -> bool:
    """Whether an error came because this process, or the machine, has no file descriptor left.

    That is over as soon as others close theirs. A name that cannot be looked up does not say why.
    So it is tried whether a descriptor can be had now.
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
