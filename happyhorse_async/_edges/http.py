"""The HTTP library, behind one small adapter: pooling, authentication, time limits, and foreign
errors mapped in one place.

One call is one try: whether to try again is decided by the callers, with `rules.retry`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.payload import BytesPayload
from multidict import CIMultiDict

from .._concurrency import Deadlines, hand_over
from .._config import Network
from .._dispatcher import RESENDS, Events
from .._formats import json_text
from .._formats.http_headers import TooLargeError, date_of, decoded
from .._formats.texts import NOTHING_TO_HIDE, Redactor, printable, shown
from .._rules.responses import Answer, unreadable
from .._version import __version__
from ..errors import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    HappyHorseError,
    SessionClosedError,
    UnreadableAnswerError,
)
from . import connections
from .connections import Route

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter


USER_AGENT = (
    f"happyhorse-async/{__version__} aiohttp/{aiohttp.__version__} "
    f"Python/{sys.version_info.major}.{sys.version_info.minor}"
)

# A cache on the way must not tell for ever how a task stood, nor a list without the newest one. It
# answers nothing but GET.
_FRESH = {"Cache-Control": "no-cache"}

# Where more libraries are installed, the HTTP library asks for more than can be read here.
_ENCODINGS = {"Accept-Encoding": "gzip, deflate"}

# Raised before a connection stands: the request has certainly not left.
_NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)


SHORTEST_SECRET = 16
"""Characters from which on a key, or a proxy's password, is looked for in responses. A shorter one
could stand there by chance: in the link to a paid video, or in a status."""

LARGE = 64 * 1024
"""Bytes from which on a body is looked at in a thread: eight megabytes of escapes would hold the
event loop for two seconds."""
LONGEST_HEADER = 64 * 1024
"""Bytes of a header line, of any host. Signed redirects and policies are longer than the library's
8,190."""


_ENDLESS: AbstractContextManager[None] = nullcontext()


class TrackedBody(BytesPayload):
    """A body that knows whether any of it was handed to the socket. As long as not, a request
    cannot have been accepted.
    """

    left: bool = False

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Write the body, noting that it is on its way."""
        self.left = True
        await super().write_with_length(writer, content_length)


