"""The connections to the service: none is used again that may be dead or hold a foreign answer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from happyhorse_async import APIConnectionError
from happyhorse_async._edges.connections import NEW, PAID_IDLE_SECONDS, Pool
from happyhorse_async._edges.http import Http
from tests.edges.peer import Peer, Polite, answer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """An HTTP edge of its own."""
    http = Http(
        key="sk-secret",
        base_url="http://127.0.0.1:1",
        files_url="http://127.0.0.1:1",
        connect_timeout=60,
        max_connections=100,
    )
    yield http
    await http.aclose()


def pool_of(http: Http) -> Pool:
    """Return the pool of an edge that has borrowed no client."""
    assert http._pool is not None
    return http._pool


async def fill(http: Http, url: str, server: Polite, connections: int) -> None:
    """Leave so many idle connections in the pool."""
    await asyncio.gather(*(http.call("GET", url) for _ in range(connections)))
    assert len(server.connections) == connections


@pytest.mark.parametrize("read", [False, True], ids=["in the socket", "read by the loop"])
@pytest.mark.parametrize("longest_idle", [float("inf"), PAID_IDLE_SECONDS])
@pytest.mark.parametrize("status", ["200 OK", "408 Request Timeout", "502 Bad Gateway"])
async def test_an_answer_too_many_is_nobodys_answer(
    http: Http, read: bool, longest_idle: float, status: str
) -> None:
    """What a server sends on an idle connection is not taken for the next request's answer."""
    server = Polite()
    async with Peer(server) as url:
        await fill(http, url, server, 1)
        server.connections[0].write(answer(b'{"request": "of somebody else"}', status=status))
        for _ in range(5 if read else 0):
            await asyncio.sleep(0)
        response = await http.call("POST", url, body=b"{}", longest_idle=longest_idle)
        await http.aclose()
    assert response.body == b'{"request": 2}'
    assert [connection for connection, _ in server.requests] == [0, 1]


async def test_after_a_408_no_idle_connection_is_used_again(http: Http) -> None:
    """It may be an answer too many, sent when the request had left already: then each later request
    on that connection would be given the answer to the one before.
    """
    server, timed_out = Polite(), answer(b"late", status="408 Request Timeout")

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if server.connections:
            await server(reader, writer)
            return
        server.connections.append(writer)
        # The 408 meets the second request, whose true answer comes when a third one has left.
        for said in (answer(b'{"request": 1}'), timed_out, answer(b'{"request": 2}')):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2 if b"POST" in head else 0)
            server.requests.append((0, head))
            writer.write(said)

    async with Peer(late) as url:
        await fill(http, url, server, 1)
        first = await http.call("POST", url, body=b"{}", longest_idle=PAID_IDLE_SECONDS)
        then = await http.call("POST", url, body=b"{}", longest_idle=PAID_IDLE_SECONDS)
        await http.aclose()
    assert (first.status, then.status) == (408, 200)
    assert then.body == b'{"request": 3}'
    assert [connection for connection, _ in server.requests] == [0, 0, 1]


async def test_a_408_takes_the_trust_from_all_that_are_idle(http: Http) -> None:
    """A balancer that is out of step on one connection may be so on the others beside it."""
    server = Polite()
    async with Peer(server) as url:
        all_there = asyncio.Event()

        async def timed_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(b"late", status="408 Request Timeout"))
            await all_there.wait()

        async with Peer(timed_out) as other:
            await fill(http, url, server, 1)
            assert (await http.call("GET", other)).status == 408
            await http.call("POST", url, body=b"{}", longest_idle=PAID_IDLE_SECONDS)
            all_there.set()
        await http.aclose()
    assert len(server.connections) == 2


async def test_a_connection_that_the_server_has_closed_is_not_used_again(http: Http) -> None:
    """Its end lies in the socket already, although the event loop has not seen it yet."""
    server = Polite()
    async with Peer(server) as url:
        await fill(http, url, server, 1)
        server.connections[0].transport.abort()
        await asyncio.sleep(0)  # the server's side closes in its next turn
        response = await http.call("POST", url, body=b"{}", longest_idle=PAID_IDLE_SECONDS)
        await http.aclose()
    assert response.status == 200
    assert [connection for connection, _ in server.requests] == [0, 1]


