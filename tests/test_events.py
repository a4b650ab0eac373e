"""One stream of events, which cannot disturb the work."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from happyhorse_async import Session
from happyhorse_async._dispatcher import Events
from happyhorse_async._models import Task
from happyhorse_async.events import (
    Began,
    Completed,
    Downloading,
    Ended,
    Event,
    Saved,
    Submitted,
    Submitting,
    Throttled,
    Updated,
)
from happyhorse_async.sandbox import Sandbox

LINK = "https://cdn.example.com/cat.png"
NOW = datetime(2026, 10, 10, 12, 0, 0, tzinfo=UTC)


def test_listeners_get_the_kinds_that_they_asked_for_in_order() -> None:
    """A listener for a kind gets its subclasses as well; one without kinds gets everything."""
    events, everything, updates = Events(), list[Event](), list[Event]()
    assert not events
    events.subscribe(everything.append)
    stop = events.subscribe(updates.append, Updated)
    assert events
    done, slow = (
        Completed(task=Task(id="t", status="completed")),
        Throttled(pause=1, until=NOW, concurrency=2),
    )
    events.emit(slow)
    events.emit(done)
    stop()
    stop()
    events.emit(done)
    assert everything == [slow, done, done]
    assert updates == [done]


def test_a_listener_that_raises_is_logged_and_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broken progress bar must not be able to lose a paid task."""
    events, heard = Events(), list[Event]()

    def broken(event: Event) -> None:
        raise RuntimeError("a broken bar")

    events.subscribe(broken)
    events.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        events.emit(Throttled(pause=1, until=NOW, concurrency=2))
    assert len(heard) == 1
    assert [record.__dict__["action"] for record in caplog.records] == ["listener_failed"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Submitting, Submitted, Updated, Downloading, Saved, Began])
async def test_no_error_of_a_listener_ends_paid_work(
    session: Session, sandbox: Sandbox, tmp_path: Path, kind: type[Event]
) -> None:
    """Neither does a `CancelledError`, as of a cancelled future that a listener looks at. It would
    end the wait of all callers, or leave a paid task that nobody knows.
    """

    def broken(event: Event) -> None:
        raise asyncio.CancelledError

    session.subscribe(broken, kind)
    making = asyncio.ensure_future(session.generate(LINK, save_to=tmp_path / "cat.mp4"))
    while not sandbox.tasks and not making.done():
        await asyncio.sleep(0)
    sandbox.finish()
    async with asyncio.timeout(100):
        assert (await making).path.exists()
    assert sandbox.paid == 1


def test_an_end_is_told_to_the_last_listener_first() -> None:
    """As context managers nest: who has come later leaves sooner, and finds what it had found."""
    events, told = Events(), list[tuple[str, str]]()
    for name in ("outer", "inner"):
        events.subscribe(lambda event, name=name: told.append((name, type(event).__name__)), Began)
    with events.work("call", url="u"):
        pass
    assert told == [("outer", "Began"), ("inner", "Began"), ("inner", "Ended"), ("outer", "Ended")]


def test_a_subscription_is_ended_alone() -> None:
    """A listener that was subscribed twice is heard once more when one of the two has ended."""
    events, heard = Events(), list[Event]()
    listener = heard.append
    stop = events.subscribe(listener)
    events.subscribe(listener)
    stop()
    stop()
    events.emit(Throttled(pause=1, until=NOW, concurrency=2))
    assert len(heard) == 1


def test_beginnings_and_ends_go_to_those_who_name_them() -> None:
    """There are many, so a listener to everything gets none of them, and nobody makes them for
    him; one that names them gets both, with what was learned and why it failed.
    """
    events, everything, named = Events(), list[Event](), list[Began]()
    events.subscribe(everything.append)
    with events.work("call", url="u"):
        assert not events.traced
    stop = events.subscribe(named.append, Began)

    def fail() -> None:
        with events.work("call", task_id="t", url="u") as facts:
            facts["status"] = 200
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    stop()
    with events.work("call", url="u"):
        assert not events.traced
    began, ended = named
    assert everything == []
    assert (began.work, began.task_id, dict(began.facts)) == ("call", "t", {"url": "u"})
    assert isinstance(ended, Ended)
    assert ended.number == began.number
    assert dict(ended.facts) == {"url": "u", "status": 200}
    assert isinstance(ended.error, KeyError)
    assert ended.seconds >= 0
