"""What may change between two runs of one folder: the request behind an id, there and back again,
and where the service calls back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, InsufficientCreditsError, Polling, RetryPolicy, Session
from happyhorse_async.batch import Job, JobState
from happyhorse_async.batch._follow import Follower
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.batch.support import results, until
from tests.batch.test_resume import SUBMIT, killed_while_submitting, left_running, rows, run
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

A, B = rows(2)
CAREFUL = RetryPolicy(replays=0, first_pause=0.01)
"""Leaves a lost answer in doubt."""
OFTEN = Polling(
    target_delay=0.02,
    min_interval=0.01,
    max_interval=0.05,
    max_reads_per_minute=1_000_000,
    heartbeat=0.05,
)
"""Reads often enough without callbacks."""


@pytest.fixture
async def quick(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service whose tasks take a moment."""
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        yield sandbox


@pytest.fixture
async def session(quick: Sandbox) -> AsyncIterator[Session]:
    """A session wired to it."""
    async with open_session(quick) as session:
        yield session


def mine(request: ImageToVideo) -> list[Job]:
    """Make an input of one job with a caller's id."""
    return [Job(request, id="mine")]


# --- an id whose request changes ------------------------------------------------------------------


async def test_back_to_a_saved_request(quick: Sandbox, session: Session, tmp_path: Path) -> None:
    """A request that was made before under the id, and then replaced, is told again when it comes
    back: it is paid for and here.
    """
    [first] = await run(session, tmp_path, mine(A))
    await run(session, tmp_path, mine(B))
    [again] = await run(session, tmp_path, mine(A))
    assert first.video is not None
    assert again.video is not None
    assert (again.id, again.resumed, again.video.path, again.video.sha256) == (
        "mine",
        True,
        first.video.path,
        first.video.sha256,
    )
    assert [outcome.resumed for outcome in await run(session, tmp_path, mine(B))] == [True]
    assert quick.paid == 2
    assert len(list(tmp_path.glob("*.mp4"))) == 2


async def test_back_to_a_failed_request(quick: Sandbox, session: Session, tmp_path: Path) -> None:
    """One that had failed is told as failed, and made under the id's own name when it is begun
    again.
    """
    quick.speed = 0
    failing = asyncio.create_task(run(session, tmp_path, mine(A)))
    await until(lambda: len(quick.tasks) == 1)
    quick.end(quick.tasks[0].id, "failed", error_code="content_policy_violation")
    await failing
    quick.speed = 1000
    await run(session, tmp_path, mine(B))
    async with session.batch(tmp_path) as batch:
        totals = await batch.totals()
        assert (totals.states, totals.failures) == ({JobState.SAVED: 1}, {})
    assert [line["id"] for line in results(tmp_path)] == ["mine"]
    [again] = await run(session, tmp_path, mine(A))
    assert (again.id, again.state, again.resumed) == ("mine", JobState.FAILED, True)
    async with session.batch(tmp_path) as batch:
        [retried] = [outcome async for outcome in batch.retry()]
    assert (retried.ok, retried.id) == (True, "mine")
    assert retried.video is not None
    assert retried.video.path.suffix == ".mp4"
    assert quick.paid - quick.refunded == 2


async def test_back_to_a_running_request(tmp_path: Path) -> None:
    """One whose task still runs is the id's job again, and not another purchase."""
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        await left_running(sandbox, tmp_path, mine(A))
        await left_running(sandbox, tmp_path, mine(B))
        async with session.batch(tmp_path) as batch:
            outcomes = batch.run(mine(A))
            ending = asyncio.create_task(anext(outcomes))
            while [
                record.id
                for record in await batch._ledger.call(lambda store: list(store.pages("shown")))
            ] != [
                "mine",
                "mine~3",
            ]:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            sandbox.finish()
            ended = [await ending, *[outcome async for outcome in outcomes]]
        assert {outcome.id: outcome.request.seed for outcome in ended if outcome.request} == {
            "mine": A.seed,
            "mine~3": B.seed,
        }
        assert sandbox.paid == 2


async def test_back_to_a_request_that_has_just_ended(tmp_path: Path) -> None:
    """When it ended in this very run, before its row came, the row is told as the id's own job."""
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        await left_running(sandbox, tmp_path, mine(A))
        await left_running(sandbox, tmp_path, mine(B))
        sandbox.finish()
        async with session.batch(tmp_path) as batch:

            async def late() -> AsyncIterator[Job]:
                while (await batch.totals()).states != {JobState.SAVED: 2}:
                    await asyncio.sleep(0)
                yield Job(A, id="mine")

            outcomes = [outcome async for outcome in batch.run(late())]
        assert (outcomes[-1].id, outcomes[-1].request) == ("mine", A)
        assert sorted((line["id"], line["seed"]) for line in results(tmp_path)) == [
            ("mine", A.seed),
            ("mine~3", B.seed),
        ]
        assert sandbox.paid == 2


