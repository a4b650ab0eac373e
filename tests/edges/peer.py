"""A server for tests that does with each connection whatever a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = b"{}", *headers: str, status: str = "200 OK") -> bytes:
    """Return the bytes of an HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Peer:
    """A server that does with a connection whatever a test wants."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


class Polite:
    """A handler that answers every request, as long as the client likes."""

    def __init__(self, *headers: str) -> None:
        self._headers = headers
        self.connections: list[asyncio.StreamWriter] = []
        self.requests: list[tuple[int, bytes]] = []
        """Each request's connection, by number, and its head."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer with the number of the request."""
        number = len(self.connections)
        self.connections.append(writer)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            await reader.readexactly(int(length or 0))
            self.requests.append((number, head))
            writer.write(answer(b'{"request": %d}' % len(self.requests), *self._headers))
            await writer.drain()
