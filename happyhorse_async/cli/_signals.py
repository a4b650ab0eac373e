"""Signals that end a command: SIGTERM and SIGHUP are heard as Ctrl-C is."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..batch import Batch

ENDING = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""What asks a program to end, beside Ctrl-C: a supervisor, a terminal that is closed."""


@contextmanager
def heard_as_ctrl_c() -> Iterator[None]:
    """Let every ending signal cancel the task that opened this, as Ctrl-C does.

    A signal that is ignored stays so: `nohup` asks for it.
    """
    loop, owner = asyncio.get_running_loop(), asyncio.current_task()

    def cancel(number: int, frame: FrameType | None) -> None:
        if owner is not None:
            loop.call_soon_threadsafe(owner.cancel)

    with handling(heard(), cancel):
        yield


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C and every ending signal raise `KeyboardInterrupt` at once.

    For a question: the event loop's own handler makes a note that is read after the answer.
    """
    with handling([signal.SIGINT, *heard()], signal.default_int_handler):
        yield


@contextmanager
def stopping_on_signals(batch: Batch, told: Callable[[int], None]) -> Iterator[None]:
    """Stop a batch on signals while this is open; only in the main thread.

    The first one stops submitting, and what is paid is finished. The second one cancels the task
    that opened this. `told` is called with the number of signals so far.
    """
    owner = asyncio.current_task()
    count = 0

    def count_it() -> None:
        nonlocal count
        count += 1
        told(count)
        if count == 1:
            batch.stop()
        elif owner is not None:
            owner.cancel()

    with calling_on_signals(count_it):
        yield


@contextmanager
def calling_on_signals(call: Callable[[], object]) -> Iterator[None]:
    """Call something in the event loop at Ctrl-C and at every ending signal while this is open."""
    loop = asyncio.get_running_loop()

    def from_handler(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(call)

    # signal.signal rather than the loop's own handlers: those do not exist on Windows.
    with handling([signal.SIGINT, *heard()], from_handler):
        yield


def heard() -> list[int]:
    """Return the ending signals that are not ignored."""
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def handling(
    numbers: list[int], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    """Hand signals to a handler while this is open; other threads than the main one cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
