"""A small proxy and a TLS front for tests, both real and on loopback."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """A forward proxy that tunnels with CONNECT, passes on plain http, and logs what it is asked.

    It knows some hosts, "name:port", and where on this machine each of them is.
    """

    def __init__(self, hosts: Mapping[str, int], *, credentials: str | None = None) -> None:
        self._hosts = hosts
        self._wanted = credentials and base64.b64encode(credentials.encode()).decode()
        self.asked: list[str] = []
        """The first line of each request."""
        self.heads: list[str] = []

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.url = f"http://{self.address}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head)
                self.asked.append(head.partition("\r\n")[0])
                if self._wanted and f"Proxy-Authorization: Basic {self._wanted}\r\n" not in head:
                    writer.write(
                        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
                    )
                    return
                await self._pass_on(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _pass_on(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line, _, headers = head.partition("\r\n")
        method, target, version = line.split(" ")
        host = target if method == "CONNECT" else urlsplit(target).netloc
        if host not in self._hosts:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        upstream = await asyncio.open_connection("127.0.0.1", self._hosts[host])
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            parts = urlsplit(target)
            path = parts._replace(scheme="", netloc="").geturl() or "/"
            upstream[1].write(f"{method} {path} {version}\r\n{headers}".encode("latin-1"))
        await relay((reader, writer), upstream)
        raise ConnectionError("the tunnel has ended")


async def relay(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    other: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Pass bytes both ways until one side ends."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    await asyncio.gather(pump(one[0], other[1]), pump(other[0], one[1]))


@asynccontextmanager
async def tls_front(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Speak TLS in front of a plain server on this machine; gives the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay((reader, writer), await asyncio.open_connection("127.0.0.1", port))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
