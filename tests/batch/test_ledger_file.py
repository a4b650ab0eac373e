"""The ledger's file: what is no whole ledger of ours is refused and stays as it is; other programs
are waited for; a ledger is read where nobody may write.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from happyhorse_async import LedgerError
from happyhorse_async._edges.disk import FolderLock
from happyhorse_async.batch import JobState, _ledger_file
from happyhorse_async.batch._database import LEDGER_NAME, Database
from happyhorse_async.batch._ledger import Ledger
from happyhorse_async.batch.report import overview, write_reports
from happyhorse_async.sandbox import Sandbox
from tests.batch.test_resume import rows, run
from tests.conftest import open_session

pytestmark = pytest.mark.anyio


def theirs(path: Path, *statements: str) -> None:
    """Make a database of another application."""
    other = sqlite3.connect(path, isolation_level=None)
    for statement in ("CREATE TABLE photos (a)", "INSERT INTO photos VALUES (1)", *statements):
        other.execute(statement)
    other.close()


def with_log(path: Path) -> None:
    """Make a database of another application whose tables are still in its log."""
    made = path.with_name("made")
    other = sqlite3.connect(made, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE photos (a)")
    for suffix in ("", "-wal"):
        shutil.copy(f"{made}{suffix}", f"{path}{suffix}")
    other.close()
    made.unlink()


def ours(path: Path, change: Callable[[sqlite3.Connection], object] = lambda db: None) -> bytes:
    """Make a ledger of ours, change it, and return its bytes."""
    Database(path).close()
    ledger = sqlite3.connect(path, isolation_level=None)
    change(ledger)
    ledger.close()
    return path.read_bytes()


def newer(path: Path) -> None:
    """Make a ledger of a newer version, as that version may have left it."""

    def change(ledger: sqlite3.Connection) -> None:
        ledger.execute("PRAGMA journal_mode = DELETE")
        ledger.execute("PRAGMA user_version = 99")

    ours(path, change)


def cut(path: Path) -> None:
    """Make a ledger without its last page, as an interrupted copy leaves it."""
    path.write_bytes(ours(path)[:-4096])


def log_alone(path: Path) -> None:
    """Make a log whose database was moved away."""
    Database(path.with_name("moved.sqlite")).close()
    path.with_name(f"{path.name}-wal").write_bytes(b"\x37\x7f\x06\x82" + bytes(4000))
    path.with_name("moved.sqlite").unlink()


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another application's": (theirs, "not a ledger of this package"),
    "another's with a version": (
        lambda path: theirs(path, "PRAGMA user_version = 1"),
        "not a ledger of this package",
    ),
    "another's with its own mark": (
        lambda path: theirs(path, "PRAGMA application_id = 1", "DROP TABLE photos"),
        "not a ledger of this package",
    ),
    "another's in its log": (with_log, "not a ledger of this package"),
    "a database without tables": (
        lambda path: theirs(path, "DROP TABLE photos"),
        "not a ledger of this package",
    ),
    "of a newer version": (newer, "newer version"),
    "cut short": (cut, "its end is missing"),
    "empty": (lambda path: path.touch(), "is empty"),
    "a text": (lambda path: path.write_text("my notes\n" * 100), "no database at all"),
    "a short text": (lambda path: path.write_text("notes"), "no database at all"),
    "a folder": (lambda path: path.mkdir(), "is no file"),
    "a link to nothing": (
        lambda path: path.symlink_to(path.with_name("not there")),
        "leads to .*not there",
    ),
    "a log alone": (log_alone, "ledger that is not there"),
}
"""Each kind of thing that may lie where the ledger should, and what is said of it."""


def seen(folder: Path) -> dict[str, bytes | None]:
    """Return all that lies in a folder. SQLite's index of a log is only a help for readers."""
    return {
        path.name: path.read_bytes() if path.is_file() else None
        for path in folder.iterdir()
        if not path.name.endswith("-shm")
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_ledger_is_refused_and_stays(tmp_path: Path, kind: str, read_only: bool) -> None:
    """It may be somebody else's, or hold what was paid: it is named with what helps, and not a byte
    of it changes.
    """
    make, said = KINDS[kind]
    (tmp_path / "one.mp4").write_bytes(b"a video")
    make(tmp_path / LEDGER_NAME)
    before = seen(tmp_path)
    for _ in range(2):
        with pytest.raises(LedgerError, match=said) as refused:
            Database(tmp_path / LEDGER_NAME, read_only=read_only)
        assert refused.value.next_step
    assert seen(tmp_path) == before


@pytest.mark.parametrize("name", ["../x.mp4", "/tmp/x.mp4", "a/x.mp4", "..", ""])
async def test_a_name_that_leads_out_of_the_folder_is_not_followed(
    tmp_path: Path, name: object
) -> None:
    """A ledger that somebody else has written in chooses no other file: nothing is moved, written
    or paid for it.
    """
    folder = tmp_path / "batch"
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        await run(session, folder, rows(1))
        with closing(sqlite3.connect(folder / LEDGER_NAME)) as database, database:
            database.execute("UPDATE jobs SET name = ?", (name,))
        with pytest.raises(LedgerError, match="no name in its folder") as refused:
            await run(session, folder, rows(1))
        assert refused.value.next_step
        with pytest.raises(LedgerError):
            write_reports(folder)
        assert sandbox.paid == 1
    assert [each.name for each in tmp_path.iterdir()] == ["batch"]


@pytest.mark.parametrize(
    "change",
    ["DROP TABLE jobs", "UPDATE jobs SET state = 'moonwalking'"],
)
async def test_a_ledger_that_makes_no_sense_is_a_clear_error(tmp_path: Path, change: str) -> None:
    """Whoever reads it, a run, the status or a report, hears of the ledger and of what helps."""
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        await run(session, tmp_path, rows(2))
        with closing(sqlite3.connect(tmp_path / LEDGER_NAME)) as database, database:
            database.execute(change)
        database.close()
        for read in (overview, write_reports):
            with pytest.raises(LedgerError) as refused:
                read(tmp_path)
            assert refused.value.next_step
        with pytest.raises(LedgerError):
            await run(session, tmp_path, rows(2))
        assert sandbox.paid == 2


async def test_a_folder_of_another_application_pays_nothing(tmp_path: Path) -> None:
    """A batch in such a folder is refused before anything is sent, at every try."""
    theirs(tmp_path / LEDGER_NAME)
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        for _ in range(2):
            with pytest.raises(LedgerError):
                await run(session, tmp_path, rows(1))
        assert sandbox.paid == 0


async def test_a_ledger_that_was_emptied_is_no_new_batch(tmp_path: Path) -> None:
    """What lies beside an empty ledger was paid for: it is not bought again."""
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        await run(session, tmp_path, rows(2))
        (tmp_path / LEDGER_NAME).write_bytes(b"")
        with pytest.raises(LedgerError, match="is empty") as refused:
            await run(session, tmp_path, rows(2))
        assert "backup" in (refused.value.next_step or "")
        assert sandbox.paid == 2


def test_a_ledger_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies while it makes a ledger leaves none: the next one begins, and removes
    what was left.
    """

    def dies(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        Database(tmp_path / LEDGER_NAME)
    assert not (tmp_path / LEDGER_NAME).exists()
    monkeypatch.undo()
    Database(tmp_path / LEDGER_NAME).close()
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER_NAME]


# --- other programs -------------------------------------------------------------------------------


async def test_another_program_that_writes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database browser with an edit that is not committed holds the ledger: the batch says that
    it waits, submits nothing meanwhile, and goes on by itself.
    """
    monkeypatch.setattr(_ledger_file, "WRITER_PATIENCE", 20)
    monkeypatch.setattr(_ledger_file, "LOOK_AGAIN", 0.01)
    caplog.set_level(logging.WARNING, "happyhorse_async")
    async with (
        Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
        session.batch(tmp_path, max_in_flight=2) as batch,
    ):
        other = sqlite3.connect(
            tmp_path / LEDGER_NAME, isolation_level=None, check_same_thread=False
        )
        paid: list[int] = []

        def watch(record: logging.LogRecord) -> bool:
            action = getattr(record, "action", "")
            if action == "ledger_held":
                paid.append(sandbox.paid)
                threading.Thread(target=let_go).start()
            return True

        def let_go() -> None:
            paid.append(sandbox.paid)
            other.execute("ROLLBACK")

        logging.getLogger("happyhorse_async").addFilter(watch)
        try:
            outcomes = batch.run(rows(8))
            assert (await anext(outcomes)).ok
            other.execute("BEGIN IMMEDIATE")
            assert [outcome.ok async for outcome in outcomes] == [True] * 7
        finally:
            logging.getLogger("happyhorse_async").removeFilter(watch)
            other.close()
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert actions[:2] == ["ledger_held", "ledger_free"]
    assert paid[0] == paid[1]
    assert sandbox.paid == 8


async def test_a_cancelled_opening_waits_for_no_other_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gives up opening a ledger that another program keeps to itself is let go, and can open it
    later.
    """
    Database(tmp_path / LEDGER_NAME).close()
    monkeypatch.setattr(_ledger_file, "WRITER_PATIENCE", 10)
    other = sqlite3.connect(tmp_path / LEDGER_NAME, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    held = asyncio.Event()
    loop = asyncio.get_running_loop()

    def watch(record: logging.LogRecord) -> bool:
        if getattr(record, "action", "") == "ledger_held":
            loop.call_soon_threadsafe(held.set)
        return True

    logging.getLogger("happyhorse_async").addFilter(watch)
    try:
        opening = asyncio.create_task(Ledger.open(tmp_path))
        await held.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    finally:
        logging.getLogger("happyhorse_async").removeFilter(watch)
        other.close()
    await (await Ledger.open(tmp_path)).aclose()


def test_a_program_that_never_lets_go_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its patience the ledger says what is in the way."""
    Database(tmp_path / LEDGER_NAME).close()
    monkeypatch.setattr(_ledger_file, "WRITER_PATIENCE", 10)
    monkeypatch.setattr(_ledger_file, "LONGEST_WAIT", 0.0)
    other = sqlite3.connect(tmp_path / LEDGER_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    database = Database(tmp_path / LEDGER_NAME)
    with pytest.raises(LedgerError, match="another program holds it"):
        database.apply([], [])
    other.execute("ROLLBACK")
    database.apply([], [])
    other.close()
    database.close()


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be locked, no other process is blamed."""

    def none(descriptor: int, how: int, *more: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(fcntl, "lockf", none)
    with pytest.raises(LedgerError, match="no locks that work: No locks available") as refused:
        FolderLock(tmp_path).take()
    assert "local disk" in (refused.value.next_step or "")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("SQLITE_IOERR_SHMSIZE", "the disk is full"),
        ("SQLITE_IOERR_SHMLOCK", "no locks that work"),
        ("SQLITE_IOERR_SHMMAP", "no locks that work"),
    ],
)
def test_a_full_disk_is_told_from_one_without_locks(name: str, what: str) -> None:
    """SQLite has one family of errors for both: it also extends the file in which it locks."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    with pytest.raises(LedgerError, match=what), _ledger_file.ledger_errors(Path("ledger")):
        raise error


# --- reading where nobody may write ---------------------------------------------------------------


@contextmanager
def nobody_may_write(folder: Path) -> Iterator[None]:
    """Take everybody's right to write in a folder away; who may do everything becomes another."""
    uid = os.geteuid()
    folder.chmod(0o555)
    if not uid:
        os.seteuid(65534)
    try:
        yield
    finally:
        if not uid:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users may read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("closed", [True, False])
def test_a_ledger_is_read_where_nobody_may_write(shared: Path, closed: bool) -> None:
    """A snapshot or somebody else's folder is read, with what is still in the log, and stays as it
    is; that no report can be written there is said.
    """
    path = shared / LEDGER_NAME
    database = Database(path)
    database.apply(
        [],
        [
            lambda db: db.write_set(
                "admit", [["a", "f", '{"image": {"link": "x"}}', "{}", "a.mp4", 1, 1]]
            )
        ],
    )
    if closed:
        database.close()
    for each in shared.iterdir():
        each.chmod(0o444)
    copies = set(Path(tempfile.gettempdir()).glob("happyhorse-*"))
    before = seen(shared)
    with nobody_may_write(shared):
        assert overview(shared).totals.states == {JobState.NEW: 1}
        with pytest.raises(LedgerError, match="nothing can be written in") as refused:
            write_reports(shared, ("jsonl",))
    assert refused.value.next_step
    assert seen(shared) == before
    assert set(Path(tempfile.gettempdir()).glob("happyhorse-*")) == copies
    if not closed:
        with suppress(LedgerError):
            database.close()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 300])
def test_no_ledger_is_where_no_path_can_be(tmp_path: Path, name: str) -> None:
    """A report of such a folder is refused in this package's words."""
    with pytest.raises(LedgerError, match="cannot be read"):
        write_reports(tmp_path / name, ["csv"])
