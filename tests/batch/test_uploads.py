"""A batch takes its uploads away when they have served, and never what anybody else was given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, Session
from happyhorse_async.sandbox import Sandbox
from tests.batch.support import until
from tests.conftest import open_session

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service whose tasks take a moment."""
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        yield sandbox


async def run(session: Session, folder: Path, image: bytes, *, seed: int = 1) -> bool:
    """Run a batch of one job; gives whether its video was saved."""
    async with session.batch(folder) as batch:
        return [
            outcome.ok async for outcome in batch.run([ImageToVideo(image, duration=3, seed=seed)])
        ] == [True]


async def test_own_upload_is_taken_away(
    sandbox: Sandbox, session: Session, tmp_path: Path, cat: Path
) -> None:
    """What only the batch has asked for is deleted after its last job."""
    assert await run(session, tmp_path, cat.read_bytes())
    assert sandbox.count("DELETE") == 1


@pytest.mark.parametrize("how", ["upload", "submit"])
@pytest.mark.parametrize("first", [True, False])
async def test_files_of_others_stay(tmp_path: Path, cat: Path, how: str, *, first: bool) -> None:
    """A file that the user uploaded, or that a single call has submitted, outlives a batch with the
    same content, whoever came first.
    """
    image = cat.read_bytes()
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):

        async def others() -> None:
            await (session.upload(image) if how == "upload" else session.submit(image))

        if first:
            await others()
        before = sandbox.paid
        job = asyncio.create_task(run(session, tmp_path, image))
        await until(lambda: sandbox.paid == before + 1)
        if not first:
            await others()
        sandbox.finish()
        assert await job
        assert (sandbox.count("DELETE"), sandbox.count("POST", "/api/v1/files/upload/stream")) == (
            0,
            1,
        )


async def test_two_batches_share_a_file(tmp_path: Path, cat: Path) -> None:
    """A second batch's job still has its first frame after the first batch's has ended; the last
    one takes it away.
    """
    image = cat.read_bytes()
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        jobs = []
        for number in (1, 2):
            jobs.append(
                asyncio.create_task(run(session, tmp_path / str(number), image, seed=number))
            )
            await until(lambda: sandbox.paid == len(jobs))
        for job, deleted in zip(jobs, (0, 1), strict=True):
            sandbox.end(sandbox.tasks[jobs.index(job)].id, "completed")
            assert await job
            assert sandbox.count("DELETE") == deleted
        assert sandbox.count("POST", "/api/v1/files/upload/stream") == 1
