"""Whose is it? A listener finds the caller of every event: in the context, or by key and tag."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path

import pytest

from happyhorse_async import HappyHorseError, Limits, Session
from happyhorse_async._dispatcher import MOST_ORIGINS, Events
from happyhorse_async._models import Task
from happyhorse_async.events import (
    Completed,
    Downloading,
    Event,
    Orphaned,
    Saved,
    SubmissionFailed,
    Submitted,
    Submitting,
    Uploaded,
)
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import PHOTOS, open_session

pytestmark = pytest.mark.anyio

LINK = "https://cdn.example.com/cat.png"
CALLER: ContextVar[str | None] = ContextVar("caller", default=None)


@pytest.fixture
async def running() -> AsyncIterator[Sandbox]:
    """The service on a clock that runs a thousand times as fast."""
    async with Sandbox(video="stub", speed=1000, task_seconds=60) as sandbox:
        yield sandbox


def heard_by(session: Session) -> list[tuple[str | None, Event]]:
    """Note each event with the caller whose context it comes in."""
    heard: list[tuple[str | None, Event]] = []
    session.subscribe(lambda event: heard.append((CALLER.get(), event)))
    return heard


async def test_three_callers_are_told_apart(running: Sandbox, tmp_path: Path) -> None:
    """What is done for a caller comes in its context; what is done for all comes in nobody's, and
    its key and tag are those of the caller.
    """

    async def call(session: Session, name: str) -> None:
        CALLER.set(name)
        photo = PHOTOS / f"{name}.jpg"
        await session.generate(photo, save_to=tmp_path / f"{name}.mp4", tag=name)

    names = sorted(path.stem for path in PHOTOS.glob("*.jpg"))[:3]
    async with open_session(running) as session:
        heard = heard_by(session)
        await asyncio.gather(*(asyncio.create_task(call(session, name)) for name in names))
    keys = {event.tag: event.idempotency_key for _, event in heard if isinstance(event, Submitted)}
    assert sorted(keys) == names
    own = (Uploaded, Submitting, Submitted, Downloading, Saved)
    for caller, event in heard:
        assert event.idempotency_key == keys[event.tag]
        assert caller == (event.tag if isinstance(event, own) else None), event
    assert {type(event) for _, event in heard} >= {*own, Completed}


async def test_who_comes_first_does_not_colour_what_is_done_for_all(sandbox: Sandbox) -> None:
    """The watcher of places that a cancelled caller left, and the reader that it started, have no
    context of a caller.
    """
    async with open_session(sandbox, limits=Limits(max_unfinished=1)) as session:
        heard = heard_by(session)
        CALLER.set("first")
        first = await session.submit(LINK, tag=1)
        sandbox.finish(first.id)
        CALLER.set("second")
        await session.submit(LINK, tag=2)  # its place is free once somebody has seen the first end
    ends = [(caller, event.tag) for caller, event in heard if isinstance(event, Completed)]
    assert ends == [(None, 1)]


async def test_a_cancelled_caller_keeps_its_submission_in_its_context(sandbox: Sandbox) -> None:
    """What outlives its caller is still the caller's: the events of an orphan tell whose it was."""
    sandbox.fail(Fault("slow", path="/v1/videos*", seconds=0.05))
    async with open_session(sandbox) as session:
        heard = heard_by(session)
        CALLER.set("gone")
        work = asyncio.create_task(session.submit(LINK, tag="order 7"))
        while not sandbox.requests:
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()
    (caller, orphaned) = next(pair for pair in heard if isinstance(pair[1], Orphaned))
    assert (caller, orphaned.tag) == ("gone", "order 7")
    assert orphaned.idempotency_key == session.orphans[0].idempotency_key


async def test_a_refusal_carries_the_tag(sandbox: Sandbox, session: Session) -> None:
    """A submission that fails is told apart as well."""
    heard = heard_by(session)
    sandbox.fail(Fault("refuse", path="/v1/videos*", status=402))
    with pytest.raises(HappyHorseError):
        await session.submit(LINK, tag={"order": 7})
    failed = next(event for _, event in heard if isinstance(event, SubmissionFailed))
    assert failed.tag == {"order": 7}


async def test_a_task_that_is_found_again_can_have_a_tag(running: Sandbox) -> None:
    """Another process gives the tag anew; the handle and the task's events have it."""
    async with open_session(running) as first:
        task_id = (await first.submit(LINK)).id
    async with open_session(running) as second:
        heard = heard_by(second)
        handle = second.task(task_id, tag="again")
        assert handle.tag == "again"
        await handle.wait()
    assert {event.tag for _, event in heard} == {"again"}
    assert {event.task_id for _, event in heard} == {task_id}


def test_of_very_many_tasks_the_newest_are_remembered() -> None:
    """A session that lives for months does not grow by a memory of whose each task was."""
    events, heard = Events(), list[Event]()
    events.subscribe(heard.append)
    for number in range(MOST_ORIGINS + 10):
        events.emit(Submitted(task=Task(id=f"t{number}", status="pending"), idempotency_key="k"))
    heard.clear()
    for number in (0, MOST_ORIGINS + 9):
        events.emit(Completed(task=Task(id=f"t{number}", status="completed")))
    assert [event.idempotency_key for event in heard] == [None, "k"]
