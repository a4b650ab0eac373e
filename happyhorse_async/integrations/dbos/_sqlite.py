"""A cluster's database in one file of SQLite: for a quick try on one machine, with one worker.

SQLite has neither locks that end with their owner nor many writers. So one worker at most has the
file, by a lock of the operating system's beside it. It does what a worker does over PostgreSQL: the
same workflows, limits and budget. The queries are the same too, in SQLite's words.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy

from ..._edges.disk import FolderLock
from ...errors import ConfigurationError, LedgerError

QUICK_TRY = (
    "SQLite is for a quick try: one machine, one worker, and slower. When the worker dies, no "
    "other goes on. To work with, take --database postgresql://user@host/name"
)
PATIENCE = 30.0
"""Seconds to wait for DBOS's own connections, which write into the same file."""
GLANCE = 0.05
"""Seconds between attempts at what does not wait by itself."""
WORDS = (
    (
        r"json_array_elements(_text)?\(\?::json\)( WITH ORDINALITY)? AS v( \(value, place\))?",
        "json_each(?) AS v",
    ),
    (r"\bv\.place\b", "v.key"),
    (r"::\w+", ""),
    (r"\bjson_object_agg\b", "json_group_object"),
    (r"\bjson_agg\b", "json_group_array"),
    (r"\bjson_build_array\b", "json_array"),
    (r"= ANY \(\?\)", "IN (SELECT value FROM json_each(?))"),
    (r"\bgreatest\(", "max("),
    (r"extract\(epoch FROM clock_timestamp\(\)\)", "unix_now()"),
    (r"\s+FOR UPDATE( OF jobs)?\b", ""),
    (r" OVERRIDING SYSTEM VALUE\b", ""),
    (r"\bdbos\.workflow_status\b", "workflow_status"),
    (r"BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT"),
)
"""What of PostgreSQL's words the queries use, and what SQLite calls it."""


def is_sqlite(url: str) -> bool:
    """Whether a database's link is one of SQLite's."""
    return url.startswith("sqlite")


def link_of(url: str) -> str:
    """Return a link with an absolute path.

    Raises `ConfigurationError` when it names no file, and for a SQLite that DBOS cannot use.
    """
    scheme, _, path = url.partition(":///")
    if scheme != "sqlite" or not path or path == ":memory:" or set("?\0") & set(path):
        raise ConfigurationError(f"--database: expected sqlite:///file.db, got {url!r:.200}")
    if is_too_old(sqlite3.sqlite_version_info, sys.version_info):
        raise ConfigurationError(
            f"--database: under Python 3.12 and newer, DBOS needs SQLite 3.42 or newer, and this "
            f"Python's is {sqlite3.sqlite_version}",
            next_step="Take --database postgresql://user@host/name, Python 3.11, or a Python with "
            "a newer SQLite.",
        )
    return f"sqlite:///{os.path.abspath(path)}"


def is_too_old(sqlite: tuple[int, ...], python: tuple[Any, ...]) -> bool:
    """Whether DBOS could not write: from Python 3.12 on it asks SQLite for `unixepoch('subsec')`,
    which older ones answer with nothing.
    """
    return python >= (3, 12) and sqlite < (3, 42)


def path_of(url: str) -> Path:
    """Return the file of a link."""
    return Path(url.partition(":///")[2])


@cache
def translated(sql: str) -> str:
    """Return one of the cluster's queries in SQLite's words."""
    for words, ours in WORDS:
        sql = re.sub(words, ours, sql)
    return sql


class SqliteConnection:
    """A connection to a file of SQLite, which takes queries in PostgreSQL's words."""

    def __init__(self, raw: sqlite3.Connection, path: Path | None = None) -> None:
        self.raw = raw
        self._path = path
        raw.create_function("unix_now", 0, time.time)

    @classmethod
    def to(cls, url: str, *, one_thread: bool = True) -> SqliteConnection:
        """Open a file, which is made when there is none.

        Raises `LedgerError` when it is another program's, and leaves that as it is.
        """
        path = path_of(url)
        raw = sqlite3.connect(
            path, timeout=PATIENCE, isolation_level=None, check_same_thread=one_thread
        )
        try:
            tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master")}
            if tables and not tables & {"pace", "dbos_migrations"}:
                raise LedgerError(
                    f"{path} is no cluster's database",
                    next_step="Name a new file. `cluster enqueue --from` takes a folder over.",
                )
            _keep_a_log(raw)
            # A commit is on the platter before the POST that it allows.
            raw.execute("PRAGMA synchronous = FULL")
        except BaseException:
            raw.close()
            raise
        return cls(raw, path)

    @property
    def usable(self) -> bool:
        """Whether anything can be asked over it: a file is not lost."""
        return True

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement; lists are handed over as JSON."""
        plain = [json.dumps(value) if isinstance(value, list) else value for value in values]
        return self.raw.execute(translated(sql), plain)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Begin a transaction, in which nobody else writes, and which ends with the context."""
        self.raw.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.raw.execute("COMMIT")
        except BaseException:
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
            raise

    def make_tables(self, script: str) -> bool:
        """Make the tables when there are none; return whether they are new."""
        there = self.raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'pace'").fetchone()
        if there is None:
            for statement in filter(str.strip, script.split(";")):
                self.execute(statement)
        return there is None

    def enter_alone(self) -> None:
        """Nothing: whoever is in a transaction is alone."""

    def living(self) -> set[int]:
        """Return the one worker that holds the file's lock, when there is one."""
        lock = lock_of(self._path or Path())
        try:
            lock.take()
        except LedgerError:
            newest = self.raw.execute("SELECT max(id) FROM workers").fetchone()
            return {number for number in newest if number is not None}
        lock.release()
        return set()

    def close(self) -> None:
        """Close it."""
        self.raw.close()


def _keep_a_log(raw: sqlite3.Connection) -> None:
    """Have a file written through a log. Unlike all else, that change waits for no other writer."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(GLANCE)
        else:
            return


def lock_of(path: Path) -> FolderLock:
    """Return the lock that the one worker of a file holds; it is not taken yet."""
    return FolderLock(path.parent, name=f"{path.name}.lock")


def engine_of(url: str) -> sqlalchemy.Engine:
    """Make an engine whose transactions begin by shutting other writers out, as DBOS's do."""
    engine = sqlalchemy.create_engine(url)

    @sqlalchemy.event.listens_for(engine, "connect")
    def _(raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = None
        raw.execute(f"PRAGMA busy_timeout = {int(1000 * PATIENCE)}")
        raw.execute("PRAGMA foreign_keys = ON")

    @sqlalchemy.event.listens_for(engine, "begin")
    def _(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
