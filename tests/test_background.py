"""Background work has an owner and ends with it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from happyhorse_async._concurrency import Background

pytestmark = pytest.mark.anyio


async def test_closing_ends_all_work_and_may_be_done_twice() -> None:
    """Work that would run for ever is cancelled and awaited, so that its cleanup has run when
    aclose returns.
    """
    background, cleaned = Background(), list[int]()

    async def forever(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    tasks = [background.start(forever(number), name="forever") for number in range(3)]
    await asyncio.sleep(0)
    assert len(background) == 3
    await background.aclose()
    await background.aclose()
    assert sorted(cleaned) == [0, 1, 2]
    assert all(task.cancelled() for task in tasks)
    assert len(background) == 0


async def test_nothing_starts_after_closing() -> None:
    """Work that comes too late is refused and leaves no coroutine behind."""
    background = Background()
    await background.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        background.start(asyncio.sleep(0), name="late")


async def test_an_error_in_the_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing fails silently."""
    background = Background()

    async def broken() -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR):
        await asyncio.wait([background.start(broken(), name="broken")])
        await asyncio.sleep(0)
    ours = [record for record in caplog.records if record.name == "happyhorse_async"]
    assert [record.__dict__["action"] for record in ours] == ["background_failed"]
