"""What a run takes up from earlier ones: requests that may have left, uploads, attempts, changed
rows, and stopping meanwhile.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from happyhorse_async import (
    BadRequestError,
    HappyHorseError,
    ImageToVideo,
    InsufficientCreditsError,
    LedgerError,
    RetryPolicy,
    Session,
    Timeouts,
)
from happyhorse_async._submitter import in_flight
from happyhorse_async.batch import Job, JobState, Outcome
from happyhorse_async.batch._admission import GROUP
from happyhorse_async.batch._database import LEDGER_NAME
from happyhorse_async.batch._follow import Follower
from happyhorse_async.events import Throttled
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.batch.support import until
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
QUICK = RetryPolicy(attempts=4, first_pause=0.01, longest_pause=0.02)
NEVER_AGAIN = RetryPolicy(attempts=50, replays=1000, first_pause=1000.0, longest_pause=1000.0)
"""Holds a submission where its first try has left it."""


def rows(count: int, first: int = 1) -> list[ImageToVideo]:
    """Make requests, each unlike the others."""
    return [
        ImageToVideo(f"https://example.com/{n}.png", seed=n, duration=3)
        for n in range(first, first + count)
    ]


async def run(session: Session, folder: Path, requests: object, **options: object) -> list[Outcome]:
    """Run a batch once, to its end."""
    async with session.batch(folder, **{"retry": QUICK, **options}) as batch:  # type: ignore[arg-type]
        return [outcome async for outcome in batch.run(requests)]  # type: ignore[arg-type]


async def killed_while_submitting(
    sandbox: Sandbox,
    folder: Path,
    requests: object,
    *,
    fault: str = "drop-after",
    sent: int = 1,
    retry_failed: bool = False,
    **settings: object,
) -> Path:
    """Give a folder as a kill -9 leaves it between a POST and its answer."""
    sandbox.fail(Fault(fault, path=SUBMIT, times=None))
    settings = {"retry": NEVER_AGAIN, "timeouts": Timeouts(shield=0.01), **settings}
    async with open_session(sandbox, **settings) as session, session.batch(folder) as batch:
        outcomes = asyncio.create_task(anext(batch.run(requests, retry_failed=retry_failed)))  # type: ignore[arg-type]
        await until(lambda: sandbox.count("POST", SUBMIT) == sent)
        left = folder.with_name("left")
        await asyncio.to_thread(shutil.copytree, folder, left)
        outcomes.cancel()
    sandbox.clear_faults()
    return left


async def left_running(
    sandbox: Sandbox, folder: Path, requests: list[Job] | list[ImageToVideo], **options: int
) -> None:
    """Leave a batch whose new tasks are running; the sandbox's time stands still."""
    known = len(sandbox.tasks) + len(requests)
    async with open_session(sandbox) as session, session.batch(folder, **options) as batch:
        outcomes = asyncio.create_task(anext(batch.run(requests)))
        while len(sandbox.tasks) < known or (await batch.totals()).states != {
            JobState.RUNNING: known
        }:
            await asyncio.sleep(0)
        outcomes.cancel()


# --- requests that may have left ------------------------------------------------------------------


async def test_bytes_that_may_be_paid_are_replayed(tmp_path: Path, cat: Path) -> None:
    """A job whose image was bytes and whose answer was lost with its process is the same task in
    the next run, with or without its row.
    """
    for requests in ([ImageToVideo(cat.read_bytes())], []):
        async with (
            Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox,
            open_session(sandbox) as session,
        ):
            folder = tmp_path / str(len(requests)) / "first"
            left = await killed_while_submitting(sandbox, folder, [ImageToVideo(cat.read_bytes())])
            assert [outcome.state for outcome in await run(session, left, requests)] == [
                JobState.SAVED
            ]
            assert sandbox.paid == 1


async def test_nothing_that_may_be_paid_is_released(tmp_path: Path) -> None:
    """A refusal that says nothing of what left in an earlier run leaves the job in doubt with its
    reservation, and `retry` brings the same task home once the account is well again.
    """
    refusal = {"error": {"code": "insufficient_quota", "message": "no", "type": "billing_error"}}
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(1))
        sandbox.fail(Fault("refuse", path=SUBMIT, times=None, status=402, body=refusal))
        async with open_session(sandbox) as session, session.batch(left, retry=QUICK) as batch:
            [outcome] = [outcome async for outcome in batch.resume()]
            assert outcome.error is not None
            assert (outcome.state, outcome.error.charged) == (JobState.UNKNOWN, "unknown")
            assert (await batch.totals()).reserved > 0
        sandbox.clear_faults()
        async with open_session(sandbox) as session, session.batch(left, retry=QUICK) as batch:
            assert [outcome.ok async for outcome in batch.retry()] == [True]
        assert sandbox.paid == 1


