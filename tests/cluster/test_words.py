"""What a cluster says before it has a database, and what its values show; needs no PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import sqlite3
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
from typer.testing import CliRunner

from happyhorse_async import (
    ConfigurationError,
    ImageToVideo,
    InvalidRequestError,
    LedgerError,
)
from happyhorse_async._rules.lifecycle import JobState
from happyhorse_async.batch._jobs import CHANGES, COLUMNS
from happyhorse_async.batch._outcome import Totals
from happyhorse_async.cli._app import app
from happyhorse_async.cli._cluster import lines_of
from happyhorse_async.integrations.dbos import (
    Cluster,
    ClusterLimits,
    ClusterOverview,
    WorkerFacts,
    WorkerOptions,
)
from happyhorse_async.integrations.dbos._cancelled import is_trouble
from happyhorse_async.integrations.dbos._cluster import folder_of, place_of
from happyhorse_async.integrations.dbos._connection import check_url, cluster_queries
from happyhorse_async.integrations.dbos._database import _FIXED, ClusterDatabase
from happyhorse_async.integrations.dbos._enqueue import prepare
from happyhorse_async.integrations.dbos._sqlite import SqliteConnection
from tests.cluster.support import needs_sqlite, rows

OVERVIEW = ClusterOverview(
    out="/videos",
    totals=Totals(
        states={JobState.SAVED: 3, JobState.RUNNING: 2}, dying=1, first_death=0.0, failures={"x": 1}
    ),
    per_hour=60.0,
    workers=(
        WorkerFacts(
            id=1,
            host="a",
            pid=7,
            started=0.0,
            seen=1.0,
            in_hand=2,
            adopted=0,
            word="",
            alive=False,
        ),
    ),
    limits=ClusterLimits(unfinished=100, rate=5.0, budget=7_000_000),
    left=2,
    missing=4,
)


@needs_sqlite
def test_a_database_is_named_by_a_link_to_postgresql_or_to_a_file_of_sqlite() -> None:
    """SQLite is for a quick try, which is said; nothing lies in memory, where nobody finds it."""
    assert not Cluster("postgresql://host/name").caveat
    quick = Cluster("sqlite:///videos.db")
    assert quick.url == f"sqlite:///{os.path.abspath('videos.db')}"
    assert "quick try: one machine, one worker" in quick.caveat
    for other in ("videos", "mysql://host/name"):
        with pytest.raises(ConfigurationError, match=r"postgresql://.*sqlite:///"):
            Cluster(other)
    for other in ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+aiosqlite:///a.db"):
        with pytest.raises(ConfigurationError, match=r"sqlite:///file\.db"):
            Cluster(other)


@pytest.mark.parametrize(
    ("sqlite", "python", "too_old"),
    [
        ((3, 40, 1), (3, 11, 7, "final", 0), False),
        ((3, 40, 1), (3, 12, 0, "final", 0), True),
        ((3, 42, 0), (3, 14, 0, "final", 0), False),
    ],
)
def test_a_sqlite_that_dbos_cannot_use_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
    sqlite: tuple[int, ...],
    python: tuple[object, ...],
    too_old: bool,
) -> None:
    """DBOS would fail on its first row, with a word about a column of its own."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", sqlite)
    monkeypatch.setattr("sys.version_info", python)
    if too_old:
        with pytest.raises(ConfigurationError, match=r"needs SQLite 3\.42"):
            check_url("sqlite:///night.db")
    else:
        assert check_url("sqlite:///night.db").endswith("night.db")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_spelling_of_a_link_to_postgresql_is_taken(scheme: str) -> None:
    """The spellings of psycopg and SQLAlchemy mean one database."""
    assert check_url(f"{scheme}://me@host/name?sslmode=require") == (
        "postgresql://me@host/name?sslmode=require"
    )


def test_a_link_with_several_hosts_is_taken_as_it_is_advised() -> None:
    """Both libraries that read a link take the hosts of a database with a standby in this form."""
    with pytest.raises(ConfigurationError) as caught:
        check_url("postgresql://user@one:5432,two:5432/name")
    advised = str(caught.value).split()[-1]
    assert check_url(advised) == advised == "postgresql://user@/name?host=one,two&port=5432,5432"


