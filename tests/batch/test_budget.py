"""A batch's budget is that of the folder: over all its runs, and across a crash."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from happyhorse_async import Budget, BudgetExceededError, ImageToVideo, RetryPolicy, Session
from happyhorse_async.batch import Batch, JobState, _late_charges
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.batch.support import Worker, killed_after, until, write_manifest
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
PRICE = Decimal("22.848")
"""Of three seconds at 720p."""


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service whose tasks take a moment."""
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        yield sandbox


def rows(count: int) -> list[ImageToVideo]:
    """Make requests of one price."""
    return [ImageToVideo(f"https://example.com/{n}.png", duration=3) for n in range(count)]


def spent(sandbox: Sandbox) -> Decimal:
    """Add up what the service has charged or reserved."""
    return PRICE * (sandbox.paid - sandbox.refunded)


async def test_cap(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """A batch submits what fits, finishes it, and then says that its budget is used up; a higher
    one goes on.
    """
    async with session.batch(tmp_path, budget=Budget(credits=PRICE * 5)) as batch:
        outcomes = []
        with pytest.raises(BudgetExceededError, match="left"):  # noqa: PT012 outcomes come before the error
            async for outcome in batch.run(rows(20)):
                outcomes.append(outcome)  # noqa: PERF401
        assert (len(outcomes), sandbox.paid) == (5, 5)
        assert (await batch.totals()).states[JobState.SAVED] == 5
    async with session.batch(tmp_path, budget=Budget(credits=str(PRICE * 20))) as batch:
        assert len([outcome async for outcome in batch.run(rows(20)) if outcome.ok]) == 20
    assert sandbox.paid == 20


async def test_freed_money_is_used(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """A task that fails without a charge gives its reservation to the next job, which waits."""
    sandbox.speed = 0
    async with session.batch(tmp_path, budget=Budget(credits=PRICE)) as batch:
        outcomes = batch.run(rows(2))
        first = asyncio.create_task(anext(outcomes))
        await until(lambda: sandbox.paid == 1)
        sandbox.end(sandbox.tasks[0].id, "failed", error_code="content_policy_violation")
        assert (await first).state is JobState.FAILED
        sandbox.speed = 1000
        assert (await anext(outcomes)).ok
    assert spent(sandbox) == PRICE


async def states_until_used_up(
    session: Session, folder: Path, count: int, **settings: Any
) -> list[JobState]:
    """Run a batch with money for one job until it says that there is none left; gives what became
    of the jobs before.
    """
    states = []
    async with session.batch(folder, budget=Budget(credits=PRICE), **settings) as batch:
        with pytest.raises(BudgetExceededError, match="left"):  # noqa: PT012 outcomes come before the error
            async for outcome in batch.run(rows(count)):
                states.append(outcome.state)  # noqa: PERF401
    return states


async def test_money_nobody_will_settle_is_not_waited_for(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """What is set aside for a job that stays unfetched in this run, or was left by an earlier one,
    ends the run instead of hanging it.
    """
    quick = RetryPolicy(attempts=2, first_pause=0.01, longest_pause=0.01)
    sandbox.fail(Fault("truncate", bytes=0, times=None))
    with anyio.fail_after(100):
        assert await states_until_used_up(session, tmp_path, 3, retry=quick) == [JobState.COMPLETED]
        assert await states_until_used_up(session, tmp_path, 3, retry=quick) == [JobState.COMPLETED]
    assert sandbox.paid == 1


async def test_lost_answers_do_not_wait_behind_those_without_money(tmp_path: Path) -> None:
    """A job whose answer was lost, and which holds all the money, is asked for again although more
    jobs than workers wait for money.
    """
    slow = RetryPolicy(attempts=4, first_pause=0.1, longest_pause=0.1, jitter=0)
    async with Sandbox(
        video="stub", speed=1000, task_seconds=5, features=Features(listing=False)
    ) as sandbox:
        sandbox.fail(Fault("drop-after", path="/v1/videos/generations", times=3))
        async with open_session(sandbox) as session:
            with anyio.fail_after(100):
                assert await states_until_used_up(
                    session, tmp_path, 5, retry=slow, max_in_flight=2
                ) == [JobState.SAVED]
        assert sandbox.paid == 1


async def test_never_exceeded_across_crashes(tmp_path: Path) -> None:
    """However often the process is killed, what the service has charged never passes the cap, and
    the cap is used up in the end.
    """
    manifest, folder = write_manifest(tmp_path / "in", links=40, files=0), tmp_path / "videos"
    cap, chance = PRICE * 20, random.Random(4)
    async with Sandbox(video="stub", speed=100, task_seconds=20) as sandbox:
        for _ in range(4):
            worker = await Worker.start(sandbox, folder, manifest, BATCH_CREDITS=str(cap))
            where = chance.choice([("POST", "/v1/videos/generations"), ("GET", "/results/")])
            await killed_after(
                worker, sandbox, method=where[0], path=where[1], count=chance.randint(1, 4), delay=0
            )
            assert spent(sandbox) <= cap
        worker = await Worker.start(sandbox, folder, manifest, BATCH_CREDITS=str(cap))
        assert not (await worker.ended()).endswith("done\n")
        assert spent(sandbox) == cap
        assert len(list(folder.glob("*.mp4"))) == 20


# --- prices that nobody could foresee -------------------------------------------------------------


def charged(sandbox: Sandbox) -> Decimal:
    """Add up what the service has really taken, and what it still holds."""
    entries: dict[str, Decimal] = {}
    for entry in sandbox.ledger:
        before = entries.get(entry.task_id, Decimal(0))
        entries[entry.task_id] = before - entry.credits if entry.kind == "refund" else entry.credits
    return sum(entries.values(), Decimal(0))


ATTACKS: dict[str, tuple[tuple[Fault, ...], Decimal]] = {
    "prices rise tenfold": (
        (Fault("odd-charge", path=SUBMIT, after=4, times=None, factor=10),),
        PRICE * 10,
    ),
    "and the rule says so": ((Fault("price", path=SUBMIT, after=4, factor=10),), PRICE * 10),
    "negative charges": (
        (
            Fault(
                "odd-number",
                path="/v1/tasks",
                times=None,
                fields=("credits_used", "charged_credits", "credits"),
                value=-1e6,
            ),
        ),
        PRICE,
    ),
    "answers are lost": ((Fault("drop-after", path=SUBMIT, times=7),), PRICE),
    "all replays are told as replayed": (
        (
            Fault("drop-after", path=SUBMIT, times=3),
            Fault("odd-charge", path=SUBMIT, after=3, times=None, factor=10),
        ),
        PRICE * 10,
    ),
    "failures are charged": (
        (Fault("fail-task", path=SUBMIT, times=3, refund=False),),
        PRICE,
    ),
}
"""What a service may do to a budget, and the most that one task then costs."""


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_budget_under_attack(tmp_path: Path, attack: str) -> None:
    """Whatever the service charges, a batch spends no more than its budget and what was under way
    when a dearer price could first be known, in three runs together; nothing stays reserved.
    """
    faults, dearest = ATTACKS[attack]
    cap, at_once = PRICE * 20, 3
    quick = RetryPolicy(attempts=3, first_pause=0.01, longest_pause=0.02)
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        for fault in faults:
            sandbox.fail(fault)
        for _ in range(3):
            async with (
                open_session(sandbox) as session,
                session.batch(
                    tmp_path, budget=Budget(credits=cap), max_in_flight=at_once, retry=quick
                ) as batch,
            ):
                try:
                    with anyio.fail_after(100):
                        async for _outcome in batch.run(rows(60)):
                            pass
                except BudgetExceededError:
                    pass
                totals = await batch.totals()
                assert totals.reserved == 0
        sandbox.finish()
        assert charged(sandbox) <= cap + at_once * dearest, (charged(sandbox), sandbox.paid)
        assert sandbox.paid >= at_once


async def test_charges_that_come_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch looks again at charges that were not settled when their videos came: from the first
    dearer one on nothing is bought that the budget cannot bear, and the ledger has what was
    charged.
    """
    monkeypatch.setattr(_late_charges, "PAUSES", (0.01,) * 10_000)
    async with Sandbox(video="stub", speed=0, task_seconds=5) as sandbox:
        sandbox.fail(Fault("odd-charge", path=SUBMIT, times=None, factor=10))
        sandbox.fail(Fault("late-settlement", path=SUBMIT, times=None, seconds=600))
        async with (
            open_session(sandbox) as session,
            session.batch(tmp_path, budget=Budget(credits=PRICE * 20), max_in_flight=3) as batch,
        ):
            ending = asyncio.create_task(ends(batch))
            await until(lambda: sandbox.paid == 3)
            sandbox.advance(10)
            await until(lambda: sandbox.paid == 6)
            sandbox.advance(1000)
            while (await batch.totals()).spent < PRICE * 30:
                await asyncio.sleep(0)
            sandbox.advance(1000)
            with anyio.fail_after(100):
                assert await ending == 6
            assert sandbox.paid == 6
        async with (
            open_session(sandbox) as session,
            session.batch(tmp_path, budget=Budget(credits=PRICE * 61)) as batch,
        ):
            assert await ends(batch) == 6
            assert sandbox.paid == 6, "what videos cost is remembered"


async def ends(batch: Batch) -> int:
    """Run a batch until its money is used up; return how many outcomes were told."""
    told = 0
    with pytest.raises(BudgetExceededError, match="left"):  # noqa: PT012 outcomes come before the error
        async for _ in batch.run(rows(60)):
            told += 1
    return told
