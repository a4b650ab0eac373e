"""One request, one key, one task; whose turn it is; and what a refused request costs (nothing)."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from happyhorse_async import (
    APIStatusError,
    AuthenticationError,
    HappyHorseError,
    IdempotencyConflictError,
    ImageToVideo,
    InternalServerError,
    InvalidRequestError,
    Limits,
    RateLimitError,
    RetryPolicy,
    Session,
    SubmissionOutcomeUnknownError,
    Timeouts,
)
from happyhorse_async._rules.refusals import is_daily_limit
from happyhorse_async._submitter.gate import Gate
from happyhorse_async.events import Retrying, SubmissionFailed, Submitted, Submitting, Throttled
from happyhorse_async.sandbox import Account, Fault, Features, Sandbox
from tests.conftest import QUICK_POLLING, open_session

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
LINK = "https://example.com/frame.png"
KEY = "a-key-of-my-own-0001"


def fail(sandbox: Sandbox, action: str = "refuse", **details: Any) -> Fault:
    """Let submissions go wrong."""
    return sandbox.fail(Fault(action, method="POST", path=SUBMIT, **details))


# --- keys -----------------------------------------------------------------------------------------


async def test_every_request_has_a_key_of_its_own(sandbox: Sandbox, session: Session) -> None:
    """Keys are made for each request, fit the service's rule, reach the server, and are on the
    handle.
    """
    tasks = [await session.submit(LINK) for _ in range(3)]
    keys = [task.idempotency_key for task in tasks]
    assert keys == [task.idempotency_key for task in sandbox.tasks]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "key",
    [
        "short",
        "x" * 97,
        "a key with blanks in it",
        "schlüssel-schlüssel",
        "",
        "line\nbreak-line-break",
    ],
)
async def test_a_bad_key_is_refused_before_anything_is_sent(
    sandbox: Sandbox, session: Session, key: str
) -> None:
    """Keys are 16 to 96 characters of A-Za-z0-9._-; others are an InvalidRequestError, and nothing
    is sent.
    """
    with pytest.raises(InvalidRequestError, match="idempotency_key"):
        await session.submit(LINK, idempotency_key=key)
    assert sandbox.requests == []


async def test_the_same_key_gives_the_same_task(sandbox: Sandbox, session: Session) -> None:
    """A request submitted twice with one key is one task, paid once; the second answer is known as
    a replay.
    """
    events: list[Submitted] = []
    session.subscribe(events.append, Submitted)
    first, second = (
        await session.submit(LINK, idempotency_key=KEY),
        await session.submit(LINK, idempotency_key=KEY),
    )
    assert first.id == second.id
    assert [event.replayed for event in events] == [False, True]
    assert sandbox.paid == 1


@pytest.mark.parametrize("status", [None, "", 7])
@pytest.mark.parametrize("keeps_keys", [True, False])
async def test_an_answer_with_an_id_and_no_status_is_a_task(
    keeps_keys: bool, status: object
) -> None:
    """The id was told, so the video is not lost and the request is not sent again."""
    features = Features(idempotency=keeps_keys)
    async with (
        Sandbox(video="stub", speed=0, features=features) as sandbox,
        open_session(sandbox) as session,
    ):
        fail(sandbox, "unknown-fields", fields={"status": status})
        task = await session.submit(LINK)
        assert (sandbox.count("POST", SUBMIT), sandbox.paid) == (1, 1)
        updates = aiter(task.updates())
        assert (await anext(updates)).status == "pending"
        sandbox.finish()
        assert [update.status async for update in updates][-1] == "completed"


async def test_a_key_that_stands_for_another_request_is_a_conflict(
    sandbox: Sandbox, session: Session
) -> None:
    """The same key with another body is an IdempotencyConflictError that names the key; it is not
    sent again, and what was accepted under the key may have been charged.
    """
    async with open_session(sandbox) as other:
        await other.submit(LINK, idempotency_key=KEY)
    with pytest.raises(IdempotencyConflictError) as conflict:
        await session.submit(LINK, duration=9, idempotency_key=KEY)
    assert (conflict.value.charged, conflict.value.idempotency_key) == ("unknown", KEY)
    assert sandbox.paid == 1
    assert sandbox.count("POST", SUBMIT) == 2


async def test_a_server_with_integer_codes_is_asked_again_while_it_decides() -> None:
    """A 409 whose code is a mere number may mean that the service is still deciding: it is asked
    again, never paid twice.
    """
    async with (
        Sandbox(video="stub", speed=0, features=Features(integer_codes=True)) as sandbox,
        open_session(sandbox) as session,
    ):
        fail(sandbox, "undecided", seconds=30)
        session.subscribe(
            lambda event: sandbox.advance(31) if "409" in str(event.error) else None, Retrying
        )
        task = await session.submit(LINK)
        assert [task.id] == [task.id for task in sandbox.tasks]


@pytest.mark.parametrize("code", ["idempotency_key_in_use", "request_in_progress"])
async def test_a_key_in_use_is_asked_for_again(
    sandbox: Sandbox, session: Session, code: str
) -> None:
    """Other services of this kind say in these words that the first request is still on its way:
    it was left in doubt, though its task was there seconds later.
    """
    fail(sandbox, "drop-after")
    body = {"error": {"code": code, "message": "wait", "type": "invalid_request_error"}}
    fail(sandbox, status=409, body=body, times=2, sending=2)
    task = await session.submit(LINK)
    assert [task.id] == [task.id for task in sandbox.tasks]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid_request"), (401, "unauthorized"), (402, "insufficient_quota"), (413, "")],
)
async def test_a_refusal_is_not_tried_again_and_says_that_nothing_was_charged(
    sandbox: Sandbox, status: int, code: str
) -> None:
    """What the service refuses for good is raised at once, with charged "no", the key, the request
    id and what to do.
    """
    fail(
        sandbox,
        status=status,
        body={"error": {"code": code, "message": "no", "type": "x"}},
        times=None,
    )
    async with open_session(sandbox) as session:
        with pytest.raises(APIStatusError) as refused:
            await session.submit(LINK, idempotency_key=KEY)
    error = pickle.loads(pickle.dumps(refused.value))
    assert (error.status, error.charged, error.idempotency_key) == (status, "no", KEY)
    assert error.request_id
    assert error.next_step
    assert sandbox.count("POST", SUBMIT) == 1


async def test_the_refusals_of_an_account_over_a_real_socket() -> None:
    """A key whose day is used up is told until when; one whose own limit is used up is not told to
    top up the account.
    """
    daily = Account(key="daily-key-000000001", daily_credits=10, reset_timezone="Asia/Shanghai")
    limited = Account(key="limited-key-0000001", token_credits=10)
    off = Account(key="off-key-0000000001", active=False, inactive_code="key_disabled")
    async with Sandbox(video="stub", speed=0, accounts=(daily, limited, off)) as sandbox:
        errors = []
        for account in (daily, limited, off):
            async with Session(account.key, base_url=sandbox.url) as session:
                with pytest.raises(APIStatusError) as refused:
                    await session.submit(LINK)
            errors.append(refused.value)
        assert sandbox.paid == 0
    assert [error.charged for error in errors] == ["no"] * 3
    assert is_daily_limit(errors[0])
    details = errors[0].details
    assert details is not None
    assert details.resets_at is not None
    assert details.resets_at > details.as_of
    assert details.resets_at.hour == 16
    assert "balance" in errors[1].next_step
    assert isinstance(errors[2], AuthenticationError)


async def test_a_refusal_after_a_lost_answer_proves_nothing(sandbox: Sandbox) -> None:
    """When the first try may have been accepted, the refusal of its replay does not make it "not
    charged".
    """
    fail(sandbox, "drop-after")
    fail(sandbox, status=402, after=1)
    sandbox.fail(Fault("refuse", method="GET", path="/v1/tasks", status=404, times=None))
    async with open_session(sandbox) as session:
        with pytest.raises(HappyHorseError) as error:
            await session.submit(LINK)
    assert error.value.charged == "unknown"
    assert sandbox.paid == 1


@pytest.mark.parametrize("code", ["internal_error", "something_new", ""])
async def test_an_error_inside_of_a_good_answer_is_no_proof_that_nothing_was_charged(
    sandbox: Sandbox, code: str
) -> None:
    """A gateway that puts the service's failure into an answer with status 200, after acceptance:
    the same key finds the task.
    """
    fail(
        sandbox,
        "answer-after",
        status=200,
        body={"error": {"code": code, "message": "no", "type": "api_error"}},
    )
    async with open_session(sandbox) as session:
        task = await session.submit(LINK, idempotency_key=KEY)
    assert [task.id] == [task.id for task in sandbox.tasks]


async def test_listeners_see_the_key_and_the_truth_about_money_at_each_try(
    sandbox: Sandbox,
) -> None:
    """The error of every try has the request's key, and says "unknown" as soon as one of the tries
    may have been accepted.
    """
    fail(sandbox, status=429)
    fail(sandbox, "drop-after", after=1)
    fail(sandbox, status=503, after=2)
    async with open_session(sandbox) as session:
        tries: list[Retrying] = []
        session.subscribe(tries.append, Retrying)
        await session.submit(LINK, idempotency_key=KEY)
    assert [(attempt.error.idempotency_key, attempt.error.charged) for attempt in tries] == [
        (KEY, "no"),
        (KEY, "unknown"),
        (KEY, "unknown"),
    ]
    assert sandbox.paid == 1


async def test_503_of_the_service_is_tried_as_often_as_the_policy_says(sandbox: Sandbox) -> None:
    """The service's own 503 is sent again with the same key, RetryPolicy.attempts times in all, and
    proves nothing: the end is an unknown outcome.
    """
    fail(sandbox, status=503, times=None)
    async with open_session(sandbox, retry=RetryPolicy(attempts=3, first_pause=0)) as session:
        failures: list[SubmissionFailed] = []
        session.subscribe(failures.append, SubmissionFailed)
        with pytest.raises(SubmissionOutcomeUnknownError) as error:
            await session.submit(LINK)
    assert sandbox.count("POST", SUBMIT) == 3
    assert isinstance(error.value.__cause__, InternalServerError)
    assert [failure.error for failure in failures] == [error.value]


async def test_a_lack_of_capacity_passes(sandbox: Sandbox) -> None:
    """A refusal that says that capacity lacks for the moment is tried again with the same key."""
    body = {"error": {"code": "model_unavailable", "message": "later", "type": "api_error"}}
    fail(sandbox, status=400, body=body, times=3)
    async with open_session(sandbox) as session:
        await session.submit(LINK)
    assert (sandbox.count("POST", SUBMIT), sandbox.paid) == (4, 1)


@pytest.mark.parametrize("status", [400, 402, 403, 404])
async def test_a_refusal_of_a_key_that_was_in_doubt_before_proves_nothing(
    sandbox: Sandbox, status: int
) -> None:
    """A key whose answer was lost is in doubt also for the next call with it, however it is
    refused then; so is one that the caller says was sent by an earlier process.
    """
    fail(sandbox, "drop-after")
    fail(sandbox, status=status, after=1, times=None)
    sandbox.fail(Fault("refuse", method="GET", path="/v1/tasks", status=404, times=None))
    async with open_session(sandbox, retry=RetryPolicy(replays=0)) as session:
        for _ in range(2):
            with pytest.raises(SubmissionOutcomeUnknownError):
                await session.submit(LINK, idempotency_key=KEY)
        with pytest.raises(SubmissionOutcomeUnknownError):
            await session._open().submitter.submit(
                ImageToVideo(LINK), idempotency_key="another-key-00001", resent=True
            )
        with pytest.raises(APIStatusError) as refused:
            await session.submit(LINK)
    assert refused.value.charged == "no", "a first sending that the service refuses"
    assert sandbox.paid == 1


async def test_a_429_does_not_count_as_a_try(sandbox: Sandbox) -> None:
    """429 answers are waited out, also more of them than RetryPolicy.attempts."""
    fail(sandbox, status=429, times=4)
    async with open_session(
        sandbox, retry=RetryPolicy(attempts=2, first_pause=0.001, longest_pause=0.002)
    ) as session:
        await session.submit(LINK)
    assert sandbox.count("POST", SUBMIT) == 5
    assert sandbox.paid == 1


async def test_patience_ends_a_wait_for_the_rate_limit(sandbox: Sandbox) -> None:
    """With RetryPolicy(patience=...), a submission that 429 answers would hold off for longer is
    given up, uncharged.
    """
    fail(sandbox, status=429, headers={"Retry-After": "120"}, times=None)
    async with open_session(sandbox, retry=RetryPolicy(patience=60)) as session:
        with pytest.raises(RateLimitError) as error:
            await session.submit(LINK)
    assert (error.value.charged, error.value.retry_after) == ("no", 120)


async def test_a_day_of_retry_after_does_not_stop_a_session(sandbox: Sandbox) -> None:
    """After one 429 that asks for a day, the service is asked again after the policy's longest
    pause; the event says until when submissions wait.
    """
    fail(sandbox, status=429, headers={"Retry-After": "86400"})
    policy = RetryPolicy(first_pause=0.001, longest_pause=0.002, jitter=0)
    async with open_session(sandbox, retry=policy) as session:
        throttled: list[Throttled] = []
        session.subscribe(throttled.append, Throttled)
        with anyio.fail_after(100):
            await session.submit(LINK)
            await session.submit(LINK)
    (event,) = throttled
    assert event.pause == 0.002
    assert event.until.tzinfo is not None
    assert abs((event.until - datetime.now(UTC)).total_seconds()) < 60
    assert sandbox.paid == 2


async def test_a_wait_for_the_rate_limit_ends_with_the_callers_timeout(sandbox: Sandbox) -> None:
    """A caller that gives up while the session pauses is let go at once,
    and nothing of it stays.
    """
    fail(sandbox, status=429, headers={"Retry-After": "500"})
    async with open_session(sandbox) as session:
        throttled = asyncio.Event()
        session.subscribe(lambda _: throttled.set(), Throttled)
        caller = asyncio.create_task(session.submit(LINK))
        await throttled.wait()
        await asyncio.sleep(0)
        caller.cancel()
        with anyio.fail_after(100), pytest.raises(asyncio.CancelledError):
            await caller
        assert (session.orphans, sandbox.paid) == ([], 0)


async def test_one_429_pauses_all_submitters(sandbox: Sandbox) -> None:
    """While the session pauses after a 429, no submission leaves; the event tells for how long and
    how many at once from then on.
    """
    fail(sandbox, status=429, headers={"Retry-After": "1"})
    async with open_session(sandbox, limits=Limits(max_submissions=8)) as session:
        throttled: list[Throttled] = []
        session.subscribe(throttled.append, Throttled)
        first = asyncio.create_task(session.submit(LINK))
        while not throttled:
            await anyio.lowlevel.checkpoint()
        others = [asyncio.create_task(session.submit(LINK)) for _ in range(5)]
        for _ in range(200):
            await anyio.lowlevel.checkpoint()
        assert sandbox.count("POST", SUBMIT) == 1, "all wait"
        await asyncio.gather(first, *others)
    assert (throttled[0].pause, throttled[0].concurrency) == (1.0, 4)
    assert sandbox.paid == 6


# --- turns ----------------------------------------------------------------------------------------


async def test_a_single_call_waits_for_one_slot_while_a_long_line_waits(sandbox: Sandbox) -> None:
    """A call that comes while submit_many has 10,000 requests to send is
    the next to leave but one.
    """
    async with open_session(sandbox, limits=Limits(max_submissions=1)) as session:
        left: list[str] = []
        session.subscribe(lambda event: left.append(event.request.prompt), Submitting)
        async with session.submit_many([ImageToVideo(LINK, prompt="many")] * 10_000) as submissions:
            async for _ in submissions:
                if len(left) >= 20:
                    break
            before = len(left)
            await session.submit(LINK, prompt="single")
            assert left.index("single") - before <= 1


async def test_groups_take_turns(sandbox: Sandbox) -> None:
    """Two fan-outs that run at the same time both get ahead."""
    async with open_session(sandbox, limits=Limits(max_submissions=2)) as session:
        left: list[str] = []
        session.subscribe(lambda event: left.append(event.request.prompt), Submitting)

        async def fan_out(name: str) -> None:
            async with session.submit_many([ImageToVideo(LINK, prompt=name)] * 40) as submissions:
                assert len([submission async for submission in submissions]) == 40

        await asyncio.gather(fan_out("a"), fan_out("b"))
        assert 10 <= left[:40].count("a") <= 30


async def test_no_more_than_the_limit_are_on_the_wire(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits(max_submissions=3) holds, and is used, however many callers there are."""
    fail(sandbox, "slow", seconds=0.005, times=None)
    on_wire, most = 0, 0
    async with open_session(sandbox, limits=Limits(max_submissions=3)) as session:
        api = session._open().api
        send = api.submit_once

        async def counted(*arguments: Any, **how: Any) -> Any:
            nonlocal on_wire, most
            on_wire += 1
            most = max(most, on_wire)
            try:
                return await send(*arguments, **how)
            finally:
                on_wire -= 1

        monkeypatch.setattr(api, "submit_once", counted)
        await asyncio.gather(*(session.submit(LINK) for _ in range(30)))
    assert most == 3


