"""The connections to a host: none is handed out that may be dead or hold a foreign answer.

Gateways and NATs forget idle connections without a word. A request on such a connection is lost,
and of a paid one nobody knows whether it arrived. A server may also send an answer too many, which
the HTTP library would take for the answer to the next request on that connection.
"""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import aiohttp
import attrs

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

IDLE_SECONDS = 60.0
"""A connection that was idle for longer is closed. Reads come every few seconds, and can be made
again."""
PAID_IDLE_SECONDS = 4.0
"""A paid request leaves on a connection that was idle for so long at most. Some servers close idle
connections after five seconds."""
NEW = -1.0
"""As the longest idle time: only a new connection will do."""


@attrs.frozen
class CallTimeout(aiohttp.ClientTimeout):
    """The time limits of a call, which the HTTP library hands on to the pool, and one more."""

    longest_idle: float = inf
    """Seconds for which the call's connection may have been idle."""


class OpenSockets:
    """Makes the sockets of a connection pool, and knows them: the way to end connections whose
    event loop does not run.
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
        self._released: WeakKeyDictionary[ResponseHandler, float] = WeakKeyDictionary()
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
        if protocol is not None:
            self._released[protocol] = self._clock()

    def _fit(self, protocol: ResponseHandler, longest: float) -> bool:
        released = self._released.get(protocol)
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
