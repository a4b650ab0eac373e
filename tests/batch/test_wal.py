"""Power: the ledger's log may lose its end at any byte, and a job is then at worst asked for again
with the same key.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from happyhorse_async._rules.lifecycle import JobState
from happyhorse_async.batch._database import LEDGER_NAME, Database
from happyhorse_async.batch._manifest import Manifest
from happyhorse_async.sandbox import Sandbox
from tests.batch.support import Worker, killed_after, results, write_manifest
from tests.conftest import open_session

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CUTS = 50
ORDER = list(JobState)


def states_of(folder: Path) -> dict[str, JobState]:
    """Read every job's state."""
    database = Database(folder / LEDGER_NAME)
    try:
        return {record.id: record.state for record in database.pages("shown")}
    finally:
        database.close()


def cut_copy(folder: Path, target: Path, size: int) -> Path:
    """Copy a folder as it would be if its log had only its first bytes; the shared-memory file does
    not survive a loss of power.
    """
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*-shm"))
    os.truncate(target / f"{LEDGER_NAME}-wal", size)
    return target


async def test_log_cut_anywhere(tmp_path: Path) -> None:
    """At each of 50 cuts the ledger is whole, no job is ahead of what it was, and a run over it
    pays for nothing a second time.
    """
    # No local images: the log is folded in with each upload, at a moment that nobody chooses.
    manifest, folder = write_manifest(tmp_path / "in", links=24, files=0), tmp_path / "videos"
    async with Sandbox(video="stub", speed=100, task_seconds=20) as sandbox:
        worker = await Worker.start(sandbox, folder, manifest)
        assert await killed_after(
            worker, sandbox, method="GET", path="/results/", count=14, delay=0
        )
        at_the_kill = states_of(shutil.copytree(folder, tmp_path / "uncut"))
        log = (folder / f"{LEDGER_NAME}-wal").stat().st_size
        assert log > 20_000
        chance = random.Random(6)
        sizes = [0, log - 1, *sorted(chance.randrange(log) for _ in range(CUTS - 2))]
        for n, size in enumerate(sizes):
            states = states_of(cut_copy(folder, tmp_path / f"cut{n}", size))
            assert all(
                ORDER.index(state) <= ORDER.index(at_the_kill[job]) for job, state in states.items()
            )
        for n in range(CUTS):
            async with (
                open_session(sandbox) as session,
                session.batch(tmp_path / f"cut{n}") as batch,
            ):
                assert [
                    outcome
                    async for outcome in batch.run(Manifest(manifest).jobs())
                    if not outcome.ok
                ] == []
            assert (sandbox.paid, len(results(tmp_path / f"cut{n}"))) == (24, 24)


async def test_log_is_never_left_half_folded(tmp_path: Path) -> None:
    """After folding the log is empty: a log whose pages are in the database already would lay old
    ones over new ones when cut.
    """
    manifest, folder = write_manifest(tmp_path / "in", links=0, files=6), tmp_path / "videos"
    async with Sandbox(video="stub", speed=100, task_seconds=20) as sandbox:
        worker = await Worker.start(sandbox, folder, manifest)
        assert await killed_after(
            worker, sandbox, method="POST", path="/v1/videos/generations", count=6, delay=0
        )
        # Without the log altogether: the uploads' links, which the keys' bodies hold, are in the
        # database itself.
        os.truncate(folder / f"{LEDGER_NAME}-wal", 0)
        database = Database(folder / LEDGER_NAME)
        links = [
            (record.key is not None, record.image_url is not None)
            for record in database.pages("shown")
        ]
        database.close()
        assert links == [(True, True)] * 6
        worker = await Worker.start(sandbox, folder, manifest)
        assert await worker.ended() == "done\n"
        assert sandbox.paid == 6
