"""Fetching result links, which are input from outside. The client has neither key nor cookies, and
looks where it connects.

A link is judged as text, again at each redirect, and once more as a socket's address. So a name
that stands for another address a moment later gains nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from .._config import Network, Timeouts
from .._dispatcher import RESENDS, Events
from .._formats import urls
from .._formats.mp4 import beginning
from .._formats.texts import Redactor
from .._rules.fetching import SpeedFloor
from ..errors import (
    APITimeoutError,
    ConfigurationError,
    DownloadError,
    HappyHorseError,
    SessionClosedError,
    TransportError,
    UnsafeLinkError,
)
from .connections import Names, OpenSockets, Pool, Route
from .http import LONGEST_HEADER, USER_AGENT, transport_error

logger = logging.getLogger("happyhorse_async")

Judge = Callable[[str], urls.Refusal | None]
"""Says why an address must not be connected to."""

MOST_REDIRECTS = 10
READ_BUFFER = 256 * 1024
"""Bytes; at twice as many the host is asked to wait. Larger ones were measured: they cost memory
and save nothing."""
GATHER_SECONDS = 1.0
"""Slow bytes are handed on after this time, however few they are, so that they are on disk and
counted."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_UNREACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME} if sys.platform == "linux" else ())
"""Linux alone tells a name that nobody has from names that cannot be asked for now."""
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}


