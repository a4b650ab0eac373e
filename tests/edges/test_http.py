"""The HTTP edge: everything that the HTTP library can raise becomes one of our errors, with the
certainty that follows from it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from happyhorse_async import APIConnectionError, APITimeoutError, TransportError
from happyhorse_async._edges.http import USER_AGENT, Http, transport_error
from tests.edges.peer import Peer, answer

pytestmark = pytest.mark.anyio


def edge(
    url: str = "http://127.0.0.1:1",
    *,
    connect_timeout: float = 60,
    client: aiohttp.ClientSession | None = None,
) -> Http:
    """Make an HTTP edge."""
    return Http(
        key="sk-secret",
        base_url=url,
        files_url=url,
        connect_timeout=connect_timeout,
        max_connections=4,
        client=client,
    )


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """An HTTP edge of its own."""
    http = edge()
    yield http
    await http.aclose()


async def test_a_refused_connection_was_never_sent(http: Http) -> None:
    """No listener, no request: the failure is certain to have changed nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(APIConnectionError) as caught:
            await http.call("POST", url, body=b"{}")
    assert caught.value.sent is False


async def test_a_name_that_does_not_resolve_was_never_sent(http: Http) -> None:
    """A DNS failure is certain."""
    with pytest.raises(APIConnectionError) as caught:
        await http.call("POST", "http://does-not-exist.invalid/", body=b"{}")
    assert caught.value.sent is False


async def test_a_failed_handshake_was_never_sent(http: Http) -> None:
    """A peer that does not speak TLS never sees the request."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    async with Peer(plain) as url:
        with pytest.raises(APIConnectionError) as caught:
            await http.call("POST", url.replace("http:", "https:"), body=b"{}")
    assert caught.value.sent is False


async def test_a_connection_cut_after_the_request_may_have_been_sent(http: Http) -> None:
    """Once the body is on its way, nobody can say that it did not arrive."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.close()

    async with Peer(cut) as url:
        with pytest.raises(APIConnectionError) as caught:
            await http.call("POST", url, body=b"{}")
    assert caught.value.sent is True


async def test_a_silent_peer_times_out(http: Http) -> None:
    """No answer within the limit is a time-out that may have been sent, and a TimeoutError."""
    done = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    async with Peer(silent) as url:
        with pytest.raises(TimeoutError, match=r"no answer within 0\.5 s") as caught:
            await http.call("POST", url, body=b"{}", timeout=0.5)
        done.set()
    assert isinstance(caught.value, APITimeoutError)
    assert caught.value.sent is True


async def test_a_redirect_is_an_answer_and_is_not_followed(http: Http) -> None:
    """A POST must not wander to another place, and the key must not go with it."""
    seen: list[bytes] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\n"
            b"Content-Length: 0\r\n\r\n"
        )
        await writer.drain()
        writer.close()

    async with Peer(redirect) as url:
        answer = await http.call("GET", f"{url}/x")
    assert answer.status == 307
    assert b"Authorization: Bearer sk-secret" in seen[0]
    assert f"User-Agent: {USER_AGENT}".encode() in seen[0]


async def test_bytes_that_are_no_http_are_a_connection_error(http: Http) -> None:
    """A peer that speaks something else gives an error of ours, not of the parser."""

    async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    async with Peer(noise) as url:
        with pytest.raises(APIConnectionError):
            await http.call("GET", url)


