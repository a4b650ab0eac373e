"""The owner of a session's background work.

A session may be opened in one task and closed in another, which a task group held across `async with` does not survive; so the few
long-running tasks of a session (its scheduler, a shielded submission, a queue's workers) are owned here, and end with the session.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any

logger = logging.getLogger("happyhorse_async")


class Background:
    """Asyncio tasks that end when their owner closes; an error in one is logged and seen by `asyncio.Task` as usual."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Start work that is cancelled and awaited by `aclose`."""
        if self._closed:
            work.close()
            raise RuntimeError("the owner of the background work is closed")
        task = asyncio.get_running_loop().create_task(work, name=f"happyhorse_async: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error(
                "background work failed: %s", task.get_name(), exc_info=task.exception(), extra={"action": "background_failed"}
            )

    async def aclose(self) -> None:
        """Cancel what still runs, and wait until it has ended; may be called twice."""
        self._closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)


def _shielded() -> AbstractContextManager[object]:
    """Keep anyio's cancellations away: a cancelled scope of it cancels every wait inside it anew, where a plain cancellation comes once.

    Where nobody has loaded anyio there are no scopes, and loading it would take longer than all the rest of a first submission.
    """
    anyio = sys.modules.get("anyio")
    return anyio.CancelScope(shield=True) if anyio is not None else nullcontext()


async def to_the_end(work: asyncio.Task[Any]) -> None:
    """Wait until work has ended, however often the caller is cancelled meanwhile; then the cancellation, or the work's error, is raised."""
    cancelled: asyncio.CancelledError | None = None
    with _shielded():
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
    work.result()