@pytest.mark.parametrize(
    "rest",
    [
        "me:secret@[::1",
        "me:secret@host/name?passwor=secret",
        "me:secret%zz@host/name",
        "me:secret@one:5432,two:5432/name",
    ],
)
def test_a_link_that_cannot_be_read_is_refused_before_it_is_used(rest: str) -> None:
    """It is a wrong setting, found out before anything is sent, and its password is not told."""
    with pytest.raises(ConfigurationError, match="--database: the link cannot be read") as caught:
        Cluster(f"postgresql://{rest}")
    told = "".join(traceback.format_exception(caught.value, limit=0))
    assert "secret" not in told


def test_commands_without_a_database_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command names the option and the variable, and exits with the code of wrong
    settings.
    """
    monkeypatch.delenv("HAPPYHORSE_DATABASE", raising=False)
    for words in (["work"], ["status"], ["report"], ["enqueue", "--from", "videos"]):
        told = CliRunner().invoke(app, ["cluster", *words])
        assert (told.exit_code, "HAPPYHORSE_DATABASE" in told.output) == (2, True), words


@needs_sqlite
@pytest.mark.parametrize("words", [["status"], ["report"]])
def test_a_file_that_was_mistyped_is_not_made(tmp_path: Path, words: list[str]) -> None:
    """Looking at a cluster that is not there is wrong input, and leaves no new database behind."""
    link = f"sqlite:///{tmp_path}/nigth.db"
    told = CliRunner().invoke(app, ["cluster", *words, "--database", link])
    assert (told.exit_code, "there is no database at" in told.output) == (2, True), told.output
    assert list(tmp_path.iterdir()) == []


@needs_sqlite
@pytest.mark.parametrize(("place", "problem"), [("no/a.db", "there is no folder"), ("", "folder")])
def test_a_file_that_cannot_be_made_is_a_wrong_setting(
    tmp_path: Path, place: str, problem: str
) -> None:
    """Nothing was sent, and no ledger is spoken of that would know what was paid."""
    (tmp_path / "rows.csv").write_text("image\nhttps://example.com/1.png\n")
    words = ["enqueue", str(tmp_path / "rows.csv"), "--yes", "--out", str(tmp_path / "out")]
    link = f"sqlite:///{tmp_path}/{place}"
    told = CliRunner().invoke(app, ["cluster", *words, "--database", link])
    assert (told.exit_code, problem in told.output) == (2, True), told.output
    assert "ledger" not in told.output


def test_an_input_and_a_folder_are_not_entered_at_once() -> None:
    """Either a SOURCE or --from, and nothing is guessed."""
    for words in ([], ["photos.csv", "--from", "videos"]):
        assert CliRunner().invoke(app, ["cluster", "enqueue", *words]).exit_code == 2


@pytest.mark.parametrize(
    ("unfinished", "rate", "said"),
    [
        (None, None, None),
        (1000, None, "  limits: 1,000 unfinished tasks"),
        (None, 0.5, "  limits: 0.5 submissions a second"),
    ],
)
def test_status_tells_the_limits_that_are_set(
    unfinished: int | None, rate: float | None, said: str | None
) -> None:
    """No limit is not told as "no submissions a second", which would be a cluster that stands."""
    facts = attrs.evolve(OVERVIEW, limits=ClusterLimits(unfinished=unfinished, rate=rate))
    told = [line for line in lines_of(facts) if line.startswith("  limits: ")]
    assert told == [said] * (said is not None)


def test_status_says_what_people_must_know() -> None:
    """Jobs, money, limits, dying links, and which workers are dead."""
    text = "\n".join(lines_of(OVERVIEW))
    for word in (
        "3 of 5",
        "2 running",
        "of 7",
        "100 unfinished",
        "links about to die: 1, the first in",
        "not whole: 4 saved videos",
        "is dead",
        "1 x x",
    ):
        assert word in text
    assert OVERVIEW.to_dict()["workers"] == [attrs.asdict(OVERVIEW.workers[0])]


def test_the_database_has_every_column_and_change_of_a_batch() -> None:
    """A column or a change that the batch's ledger gets must come to the cluster's too."""
    schema = cluster_queries()["schema-1"]
    table = schema[schema.index("CREATE TABLE jobs (") :]
    defined = {line.split()[0] for line in table[: table.index(");")].splitlines()[1:]}
    assert set(COLUMNS) <= defined
    assert set(CHANGES) == set(_FIXED)


def test_a_place_is_known_by_one_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link has no slash at its end, and a path is absolute; reports lie beside the videos."""
    assert place_of("s3://bucket/night/") == "s3://bucket/night"
    assert place_of("/a/b/../c") == "/a/c"
    assert (str(folder_of("/a/c")), str(folder_of("s3://bucket/night"))) == ("/a/c", ".")