class GuardedResolver(AbstractResolver):
    """Looks names up as usual, and refuses a name when any of its addresses must not be connected
    to.
    """

    def __init__(self, inner: AbstractResolver, judge: Judge) -> None:
        self._inner = inner
        self._judge = judge

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look a name up; raises `UnsafeLinkError`."""
        found = await self._inner.resolve(host, port, family)
        for entry in found:
            refusal = self._judge(entry["host"])
            if refusal is not None:
                raise _unsafe(f"the link's host {host!r} leads to a forbidden address", refusal)
        return found

    async def close(self) -> None:
        """Close the resolver inside."""
        await self._inner.close()


def _is_away(error: Exception) -> bool:
    """Whether a host could not be reached, as when this machine has no network for a while. A proxy
    that refuses, and a name that does not exist, are answers: they need not be waited for.
    """
    cause = getattr(error, "os_error", None)
    if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME:
        return False
    return isinstance(error, _UNREACHED) and not isinstance(error, aiohttp.ClientSSLError)


class Fetcher:
    """The way to result links. Made in the event loop in which it is used."""

    def __init__(
        self,
        *,
        timeouts: Timeouts,
        allow_loopback: bool = False,
        route: Route | None = None,
        resolver: AbstractResolver | None = None,
        events: Events | None = None,
    ) -> None:
        self._events = events if events is not None else Events()
        self.timeouts = timeouts
        self._allow_loopback = allow_loopback
        self._route = route if route is not None else Route(Network())
        self._judge = partial(
            urls.address_refusal, allow_loopback=allow_loopback, allow=self._route.allow
        )
        limits_of_head = (timeouts.connect, timeouts.download_idle)
        self._head = (
            None if None in limits_of_head else sum(seconds or 0.0 for seconds in limits_of_head)
        )
        self.sockets = OpenSockets()
        self._redactor = Redactor(self._route.passwords)
        self._direct = self._client(
            resolver=GuardedResolver(resolver or Names(), self._judge),
            use_dns_cache=False,
            socket_factory=self._socket,
        )
        # Only connects to proxies, which may be on this machine or in a private network.
        self._through_proxies: aiohttp.ClientSession | None = None
        self._streams: dict[Stream, None] = {}
        """Those that are read from."""

    def _client(self, **connector: Any) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=Pool(
                limit=0,  # the downloads' queue is the limit
                ssl=self._route.tls,
                **connector,
            ),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self.timeouts.connect,
                sock_connect=self.timeouts.connect,
                sock_read=self.timeouts.download_idle,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            trust_env=False,
        )

    def _socket(self, info: Any) -> socket.socket:
        """Make the socket for an address: the last place at which that address can be judged."""
        refusal = self._judge(str(info[-1][0]))
        if refusal is not None:
            raise _unsafe("the link leads to a forbidden address", refusal)
        return self.sockets(info)

    async def open(self, link: str, headers: Mapping[str, str]) -> Stream:
        """Ask for a link, following redirects by hand; the caller closes the stream.

        An http link is asked for over https. Raises `UnsafeLinkError` before anything is connected
        to, and `TransportError`.
        """
        for hop in range(MOST_REDIRECTS + 1):
            target = self._target(link)
            with self._traced(target, hop) as facts:
                response = await self._ask(target, headers, told=link)
                facts["status"] = response.status
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return Stream(response, self.timeouts, self._streams)
            response.close()
            after = urls.redirected(target, location)
            if after is None:
                raise UnsafeLinkError("the link was redirected to something that is no link")
            link = after
        raise UnsafeLinkError(f"the link was redirected more than {MOST_REDIRECTS} times")

    def _traced(self, target: str, hop: int) -> AbstractContextManager[dict[str, Any]]:
        if not self._events.traced:
            return nullcontext({})
        # Whoever has a result link can fetch the video: nobody is told more than its host.
        url = str(URL(target, encoded=True).origin() / "REDACTED")
        return self._events.work("call", method="GET", url=url, resends=RESENDS.get() + hop)

    def _target(self, link: str) -> str:
        prepared = urls.prepared_link(link)
        if prepared is None:
            raise UnsafeLinkError("the link must not be followed: it is not a link")
        declared: dict[str, Any] = {
            "allow_loopback": self._allow_loopback,
            "allow": self._route.allow,
        }
        target = urls.over_https(prepared, **declared)
        refusal = urls.link_refusal(target, **declared)
        if refusal is not None:
            raise _unsafe("the link must not be followed", refusal)
        return target

    async def _ask(
        self, target: str, headers: Mapping[str, str], *, told: str
    ) -> aiohttp.ClientResponse:
        if self._direct.closed:
            raise SessionClosedError("the session was closed during a download")
        proxy = self._route.proxy_for(target)
        client = self._direct if proxy is None else self._proxied()
        try:
            # A signed link is sent as it is: quoting it anew could break its signature.
            url = URL(target, encoded=True)
            # The library's time-out begins anew with each byte, so that a head which drips would
            # hold a place for days.
            async with asyncio.timeout(self._head):
                return await client.get(url, headers=headers, allow_redirects=False, proxy=proxy)
        except HappyHorseError:
            raise
        except Exception as error:  # noqa: BLE001 see `http.Http.call`
            host = "the file host"
            if told.startswith("http:") and target.startswith("https:"):
                host += " (its link is http, which is asked for over https only)"
            ours = transport_error(error, host, sent=True, redactor=self._redactor)
            if isinstance(ours, TransportError):
                ours.sent = not _is_away(error)
            if isinstance(ours, ConfigurationError):
                ours = DownloadError(str(ours), next_step=ours.next_step)
            raise ours from (None if self._redactor.is_in(repr(error)) else error)

    def _proxied(self) -> aiohttp.ClientSession:
        if self._through_proxies is None:
            logger.info(
                "downloads go through a proxy: only a result link's scheme and name can be checked "
                "here, not its address",
                extra={"action": "addresses_unchecked"},
            )
            self._through_proxies = self._client(socket_factory=self.sockets)
        return self._through_proxies

    async def aclose(self) -> None:
        """Close all connections, and end those who read from them."""
        for stream in self._streams:
            stream.end()
        for client in (self._direct, self._through_proxies):
            if client is not None:
                await client.close()


class Stream:
    """An answer whose body is still coming; an async context manager that closes it."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        timeouts: Timeouts,
        opened: dict[Stream, None],
    ) -> None:
        self._response = response
        self._opened = opened
        self._clock = asyncio.get_running_loop().time
        self._pace = SpeedFloor(
            window=timeouts.download_window, least=timeouts.download_rate, now=self._clock()
        )
        self._patience = min(GATHER_SECONDS, timeouts.download_window)
        idle = timeouts.download_idle
        # The library has a limit of its own, and forgets it, and who waits, when it meets chunks
        # that are none. Whatever comes in time ends a wait before this one does.
        self._limit = None if idle is None else idle + self._patience
        self._pieces: list[bytes] = []
        self.size = 0
        """Bytes that are gathered."""
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def __aenter__(self) -> Stream:
        self._opened[self] = None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A body that was read to its end leaves the connection to the next download. Otherwise it
        # is closed with the rest unread.
        self._opened.pop(self, None)
        self._response.close()

    def end(self) -> None:
        """Wake those who wait for more. The library forgets them when it closes a connection, and
        the time limit with it.
        """
        self._response.content.set_exception(aiohttp.ClientConnectionError("it was closed here"))

    async def fill(self, size: int) -> bool:
        """Gather `size` bytes, fewer at the end of the body or when they come slowly; False when
        there are none any more.

        Raises `TransportError`; what was gathered by then is still there to `take`.
        """
        try:
            async with asyncio.timeout(self._limit):
                await self._gather(size, self._clock() + self._patience)
        except Exception as error:
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
        # and from a host that cuts every answer nothing else would ever come. Where the attribute
        # is missing they are fetched again.
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
        return beginning(self._pieces)

    def take(self) -> list[bytes]:
        """Hand over what is gathered."""
        pieces, self._pieces, self.size = self._pieces, [], 0
        return pieces


class TooSlowError(TimeoutError):
    """The bytes come, but at a rate that would hold a place for ever."""


def _mapped(error: BaseException) -> HappyHorseError:
    if isinstance(error, TooSlowError):
        return APITimeoutError("the file host sends too slowly", sent=True)
    # The link stays out of the message: whoever has it can fetch the video.
    return transport_error(error, "the file host", sent=True)


def _unsafe(what: str, refusal: urls.Refusal) -> UnsafeLinkError:
    return UnsafeLinkError(f"{what}: {refusal.why}", next_step=refusal.remedy)
