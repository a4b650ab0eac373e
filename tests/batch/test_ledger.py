"""The ledger and its lock: made once, migrated, checked, grouped, and held by one process that is
named.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from happyhorse_async import LedgerError
from happyhorse_async._edges.disk import FolderLock
from happyhorse_async.batch import JobState
from happyhorse_async.batch import _database as database_module
from happyhorse_async.batch._database import LEDGER_NAME, Database
from happyhorse_async.batch._jobs import CHANGES, COLUMNS, JobRow, queries
from happyhorse_async.batch._ledger import Ledger
from tests.batch.support import ROOT

pytestmark = pytest.mark.anyio


async def entered(ledger: Ledger, count: int) -> list[JobRow]:
    """Enter jobs into a ledger, and read them from there."""
    rows = [[f"job {n}", f"{n}", "{}", "{}", f"{n}.mp4", 0, 1] for n in range(count)]
    await ledger.call(lambda database: database.write_set("admit", rows))
    return await ledger.call(lambda database: database.page("shown"))


def test_batch_id_is_in_the_database_from_the_start(tmp_path: Path) -> None:
    """The id that all keys hang on is not in the log alone, so losing the whole log cannot change
    it.
    """
    database = Database(tmp_path / LEDGER_NAME)
    assert os.stat(f"{database.path}-wal").st_size == 0
    other = sqlite3.connect(f"{database.path.as_uri()}?immutable=1", uri=True)
    assert other.execute("SELECT value FROM facts WHERE name = 'batch'").fetchone() == (
        database.batch_id,
    )
    other.close()
    database.close()
    again = Database(tmp_path / LEDGER_NAME)
    assert (len(again.batch_id), again.batch_id) == (32, database.batch_id)
    again.close()


def test_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older ledger is brought to the present version, with what is in it; a new one goes through
    all versions.
    """
    database = Database(tmp_path / LEDGER_NAME)
    database.apply([], [Database.begin_run])
    database.close()
    monkeypatch.setitem(
        queries(), "schema-2", "ALTER TABLE runs ADD COLUMN note TEXT; CREATE TABLE more (a);"
    )
    monkeypatch.setattr(database_module, "MIGRATIONS", ("schema-1", "schema-2"))
    for folder in (tmp_path, tmp_path / "new"):
        folder.mkdir(exist_ok=True)
        Database(folder / LEDGER_NAME).close()
        migrated = sqlite3.connect(folder / LEDGER_NAME)
        assert migrated.execute("PRAGMA user_version").fetchone() == (2,)
        assert migrated.execute("SELECT note FROM runs").fetchall() == (
            [(None,)] if folder == tmp_path else []
        )
        migrated.close()


def test_newer_ledger_is_refused(tmp_path: Path) -> None:
    """A ledger of a newer version is left alone."""
    Database(tmp_path / LEDGER_NAME).close()
    newer = sqlite3.connect(tmp_path / LEDGER_NAME)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(LedgerError, match="newer version"):
        Database(tmp_path / LEDGER_NAME)


@pytest.mark.parametrize("offset", [0, 40, 4096, 3 * 4096])
def test_damage_is_found_at_opening(tmp_path: Path, offset: int) -> None:
    """A ledger with damaged pages is refused when it is opened, before anything is paid by it."""
    Database(tmp_path / LEDGER_NAME).close()
    path = tmp_path / LEDGER_NAME
    data = bytearray(path.read_bytes())
    data[offset : offset + 64] = b"\xa5" * 64
    path.write_bytes(data)
    with pytest.raises(LedgerError):
        Database(path)


def test_no_ledger(tmp_path: Path) -> None:
    """Reading where there is no ledger is an error, and makes none."""
    with pytest.raises(LedgerError, match="no ledger"):
        Database(tmp_path / LEDGER_NAME, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_queries_are_commented_sql() -> None:
    """Every query of the .sql file has a name, and is complete SQL after its comments are taken
    away.
    """
    assert len(queries()) > 20
    for name, sql in queries().items():
        assert "--" not in sql, name
        if not name.startswith("where-"):
            assert sqlite3.complete_statement(sql), name


def test_one_index_over_all_jobs(tmp_path: Path) -> None:
    """Only the ids are indexed for every job: each further index with keys in no order makes a job
    dearer the more there are.
    """
    Database(tmp_path / LEDGER_NAME).close()
    ledger = sqlite3.connect(tmp_path / LEDGER_NAME)
    indexes = ledger.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'jobs'"
    ).fetchall()
    ledger.close()
    assert [name for name, sql in indexes if sql is None or " WHERE " not in sql] == [
        "sqlite_autoindex_jobs_1"
    ]


async def test_one_group_one_transaction(tmp_path: Path) -> None:
    """Changes that come together are written together, and reads see what was posted before."""
    ledger = await Ledger.open(tmp_path)
    [job] = await entered(ledger, 1)
    job.task_id = "task"
    ledger.post("running", job)
    [read] = await ledger.call(lambda database: database.page("shown"))
    assert (read.state, read.task_id) == (JobState.RUNNING, "task")
    await ledger.aclose()
    await ledger.aclose()
    with pytest.raises(LedgerError, match="closed"):
        ledger.post("running", job)


