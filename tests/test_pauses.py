"""A pause ends when its time is over, or when its owner closes."""

from __future__ import annotations

import asyncio

import pytest

from happyhorse_async._concurrency import Closing

pytestmark = pytest.mark.anyio


async def test_a_pause_ends_with_its_time() -> None:
    """The owner is still open then, and nothing is remembered of it."""
    closing = Closing()
    assert await closing.pause(0) is True
    await closing.rest(0)
    assert closing._pauses == set()


async def test_closing_ends_every_pause_at_once() -> None:
    """However long they would be, those that run and those to come."""
    closing = Closing()
    pauses = [asyncio.ensure_future(closing.pause(seconds)) for seconds in (3600, float("inf"))]
    await asyncio.sleep(0)
    closing.begin()
    closing.begin()
    assert await asyncio.gather(*pauses) == [False, False]
    assert await closing.pause(3600) is False


async def test_closing_ends_rests_and_limits_with_the_owners_own_error() -> None:
    """A limit of its own time stays a time-out; what closing ends is none."""
    closing = Closing(LookupError)
    with pytest.raises(TimeoutError):
        async with closing.limit(0.0):
            await asyncio.sleep(3600)
    rest = asyncio.ensure_future(closing.rest(3600))

    async def limited() -> None:
        async with closing.limit(3600):
            await asyncio.sleep(3600)

    work = asyncio.ensure_future(limited())
    await asyncio.sleep(0)
    closing.begin()
    for ended in (rest, work):
        with pytest.raises(LookupError):
            await ended
    with pytest.raises(LookupError):
        await limited()
    assert closing._limits == set()


async def test_a_cancelled_pause_leaves_nothing_behind() -> None:
    """The caller's cancellation passes, and closing afterwards finds nobody."""
    closing = Closing()
    pause = asyncio.ensure_future(closing.pause(3600))
    await asyncio.sleep(0)
    pause.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pause
    closing.begin()
    assert closing._pauses == set()
