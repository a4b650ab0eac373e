"""A network in memory: pairs of transports with latency, cuts at any byte, stalls and silent
deaths.

Addresses are those of really bound sockets, so that the client and the server under test run as
they are.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from tests.simulation.loop import Loop, World


@attrs.define
class Weather:
    """What the network does to connections; each chance is that of one write, or of one
    connection.
    """

    refuse: float = 0.0
    """A connection is refused."""
    cut: float = 0.0
    """A write is cut at some byte, and the connection with it."""
    stall: float = 0.0
    """A write arrives minutes later."""
    longest_stall: float = 900.0
    silent: float = 0.0
    """A connection dies without a word: nothing arrives any more in either direction."""
    slow: float = 0.02
    """Longest latency in seconds."""

    @classmethod
    def fair(cls) -> Weather:
        """Return a network on which nothing goes wrong."""
        return cls()


class _Options:
    """What stands for a socket where somebody sets its options."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP

    def __init__(self, quiet: int) -> None:
        self.lingers = False
        self._quiet = quiet

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        """Take note of an option; lingering for no time makes closing a reset."""
        self.lingers |= option == socket.SO_LINGER

    def getsockopt(self, *which: Any) -> int:
        """Return what is usual."""
        return 0

    def fileno(self) -> int:
        """Return a descriptor on which there is never anything to read."""
        return self._quiet


HEADS = b"HTTP/", b"GET ", b"POST ", b"DELETE "
"""How a message begins whose first line stands in the trace."""


