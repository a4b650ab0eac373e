"""How workers end, and what the others see of them."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import psycopg
import pytest

from happyhorse_async import ConfigurationError, ImageToVideo, LedgerError
from happyhorse_async._rules.lifecycle import JobState
from happyhorse_async.integrations.dbos import Cluster, WorkerOptions, _keeper
from happyhorse_async.integrations.dbos._keeper import Keeper
from happyhorse_async.sandbox import Fault, Sandbox
from tests.cluster.support import (
    Postgres,
    Submissions,
    WorkerProcess,
    command,
    in_hand,
    number_of,
    rows,
)
from tests.conftest import PHOTOS, open_session

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LINK = "https://example.com/1.png"
TEMPLATE = "TEMPLATE template0"
LIMIT = 100.0
"""Seconds against hanging."""


async def enter(
    sandbox: Sandbox, database: str, folder: Path, count: int, *words: str, **columns: object
) -> Path:
    """Enter jobs; return the folder of their videos."""
    table = rows(folder / "rows.jsonl", count, **columns)
    code, _ = await command(
        *("cluster", "enqueue", str(table), "--yes", "--database", database),
        *("--out", str(folder / "videos"), *words),
        **sandbox.env(),
    )
    assert code == 0
    return folder / "videos"


async def execute(database: str, statement: str) -> None:
    """Run a statement in the cluster's database."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(statement.encode())


