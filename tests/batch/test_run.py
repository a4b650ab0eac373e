"""Runs of a batch: outcomes, resuming, changed input, retries, what stops everything, and stopping
gracefully.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from pathlib import Path

import anyio
import attrs
import pytest

from happyhorse_async import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    HappyHorseError,
    ImageToVideo,
    InvalidRequestError,
    LedgerError,
    Limits,
    RetryPolicy,
    Session,
    SessionClosedError,
    TaskFailedError,
    TaskNotFoundError,
)
from happyhorse_async._edges.disk import absolute
from happyhorse_async.batch import Batch, Job, JobChanged, JobState, Outcome
from happyhorse_async.batch._database import LEDGER_NAME
from happyhorse_async.batch._follow import Follower
from happyhorse_async.cli._checks import machine
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.batch.support import firewall, until
from tests.conftest import QUICK_POLLING, open_session

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
QUICK = RetryPolicy(attempts=4, first_pause=0.01, longest_pause=0.02)


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service whose tasks take a moment."""
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        yield sandbox


def rows(count: int, first: int = 1) -> list[ImageToVideo]:
    """Make requests, each unlike the others."""
    return [
        ImageToVideo(f"https://example.com/{n}.png", seed=n, duration=3)
        for n in range(first, first + count)
    ]


async def run(session: Session, folder: Path, requests: object, **options: object) -> list[Outcome]:
    """Run a batch once, to its end."""
    retry_failed = bool(options.pop("retry_failed", False))
    async with session.batch(folder, **{"retry": QUICK, **options}) as batch:  # type: ignore[arg-type]
        return [outcome async for outcome in batch.run(requests, retry_failed=retry_failed)]  # type: ignore[arg-type]