@needs_sqlite
def test_sqlite_understands_every_query(tmp_path: Path) -> None:
    """A query in words that SQLite has not would end a quick try in its midst.

    Those over locks of PostgreSQL's own are none of SQLite's.
    """
    database = ClusterDatabase(f"sqlite:///{tmp_path / 'night.db'}")
    prepare(database.url)  # some look into DBOS's own tables
    shown = cluster_queries()["where-shown"]
    filled = {"where": shown, "shown": shown, "state": "failed", "sets": "state = 'new'"}
    filled |= {"names": "id", "values": "v.value->>0"}
    for name, sql in cluster_queries().items():
        if not name.startswith(("schema-", "where-")) and "pg_locks" not in sql:
            whole = sql.format_map(filled)
            database._db.execute(f"EXPLAIN {whole}", ["[]"] * whole.count("?"))
    database.close()


@pytest.mark.parametrize(
    "out", ["{}/file", "{}/file/videos", "https://example.com/videos", "s3:/bucket", "{}/a\0b"]
)
@pytest.mark.parametrize(
    "database",
    [
        pytest.param("sqlite:///{}/night.db", marks=needs_sqlite),
        "postgresql://127.0.0.1:1/x",
    ],
)
def test_a_place_that_is_no_folder_is_refused_before_anything_is_entered(
    tmp_path: Path, out: str, database: str
) -> None:
    """The command says it at once, and not each worker later; from code too nothing is entered."""
    (tmp_path / "file").write_text("mine")
    table = rows(tmp_path / "rows.jsonl", 1)
    link, place = database.format(tmp_path), out.format(tmp_path)
    words = ("cluster", "enqueue", str(table), "--yes", "--database", link, "--out", place)
    told = CliRunner().invoke(app, words)
    assert (told.exit_code, "--out" in told.output) == (2, True)
    with pytest.raises(ConfigurationError, match="--out"):
        Cluster(link).refuse_place(place)
    if link.startswith("sqlite"):
        assert not (tmp_path / "night.db").exists()
        with pytest.raises(ConfigurationError, match="--out"):
            asyncio.run(Cluster(link).enqueue([ImageToVideo("https://example.com/a")], out=place))
        assert not asyncio.run(Cluster(link).overview()).totals.jobs
    assert not (tmp_path / "a").exists()


@needs_sqlite
def test_a_folder_that_only_workers_see_is_not_refused(tmp_path: Path) -> None:
    """Who enters need not have it. A quick try's worker is here, and cannot make it."""
    there = "/proc/shared/videos"
    Cluster("postgresql://host/name").refuse_place(there)
    with pytest.raises(ConfigurationError, match="--out"):
        Cluster(f"sqlite:///{tmp_path}/night.db").refuse_place(there)


@needs_sqlite
@pytest.mark.parametrize(
    "table", [b"image,promt\na.jpg,x\n", "image,prompt\na.jpg,猫在跑步\n".encode("gbk")]
)
def test_what_a_table_is_in_want_of_is_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: bytes
) -> None:
    """What is advised against a bad table can be said here, as to `batch run`."""
    monkeypatch.setenv("EVOLINK_API_KEY", "no-key-is-used")
    (tmp_path / "rows.csv").write_bytes(table)
    words = ("cluster", "enqueue", str(tmp_path / "rows.csv"), "--yes", "--out", str(tmp_path))
    told = CliRunner().invoke(app, (*words, "--database", f"sqlite:///{tmp_path}/night.db"))
    advised = set(re.findall(r"pass (--[a-z-]+)", told.output))
    assert (told.exit_code, len(advised)) == (2, 1)
    assert advised <= set(re.findall(r"--[a-z-]+", CliRunner().invoke(app, [*words, "-h"]).output))


