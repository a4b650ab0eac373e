"""Tasks that say for a moment that they have failed: a batch does not buy them a second time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from happyhorse_async import (
    APIConnectionError,
    Budget,
    ImageToVideo,
    RetryPolicy,
    Session,
    SessionClosedError,
    TaskFailedError,
)
from happyhorse_async.batch import JobState, Outcome
from happyhorse_async.batch._database import LEDGER_NAME
from happyhorse_async.batch._follow import Follower
from happyhorse_async.sandbox import Fault, Sandbox
from tests.batch.support import until
from tests.conftest import QUICK_POLLING, QUICK_RETRY, open_session
from tests.hostile_service import HostileService

pytestmark = pytest.mark.anyio

ATTEMPTS = RetryPolicy(attempts=4, first_pause=0.01, longest_pause=0.02)
LONG = RetryPolicy(attempts=4, first_pause=600, longest_pause=600)
REQUEST = ImageToVideo("https://example.com/1.png", seed=1, duration=3)


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service whose time is the test's."""
    async with Sandbox(video="stub", speed=0, task_seconds=100) as sandbox:
        yield sandbox


async def run(session: Session, folder: Path, retry: RetryPolicy = ATTEMPTS) -> Outcome:
    """Run a batch of one job to its end."""
    async with session.batch(folder, retry=retry) as batch:
        [outcome] = [outcome async for outcome in batch.run([REQUEST])]
    return outcome


@pytest.fixture
def in_the_pause(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], list[float]]:
    """Do something in each pause of a batch, and tell the pauses."""

    def does(action: Callable[[], Any]) -> list[float]:
        pauses: list[float] = []

        async def pause(_: Follower, seconds: float) -> bool:
            pauses.append(seconds)
            action()
            return True

        monkeypatch.setattr(Follower, "pause", pause)
        return pauses

    return does


async def test_what_goes_on_after_the_pause_is_not_bought_again(
    sandbox: Sandbox,
    session: Session,
    tmp_path: Path,
    in_the_pause: Callable[[Callable[[], Any]], list[float]],
) -> None:
    """A task that had failed, and is being made when it is looked at again, brings its video."""
    sandbox.fail(Fault("false-failure", seconds=30))
    pauses = in_the_pause(lambda: sandbox.advance(40))
    done = asyncio.create_task(run(session, tmp_path))
    await until(lambda: bool(pauses))
    await until(lambda: reads(sandbox) >= 3)
    sandbox.finish()
    outcome = await done
    assert (outcome.ok, outcome.attempts, sandbox.paid) == (True, 1, 1)
    assert len(pauses) == 1


async def test_what_is_there_after_the_pause_is_not_bought_again(
    sandbox: Sandbox,
    session: Session,
    tmp_path: Path,
    in_the_pause: Callable[[Callable[[], Any]], list[float]],
) -> None:
    """A task that had failed, and has its video when it is looked at again, brings it."""
    sandbox.fail(Fault("false-failure", seconds=1000))
    in_the_pause(sandbox.finish)
    outcome = await run(session, tmp_path)
    assert (outcome.ok, outcome.attempts, sandbox.paid) == (True, 1, 1)


async def test_a_second_moment_is_no_proof_of_the_first(
    sandbox: Sandbox,
    session: Session,
    tmp_path: Path,
    in_the_pause: Callable[[Callable[[], Any]], list[float]],
) -> None:
    """A task that fails for a moment, goes on, and fails for a moment again is bought once."""
    sandbox.fail(Fault("false-failure", at=0, seconds=10))
    sandbox.fail(Fault("false-failure", at=30, seconds=10))
    pauses = in_the_pause(lambda: sandbox.advance(15))
    done = asyncio.create_task(run(session, tmp_path))
    await until(lambda: reads(sandbox) >= 3)
    sandbox.advance(20)
    await until(lambda: len(pauses) == 2)
    seen = reads(sandbox)
    await until(lambda: reads(sandbox) >= seen + 2)
    sandbox.finish()
    outcome = await done
    assert (outcome.ok, outcome.attempts, sandbox.paid) == (True, 1, 1)


ONCE = RetryPolicy(attempts=1, first_pause=0.01)


async def begun_again(session: Session, folder: Path, how: str, budget: Budget) -> list[Outcome]:
    """Begin the failed jobs of a folder again, in one of the two ways."""
    async with session.batch(folder, retry=ONCE, budget=budget) as batch:
        again = batch.retry() if how == "retry" else batch.run([REQUEST], retry_failed=True)
        outcomes = [outcome async for outcome in again]
        totals = await batch.totals()
    assert totals.reserved == 0
    assert sum((outcome.credits or 0 for outcome in outcomes), Decimal()) == totals.spent
    return outcomes


