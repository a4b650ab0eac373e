"""A cluster's quick try over a file of SQLite: the same commands, with one worker."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from happyhorse_async import Budget, BudgetExceededError, ImageToVideo, LedgerError, Session
from happyhorse_async.batch import Job
from happyhorse_async.integrations.dbos import Cluster, WorkerOptions
from happyhorse_async.integrations.dbos._worker import Worker
from happyhorse_async.sandbox import Sandbox
from tests.cluster.support import Submissions, WorkerProcess, command, needs_sqlite, rows
from tests.cluster.test_limits import PRICE, most_at_once
from tests.conftest import open_session

pytestmark = [pytest.mark.anyio, pytest.mark.slow, needs_sqlite]

ANYWHERE = "image: given as bytes, which no worker has; expected a link, or a file they all see"


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The link to a file that is not there yet."""
    return f"sqlite:///{tmp_path / 'night.db'}"


async def enter(service: Sandbox, file: str, tmp_path: Path, count: int, *words: str) -> int:
    """Enter jobs with the command; return how many were new."""
    table = rows(tmp_path / "rows.jsonl", count)
    enqueue = ("cluster", "enqueue", str(table), "--yes", "--json", "--database", file, *words)
    code, told = await command(*enqueue, "--out", str(tmp_path / "videos"), **service.env())
    assert code == 0
    return int(json.loads(told.splitlines()[-1])["added"])


def states(file: str) -> dict[str, int]:
    """Count the jobs by their states."""
    with closing(sqlite3.connect(file.removeprefix("sqlite:///"))) as database, database:
        return dict(database.execute("SELECT state, count(*) FROM jobs GROUP BY state"))


async def test_one_worker_makes_every_video_and_pays_once(
    service: Sandbox, file: str, tmp_path: Path
) -> None:
    """The three commands over one file; what is entered again adds only what is new."""
    assert await enter(service, file, tmp_path, 12) == 12
    worker = await WorkerProcess.start(service, file, "--until-done")
    assert await worker.ended() == 0
    assert (states(file), service.paid) == ({"saved": 12}, 12)
    assert await enter(service, file, tmp_path, 14) == 2
    worker = await WorkerProcess.start(service, file, "--until-done")
    assert await worker.ended() == 0
    assert 14 == len(list((tmp_path / "videos").glob("*.mp4"))) == service.paid
    overview = await Cluster(file).overview()
    assert (overview.totals.jobs, overview.left, overview.workers) == (14, 0, ())
    assert overview.missing == 0
    page, lines = await Cluster(file).write_reports(("html", "jsonl"), title="A night & a day")
    assert "<title>A night &amp; a day" in page.read_text()
    assert len(lines.read_text().splitlines()) == 14
    next((tmp_path / "videos").glob("*.mp4")).unlink()
    assert (await Cluster(file).overview()).missing == 1
    (tmp_path / "videos").rename(tmp_path / "moved")
    assert (await Cluster(file).overview()).missing is None


async def test_a_killed_worker_is_followed_by_the_next_one(
    service: Sandbox, file: str, tmp_path: Path
) -> None:
    """Nobody goes on by itself; whoever is started next finds what was paid for."""
    await enter(service, file, tmp_path, 30)
    seen = Submissions(service)
    first = await WorkerProcess.start(service, file, "--max-in-flight", "10")
    await seen.reach(15)
    first.kill()
    await first.ended()
    [dead] = (await Cluster(file).overview()).workers
    assert (dead.pid, dead.alive) == (first.pid, False)
    second = await WorkerProcess.start(service, file, "--until-done")
    assert await second.ended() == 0
    assert (states(file), service.paid) == ({"saved": 30}, 30)


async def test_jobs_of_a_worker_that_is_not_noted_go_on(
    service: Sandbox, file: str, tmp_path: Path
) -> None:
    """Its note is gone, as that of one that was given jobs in the moment in which it ended."""
    await enter(service, file, tmp_path, 4)
    service.speed = 0
    seen = Submissions(service)
    first = await WorkerProcess.start(service, file)
    await seen.reach(4)
    first.kill()
    await first.ended()
    with closing(sqlite3.connect(file.removeprefix("sqlite:///"))) as database, database:
        database.execute("DELETE FROM workers")
    service.speed = 1000.0
    second = await WorkerProcess.start(service, file, "--until-done")
    async with asyncio.timeout(100):
        assert await second.ended() == 0
    assert (states(file), service.paid) == ({"saved": 4}, 4)


async def test_a_second_worker_is_refused(service: Sandbox, file: str, tmp_path: Path) -> None:
    """It says who has the file, and what carries several workers; the first one goes on."""
    await enter(service, file, tmp_path, 3)
    first = await WorkerProcess.start(service, file)
    await first.told(1)
    [living] = (await Cluster(file).overview()).workers
    assert (living.pid, living.alive) == (first.pid, True)
    code, told = await command("cluster", "work", "--json", "--database", file, **service.env())
    assert code != 0
    assert str(first.pid) in told
    assert "postgresql://" in told
    await first.told(3)
    first.terminate()
    assert await first.ended() == 0
    assert (states(file), service.paid) == ({"saved": 3}, 3)