class Http:
    """Calls to the API and to the file service, with the key. Each comes back as an `Answer` or an
    error of ours.
    """

    def __init__(
        self,
        *,
        key: str | None,
        base_url: str,
        files_url: str,
        connect_timeout: float | None,
        max_connections: int,
        route: Route | None = None,
        client: aiohttp.ClientSession | None = None,
        events: Events | None = None,
    ) -> None:
        self._events = events if events is not None else Events()
        self.base_url = base_url
        self.files_url = files_url
        self._route = route = route if route is not None else Route(Network())
        self._most = route.network.max_answer_bytes
        secrets = [*route.passwords, key or ""]
        telling = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
        self._redactor = Redactor(telling)
        self._messages = Redactor({*telling, *route.passwords})
        # The time for the whole call is kept here, see `deadlines`.
        self._timeouts = {
            idle: connections.CallTimeout(sock_connect=connect_timeout, longest_idle=idle)
            for idle in (inf, connections.PAID_IDLE_SECONDS, connections.NEW)
        }
        self._deadlines: dict[float, Deadlines] = {}
        self._closed = False
        self._alike = client is None and not route.has_proxies
        """All requests need the same, whatever their URL."""
        self._first: tuple[Mapping[str, str], float] | None = None
        """The headers of the first answer, and when it came by this process's steady clock."""
        self.latest: Mapping[str, str] = {}
        """The headers of the service's latest one."""
        self._auth: Mapping[str, str] = {}
        self.sockets: connections.OpenSockets = connections.OpenSockets()
        # Of the key's own kind, which does not show itself. Tracebacks that show local variables go
        # down into the HTTP library.
        auth = {"Authorization": type(key)(f"Bearer {key}")} if key is not None else {}
        if client is not None:
            self._client, self._pool = client, None
            self._how = _ways_of_a_guest(client, auth)
        else:
            self._pool = connections.Pool(
                limit=max_connections, socket_factory=self.sockets, ssl=route.tls
            )
            self._how = {}
            # A client's own headers go to proxies too. Then the key goes with each request.
            self._auth = auth if route.has_proxies else {}
            self._client = _client(self._pool, {} if route.has_proxies else auth)
        self._asking = {**self._auth, **_FRESH}
        """The headers of a GET."""

    async def call(
        self,
        method: str,
        url: str,
        *,
        body: bytes | TrackedBody | None = None,
        form: aiohttp.FormData | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        longest_idle: float = inf,
    ) -> Answer:
        """Send one request, once, and read the whole response.

        It leaves on a connection that was idle for at most `longest_idle` seconds. That is one of
        the two numbers that `connections` names, or infinity. Raises `APIConnectionError` or
        `APITimeoutError` when there is no response, with `sent=False` when the request cannot have
        arrived; `UnreadableAnswerError` for one that is too large or cannot be decoded;
        `ConfigurationError` when a proxy asks for a password.
        """
        if self._closed or (self._pool is None and self._client.closed):
            raise SessionClosedError(
                "the session, or the client given as http=, was closed before the call could leave"
            )
        tracked = (
            TrackedBody(body, content_type="application/json") if isinstance(body, bytes) else body
        )
        try:
            traced = self._events.traced
            own = self._asking if method == "GET" else self._auth
            with self._traced(method, url, timeout) if traced else self._limit(timeout) as facts:
                response = await self._client.request(
                    method,
                    url,
                    data=tracked if tracked is not None else form,
                    headers={**own, **headers} if headers else own,
                    timeout=self._timeouts[longest_idle],
                    allow_redirects=False,
                    # A borrowed client may be set to raise: a refusal would look lost.
                    raise_for_status=False,
                    # A few bytes can stand for gigabytes: decoded below, with a limit.
                    auto_decompress=False,
                    max_line_size=LONGEST_HEADER,
                    max_field_size=LONGEST_HEADER,
                    **(self._how if self._alike else self._how_to(url, longest_idle)),
                )
                if facts is not None:
                    facts["status"] = response.status
                # Mostly all is there with the headers. A borrowed client may trace what is read.
                body = None if self._pool is None else at_hand(response)
                if body is None:
                    body = await read_whole(response, self._most)
                answer = self._answer(response, body)
            # Outside of the limit: what is whole is never too late, also when threads are busy.
            if len(answer.body) > LARGE:
                harmless = await hand_over(None, _harmless, answer.body, self._redactor)
                answer = Answer(answer.status, answer.headers, harmless)
            self._note(url, answer)
            return answer
        except HappyHorseError:  # ours may be foreign by one of their bases
            raise
        except Exception as error:  # noqa: BLE001 a loop or library also breaks on a lost connection
            # The library's errors show what a server has sent. Ours is kept in no name here: the
            # library's hold this frame in rings, and ours holds what was submitted.
            raise self._failure(error, f"{method} {url}", tracked, timeout) from (
                None if self._messages.is_in(repr(error)) else error
            )

    def _note(self, url: str, answer: Answer) -> None:
        """Note what an answer tells beside what was asked for."""
        if url.startswith(self.base_url):  # the file service has a clock of its own
            self.latest = answer.headers
            if self._first is None:
                self._first = answer.headers, asyncio.get_running_loop().time()
        if answer.status == 408 and self._pool is not None:
            # It may be an answer too many, and what was asked for comes behind it. Then the next
            # request on that connection would be given another one's answer.
            self._pool.distrust()

    def leap(self) -> float:
        """Return the seconds by which the service's clock has run ahead of this process's steady
        clock since the first answer. While a machine sleeps, its steady clock may stand still.
        """
        if self._first is None:
            return 0.0
        headers, then = self._first
        first, latest = date_of(headers), date_of(self.latest)
        if first is None or latest is None:
            return 0.0
        return latest - first - (asyncio.get_running_loop().time() - then)

    def _how_to(self, url: str, longest_idle: float) -> dict[str, Any]:
        """Return what a request to a URL needs beside what all need."""
        if self._pool is not None:
            return {"proxy": self._route.proxy_for(url)}
        if longest_idle != connections.NEW:
            return self._how
        # Another key in the pool of a borrowed client, and so another connection.
        return {**self._how, "server_hostname": urlsplit(url).hostname}

    def _failure(
        self, error: Exception, what: str, tracked: TrackedBody | None, timeout: float | None
    ) -> HappyHorseError:
        """Return an error of ours; idle connections are not trusted when this one broke."""
        connected = not isinstance(error, _NEVER_SENT)
        if self._pool is not None and connected:
            self._pool.distrust()
        sent = connected and (tracked is None or tracked.left)
        return transport_error(error, what, sent=sent, timeout=timeout, redactor=self._messages)

    @contextmanager
    def _traced(
        self, method: str, url: str, timeout: float | None
    ) -> Iterator[dict[str, Any] | None]:
        url, resends = self._messages.text(url), RESENDS.get()
        call = self._events.work("call", method=method, url=url, resends=resends)
        with call as facts, self._limit(timeout):
            yield facts

    def _answer(self, response: aiohttp.ClientResponse, body: bytes) -> Answer:
        most, redactor = self._most, self._redactor
        headers: Mapping[str, str] = response.headers
        if redactor.is_in(b" ".join(chain.from_iterable(response.raw_headers))):
            pairs = ((redactor.text(name), redactor.text(value)) for name, value in headers.items())
            headers = CIMultiDict(pairs)
        try:
            encoding = headers.get("Content-Encoding")
            if encoding and len(body) <= most:
                body = decoded(body, encoding, most=most)
        except TooLargeError:
            raise _too_large(response.status, headers, most) from None
        except ValueError as error:
            answer = Answer(response.status, headers, b"")
            raise unreadable(answer, f"has an encoding that cannot be read: {error}") from None
        if len(body) > most:
            raise _too_large(response.status, headers, most)
        return Answer(response.status, headers, redactor.body(body) if len(body) <= LARGE else body)

    def _limit(self, seconds: float | None) -> AbstractContextManager[None]:
        if seconds is None:
            return _ENDLESS
        deadlines = self._deadlines.get(seconds)
        if deadlines is None:
            deadlines = self._deadlines[seconds] = Deadlines(seconds)
        return deadlines.begin()

    def end(self) -> None:
        """Begin no call any more."""
        self._closed = True

    async def aclose(self) -> None:
        """Close the pool, unless it was borrowed; no call begins any more."""
        self.end()
        for deadlines in self._deadlines.values():
            deadlines.close()
        if self._pool is not None:
            await self._client.close()


