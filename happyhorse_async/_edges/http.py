"""The HTTP library, behind one small adapter: pooling, authentication, time limits, and foreign
errors mapped in one place.

One call is one try: whether to try again is decided by the callers, with `rules.retry`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.payload import BytesPayload

from .._concurrency import Deadlines
from .._rules.responses import Answer
from .._version import __version__
from ..errors import APIConnectionError, APITimeoutError, SessionClosedError, TransportError
from . import pool

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

USER_AGENT = f"happyhorse-async/{__version__} aiohttp/{aiohttp.__version__} Python/{sys.version_info.major}.{sys.version_info.minor}"

# Everything that aiohttp can raise out of a request; a test holds this against aiohttp's own tree.
FOREIGN_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError)

# Raised before a connection stands: the request has certainly not left.
_NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)


SHORTEST_SECRET = 16
"""Characters from which on a key is looked for in what the service answers."""


class TrackedBody(BytesPayload):
    """A body that knows whether any of it was handed to the socket: as long as not, a request
    cannot have been accepted.
    """

    left = False

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Write the body, noting that it is on its way."""
        self.left = True
        await super().write_with_length(writer, content_length)


class Http:
    """Calls to the API and to the file service, with the key; everything comes back as an `Answer`
    or a `TransportError`.
    """

    def __init__(
        self,
        *,
        key: str | None,
        base_url: str,
        files_url: str,
        connect_timeout: float | None,
        max_connections: int,
        client: aiohttp.ClientSession | None = None,
    ) -> None:
        self.base_url = base_url
        self.files_url = files_url
        # Of the key's own kind, which does not show itself: tracebacks that show local variables go
        # down into the HTTP library.
        auth = {"Authorization": type(key)(f"Bearer {key}")} if key is not None else {}
        # What is shorter could stand in an answer by chance.
        self._secret = key.encode() if key is not None and len(key) >= SHORTEST_SECRET else None
        # The time for the whole call is kept here, see `deadlines`.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._deadlines: dict[float, Deadlines] = {}
        self._borrowed = client is not None
        self._closed = False
        # Our own pool only ever speaks to the service and follows no redirect, so it carries the
        # key itself; a borrowed one must not.
        self._auth = auth if client is not None else {}
        self.sockets = pool.OpenSockets()
        # The owner of a borrowed client has a pool of their own.
        self._pool = (
            None
            if client is not None
            else pool.Pool(limit=max_connections, socket_factory=self.sockets)
        )
        self._client = client if client is not None else _client(self._pool, auth)

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
        """Send one request, once, and read the whole answer.

        It leaves on a connection that was idle for at most `longest_idle` seconds; see `pool`.
        Raises `APIConnectionError` or `APITimeoutError` when there is no answer, with `sent=False`
        when the request cannot have arrived.
        """
        if self._closed or self._client.closed:
            raise SessionClosedError(
                "the session was closed while the call was waiting for its turn"
            )
        tracked = (
            TrackedBody(body, content_type="application/json") if isinstance(body, bytes) else body
        )
        data = tracked if tracked is not None else form
        headers = {**self._auth, **headers} if headers and self._auth else headers or self._auth
        idle = pool.longest_idle.set(longest_idle)
        try:
            with self._limit(timeout):
                response = await self._client.request(
                    method,
                    url,
                    data=data,
                    headers=headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                    # A borrowed client may be set to raise: then a refusal would look like an
                    # answer that was lost.
                    raise_for_status=False,
                )
                # Reading to the end gives the connection back, and failing to closes it: no `async
                # with` is needed for that.
                return Answer(
                    response.status, response.headers, self._without_key(await response.read())
                )
        except FOREIGN_ERRORS as error:
            if self._pool is not None and not isinstance(error, _NEVER_SENT):
                self._pool.distrust()
            sent = not isinstance(error, _NEVER_SENT) and (tracked is None or tracked.left)
            raise transport_error(error, f"{method} {url}", sent=sent, timeout=timeout) from error
        finally:
            pool.longest_idle.reset(idle)

    def _without_key(self, body: bytes) -> bytes:
        # Services have repeated a key that they refuse, and what they say goes into errors and
        # logs.
        return (
            body
            if self._secret is None or self._secret not in body
            else body.replace(self._secret, b"***")
        )

    def _limit(self, seconds: float | None) -> AbstractContextManager[None]:
        if seconds is None:
            return nullcontext()
        deadlines = self._deadlines.get(seconds)
        if deadlines is None:
            deadlines = self._deadlines[seconds] = Deadlines(seconds)
        return deadlines.begin()

    async def aclose(self) -> None:
        """Close the pool, unless it was borrowed; no call begins any more."""
        self._closed = True
        for deadlines in self._deadlines.values():
            deadlines.close()
        if not self._borrowed:
            await self._client.close()


def _client(connector: pool.Pool | None, auth: Mapping[str, str]) -> aiohttp.ClientSession:
    # No cookies: the service sets none, and a cookie jar is looked through on every call.
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept": "application/json", **auth},
    )


def transport_error(
    error: BaseException, what: str, *, sent: bool, timeout: float | None = None, **facts: Any
) -> TransportError:
    """Turn an error of aiohttp or of the operating system into one of ours; `what` names the call."""
    if isinstance(error, TimeoutError):
        connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
        within = "" if connecting or timeout is None else f" within {timeout:g} s"
        return APITimeoutError(
            f"{what}: {'no connection' if connecting else 'no answer'}{within}", sent=sent, **facts
        )
    return APIConnectionError(f"{what}: {type(error).__name__}: {error}", sent=sent, **facts)