@pytest.mark.parametrize(
    "foreign",
    [
        RuntimeError("unable to perform operation on <UVPoll>; the handler is closed"),
        AttributeError("'NoneType' object has no attribute 'get_extra_info'"),
        AssertionError(),
        aiohttp.ClientPayloadError("gone"),
        IndexError("pop from an empty deque"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_the_library_breaks_on_is_an_error_of_ours(
    http: Http, foreign: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loops and libraries break in other ways too on a connection that is lost at a bad moment."""

    async def broken(*_: object, **__: object) -> None:
        raise foreign

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", broken)
    with pytest.raises(APIConnectionError, match=type(foreign).__name__) as caught:
        await http.call("POST", "http://127.0.0.1:1/", body=b"{}")
    assert caught.value.sent is False


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (aiohttp.ConnectionTimeoutError("x"), APITimeoutError, "GET u: no connection"),
        (TimeoutError(), APITimeoutError, "GET u: no answer within 3 s"),
        (
            aiohttp.ServerDisconnectedError("gone"),
            APIConnectionError,
            "GET u: ServerDisconnectedError: gone",
        ),
        (OSError(5, "bad"), APIConnectionError, "GET u: OSError: [Errno 5] bad"),
    ],
)
async def test_foreign_errors_are_mapped_by_kind(
    error: Exception, kind: type[TransportError], text: str
) -> None:
    """Time-outs become time-outs, everything else a connection error that names the call."""
    mapped = transport_error(error, "GET u", sent=True, timeout=3)
    assert type(mapped) is kind
    assert str(mapped) == text


async def test_a_borrowed_client_is_used_and_not_closed() -> None:
    """Who brings a pool keeps it."""
    async with aiohttp.ClientSession() as client:
        http = Http(
            key="k",
            base_url="u",
            files_url="u",
            connect_timeout=1,
            max_connections=1,
            client=client,
        )
        await http.aclose()
        assert not client.closed


class Cache:
    """A cache on the way: it answers from its store, unless it is asked not to."""

    def __init__(self) -> None:
        self._stored = b""
        self._asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer with the number of the request that reached the service."""
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            self._asked += 1
            if not self._stored or b"\r\ncache-control: no-cache\r\n" in head:
                self._stored = answer(b'{"request": %d}' % self._asked, "Age: 1")
            writer.write(self._stored)
            await writer.drain()


@pytest.mark.parametrize("borrowed", [False, True])
async def test_a_cache_on_the_way_never_tells_how_it_was(borrowed: bool) -> None:
    """Else a task would stay unfinished for ever, and a list would hide what was just paid for."""
    async with Peer(Cache()) as url, aiohttp.ClientSession() as client:
        http = edge(url, client=client if borrowed else None)
        bodies = [(await http.call("GET", url)).body for _ in range(2)]
        await http.aclose()
    assert bodies == [b'{"request": 1}', b'{"request": 2}']


async def scarce(*_: object, **__: object) -> list[object]:
    """Look a name up where containers give no more threads."""
    raise RuntimeError("can't start new thread")


async def homeless(*_: object, **__: object) -> list[object]:
    """Look a name up as Python without IPv6 does: it finds no address for some."""
    return []


@pytest.mark.parametrize(
    ("look_up", "told"), [(scarce, "can't start new thread"), (homeless, "no address")]
)
async def test_a_name_that_cannot_be_looked_up_is_a_call_that_never_left(
    monkeypatch: pytest.MonkeyPatch, look_up: Callable[..., Any], told: str
) -> None:
    """The library breaks on both; of the call it is known that nothing was sent."""
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    http = edge()
    with pytest.raises(APIConnectionError, match=told) as caught:
        await http.call("POST", "http://cdn.example.com/", body=b"{}")
    assert caught.value.sent is False
    await http.aclose()


async def test_no_other_resolver_is_used_because_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The HTTP library takes one that knows no other network than the first, and not every loop."""

    def foreign(*_: object, **__: object) -> None:
        raise RuntimeError("aiodns needs a SelectorEventLoop on Windows")

    monkeypatch.setattr("aiohttp.connector.DefaultResolver", foreign)
    await edge().aclose()


async def test_the_time_for_a_connection_holds_for_the_look_up_of_the_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resolver that never answers holds no call up: it was never sent."""

    async def silent(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", silent)
    http = edge(connect_timeout=0.05)
    async with asyncio.timeout(100):
        with pytest.raises(APITimeoutError, match="no connection") as caught:
            await http.call("POST", "http://silent.example/", body=b"{}")
    assert caught.value.sent is False
    await http.aclose()
