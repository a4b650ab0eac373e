"""SIGINT and SIGTERM for a batch: the first one stops submitting and finishes what is paid for, the second one stops now."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from .runner import Batch

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stopping_on_signals(batch: Batch, told: Callable[[int], None] = lambda count: None) -> Iterator[None]:
    """Stop a batch on signals while this is open; only in the main thread.

    `told` is called with the number of signals so far. The second one cancels the task that opened this.
    """
    loop, owner = asyncio.get_running_loop(), asyncio.current_task()
    count = 0

    def heard() -> None:
        nonlocal count
        count += 1
        told(count)
        if count == 1:
            batch.stop()
        elif owner is not None:
            owner.cancel()

    def from_handler(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(heard)

    # signal.signal rather than the loop's own handlers: those do not exist on Windows.
    before = {number: signal.signal(number, from_handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