async def test_places_for_unfinished_tasks_become_free_although_nobody_waits(
    sandbox: Sandbox,
) -> None:
    """Limits(max_unfinished=2) holds, and its places become free when tasks end, also when nobody
    waits for those.
    """
    unfinished: list[int] = []

    def count(_: object) -> None:
        unfinished.append(sum(task.status in ("pending", "processing") for task in sandbox.tasks))
        if unfinished[-1] == 2:
            for task in sandbox.tasks:
                if task.status == "pending":
                    sandbox.end(task.id, "failed", error_code="service_error")

    async with open_session(sandbox, limits=Limits(max_unfinished=2)) as session:
        session.subscribe(count, Submitted)
        with anyio.fail_after(100):
            await asyncio.gather(*(session.submit(LINK) for _ in range(9)))
    assert max(unfinished) == 2
    assert sandbox.paid == 9


async def test_a_task_that_the_service_forgets_gives_its_place_back(sandbox: Sandbox) -> None:
    """A place is not lost for ever with a task that the service has not known for as long as the
    patience lasts.
    """
    polling = attrs.evolve(QUICK_POLLING, patience=0.05)
    limits = Limits(max_unfinished=1)
    async with open_session(sandbox, limits=limits, polling=polling) as session:
        await session.submit(LINK)
        not_found = {"error": {"code": "task_not_found", "message": "no", "type": "x"}}
        sandbox.fail(Fault("absent", times=None))
        sandbox.fail(
            Fault("refuse", method="GET", path="/v1/tasks", status=404, body=not_found, times=None)
        )
        sandbox.fail(
            Fault("refuse", method="GET", path="/v1/tasks/", status=404, body=not_found, times=None)
        )
        with anyio.fail_after(100):
            await session.submit(LINK)
    assert sandbox.paid == 2