async def test_replaced_while_it_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that pauses before its next attempt, and is replaced meanwhile, keeps its video's name
    to itself, and is bought no more: it ends with its task.
    """
    paused, replaced = asyncio.Event(), asyncio.Event()

    async def pause(_: Follower, seconds: float) -> None:
        paused.set()
        await replaced.wait()

    monkeypatch.setattr(Follower, "pause", pause)
    async with (
        Sandbox(video="stub", speed=0, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        await left_running(sandbox, tmp_path, mine(A))
        sandbox.end(sandbox.tasks[0].id, "failed", error_code="service_error")
        sandbox.speed = 1000

        async def late() -> AsyncIterator[Job]:
            await paused.wait()
            yield Job(B, id="mine")

        async with session.batch(tmp_path) as batch:
            outcomes = batch.run(late())
            told = await anext(outcomes)
            assert (told.id, told.ok, told.request) == ("mine", True, B)
            replaced.set()
            assert [(last.id, last.state) async for last in outcomes] == [
                ("mine~2", JobState.FAILED)
            ]
        assert [task.status for task in sandbox.tasks] == ["failed", "completed"]
        assert len(list(tmp_path.glob("*.mp4"))) == 1


async def test_ids_that_look_like_replaced_ones(
    quick: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A caller's id may be what a replaced job would be called, or is called; neither takes the
    other's place, video or key.
    """
    [c] = rows(1, first=3)
    await run(session, tmp_path, [*mine(A), Job(c, id="mine~2")])
    await run(session, tmp_path, [*mine(B), Job(c, id="mine~2")])
    assert sorted((line["id"], line["seed"]) for line in results(tmp_path)) == [
        ("mine", 2),
        ("mine~2", 3),
        ("mine~2~", 1),
    ]
    assert [outcome.resumed for outcome in await run(session, tmp_path, mine(A))] == [True]
    assert quick.paid == 3