async def test_outcomes(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """Every request has one outcome, with its video, its cost and the caller's id and columns."""
    jobs = [Job(request, id=f"row {n}", extra={"shelf": n}) for n, request in enumerate(rows(5))]
    outcomes = await run(session, tmp_path / "videos", jobs)
    assert {outcome.id: outcome.extra["shelf"] for outcome in outcomes} == {
        f"row {n}": n for n in range(5)
    }
    assert all(
        outcome.ok and outcome.video is not None and outcome.video.path.stat().st_size
        for outcome in outcomes
    )
    assert {str(outcome.credits) for outcome in outcomes} == {"22.848"}
    assert sandbox.paid == 5


async def test_again_is_free(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """The same input again costs nothing, fetches nothing, and tells the same outcomes."""
    first = await run(session, tmp_path, rows(5))
    before = len(sandbox.requests)
    second = await run(session, tmp_path, iter(rows(5)))
    assert (sandbox.paid, len(sandbox.requests)) == (5, before)
    assert all(outcome.resumed for outcome in second)
    assert {outcome.id: outcome.video.sha256 for outcome in first if outcome.video} == {
        outcome.id: outcome.video.sha256 for outcome in second if outcome.video
    }


async def test_added_and_changed_rows(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """Rows that are new, or whose request has changed under the same id, are made; the others are
    not made again.
    """
    await run(session, tmp_path, [Job(request, id=str(request.seed)) for request in rows(3)])
    changed = Job(ImageToVideo("https://example.com/1.png", prompt="another", duration=3), id="1")
    outcomes = await run(
        session,
        tmp_path,
        [changed, *(Job(request, id=str(request.seed)) for request in rows(3, first=2))],
    )
    assert sorted(outcome.id for outcome in outcomes if not outcome.resumed) == ["1", "4"]
    assert sandbox.paid == 5
    assert len(list(tmp_path.glob("*.mp4"))) == 5


async def test_equal_rows_are_several_videos(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """Three equal rows are three videos, in every run the same three."""
    for _ in range(2):
        outcomes = await run(session, tmp_path, rows(1) * 3)
        assert len({outcome.id for outcome in outcomes}) == 3
    assert sandbox.paid == 3


async def test_content_is_the_identity(
    sandbox: Sandbox, session: Session, tmp_path: Path, cat: Path
) -> None:
    """A moved or touched image is the same job; other content under the same name is another."""
    image = tmp_path / "in.jpg"
    image.write_bytes(cat.read_bytes())
    await run(session, tmp_path / "out", [ImageToVideo(image)])
    moved = image.rename(tmp_path / "moved.jpg")
    moved.touch()
    assert [
        outcome.resumed for outcome in await run(session, tmp_path / "out", [ImageToVideo(moved)])
    ] == [True]
    moved.write_bytes(cat.read_bytes() + b"changed")
    assert [
        outcome.resumed for outcome in await run(session, tmp_path / "out", [ImageToVideo(moved)])
    ] == [False]
    assert sandbox.paid == 2


async def test_bytes_resume_from_the_same_input(
    sandbox: Sandbox, session: Session, tmp_path: Path, cat: Path
) -> None:
    """An image given as bytes is known by its content too, although the ledger does not keep it."""
    for _ in range(2):
        assert [
            outcome.ok for outcome in await run(session, tmp_path, [ImageToVideo(cat.read_bytes())])
        ] == [True]
    assert sandbox.paid == 1


async def test_bad_rows(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """A file that is no image, an id that comes twice and a thing that is no request are failed
    outcomes; the others go on.
    """
    (tmp_path / "note.png").write_text("not a picture")
    jobs = [
        ImageToVideo(tmp_path / "note.png"),
        Job(rows(1)[0], id="a"),
        Job(rows(1)[0], id="a"),
        7,
    ]
    outcomes = await run(session, tmp_path / "out", jobs)
    assert sorted(outcome.ok for outcome in outcomes) == [False, False, False, True]
    assert all(
        isinstance(outcome.error, InvalidRequestError) for outcome in outcomes if not outcome.ok
    )
    assert sandbox.paid == 1


async def test_retryable_failures_are_retried(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A task that fails with a code that the service calls retryable becomes another task, with
    another key, up to the limit.
    """
    done = asyncio.create_task(run(session, tmp_path, rows(1)))
    sandbox.speed = 0
    for n in range(4):
        await until(lambda n=n: len(sandbox.tasks) > n)  # type: ignore[misc]
        sandbox.end(sandbox.tasks[n].id, "failed", error_code="service_error")
    [outcome] = await done
    assert (
        outcome.state,
        outcome.attempts,
        len({task.idempotency_key for task in sandbox.tasks}),
    ) == (JobState.FAILED, 4, 4)
    assert isinstance(outcome.error, TaskFailedError)
    assert outcome.error.code == "service_error"


async def test_pauses_between_attempts_grow(
    sandbox: Sandbox, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each further attempt at a job waits twice as long, up to the longest pause of the batch's own
    policy.
    """
    pauses: list[float] = []

    async def pause(_: Follower, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(Follower, "pause", pause)
    sandbox.speed = 0
    policy = RetryPolicy(attempts=5, first_pause=20, longest_pause=100, jitter=0)
    done = asyncio.create_task(run(session, tmp_path, rows(1), retry=policy))
    for n in range(5):
        await until(lambda n=n: len(sandbox.tasks) > n)  # type: ignore[misc]
        sandbox.end(sandbox.tasks[n].id, "failed", error_code="service_error")
    await done
    assert pauses == [20, 40, 80, 100]


async def test_final_failures_wait_for_the_users_word(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A refused content is not tried again, not by the next run either, but by `retry`."""
    sandbox.speed = 0
    done = asyncio.create_task(run(session, tmp_path, rows(1)))
    await until(lambda: len(sandbox.tasks) == 1)
    sandbox.end(sandbox.tasks[0].id, "failed", error_code="content_policy_violation")
    assert [outcome.attempts for outcome in await done] == [1]
    [told] = await run(session, tmp_path, rows(1))
    assert told.resumed
    assert isinstance(told.error, TaskFailedError)
    assert told.error.code == "content_policy_violation"
    sandbox.speed = 1000
    async with session.batch(tmp_path) as batch:
        assert [outcome.ok async for outcome in batch.retry()] == [True]
        assert (await batch.totals()).states == {JobState.SAVED: 1}
    assert sandbox.paid == 2


async def test_retry_failed_with_the_input(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """`run(..., retry_failed=True)` begins failed jobs of its input again."""
    sandbox.speed = 0
    done = asyncio.create_task(run(session, tmp_path, rows(1)))
    await until(lambda: len(sandbox.tasks) == 1)
    sandbox.end(sandbox.tasks[0].id, "failed", error_code="content_policy_violation")
    await done
    sandbox.speed = 1000
    assert [outcome.ok for outcome in await run(session, tmp_path, rows(1), retry_failed=True)] == [
        True
    ]


async def test_refused_key_stops_everything(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """What every job would meet stops the batch with its error, and leaves all jobs alone."""
    fault = sandbox.fail(
        Fault(
            "refuse",
            path=SUBMIT,
            times=None,
            status=401,
            body={"error": {"code": "unauthorized", "message": "no"}},
        )
    )
    with pytest.raises(AuthenticationError):
        await run(session, tmp_path, rows(300))
    assert sandbox.fired(fault) <= 200
    sandbox.clear_faults()
    assert {outcome.ok for outcome in await run(session, tmp_path, rows(300))} == {True}
    assert sandbox.paid == 300


async def test_unreachable_service_stops_after_a_while(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """Refusals that may pass are tried again with pauses; when they do not pass, the batch stops
    instead of failing job after job.
    """
    refusal = {"error": {"code": "model_unavailable", "message": "later", "type": "api_error"}}
    sandbox.fail(Fault("refuse", path=SUBMIT, times=None, status=400, body=refusal))
    async with session.batch(tmp_path, retry=QUICK) as batch:
        with pytest.raises(HappyHorseError, match="model_unavailable"):
            _ = [outcome async for outcome in batch.run(rows(5))]
        assert (await batch.totals()).states == {JobState.NEW: 5}
    sandbox.clear_faults()
    assert {outcome.ok for outcome in await run(session, tmp_path, rows(5))} == {True}


async def test_lost_answers_cost_nothing_twice(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """Submissions that were paid and never answered are found again by their key."""
    sandbox.fail(Fault("drop-after", path=SUBMIT, probability=0.4, times=None, seed=3))
    outcomes = await run(
        session,
        tmp_path,
        rows(40),
        retry=RetryPolicy(attempts=20, first_pause=0.01, longest_pause=0.02),
    )
    assert [outcome.ok for outcome in outcomes] == [True] * 40
    assert sandbox.paid == 40


async def test_doubt_is_kept_when_replays_are_forbidden(tmp_path: Path) -> None:
    """Without replays a lost answer is a job in doubt, which only `retry` asks for again, with the
    same key.
    """
    async with (
        Sandbox(
            video="stub", speed=1000, task_seconds=5, features=Features(listing=False)
        ) as sandbox,
        open_session(sandbox, retry=RetryPolicy(replays=0, first_pause=0.01)) as careful,
    ):
        sandbox.fail(Fault("drop-after", path=SUBMIT))
        [outcome] = await run(careful, tmp_path, rows(1))
        assert (outcome.state, outcome.error is not None and outcome.error.charged) == (
            JobState.UNKNOWN,
            "unknown",
        )
        assert [again.state for again in await run(careful, tmp_path, rows(1))] == [
            JobState.UNKNOWN
        ]
        async with careful.batch(tmp_path) as batch:
            assert [retried.ok async for retried in batch.retry()] == [True]
        assert sandbox.paid == 1


async def test_dead_links_are_left_to_the_next_run(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A link that gives nothing within its 24 hours is no failure: the job stays completed, and the
    next run fetches its video without paying.
    """
    sandbox.fail(Fault("refuse", path="/results/", times=None, status=410, body=""))
    async with open_session(sandbox, polling=attrs.evolve(QUICK_POLLING, patience=0.2)) as hasty:
        [outcome] = await run(hasty, tmp_path, rows(1))
    assert (outcome.state, outcome.error is not None) == (JobState.COMPLETED, True)
    sandbox.clear_faults()
    assert [again.ok for again in await run(session, tmp_path, rows(1))] == [True]
    assert sandbox.paid == 1


async def test_links_that_are_long_dead(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """A video that was not fetched for days is a failed job that was charged."""
    sandbox.fail(Fault("truncate", bytes=0, times=None))
    await run(session, tmp_path, rows(1))
    sandbox.clear_faults()
    sandbox.advance(3 * 86400)
    with closing(sqlite3.connect(tmp_path / LEDGER_NAME)) as ledger:
        ledger.execute(
            "UPDATE jobs SET accepted = accepted - 3 * 86400, completed = completed - 3 * 86400"
        )
        ledger.commit()
    [outcome] = await run(session, tmp_path, rows(1))
    assert (outcome.state, outcome.credits > 0) == (JobState.FAILED, True)
    assert outcome.error is not None
    assert outcome.error.charged == "yes"


async def test_a_task_that_is_denied_is_left_to_the_next_run(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """However long the service denies an accepted task, its job is not failed: it stays running,
    and
    the next run brings it home without paying.
    """
    denial = {"error": {"code": "task_not_found", "message": "no", "type": "invalid_request_error"}}
    sandbox.fail(Fault("refuse", path="/v1/tasks", times=None, status=404, body=denial))
    async with open_session(sandbox, polling=attrs.evolve(QUICK_POLLING, patience=0.2)) as hasty:
        [outcome] = await run(hasty, tmp_path, rows(1))
    assert (outcome.state, type(outcome.error)) == (JobState.RUNNING, TaskNotFoundError)
    sandbox.clear_faults()
    assert [again.ok for again in await run(session, tmp_path, rows(1))] == [True]
    assert sandbox.paid == 1


async def test_what_a_firewall_refuses_ends_one_job(sandbox: Sandbox, tmp_path: Path) -> None:
    """One request that something in front of the service refuses, whatever is tried, ends its own
    job alone; no run is stopped, in the second one neither.
    """
    poison = ImageToVideo("https://example.com/p.png", prompt="<script>alert(1)</script>")
    async with (
        firewall(sandbox.url, "<script>") as url,
        open_session(sandbox, base_url=url) as session,
    ):
        for _ in range(2):
            outcomes = await run(session, tmp_path, [poison, *rows(9)], max_in_flight=1)
            bad = [outcome.request for outcome in outcomes if not outcome.ok]
            assert (len(outcomes), bad) == (10, [poison])
    assert sandbox.paid == 9


async def test_a_video_that_is_too_large_ends_one_job(sandbox: Sandbox, tmp_path: Path) -> None:
    """A video over the size that is allowed stays the service's, and stops no other job; a run that
    allows more fetches it.
    """
    (large,) = [ImageToVideo("https://example.com/l.png", duration=15, quality="1080p")]
    requests = [large, *rows(5)]
    async with open_session(sandbox, limits=Limits(max_video_bytes=8000)) as strict:
        outcomes = await run(strict, tmp_path, requests, max_in_flight=1)
        assert {outcome.request: outcome.state for outcome in outcomes} == {
            large: JobState.COMPLETED,
            **dict.fromkeys(rows(5), JobState.SAVED),
        }
    async with open_session(sandbox) as generous:
        assert {outcome.ok for outcome in await run(generous, tmp_path, requests)} == {True}
    assert sandbox.paid == 6


async def test_what_was_charged_is_not_bought_again(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A task that failed for a time, but was charged, is not followed by another one."""
    sandbox.fail(Fault("fail-task", status="failed", code="generation_timeout", refund=False))
    [outcome] = await run(session, tmp_path, rows(1))
    assert (outcome.state, outcome.attempts, outcome.credits > 0) == (JobState.FAILED, 1, True)
    assert sandbox.paid == 1


async def test_a_way_that_is_cut_for_one_job_alone_is_no_failure_of_it(
    sandbox: Sandbox, tmp_path: Path, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose connections are refused, while others are accepted, is told as it stands and goes
    on with the next run: nobody has refused it.
    """
    failed = asyncio.Event()

    async def pause(_: Follower, seconds: float) -> bool:
        failed.set()
        await until(lambda: sandbox.paid == 1)
        return True

    monkeypatch.setattr(Follower, "pause", pause)
    [link] = rows(1)
    requests = [ImageToVideo(cat, seed=1, duration=3), link]

    async def one_by_one() -> AsyncIterator[ImageToVideo]:
        yield requests[0]
        await failed.wait()
        yield link

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with open_session(sandbox, files_url=nobody) as cut_off:
            outcomes = {each.request: each for each in await run(cut_off, tmp_path, one_by_one())}
    left = outcomes[requests[0]]
    assert (left.state, outcomes[link].ok, sandbox.paid) == (JobState.NEW, True, 1)
    assert isinstance(left.error, APIConnectionError)
    async with open_session(sandbox) as session:
        assert [each.ok for each in await run(session, tmp_path, requests)] == [True, True]
        async with session.batch(tmp_path) as batch:
            assert not (await batch.totals()).reserved
    assert sandbox.paid == 2


async def test_broken_downloads_are_left_to_the_next_run(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A video that cannot be fetched now stays the batch's, and the next run fetches it without
    paying.
    """
    sandbox.fail(Fault("truncate", bytes=0, times=None))
    [outcome] = await run(session, tmp_path, rows(1))
    assert (outcome.state, outcome.error is not None) == (JobState.COMPLETED, True)
    sandbox.clear_faults()
    assert [again.ok for again in await run(session, tmp_path, rows(1))] == [True]
    assert sandbox.paid == 1


async def test_foreign_files_are_not_touched(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A file that was there before the ledger, under the name of a job's video, keeps that job from
    being submitted.
    """
    (tmp_path / "mine.mp4").write_text("holiday")
    [outcome] = await run(session, tmp_path, [Job(rows(1)[0], id="mine")])
    assert isinstance(outcome.error, FileExistsError)
    assert (sandbox.paid, (tmp_path / "mine.mp4").read_text()) == (0, "holiday")
    (tmp_path / "mine.mp4").unlink()
    assert [again.ok for again in await run(session, tmp_path, [Job(rows(1)[0], id="mine")])] == [
        True
    ]


async def test_names_are_safe(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """Ids that are no file names, or differ only in case, still make one file each, and inside the
    folder.
    """
    ids = ["../up", "A", "a", "con", "x" * 300, "a/b", "日本"]
    outcomes = await run(
        session,
        tmp_path / "out",
        [Job(request, id=job_id) for request, job_id in zip(rows(7), ids, strict=True)],
    )
    paths = [outcome.video.path for outcome in outcomes if outcome.video is not None]
    assert len({path.name.lower() for path in paths}) == 7
    assert {path.resolve().parent for path in paths} == {(tmp_path / "out").resolve()}


async def test_first_stop_finishes_what_is_paid(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """After `stop` nothing new is submitted, and everything that is paid is saved."""
    sandbox.speed = 0
    async with session.batch(tmp_path, max_in_flight=4) as batch:
        outcomes = batch.run(rows(200))
        first = asyncio.create_task(anext(outcomes))
        await until(lambda: sandbox.paid == 4)
        batch.stop()
        sandbox.speed = 1000
        told = [await first, *[outcome async for outcome in outcomes]]
        assert [outcome.ok for outcome in told] == [True] * 4
        totals = await batch.totals()
        assert totals.states == {JobState.SAVED: 4, JobState.NEW: totals.jobs - 4}
        assert sandbox.paid == 4
    assert (
        len([outcome for outcome in await run(session, tmp_path, rows(200)) if outcome.ok]) == 200
    )
    assert sandbox.paid == 200


async def test_leaving_early(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """Leaving the loop and the batch ends its work at once; the next run goes on with what was
    paid.
    """
    async with session.batch(tmp_path, max_in_flight=8) as batch:
        async for _ in batch.run(rows(50)):
            break
    paid = sandbox.paid
    assert paid < 50
    assert {outcome.ok for outcome in await run(session, tmp_path, rows(50))} == {True}
    assert sandbox.paid == 50


async def test_a_run_that_was_left_early_is_ended_before_the_next_one(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A loop that is left goes on behind; the refusal of another run says how to end it, and so it
    goes on in the same batch.
    """
    async with session.batch(tmp_path, max_in_flight=8) as batch:
        async with aclosing(batch.run(rows(50))) as outcomes:
            async for _ in outcomes:
                break
            with pytest.raises(HappyHorseError, match="going on already") as refused:
                batch.run(rows(50))
            ending = asyncio.ensure_future(outcomes.aclose())
            await asyncio.sleep(0)
            with pytest.raises(HappyHorseError, match="going on already"):
                batch.run(rows(50))  # not before the first one lets go of its jobs
            await ending
        assert "aclosing" in refused.value.next_step
        assert sandbox.paid < 50
        assert {outcome.ok async for outcome in batch.run(rows(50))} == {True}
        assert (await batch.totals()).states == {JobState.SAVED: 50}
    assert sandbox.paid == 50


async def test_slow_consumer(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """A consumer that does not take outcomes holds up submissions after a while, but no video that
    is paid for.
    """
    async with session.batch(tmp_path, max_in_flight=2) as batch:
        outcomes = batch.run(rows(1000))
        await anext(outcomes)
        await until(
            lambda: sandbox.paid > 100 and all(task.status == "completed" for task in sandbox.tasks)
        )
        before = sandbox.paid
        assert before < 1000
        await until(lambda: len(list(tmp_path.glob("*.mp4"))) == before or sandbox.paid > before)


async def test_endless_async_input(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """Outcomes come while an asynchronous input is still waiting for its next row."""
    more = asyncio.Event()

    async def slowly() -> AsyncIterator[ImageToVideo]:
        for request in rows(3):
            yield request
        await more.wait()
        for request in rows(2, first=4):
            yield request

    async with session.batch(tmp_path) as batch:
        outcomes = batch.run(slowly())
        first = [await anext(outcomes) for _ in range(3)]
        more.set()
        assert len(first) + len([outcome async for outcome in outcomes]) == 5


async def test_input_that_raises(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """An error of the caller's own generator comes out of the iteration."""

    def broken() -> object:
        yield from rows(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(session, tmp_path, broken())


async def test_input_that_was_cancelled(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """An input that awaits a task which somebody has cancelled breaks off, and that is an error: to
    a task group it looks like nothing, and the rest would be waited for for ever.
    """
    feeder = asyncio.ensure_future(asyncio.Event().wait())
    feeder.cancel()

    async def fed() -> AsyncIterator[ImageToVideo]:
        for request in rows(3):
            yield request
        await feeder

    with anyio.fail_after(100), pytest.raises(HappyHorseError, match="broke off") as caught:
        await run(session, tmp_path, fed())
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert caught.value.charged == "unknown"
    assert len(await run(session, tmp_path, rows(3))) == sandbox.paid == 3


@pytest.mark.parametrize("what", ["session", "batch", "both, in tasks"])
async def test_input_that_closes_what_it_feeds(sandbox: Sandbox, tmp_path: Path, what: str) -> None:
    """The run ends as by any other close, and does not wait for itself. What it has paid for is
    found by the next one.
    """
    session = open_session(sandbox)
    with anyio.fail_after(100):
        async with session.batch(tmp_path) as batch:

            async def closing() -> AsyncIterator[ImageToVideo]:
                for request in rows(3):
                    yield request
                await until(lambda: sandbox.paid == 3)
                if what == "session":
                    await session.aclose()
                elif what == "batch":
                    await batch.aclose()
                else:
                    await asyncio.gather(session.aclose(), batch.aclose())

            with pytest.raises(SessionClosedError) as closed:
                _ = [outcome async for outcome in batch.run(closing())]
        await session.aclose()
        assert closed.value.charged == "unknown"
        async with open_session(sandbox) as again:
            assert len(await run(again, tmp_path, rows(4))) == sandbox.paid == 4


async def test_closed_session(sandbox: Sandbox, tmp_path: Path) -> None:
    """Closing the session under a run is an error for whoever iterates, not a short list."""
    sandbox.speed = 0
    async with open_session(sandbox) as session:
        batch = session.batch(tmp_path)
        async with batch:
            waiting = asyncio.create_task(anext(batch.run(rows(1))))
            await until(lambda: sandbox.paid == 1)
            await session.aclose()
            with pytest.raises(SessionClosedError):
                await waiting


async def test_one_run_at_a_time(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """A second run beside the first is refused; a batch that is not open says so."""
    async with session.batch(tmp_path) as batch:
        first = batch.run(rows(2))
        with pytest.raises(HappyHorseError, match="going on already"):
            batch.run(rows(2))
        assert len([outcome async for outcome in first]) == 2
        assert len([outcome async for outcome in batch.run(rows(2))]) == 2
    with pytest.raises(HappyHorseError, match="not open"):
        batch.run(rows(1))


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 300])
async def test_a_folder_that_no_path_can_be(session: Session, tmp_path: Path, name: str) -> None:
    """The batch says that nothing can be written there; nothing is left to finish in it."""
    with pytest.raises(LedgerError, match="nothing can be written in"):
        async with session.batch(f"{tmp_path}/{name}"):
            pytest.fail("it was opened")
    assert await session.leftovers(f"{tmp_path}/{name}") == []


async def test_one_service_for_a_folder(session: Session, tmp_path: Path) -> None:
    """A folder of one service's tasks is refused to a session that speaks to another."""
    async with session.batch(tmp_path):
        pass
    async with Session("sk-other", base_url="https://api.example.com") as other:
        with pytest.raises(
            LedgerError, match=r"belongs to a service on this machine.*api\.example\.com"
        ):
            async with other.batch(tmp_path):
                pass


async def test_options_check_themselves(session: Session, tmp_path: Path) -> None:
    """Wrong options are refused with their name and value."""
    with pytest.raises(ConfigurationError, match=r"max_in_flight.*0"):
        session.batch(tmp_path, max_in_flight=0)
    with pytest.raises(ConfigurationError, match="budget"):
        session.batch(tmp_path, budget=5)  # type: ignore[arg-type]


async def test_events(sandbox: Sandbox, session: Session, tmp_path: Path) -> None:
    """Every change of a job's state is an event, in the order of the states."""
    heard: list[JobChanged] = []
    session.subscribe(heard.append, JobChanged)
    await run(session, tmp_path, rows(1))
    assert [event.state for event in heard] == [
        JobState.SUBMITTING,
        JobState.RUNNING,
        JobState.COMPLETED,
        JobState.SAVED,
    ]


async def test_repr(session: Session, tmp_path: Path) -> None:
    """A batch shows its folder and whether it is open."""
    batch: Batch = session.batch(tmp_path)
    assert repr(batch) == f"<Batch {str(tmp_path)!r} not open>"


async def test_more_images_than_the_account_has_room_for(tmp_path: Path, cat: Path) -> None:
    """Uploads are taken away when their jobs have ended, so that a batch may have more images than
    the account's quota of files.
    """
    images = [ImageToVideo(cat.read_bytes() + bytes([n])) for n in range(150)]
    async with (
        Sandbox(video="stub", speed=1000, task_seconds=5, file_quota=100) as sandbox,
        open_session(sandbox) as session,
        session.batch(tmp_path, max_in_flight=4) as batch,
    ):
        assert [outcome.ok async for outcome in batch.run([*images, *images[:5]])] == [True] * 155
        assert sandbox.paid == 155
        assert sandbox.count("DELETE") >= 150


@pytest.mark.parametrize("status", [200, 400, 403])
async def test_a_full_quota_of_files_stops_the_run_and_fails_no_job(
    sandbox: Sandbox, session: Session, tmp_path: Path, cat: Path, status: int
) -> None:
    """It is the account's trouble: the run says so, and the next one makes the videos."""
    full = {"success": False, "code": 400, "msg": "file quota exceeded"}
    sandbox.fail(
        Fault(
            "refuse", method="POST", path="/api/v1/files/upload", status=status, body=full, times=1
        )
    )
    sandbox.speed = 1000.0
    async with session.batch(tmp_path / "videos") as batch:
        with pytest.raises(APIStatusError, match="quota") as stopped:
            assert [outcome async for outcome in batch.run([ImageToVideo(cat)])] == []
        assert "Delete files" in (stopped.value.next_step or "")
        assert [outcome.ok async for outcome in batch.run([ImageToVideo(cat)])] == [True]
    assert sandbox.paid == 1


async def test_rows_that_are_no_jobs_are_told_shortly_and_by_what_is_wrong(
    session: Session, tmp_path: Path
) -> None:
    """The bytes of an image are not shown, and a blank id is named as that."""
    wrong = [b"x" * 10_000_000, Job(rows(1)[0], id=" ")]
    first, second = await run(session, tmp_path, wrong)
    assert "row 1: expected an ImageToVideo" in str(first.error)
    assert "(10,000,000 bytes)" in str(first.error)
    assert str(second.error) == "row 2: id: expected text that is not blank, or None, got ' '"


async def test_a_working_folder_that_is_gone_is_no_error_of_pythons(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing relative can be found from there, and that is what is said; the rest goes on."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(LedgerError, match="nothing can be written in b") as caught:
        await run(session, Path("b"), rows(1))
    assert caught.value.charged == "no"
    mixed = [ImageToVideo("cat.jpg"), *rows(1)]
    lost, made = await run(session, tmp_path / "batch", mixed)
    assert "there is no such file: 'cat.jpg'" in str(lost.error)
    assert made.ok
    assert {finding.check: finding.ok for finding in machine(absolute("."))}["locks"] is False
