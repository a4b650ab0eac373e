"""The body of a large answer, read from the socket straight into one buffer that is used again and again.

The HTTP library gives a body as many small objects, each allocated, copied and announced to its reader by itself; measured, that is most
of the cost of a download. So once it has read the head of an answer whose length is known, the connection is taken over from it.
"""

from __future__ import annotations

import asyncio

import aiohttp


class Body(asyncio.BufferedProtocol):
    """Fills its buffer as long as there is room and someone who wants it; `error` says why no more will come."""

    def __init__(self, transport: asyncio.Transport, begun: bytes, length: int, *, room: int) -> None:
        self._transport = transport
        self._buffer = memoryview(bytearray(max(room, len(begun))))
        self._buffer[: len(begun)] = begun
        self._filled = len(begun)
        self._left = length - len(begun)
        """Bytes that are still to come from the socket."""
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._taken = False
        self.error: Exception | None = None

    @property
    def size(self) -> int:
        """Bytes in the buffer."""
        return 0 if self._taken else self._filled

    @property
    def ended(self) -> bool:
        """Whether the last byte has come."""
        return self._left <= 0

    @property
    def head(self) -> bytes:
        """The first bytes in the buffer."""
        return bytes(self._buffer[: min(16, self.size)])

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the transport the room that is left, and never more than belongs to the body."""
        return self._buffer[self._filled : self._filled + max(1, self._left)]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes that have come."""
        self._filled += nbytes
        self._left -= nbytes
        if self._left <= 0 or self._filled >= len(self._buffer):
            self._transport.pause_reading()
        if self._left <= 0 or self._filled >= self._wanted:
            self._wake()

    def eof_received(self) -> bool:
        """Take note that the host has stopped."""
        self._stop(aiohttp.ClientPayloadError(f"the file host stopped {self._left} bytes early"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the connection is gone."""
        self._stop(exc or aiohttp.ServerDisconnectedError())

    def _stop(self, error: Exception) -> None:
        if self._left > 0 and self.error is None:
            self.error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, size: int, seconds: float) -> None:
        """Wait until `size` bytes are in the buffer or none will come any more, but not for longer than `seconds`."""
        if self._taken:
            self._taken, self._filled = False, 0
        self._wanted = min(size, len(self._buffer))
        if self._left <= 0 or self._filled >= self._wanted or self.error is not None:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        try:
            async with asyncio.timeout(seconds):
                await self._waiter
        except TimeoutError:
            return
        finally:
            self._waiter = None

    def take(self) -> list[memoryview]:
        """Hand over what is in the buffer; it is good until the next `wait`."""
        if self._taken or not self._filled:
            return []
        self._transport.pause_reading()
        self._taken = True
        return [self._buffer[: self._filled]]


def take_over(response: aiohttp.ClientResponse, length: int | None, *, room: int) -> Body | None:
    """Take the connection of an answer over, if its body is so long that it is worth it; the answer still closes it in the end."""
    connection = response.connection
    transport = connection.transport if connection is not None else None
    if transport is None or length is None or length < room or response.headers.get("Transfer-Encoding"):
        return None
    transport.pause_reading()
    body = Body(transport, response.content.read_nowait(), length, room=room)
    transport.set_protocol(body)
    return body