async def test_an_id_that_a_replaced_job_has_by_now(
    quick: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A row whose id a replaced job was given is a job of its own; the replaced one moves on, and
    comes back to its own id.
    """
    # So many that the rows behind them come into the ledger together.
    [c], fill = (
        rows(1, first=3),
        rows(8, first=100),
    )
    await run(session, tmp_path, [*fill, *mine(A)])
    await run(session, tmp_path, [*fill, *mine(B)])
    outcomes = (await run(session, tmp_path, [*fill, *mine(A), Job(c, id="mine~2")]))[8:]
    assert {outcome.id: (outcome.request, outcome.resumed) for outcome in outcomes} == {
        "mine": (A, True),
        "mine~2": (c, False),
    }
    outcomes = (await run(session, tmp_path, [*fill, *mine(B), Job(A, id="mine~2")]))[8:]
    assert {outcome.id: (outcome.request, outcome.resumed) for outcome in outcomes} == {
        "mine": (B, True),
        "mine~2": (A, False),
    }
    assert quick.paid == len(list(tmp_path.glob("*.mp4"))) == 12


async def test_a_row_without_id_is_not_told_anothers_video(
    quick: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A table made from the results, whose ids are those of rows without one, and edited, takes
    nothing from the rows that it came from.
    """
    [first] = await run(session, tmp_path, [A])
    [edited] = await run(session, tmp_path, [Job(B, id=first.id)])
    [again] = await run(session, tmp_path, [A])
    assert (edited.request, again.request, again.resumed) == (B, A, True)
    assert first.video is not None
    assert again.video is not None
    assert again.video.path == first.video.path
    assert quick.paid == 2


async def test_replaced_ids_that_differ_in_case_alone(
    quick: Sandbox, session: Session, tmp_path: Path
) -> None:
    """They give their names away without getting into each other's way."""
    refusal = {
        "error": {"code": "insufficient_quota", "message": "no", "type": "insufficient_quota"}
    }
    quick.fail(Fault("refuse", path=SUBMIT, times=None, status=402, body=refusal))
    one, two, three, four = rows(4)
    with pytest.raises(InsufficientCreditsError):
        await run(session, tmp_path, [Job(one, id="aB"), Job(two, id="Ab")])
    quick.clear_faults()
    outcomes = await run(session, tmp_path, [Job(three, id="aB"), Job(four, id="Ab")])
    assert [outcome.ok for outcome in outcomes] == [True, True]
    assert quick.paid == 2


async def test_what_was_replaced_and_may_be_paid_for_comes_home(tmp_path: Path) -> None:
    """A request whose fate is not known is asked for by `retry` after it was replaced too: its
    money and its video are not lost.
    """
    async with Sandbox(
        video="stub", speed=1000, task_seconds=5, features=Features(listing=False)
    ) as sandbox:
        sandbox.fail(Fault("drop-after", path=SUBMIT))
        async with open_session(sandbox, retry=CAREFUL) as careful:
            assert [outcome.state for outcome in await run(careful, tmp_path, mine(A))] == [
                JobState.UNKNOWN
            ]
        async with open_session(sandbox) as session:
            assert [outcome.ok for outcome in await run(session, tmp_path, mine(B))] == [True]
            async with session.batch(tmp_path) as batch:
                assert [outcome.ok async for outcome in batch.retry()] == [True]
                assert (await batch.totals()).reserved == 0
        assert sandbox.paid == len(list(tmp_path.glob("*.mp4"))) == 2


# --- where the service calls back -----------------------------------------------------------------


@pytest.mark.parametrize(("then", "now"), [("/then", "/now"), (None, "/now"), ("/then", None)])
@pytest.mark.parametrize("listing", [True, False])
async def test_another_webhook_after_a_crash(
    tmp_path: Path, then: str | None, now: str | None, listing: bool
) -> None:
    """A request whose answer was lost is sent again as it was, though the place for callbacks has
    changed: its key is for that body.
    """

    def at(path: str | None) -> dict[str, object]:
        return (
            {"public_url": f"https://hooks.example.com{path}", "polling": OFTEN}
            if path is not None
            else {}
        )

    async with Sandbox(
        video="stub", speed=1000, task_seconds=5, features=Features(listing=listing)
    ) as sandbox:
        left = await killed_while_submitting(sandbox, tmp_path / "first", rows(1), **at(then))
        sent = sandbox.count("POST", SUBMIT)
        async with open_session(sandbox, **at(now)) as session:
            assert [outcome.ok for outcome in await run(session, left, rows(1))] == [True]
            # The service is asked once whether it keeps keys.
            assert (sandbox.paid, sandbox.count("POST", SUBMIT) - sent) == (1, 2)
            # A new one gets the place of now.
            assert [outcome.ok for outcome in await run(session, left, rows(1, first=2))] == [True]
        first, second = (task.request.get("callback_url") for task in sandbox.tasks)
    assert [
        url is not None and url.startswith(f"https://hooks.example.com{path}")
        for url, path in ((first, then), (second, now))
    ] == [
        then is not None,
        now is not None,
    ]


async def test_a_token_in_the_rows_own_callback_url(tmp_path: Path) -> None:
    """A row's own callback URL may be another in every run, since it does not say what is made; a
    replay has that of its key.
    """

    def row(token: str) -> list[ImageToVideo]:
        return [
            ImageToVideo(
                "https://example.com/1.png",
                duration=3,
                callback_url=f"https://hooks.example.com/{token}",
            )
        ]

    async with Sandbox(
        video="stub", speed=1000, task_seconds=5, features=Features(listing=False)
    ) as sandbox:
        sandbox.fail(Fault("drop-after", path=SUBMIT))
        async with open_session(sandbox, retry=CAREFUL) as careful:
            assert [outcome.state for outcome in await run(careful, tmp_path, row("one"))] == [
                JobState.UNKNOWN
            ]
        async with open_session(sandbox) as session, session.batch(tmp_path) as batch:
            assert [outcome.ok async for outcome in batch.run(row("two"), retry_failed=True)] == [
                True
            ]
        assert sandbox.paid == 1


async def test_a_token_of_the_run_that_began_it_again(tmp_path: Path) -> None:
    """A failed job that is begun again with a new callback URL, and whose answer is then lost in a
    crash, is replayed with that one.
    """

    def row(token: str) -> list[ImageToVideo]:
        return [
            ImageToVideo(
                "https://example.com/1.png",
                duration=3,
                callback_url=f"https://hooks.example.com/{token}",
            )
        ]

    async with Sandbox(
        video="stub", speed=0, task_seconds=5, features=Features(listing=False)
    ) as sandbox:
        async with open_session(sandbox) as session:
            failing = asyncio.create_task(run(session, tmp_path / "first", row("one")))
            await until(lambda: len(sandbox.tasks) == 1)
            sandbox.end(sandbox.tasks[0].id, "failed", error_code="content_policy_violation")
            await failing
        left = await killed_while_submitting(
            sandbox, tmp_path / "first", row("two"), sent=2, retry_failed=True
        )
        sandbox.speed = 1000
        async with open_session(sandbox) as session:
            assert [outcome.ok for outcome in await run(session, left, row("three"))] == [True]
        assert [task.request["callback_url"][-3:] for task in sandbox.tasks] == ["one", "two"]
