"""Limits over all workers: unfinished tasks, submissions a second, and money; through a kill."""

from __future__ import annotations

import json
from bisect import bisect_left
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async.integrations.dbos._pace import TOLERANCE, Clocks, gap
from happyhorse_async.sandbox import Sandbox
from tests.cluster.support import WorkerProcess, command, rows

PRICE = 22.848
"""What one of the jobs costs, in credits: three seconds in 720p, the least that there is."""


@given(
    rate=st.floats(0.1, 500),
    lateness=st.lists(st.floats(0, TOLERANCE), min_size=2, max_size=200),
    lost=st.sets(st.integers(0, 199)),
)
def test_no_second_has_more_submissions_than_the_rate(
    rate: float, lateness: list[float], lost: set[int]
) -> None:
    """Whatever places are left empty, and however late the others leave, the rate holds.

    A request that comes as late as may be falls together with later ones. No second has more than
    1.2 times the rate, or than one.
    """
    sent = sorted(n * gap(rate) + late for n, late in enumerate(lateness) if n not in lost)
    fullest = max((bisect_left(sent, moment + 1) - n for n, moment in enumerate(sent)), default=0)
    assert fullest <= max(1.0, 1.2 * rate)


@given(
    ahead=st.floats(-1e6, 1e6),
    trips=st.lists(st.tuples(st.floats(0.0001, 2), st.floats(0, 1)), min_size=1, max_size=20),
)
def test_the_database_s_clock_is_known_by_the_quickest_answer(
    ahead: float, trips: list[tuple[float, float]]
) -> None:
    """Slow answers do not spoil what a quick one has told of the database's clock."""
    clocks, now = Clocks(), 0.0
    for trip, share in trips:
        clocks.learn(now, now + trip, now + trip * share + ahead)
        now += trip
    assert abs(clocks.ahead - ahead) <= min(trip for trip, _ in trips) / 2 + 1e-6


def fullest_second(moments: list[float]) -> int:
    """Return the most that lie within any one second."""
    moments = sorted(moments)
    return max(bisect_left(moments, moment + 1) - n for n, moment in enumerate(moments))


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """Return how many spans overlap at most."""
    edges = sorted([(end, -1) for _, end in spans] + [(start, 1) for start, _ in spans])
    level = most = 0
    for _, step in edges:
        level += step
        most = max(most, level)
    return most


@pytest.mark.anyio
@pytest.mark.slow
async def test_caps_of_the_account_hold_at_the_service_through_a_kill(
    anyio_backend: str, database: str, tmp_path: Path
) -> None:
    """Never more than 100 unfinished tasks, and never more than 60 submissions within a second.

    The sandbox measures both, with 50 a second allowed, while one of two workers is killed. Each
    job is paid for once.
    """
    count = 300
    async with Sandbox(video="stub", task_seconds=4.0, speed=1, credits=1e6) as sandbox:
        table = rows(tmp_path / "rows.jsonl", count)
        code, _ = await command(
            *("cluster", "enqueue", str(table), "--yes", "--database", database),
            *("--out", str(tmp_path / "videos"), "--max-unfinished", "100"),
            *("--max-per-second", "50"),
            **sandbox.env(),
        )
        assert code == 0
        dead, alive = [
            await WorkerProcess.start(sandbox, database, "--until-done", "--max-in-flight", "80")
            for _ in range(2)
        ]
        await alive.told(30)
        dead.kill()
        assert await alive.ended() == 0
        assert count == sandbox.paid == len(list((tmp_path / "videos").glob("*.mp4")))
        posts = [
            request.at
            for request in sandbox.requests
            if (request.method, request.path) == ("POST", "/v1/videos/generations")
        ]
        spans = [(task.created, task.created + 4.0) for task in sandbox.tasks]
        print(f"fullest second {fullest_second(posts)}, most at once {most_at_once(spans)}")
        assert fullest_second(posts) <= 60
        assert most_at_once(spans) <= 100


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_budget_for_some_jobs_pays_for_exactly_those(
    anyio_backend: str, database: str, tmp_path: Path
) -> None:
    """Credits for 30 of 60 jobs pay for 30, with two workers of which one is killed.

    The living worker says that the budget is used up, and more credits pay for the rest.
    """
    async with Sandbox(video="stub", task_seconds=60.0, speed=20) as sandbox:
        table, videos = rows(tmp_path / "rows.jsonl", 60), tmp_path / "videos"
        words = ("cluster", "enqueue", str(table), "--yes", "--database", database)
        code, _ = await command(
            *words, "--out", str(videos), "--max-credits", str(30.5 * PRICE), **sandbox.env()
        )
        assert code == 0
        dead, alive = [
            await WorkerProcess.start(sandbox, database, "--until-done", "--max-in-flight", "20")
            for _ in range(2)
        ]
        await alive.told(5)
        dead.kill()
        assert await alive.ended() == 3, "the code of a price that is not wanted"
        code, told = await command("cluster", "status", "--json", "--database", database)
        facts = json.loads(told)
        assert (sandbox.paid, float(facts["credits_reserved"])) == (30, 0.0)
        assert pytest.approx(30 * PRICE) == float(facts["credits_spent"])
        last = await WorkerProcess.start(
            sandbox, database, "--until-done", "--max-credits", str(60 * PRICE)
        )
        assert await last.ended() == 0
        assert 60 == sandbox.paid == len(list(videos.glob("*.mp4")))
