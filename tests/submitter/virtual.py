"""An event loop in which waiting takes no time: when nothing can be read or written, its clock
jumps to the next timer.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class Skipping(selectors.DefaultSelector):
    """A selector that moves a clock instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Give what is ready; when nothing is, pretend that the time-out has passed."""
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or timeout > 1.0:
            # Long waits are time limits: those must not strike while the kernel still carries bytes
            # from one end to the other.
            ready = super().select(timeout if timeout is None else 0.005)
            if ready or timeout is None:
                return ready
        self.now += timeout
        return super().select(0)


def run(work: Coroutine[Any, Any, T], monkeypatch: pytest.MonkeyPatch) -> tuple[T, float]:
    """Run work, and give its result and the seconds that it would have taken."""
    selector = Skipping()
    monkeypatch.setattr(time, "monotonic", lambda: selector.now)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        began = selector.now
        result = runner.run(work)
        return result, selector.now - began
