"""Background work with an owner: every task that is started here ends with its owner."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


class BackgroundWork:
    """The running background tasks of one part of the sandbox."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], None] = {}
        """In order, so that a simulation ends them alike every time."""
        self._loop = asyncio.get_running_loop()
        """Where it runs, also when what starts it is looked at while the loop stands still."""

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background; a failure goes to the loop's exception handler."""
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {
                "message": "background work of the sandbox failed",
                "exception": error,
                "task": task,
            }
            task.get_loop().call_exception_handler(context)

    async def close(self) -> None:
        """Cancel what still runs and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
