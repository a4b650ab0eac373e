"""Which download goes first, and what is said of links that are about to die."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest

from happyhorse_async import Limits, LinkExpiredError, Task, Video
from happyhorse_async._concurrency import Slots
from happyhorse_async.events import LinkExpiring, Saved
from happyhorse_async.sandbox import Sandbox
from tests.downloader.conftest import Kit, names_in

pytestmark = pytest.mark.anyio


async def test_links_that_die_first_are_fetched_first(folder: Path) -> None:
    """100 tasks, room for 5, 20 links with 3 s of life: all are saved, the dying ones before the
    others.

    The sandbox's time passes with each saved video, 0.1 s, so that a wrong order loses videos for
    certain.
    """
    async with (
        Sandbox(video="stub", speed=0, link_seconds=103) as sandbox,
        Kit(sandbox, limits=Limits(max_downloads=5)) as kit,
    ):
        dying = [await dated(kit, number, left=3.0) for number in range(20)]
        sandbox.advance(100)
        fresh = [await dated(kit, 20 + number, left=1000.0 + number) for number in range(80)]
        saved: list[str] = []

        def pass_time(event: Saved) -> None:
            saved.append(str(event.video.task_id))
            sandbox.advance(0.1)

        kit.events.subscribe(pass_time, Saved)
        running = await all_waiting(kit, [*fresh, *dying], folder)
        await asyncio.gather(*running)
    assert len(names_in(folder)) == 100
    # The last four dying ones share the room with the first of the others.
    assert {task.id for task in dying} <= {*saved[:24]}


async def all_waiting(kit: Kit, tasks: list[Task], folder: Path) -> list[asyncio.Task[Video]]:
    """Start downloads while there is no room, and make room when all of them wait for it."""
    async with AsyncExitStack() as room:
        for _ in range(kit.limits.max_downloads):
            await room.enter_async_context(kit.downloader._slots.hold(0.0))
        running = [
            asyncio.create_task(kit.downloader.download(task, f"{folder}/")) for task in tasks
        ]
        while len(kit.downloader._slots._waiting) < len(tasks):
            await asyncio.sleep(0)
    return running


async def dated(kit: Kit, number: int, *, left: float) -> Task:
    """Give a finished task whose link is known to die so many seconds from now."""
    return attrs.evolve(
        await kit.task(number), expires_at=datetime.now(UTC) + timedelta(seconds=left)
    )


async def test_a_link_that_dies_in_the_queue_is_reported(folder: Path) -> None:
    """What cannot be saved is an error of its own, and harms no other."""
    async with (
        Sandbox(video="stub", speed=0, link_seconds=3) as sandbox,
        Kit(sandbox, limits=Limits(max_downloads=1)) as kit,
    ):
        # By our clock it has just died, however long these lines take; by the host's a second ago.
        gone = await dated(kit, 0, left=0.0)
        sandbox.advance(4)
        good = await dated(kit, 1, left=3.0)
        outcomes = await asyncio.gather(
            *(kit.downloader.download(task, f"{folder}/") for task in (gone, good)),
            return_exceptions=True,
        )
    assert isinstance(outcomes[0], LinkExpiredError)
    assert names_in(folder) == [f"{good.id}.mp4"]


async def test_a_link_with_little_time_is_warned_about(kit: Kit, folder: Path) -> None:
    """An hour before a link can die, if its video is not here by then, there is an event; otherwise
    there is none.
    """
    soon, later = await dated(kit, 0, left=600), await dated(kit, 1, left=86_000)
    kit.sandbox.advance(1)
    async with kit.downloader._slots.hold(0.0):
        for task in (soon, later):
            await kit.downloader.download(task, f"{folder}/")
    warnings = [event for event in kit.heard if isinstance(event, LinkExpiring)]
    assert [event.task_id for event in warnings] == [soon.id]
    assert 0 < warnings[0].seconds_left <= 600


async def test_places_are_given_by_urgency(anyio_backend: str) -> None:
    """Of those who wait the most urgent goes first; equals go in order of arrival; nobody is
    forgotten.
    """
    slots, order = Slots(1), []

    async def enter(urgency: float, name: str) -> None:
        async with slots.hold(urgency):
            order.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for urgency, name in (
            (5, "holder"),
            (9, "late"),
            (3, "third"),
            (1, "first"),
            (3, "fourth"),
            (2, "second"),
        ):
            group.create_task(enter(urgency, name))
    assert order == ["holder", "first", "second", "third", "fourth", "late"]
    await enter(0, "again")
    assert order[-1] == "again"


async def test_a_place_given_to_someone_cancelled_goes_to_the_next(anyio_backend: str) -> None:
    """Also when the cancellation comes at the very moment at which the place was given."""
    slots, entered = Slots(1), []

    async def enter(name: str) -> None:
        async with slots.hold(0.0):
            entered.append(name)

    holder = slots.hold(0.0)
    await holder.__aenter__()
    waiting = [asyncio.create_task(enter(name)) for name in "abc"]
    await asyncio.sleep(0)
    await holder.__aexit__(None, None, None)
    waiting[0].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert entered == ["b", "c"]


async def test_a_place_is_not_given_to_who_is_closed_in_the_middle(anyio_backend: str) -> None:
    """A coroutine that nobody goes on with, and closes, waits for nothing any more."""
    slots = Slots(1)
    async with slots.hold(0.0):
        left = slots._enter(0.0)
        left.send(None)
        left.close()
    async with asyncio.timeout(100):
        await slots._enter(0.0)
