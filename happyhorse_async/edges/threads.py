"""A few threads of our own for what blocks, so that neither the loop nor its default threads (which look names up) ever wait for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """Runs blocking calls. Threads start when they are needed, and end with `close`."""

    def __init__(self, most: int, *, name: str, refusal: Callable[[], Exception]) -> None:
        self._refusal = refusal
        self._closed = False
        self._pool = ThreadPoolExecutor(max_workers=most, thread_name_prefix=name)

    async def run(self, call: Callable[[], T], *, last: bool = False) -> T:
        """Make a blocking call in a thread, and wait for its end even when cancelled: it may be using a file that is closed next.

        After `close` only what is `last`, the closing of files, is done, at once; anything else raises what `refusal` gives.
        """
        if self._closed:
            if not last:
                raise self._refusal()
            return call()
        future = asyncio.get_running_loop().run_in_executor(self._pool, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError:
                    continue
            if not future.cancelled():
                future.exception()  # looked at, so that it is not reported as forgotten
            raise

    def close(self) -> None:
        """End the threads, once what they are doing is done."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=False)