async def fetch(database: str, query: str) -> list[tuple[object, ...]]:
    """Read rows of the cluster's database."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def in_state(database: str, state: str) -> int:
    """Count the jobs in a state."""
    return len(await fetch(database, f"SELECT FROM happyhorse.jobs WHERE state = '{state}'"))


async def cut_all(database: str) -> None:
    """Cut everybody off from the database."""
    await execute(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()",
    )


async def test_a_signal_drains_and_the_rest_goes_on_elsewhere(
    anyio_backend: str, database: str, tmp_path: Path
) -> None:
    """A worker that is asked to end fetches what ends in its time, and submits nothing more.

    What is left goes on in the next worker, and each job is paid for once.
    """
    async with Sandbox(video="stub", speed=0) as sandbox:
        videos = await enter(sandbox, database, tmp_path, 30, "--max-unfinished", "10")
        submissions = Submissions(sandbox)
        first = await WorkerProcess.start(sandbox, database, "--drain", "3600")
        await submissions.reach(10)
        while sandbox.paid < 10:
            await asyncio.sleep(0.01)
        number = await number_of(database, first)
        first.terminate(signal.SIGHUP)  # a terminal that is closed says what SIGTERM says
        for task in sandbox.tasks[:4]:
            sandbox.finish(task.id)
        await first.told(4)
        assert (sandbox.paid, len(list(videos.glob("*.mp4")))) == (10, 4)
        first.terminate()  # once more: at once
        assert await first.ended() == 0
        assert await in_hand(database, number), "its jobs are still in its name"
        sandbox.speed = 1000.0
        last = await WorkerProcess.start(sandbox, database, "--until-done")
        assert await last.ended() == 0
        assert 30 == sandbox.paid == len(list(videos.glob("*.mp4")))


async def test_a_refused_key_ends_a_worker_and_costs_nothing(
    service: Sandbox, database: str, tmp_path: Path
) -> None:
    """A worker whose key is refused says so and ends; the jobs wait for one with a good key."""
    videos = await enter(service, database, tmp_path, 5)
    wrong = await WorkerProcess.start(
        service, database, "--until-done", environment={"EVOLINK_API_KEY": "sk-wrong"}
    )
    assert await wrong.ended() == 5, "the code of a service that refuses"
    right = await WorkerProcess.start(service, database, "--until-done")
    assert await right.ended() == 0
    assert 5 == service.paid == len(list(videos.glob("*.mp4")))


async def test_the_images_of_jobs_that_were_let_go_are_uploaded_anew(
    service: Sandbox, database: str, tmp_path: Path
) -> None:
    """A worker that ends for want of credits takes the images off the file host of jobs that were
    not accepted. The next worker puts them there again, and no task fails for a link that is dead.
    """
    broke = service.fail(Fault("refuse", path="/v1/videos/generations", status=402, times=None))
    image = str(PHOTOS / "cat.jpg")
    videos = await enter(service, database, tmp_path, 2, image=image)
    poor = await WorkerProcess.start(service, database, "--until-done")
    assert (await poor.ended(), service.fired(broke) > 0) == (5, True)
    service.clear_faults()
    rich = await WorkerProcess.start(service, database, "--until-done")
    assert await rich.ended() == 0
    assert 2 == service.paid == len(list(videos.glob("*.mp4")))


async def test_status_tells_the_living_from_the_dead(
    anyio_backend: str, database: str, tmp_path: Path
) -> None:
    """Status shows a worker with its jobs, alive by its lock, and dead when that is free."""
    async with Sandbox(video="stub", speed=0) as sandbox:
        await enter(sandbox, database, tmp_path, 4)
        submissions = Submissions(sandbox)
        worker = await WorkerProcess.start(sandbox, database)
        await submissions.reach(4)

        async def seen() -> dict[str, object]:
            code, told = await command("cluster", "status", "--json", "--database", database)
            assert code == 0
            facts = json.loads(told)
            assert facts["left"] == 4
            [found] = facts["workers"]
            return dict(found)

        while (await seen())["in_hand"] != 4:
            await asyncio.sleep(0.1)
        assert (await seen())["alive"]
        worker.kill()
        await worker.ended()
        assert not (await seen())["alive"]
        code, told = await command("cluster", "status", "--database", database)
        assert code == 0
        assert "is dead, and had 4 jobs" in told


async def test_a_worker_that_only_seemed_dead_writes_nothing_any_more(
    anyio_backend: str, database: str, tmp_path: Path
) -> None:
    """A worker is stopped in its tracks, and its connections are cut; another one takes over.

    When it wakes, its notes do not count, and every job is paid for once.
    """
    async with Sandbox(video="stub", task_seconds=40, speed=20) as sandbox:
        videos = await enter(sandbox, database, tmp_path, 40)
        submissions = Submissions(sandbox)
        sleeper = await WorkerProcess.start(sandbox, database)
        await submissions.reach(20)
        sleeper.freeze()
        await cut_all(database)
        other = await WorkerProcess.start(sandbox, database)
        await other.told(10)
        sleeper.thaw()
        await asyncio.gather(_all_there(videos, 40), _all_done(database))
        for worker in (sleeper, other):
            worker.terminate()
            assert await worker.ended() == 0
        assert sandbox.paid == 40
        ids = [outcome["id"] for w in (sleeper, other) for outcome in w.outcomes]
        assert len(ids) == len(set(ids)) == 40, "no job is told twice"


async def test_a_worker_that_was_buried_alive_is_missed_when_it_dies(
    anyio_backend: str, database: str, tmp_path: Path
) -> None:
    """It wakes, is looked after again, and is killed: what it had then goes on elsewhere too."""
    async with Sandbox(video="stub", speed=0) as sandbox:
        videos = await enter(sandbox, database, tmp_path, 12)
        few = ("--max-in-flight", "3", "--until-done")
        sleeper = await WorkerProcess.start(sandbox, database, *few)
        while len(await in_hand(database)) < 3:
            await asyncio.sleep(0.1)
        sleeper.freeze()
        await cut_all(database)
        other = await WorkerProcess.start(sandbox, database, *few)
        async with asyncio.timeout(2 * LIMIT):
            while await number_of(database, sleeper):  # it is buried
                await asyncio.sleep(0.1)
            sleeper.thaw()
            while not await number_of(database, sleeper):  # it is noted again
                await asyncio.sleep(0.1)
            sleeper.kill()
            sandbox.speed = 1000.0
            assert await other.ended() == 0
        assert 12 == sandbox.paid == len(list(videos.glob("*.mp4")))


async def test_jobs_of_a_worker_that_nobody_has_noted_go_on(
    service: Sandbox, database: str, tmp_path: Path
) -> None:
    """A worker was buried alive, took jobs, and died before it was noted again."""
    service.speed = 0
    videos = await enter(service, database, tmp_path, 5)
    worker = await WorkerProcess.start(service, database)
    while len(await in_hand(database)) < 5:
        await asyncio.sleep(0.1)
    worker.kill()
    await worker.ended()
    await execute(database, "DELETE FROM happyhorse.workers")
    service.speed = 1000.0
    last = await WorkerProcess.start(service, database, "--until-done")
    async with asyncio.timeout(LIMIT):
        assert await last.ended() == 0
    assert 5 == service.paid == len(list(videos.glob("*.mp4")))


async def test_a_worker_that_is_given_its_own_jobs_again_works_on_each_once(
    service: Sandbox, database: str, tmp_path: Path
) -> None:
    """It only seemed dead, and its jobs went back into the queue before it has noticed.

    It is the one that takes them out again. Each is told once.
    """
    service.speed = 0
    videos = await enter(service, database, tmp_path, 5)
    worker = await WorkerProcess.start(service, database, "--until-done")
    while service.paid < 5 or await in_state(database, "running") < 5:
        await asyncio.sleep(0.1)
    await execute(
        database,
        "UPDATE happyhorse.jobs SET worker = NULL; UPDATE dbos.workflow_status SET "
        "status = 'ENQUEUED', owner_xid = NULL, started_at_epoch_ms = NULL",
    )
    async with asyncio.timeout(LIMIT):
        while await fetch(database, "SELECT FROM dbos.workflow_status WHERE status <> 'PENDING'"):
            await asyncio.sleep(0.1)
        service.speed = 1000.0
        assert await worker.ended() == 0
    assert 5 == service.paid == len(list(videos.glob("*.mp4")))
    ids = [outcome["id"] for outcome in worker.outcomes]
    assert len(ids) == len(set(ids)) == 5


async def test_a_worker_that_was_given_a_job_while_it_ended_is_missed(
    anyio_backend: str, database: str, tmp_path: Path
) -> None:
    """DBOS may take a job out of the queue in the moment in which a worker ends with nothing left.

    Its note stays then, so that whoever looks next goes on with that job.
    """
    await Cluster(database).enqueue([ImageToVideo(LINK)], out=tmp_path)

    async def adopt(number: int) -> int:
        raise AssertionError("nobody else is here")

    for given in (False, True):
        keeper = Keeper(database, adopt)
        await keeper.enter()
        if given:
            await execute(
                database,
                "UPDATE dbos.workflow_status SET status = 'PENDING', "
                f"executor_id = 'happyhorse-{keeper.id}'",
            )
        await keeper.aclose(finished=True)
        noted = {worker.id for worker in (await Cluster(database).overview()).workers}
        assert noted == ({keeper.id} if given else set())


async def test_a_keeper_ends_also_when_its_connection_is_lost_at_that_moment(
    anyio_backend: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks after a dead worker, and cannot let go of that one's lock any more.

    The error of that must not take the place of its end: the process would live for ever.
    """
    monkeypatch.setattr(_keeper, "GRACE", 0.0)
    await Cluster(database).enqueue([ImageToVideo(LINK)], out=tmp_path)
    await execute(
        database,
        "INSERT INTO happyhorse.workers (host, pid, started, seen) VALUES ('gone', 1, 0, 0)",
    )
    adopting = asyncio.Event()

    async def adopt(number: int) -> int:
        if adopting.is_set():
            return 0
        assert keeper._connection is not None
        await keeper._connection.close()
        adopting.set()
        return int(await asyncio.get_running_loop().create_future())

    keeper = Keeper(database, adopt)
    await keeper.enter()
    keeping = asyncio.ensure_future(keeper.keep())
    await adopting.wait()
    keeping.cancel()
    ended, _ = await asyncio.wait([keeping], timeout=LIMIT)
    keeping.cancel()  # so that this ends even when that did not
    await asyncio.wait([keeping])
    await keeper.aclose()
    assert ended