@pytest.mark.parametrize(
    ("idle", "longest_idle", "used_again"),
    [
        (PAID_IDLE_SECONDS, PAID_IDLE_SECONDS, True),
        (PAID_IDLE_SECONDS + 0.1, PAID_IDLE_SECONDS, False),
        (PAID_IDLE_SECONDS + 0.1, float("inf"), True),
        (0.0, NEW, False),
    ],
)
async def test_a_paid_request_leaves_on_no_connection_that_was_idle_for_long(
    http: Http, monkeypatch: pytest.MonkeyPatch, idle: float, longest_idle: float, used_again: bool
) -> None:
    """Reads may, for they can be made again; a replay takes a new one in any case."""
    server = Polite()
    async with Peer(server) as url:
        now = 1000.0
        monkeypatch.setattr(pool_of(http), "clock", lambda: now)
        await fill(http, url, server, 1)
        now += idle
        await http.call("POST", url, body=b"{}", longest_idle=longest_idle)
        await http.aclose()
    assert len(server.connections) == (1 if used_again else 2)


async def test_a_pool_of_dead_connections_costs_one_lost_try(http: Http) -> None:
    """Once one is found dead, those that were idle beside it are not tried."""
    server, dead = Polite(), list[int]()

    async def forgetful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(server.connections)
        server.connections.append(writer)
        while number not in dead:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2 if b"POST" in head else 0)
            if number in dead:
                break
            await all_there.wait()
            writer.write(answer())
        server.requests.append((number, b"lost"))
        writer.transport.abort()

    all_there = asyncio.Event()
    async with Peer(forgetful) as url:
        calls = [asyncio.ensure_future(http.call("GET", url)) for _ in range(10)]
        while len(server.connections) < 10:
            await asyncio.sleep(0)
        all_there.set()
        await asyncio.gather(*calls)
        dead.extend(range(10))
        with pytest.raises(APIConnectionError) as caught:
            await http.call("POST", url, body=b"{}", longest_idle=PAID_IDLE_SECONDS)
        assert caught.value.sent is True
        response = await http.call("POST", url, body=b"{}", longest_idle=PAID_IDLE_SECONDS)
        await http.aclose()
    assert response.status == 200
    assert len(server.requests) == 1


async def test_a_replay_through_a_borrowed_client_leaves_on_a_new_connection() -> None:
    """Its pool is its owner's, and stays as it is."""
    server = Polite()
    async with Peer(server) as url, aiohttp.ClientSession() as client:
        http = Http(
            key="k",
            base_url=url,
            files_url=url,
            connect_timeout=60,
            max_connections=1,
            client=client,
        )
        for idle in (PAID_IDLE_SECONDS, PAID_IDLE_SECONDS, NEW, PAID_IDLE_SECONDS):
            await http.call("POST", url, body=b"{}", longest_idle=idle)
        await http.aclose()
    assert [connection for connection, _ in server.requests] == [0, 0, 1, 0]


async def test_an_answer_that_lies_in_the_socket_wins_over_its_overdue_timer(http: Http) -> None:
    """A process that was stopped reads what has arrived before its time limit strikes."""
    loop = asyncio.get_running_loop()

    async def stopping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(answer(b'{"id": 1}'))
        awake = loop.time() + 1.2
        while loop.time() < awake:  # as if the process was stopped: the loop does nothing else
            pass
        writer.close()

    async with Peer(stopping) as url:
        response = await http.call("POST", url, body=b"{}", timeout=1.0)
    assert response.body == b'{"id": 1}'


def test_a_machine_whose_tls_cannot_be_set_up_is_told(tmp_path: Path) -> None:
    """The HTTP library reads SSLKEYLOGFILE when it is loaded. Virus scanners set that to what no
    program may write; it left a traceback.
    """
    variables = {"SSLKEYLOGFILE": str(tmp_path / "none" / "x"), "EVOLINK_API_KEY": "k" * 20}
    command = [sys.executable, "-m", "happyhorse_async", "batch", "status", str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Python's TLS cannot be set up on this machine")
    assert "Unset SSLKEYLOGFILE" in done.stderr