async def test_without_keys_nothing_is_sent_again_blindly(tmp_path: Path) -> None:
    """A service that keeps no keys would be paid twice for what an earlier run has sent: the list
    shows a task that could be it, so nothing is sent, and the outcome names the task.
    """
    features = Features(idempotency=False)
    async with Sandbox(video="stub", speed=1000, task_seconds=5, features=features) as sandbox:
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(1))
        sent = sandbox.paid
        for _ in range(2):
            async with open_session(sandbox) as session:
                outcomes = await run(session, left, rows(3))
            told = {outcome.state for outcome in outcomes}
            assert told == {JobState.UNKNOWN, JobState.SAVED}
        assert sandbox.paid == sent + 2


async def test_one_request_that_arrived_proves_the_keys_of_all(tmp_path: Path) -> None:
    """A killed run left six requests, of which the last alone arrived: five ask in vain whether
    keys are kept, wait for the sixth, and are then sent again. Nobody has to decide anything.
    """
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        lost = [*range(1, 6), *range(7, 100)]
        sandbox.fail(Fault("drop-before", path=SUBMIT, nth=lost, times=None))
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(6), sent=6)
        assert sandbox.paid == 1
        async with open_session(sandbox) as session:
            outcomes = await run(session, left, rows(6))
        assert [outcome.state for outcome in outcomes] == [JobState.SAVED] * 6
        assert sandbox.paid == 6


async def test_a_saved_job_proves_the_keys_of_one_that_never_arrived(tmp_path: Path) -> None:
    """A killed run left one request, which never arrived, and somebody else's task looks like it:
    the key of a job that was saved shows that keys are kept, and the request is sent again.
    """
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        async with open_session(sandbox) as session:
            await run(session, tmp_path / "first", rows(1))
        left = await killed_while_submitting(
            sandbox, tmp_path / "first", rows(2), fault="drop-before", sent=2
        )
        async with open_session(sandbox) as neighbour:
            await neighbour.submit(rows(2)[1])
        async with open_session(sandbox) as session:
            outcomes = await run(session, left, rows(2))
        assert [outcome.state for outcome in outcomes] == [JobState.SAVED] * 2
        assert sandbox.paid == 3


async def test_bytes_begin_again_with_their_row(tmp_path: Path, cat: Path) -> None:
    """A resumed job whose image was bytes fails retryably: it goes on when its row comes, and harms
    no other job until then.
    """
    images = [ImageToVideo(cat.read_bytes()), *rows(3)]
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        await left_running(sandbox, tmp_path, images[:1])
        sandbox.end(sandbox.tasks[0].id, "failed", error_code="service_error")
        sandbox.speed = 1000
        assert await run(session, tmp_path, []) == []
        outcomes = await run(session, tmp_path, images)
        assert [outcome.ok for outcome in outcomes] == [True] * 4
        assert sandbox.paid - sandbox.refunded == 4


# --- one job, once --------------------------------------------------------------------------------