def require_client(client: object) -> None:
    """Raise `ConfigurationError` for a client that is none of the HTTP library's."""
    if client is not None and not isinstance(client, aiohttp.ClientSession):
        raise ConfigurationError(
            f"http: expected an aiohttp.ClientSession, got {shown(client)}",
            next_step="Clients of other libraries, such as httpx, cannot be lent.",
        )


def _client(connector: connections.Pool, auth: Mapping[str, str]) -> aiohttp.ClientSession:
    # No cookies: the service sets none, and a cookie jar is looked through on every call. The
    # library may not look at the environment: it would read ~/.netrc too, against the key.
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "User-Agent": USER_AGENT,
            "Accept": "application/json",
            **_ENCODINGS,
            **auth,
        },
        trust_env=False,
    )


def _ways_of_a_guest(client: aiohttp.ClientSession, auth: dict[str, str]) -> dict[str, Any]:
    """Return how to ask through a borrowed client: it must not carry the key for others."""

    # The client may have credentials of its own, or look for them in ~/.netrc. The library refuses
    # a request with both. So the key is laid over what it has found.
    async def with_key(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Lay the key over what the client has found, and send the request."""
        request.headers.update(auth, **_ENCODINGS)
        # Headers for all its requests would name neither the kind nor the boundary of this body.
        if kind := getattr(request.body, "content_type", None):
            request.headers["Content-Type"] = kind
        return await handler(request)

    return {"middlewares": (*getattr(client, "_middlewares", ()), with_key)}


def at_hand(response: aiohttp.ClientResponse) -> bytes | None:
    """Return a body that has come to its end with its connection given back; None for another."""
    content = response.content
    whole = content.is_eof() and response.connection is None
    return content.read_nowait() if whole else None


def read_whole(response: aiohttp.ClientResponse, most: int) -> Coroutine[Any, Any, bytes]:
    """Read a body to its end, which gives the connection back. Of one that is longer than `most`
    bytes, read only so far that this can be seen.
    """
    length = response.content_length
    return response.read() if length is not None and length <= most else _counted(response, most)


async def _counted(response: aiohttp.ClientResponse, most: int) -> bytes:
    whole = bytearray()
    try:
        while len(whole) <= most and not response.content.at_eof():
            whole += await response.content.readany()
    except BaseException:
        response.close()
        raise
    if len(whole) > most:
        response.close()
    else:
        await response.read()  # waits for the rest of the request, as its body may still be going
    return bytes(whole)


def _too_large(status: int, headers: Mapping[str, str], most: int) -> UnreadableAnswerError:
    error = unreadable(Answer(status, headers, b""), f"is larger than {most:,} bytes")
    error.next_step = (
        "Responses of the service have a few kilobytes. If this one is right, allow more with "
        "Network(max_answer_bytes=...)."
    )
    return error


def _harmless(body: bytes, redactor: Redactor) -> bytes:
    """Return a body without secrets, and without the escapes that JSON is slow to read with."""
    body = redactor.body(body)
    if b"\\ud" not in body and b"\\uD" not in body:
        return body
    text = body.decode(errors="surrogateescape")
    return json_text.without_halves(text).encode(errors="surrogateescape")


def transport_error(
    error: BaseException,
    what: str,
    *,
    sent: bool,
    timeout: float | None = None,
    redactor: Redactor = NOTHING_TO_HIDE,
) -> HappyHorseError:
    """Return an error of ours for one of aiohttp or of the system; `what` names the call."""
    if isinstance(error, TimeoutError):
        connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
        within = "" if connecting or timeout is None else f" within {timeout:g} s"
        return APITimeoutError(
            f"{what}: {'no connection' if connecting else 'no answer'}{within}", sent=sent
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _proxy_refusal(error, what, redactor)
    # The library's own texts for these two show the URL, and with a result link the video.
    if isinstance(error, aiohttp.ClientResponseError):
        text = f"{error.status}, {error.message}"
    else:
        text = "" if isinstance(error, aiohttp.InvalidURL) else str(error)
    said = printable(redactor.text(text))
    return APIConnectionError(
        f"{what}: {type(error).__name__}: {said}", sent=sent, next_step=_remedy(error)
    )


def _proxy_refusal(
    error: aiohttp.ClientHttpProxyError, what: str, redactor: Redactor
) -> HappyHorseError:
    said = printable(redactor.text(f"{error.status} {error.message}"))
    if error.status == 407:
        return ConfigurationError(
            f"{what}: the proxy asks for a user and a password, or refuses those given ({said})",
            next_step="Give them in the proxy's URL, in Network(proxy=...) or HTTPS_PROXY: "
            "http://user:password@host:port.",
        )
    return APIConnectionError(
        f"{what}: the proxy makes no connection ({said})", sent=False, next_step=_PROXY_REMEDY
    )


_PROXY_REMEDY = (
    "Check the proxy in Network(proxy=...) or HTTPS_PROXY; NO_PROXY or Network(trust_env=False) go "
    "past it."
)
_CERTIFICATE_REMEDY = (
    "If a proxy or a firewall of your own signs anew what passes, name its certificate: "
    "Network(ca_file=...). Python from python.org has none on macOS before its `Install "
    "Certificates.command` has run."
)


def _remedy(error: BaseException) -> str | None:
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return _PROXY_REMEDY
    return (
        _CERTIFICATE_REMEDY if isinstance(error, aiohttp.ClientConnectorCertificateError) else None
    )