@pytest.mark.parametrize("how", ["retry", "run again"])
@pytest.mark.parametrize("meanwhile", ["goes on", "has its video"])
async def test_retry_looks_before_it_buys(
    sandbox: Sandbox, session: Session, tmp_path: Path, meanwhile: str, how: str
) -> None:
    """A job whose task had failed when its run ended, and has not by the time of `retry`, brings
    that task's video. It was paid for, so no budget is in its way.
    """
    sandbox.fail(Fault("false-failure", seconds=30))
    assert not (await run(session, tmp_path, ONCE)).ok
    sandbox.advance(40)
    if meanwhile == "has its video":
        sandbox.finish()
    async with open_session(sandbox) as later:
        work = asyncio.create_task(begun_again(later, tmp_path, how, Budget(credits=1)))
        seen = reads(sandbox)
        await until(lambda: reads(sandbox) >= seen + 2)
        sandbox.finish()
        [outcome] = await work
    assert (outcome.ok, outcome.attempts, sandbox.paid) == (True, 1, 1)


@pytest.mark.parametrize("ledger", ["of now", "of before"])
async def test_what_a_seeming_failure_has_cost_is_not_counted_beside_the_video(
    sandbox: Sandbox, session: Session, tmp_path: Path, ledger: str
) -> None:
    """The failed task still held money, which counts as spent. Its video costs that once, also when
    the ledger does not tell what the failure has cost.
    """
    sandbox.fail(Fault("false-failure", seconds=30))
    held = {"billing": {"charge_status": "pending", "refund_status": "pending"}}
    sandbox.fail(Fault("unknown-fields", fields=held, times=None))
    assert not (await run(session, tmp_path, ONCE)).ok
    async with session.batch(tmp_path, budget=Budget(credits=500)) as batch:
        assert (await batch.totals()).spent == Decimal("22.848")
    if ledger == "of before":
        with closing(sqlite3.connect(tmp_path / LEDGER_NAME)) as database, database:
            database.execute("UPDATE jobs SET error = json_remove(error, '$.cost')")
    sandbox.clear_faults()
    sandbox.advance(40)
    sandbox.finish()
    [outcome] = await begun_again(session, tmp_path, "retry", Budget(credits=500))
    assert (outcome.ok, outcome.credits, sandbox.paid) == (True, Decimal("22.848"), 1)