async def test_limits_and_the_budget_hold(service: Sandbox, file: str, tmp_path: Path) -> None:
    """A budget for five of eight jobs pays for five, and never more than two run at once."""
    words = ("--max-credits", str(5 * PRICE), "--max-unfinished", "2", "--max-per-second", "20")
    await enter(service, file, tmp_path, 8, *words)
    worker = await WorkerProcess.start(service, file, "--until-done")
    assert await worker.ended() != 0
    assert service.paid == 5
    assert states(file) == {"saved": 5, "new": 3}
    assert most_at_once([(task.created, task.created + 0.5) for task in service.tasks]) <= 2


async def test_a_folder_is_taken_over(service: Sandbox, file: str, tmp_path: Path) -> None:
    """`--from` works over a file too, and pays for nothing again."""
    table = rows(tmp_path / "rows.jsonl", 4)
    folder = tmp_path / "videos"
    code, _ = await command(
        "batch", "run", str(table), "--out", str(folder), "--yes", **service.env()
    )
    assert code == 0
    told = await Cluster(file).take_over(folder)
    assert (told.saved, told.added, service.paid) == (4, 0, 4)


async def test_bytes_are_refused_and_keep_no_worker_waiting(
    service: Sandbox, file: str, tmp_path: Path
) -> None:
    """Bytes stay in the process that has them: rows with them are named, entered or taken over."""
    link, image = ImageToVideo("https://example.com/1.png"), service.photo.read_bytes()
    async with open_session(service) as session:
        async with session.batch(tmp_path / "videos", budget=Budget(credits=1)) as batch:
            with pytest.raises(BudgetExceededError):
                _ = [outcome async for outcome in batch.run([ImageToVideo(image)])]
        told = await Cluster(file).take_over(tmp_path / "videos")
        assert [str(row.error) for row in told.refused] == [ANYWHERE]
        told = await Cluster(file).enqueue([link, ImageToVideo(image + b" ")])
        assert (told.added, [str(row.error) for row in told.refused]) == (1, [ANYWHERE])
        await worker_of(session, file, tmp_path).run()
        assert (states(file), service.paid) == ({"new": 1, "saved": 1}, 1)
        # The same picture in a file is the same job, which can be made now.
        told = await Cluster(file).enqueue([ImageToVideo(service.photo)])
        assert told.added == 1
        await worker_of(session, file, tmp_path).run()
    assert (states(file), service.paid) == ({"saved": 2}, 2)


async def test_an_id_that_no_index_can_hold_is_refused_alone(file: str) -> None:
    """The row is named, and the others of its group are entered."""
    requests = [ImageToVideo("https://example.com/1.png", seed=seed) for seed in (1, 2, 3)]
    ids = ["é" * 1000, "é" * 1001, "c"]
    jobs = [Job(request, id=one) for request, one in zip(requests, ids, strict=True)]
    told = await Cluster(file).enqueue(jobs)
    assert (told.added, [row.id for row in told.refused]) == (2, [ids[1]])
    assert "at most 2,000 bytes, got 2,002" in str(told.refused[0].error)


async def test_another_programs_file_is_left_as_it_is(tmp_path: Path) -> None:
    """A folder's own ledger, or whatever else, is refused and not changed."""
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as database, database:
        database.execute("CREATE TABLE mine (x)")
    before = other.read_bytes()
    with pytest.raises(LedgerError, match="is no cluster's database"):
        await Cluster(f"sqlite:///{other}").overview()
    assert other.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["other.db"]


def worker_of(session: Session, file: str, tmp_path: Path) -> Worker:
    """Make a worker in this process, which ends when no job is left."""
    options = WorkerOptions(until_done=True)
    return Cluster(file).worker(session, out=tmp_path / "videos", options=options)


@pytest.mark.parametrize(
    "database",
    ["sqlite:///{}/nowhere/night.db", "sqlite:///{}/junk.db", "postgresql://127.0.0.1:1/x"],
)
async def test_a_worker_without_its_database_says_what_is_wrong(
    service: Sandbox, tmp_path: Path, database: str
) -> None:
    """From code too the error is this package's own, whichever driver met the trouble."""
    (tmp_path / "junk.db").write_bytes(b"no database at all " * 1000)
    async with open_session(service) as session:
        with pytest.raises(LedgerError, match="database"):
            await worker_of(session, database.format(tmp_path), tmp_path).run()


async def test_a_worker_that_cannot_begin_leaves_the_file(
    service: Sandbox, file: str, tmp_path: Path
) -> None:
    """Refused by the schema's version, or cancelled while it begins, it has the file no longer.

    Else nobody in its process, and nobody beside it, could work before the process ends.
    """
    await enter(service, file, tmp_path, 2)
    path = Path(file.removeprefix("sqlite:///"))
    lock = path.with_name(f"{path.name}.lock")
    async with open_session(service) as session:
        for version in ("2", "1"):
            with closing(sqlite3.connect(path)) as database, database:
                database.execute("UPDATE facts SET value = ? WHERE name = 'version'", (version,))
            if version == "2":
                with pytest.raises(LedgerError, match="version"):
                    await worker_of(session, file, tmp_path).run()
        beginning = asyncio.ensure_future(worker_of(session, file, tmp_path).run())
        while not (lock.exists() and lock.stat().st_size):
            await asyncio.sleep(0)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        await worker_of(session, file, tmp_path).run()
    assert (states(file), service.paid) == ({"saved": 2}, 2)
