"""The ledger as a file: whether it is ours and whole, how it is opened, and what its errors mean.

What is refused is refused unchanged: the file's first bytes are read before SQLite may touch it. A
ledger is made under another name, so that a file with its name is always a whole one. Blocks.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from ..errors import HappyHorseError, LedgerError

logger = logging.getLogger("happyhorse_async")

T = TypeVar("T")

LEDGER_NAME = "happyhorse.sqlite"
DRAFT_SUFFIX = ".new"
APPLICATION_ID = 0x48485232
OLDEST_SQLITE = (3, 33)
"""The first with UPDATE ... FROM."""
WRITER_PATIENCE = 5000
"""Milliseconds that SQLite itself waits for another program; then it is said, and waited on."""
LONGEST_WAIT = 900.0
"""Seconds after which a program that holds the ledger is an error."""
LOOK_AGAIN = 0.2
"""Seconds between two looks where SQLite does not wait by itself."""
GOODBYE = 10.0
"""Seconds that a ledger waits on for another program once it is to be closed."""

LONGEST_PATH = 480
"""Bytes of a path that SQLite opens everywhere: it takes 512, and puts suffixes behind."""

_MAGIC = b"SQLite format 3\0"
_MINE = "If no batch ever ran in this folder, move the file away. Else restore it from a backup."
_OTHER = "Use another folder, or move the file away if no batch ever ran in this one."
_DAMAGED = (
    f"Restore it from a backup, or recover it with `sqlite3 {LEDGER_NAME} .recover`. Do not start "
    "a new ledger for the same input: it would pay again."
)
_LOOK = (
    "Look at the disk's space, rights and health, then run the batch again. It finds what was paid "
    "by its key."
)
_SHORTER = "Use a folder with a shorter path; a batch that is there may be moved."
_LOCAL = "Put the folder on a local disk: network file systems often have no locks that work."


class Header(NamedTuple):
    """What the first bytes of a database say (https://www.sqlite.org/fileformat.html)."""

    application: int
    version: int
    """Its `user_version`."""
    size: int
    """Bytes that the file should have; 0: it does not say."""
    has_tables: bool


def log_of(path: Path) -> Path:
    """Return where the write-ahead log of a database is."""
    return path.with_name(f"{path.name}-wal")


def is_there(path: Path) -> bool:
    """Return whether there may be anything at a ledger's place. Who opens what cannot be looked at
    is told why.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


def look_at_file(path: Path, *, newest: int) -> bool:
    """Look whether the file at a ledger's place is a ledger, and touch nothing.

    Return False when there is none. Raises `LedgerError` for everything that is no whole ledger of
    a version up to `newest`. What was paid for may stand in it.
    """
    try:
        facts = path.stat()
    except FileNotFoundError:
        if os.path.islink(path):
            raise _refused(
                f"{path} leads to {os.readlink(path)}, which is not there",
                "Bring the ledger back to where the link leads, or take the link away.",
            ) from None
        if size_of(log_of(path)):
            raise _refused(
                f"{log_of(path)} is the log of a ledger that is not there: it may hold what was "
                "paid",
                f"Put {path.name} back beside it, from where the folder was copied or moved.",
            ) from None
        return False
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(facts.st_mode):
        raise _refused(f"{path} is no file, and the ledger would have this name", _OTHER)
    if not facts.st_size:
        raise _refused(f"{path} is empty: it is not a ledger, or not one any more", _MINE)
    header = _header_of(path)
    if header is None:
        raise _refused(f"{path} is not a ledger, and no database at all", _MINE)
    _judge(path, header, facts.st_size, newest)
    return True


def _judge(path: Path, header: Header, size: int, newest: int) -> None:
    ours = header.application == APPLICATION_ID
    # A ledger of an earlier version that was never closed has its tables in its log.
    if not ours and (header.application or header.version or header.has_tables):
        raise foreign(path)
    if ours and header.version > newest:
        raise newer(path, header.version, newest)
    if size < header.size and not size_of(log_of(path)):
        raise _refused(f"{path} is damaged: its end is missing", _DAMAGED)


def size_of(path: Path) -> int:
    """Return how many bytes a file has; 0 when it cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _header_of(path: Path) -> Header | None:
    try:
        with path.open("rb") as file:
            head = file.read(108)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(head) < 108 or not head.startswith(_MAGIC):
        return None

    def number(at: int, size: int = 4) -> int:
        """Read a number of the header."""
        return int.from_bytes(head[at : at + size])

    page = number(16, 2)
    pages = number(28) if number(24) == number(92) else 0
    return Header(
        application=number(68),
        version=number(60),
        size=pages * (page if page > 1 else 65_536),
        # The first page is the root of the table of tables: a leaf without cells has none.
        has_tables=head[100] != 0x0D or number(103, 2) > 0,
    )


# --- Refusals -------------------------------------------------------------------------------------


def _refused(what: str, next_step: str) -> LedgerError:
    return LedgerError(what, charged="unknown", next_step=next_step)


def _unreadable(path: Path, error: OSError | ValueError) -> LedgerError:
    if isinstance(error, OSError):
        return _refused(f"{path} cannot be read: {error.strerror or error}", _LOOK)
    return _refused(f"{path} cannot be read: {error}", _OTHER)


def foreign(path: Path) -> LedgerError:
    """Make the error for a database of another application, or one without our tables."""
    return _refused(f"{path} is a database, but not a ledger of this package", _OTHER)


def newer(path: Path, version: int, newest: int) -> LedgerError:
    """Make the error for a ledger of a newer version of this package."""
    return _refused(
        f"{path} was made by a newer version of this package (ledger version {version}, known here "
        f"{newest})",
        "Upgrade happyhorse-async.",
    )


def damaged(path: Path, found: str) -> LedgerError:
    """Make the error for a ledger whose pages are not as they should be."""
    return _refused(f"{path} is damaged: {found}", _DAMAGED)


_REASONS = (
    (("FULL", "IOERR_WRITE", "IOERR_SHMSIZE"), "the disk is full or fails", ""),
    (("BUSY", "LOCKED"), "another program holds it", "Close that program, then run again."),
    (("CORRUPT", "NOTADB"), "it is damaged", _DAMAGED),
    (
        ("IOERR_LOCK", "IOERR_SHM", "IOERR_RDLOCK", "IOERR_UNLOCK", "PROTOCOL", "NOLFS"),
        "its file system has no locks that work",
        _LOCAL,
    ),
    (("READONLY", "CANTOPEN", "PERM", "AUTH"), "it may not be written to", ""),
)
"""By the names of SQLite's error codes without their prefix: what is wrong, and what helps."""


@contextmanager
def ledger_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the disk into ours, in this one place."""
    try:
        yield
    except HappyHorseError:
        raise
    except ValueError as error:
        raise LedgerError(
            f"the ledger {path} holds what this package does not know: {error}",
            charged="unknown",
            next_step=_LOOK,
        ) from error
    except sqlite3.Error as error:
        what, helps = _reason_of(path, error)
        raise LedgerError(
            f"the ledger {path} cannot be used: {f'{what} ({error})' if what else error}",
            charged="unknown",
            next_step=helps or _LOOK,
        ) from error
    except OSError as error:
        raise LedgerError(
            f"the ledger {path} cannot be used: {error.strerror or error}",
            charged="unknown",
            next_step=_LOOK,
        ) from error


def _reason_of(path: Path, error: sqlite3.Error) -> tuple[str, str]:
    name = _code_of(error)
    length = len(os.fsencode(path.absolute()))
    if name.startswith("CANTOPEN") and length > LONGEST_PATH:
        return f"SQLite opens no path of {length} bytes", _SHORTER
    found = ((what, helps) for codes, what, helps in _REASONS if name.startswith(codes))
    return next(found, ("", ""))


def _code_of(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", "") or "").removeprefix("SQLITE_")


# --- Other programs -------------------------------------------------------------------------------


class Patience:
    """Waits while another program holds the ledger, and says so."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._deadline: float | None = None

    def hurry(self, seconds: float = GOODBYE) -> None:
        """Wait only a little longer from now on: the ledger is to be closed."""
        self._deadline = time.monotonic() + seconds

    def wait(self, call: Callable[[], T]) -> T:
        """Make a call as often as another program is in its way."""
        began: float | None = None
        while True:
            try:
                done = call()
            except sqlite3.OperationalError as error:
                if not _code_of(error).startswith(("BUSY", "LOCKED")):
                    raise
                now = time.monotonic()
                if began is None:
                    began = now
                    logger.warning(
                        "another program holds the ledger %s: waiting for it, and submitting "
                        "nothing",
                        self._path,
                        extra={"action": "ledger_held"},
                    )
                if now > (self._deadline if self._deadline is not None else began + LONGEST_WAIT):
                    raise
                time.sleep(LOOK_AGAIN)
                continue
            if began is not None:
                logger.warning(
                    "the ledger %s is free again", self._path, extra={"action": "ledger_free"}
                )
            return done


# --- Opening --------------------------------------------------------------------------------------


def connect(path: Path, how: str) -> sqlite3.Connection:
    """Open a database; `how` is the query of SQLite's file URI."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise LedgerError(
            f"Python's SQLite is {sqlite3.sqlite_version}; the ledger needs 3.33 or newer"
        )
    # The connection is made in one thread and may be closed in another after that one has ended.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        uri=True,
        timeout=WRITER_PATIENCE / 1000,
        isolation_level=None,
        check_same_thread=False,
    )


def connect_for_reading(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """Open a ledger that is only read, also in a folder that nobody may write to.

    Return the connection, and a folder with a copy that is to be removed after it is closed. A copy
    is read when the log holds something that cannot be read in its place.
    """
    db = connect(path, "mode=ro")
    try:
        db.execute("PRAGMA user_version").fetchone()
        return db, None
    except sqlite3.OperationalError as error:
        db.close()
        if not _code_of(error).startswith(("CANTOPEN", "READONLY")):
            raise
    if not size_of(log_of(path)):
        return connect(path, "mode=ro&immutable=1"), None
    copy = Path(tempfile.mkdtemp(prefix="happyhorse-"))
    try:
        for each in (path, log_of(path)):
            shutil.copyfile(each, copy / each.name)
        return connect(copy / path.name, "mode=ro"), copy
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise


def clear_draft(path: Path) -> Path:
    """Return the name under which a ledger is made, with nothing left of an earlier try."""
    draft = path.with_name(path.name + DRAFT_SUFFIX)
    for suffix in ("", "-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.unlink(f"{draft}{suffix}")
    return draft
