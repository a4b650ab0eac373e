"""Fetching result links, which are input from outside: a client of its own, with neither key nor cookies, that looks where it connects.

A link is judged as text, again at each redirect, and once more as the address that a socket is about to be connected to; so a name that
stands for another address a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ..config import Limits, Timeouts
from ..errors import APIConnectionError, APITimeoutError, HappyHorseError, TransportError, UnsafeLinkError
from ..rules import links, ranges
from .body import Body, take_over
from .http import FOREIGN_ERRORS, USER_AGENT, transport_error

MOST_REDIRECTS = 5
READ_BUFFER = 256 * 1024
"""Bytes that a connection may hold before the host is asked to wait (half of it), measured as the least that costs no speed."""
ROOM = 1024 * 1024
GATHER_SECONDS = 1.0
"""Slow bytes are handed on after this time, however few they are, so that they are on disk and counted."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}


class GuardedResolver(AbstractResolver):
    """Looks names up as usual, and refuses a name when any of its addresses must not be connected to."""

    def __init__(self, inner: AbstractResolver, *, allow_loopback: bool) -> None:
        self._inner = inner
        self._allow_loopback = allow_loopback

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """Look a name up; raises `UnsafeLinkError`."""
        found = await self._inner.resolve(host, port, family)
        for entry in found:
            problem = links.connected_address_problem(entry["host"], allow_loopback=self._allow_loopback)
            if problem:
                raise UnsafeLinkError(f"the link's host {host!r} leads to a forbidden address: {problem}")
        return found

    async def close(self) -> None:
        """Close the resolver inside."""
        await self._inner.close()


class Fetcher:
    """The way to result links. Made in the event loop in which it is used."""

    def __init__(
        self, *, timeouts: Timeouts, limits: Limits, allow_loopback: bool = False, resolver: AbstractResolver | None = None
    ) -> None:
        self.timeouts = timeouts
        self._allow_loopback = allow_loopback
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the downloads' queue is the limit
                resolver=GuardedResolver(resolver or aiohttp.ThreadedResolver(), allow_loopback=allow_loopback),
                use_dns_cache=False,
                socket_factory=self._socket,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.download_idle),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            trust_env=False,
        )

    def _socket(self, info: Any) -> socket.socket:
        """Make the socket that is about to be connected to an address: the last place at which it can be judged."""
        family, kind, protocol, _, address = info
        problem = links.connected_address_problem(str(address[0]), allow_loopback=self._allow_loopback)
        if problem:
            raise UnsafeLinkError(f"the link leads to a forbidden address: {problem}")
        return socket.socket(family=family, type=kind, proto=protocol)

    async def open(self, link: str, headers: Mapping[str, str]) -> Stream:
        """Ask for a link, following redirects by hand; the caller closes the stream.

        Raises `UnsafeLinkError` before anything is connected to, and `TransportError`.
        """
        for _ in range(MOST_REDIRECTS + 1):
            response = await self._ask(link, headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return Stream(response, self.timeouts)
            response.close()
            link = urljoin(link, location)
        raise UnsafeLinkError(f"the link was redirected more than {MOST_REDIRECTS} times")

    async def _ask(self, link: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        problem = links.followed_link_problem(link, allow_loopback=self._allow_loopback)
        if problem:
            raise UnsafeLinkError(f"the link must not be followed: {problem}")
        try:
            # A signed link is sent as it is: quoting it anew could break its signature.
            url = URL(link, encoded=link.isascii())
            return await self._client.get(url, headers=headers, allow_redirects=False)
        except HappyHorseError:
            raise
        except FOREIGN_ERRORS as error:
            raise _mapped(error) from error

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.close()


class Stream:
    """An answer whose body is still coming; an async context manager that closes it."""

    def __init__(self, response: aiohttp.ClientResponse, timeouts: Timeouts) -> None:
        self._response = response
        self._clock = asyncio.get_running_loop().time
        self._pace = ranges.Pace(window=timeouts.download_window, least=timeouts.download_rate, now=self._clock())
        self._pieces: list[bytes] = []
        self._size = 0
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._idle = timeouts.download_idle
        self._heard = self._clock()
        self._body = take_over(response, ranges.content_length(response.headers), room=ROOM) if response.status in (200, 206) else None

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A body that was read to its end leaves the connection to the next download; otherwise it is closed with the rest unread.
        self._response.close()

    async def fill(self, size: int) -> bool:
        """Gather `size` bytes, fewer at the end of the body or when they come slowly; False when nothing more will come.

        Raises `TransportError`; what was gathered by then is still there to `take`.
        """
        try:
            return await (self._fill_directly(self._body, size) if self._body is not None else self._fill(size))
        except FOREIGN_ERRORS as error:
            if isinstance(error, HappyHorseError):
                raise
            raise _mapped(error) from error

    async def _fill_directly(self, body: Body, size: int) -> bool:
        while True:
            before = body.size
            await body.wait(size, GATHER_SECONDS)
            received, now = body.size - before, self._clock()
            self._check_pace(received, now)
            if received:
                self._heard = now
            elif body.error is not None:
                raise body.error
            elif body.size or body.ended:
                return body.size > 0
            elif now - self._heard >= (self._idle or now):
                raise aiohttp.SocketTimeoutError("nothing came")
            else:
                continue
            return True

    async def _fill(self, size: int) -> bool:
        until = self._clock() + GATHER_SECONDS
        while self._size < size:
            piece, _ = await self._response.content.readchunk()
            if not piece:
                if self._response.content.at_eof():
                    return self._size > 0
                continue
            self._pieces.append(piece)
            self._size += len(piece)
            now = self._clock()
            self._check_pace(len(piece), now)
            if now >= until:
                break
        return True

    def _check_pace(self, received: int, now: float) -> None:
        if self._pace.too_slow(received, now):
            raise APITimeoutError("the file host sends too slowly", sent=True)

    @property
    def head(self) -> bytes:
        """The first bytes of what is gathered."""
        if self._body is not None:
            return self._body.head
        return b"".join(self._pieces)[:16] if self._size < 65536 else self._pieces[0][:16]

    def take(self) -> Sequence[bytes | memoryview]:
        """Hand over what is gathered; it is good until the next `fill`."""
        if self._body is not None:
            return self._body.take()
        pieces, self._pieces, self._size = self._pieces, [], 0
        return pieces


def _mapped(error: BaseException) -> TransportError:
    # The link stays out of the message: whoever has it can fetch the video.
    if isinstance(error, TimeoutError):
        return transport_error(error, "the file host", sent=True)
    return APIConnectionError(f"the file host: {type(error).__name__}: {error}", sent=True)