async def test_jobs_that_were_taken_away_and_given_to_nobody_go_on(
    service: Sandbox, database: str, tmp_path: Path
) -> None:
    """A worker only seems dead, and the one that takes its jobs away dies before it passes them on.

    The first one has them still, and brings them to their ends.
    """
    service.speed = 0
    videos = await enter(service, database, tmp_path, 5)
    worker = await WorkerProcess.start(service, database, "--until-done")
    while service.paid < 5 or len(await in_hand(database)) < 5:
        await asyncio.sleep(0.1)
    await execute(database, "UPDATE happyhorse.jobs SET worker = NULL")
    service.speed = 1000.0
    async with asyncio.timeout(LIMIT):
        assert await worker.ended() == 0
    assert 5 == service.paid == len(list(videos.glob("*.mp4")))


async def _all_there(videos: Path, count: int) -> None:
    while len(list(videos.glob("*.mp4"))) < count:
        await asyncio.sleep(0.1)


async def _all_done(database: str) -> None:
    while await in_hand(database):
        await asyncio.sleep(0.1)


async def test_a_refusal_with_a_nul_in_it_leaves_the_cluster_readable(
    quick: Sandbox, database: str, tmp_path: Path
) -> None:
    """PostgreSQL reads no JSON with a NUL in it: one failed task must not end all looks."""
    quick.fail(Fault("fail-task", code="service\0error", message="no \0 today"))
    requests = [ImageToVideo("https://example.com/1.png", seed=seed) for seed in (1, 2)]
    await Cluster(database).enqueue(requests, out=tmp_path / "videos")
    async with open_session(quick) as session:
        options = WorkerOptions(until_done=True)
        await Cluster(database).worker(session, out=tmp_path / "videos", options=options).run()
    totals = (await Cluster(database).overview()).totals
    assert totals.failures == {"service\ufffderror": 1}
    assert totals.states == {JobState.SAVED: 1, JobState.FAILED: 1}


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_that_cannot_hold_every_prompt_is_refused(
    anyio_backend: str, postgres: Postgres, tmp_path: Path, encoding: str
) -> None:
    """Containers without a locale make such databases; the command says how to make a good one."""
    database = postgres.database(f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' {TEMPLATE}")
    for look in (
        lambda: Cluster(database).enqueue([ImageToVideo(LINK, prompt="\u6d77")], out=tmp_path),
        lambda: Cluster(database).overview(),
    ):
        with pytest.raises(LedgerError, match=f"encoding is {encoding}") as refused:
            await look()
        assert TEMPLATE in refused.value.next_step


async def test_every_prompt_is_kept_whatever_encoding_clients_have_by_default(
    quick: Sandbox, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    """A default of the database or of the environment is for other programs."""
    name = database.rpartition("/")[2]
    postgres.execute("postgres", f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")
    await Cluster(database).enqueue([ImageToVideo(LINK, prompt="\u6d77")], out=tmp_path / "out")
    async with open_session(quick) as session:
        options = WorkerOptions(until_done=True)
        await Cluster(database).worker(session, out=tmp_path / "out", options=options).run()
    (path,) = await Cluster(database).write_reports(("jsonl",))
    assert json.loads(path.read_text())["prompt"] == "\u6d77"
    assert quick.paid == 1


async def test_a_missing_right_is_told_as_the_database_says_it(
    anyio_backend: str, postgres: Postgres, tmp_path: Path
) -> None:
    """Where somebody else made our tables, and DBOS may not make its own."""
    database = postgres.database()
    name, role = database.rpartition("/")[2], f"worker_of_{database.rpartition('/')[2]}"
    with pytest.raises(ConfigurationError):  # nothing was entered yet; the tables are there now
        await Cluster(database).place()
    postgres.execute(name, f"CREATE ROLE {role} LOGIN")
    postgres.execute(name, f"GRANT ALL ON SCHEMA happyhorse TO {role}")
    postgres.execute(name, f"GRANT ALL ON ALL TABLES IN SCHEMA happyhorse TO {role}")
    with pytest.raises(LedgerError, match="permission denied"):
        await Cluster(database.replace("postgres@", f"{role}@")).enqueue(
            [ImageToVideo(LINK)], out=tmp_path
        )