async def test_a_row_that_comes_during_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed job that pauses before its next attempt is in hand: its row, which comes meanwhile,
    is not another job.
    """
    patient = RetryPolicy(attempts=4, first_pause=1000.0, longest_pause=1000.0)
    paused, pause = asyncio.Event(), Follower.pause

    async def noted(follower: Follower, seconds: float) -> bool:
        paused.set()
        return await pause(follower, seconds)

    monkeypatch.setattr(Follower, "pause", noted)
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        await left_running(sandbox, tmp_path, rows(1))
        sandbox.end(sandbox.tasks[0].id, "failed", error_code="service_error")
        sandbox.speed = 1000
        async with session.batch(tmp_path, retry=patient) as batch:

            async def late() -> AsyncIterator[ImageToVideo]:
                await paused.wait()
                for request in rows(2):
                    yield request

            outcomes = batch.run(late())
            assert (await anext(outcomes)).request == rows(2)[1]
            batch.stop()
            assert [outcome async for outcome in outcomes] == []
            assert (await batch.totals()).states == {JobState.RUNNING: 1, JobState.SAVED: 1}
        assert len(sandbox.tasks) == 2


# --- attempts -------------------------------------------------------------------------------------


async def test_attempts_count_from_the_users_word(tmp_path: Path) -> None:
    """After `retry` a job has all its attempts again: what failed before the user's word does not
    count, nor does a crash forget it.
    """
    two = RetryPolicy(attempts=2, first_pause=0.01, longest_pause=0.02)
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):

        async def fail(first: int, count: int) -> None:
            for n in range(first, first + count):
                await until(lambda n=n: len(sandbox.tasks) > n)  # type: ignore[misc]
                sandbox.end(sandbox.tasks[n].id, "failed", error_code="service_error")

        failing = asyncio.create_task(fail(0, 2))
        assert [
            outcome.attempts for outcome in await run(session, tmp_path, rows(1), retry=two)
        ] == [2]
        await failing
        async with session.batch(tmp_path, retry=two) as batch:
            waiting = asyncio.create_task(anext(batch.retry()))
            await until(lambda: len(sandbox.tasks) == 3)
            while JobState.RUNNING not in (await batch.totals()).states:
                await asyncio.sleep(0)
            waiting.cancel()
        failing = asyncio.create_task(fail(2, 2))
        assert [outcome.attempts for outcome in await run(session, tmp_path, [], retry=two)] == [4]
        await failing
        async with session.batch(tmp_path, retry=two) as batch:
            failing = asyncio.create_task(fail(4, 2))
            assert [outcome.attempts async for outcome in batch.retry()] == [6]
            await failing


async def test_replaced_jobs_are_not_bought_again(tmp_path: Path) -> None:
    """A running job whose id stands for another request now is brought home, but not bought again
    when it fails.
    """
    for changed_first in (True, False):
        folder = tmp_path / str(changed_first)
        async with (
            Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
            open_session(sandbox) as session,
        ):
            await left_running(sandbox, folder, [Job(request, id="mine") for request in rows(1)])
            if changed_first:  # by an earlier run, which is left at once as well
                await left_running(
                    sandbox, folder, [Job(request, id="mine") for request in rows(1, first=2)]
                )
            async with session.batch(folder, retry=QUICK) as batch:
                outcomes = batch.run([Job(request, id="mine") for request in rows(1, first=2)])
                ending = asyncio.create_task(anext(outcomes))
                await until(lambda: len(sandbox.tasks) == 2)
                sandbox.end(sandbox.tasks[0].id, "failed", error_code="service_error")
                await until(lambda ending=ending: ending.done() or len(sandbox.tasks) > 2)  # type: ignore[misc]
                assert len(sandbox.tasks) == 2
                first = await ending
                assert (first.id.startswith("mine~"), first.state, first.attempts) == (
                    True,
                    JobState.FAILED,
                    1,
                )
                sandbox.finish()
                assert [(outcome.id, outcome.ok) async for outcome in outcomes] == [("mine", True)]
            assert len(sandbox.tasks) == 2


async def test_no_replays_of_earlier_runs_either(tmp_path: Path) -> None:
    """Where replays are forbidden, a request that an earlier run may have sent is in doubt, and
    only `retry` sends it again.
    """
    async with (
        Sandbox(
            video="stub", speed=1000, task_seconds=5, features=Features(listing=False)
        ) as sandbox,
        open_session(sandbox, retry=RetryPolicy(replays=0, first_pause=0.01)) as careful,
    ):
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(1))
        sent = sandbox.count("POST", SUBMIT)
        [outcome] = await run(careful, left, rows(1))
        assert (outcome.state, outcome.error is not None and outcome.error.charged) == (
            JobState.UNKNOWN,
            "unknown",
        )
        assert sandbox.count("POST", SUBMIT) == sent
        async with careful.batch(left) as batch:
            assert (await batch.totals()).reserved > 0
            assert [retried.ok async for retried in batch.retry()] == [True]
        assert sandbox.paid == 1


async def test_retry_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """Jobs that `retry` has begun again and did not come to are its jobs still, until they are
    done.
    """
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        failing = asyncio.create_task(run(session, tmp_path, rows(5)))
        await until(lambda: len(sandbox.tasks) == 5)
        for task in sandbox.tasks:
            sandbox.end(task.id, "failed", error_code="content_policy_violation")
        await failing
        sandbox.speed = 1000
        refusal = {
            "error": {"code": "insufficient_quota", "message": "no", "type": "insufficient_quota"}
        }
        sandbox.fail(Fault("refuse", path=SUBMIT, times=None, status=402, body=refusal))
        async with session.batch(tmp_path, retry=QUICK) as batch:
            with pytest.raises(InsufficientCreditsError):
                _ = [outcome async for outcome in batch.retry()]
        sandbox.clear_faults()
        async with session.batch(tmp_path, retry=QUICK) as batch:
            assert [outcome.ok async for outcome in batch.retry()] == [True] * 5
            assert [outcome async for outcome in batch.retry()] == []
        assert sandbox.paid - sandbox.refunded == 5


async def test_bytes_that_may_be_paid_are_retried(tmp_path: Path, cat: Path) -> None:
    """`retry` asks for a job in doubt without the image's bytes: the link of its upload is all that
    the body needs.
    """
    async with Sandbox(
        video="stub", speed=1000, task_seconds=5, features=Features(listing=False)
    ) as sandbox:
        sandbox.fail(Fault("drop-after", path=SUBMIT))
        async with open_session(sandbox, retry=RetryPolicy(replays=0, first_pause=0.01)) as careful:
            assert [
                outcome.state
                for outcome in await run(careful, tmp_path, [ImageToVideo(cat.read_bytes())])
            ] == [JobState.UNKNOWN]
        async with open_session(sandbox) as session, session.batch(tmp_path) as batch:
            assert [outcome.ok async for outcome in batch.retry()] == [True]
        assert sandbox.paid == 1


async def test_a_task_that_the_service_has_forgotten(tmp_path: Path) -> None:
    """A video that was put in place right before a crash is found there, also when the service
    knows nothing of its task any more.
    """
    async with (
        Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        await run(session, tmp_path, rows(1))
        ledger = sqlite3.connect(tmp_path / LEDGER_NAME)
        ledger.execute(
            "UPDATE jobs SET state = 'running', task_id = 'task-unified-1-gone', reserved = spent, "
            "spent = 0, ended_run = 0"
        )
        ledger.commit()
        ledger.close()
        [outcome] = await run(session, tmp_path, rows(1))
        assert (outcome.ok, str(outcome.credits), sandbox.paid) == (True, "22.848", 1)
        async with session.batch(tmp_path) as batch:
            assert [again async for again in batch.retry()] == []


async def test_a_folder_that_is_removed_while_it_runs(tmp_path: Path) -> None:
    """Nothing is paid for that cannot be noted: the batch ends with an error instead of writing
    into a ledger without a name. What it has paid for by then is among the session's orphans.
    """
    folder = tmp_path / "batch"
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        async with session.batch(folder, retry=QUICK, max_in_flight=4) as batch:
            outcomes = batch.run(rows(50))
            ending = asyncio.create_task(anext(outcomes))
            await until(lambda: len(sandbox.tasks) == 4)
            await asyncio.to_thread(shutil.rmtree, folder)
            sandbox.speed = 1000
            with pytest.raises(LedgerError, match="removed"):
                await ending
        assert sandbox.paid == 4
        assert {orphan.task_id for orphan in session.orphans} == {task.id for task in sandbox.tasks}


# --- uploads that have grown old ------------------------------------------------------------------


def three_days_pass(sandbox: Sandbox, folder: Path) -> None:
    """Let the uploads of a folder expire, on the service and by its ledger."""
    sandbox.advance(73 * 3600)
    ledger = sqlite3.connect(folder / LEDGER_NAME)
    ledger.execute("UPDATE jobs SET uploaded = uploaded - 73 * 3600")
    ledger.commit()
    ledger.close()


async def test_old_uploads_are_renewed(
    tmp_path: Path, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that never arrived, and whose upload is gone when it is sent again, becomes a task
    that fails for that alone: its next attempt has a new upload and another key.
    """
    monkeypatch.setattr(in_flight, "FRESH", 0.0)  # three days pass here
    async with (
        Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        left = await killed_while_submitting(
            sandbox, tmp_path / "first", [ImageToVideo(cat)], fault="drop-before"
        )
        three_days_pass(sandbox, left)
        [outcome] = await run(session, left, [])
        assert (outcome.state, outcome.attempts) == (JobState.SAVED, 2)
        assert sandbox.paid - sandbox.refunded == 1


OWN = {"error": {"code": "invalid_request", "message": "no", "type": "invalid_request_error"}}
FOREIGN = "<html><title>400 Bad Request</title></html>"


@pytest.mark.parametrize("body", [OWN, FOREIGN], ids=["own", "foreign"])
async def test_a_refused_question_proves_nothing(tmp_path: Path, body: object) -> None:
    """A service that answers neither the question whether it keeps keys nor anything else leaves
    the job in doubt, at once and alone; `retry` brings the same task home later.
    """
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(1))
        sandbox.fail(Fault("refuse", path=SUBMIT, times=None, status=400, body=body))
        async with open_session(sandbox, retry=QUICK) as session:
            [outcome] = await run(session, left, [])
        assert outcome.state is JobState.UNKNOWN
        assert outcome.error is not None
        assert outcome.error.charged == "unknown"
        sandbox.clear_faults()
        async with open_session(sandbox) as session, session.batch(left) as batch:
            assert (await batch.totals()).reserved > 0
            assert [(again.ok, again.attempts) async for again in batch.retry()] == [(True, 1)]
        assert sandbox.paid == 1


