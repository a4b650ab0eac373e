"""Cancelled callers, closed sessions: what has left is brought to an end, and somebody is told."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from happyhorse_async import (
    ImageToVideo,
    Limits,
    RetryPolicy,
    Session,
    SessionClosedError,
    Submission,
    Timeouts,
)
from happyhorse_async._dispatcher import Events
from happyhorse_async._submitter.shared import Orphans
from happyhorse_async.errors import SubmissionOutcomeUnknownError
from happyhorse_async.events import Event, Orphaned, Submitted, Submitting
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
LINK = "https://example.com/frame.png"
KEY = "a-key-of-my-own-0001"


def hang(sandbox: Sandbox, action: str = "hang-after", **details: object) -> None:
    """Let submissions hang."""
    sandbox.fail(Fault(action, method="POST", path=SUBMIT, **details))  # type: ignore[arg-type]


async def arrival(sandbox: Sandbox, number: int = 1) -> None:
    """Wait until so many submissions have arrived;
    the answer of the server is then still to come.
    """
    while sandbox.count("POST", SUBMIT) < number:
        await anyio.lowlevel.checkpoint()


async def test_a_cancelled_submission_that_has_left_becomes_an_orphan_with_its_task(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The task of a caller that was cancelled after its request left is in session.orphans, in an
    event, and in the log.
    """
    hang(sandbox, "slow", seconds=0.05)
    async with open_session(sandbox) as session:
        events: list[Orphaned] = []
        session.subscribe(events.append, Orphaned)
        caller = asyncio.create_task(session.submit(LINK, idempotency_key=KEY))
        await arrival(sandbox)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        (orphan,) = session.orphans
        assert orphan.task_id == sandbox.tasks[0].id
        assert orphan.idempotency_key == KEY == events[0].idempotency_key
        assert events[0].task_id == orphan.task_id
        (record,) = [
            record
            for record in caplog.records
            if getattr(record, "action", "") == "submission_orphaned"
        ]
        assert record.levelno == logging.WARNING
        assert orphan.task_id in record.getMessage()
        assert sandbox.paid == 1


async def test_an_orphan_holds_the_link_and_not_the_picture(sandbox: Sandbox, cat: Path) -> None:
    """The bytes of a first frame are not kept; what is kept can be submitted again with the same
    key, and is the same body.
    """
    picture = cat.read_bytes()
    hang(sandbox, "slow", seconds=0.05)
    async with open_session(sandbox) as session:
        caller = asyncio.create_task(session.submit(picture, idempotency_key=KEY))
        await arrival(sandbox)
        caller.cancel()
        await asyncio.wait([caller])
        (orphan,) = session.orphans
    assert orphan.request.image == sandbox.tasks[0].request["image_urls"][0]
    assert orphan.image_sha256 == hashlib.sha256(picture).hexdigest()
    async with open_session(sandbox) as session:
        task = await session.submit(orphan.request, idempotency_key=orphan.idempotency_key)
    assert (task.id, sandbox.paid) == (orphan.task_id, 1)


