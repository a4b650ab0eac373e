"""An event loop whose clock jumps: hours of waiting pass in the time that the code itself needs,
and nothing in the code knows.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _NoWait(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Instead of sleeping, moves the loop's clock."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Look at the sockets without waiting; the time that would have been waited has passed."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits for something that will never happen")
        if not ready and timeout:
            self.passed += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on simulated time, from 0 on."""

    def __init__(self) -> None:
        self._no_wait = _NoWait()
        super().__init__(self._no_wait)

    def time(self) -> float:
        """Seconds of simulated time."""
        return self._no_wait.passed


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on simulated time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