@pytest.mark.parametrize("body", [OWN, FOREIGN], ids=["own", "foreign"])
async def test_a_refused_replay_proves_nothing(tmp_path: Path, body: object) -> None:
    """A refusal of what an earlier run may have sent says nothing of the first sending: the job is
    asked for again with its key, and stays in doubt when that is refused for good.
    """
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(2), sent=2)
        # The question whether keys are kept is answered, and so is the first key.
        fault = sandbox.fail(
            Fault("refuse", path=SUBMIT, after=2, times=None, status=400, body=body)
        )
        outcomes = []
        async with (
            open_session(sandbox, retry=QUICK) as session,
            session.batch(left, retry=QUICK) as batch,
        ):
            # What the service itself refuses is this job's alone; foreign answers may meet all.
            with nullcontext() if body is OWN else pytest.raises(BadRequestError):
                async for outcome in batch.resume():
                    outcomes.append(outcome)  # noqa: PERF401 the error comes after the outcomes
        assert sorted(outcome.state for outcome in outcomes) == [JobState.SAVED, JobState.UNKNOWN]
        [error] = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert error.charged == "unknown"
        assert sandbox.fired(fault) >= 1
        sandbox.clear_faults()
        async with open_session(sandbox) as session, session.batch(left) as batch:
            assert (await batch.totals()).reserved > 0
            assert [(again.ok, again.attempts) async for again in batch.retry()] == [(True, 1)]
        assert sandbox.paid == 2