class Pipe(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: Network, loop: Loop, local: Any, remote: Any) -> None:
        super().__init__()
        self._network = network
        self.number = network.connections
        self.loop = loop
        self._addresses = local, remote
        self.protocol: Any = None
        self.peer: Pipe | None = None
        self.sock: socket.socket | None = None
        self.options = _Options(network.quiet)
        self.closed = False
        self.silent = False
        self._paused = False
        self._held: list[bytes] = []
        self._at = 0.0
        self._ended = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        facts = {
            "sockname": self._addresses[0],
            "peername": self._addresses[1],
            "socket": self.options,
        }
        return facts.get(name, default)

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        held, self._held = self._held, []
        for data in held:
            self.loop.call_soon(self._receive, data)

    def is_reading(self) -> bool:
        return not self._paused

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        if self.closed or self.peer is None:
            return
        network, data, weather = self._network, bytes(data), self._network.weather
        if data.startswith(HEADS):
            first = data[: data.find(b"\r\n")].decode("latin-1")
            network.note(f"{self.number} {self.loop.name}: {first}")
        chance = network.world.chance
        if weather.silent and chance.random() < weather.silent:
            self.silent = self.peer.silent = True
            network.note("a connection dies silently")
        if self.silent:
            return
        if weather.cut and chance.random() < weather.cut:
            keep = chance.randrange(len(data) + 1)
            network.note(f"cut after {keep} of {len(data)} bytes")
            self._send(data[:keep])
            self.abort()
            return
        if weather.stall and chance.random() < weather.stall:
            self._at = max(self._at, network.world.now + chance.uniform(30, weather.longest_stall))
            network.note("a write stalls")
        self._send(data)

    def _send(self, data: bytes) -> None:
        peer, world = self.peer, self._network.world
        self._at = max(
            self._at, world.now + world.chance.uniform(0.0002, self._network.weather.slow)
        )
        if data and peer is not None:
            peer.loop.call_at(self._at, peer._receive, data)

    def _receive(self, data: bytes) -> None:
        if self.closed or self.silent:
            return
        if self._paused:
            self._held.append(data)
        else:
            self.protocol.data_received(data)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(bytes(data) for data in list_of_data))

    def close(self) -> None:
        if self.options.lingers:
            self.abort()
        else:
            self._end(None, max(self._at, self._network.world.now) + 0.001)

    def abort(self) -> None:
        self._end(ConnectionResetError("cut"), max(self._at, self._network.world.now))

    def _end(self, error: Exception | None, when: float) -> None:
        if self.closed:
            return
        self.closed = True
        self.loop.call_soon(self._lose, error)
        if self.peer is not None and not self.silent:
            self.peer.loop.call_at(when, self.peer._gone, error)

    def _gone(self, error: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._network.pipes.pop(self, None)
            if self.sock is not None:
                self.sock.close()
            self.protocol.connection_lost(error)


class _Server:
    """What `create_server` returns."""

    def __init__(self, network: Network, address: Any, sock: socket.socket) -> None:
        self._network, self._address, self.sockets = network, address, (sock,)

    def close(self) -> None:
        self._network.servers.pop(self._address, None)
        for sock in self.sockets:
            sock.close()

    async def wait_closed(self) -> None:
        """Return at once: nothing is accepted any more."""

    def is_serving(self) -> bool:
        return self._address in self._network.servers


QUIET = os.pipe()
"""A pipe into which nobody ever writes."""


class Network:
    """All that listens, and all connections."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.weather = Weather.fair()
        self.names: dict[str, str] = {}
        self.servers: dict[Any, tuple[Loop, Callable[[], Any]]] = {}
        self.pipes: dict[Pipe, None] = {}
        self.down = False
        """Nothing can be reached, as during an outage."""
        self._dialled: dict[int, Any] = {}
        self.connections = 0
        self.quiet = QUIET[0]

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.world.note(text)

    async def connect(self, loop: Loop, sock: socket.socket, address: Any) -> None:
        """Wait for the other side to accept, or raise as a refused connection does."""
        chance = self.world.chance
        await asyncio.sleep(chance.uniform(0.001, 0.02))
        if (
            self.down
            or tuple(address[:2]) not in self.servers
            or (self.weather.refuse and chance.random() < self.weather.refuse)
        ):
            raise ConnectionRefusedError(111, "refused by the simulated network")
        self._dialled[sock.fileno()] = tuple(address[:2])

    def open(self, loop: Loop, sock: socket.socket, factory: Callable[[], Any]) -> tuple[Pipe, Any]:
        """Make both ends of a connection."""
        address = self._dialled.pop(sock.fileno())
        server = self.servers.get(address)
        if server is None:
            sock.close()
            raise ConnectionResetError("the server has gone away")
        other_loop, other_factory = server
        self.connections += 1
        here = ("127.0.0.1", 20000 + self.connections % 40000)
        near, far = Pipe(self, loop, here, address), Pipe(self, other_loop, address, here)
        near.peer, far.peer, near.sock = far, near, sock
        near.protocol, far.protocol = factory(), other_factory()
        self.pipes |= {near: None, far: None}
        other_loop.call_soon(far.protocol.connection_made, far)
        near.protocol.connection_made(near)
        return near, near.protocol

    def serve(self, loop: Loop, sock: socket.socket, factory: Callable[[], Any]) -> _Server:
        """Accept connections at a socket's address."""
        address = sock.getsockname()[:2]
        self.servers[address] = loop, factory
        return _Server(self, address, sock)

    def wake(self, how: str) -> None:
        """Let our machine wake up: its connections have been "reset" meanwhile, are "silent", or go
        on.
        """
        for pipe in [
            pipe for pipe in self.pipes if pipe.sock is not None and pipe.peer is not None
        ]:
            if how == "silent":
                pipe.silent = pipe.peer.silent = True  # type: ignore[union-attr]
            elif how == "reset":
                pipe.peer.abort()  # type: ignore[union-attr]

    def orphan(self, loop: Loop) -> None:
        """Cut what a killed process had open."""
        for pipe in [pipe for pipe in self.pipes if pipe.loop is loop]:
            pipe.closed = pipe._ended = True
            self.pipes.pop(pipe, None)
            if pipe.sock is not None:
                pipe.sock.close()
            if pipe.peer is not None and not pipe.silent:
                pipe.peer.loop.call_at(
                    self.world.now + 0.001, pipe.peer._gone, ConnectionResetError("killed")
                )
        for address in [address for address, (home, _) in self.servers.items() if home is loop]:
            del self.servers[address]