def test_a_folder_s_batch_leaves_its_videos_where_they_are() -> None:
    """With --from no other place can be said: it would not be heeded."""
    words = ("cluster", "enqueue", "--from", "videos", "--out", "elsewhere")
    told = CliRunner().invoke(app, words)
    assert (told.exit_code, "leave --out away" in told.output) == (2, True)


def test_a_file_that_is_being_made_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several commands may begin a new file at once: none of them finds it locked."""
    path = tmp_path / "night.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE pace (next)")
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(time, "sleep", lambda _: other.execute("COMMIT"))
        with closing(SqliteConnection.to(f"sqlite:///{path}")) as mine:
            assert mine.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_end_while_dbos_takes_jobs_is_no_trouble() -> None:
    """A worker that is asked to end shows no traceback of DBOS's, unless something is wrong."""
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    for work, shown in ((lambda: pool.submit(int), False), (lambda: int("x"), True)):
        try:
            work()
        except (RuntimeError, ValueError):
            told = sys.exc_info()
        record = logging.LogRecord("dbos", logging.ERROR, "", 0, "broken", None, told)
        assert is_trouble(record) is shown


@needs_sqlite
@pytest.mark.parametrize(
    "limits",
    [
        {"unfinished": 0},
        {"unfinished": "9"},
        {"unfinished": True},
        {"unfinished": 3_000_000_000},
        {"rate": 0},
        {"rate": math.nan},
        {"rate": "5"},
        {"credits": -1},
        {"credits": 1e12},
    ],
)
def test_what_is_no_limit_is_refused(tmp_path: Path, limits: dict[str, Any]) -> None:
    """It would be none: to SQLite every number is less than a text. No file is made for it."""
    [name] = limits
    with pytest.raises(ConfigurationError, match=name):
        asyncio.run(Cluster(f"sqlite:///{tmp_path}/night.db").set_limits(**limits))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [{"in_flight": 0}, {"drain": math.nan}, {"timeout": "5"}, {"retry": 3}]
)
def test_what_no_worker_can_heed_is_refused(options: dict[str, Any]) -> None:
    """Where it is said, and not in the midst of the work."""
    [name] = options
    with pytest.raises(ConfigurationError, match=name):
        WorkerOptions(**options)


@needs_sqlite
def test_places_and_inputs_that_are_none(tmp_path: Path) -> None:
    """Each is named; the file is bound to no place in which nothing can be saved."""
    cluster = Cluster(f"sqlite:///{tmp_path}/night.db")
    one: Any = ImageToVideo("https://cdn.example.com/cat.png")
    deep = f"{tmp_path}/a/{'b' * 300}"
    for out in (5, b"videos"):
        with pytest.raises(InvalidRequestError, match="out: expected a path"):
            asyncio.run(cluster.enqueue([one], out=out))  # type: ignore[arg-type]
    for given in (one, "cat.png", None):
        with pytest.raises(InvalidRequestError, match="requests: expected several"):
            asyncio.run(cluster.enqueue(given, out=tmp_path / "videos"))
    for out in (deep, f"{tmp_path}/{'b' * 300}"):
        with pytest.raises(ConfigurationError, match="name too long"):
            asyncio.run(cluster.enqueue([one], out=out))
    with pytest.raises(ConfigurationError, match="name too long"):
        Cluster("postgresql://host/name").refuse_place(f"{tmp_path}/{'b' * 300}")
    assert asyncio.run(cluster.enqueue([one], out=tmp_path / "videos")).added == 1
    with pytest.raises(LedgerError, match="no ledger in"):
        asyncio.run(cluster.take_over(f"{tmp_path}/nowhere"))
    for url in (None, b"sqlite:///night.db", "sqlite:///a\0b"):
        with pytest.raises(ConfigurationError, match="--database"):
            Cluster(url)  # type: ignore[arg-type]