async def test_a_refused_replay_is_sent_again(tmp_path: Path) -> None:
    """One refusal of a replay, as by a gateway during a deploy, costs a pause and nothing else."""
    async with (
        Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(1))
        sandbox.fail(Fault("refuse", path=SUBMIT, status=400, body=FOREIGN))
        assert [outcome.ok for outcome in await run(session, left, rows(1))] == [True]
        assert sandbox.paid == 1


# --- stopping meanwhile ---------------------------------------------------------------------------


async def test_a_stop_does_not_leave_paid_tasks_unwatched(tmp_path: Path) -> None:
    """What is paid for is brought home after a stop, also what had not been taken up yet because
    there was no room.
    """
    count = GROUP + 10
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        await left_running(sandbox, tmp_path, rows(count), max_in_flight=count)
        sandbox.finish()
        async with session.batch(tmp_path, max_in_flight=1, retry=QUICK) as batch:
            outcomes = batch.run(rows(5, first=count + 1))
            await anext(outcomes)
            batch.stop()
            assert [outcome.ok async for outcome in outcomes] == [True] * (count - 1)
        assert sandbox.paid == count


async def test_a_stop_reaches_what_waits_at_the_gate(tmp_path: Path) -> None:
    """Jobs that the service has told to come back later do not leave after a stop: they are new
    again, and what is paid is finished.
    """
    async with (
        Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        sandbox.fail(
            Fault(
                "refuse",
                path=SUBMIT,
                after=3,
                times=None,
                status=429,
                headers={"Retry-After": "3600"},
            )
        )
        held = asyncio.Event()
        session.subscribe(lambda _: held.set(), Throttled)
        async with session.batch(tmp_path, max_in_flight=8, retry=QUICK) as batch:
            outcomes = batch.run(rows(50))
            first = await anext(outcomes)
            await held.wait()
            batch.stop()
            async with asyncio.timeout(100):
                rest = [outcome async for outcome in outcomes]
            totals = await batch.totals()
        assert [outcome.ok for outcome in [first, *rest]] == [True] * 3
        assert totals.states == {JobState.SAVED: 3, JobState.NEW: totals.jobs - 3}
        assert (totals.reserved, sandbox.paid) == (0, 3)
        sandbox.clear_faults()
        async with open_session(sandbox) as later:
            assert [outcome.ok for outcome in await run(later, tmp_path, rows(50))] == [True] * 50
        assert sandbox.paid == 50


async def test_a_stop_does_not_turn_away_what_may_be_paid(tmp_path: Path) -> None:
    """A request of an earlier run that may have arrived is replayed after a stop too, although the
    service has said to come back later.
    """
    async with (
        Sandbox(
            video="stub", speed=1000, task_seconds=5, features=Features(listing=False)
        ) as sandbox,
        open_session(sandbox) as session,
    ):
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(1))
        # The first one asks whether the service keeps keys.
        sandbox.fail(
            Fault("refuse", path=SUBMIT, after=1, status=429, headers={"Retry-After": "1"})
        )
        held = asyncio.Event()
        session.subscribe(lambda _: held.set(), Throttled)
        async with session.batch(left, retry=QUICK) as batch:
            outcomes = batch.run(rows(1))
            ending = asyncio.create_task(anext(outcomes))
            await held.wait()
            batch.stop()
            assert (await ending).ok
        assert sandbox.paid == 1


