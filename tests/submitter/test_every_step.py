"""Cancelled after any number of turns of the event loop: what was paid is known, and nothing is
left over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from happyhorse_async import Budget, HappyHorseError, ImageToVideo, Limits, Session, Timeouts
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
LINK = "https://example.com/frame.png"
Verb = Callable[[Session, "Told"], Awaitable[None]]


class Told:
    """What the callers were told."""

    def __init__(self) -> None:
        self.tasks: set[str] = set()
        self.unsure = 0


async def submit(session: Session, told: Told) -> None:
    """Submit one link."""
    told.tasks.add((await session.submit(LINK)).id)


async def upload(session: Session, told: Told) -> None:
    """Submit one picture, which is uploaded first."""
    cat = Path(__file__).parents[2] / "happyhorse_async" / "sandbox" / "photos" / "cat.jpg"
    told.tasks.add((await session.submit(cat.read_bytes())).id)


async def many(session: Session, told: Told) -> None:
    """Fan out over five requests."""
    async with session.submit_many([ImageToVideo(LINK)] * 5) as submissions:
        async for submission in submissions:
            if submission.task is not None:
                told.tasks.add(submission.task.id)
            elif submission.error is not None:
                told.unsure += submission.error.charged == "unknown"


async def same_key(session: Session, told: Told) -> None:
    """Submit one key from two callers."""
    key = "a-key-of-my-own-0001"

    async def call() -> None:
        told.tasks.add((await session.submit(LINK, idempotency_key=key)).id)

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(call())


async def resent(session: Session, told: Told) -> None:
    """Submit a key that an earlier process may have sent."""
    submitter = session._open().submitter
    key = "another-key-0000001"
    accepted = await submitter.submit(ImageToVideo(LINK), idempotency_key=key, resent=True)
    told.tasks.add(accepted.task.id)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, "drop-after", "limit"])
@pytest.mark.parametrize("verb", [submit, upload, many, same_key, resent])
async def test_cancelled_at_any_step(verb: Verb, fault: str | None) -> None:
    """Of 80 moments none loses a payment, a place, a slot, a reservation, a key's turn or a task
    of the event loop.
    """
    for turns in range(0, 240, 3):
        async with Sandbox(video="stub", speed=0) as sandbox:
            if fault == "drop-after":
                sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT))
            elif fault == "limit":
                sandbox.fail(Fault("refuse", method="POST", path=SUBMIT, status=429))
            await cancelled(sandbox, verb, turns)


async def cancelled(sandbox: Sandbox, verb: Verb, turns: int) -> None:
    """Cancel a verb after so many turns, and hold the books against what was paid."""
    before, told = asyncio.all_tasks(), Told()
    async with open_session(
        sandbox,
        limits=Limits(max_submissions=2, max_unfinished=20),
        budget=Budget(credits=1000),
        timeouts=Timeouts(shield=2),
    ) as session:
        submitter, budget = session._open().submitter, session._open().budget
        work = asyncio.create_task(verb(session, told))  # type: ignore[arg-type]
        for _ in range(turns):
            await asyncio.sleep(0)
        work.cancel()
        if turns % 3 == 0:
            await asyncio.sleep(0)
            work.cancel()
        await asyncio.wait([work], timeout=100)
        assert work.done(), "it hangs"
        if not work.cancelled():
            error = work.exception()
            assert error is None or isinstance(error, HappyHorseError), error
        orphans = {orphan.task_id for orphan in session.orphans if orphan.task_id}
        unsure = sum(orphan.task_id is None for orphan in session.orphans) + told.unsure
        paid = {task.id for task in sandbox.tasks}
        assert told.tasks | orphans <= paid
        assert len(paid - told.tasks - orphans) <= unsure, "a payment that nobody was told of"
        assert (submitter._in_flight, submitter._turns) == (set(), {})
        gate = submitter._gate
        assert (gate._on_wire, gate.waiting) == (0, False)
        assert gate._unfinished == len(submitter._following._running)
        assert len(budget._reserved) == len(paid) or unsure
    left = [task for task in asyncio.all_tasks() - before if not task.done()]
    assert left == []
