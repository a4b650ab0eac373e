"""A task that somebody cancelled: the batch says the same of it as the session does."""

from __future__ import annotations

from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, Session, TaskCancelledError
from happyhorse_async.batch import JobState, Outcome
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://images.example.com/cat.png"


async def outcomes(session: Session, folder: Path) -> list[Outcome]:
    """Run one job in a folder; return its outcomes."""
    async with session.batch(folder) as batch:
        return [outcome async for outcome in batch.run([ImageToVideo(LINK)])]


@pytest.mark.parametrize("status", ["cancelled", "failed"])
async def test_a_cancelled_task_raises_the_same_error_in_both(tmp_path: Path, status: str) -> None:
    """Kind, code and next step are equal in session and batch, and in the run after it."""
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        sandbox.fail(Fault("fail-task", status=status, code="request_cancelled", times=None))
        with pytest.raises(TaskCancelledError) as caught:
            await (await session.submit(LINK)).wait()
        for _ in range(2):
            [outcome] = await outcomes(session, tmp_path)
            assert outcome.state is JobState.FAILED
            assert type(outcome.error) is TaskCancelledError
            assert outcome.error.code == caught.value.code == "request_cancelled"
            assert outcome.error.charged == caught.value.charged
            assert sandbox.paid == 2
