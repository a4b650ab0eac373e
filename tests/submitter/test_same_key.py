"""One key is one request at a time, one reservation and one task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from happyhorse_async import (
    Budget,
    BudgetExceededError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    Limits,
    RetryPolicy,
    SubmissionOutcomeUnknownError,
)
from happyhorse_async.events import SubmissionFailed, Submitted
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
LINK = "https://example.com/frame.png"
KEY = "a-key-of-my-own-0001"


@pytest.fixture
async def deaf(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service without idempotency keys, whose tasks do not end."""
    features = Features(idempotency=False)
    async with Sandbox(video="stub", speed=0, features=features) as sandbox:
        yield sandbox


def fail(sandbox: Sandbox, action: str = "refuse", **details: Any) -> Fault:
    """Let submissions go wrong."""
    return sandbox.fail(Fault(action, method="POST", path=SUBMIT, **details))


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_same_key_is_paid_once_whatever_the_service_keeps(
    deaf: Sandbox, at_once: bool
) -> None:
    """Three calls with one key, at once or in turn, are one request, one task and one reservation,
    also at a service without keys.
    """
    async with open_session(deaf, budget=Budget(credits=100)) as session:
        events: list[Submitted] = []
        session.subscribe(events.append, Submitted)
        reserved = []
        if at_once:
            tasks = await asyncio.gather(
                *(session.submit(LINK, idempotency_key=KEY) for _ in range(3))
            )
        else:
            tasks = [await session.submit(LINK, idempotency_key=KEY) for _ in range(3)]
        reserved.append(session._open().budget.reserved)
        await session.submit(LINK)
        reserved.append(session._open().budget.reserved)
    assert {task.id for task in tasks} == {deaf.tasks[0].id}
    assert [event.replayed for event in events] == [False, True, True, False]
    assert deaf.count("POST", SUBMIT) == deaf.paid == 2
    assert reserved[1] == 2 * reserved[0] > 0


async def test_the_same_key_with_an_upload_is_one_task(deaf: Sandbox, cat: Path) -> None:
    """A local first frame is the same body each time: it is uploaded once."""
    async with open_session(deaf) as session:
        first = await session.submit(cat, idempotency_key=KEY)
        second = await session.submit(cat.read_bytes(), idempotency_key=KEY)
    assert (first.id, deaf.paid) == (second.id, 1)


@pytest.mark.parametrize("at_once", [True, False])
async def test_another_request_under_a_key_of_this_session_is_not_sent(
    deaf: Sandbox, at_once: bool
) -> None:
    """A service without keys would be paid for it, one with keys would refuse it:
    it never leaves.
    """
    async with open_session(deaf) as session:
        first = asyncio.ensure_future(session.submit(LINK, idempotency_key=KEY))
        if not at_once:
            await first
        await asyncio.sleep(0)
        with pytest.raises(IdempotencyConflictError) as conflict:
            await session.submit(LINK, duration=9, idempotency_key=KEY)
        await first
    assert (conflict.value.charged, conflict.value.idempotency_key) == ("no", KEY)
    assert deaf.paid == 1


async def test_what_is_in_doubt_is_in_doubt_for_all_who_wait(deaf: Sandbox) -> None:
    """Three calls at once whose responses are lost send no more than one would; each is told in an
    error of its own. A call that comes later asks again.
    """
    fail(deaf, "drop-after", times=2)
    retry = RetryPolicy(first_pause=0.001, longest_pause=0.002)
    async with open_session(deaf, retry=retry) as session:
        failures: list[SubmissionFailed] = []
        session.subscribe(failures.append, SubmissionFailed)
        results = await asyncio.gather(
            *(session.submit(LINK, idempotency_key=KEY) for _ in range(3)), return_exceptions=True
        )
        assert len({id(error) for error in results}) == 3
        for error in results:
            assert isinstance(error, SubmissionOutcomeUnknownError)
            assert error.candidates == tuple(task.id for task in reversed(deaf.tasks))
        assert [failure.error for failure in failures] == results
        assert deaf.count("POST", SUBMIT) == 2
        await session.submit(LINK, idempotency_key=KEY)
    assert deaf.count("POST", SUBMIT) == 3


async def test_after_a_refusal_the_next_one_takes_its_turn(sandbox: Sandbox) -> None:
    """A key that was certainly refused is free again: whoever waited sends it."""
    fail(sandbox, status=402)
    async with open_session(sandbox) as session:
        first, second = await asyncio.gather(
            *(session.submit(LINK, idempotency_key=KEY) for _ in range(2)), return_exceptions=True
        )
    assert isinstance(first, InsufficientCreditsError)
    assert not isinstance(second, BaseException)
    assert sandbox.paid == 1


async def test_a_cancelled_caller_hands_its_key_on(sandbox: Sandbox) -> None:
    """When the first caller is cancelled, those who wait get its task if it was paid for, and else
    send the key themselves; a cancelled one of them disturbs nobody.
    """
    fail(sandbox, "slow", seconds=0.1)
    async with open_session(sandbox, limits=Limits(max_submissions=1)) as session:
        first = asyncio.create_task(session.submit(LINK, idempotency_key=KEY))
        while not sandbox.paid:
            await anyio.lowlevel.checkpoint()
        waiting = [asyncio.create_task(session.submit(LINK, idempotency_key=KEY)) for _ in range(3)]
        queued = asyncio.create_task(session.submit(LINK, idempotency_key="another-key-0000001"))
        await asyncio.sleep(0)
        after = asyncio.create_task(session.submit(LINK, idempotency_key="another-key-0000001"))
        await asyncio.sleep(0)
        first.cancel()
        waiting[0].cancel()
        queued.cancel()
        results = await asyncio.gather(first, *waiting, queued, after, return_exceptions=True)
        cancelled = [isinstance(result, asyncio.CancelledError) for result in results]
        assert cancelled == [True, True, False, False, True, False]
        ids = [result.id for result in results if not isinstance(result, BaseException)]
        assert ids == [sandbox.tasks[0].id, sandbox.tasks[0].id, sandbox.tasks[1].id]
        assert session._open().submitter._turns == {}
    assert sandbox.paid == 2


async def test_a_key_that_does_not_fit_into_the_budget_is_free_again(sandbox: Sandbox) -> None:
    """A submission that never left keeps no one else with its key from being sent."""
    async with open_session(sandbox, budget=Budget(credits=1)) as session:
        for _ in range(2):
            with pytest.raises(BudgetExceededError):
                await session.submit(LINK, idempotency_key=KEY)
        assert session._open().submitter._turns == {}
    assert sandbox.paid == 0