async def test_failure_reaches_all_who_wait(tmp_path: Path) -> None:
    """When the disk fails, whoever waits is told, everything after is refused, and the run that
    uses the ledger hears of it.
    """
    ledger = await Ledger.open(tmp_path)
    [job] = await entered(ledger, 1)
    await ledger.call(lambda database: database._db.execute("PRAGMA query_only = 1"))
    with pytest.raises(LedgerError, match="readonly"):
        await ledger.write("running", job)
    with pytest.raises(LedgerError):
        await ledger.call(Database.totals)
    with pytest.raises(LedgerError, match="readonly"):
        await ledger.lost
    await ledger.aclose()


async def test_a_jobs_columns_stand_in_one_list(tmp_path: Path) -> None:
    """A job is read with the columns that its class names, and every change writes such columns."""
    ledger = await Ledger.open(tmp_path)
    [job] = await entered(ledger, 1)
    assert {column for columns in CHANGES.values() for column in columns} <= {*COLUMNS}
    job.key, job.size, job.spent, job.error = "key", 7, 5, "{}"
    for change in CHANGES:
        await ledger.write(change, job)
    [read] = await ledger.call(lambda database: database.page("shown"))
    assert (read.state, read.size, read.spent, read.key) == (JobState.NEW, 7, 5, None)
    await ledger.aclose()


async def test_a_calls_own_error_is_its_callers(tmp_path: Path) -> None:
    """A call that raises gives its error to its caller."""
    ledger = await Ledger.open(tmp_path)
    with pytest.raises(ZeroDivisionError):
        await ledger.call(lambda database: 1 // 0)
    await ledger.aclose()


def test_lock_names_its_holder(tmp_path: Path) -> None:
    """A second holder is refused with the first one's process id; after the release it gets in."""
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.take()
    with pytest.raises(LedgerError, match=rf"process {os.getpid()} on "):
        second.take()
    first.release()
    second.take()
    second.release()
    second.release()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="the system opens links all the same")
def test_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    """In a folder that others may write to, a link in its place would have a file of its user's
    emptied.
    """
    victim = tmp_path / "letter.txt"
    victim.write_text("precious")
    (tmp_path / "happyhorse.lock").symlink_to(victim)
    with pytest.raises(LedgerError, match="is a symbolic link"):
        FolderLock(tmp_path).take()
    assert victim.read_text() == "precious"


def test_lock_of_another_process_ends_with_it(tmp_path: Path) -> None:
    """The lock of a process that is killed -9 is free at once, although its note is still there."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from happyhorse_async._edges.disk import FolderLock\n"
    )
    code += "FolderLock(Path(sys.argv[1])).take(); print('held', flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        lock = FolderLock(tmp_path)
        with pytest.raises(LedgerError, match=f"process {process.pid} "):
            lock.take()
        process.kill()
        process.wait()
    assert json.loads((tmp_path / "happyhorse.lock").read_text())["pid"] == process.pid
    lock.take()
    lock.release()


HOLDER_WITH_A_CHILD = """
import os, sys, time
from pathlib import Path
from happyhorse_async._edges.disk import FolderLock

lock = FolderLock(Path(sys.argv[1]))
lock.take()
begun, begins = os.pipe()
child = os.fork()
if not child:
    os.write(begins, b".")  # it has closed its copy of the lock by now
    time.sleep(600)
os.read(begun, 1)
print(child, flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["release", "kill"])
def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path, end: str) -> None:
    """The lock is free once its own process has let it go or is dead, whatever children it had."""
    command = [sys.executable, "-c", HOLDER_WITH_A_CHILD, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            lock = FolderLock(tmp_path)
            with pytest.raises(LedgerError, match=f"process {process.pid} "):
                lock.take()
            if end == "release":
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.stdout.readline() == "released\n"
            else:
                process.kill()
                process.wait()
            lock.take()
            lock.release()
        finally:
            os.kill(child, signal.SIGKILL)
            process.kill()


def test_a_lock_holds_without_its_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the folder is taken all the same, and let go."""
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    first.take()
    with pytest.raises(LedgerError, match="another process"):
        second.take()
    first.release()
    second.take()
    second.release()


def test_a_reader_in_the_way_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that cannot be emptied because somebody reads is emptied by a later group, and no group
    waits long for it.
    """
    monkeypatch.setattr(database_module, "FOLD_PAUSE", 0.0)
    database = Database(tmp_path / LEDGER_NAME)
    reader = sqlite3.connect(tmp_path / LEDGER_NAME, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM jobs").fetchone()
    database.apply([], [Database.begin_run], fold=True)
    assert os.stat(f"{database.path}-wal").st_size > 0
    reader.execute("COMMIT")
    database.apply([], [Database.last_run])
    assert os.stat(f"{database.path}-wal").st_size == 0
    reader.close()
    database.close()


def test_readers_do_not_walk_all_pages(tmp_path: Path) -> None:
    """Whoever only looks finds out what the batch is, and leaves the check of every page to the
    writer.
    """
    Database(tmp_path / LEDGER_NAME).close()
    asked: list[str] = []
    connect = sqlite3.connect

    class Heard(sqlite3.Connection):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:  # type: ignore[override]
            asked.append(sql)
            return super().execute(sql, *values)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sqlite3, "connect", lambda *given, **options: connect(*given, **options, factory=Heard)
        )
        database = Database(tmp_path / LEDGER_NAME, read_only=True)
        assert database.totals().jobs == 0
        database.close(fold=False)
    assert asked
    assert not [sql for sql in asked if "integrity_check" in sql]
