"""The sandbox without a socket and on another clock:
what a simulation of a whole night builds on.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from benchmarks import virtual
from happyhorse_async.sandbox import Fault, Sandbox
from tests.sandbox.conftest import Wire

LATENCY = 0.01


class Pipe(asyncio.Transport):
    """One end of a connection in memory; what is written arrives a moment later at the other."""

    def __init__(self) -> None:
        super().__init__()
        self.peer: Pipe = self
        self.protocol: asyncio.Protocol = asyncio.Protocol()
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def is_closing(self) -> bool:
        return self._closing

    def get_protocol(self) -> asyncio.Protocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def pause_reading(self) -> None:
        """Hold nothing back: a test's answers are small."""

    resume_reading = pause_reading

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._later(self.peer.receive, bytes(data))

    def writelines(self, chunks: Any) -> None:
        self.write(b"".join(chunks))

    def receive(self, data: bytes) -> None:
        if not self._closing:
            self.protocol.data_received(data)

    def close(self) -> None:
        self._end(None)
        self._later(self.peer._end, None)

    def abort(self) -> None:
        reset = ConnectionResetError("reset")
        self._end(reset)
        self._later(self.peer._end, reset)

    def _end(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)

    def _later(self, do: Any, *arguments: Any) -> None:
        asyncio.get_running_loop().call_later(LATENCY, do, *arguments)


class Connector(aiohttp.TCPConnector):
    """Connects to a sandbox, whose protocol stands at the other end of a pipe."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(force_close=True)
        self._sandbox = sandbox

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        here, there = Pipe(), Pipe()
        here.peer, there.peer = there, here
        here.protocol, there.protocol = self._factory(), self._sandbox.connect(str(req.url))
        there.protocol.connection_made(there)
        here.protocol.connection_made(here)
        return here.protocol


def simulated(sandbox_seed: int, night: Any) -> Any:
    """Run a night with a sandbox in memory and in virtual time, and return what it returns."""

    async def _go() -> Any:
        loop = asyncio.get_running_loop()
        async with (
            Sandbox(
                video="stub", host=None, real=loop.time, start=1_800_000_000, seed=sandbox_seed
            ) as sandbox,
            aiohttp.ClientSession(connector=Connector(sandbox)) as http,
        ):
            return await night(Wire(sandbox, http))

    return virtual.run(_go())


async def a_video(wire: Wire) -> list[Any]:
    """Submit, wait for the end, and fetch the video; return all that could differ."""
    task_id = await wire.accepted(seed=7)
    reads = 0
    while (view := await wire.task(task_id))["status"] != "completed":
        reads += 1
        await asyncio.sleep(8)
    video = await wire.download(view["results"][0])
    assert video.status == 200
    log = [(record.at, record.path, record.status) for record in wire.sandbox.requests]
    return [task_id, view, reads, video.body, log, dict(video.headers)]


def test_a_whole_life_passes_in_virtual_time() -> None:
    """A task of minutes is submitted, waited for and fetched over pipes, in no time at all."""
    task_id, view, reads, *_ = simulated(1, a_video)
    assert task_id.startswith("task-unified-1800000000-")
    assert 60 <= view["duration"] <= 2400
    assert reads >= 7


def test_equal_seeds_give_equal_nights() -> None:
    """Ids, times, answers, headers and bytes are the same for one seed, and others for another."""
    assert simulated(1, a_video) == simulated(1, a_video)
    assert simulated(1, a_video)[0] != simulated(2, a_video)[0]


@pytest.mark.parametrize("action", ["drop-before", "drop-after", "hang-after"])
def test_faults_end_connections_in_memory_too(action: str) -> None:
    """There is no socket to reset, and the client sees the loss all the same."""

    async def night(wire: Wire) -> int:
        details = {"seconds": 30.0} if action == "hang-after" else {}
        wire.sandbox.fail(Fault(action, **details))
        with pytest.raises(aiohttp.ClientError):
            await wire.submit()
        return wire.sandbox.paid

    assert simulated(1, night) == (0 if action == "drop-before" else 1)


def test_a_body_that_is_cut_in_memory_is_an_error() -> None:
    """The announced length does not come, and the connection is reset."""

    async def night(wire: Wire) -> None:
        link = await wire.completed()
        wire.sandbox.fail(Fault("reset", bytes=100))
        with pytest.raises(aiohttp.ClientError):
            await wire.download(link)

    simulated(1, night)


def test_callbacks_leave_through_the_connector_that_was_given() -> None:
    """With `connector` nothing of the sandbox needs a socket; here it refuses every host."""

    async def night() -> list[Any]:
        loop = asyncio.get_running_loop()
        sandbox = Sandbox(
            video="stub",
            host=None,
            real=loop.time,
            start=0,
            connector=lambda: Connector(sandbox),
        )
        async with sandbox, aiohttp.ClientSession(connector=Connector(sandbox)) as http:
            await Wire(sandbox, http).accepted(callback_url="https://example.com/hook")
            sandbox.finish()
            await asyncio.sleep(10)
            return [(record.attempt, record.status) for record in sandbox.callbacks]

    assert virtual.run(night()) == [(1, None), (2, None), (3, None), (4, None)]


def test_nothing_listens_elsewhere() -> None:
    """A URL that is not the sandbox's is refused, as a port without a listener refuses."""

    async def night(wire: Wire) -> None:
        with pytest.raises(ConnectionRefusedError, match="example"):
            wire.sandbox.connect("http://example.com/x")

    simulated(1, night)