async def test_an_error_that_is_not_ours_hides_no_task(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that gives no thread, or no memory, breaks a call that has paid. Such an error
    names no task, and so the session does.
    """
    async with open_session(sandbox) as session:

        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(session._open(), "wait_completed", broken)
        with pytest.raises(RuntimeError):
            await session.generate(LINK, save_to=tmp_path / "a.mp4")
        assert [orphan.task_id for orphan in session.orphans] == [sandbox.tasks[0].id]


async def test_an_orphan_does_not_warn_of_its_prompt_again(anyio_backend: str, cat: Path) -> None:
    """Where warnings are errors the orphan would be lost, though it is paid for."""
    with pytest.warns(UserWarning, match="cuts prompts"):
        request = ImageToVideo(cat.read_bytes(), prompt="x" * 6000)
    orphans = Orphans(Events())
    orphans.add(request, KEY, "task-1", "https://example.com/frame.png")
    assert orphans.kept[0].request.prompt == request.prompt
    assert orphans.kept[0].request.image == "https://example.com/frame.png"


async def test_orphans_are_bounded(anyio_backend: str, cat: Path) -> None:
    """A service that lives for months keeps the newest ones; of a picture whose link nobody knows
    any more its digest stays.
    """
    orphans, picture = Orphans(Events()), cat.read_bytes()
    for number in range(1200):
        orphans.add(ImageToVideo(picture), f"key-{number:016d}", f"task-{number}", None)
    assert len(orphans.kept) == 1000
    assert [orphan.task_id for orphan in orphans.kept[::999]] == ["task-200", "task-1199"]
    digest = hashlib.sha256(picture).hexdigest()
    assert orphans.kept[0].image_sha256 == digest
    assert orphans.kept[0].request.image == f"https://image.invalid/{digest}"


async def test_a_hanging_answer_is_replayed_within_the_shield(sandbox: Sandbox) -> None:
    """A server that hangs after it accepted is cut off, and the same key finds the task before the
    shield is over.
    """
    hang(sandbox)
    async with open_session(sandbox, timeouts=Timeouts(shield=1)) as session:
        caller = asyncio.create_task(session.submit(LINK))
        await arrival(sandbox)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert [orphan.task_id for orphan in session.orphans] == [sandbox.tasks[0].id]
        assert sandbox.paid == 1


async def test_a_server_that_hangs_for_ever_does_not_hold_a_cancellation_beyond_the_shield(
    sandbox: Sandbox,
) -> None:
    """When nothing can be learned within the shield, the orphan says so, and its key is there to
    ask with.
    """
    hang(sandbox, times=None)
    sandbox.fail(Fault("hang-before", method="GET", path="/v1/tasks", times=None))
    async with open_session(sandbox, timeouts=Timeouts(shield=0.1)) as session:
        caller = asyncio.create_task(session.submit(LINK, idempotency_key=KEY))
        await arrival(sandbox)
        caller.cancel()
        with anyio.fail_after(100), pytest.raises(asyncio.CancelledError):
            await caller
        assert [(orphan.task_id, orphan.idempotency_key) for orphan in session.orphans] == [
            (None, KEY)
        ]
        sandbox.clear_faults()
        assert (await session.submit(LINK, idempotency_key=KEY)).id == sandbox.tasks[0].id
        assert sandbox.paid == 1


async def test_impatient_cancellation_does_not_break_the_shield(sandbox: Sandbox) -> None:
    """A caller that is cancelled again and again, and one inside of an anyio cancel scope, still
    leave a complete orphan.
    """
    hang(sandbox, "slow", seconds=0.1, times=None)
    async with open_session(sandbox) as session:
        caller = asyncio.create_task(session.submit(LINK))
        await arrival(sandbox)
        for _ in range(20):
            caller.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await caller
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(session.submit, LINK)
                await arrival(sandbox, 2)
                scope.cancel()
        assert {orphan.task_id for orphan in session.orphans} == {task.id for task in sandbox.tasks}
        assert len(session.orphans) == 2


async def test_a_time_limit_of_the_caller_is_still_a_time_limit(sandbox: Sandbox) -> None:
    """asyncio.timeout around a submission gives TimeoutError, and the task is an orphan."""
    hang(sandbox, "slow", seconds=0.1)
    async with open_session(sandbox) as session:

        async def impatient() -> None:
            async with asyncio.timeout(None) as limit:
                session.subscribe(
                    lambda _: limit.reschedule(asyncio.get_running_loop().time() + 0.03), Submitting
                )
                await session.submit(LINK)

        with pytest.raises(TimeoutError):
            await impatient()
        assert [orphan.task_id for orphan in session.orphans] == [task.id for task in sandbox.tasks]
        assert sandbox.paid == len(session.orphans)


async def test_cancelling_before_the_request_has_left_is_immediate_and_free(
    sandbox: Sandbox,
) -> None:
    """A caller that waits for its turn can be cancelled at once: nothing is sent, and its turn goes
    to the next one.
    """
    hang(sandbox, "slow", seconds=0.1)
    async with open_session(sandbox, limits=Limits(max_submissions=1)) as session:
        first, second, third = (asyncio.create_task(session.submit(LINK)) for _ in range(3))
        await arrival(sandbox)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert not first.done()
        assert {(await first).id, (await third).id} == {task.id for task in sandbox.tasks}
        assert session.orphans == []


@pytest.mark.parametrize("ends_all", [False, True])
async def test_all_tasks_may_be_cancelled_before_a_request_has_begun(
    sandbox: Sandbox, ends_all: bool
) -> None:
    """As `asyncio.run` does at its end, after a `sys.exit`: the one that is about to send never
    begins. Nobody waits for it until the shield's end, nothing is in doubt, and its place is free.
    """
    shared = open_session(
        sandbox, limits=Limits(max_submissions=1), timeouts=Timeouts(shield=3600.0)
    )
    async with asyncio.timeout(100), shared as session:
        others = asyncio.all_tasks()

        def end(_: Submitting) -> None:  # told right before the task that sends is made
            asyncio.get_running_loop().call_soon(cancel)

        def cancel() -> None:
            for task in asyncio.all_tasks() - others:
                if ends_all or task is not submitting:
                    task.cancel()

        stop = session.subscribe(end, Submitting)
        submitting = asyncio.create_task(session.submit(LINK))
        await asyncio.wait([submitting])
        stop()
        assert submitting.cancelled() if ends_all else submitting.exception() is not None
        assert (session.orphans, sandbox.paid) == ([], 0)
        await session.submit(LINK)


async def test_cancelling_while_connecting_is_immediate_and_free() -> None:
    """A caller whose connection does not stand yet can be cancelled at once: nothing can have been
    accepted. Here the server never answers the TLS handshake.
    """
    greeted = asyncio.Event()
    held: list[asyncio.StreamWriter] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the client's greeting, and say nothing."""
        held.append(writer)
        await reader.read(1)
        greeted.set()

    server = await asyncio.start_server(hear, "127.0.0.1")
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with Session("a-key", base_url=url, timeouts=Timeouts(connect=60)) as session:
            caller = asyncio.create_task(session.submit(LINK))
            with anyio.fail_after(100):
                await greeted.wait()
                caller.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await caller
            assert session.orphans == []
        for writer in held:  # a server waits for its connections
            writer.close()


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_no_moment_of_cancellation_loses_a_payment(sandbox: Sandbox, turns: int) -> None:
    """Whenever a caller is cancelled, what was paid is either its task or an orphan."""
    async with open_session(sandbox) as session:
        callers = [asyncio.create_task(session.submit(LINK)) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for caller in callers:
            caller.cancel()
        results = await asyncio.gather(*callers, return_exceptions=True)
        told = {result.id for result in results if not isinstance(result, BaseException)}
        orphans = {orphan.task_id for orphan in session.orphans}
        assert told | orphans == {task.id for task in sandbox.tasks}
        assert not told & orphans


async def test_closing_gives_answers_to_those_whose_request_has_left(sandbox: Sandbox) -> None:
    """A session that closes waits for what has left, whose callers get their tasks; what has not
    left was not charged.
    """
    hang(sandbox, "slow", seconds=0.05)
    session = open_session(sandbox, limits=Limits(max_submissions=1))
    await session.__aenter__()
    left, waiting = (asyncio.create_task(session.submit(LINK)) for _ in range(2))
    await arrival(sandbox)
    await session.aclose()
    assert (await left).id == sandbox.tasks[0].id
    with pytest.raises(SessionClosedError) as refused:
        await waiting
    assert refused.value.charged == "no"
    assert refused.value.idempotency_key is not None
    assert sandbox.paid == 1


async def test_closing_does_not_wait_for_a_hanging_server_beyond_the_shield(
    sandbox: Sandbox,
) -> None:
    """A caller whose answer did not come before the session closed is told that the outcome is
    unknown, with the key.
    """
    hang(sandbox, times=None)
    session = open_session(sandbox, timeouts=Timeouts(shield=0.05))
    await session.__aenter__()
    caller = asyncio.create_task(session.submit(LINK, idempotency_key=KEY))
    await arrival(sandbox)
    with anyio.fail_after(100):
        await session.aclose()
        with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
            await caller
    assert (unknown.value.charged, unknown.value.idempotency_key) == ("unknown", KEY)


async def test_closing_in_the_moment_of_a_cancellation_still_tells_of_the_submission(
    sandbox: Sandbox,
) -> None:
    """When the session's background work ends just before a cancelled caller's submission is taken
    up, the orphan has its key.
    """
    hang(sandbox)
    async with open_session(sandbox) as session:
        caller = asyncio.create_task(session.submit(LINK, idempotency_key=KEY))
        await arrival(sandbox)
        caller.cancel()
        await asyncio.sleep(0)
        await session._open().background.aclose()
        await asyncio.wait([caller])
        assert caller.cancelled()
        assert [(orphan.task_id, orphan.idempotency_key) for orphan in session.orphans] == [
            (None, KEY)
        ]
    assert sandbox.paid == 1


async def test_orphans_can_still_be_read_after_closing(sandbox: Sandbox) -> None:
    """The orphans of a closed session are not gone with it."""
    hang(sandbox, "slow", seconds=0.05)
    session = open_session(sandbox)
    await session.__aenter__()
    caller = asyncio.create_task(session.submit(LINK))
    await arrival(sandbox)
    caller.cancel()
    await session.aclose()
    await asyncio.wait([caller])
    assert [orphan.task_id for orphan in session.orphans] == [sandbox.tasks[0].id]


@pytest.mark.parametrize("ordered", [True, False])
async def test_leaving_many_early_loses_nothing(sandbox: Sandbox, ordered: bool) -> None:
    """Leaving submit_many early: every accepted task was either handed over, or is an orphan."""
    async with open_session(sandbox, limits=Limits(max_submissions=7)) as session:
        taken = []
        async with session.submit_many([ImageToVideo(LINK)] * 100, ordered=ordered) as submissions:
            async for submission in submissions:
                taken.append(submission.task.id)
                if len(taken) == 10:
                    break
        orphans = {orphan.task_id for orphan in session.orphans}
        assert set(taken) | orphans == {task.id for task in sandbox.tasks}
        assert not orphans & set(taken)
        assert len(sandbox.tasks) < 40, "the input is read only as fast as submissions are taken"


async def test_submissions_may_be_left_in_another_task(sandbox: Sandbox) -> None:
    """An async generator around them, which nobody reads to its end, is closed in another task:
    that cancels nobody, and tells of all that was paid.
    """
    async with open_session(sandbox, limits=Limits(max_submissions=4)) as session:

        async def submitted() -> AsyncGenerator[Submission, None]:
            async with session.submit_many([ImageToVideo(LINK)] * 20) as submissions:
                async for submission in submissions:
                    yield submission

        reading = submitted()
        assert (await anext(reading)).ok
        await asyncio.create_task(reading.aclose())
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        await asyncio.sleep(0)
    assert sandbox.paid - 1 == len(session.orphans)
    assert all(orphan.task_id for orphan in session.orphans)


async def test_submissions_that_are_left_at_once_submit_nothing(sandbox: Sandbox) -> None:
    """Their workers have not begun by then: nothing waits for these, and nothing more comes."""
    async with open_session(sandbox) as session, asyncio.timeout(100):
        async with session.submit_many([ImageToVideo(LINK)] * 20) as submissions:
            pass
        assert [submission async for submission in submissions] == []
    assert sandbox.requests == []


async def test_an_input_that_catches_its_cancellation_is_left_all_the_same(
    sandbox: Sandbox,
) -> None:
    """It is cancelled until it ends, and what it gives then is not submitted."""

    async def stubborn() -> AsyncGenerator[ImageToVideo, None]:
        yield ImageToVideo(LINK)
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield ImageToVideo(LINK)

    async with open_session(sandbox) as session, asyncio.timeout(100):
        async with session.submit_many(stubborn()) as submissions:
            assert (await anext(submissions)).ok
        assert (sandbox.paid, session.orphans) == (1, [])


async def test_a_consumer_that_is_cancelled_loses_nothing(sandbox: Sandbox) -> None:
    """Cancelling the task that iterates over submit_many leaves every accepted task handed over or
    among the orphans.
    """
    taken: list[str] = []

    async def consume(session: Session) -> None:
        async with session.submit_many([ImageToVideo(LINK)] * 50) as submissions:
            async for submission in submissions:
                taken.append(submission.task.id)
                await asyncio.sleep(0)

    async with open_session(sandbox) as session:
        consumer = asyncio.create_task(consume(session))
        await arrival(sandbox, 20)
        consumer.cancel()
        await asyncio.wait([consumer])
        orphans = {orphan.task_id for orphan in session.orphans}
        assert set(taken) | orphans == {task.id for task in sandbox.tasks}


@pytest.mark.parametrize("adopt", ["proven", "single"])
async def test_no_task_is_given_to_two_callers(sandbox: Sandbox, adopt: str) -> None:
    """Of two equal requests that both lost their response, neither gets a task that may be the
    other's; both are told of both.
    """
    hang(sandbox, "drop-after", times=None)
    retry = RetryPolicy(replays=0, first_pause=0.001, adopt=adopt)  # type: ignore[arg-type]
    async with open_session(sandbox, retry=retry) as session:
        results = await asyncio.gather(
            session.submit(LINK), session.submit(LINK), return_exceptions=True
        )
        for error in results:
            assert isinstance(error, SubmissionOutcomeUnknownError)
            assert set(error.candidates) == {task.id for task in sandbox.tasks}
        assert sandbox.paid == 2


async def test_candidates_are_told_apart_by_what_the_tasks_show(sandbox: Sandbox) -> None:
    """Two requests of different length that both lost their response are each told of their own
    task alone.
    """
    hang(sandbox, "drop-after", times=None)
    async with open_session(sandbox, retry=RetryPolicy(replays=0, first_pause=0.001)) as session:
        results = await asyncio.gather(
            session.submit(LINK, duration=4),
            session.submit(LINK, duration=9),
            return_exceptions=True,
        )
        found = []
        for error in results:
            assert isinstance(error, SubmissionOutcomeUnknownError)
            (candidate,) = error.candidates
            found.append(sandbox.task(candidate).request["duration"])
        assert found == [4, 9]


async def test_a_task_from_before_the_submission_is_never_adopted(sandbox: Sandbox) -> None:
    """A task that another program submitted before the request left is not taken for the request's
    own.
    """
    async with (
        open_session(sandbox) as other,
        open_session(sandbox, retry=RetryPolicy(replays=0, first_pause=0.001)) as session,
    ):
        await other.submit(LINK)
        sandbox.advance(5)
        await session.credits()
        hang(sandbox, "drop-before")
        with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
            await session.submit(LINK)
        assert unknown.value.candidates == ()


async def test_a_lost_submission_does_not_get_the_task_of_one_whose_outcome_stayed_unknown(
    sandbox: Sandbox,
) -> None:
    """A task that may belong to an earlier submission of unknown outcome is not given to a later
    one.
    """
    retry = RetryPolicy(replays=0, first_pause=0.001, adopt="single")
    async with open_session(sandbox, retry=retry) as session:
        hang(sandbox, "drop-after")
        listing = sandbox.fail(
            Fault("refuse", method="GET", path="/v1/tasks", status=404, times=None)
        )
        with pytest.raises(SubmissionOutcomeUnknownError):
            await session.submit(LINK)
        assert sandbox.fired(listing)
        sandbox.clear_faults()
        hang(sandbox, "drop-before")
        with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
            await session.submit(LINK)
        assert unknown.value.candidates == (sandbox.tasks[0].id,)


async def test_a_server_without_a_list_leaves_the_outcome_unknown() -> None:
    """Where the list endpoint is missing, a lost answer is reported as unknown, and says why."""
    async with (
        Sandbox(video="stub", speed=0, features=Features(listing=False)) as sandbox,
        open_session(sandbox, retry=RetryPolicy(replays=0)) as session,
    ):
        hang(sandbox, "drop-after")
        with pytest.raises(SubmissionOutcomeUnknownError, match="no list of tasks") as unknown:
            await session.submit(LINK)
        assert unknown.value.next_step


async def test_adoption_is_announced(sandbox: Sandbox) -> None:
    """A task that was found in the list is announced like an accepted one, marked as adopted."""
    hang(sandbox, "drop-after")
    events: list[Event] = []
    take: Callable[[Event], None] = events.append
    async with open_session(
        sandbox, retry=RetryPolicy(replays=0, first_pause=0.001, adopt="single")
    ) as session:
        session.subscribe(take, Submitted)
        task = await session.submit(LINK)
        (event,) = events
        assert isinstance(event, Submitted)
        assert (event.task.id, event.adopted, event.replayed) == (task.id, True, False)


async def test_a_cancelled_generate_leaves_its_task_among_the_orphans(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """The caller of generate() never sees the task's id: when it is cancelled while it waits, the
    id is in session.orphans.
    """
    caller = asyncio.create_task(
        session.generate(LINK, save_to=tmp_path / "a.mp4", idempotency_key=KEY)
    )
    accepted: list[Submitted] = []
    session.subscribe(accepted.append, Submitted)
    while not accepted:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert [(orphan.task_id, orphan.idempotency_key) for orphan in session.orphans] == [
        (sandbox.tasks[0].id, KEY)
    ]


@pytest.mark.parametrize("turns", range(0, 60, 2))
async def test_no_moment_of_cancellation_sends_again_what_is_only_looked_for(turns: int) -> None:
    """With replays=0, a caller that is cancelled while its lost answer is looked for does not cause
    a second payment.
    """
    async with (
        Sandbox(video="stub", speed=0, features=Features(idempotency=False)) as sandbox,
        open_session(
            sandbox,
            retry=RetryPolicy(replays=0, first_pause=0.001, adopt="single"),
            timeouts=Timeouts(shield=100),
        ) as session,
    ):
        await session.credits()
        hang(sandbox, "drop-after", times=None)
        caller = asyncio.create_task(session.submit(LINK))
        await arrival(sandbox)
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.cancel()
        (result,) = await asyncio.gather(caller, return_exceptions=True)
        told = (
            {orphan.task_id for orphan in session.orphans}
            if isinstance(result, BaseException)
            else {result.id}
        )
        assert told == {sandbox.tasks[0].id}
        assert sandbox.paid == 1 == sandbox.count("POST", SUBMIT)


async def test_closing_ends_a_search_that_hangs(sandbox: Sandbox) -> None:
    """A session that closes while a lost answer is looked for tells the caller that the outcome is
    unknown.
    """
    hang(sandbox, "drop-after")
    sandbox.fail(Fault("hang-before", method="GET", path="/v1/tasks", times=None))
    session = open_session(sandbox, retry=RetryPolicy(replays=0), timeouts=Timeouts(shield=0.05))
    await session.__aenter__()
    caller = asyncio.create_task(session.submit(LINK))
    while not sandbox.count("GET", "/v1/tasks"):
        await asyncio.sleep(0)
    with anyio.fail_after(100):
        await session.aclose()
        with pytest.raises(SubmissionOutcomeUnknownError):
            await caller
