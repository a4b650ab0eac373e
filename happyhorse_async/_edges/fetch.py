"""Fetching result links, which are input from outside: a client of its own, with neither key nor
cookies, that looks where it connects.

A link is judged as text, again at each redirect, and once more as the address that a socket is
about to be connected to; so a name that stands for another address a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from .._config import Timeouts
from .._formats import http_ranges, urls
from ..errors import (
    APIConnectionError,
    APITimeoutError,
    HappyHorseError,
    SessionClosedError,
    TransportError,
    UnsafeLinkError,
)
from .http import FOREIGN_ERRORS, USER_AGENT, transport_error
from .pool import OpenSockets

MOST_REDIRECTS = 5
READ_BUFFER = 256 * 1024
"""Bytes; at twice as many the host is asked to wait. Larger ones were measured: they cost memory
and save nothing."""
GATHER_SECONDS = 1.0
"""Slow bytes are handed on after this time, however few they are, so that they are on disk and
counted."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}


class GuardedResolver(AbstractResolver):
    """Looks names up as usual, and refuses a name when any of its addresses must not be connected
    to.
    """

    def __init__(self, inner: AbstractResolver, *, allow_loopback: bool) -> None:
        self._inner = inner
        self._allow_loopback = allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look a name up; raises `UnsafeLinkError`."""
        found = await self._inner.resolve(host, port, family)
        for entry in found:
            problem = urls.connected_address_problem(
                entry["host"], allow_loopback=self._allow_loopback
            )
            if problem:
                raise UnsafeLinkError(
                    f"the link's host {host!r} leads to a forbidden address: {problem}"
                )
        return found

    async def close(self) -> None:
        """Close the resolver inside."""
        await self._inner.close()


class Fetcher:
    """The way to result links. Made in the event loop in which it is used."""

    def __init__(
        self,
        *,
        timeouts: Timeouts,
        allow_loopback: bool = False,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self.timeouts = timeouts
        self._allow_loopback = allow_loopback
        limits_of_head = (timeouts.connect, timeouts.download_idle)
        self._head = (
            None if None in limits_of_head else sum(seconds or 0.0 for seconds in limits_of_head)
        )
        self.sockets = OpenSockets()
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the downloads' queue is the limit
                resolver=GuardedResolver(
                    resolver or aiohttp.ThreadedResolver(), allow_loopback=allow_loopback
                ),
                use_dns_cache=False,
                socket_factory=self._socket,
            ),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=timeouts.connect,
                sock_connect=timeouts.connect,
                sock_read=timeouts.download_idle,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            trust_env=False,
        )

    def _socket(self, info: Any) -> socket.socket:
        """Make the socket that is about to be connected to an address: the last place at which it
        can be judged.
        """
        address = str(info[-1][0])
        problem = urls.connected_address_problem(address, allow_loopback=self._allow_loopback)
        if problem:
            raise UnsafeLinkError(f"the link leads to a forbidden address: {problem}")
        return self.sockets(info)

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
            try:
                link = urljoin(link, location)
            except ValueError:
                raise UnsafeLinkError(
                    "the link was redirected to something that is no link"
                ) from None
        raise UnsafeLinkError(f"the link was redirected more than {MOST_REDIRECTS} times")

    async def _ask(self, link: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        problem = urls.followed_link_problem(link, allow_loopback=self._allow_loopback)
        if problem:
            raise UnsafeLinkError(f"the link must not be followed: {problem}")
        if self._client.closed:
            raise SessionClosedError("the session was closed during a download")
        try:
            # A signed link is sent as it is: quoting it anew could break its signature.
            url = URL(link, encoded=link.isascii())
            # The library's time-out begins anew with each byte, so that a head which drips would
            # hold a place for days.
            async with asyncio.timeout(self._head):
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
        self._pace = http_ranges.Pace(
            window=timeouts.download_window, least=timeouts.download_rate, now=self._clock()
        )
        self._patience = min(GATHER_SECONDS, timeouts.download_window)
        self._pieces: list[bytes] = []
        self.size = 0
        """Bytes that are gathered."""
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A body that was read to its end leaves the connection to the next download; otherwise it
        # is closed with the rest unread.
        self._response.close()

    async def fill(self, size: int) -> bool:
        """Gather `size` bytes, fewer at the end of the body or when they come slowly; False when
        there are none any more.

        Raises `TransportError`; what was gathered by then is still there to `take`.
        """
        try:
            await self._gather(size, self._clock() + self._patience)
        except FOREIGN_ERRORS as error:
            self._rescue()
            raise _mapped(error) from error
        return self.size > 0

    async def _gather(self, size: int, until: float) -> None:
        # The hottest loop of a download: some thousand turns for each gigabyte.
        content, pieces, before, now = (
            self._response.content,
            self._pieces,
            self.size,
            self._clock(),
        )
        while self.size < size and not content.at_eof():
            piece, _ = await content.readchunk()
            pieces.append(piece)
            self.size += len(piece)
            if (now := self._clock()) >= until:
                break
        if self._pace.too_slow(self.size - before, now) and not content.at_eof():
            raise TooSlowError

    def _rescue(self) -> None:
        # Once a connection has broken, the library hides the bytes that came before. They are good,
        # and a host that cuts every answer would otherwise never be got anything from; where the
        # attribute is missing they are fetched again.
        buffered = getattr(self._response.content, "_buffer", None)
        while buffered:
            self._pieces.append(buffered.popleft())
            self.size += len(self._pieces[-1])

    @property
    def ended(self) -> bool:
        """Whether the last byte of the body is gathered."""
        return self._response.content.at_eof()

    @property
    def head(self) -> bytes:
        """The first bytes of what is gathered."""
        head = b""
        for piece in self._pieces:
            head += piece[:16]
            if len(head) >= 16:
                break
        return head

    def take(self) -> list[bytes]:
        """Hand over what is gathered."""
        pieces, self._pieces, self.size = self._pieces, [], 0
        return pieces


class TooSlowError(TimeoutError):
    """The bytes come, but at a rate that would hold a place for ever."""


def _mapped(error: BaseException) -> TransportError:
    if isinstance(error, TooSlowError):
        return APITimeoutError("the file host sends too slowly", sent=True)
    # The link stays out of the message: whoever has it can fetch the video.
    if isinstance(error, TimeoutError):
        return transport_error(error, "the file host", sent=True)
    return APIConnectionError(f"the file host: {type(error).__name__}: {error}", sent=True)
