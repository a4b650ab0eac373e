"""The table of a submission's stages, and that submissions keep to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from happyhorse_async import (
    HappyHorseError,
    RetryPolicy,
    Session,
    SubmissionOutcomeUnknownError,
)
from happyhorse_async._submitter import Earlier, in_flight
from happyhorse_async._submitter.in_flight import _STEPS, STAGES, InFlight, SubmissionStage
from happyhorse_async.sandbox import Features, Sandbox
from tests.submitter import faults
from tests.submitter.test_earlier import KEY, REQUEST, again

ANOTHER = "another-key-0000001"

pytestmark = pytest.mark.anyio


def test_every_stage_stands_in_the_table_and_every_stage_that_goes_on_has_its_step() -> None:
    """No stage is left out; an end has neither a step nor a stage after it."""
    assert set(STAGES) == set(SubmissionStage)
    assert {stage for stage in SubmissionStage if not STAGES[stage]} == set(SubmissionStage) - set(
        _STEPS
    )
    ends = {SubmissionStage.ACCEPTED, SubmissionStage.REFUSED, SubmissionStage.IN_DOUBT}
    assert ends == set(SubmissionStage) - set(_STEPS)


def test_an_end_can_be_reached_from_every_stage() -> None:
    """No submission can get into a circle that it cannot leave."""
    for stage in SubmissionStage:
        reached = {stage}
        while not reached >= (more := {after for one in reached for after in STAGES[one]}):
            reached |= more
        assert any(not STAGES[one] for one in reached)


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[SubmissionStage, SubmissionStage]]:
    """The steps from stage to stage that submissions take."""
    steps: Counter[tuple[SubmissionStage, SubmissionStage]] = Counter()
    step: Callable[[InFlight, SubmissionStage], None] = InFlight._to

    def noted(sub: InFlight, stage: SubmissionStage) -> None:
        steps[sub.stage, stage] += 1
        step(sub, stage)

    monkeypatch.setattr(InFlight, "_to", noted)
    return steps


async def test_every_step_of_the_table_is_taken(
    walked: Counter[tuple[SubmissionStage, SubmissionStage]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over all faults, and with callers that are cancelled and sessions that close, exactly the
    steps of the table happen.
    """
    monkeypatch.setattr(in_flight, "FRESH", 2.0)
    for row in faults.ROWS:
        await faults.run(row)
    deaf = Features(idempotency=False)
    async with Sandbox(video="stub", speed=0, features=deaf) as sandbox:
        sandbox.fail(faults.for_ever("drop-after"))
        await closed_while_it_pauses(sandbox)
        await sent_by_an_earlier_process(sandbox)
    async with Sandbox(video="stub", speed=0) as sandbox:
        await sent_by_an_earlier_process(sandbox)
    async with Sandbox(video="stub", speed=0) as sandbox, session_with(sandbox) as session:
        await again(session)  # the list shows nothing that fits, so it is sent
    async with Sandbox(video="stub", speed=0) as sandbox:
        await taken_on_a_guess(sandbox)
        await answered_with_the_task(sandbox)
        await grown_old_before_its_permit(sandbox, monkeypatch)
        monkeypatch.setattr(in_flight, "KEY_LIFE", -1.0)
        await grown_old_on_the_way(sandbox)
    assert set(walked) == {(one, after) for one in SubmissionStage for after in STAGES[one]}


def session_with(sandbox: Sandbox, **policy: Any) -> Session:
    """A session with this retry policy."""
    return Session(
        sandbox.key,
        base_url=sandbox.url,
        files_url=sandbox.files_url,
        retry=RetryPolicy(**{"first_pause": 0.001, "longest_pause": 0.002, **policy}),
    )


async def sent_by_an_earlier_process(sandbox: Sandbox) -> None:
    """Submit a key again that an earlier process sent: with replays, and without any."""
    for replays in (1, 0):
        sandbox.fail(faults.for_ever("drop-after"))
        async with session_with(sandbox, replays=replays) as session:
            with suppress(SubmissionOutcomeUnknownError):
                await session.submit(REQUEST, idempotency_key=KEY)
        sandbox.clear_faults()
        async with session_with(sandbox, replays=replays) as session:
            with suppress(SubmissionOutcomeUnknownError):
                await again(session)
            # By now the service may have shown that it keeps keys.
            with suppress(SubmissionOutcomeUnknownError):
                await again(session)


async def taken_on_a_guess(sandbox: Sandbox) -> None:
    """Lose a response, and take the single task that fits: at once, and in another session; then be
    answered with that task for another key.
    """
    sandbox.fail(faults.on_submit("drop-after"))
    async with session_with(sandbox, replays=0, adopt="single") as session:
        await session.credits()
        task = await session.submit(REQUEST, idempotency_key=ANOTHER)
    earlier = Earlier(claimed=lambda task_id: task_id != task.id)
    async with session_with(sandbox, replays=0, adopt="single") as session:
        await again(session, ANOTHER, earlier)
        body = {"id": task.id, "status": "pending"}
        sandbox.fail(faults.on_submit("refuse", status=200, body=body))
        with pytest.raises(SubmissionOutcomeUnknownError):
            await session.submit(REQUEST)


async def answered_with_the_task(sandbox: Sandbox) -> None:
    """Ask a service that looks at the key alone."""
    (task,) = [task for task in sandbox.tasks if task.idempotency_key == ANOTHER]
    answer = {"id": task.id, "status": "pending", "created": 1}  # long before it is asked
    sandbox.fail(faults.on_submit("refuse", status=200, body=answer))
    async with session_with(sandbox) as session:
        await again(session, ANOTHER)


async def grown_old_on_the_way(sandbox: Sandbox) -> None:
    """Lose a response, and take so long that the service may have forgotten the key."""
    sandbox.fail(faults.on_submit("drop-after"))
    async with session_with(sandbox) as session:
        await session.submit(REQUEST)


async def grown_old_before_its_permit(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lose a response, and get the permit to send it again only when the key has grown old."""
    before = sandbox.paid

    async def permit() -> None:
        if sandbox.paid > before:
            monkeypatch.setattr(in_flight, "KEY_LIFE", -1.0)

    sandbox.fail(faults.on_submit("drop-after"))
    async with session_with(sandbox) as session:
        session._open().submitter.ask_before_sending(permit)
        await session.submit(REQUEST)


async def closed_while_it_pauses(sandbox: Sandbox) -> None:
    """Close a session between a lost answer and the replay, and before a first sending."""
    async with session_with(sandbox, first_pause=60, longest_pause=60) as session:
        lost = asyncio.create_task(session.submit(faults.LINK))
        while not sandbox.paid:
            await asyncio.sleep(0)
        while not session._open().submitter._in_flight:
            await asyncio.sleep(0)
        (sub,) = session._open().submitter._in_flight
        while sub.stage is not SubmissionStage.PAUSING:
            await asyncio.sleep(0)
        session._open().submitter._gate.hold(0, None, 60.0)
        waiting = asyncio.create_task(session.submit(faults.LINK))
        while len(session._open().submitter._in_flight) < 2:
            await asyncio.sleep(0)
    _, turned_away = await asyncio.gather(lost, waiting, return_exceptions=True)
    assert isinstance(turned_away, HappyHorseError)
    assert turned_away.charged == "no"