async def test_a_stop_does_not_make_failures_final(tmp_path: Path) -> None:
    """A task that fails after a stop with what the service calls retryable is tried again by the
    next run, as without the stop.
    """
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        async with session.batch(tmp_path, retry=QUICK) as batch:
            outcomes = batch.run(rows(1))
            ending = asyncio.create_task(anext(outcomes, None))
            await until(lambda: len(sandbox.tasks) == 1)
            batch.stop()
            sandbox.end(sandbox.tasks[0].id, "failed", error_code="service_error")
            assert await ending is None
            assert (await batch.totals()).states == {JobState.RUNNING: 1}
        sandbox.speed = 1000
        assert [
            (outcome.ok, outcome.attempts) for outcome in await run(session, tmp_path, rows(1))
        ] == [(True, 2)]


async def test_outcomes_of_a_batch_that_was_closed(tmp_path: Path) -> None:
    """Whoever asks for outcomes that nobody makes any more is told that there are none, and does
    not wait for ever.
    """
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        async with session.batch(tmp_path) as batch:
            outcomes = batch.run(rows(1))
        async with asyncio.timeout(100):
            assert [outcome async for outcome in outcomes] == []
        async with session.batch(tmp_path) as batch:
            outcomes = batch.run(rows(1))
            waiting = asyncio.create_task(anext(outcomes, None))
            await asyncio.sleep(0)
            await outcomes.aclose()
            async with asyncio.timeout(100):
                assert await waiting is None


@pytest.mark.parametrize("listing", ["whole", "late", "none"])
async def test_a_service_that_loses_every_answer_and_keeps_no_keys(
    tmp_path: Path, listing: str
) -> None:
    """A job is sent once more, as `replays` says, and then asked about: however often it is tried,
    in this run or the next, it is not bought again and again.
    """
    patient = RetryPolicy(attempts=4, first_pause=0.001)
    features = Features(idempotency=False, listing=listing != "none")
    async with Sandbox(video="stub", speed=0, features=features) as sandbox:
        sandbox.fail(Fault("drop-after", method="POST", path="/v1/videos/generations", times=None))
        if listing == "late":
            nothing = {"data": [], "total": 0, "page": 1, "page_size": 50}
            sandbox.fail(
                Fault(
                    "refuse", method="GET", path="/v1/tasks", status=200, body=nothing, times=None
                )
            )
        for _ in range(2):
            async with open_session(sandbox) as session:
                # Whether the run goes on with others is not what counts here.
                with suppress(HappyHorseError):
                    (job,) = await run(session, tmp_path, rows(1), retry=patient)
                    assert job.state is JobState.UNKNOWN
        assert sandbox.paid <= 2


async def test_a_prompt_that_is_cut_warns_once_and_not_when_its_job_goes_on(tmp_path: Path) -> None:
    """Where warnings are errors, as in these tests, what is paid for could not be brought home."""
    with pytest.warns(UserWarning, match="cuts prompts"):
        request = ImageToVideo("https://example.com/a.png", prompt="x" * 6000)
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        await left_running(sandbox, tmp_path, [request])
        sandbox.speed = 1000
        [outcome] = await run(session, tmp_path, [request])
        assert outcome.ok
        assert sandbox.paid == 1