async def test_retry_buys_what_has_failed_indeed_after_one_look(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """One read of the failed task, and then another task, which is paid."""
    sandbox.fail(Fault("fail-task", status="failed", code="service_error", nth=1))
    work = asyncio.create_task(run(session, tmp_path, ONCE))
    await until(lambda: sandbox.paid == 1)
    sandbox.finish()
    assert not (await work).ok
    looked = sandbox.count("GET", f"/v1/tasks/{sandbox.tasks[0].id}")
    async with open_session(sandbox) as later:
        again = asyncio.create_task(begun_again(later, tmp_path, "retry", Budget(credits=500)))
        await until(lambda: len(sandbox.tasks) == 2)
        assert sandbox.count("GET", f"/v1/tasks/{sandbox.tasks[0].id}") == looked + 1
        sandbox.finish()
        [outcome] = await again
    assert (outcome.ok, outcome.attempts) == (True, 2)


@pytest.mark.parametrize("answer", ["a page", "none"])
async def test_retry_buys_nothing_while_nobody_can_say_what_became_of_it(
    sandbox: Sandbox, session: Session, tmp_path: Path, answer: str
) -> None:
    """The job stays as it is, for the next time."""
    sandbox.fail(Fault("false-failure", seconds=30))
    assert not (await run(session, tmp_path, ONCE)).ok
    where: dict[str, Any] = {"path": "/v1/tasks/", "times": None}
    page, none = Fault("refuse", status=502, **where), Fault("drop-before", **where)
    sandbox.fail(page if answer == "a page" else none)
    async with session.batch(tmp_path, retry=ONCE) as batch:
        with suppress(APIConnectionError):  # which ends the run
            [outcome] = [outcome async for outcome in batch.retry()]
            assert not outcome.ok
        assert (await batch.totals()).states == {JobState.FAILED: 1}
    assert sandbox.paid == 1
    sandbox.clear_faults()
    sandbox.advance(1000)
    [outcome] = await begun_again(session, tmp_path, "retry", Budget(credits=1))
    assert (outcome.ok, outcome.attempts, sandbox.paid) == (True, 1, 1)


FAILED = {
    "status": "failed",
    "progress": 10,
    "error": {"code": "service_error", "message": "later", "type": "task_error"},
}


async def run_at(service: HostileService, folder: Path) -> Outcome:
    """Run a batch of one job at a service."""
    async with Session(
        "key-1234567890abcdef",
        base_url=service.url,
        files_url=service.url,
        polling=attrs.evolve(QUICK_POLLING, patience=0.05),  # no video is to be had there
        retry=QUICK_RETRY,
    ) as session:
        return await run(session, folder)


async def test_what_was_charged_after_all_is_not_bought_again(tmp_path: Path) -> None:
    """A failure that was free when it was first told, and is charged when it is looked at again,
    ends its job.
    """
    charged = {"billing": {"refund_scope": "account_balance", "charge_status": "charged"}}

    def view(number: int, read: int) -> dict[str, Any]:
        return {**FAILED, "results": [], **(charged if read > 1 else {})}

    async with HostileService(view) as service:
        outcome = await run_at(service, tmp_path)
    assert (outcome.state, outcome.attempts, service.paid) == (JobState.FAILED, 1, 1)
    assert isinstance(outcome.error, TaskFailedError)
    assert outcome.error.charged == "yes"


@pytest.mark.parametrize("accepted", [FAILED, {"status": "completed", "progress": 100}])
async def test_an_end_in_the_answer_to_the_submission_is_not_the_last_word(
    tmp_path: Path, accepted: dict[str, Any]
) -> None:
    """A task that has ended by the answer to its submission, and goes on by the next read, is
    waited for and not told as failed.
    """

    def view(number: int, read: int) -> dict[str, Any]:
        return {"status": "processing", "progress": 50, "results": []} if read < 4 else {}

    async with HostileService(view, accepted=accepted, replayed=lambda _: True) as service:
        outcome = await run_at(service, tmp_path)
        assert service.reads["task-unified-1"] >= 4
    assert not isinstance(outcome.error, TaskFailedError)
    assert (outcome.state, outcome.attempts, service.paid) == (JobState.COMPLETED, 1, 1)


@pytest.mark.parametrize("end", ["stop", "close"])
async def test_a_run_that_ends_in_the_pause_leaves_the_job_as_it_is(
    sandbox: Sandbox,
    session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    """Stopped or cut off in the pause after a failure, a job stays on its task. The next process
    finds that it went on.
    """
    pauses: list[float] = []
    pause = Follower.pause

    async def noted(follower: Follower, seconds: float) -> bool:
        pauses.append(seconds)
        return await pause(follower, seconds)

    monkeypatch.setattr(Follower, "pause", noted)
    sandbox.fail(Fault("false-failure", seconds=50))
    async with session.batch(tmp_path, retry=LONG) as batch:
        outcomes = batch.run([REQUEST])
        first = asyncio.ensure_future(anext(outcomes, None))
        await until(lambda: bool(pauses))
        if end == "stop":
            batch.stop()
            assert await first is None
    with suppress(SessionClosedError):
        assert await first is None
    sandbox.finish()
    async with open_session(sandbox) as another:
        outcome = await run(another, tmp_path)
    assert (outcome.ok, outcome.attempts, sandbox.paid) == (True, 1, 1)


async def test_what_stays_failed_is_bought_again_after_one_more_look(
    sandbox: Sandbox,
    session: Session,
    tmp_path: Path,
    in_the_pause: Callable[[Callable[[], Any]], list[float]],
) -> None:
    """An honest failure costs one look and one pause, and then its job gets another task."""
    sandbox.fail(Fault("fail-task", status="failed", code="service_error", nth=1))
    pauses = in_the_pause(lambda: None)
    done = asyncio.create_task(run(session, tmp_path))
    await until(lambda: sandbox.paid == 1)
    sandbox.finish()
    await until(lambda: len(sandbox.tasks) == 2)
    sandbox.finish()
    outcome = await done
    assert (outcome.ok, outcome.attempts, len(pauses)) == (True, 2, 1)


async def test_a_read_takes_back_what_was_taken_for_the_end(
    sandbox: Sandbox, session: Session
) -> None:
    """Who reads a task anew after it seemed to have failed can wait for it again."""
    sandbox.fail(Fault("false-failure", seconds=10))
    task = await session.submit(REQUEST)
    with pytest.raises(TaskFailedError):
        await task.wait()
    sandbox.advance(20)
    assert (await task.read()).status == "processing"
    waiting = asyncio.create_task(task.wait())
    sandbox.finish()
    assert (await waiting).status == "completed"
    assert sandbox.paid == 1


async def test_a_task_that_is_failed_when_it_is_accepted_is_this_sessions_own(
    sandbox: Sandbox, session: Session
) -> None:
    """Also when the answer to its submission says that it has ended: denials are not believed for
    as long as of any other task that the session has submitted.
    """
    await (await session.submit(REQUEST)).read()
    sandbox.fail(Fault("false-failure", seconds=10))
    sandbox.fail(Fault("not-found-window", seconds=60))
    task_id = (await session.submit(REQUEST)).id
    waiting = asyncio.create_task(session.task(task_id).wait())
    denied = [lambda: denials(sandbox) > 20, waiting.done]
    await until(lambda: any(one() for one in denied))
    assert not waiting.done()
    sandbox.advance(60)
    sandbox.finish()
    assert (await waiting).status == "completed"


def denials(sandbox: Sandbox) -> int:
    """Count the reads of tasks that were denied."""
    return sum(record.status == 404 for record in list(sandbox.requests))


def reads(sandbox: Sandbox) -> int:
    """Count the reads of tasks that were answered."""
    return sum(
        record.status == 200 and record.path.startswith("/v1/tasks")
        for record in list(sandbox.requests)
    )
