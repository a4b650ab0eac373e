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
    assert not closing


async def test_closing_ends_every_pause_at_once() -> None:
    """However long they would be, those that run and those to come."""
    closing = Closing()
    pauses = [asyncio.ensure_future(closing.pause(seconds)) for seconds in (3600, float("inf"))]
    await asyncio.sleep(0)
    closing.begin()
    closing.begin()
    assert await asyncio.gather(*pauses) == [False, False]
    assert await closing.pause(3600) is False
    assert closing


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
