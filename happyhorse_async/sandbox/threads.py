"""A sandbox in a thread of its own, so that tests of every kind can use one."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SandboxThread", "run_in_loop"]

_T = TypeVar("_T")


def run_in_loop(loop: asyncio.AbstractEventLoop, action: Callable[[], _T]) -> _T:
    """Run a function in another thread's event loop and return, or raise, what it does."""
    outcome: Future[_T] = Future()

    def _run() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:  # noqa: BLE001  # it belongs to the caller in the other thread
            outcome.set_exception(error)

    loop.call_soon_threadsafe(_run)
    return outcome.result()


class SandboxThread:
    """Keeps something open in an event loop of its own until it is stopped."""

    def __init__(self, opened: AbstractAsyncContextManager[Any]) -> None:
        self._opened = opened
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="happyhorse-sandbox", daemon=True)

    def start(self) -> None:
        """Return when it is open; raises what opening it raises."""
        self._thread.start()
        self._ready.result()

    def stop(self) -> None:
        """Return when it is closed."""
        loop, leave = self._ready.result()
        loop.call_soon_threadsafe(leave.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._stay())

    async def _stay(self) -> None:
        leave = asyncio.Event()
        try:
            await self._opened.__aenter__()
        except BaseException as error:  # noqa: BLE001  # it belongs to the caller of `start`
            self._ready.set_exception(error)
            return
        self._ready.set_result((asyncio.get_running_loop(), leave))
        await leave.wait()
        await self._opened.__aexit__(None, None, None)
