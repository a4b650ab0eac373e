"""The two databases that a cluster's jobs can lie in, and what is different about each.

PostgreSQL is the one to work with. SQLite, in `_sqlite.py`, is for a quick try. Both take the
queries of `cluster.sql`, whose placeholders are question marks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

import psycopg
import sqlalchemy
from psycopg.errors import IdleInTransactionSessionTimeout

from ..._formats.texts import shown
from ...batch._jobs import COLUMNS, named_queries
from ...errors import ConfigurationError, LedgerError
from ._sqlite import SqliteConnection, is_sqlite, link_of

SCHEMA = "happyhorse"
MIGRATION_LOCK = 0x48485232
"""The advisory lock under which the tables are made."""
WORKER_LOCKS = MIGRATION_LOCK + 1
"""The first half of each worker's lock; the second is the worker's number."""
ENTER_LOCK = MIGRATION_LOCK + 2
"""Held by whoever enters jobs, until they are committed."""
DEAD_LINE = (
    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=3 -c tcp_keepalives_count=3 "
    "-c tcp_user_timeout=15000 -c idle_in_transaction_session_timeout=20000"
)
"""Options of our connections, so that the server notices within 15 s that a machine is gone."""
EVERY_TEXT = {"client_encoding": "utf8"}
"""For connections that prompts go over, whatever the environment or the database say by default."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 3.0
"""Seconds between attempts to reach a database that was lost."""


LOST = (psycopg.OperationalError, psycopg.InterfaceError, IdleInTransactionSessionTimeout)
"""What ends a transaction that can be done again. The first one is also a deadlock, or a failed
serialization. The last one is what a machine finds that slept in the midst of it: `DEAD_LINE` has
ended its session."""


class LostError(Exception):
    """The connection is gone, or the server asks to do the transaction again."""


class PostgresConnection:
    """A connection to PostgreSQL."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self.raw = raw

    @property
    def usable(self) -> bool:
        """Whether anything can be asked over it."""
        return not (self.raw.closed or self.raw.broken)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        """Run a statement."""
        return self.raw.execute(in_postgres(sql), values or None)

    def transaction(self) -> AbstractContextManager[Any]:
        """Begin a transaction, which ends with the context."""
        return self.raw.transaction()

    def make_tables(self, script: str) -> bool:
        """Make the tables when there are none; return whether they are new."""
        self.execute("SELECT pg_advisory_xact_lock(?)", (MIGRATION_LOCK,))
        [fresh] = self.execute("SELECT to_regnamespace(?) IS NULL", (SCHEMA,)).fetchone() or (True,)
        if fresh:
            self.execute(f"CREATE SCHEMA {SCHEMA}")
            self.raw.execute(script.encode())
        return bool(fresh)

    def enter_alone(self) -> None:
        """Wait for whoever enters jobs at this moment, and let others wait until the commit."""
        self.execute("SELECT pg_advisory_xact_lock(?)", (ENTER_LOCK,))

    def living(self) -> set[int]:
        """Return the workers that hold their locks."""
        return {number for (number,) in self.execute(cluster_queries()["living"], (WORKER_LOCKS,))}

    def close(self) -> None:
        """Close it."""
        self.raw.close()


def in_postgres(sql: str) -> bytes:
    """Return a query as psycopg takes it."""
    return sql.replace("?", "%s").encode()


Connection: TypeAlias = PostgresConnection | SqliteConnection


def connect(url: str) -> Connection:
    """Open a connection that sees the cluster's tables, each statement for itself.

    Raises `LedgerError` for a database that cannot hold every text.
    """
    if is_sqlite(url):
        return SqliteConnection.to(url)
    raw = psycopg.connect(url, autocommit=True, **connection_settings())
    encoding = raw.info.parameter_status("server_encoding")
    if encoding not in ("UTF8", None):
        raw.close()
        raise LedgerError(
            f"the database's encoding is {encoding}, and prompts need UTF8",
            next_step="Make another one: CREATE DATABASE night ENCODING 'UTF8' TEMPLATE template0.",
        )
    return PostgresConnection(raw)


def over(raw: Any) -> Connection:
    """Use somebody else's connection, whose transactions are theirs."""
    if isinstance(raw, sqlite3.Connection):
        return SqliteConnection(raw)
    connection = PostgresConnection(raw)
    connection.execute(f"SET LOCAL search_path = {SCHEMA}")
    return connection


async def reconnected(
    connection: psycopg.AsyncConnection[Any] | None, url: str
) -> psycopg.AsyncConnection[Any]:
    """Return a connection for an event loop while it is usable, and else a new one."""
    if connection is not None and not (connection.closed or connection.broken):
        return connection
    return await psycopg.AsyncConnection.connect(url, autocommit=True, **connection_settings())


def connection_settings() -> dict[str, Any]:
    """Return what a connection to PostgreSQL needs beside its URL."""
    return {
        "options": f"-c search_path={SCHEMA} {DEAD_LINE}",
        "connect_timeout": 5,
        "application_name": "happyhorse",
        **EVERY_TEXT,
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 15000,
    }


@contextmanager
def cluster_errors() -> Iterator[None]:
    """Turn the databases' errors into ours, in this one place."""
    try:
        try:
            yield
        except sqlalchemy.exc.DBAPIError as error:  # around what the driver says
            raise error.orig or error from error
    except LOST as error:
        raise LostError(error) from error
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LostError(error) from error
        raise _unusable(error) from error
    except (psycopg.Error, sqlite3.Error) as error:
        raise _unusable(error) from error


@contextmanager
def reaching() -> Iterator[None]:
    """Begin to use the database, which nobody waits for yet; raises `LedgerError` when it is not
    there.
    """
    try:
        with cluster_errors():
            yield
    except LostError as error:
        raise LedgerError(
            f"the database cannot be reached: {error}",
            next_step="Check the link, and that its database runs there and is not held.",
        ) from error


def _unusable(error: Exception) -> LedgerError:
    return LedgerError(f"the cluster's database cannot be used: {error}", charged="unknown")


def check_url(url: str) -> str:
    """Return a database's URL as its driver takes it; raises `ConfigurationError` for another
    kind.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"--database: expected a link as text, got {shown(url)}")
    scheme, mark, rest = url.partition("://")
    if is_sqlite(url):
        return link_of(url)
    if not mark or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise ConfigurationError(
            "--database: expected a link like postgresql://user@host/name, or for a quick try "
            f"sqlite:///file.db, got {scheme}:..."
        )
    link = f"postgresql://{rest}"
    try:
        psycopg.conninfo.conninfo_to_dict(link)
    except psycopg.ProgrammingError as error:
        # Without its end, and without its cause: both may show the link, which may hold a password.
        problem = str(error).partition(":")[0].strip()
        raise ConfigurationError(f"--database: the link cannot be read: {problem}") from None
    try:
        sqlalchemy.make_url(link)  # as DBOS reads it: its second host would be a port
    except (ValueError, sqlalchemy.exc.ArgumentError):
        raise ConfigurationError(
            "--database: the link cannot be read; several hosts are written as "
            "postgresql://user@/name?host=one,two&port=5432,5432"
        ) from None
    return link


@cache
def cluster_queries() -> dict[str, str]:
    """Return all queries by name."""
    text = files(__package__).joinpath("cluster.sql").read_text("utf-8")
    columns = ", ".join(f"j.{name}" for name in COLUMNS)
    filled = text.replace("{columns}", columns).replace("{job}", ", ".join(COLUMNS))
    return named_queries(filled)
