"""A batch over a database: entered, worked on by processes of their own, looked at, reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from happyhorse_async.sandbox import Sandbox
from tests.cluster.support import WorkerProcess, command, rows

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_every_job_is_paid_once_and_entering_it_again_adds_nothing(
    service: Sandbox, database: str, tmp_path: Path
) -> None:
    """Two workers make a video of each of 40 jobs, and the account pays for 40 tasks.

    The same table again adds nothing. A longer one adds what is new, also when workers are gone.
    """
    table, videos = rows(tmp_path / "rows.jsonl", 40), tmp_path / "videos"
    enqueue = ("cluster", "enqueue", str(table), "--yes", "--json", "--database", database)
    code, told = await command(*enqueue, "--out", str(videos), **service.env())
    assert (code, json.loads(told.splitlines()[-1])["added"]) == (0, 40)

    workers = [await WorkerProcess.start(service, database, "--until-done") for _ in range(2)]
    assert [await worker.ended() for worker in workers] == [0, 0]
    assert sum(len(worker.outcomes) for worker in workers) == 40
    assert 40 == len(list(videos.glob("*.mp4"))) == service.paid

    rows(table, 43)
    code, told = await command(*enqueue, **service.env())
    assert (code, json.loads(told.splitlines()[-1])["added"]) == (0, 3)
    worker = await WorkerProcess.start(service, database, "--until-done")
    assert await worker.ended() == 0
    assert 43 == len(list(videos.glob("*.mp4"))) == service.paid
