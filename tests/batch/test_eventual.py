"""A service where nothing is there at once: a batch of 200 loses no video and pays none twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo
from happyhorse_async.sandbox import Sandbox
from tests.conftest import open_session

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
JOBS = 200


async def test_two_hundred_jobs_are_two_hundred_videos_though_all_is_late(
    anyio_backend: str, tmp_path: Path
) -> None:
    """Tasks are denied at first and in mid-life, results, links and charges come late, links live
    for seconds: each job is paid once and saved, none fails, and the totals are the true charges.
    """
    requests = [
        ImageToVideo(f"https://cdn.example.com/{number}.png", seed=number, duration=3)
        for number in range(1, JOBS + 1)
    ]
    async with Sandbox(video="stub", speed=20, task_seconds=60) as sandbox:
        sandbox.scenario("eventual")
        async with open_session(sandbox) as session, session.batch(tmp_path) as batch:
            outcomes = [outcome async for outcome in batch.run(requests)]
            totals = await batch.totals()
        sandbox.finish()
        charged = sum(task.charged for task in sandbox.tasks)
        denied = [record for record in sandbox.requests if record.status == 404]
    assert [outcome.error for outcome in outcomes if not outcome.ok] == []
    assert (len(outcomes), sandbox.paid) == (JOBS, JOBS)
    videos = {outcome.video.path: outcome.video.sha256 for outcome in outcomes if outcome.video}
    assert len(videos) == len(set(videos.values())) == JOBS
    assert all(path is not None and path.stat().st_size > 0 for path in videos)
    # A charge that was not settled when its task was last read is still set aside.
    assert totals.spent + totals.reserved == charged
    assert denied
