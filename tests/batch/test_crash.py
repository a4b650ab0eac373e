"""The promise of a batch: kill its process anywhere, run the same line again, and the result and
the price are those of a quiet run.

Real processes, a real server, a real kill -9. Five kills by default; HAPPYHORSE_KILLS=25 for the
long version.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async.batch._database import LEDGER_NAME, Database
from happyhorse_async.sandbox import Fault, Sandbox
from tests.batch.support import Worker, killed_after, results, write_manifest

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KILLS = int(os.environ.get("HAPPYHORSE_KILLS", "5"))
SUBMIT = ("POST", "/v1/videos/generations")
KINDS = (
    ("POST", "/api/v1/files/upload"),
    SUBMIT,
    ("POST", "/v1/tasks/batch"),
    ("GET", "/results/"),
    ("GET", "/results/"),
)
"""What a process is killed after: an upload, a submission, a read, a fetched video."""


class Deaths:
    """What lay in the folder at each kill, so that it can be said afterwards what was fetched
    again.
    """

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self._folder = folder
        self._sandbox = sandbox
        self._there: list[tuple[int, set[str]]] = []

    def note(self) -> None:
        """Note how many requests there were until now, and which videos are there."""
        self._there.append(
            (len(self._sandbox.requests), {path.name for path in self._folder.glob("*.mp4")})
        )

    def fetched_again(self, names: dict[str, str]) -> list[str]:
        """List the videos that were asked for after they were there; `names` leads from task ids to
        videos.
        """
        requests = self._sandbox.requests
        again = []
        for before, there in self._there:
            for record in requests[before:]:
                name = (
                    names.get(record.path.split("/")[2])
                    if record.path.startswith("/results/")
                    else None
                )
                if name in there:
                    again.append(record.path)
        return again


async def quiet_run(folder: Path, manifest: Path) -> list[dict[str, object]]:
    """Give the report of a run that nobody disturbs, on a service of its own."""
    async with Sandbox(video="stub", speed=100, task_seconds=20) as sandbox:
        worker = await Worker.start(sandbox, folder, manifest)
        assert await worker.ended() == "done\n"
        assert sandbox.paid == 200
    return results(folder)


async def test_kill_anywhere(tmp_path: Path) -> None:
    """However often and wherever the process is killed: 200 paid, 200 verified videos, none fetched
    twice, the report of a quiet run.
    """
    manifest, folder = write_manifest(tmp_path / "in", links=100, files=100), tmp_path / "videos"
    chance = random.Random(20261122)
    async with Sandbox(video="stub", speed=100, task_seconds=20) as sandbox:
        deaths, kills, scenes = Deaths(folder, sandbox), 0, list[dict[str, int]]()
        while len(scenes) < KILLS:
            method, path = KINDS[kills % len(KINDS)]
            worker = await Worker.start(sandbox, folder, manifest)
            count, delay = (
                chance.randint(1, max(2, 100 // KILLS)),
                chance.choice([0, 0, chance.uniform(0, 0.03)]),
            )
            assert await killed_after(
                worker, sandbox, method=method, path=path, count=count, delay=delay
            ), "it ended before its kill"
            kills += 1
            deaths.note()
            database = Database(folder / LEDGER_NAME, read_only=True)
            uploads = sandbox.count("POST", "/api/v1/files/upload/stream")
            scene = {state.value: n for state, n in database.totals().states.items()} | {
                "paid": sandbox.paid,
                "uploads": uploads,
            }
            # A kill that met the batch as an earlier one did shows nothing new, and is not counted.
            scenes += [scene] if scene not in scenes else []
            database.close(fold=False)
        worker = await Worker.start(sandbox, folder, manifest)
        assert await worker.ended() == "done\n"
        assert sandbox.paid == 200
        assert len(sandbox.tasks) == 200

    told = results(folder, leave_out=())
    assert len(list(folder.glob("*.mp4"))) == 200
    assert all(
        hashlib.sha256((folder / str(line["video"])).read_bytes()).hexdigest() == line["sha256"]
        for line in told
    )
    assert deaths.fetched_again({str(line["task_id"]): str(line["video"]) for line in told}) == []
    assert results(folder) == await quiet_run(tmp_path / "quiet", manifest)
    assert {"submitting", "running", "completed", "saved"} <= {
        state for scene in scenes for state in scene
    }
    print(
        f"{kills} kills at {len(scenes)} different states, {len(told)} videos, {sandbox.paid} paid",
        *scenes,
        sep="\n",
    )


async def test_a_kill_in_the_pause_before_another_attempt_costs_one_attempt(tmp_path: Path) -> None:
    """A task has failed, and the process is killed while it waits to make another. The next run
    makes that one, once, and a third run none.
    """
    manifest, folder = write_manifest(tmp_path / "in", links=1, files=0), tmp_path / "videos"
    async with Sandbox(video="stub", speed=100, task_seconds=20) as sandbox:
        sandbox.fail(Fault("fail-task", code="service_error"))
        worker = await Worker.start(sandbox, folder, manifest, BATCH_PAUSES="long")
        loop = asyncio.get_running_loop()

        def watch(record: Any) -> None:
            if "/v1/tasks" in record.path and sandbox.tasks[0].status == "failed":
                loop.call_later(0.2, worker.kill)

        sandbox.watch_requests(watch)
        assert "done" not in await worker.ended()
        sandbox.watch_requests(None)
        assert len(sandbox.tasks) == 1
        for _ in range(2):
            worker = await Worker.start(sandbox, folder, manifest)
            assert await worker.ended() == "done\n"
        assert [task.status for task in sandbox.tasks] == ["failed", "completed"]
    assert len(list(folder.glob("*.mp4"))) == 1
