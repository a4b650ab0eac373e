"""What the tests of clusters share: a PostgreSQL of their own, and workers that are killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from happyhorse_async.integrations.dbos._sqlite import is_too_old
from happyhorse_async.sandbox import Sandbox
from happyhorse_async.sandbox._service import RequestRecord
from tests.forks import Process, python

ROOT = Path(__file__).parent.parent.parent
needs_sqlite = pytest.mark.skipif(
    is_too_old(sqlite3.sqlite_version_info, sys.version_info),
    reason="DBOS cannot write with this Python's SQLite",
)
"""Marks what works with a cluster's database in a file of SQLite."""


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL's programs; None when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """A database server on a free port, in a folder of its own.

    It refuses to be root's, so root starts it as the user `postgres`.
    """

    def __init__(self) -> None:
        programs = binaries()
        assert programs is not None, "PostgreSQL is not installed"
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="happyhorse-postgres-"))
        self.port = _free_port()
        self._count = 0
        if os.getuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        self._do("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-D", self._data)
        self.start()

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _do(self, program: str, *words: str) -> None:
        command = [str(self._programs / program), *words]
        if os.getuid() == 0:
            command = [
                "setpriv",
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                *command,
            ]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = (
            f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c max_connections=200"
        )
        log = str(self._folder / "log")
        self._do("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it; "immediate" is a crash."""
        self._do("pg_ctl", "-D", self._data, "-m", how, "-w", "stop")

    @property
    def pid(self) -> int:
        """The process that all others of it come from."""
        return int((self._folder / "data" / "postmaster.pid").read_text().split()[0])

    def database(self, how: str = "") -> str:
        """Make a database; return its link."""
        self._count += 1
        name = f"cluster{self._count}"
        self.execute("postgres", f"CREATE DATABASE {name} {how}")
        return self._link(name)

    def execute(self, name: str, statement: str) -> None:
        """Run a statement in a database, as its owner."""
        with psycopg.connect(self._link(name), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _link(self, name: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        """Stop it, and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def rows(path: Path, count: int, **columns: object) -> Path:
    """Write a table of jobs, each unlike the others."""
    lines = (
        {"image": f"https://example.com/{n}.png", "seed": n + 1, "duration": 3, **columns}
        for n in range(count)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


async def command(*words: str, **environment: str) -> tuple[int, str]:
    """Run a command of `happyhorse` to its end; return its exit code and what it printed."""
    process = await python(
        *("happyhorse_async", *words), cwd=ROOT, env={**os.environ, **environment}, stderr=None
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


class WorkerProcess:
    """One `happyhorse cluster work`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.outcomes: list[dict[str, object]] = []
        self._reading = asyncio.ensure_future(self._read())
        self._more = asyncio.Condition()

    @classmethod
    async def start(
        cls,
        sandbox: Sandbox,
        database: str,
        *words: str,
        environment: dict[str, str] | None = None,
    ) -> WorkerProcess:
        """Start it."""
        process = await python(
            *("happyhorse_async", "cluster", "work", "--json", "--database", database, *words),
            cwd=ROOT,
            env={**os.environ, **sandbox.env(), **(environment or {})},
            stderr=None,
            limit=1 << 22,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._more:
                self.outcomes.append(json.loads(line))
                self._more.notify_all()

    async def told(self, count: int) -> None:
        """Wait until it has told of so many jobs."""
        async with self._more:
            await self._more.wait_for(lambda: len(self.outcomes) >= count)

    def kill(self) -> None:
        """Kill it, as a power cut would."""
        self._process.send_signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it in its tracks."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end."""
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; return its exit code."""
        code = await self._process.wait()
        await self._reading
        return code


async def in_hand(database: str, worker: int | None = None) -> set[tuple[int, int]]:
    """Return the jobs in workers' hands that have not ended, with those workers."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        found = await connection.execute(
            "SELECT seq, worker FROM happyhorse.jobs WHERE worker IS NOT NULL "
            "AND state NOT IN ('saved', 'failed', 'unknown') "
            "AND (worker = %s OR %s::bigint IS NULL)",
            (worker, worker),
        )
        return set(await found.fetchall())


async def number_of(database: str, worker: WorkerProcess) -> int:
    """Return a worker's number in the cluster."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        found = await connection.execute(
            "SELECT id FROM happyhorse.workers WHERE pid = %s", (worker.pid,)
        )
        [number] = await found.fetchone() or (0,)
        return int(number)


class Submissions:
    """Counts the submissions that arrive, and says when there were so many."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.count = 0
        self._more = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        sandbox.watch_requests(self._hear)

    def _hear(self, request: RequestRecord) -> None:
        if request.method == "POST" and request.path == "/v1/videos/generations":
            self.count += 1
            self._loop.call_soon_threadsafe(self._more.set)

    async def reach(self, count: int) -> None:
        """Wait for so many."""
        while self.count < count:
            self._more.clear()
            await self._more.wait()
