"""A disk that is full, broken, or has no descriptors left, for the files of a night; and a ledger
that cannot be written on it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.night import Night

TROUBLES = {
    "full": (("write", "pwrite"), errno.ENOSPC),
    "descriptors": (("open",), errno.EMFILE),
    "broken": (("fsync",), errno.EIO),
    "full of names": (("link", "rename", "replace", "mkdir"), errno.ENOSPC),
    "watched": (("unlink", "remove", "rename", "replace"), errno.EACCES),
}
"""What each trouble strikes, and what the system says."""
DISKS = sorted({*TROUBLES, "cleared", "ledger", "stalled"})
HELD = {"disk:watched"}
"""After it some scraps could not be removed."""
CHANCE = 0.05
CHANCE_OF_COMMITS = 0.02


@contextmanager
def bad_disk(night: Night, trouble: str) -> Iterator[None]:
    """Let some calls fail for files in the night's folder; "" is a good disk."""
    if not trouble or not night.may(f"disk:{trouble}"):
        yield
        return
    night.visited.add(f"disk:{trouble}")
    if trouble == "ledger":
        yield from _bad_ledger(night)
        return
    if trouble == "stalled":
        night.world.stalled = CHANCE
        try:
            yield
        finally:
            night.world.stalled = 0.0
        return
    names, number = TROUBLES.get(trouble, (("read", "write", "writev", "fsync"), 0))
    before = {name: getattr(os, name) for name in names if hasattr(os, name)}
    for name, true in before.items():
        setattr(os, name, _failing(night, name, true, number) if number else _clearing(night, true))
    try:
        yield
    finally:
        for name, true in before.items():
            setattr(os, name, true)


# SQLite writes by itself, where no function of Python's can be replaced.
SAID = "disk I/O error", "database or disk is full"
COMMITS = "COMMIT", "BEGIN IMMEDIATE", "PRAGMA wal_checkpoint(TRUNCATE)"


def _bad_ledger(night: Night) -> Iterator[None]:
    """Let some commits fail, before they are on the disk or after."""
    chance = night.world.chance

    class Unlucky(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if sql not in COMMITS or chance.random() > CHANCE_OF_COMMITS:
                return super().execute(sql, *rest)
            if chance.random() < 0.5:
                super().execute(sql, *rest)
            said = chance.choice(SAID)
            night.world.note(f"the ledger fails at {sql}: {said}")
            error = sqlite3.OperationalError(said)
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR if "I/O" in said else sqlite3.SQLITE_FULL
            raise error

    true = sqlite3.connect
    sqlite3.connect = partial(true, factory=Unlucky)  # type: ignore[assignment]
    try:
        yield
    finally:
        sqlite3.connect = true


def _failing(night: Night, name: str, true: Callable[..., Any], number: int) -> Callable[..., Any]:
    def call(first: Any, *rest: Any, **how: Any) -> Any:
        # Not what the night itself does with its folder.
        ours = night.world.stepping and _in_folder(night, first)
        if ours and night.world.chance.random() < CHANCE:
            night.world.note(f"{name} fails: {errno.errorcode[number]}")
            raise OSError(number, os.strerror(number))
        return true(first, *rest, **how)

    return call


def _clearing(night: Night, true: Callable[..., Any]) -> Callable[..., Any]:
    """Let a program that tidies up take away a video's part, or its note, while it is used."""
    unlink = os.unlink

    def call(file: int, *rest: Any) -> Any:
        if night.world.stepping and _in_folder(night, file) and night.world.chance.random() < 0.2:
            path = os.readlink(f"/proc/self/fd/{file}")
            gone = night.world.chance.choice([path, f"{path}.json"])
            if path.endswith(".part") and os.path.exists(gone):
                night.visited.add("cleared away")
                night.world.note(f"{gone} is cleared away")
                unlink(gone)
        return true(file, *rest)

    return call


def _in_folder(night: Night, what: Any) -> bool:
    if isinstance(what, int):
        try:
            what = os.readlink(f"/proc/self/fd/{what}")
        except OSError:
            return False
    return str(night.folder) in os.fspath(what) if isinstance(what, (str, os.PathLike)) else False
