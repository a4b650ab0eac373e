"""The way out: through which proxy, with whose certificates, on which connections.

No connection is handed out that may be dead or hold a foreign answer. Gateways and NATs forget idle
connections without a word. A request on such a connection is lost, and of a paid one nobody knows
whether it arrived. A server may also send an answer too many. The HTTP library would take it for
the answer to the next request on that connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import ssl
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass
from weakref import WeakSet

import aiohttp
import attrs

from .._config import Network
from .._formats import proxies, urls
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

logger = logging.getLogger("happyhorse_async")

IDLE_SECONDS = 60.0
"""A connection that was idle for longer is closed. Reads come every few seconds, and can be made
again."""
PAID_IDLE_SECONDS = 4.0
"""A paid request leaves on a connection that was idle for so long at most. Some servers close idle
connections after five seconds."""
FEW = 16
"""Connections beyond twice the limit of which it is remembered when they were used."""
NEW = -1.0
"""As the longest idle time: only a new connection will do."""
SHORTEST_PASSWORD = 6
"""Characters of a proxy's password from which on messages are searched for it."""


@attrs.frozen
class CallTimeout(aiohttp.ClientTimeout):
    """The time limits of a call, which the HTTP library hands on to the pool, and one more."""

    longest_idle: float = inf
    """Seconds for which the call's connection may have been idle."""


class Route:
    """The way out of a session, for calls, uploads and downloads alike.

    The environment is read once. Raises `ConfigurationError` for certificates that cannot be used.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.allow: urls.Ranges = urls.ranges(network.allow)
        found = getproxies() if network.trust_env else {}
        self._proxies = proxies.from_environment(found)
        if network.proxy is not None:
            self._proxies = self._proxies._replace(by_scheme={"all": network.proxy})
        elif problem := proxies.unspoken(found):
            logger.warning("%s", problem, extra={"action": "proxy_passed_over"})
        # macOS and Windows keep their own list of exceptions, for the proxies in their settings.
        self._of_the_system = bool(found) and not getproxies_environment()
        self.tls: ssl.SSLContext | bool = _tls(network)

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy through which a URL is asked for; None when it is asked for directly."""
        if not self._proxies.by_scheme:
            return None
        proxy = proxies.proxy_for(url, self._proxies)
        if proxy is not None and self._of_the_system and proxy_bypass(urlsplit(url).netloc):
            return None
        return proxy

    @property
    def passwords(self) -> list[str]:
        """The passwords of the proxies, which no message may show;
        shorter ones stand in any text.
        """
        found = map(proxies.password_of, self._proxies.by_scheme.values())
        return [text for text in found if text is not None and len(text) >= SHORTEST_PASSWORD]


def _tls(network: Network) -> ssl.SSLContext | bool:
    if network.ca_file is None and network.client_cert is None:
        return True  # the library's own, which is made once for all sessions
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    if network.ca_file is not None:
        try:
            context.load_verify_locations(os.fspath(network.ca_file))
        except (OSError, ValueError) as error:
            raise _unusable("ca_file", network.ca_file, error) from None
    if network.client_cert is not None:
        given = network.client_cert
        try:
            certificate, *key = (given,) if not isinstance(given, tuple) else given
            context.load_cert_chain(certificate, key[0] if key else None)
        except (OSError, ValueError) as error:
            raise _unusable("client_cert", given, error) from None
    return context


def _unusable(field: str, value: object, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"Network({field}={value!r}): expected a usable PEM file ({error})")


class OpenSockets:
    """Makes the sockets of a connection pool, and knows them. So it can end connections whose event
    loop does not run.
    """

    def __init__(self) -> None:
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def __call__(self, info: tuple[Any, ...]) -> socket.socket:
        """Make the socket that is about to be connected to an address."""
        family, kind, protocol, _, _ = info
        made = socket.socket(family=family, type=kind, proto=protocol)
        self._sockets.add(made)
        return made

    def abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        """End all connections of a loop that has ended, or stands still."""
        for made in tuple(self._sockets):
            if loop.is_closed():
                made.close()
            else:  # it may run again, and finds the connection's end then
                with suppress(OSError):
                    made.shutdown(socket.SHUT_RDWR)


class Pool(aiohttp.TCPConnector):
    """The HTTP library's pool, which looks at a connection before it is used again."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(keepalive_timeout=IDLE_SECONDS, **settings)
        self._clock = asyncio.get_running_loop().time
        self._released: dict[ResponseHandler, float] = {}
        self._distrusted = -inf

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Any:
        """Return a connection that is new, or fit to be used again."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            longest = timeout.longest_idle if isinstance(timeout, CallTimeout) else inf
            if protocol is None or self._fit(protocol, longest):
                connection.add_callback(partial(self._note, protocol))
                return connection
            connection.close()

    def _note(self, protocol: ResponseHandler | None) -> None:
        if protocol is None or not protocol.is_connected():
            return
        self._released[protocol] = self._clock()
        if len(self._released) > 2 * self.limit + FEW:
            # The closed ones go, many at a time: weak references would cost more than all this.
            living = {each: at for each, at in self._released.items() if each.is_connected()}
            self._released = living

    def _fit(self, protocol: ResponseHandler, longest: float) -> bool:
        released = self._released.pop(protocol, None)
        if released is None:
            return True
        if protocol.should_close or released <= self._distrusted:
            return False
        return self._clock() - released <= longest and not has_unread_bytes(protocol.transport)

    def distrust(self) -> None:
        """Use no connection again that is idle now: one of its kind has just turned out dead."""
        self._distrusted = self._clock()


def has_unread_bytes(transport: asyncio.BaseTransport | None) -> bool:
    """Return whether bytes, or the end of the connection, have arrived that nobody has read yet."""
    plug = transport.get_extra_info("socket") if transport is not None else None
    if plug is None:
        return False
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([plug], [], [], 0)[0])
    poll = select.poll()
    poll.register(plug, select.POLLIN)
    return bool(poll.poll(0))
