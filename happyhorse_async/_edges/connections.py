"""The way out: through which proxy, with whose certificates, on which connections.

No connection is handed out that may be dead or hold a foreign answer. Gateways and NATs forget idle
connections without a word. A request on such a connection is lost, and of a paid one nobody knows
whether it arrived. A server may also send an answer too many. The HTTP library would take it for
the answer to the next request on that connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass
from weakref import WeakSet

import attrs

from .._concurrency import is_ending
from .._config import Network
from .._formats import proxies, urls
from ..errors import ConfigurationError

try:
    # It reads the machine's certificates at once, and SSLKEYLOGFILE. All that speaks HTTP loads
    # this module first.
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult
except OSError as error:
    raise ConfigurationError(
        f"Python's TLS cannot be set up on this machine: {error}",
        next_step="Unset SSLKEYLOGFILE (virus scanners set it too), or name a file that can be "
        "written."
        if os.environ.get("SSLKEYLOGFILE")
        else "Look for a broken certificate in the system's store, and in SSL_CERT_FILE and "
        "OPENSSL_CONF.",
    ) from error

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

    @property
    def has_proxies(self) -> bool:
        """Whether some URLs may be asked for through a proxy."""
        return bool(self._proxies.by_scheme)

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

    def abandon(self, *, close: bool) -> None:
        """Close all sockets, when their loop runs no more. Else end the connections, which it finds
        once it runs again.
        """
        for made in tuple(self._sockets):
            if close:
                made.close()
            else:
                with suppress(OSError):
                    made.shutdown(socket.SHUT_RDWR)

    def disown(self) -> None:
        """Let go of all connections, in a forked child, without a word to the other side. Their
        descriptors stay taken, for their loop may still close them by number.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        for made in tuple(self._sockets):
            if made.fileno() >= 0:
                os.dup2(nothing, made.fileno(), inheritable=False)
        os.close(nothing)


class Names(aiohttp.ThreadedResolver):
    """Looks names up as the system does, whatever other resolvers are installed: those know the
    name servers of the network in which they began, and a laptop changes it.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look a name up. A lack of threads passes: it is an error of the system's, as others."""
        try:
            found = await super().resolve(host, port, family)
        except RuntimeError as error:
            if not is_ending():
                raise OSError(errno.EAGAIN, f"no name can be looked up now: {error}") from error
            here: Any = _Here()
            found = await aiohttp.ThreadedResolver(here).resolve(host, port, family)
        if not found:  # the library breaks on that
            raise OSError(errno.EADDRNOTAVAIL, "the name has no address that can be used here")
        return found


class _Here:
    """Looks names up without a thread, when Python gives none any more; see `hand_over`."""

    async def getaddrinfo(self, *place: Any, **facts: Any) -> Any:
        """Look a name up, as a loop does."""
        return socket.getaddrinfo(*place, **facts)

    async def getnameinfo(self, *place: Any) -> Any:
        """Name an address, as a loop does."""
        return socket.getnameinfo(*place)


class Pool(aiohttp.TCPConnector):
    """The HTTP library's pool, which looks at a connection before it is used again."""

    def __init__(self, *, resolver: AbstractResolver | None = None, **settings: Any) -> None:
        resolver = resolver if resolver is not None else Names()
        super().__init__(keepalive_timeout=IDLE_SECONDS, resolver=resolver, **settings)
        self.clock: Callable[[], float] = asyncio.get_running_loop().time
        self._known: dict[ResponseHandler, _Known] = {}
        self._distrusted = -inf

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Any:
        """Return a connection that is new, or fit to be used again."""
        longest = timeout.longest_idle if isinstance(timeout, CallTimeout) else inf
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None:
                return connection
            known = self._known.get(protocol)
            if known is None:
                known = self._meet(protocol)
            elif (
                protocol.should_close
                or known.released <= self._distrusted
                or self.clock() - known.released > longest
                or known.has_unread()
            ):
                self.forget(protocol)
                connection.close()
                continue
            connection.add_callback(known.release)
            return connection

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        # The library's own limit begins after the look-up of the name, and leaves out a proxy's
        # answer. What waits for a place in the pool is not meant.
        async with asyncio.timeout(timeout.sock_connect):
            return await super()._create_connection(req, traces, timeout)

    def _meet(self, protocol: ResponseHandler) -> _Known:
        if len(self._known) > 2 * self.limit + FEW:
            # The closed ones go, many at a time: weak references would cost more than all this.
            self._known = {
                each: known for each, known in self._known.items() if each.is_connected()
            }
        known = self._known[protocol] = _Known(protocol, self)
        return known

    def forget(self, protocol: ResponseHandler) -> None:
        """Remember a connection no more: it is closed, or about to be."""
        self._known.pop(protocol, None)

    def distrust(self) -> None:
        """Use no connection again that is idle now: one of its kind has just turned out dead."""
        self._distrusted = self.clock()


class _Known:
    """A connection of the pool: since when it is idle, and how to look at it.

    Kept as long as the connection: to make it anew for each request would cost more than the look.
    """

    __slots__ = ("_pool", "_protocol", "has_unread", "released")

    def __init__(self, protocol: ResponseHandler, pool: Pool) -> None:
        self.released = inf
        """When it was given back last."""
        self.has_unread = _look_at(protocol.transport)
        """Asks whether bytes, or the connection's end, have arrived that nobody has read yet."""
        self._protocol = protocol
        self._pool = pool

    def release(self) -> None:
        """Note that it was given back."""
        if self._protocol.is_connected():
            self.released = self._pool.clock()
        else:
            self._pool.forget(self._protocol)


def _look_at(transport: asyncio.BaseTransport | None) -> Callable[[], object]:
    """Return what asks the system whether a connection's socket can be read."""
    plug = transport.get_extra_info("socket") if transport is not None else None
    if plug is None:
        return lambda: False
    if not hasattr(select, "poll"):  # Windows
        return lambda: select.select([plug], [], [], 0)[0]
    poll = select.poll()
    poll.register(plug, select.POLLIN)
    return partial(poll.poll, 0)