async def test_a_replayed_task_has_one_place(sandbox: Sandbox) -> None:
    """The same key submitted twice takes one place among the unfinished tasks, not two."""
    async with open_session(sandbox, limits=Limits(max_unfinished=2)) as session:
        for _ in range(5):
            await session.submit(LINK, idempotency_key=KEY)
        with anyio.fail_after(100):
            await session.submit(LINK)
    assert sandbox.paid == 2


# --- many -----------------------------------------------------------------------------------------


async def test_one_bad_request_is_one_failed_submission(sandbox: Sandbox, session: Session) -> None:
    """Among many, a request that is no request and a file that is not there fail alone, each with
    its index.
    """
    requests: list[Any] = [
        ImageToVideo(LINK),
        "not a request",
        ImageToVideo("no/such/file.png"),
        ImageToVideo(LINK),
    ]
    async with session.submit_many(requests, ordered=True) as submissions:
        outcomes = [(submission.index, submission.ok) async for submission in submissions]
    assert outcomes == [(0, True), (1, False), (2, False), (3, True)]
    assert sandbox.paid == 2


async def test_whatever_a_request_raises_is_one_failed_submission(
    sandbox: Sandbox, session: Session, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is not ours, and a thing that cannot even be shown, fail alone: nothing was
    sent for them, and the others have their tasks.
    """

    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("not for your eyes")

    async def foreign(image: object) -> str:
        raise UnicodeError("no such letter")

    monkeypatch.setattr(session._open().uploader, "url_of", foreign)
    requests: list[Any] = [ImageToVideo(LINK), ImageToVideo(cat), Shy(), ImageToVideo(LINK)]
    async with session.submit_many(requests, ordered=True) as submissions:
        outcomes = [submission async for submission in submissions]
    assert [outcome.ok for outcome in outcomes] == [True, False, False, True]
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert [(error.charged, type(error.__cause__)) for error in failed] == [
        ("no", UnicodeError),
        ("no", type(None)),
    ]
    assert "got <Shy instance at" in str(failed[1])
    assert sandbox.paid == 2
    assert session._open().submitter._gate._unfinished == 2


async def test_an_exception_that_nobody_has_foreseen_leaves_the_outcome_open(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When something breaks on a response, the request has left: that is an unknown outcome, and no
    place is lost.
    """

    def broken(answer: object) -> None:
        raise KeyError("nobody thought of this")

    async with open_session(sandbox) as session:
        with monkeypatch.context() as patch:
            patch.setattr("happyhorse_async._rules.wire.decode_accepted", broken)
            with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
                await session.submit(LINK, idempotency_key=KEY)
        assert isinstance(unknown.value.__cause__, KeyError)
        assert session._open().submitter._gate._unfinished == 0
        assert (await session.submit(LINK, idempotency_key=KEY)).id == sandbox.tasks[0].id
    assert sandbox.paid == 1


async def test_many_that_were_not_opened_say_so(session: Session) -> None:
    """Iterating without `async with` is an error, not an end after nothing."""
    with pytest.raises(HappyHorseError, match="async with"):
        await anext(session.submit_many([ImageToVideo(LINK)]))


@pytest.mark.parametrize("ordered", [True, False])
async def test_several_may_share_the_submissions(
    sandbox: Sandbox, session: Session, ordered: bool
) -> None:
    """Several tasks that iterate over one submit_many share what it yields, and all of them end."""
    fail(sandbox, "slow", seconds=0.002, times=None)
    taken: list[int] = []

    async def consume() -> None:
        taken.extend([submission.index async for submission in submissions])

    async with session.submit_many([ImageToVideo(LINK)] * 40, ordered=ordered) as submissions:
        with anyio.fail_after(100):
            await asyncio.gather(*(consume() for _ in range(3)))
    assert sorted(taken) == list(range(40))


async def test_ordered_submissions_come_in_order(sandbox: Sandbox) -> None:
    """With ordered=True the submissions come in the order of the input, though their answers do
    not.
    """
    fail(sandbox, "slow", seconds=0.05, nth={1, 5})
    async with (
        open_session(sandbox, limits=Limits(max_submissions=4)) as session,
        session.submit_many(
            (ImageToVideo(LINK, duration=3 + number % 13) for number in range(60)), ordered=True
        ) as submissions,
    ):
        got = [(submission.index, submission.request.duration) async for submission in submissions]
    assert got == [(number, 3 + number % 13) for number in range(60)]


async def test_an_async_input_is_read_only_as_fast_as_submissions_are_taken(
    sandbox: Sandbox,
) -> None:
    """Endless input is no problem: it is read a bounded number of requests ahead."""
    read = 0

    async def endless() -> AsyncIterator[ImageToVideo]:
        nonlocal read
        while True:
            read += 1
            yield ImageToVideo(LINK)

    async with (
        open_session(sandbox, limits=Limits(max_submissions=5)) as session,
        session.submit_many(endless()) as submissions,
    ):
        for taken in range(1, 31):
            await anext(submissions)
            assert read <= taken + 11


async def test_an_error_of_the_input_reaches_the_caller_after_what_was_submitted(
    sandbox: Sandbox, session: Session
) -> None:
    """When the caller's own iterable raises, the submissions so far are handed over, and then its
    error, as it is.
    """

    def broken() -> Any:
        yield ImageToVideo(LINK)
        raise ZeroDivisionError

    async with session.submit_many(broken()) as submissions:
        assert (await anext(submissions)).ok
        with pytest.raises(ZeroDivisionError):
            await anext(submissions)
    assert sandbox.paid == 1


@pytest.mark.parametrize("ordered", [False, True])
async def test_an_input_that_was_cancelled_is_an_error(
    session: Session, sandbox: Sandbox, ordered: bool
) -> None:
    """When it awaits a task that somebody has cancelled, the submissions so far are handed over,
    and then an error says that there may be more: nobody has cancelled who iterates.
    """
    feeder = asyncio.ensure_future(asyncio.Event().wait())
    feeder.cancel()

    async def fed() -> AsyncIterator[ImageToVideo]:
        for seed in (1, 2, 3):
            yield ImageToVideo(LINK, seed=seed)
        await feeder

    async with session.submit_many(fed(), ordered=ordered) as submissions:
        assert all([(await anext(submissions)).ok for _ in range(3)])
        with pytest.raises(HappyHorseError, match="broke off") as caught:
            await anext(submissions)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert sandbox.paid == 3
    assert session.orphans == []


async def test_an_error_of_the_body_is_not_wrapped(session: Session) -> None:
    """What the body of `async with` raises comes out as it is, not inside of an exception group."""

    async def body() -> None:
        async with session.submit_many([ImageToVideo(LINK)] * 10) as submissions:
            async for _ in submissions:
                raise KeyError

    with pytest.raises(KeyError):
        await body()


@pytest.mark.slow
async def test_thousands_of_callers_at_once_all_get_their_task(sandbox: Sandbox) -> None:
    """3,000 calls started at once on one session all succeed: waiting for a slot is not held
    against a time limit.
    """
    async with open_session(sandbox, timeouts=Timeouts(submit=2), polling=QUICK_POLLING) as session:
        tasks = await asyncio.gather(*(session.submit(LINK) for _ in range(3000)))
    assert len({task.id for task in tasks}) == 3000 == sandbox.paid


async def test_a_single_call_does_not_wait_behind_all_that_is_sent_again(
    anyio_backend: str,
) -> None:
    """After a storm of 429 many are sent again: a new single call takes turns with them."""
    gate = Gate(Limits(max_submissions=1), on_full=lambda: None)
    order: list[str] = []

    async def pass_through(name: str, *, again: bool) -> None:
        await gate.enter(again=again)
        order.append(name)
        gate.leave()

    assert gate.try_enter()
    resent = [
        asyncio.create_task(pass_through(f"resent {number}", again=True)) for number in range(10)
    ]
    await asyncio.sleep(0)
    single = asyncio.create_task(pass_through("single", again=False))
    await asyncio.sleep(0)
    gate.leave()
    await asyncio.gather(*resent, single)
    assert order.index("single") <= 1


async def test_a_frame_in_a_private_network_is_refused_before_anything_is_sent(
    sandbox: Sandbox, session: Session
) -> None:
    """The service would take the request and could not fetch the frame. A key that was sent before
    is sent again all the same.
    """
    request = ImageToVideo("https://nas.local/cat.png")
    with pytest.raises(InvalidRequestError, match=r"image: .* 'nas.local' is one") as caught:
        await session.submit(request)
    assert caught.value.charged == "no"
    assert await session.problems(request) == list(caught.value.problems)
    assert sandbox.requests == []
    submitter = session._open().submitter
    again = asyncio.ensure_future(submitter.submit(request, idempotency_key=KEY, resent=True))
    async with asyncio.timeout(100):
        while not sandbox.requests:
            await anyio.lowlevel.checkpoint()
    again.cancel()
    await asyncio.wait([again])
