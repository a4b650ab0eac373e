"""Hostile and odd answers: each one ends within its limits, in an error of ours or in an answer."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import threading
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from happyhorse_async import (
    APIConnectionError,
    APITimeoutError,
    HappyHorseError,
    Network,
    Timeouts,
    UnreadableAnswerError,
)
from happyhorse_async._edges.connections import Route
from happyhorse_async._edges.fetch import Fetcher
from happyhorse_async._edges.http import Http
from happyhorse_async._formats import json_text
from happyhorse_async._formats.texts import Redactor
from happyhorse_async._rules import wire
from tests.edges.peer import Peer, answer

pytestmark = pytest.mark.anyio

KEY = "sk/secret+0123456789abcdef"
LIMIT = 64 * 1024


@asynccontextmanager
async def edge(network: Network, base_url: str = "http://127.0.0.1:1") -> AsyncIterator[Http]:
    """Open an HTTP edge."""
    http = Http(
        key=KEY,
        base_url=base_url,
        files_url="http://127.0.0.1:1",
        connect_timeout=60,
        max_connections=4,
        route=Route(network),
    )
    yield http
    await http.aclose()


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """An HTTP edge that takes answers of 64 KiB at most."""
    async with edge(Network(max_answer_bytes=LIMIT)) as http:
        yield http


def saying(*pieces: bytes, for_ever: bool = False) -> Peer:
    """Make a server that says the same to everyone, the last piece for ever if so wished."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
        while for_ever:
            writer.write(pieces[-1])
            await writer.drain()

    return Peer(speak)


# --- too much -------------------------------------------------------------------------------------

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TOO_MUCH = [
    (answer(b"x" * (LIMIT + 1)), b""),
    (answer(gzip.compress(b" " * 30_000_000), "Content-Encoding: gzip"), b""),
    (PLAIN + b"\r\n{", b" " * 10_000),
    (PLAIN + b"Transfer-Encoding: chunked\r\n\r\n", b"4000\r\n" + b" " * 0x4000 + b"\r\n"),
    (PLAIN + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 2000),
]


@pytest.mark.parametrize(
    ("head", "endless"), TOO_MUCH, ids=["long", "gzip", "no length", "chunks", "small chunks"]
)
async def test_an_answer_without_end_is_given_up_at_the_limit(
    http: Http, head: bytes, endless: bytes
) -> None:
    """The error names the setting; the connection is closed, so the server can send no more."""
    async with saying(head, endless, for_ever=bool(endless)) as url:
        with pytest.raises(UnreadableAnswerError, match="is larger than 65,536 bytes") as caught:
            await http.call("GET", url)
    assert "Network(max_answer_bytes=...)" in caught.value.next_step
    assert caught.value.status == 200


async def test_an_answer_of_exactly_the_limit_is_read(http: Http) -> None:
    """Plain, without a length, in pieces, or compressed."""
    body = b"x" * LIMIT
    for said in (
        answer(body),
        PLAIN + b"\r\n" + body,
        PLAIN + b"Transfer-Encoding: chunked\r\n\r\n10000\r\n" + body + b"\r\n0\r\n\r\n",
        answer(gzip.compress(body), "Content-Encoding: gzip"),
    ):
        async with saying(said) as url:
            assert (await http.call("GET", url)).body == body


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip"])
async def test_an_encoding_that_cannot_be_read_is_no_answer(http: Http, encoding: str) -> None:
    """Nobody asked for it, or it is broken; what became of the request is not known."""
    async with saying(answer(b"\x8b\x00\x80", f"Content-Encoding: {encoding}")) as url:
        with pytest.raises(UnreadableAnswerError, match="cannot be read"):
            await http.call("POST", url, body=b"{}")


@pytest.mark.parametrize(
    ("unit", "sign"), [(rb"\ud83d", "\ufffd"), (rb"\u0073", "s"), (rb"\/", "/"), (rb"\n", "\n")]
)
async def test_megabytes_of_escapes_are_looked_at_in_a_thread(
    unit: bytes, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds of it would hold up everybody else. What is told is what it was, without the key
    and without halves of characters.
    """
    threads: list[int] = []
    real = Redactor.body

    def noted(self: Redactor, body: bytes) -> bytes:
        threads.append(threading.get_ident())
        return real(self, body)

    monkeypatch.setattr(Redactor, "body", noted)
    monkeypatch.setattr(json_text, "_patient", refuse)
    hidden = "".join(f"\\u{ord(one):04x}" for one in KEY).encode()
    body = b'{"id":"' + unit * 50_000 + b'","key":"' + hidden + b'"}'
    async with edge(Network()) as http, saying(answer(body)) as url:
        told = (await http.call("GET", url)).body
    if json_text._fast is None:
        monkeypatch.undo()
    shown = json_text.loads(told)
    assert (len(shown["id"]), shown["key"]) == (50_000, "***")
    assert set(shown["id"]) == {sign}
    assert threads
    assert threading.get_ident() not in threads


def refuse(_: bytes) -> None:
    """Stand for the reader that is slow with escapes."""
    raise AssertionError("it was read the slow way, in the event loop")


@pytest.mark.parametrize("own", [True, False])
async def test_only_the_services_own_clock_can_leap(own: bool) -> None:
    """The file service has another, which may be days behind: that is no time that has passed."""
    dates = iter(["Sun, 01 Nov 2026 00:00:00 GMT", "Tue, 03 Nov 2026 00:00:00 GMT"])

    async def tell(_: web.Request) -> web.Response:
        return web.json_response({}, headers={"Date": next(dates)})

    app = web.Application()
    app.router.add_get("/", tell)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        async with edge(Network(), url if own else "http://127.0.0.1:1") as http:
            for _ in range(2):
                await http.call("GET", url)
            assert (http.leap() > 86_400) is own


# --- no end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "endless"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Some: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 50),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 50),
    ],
    ids=["headers", "informational answers"],
)
async def test_a_head_without_end_ends_in_an_error(http: Http, head: bytes, endless: bytes) -> None:
    """By the library's limits, or by the time limit of the call."""
    async with saying(head, endless, for_ever=True) as url:
        with pytest.raises((APITimeoutError, APIConnectionError)):
            await http.call("GET", url, timeout=0.3)


async def test_an_answer_that_drips_ends_at_the_time_limit(http: Http) -> None:
    """The limit counts for the whole answer: bytes that come now and then do not prolong it."""
    dripped = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in answer()[:-1]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        dripped.set()
        await reader.read()

    async with Peer(drip) as url:
        with pytest.raises(APITimeoutError):
            await http.call("GET", url, timeout=0.3)
    assert dripped.is_set()


# --- long lines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["calls", "downloads"])
@pytest.mark.parametrize("size", [60_000, 70_000])
async def test_header_lines_may_have_64_kib(http: Http, client: str, size: int) -> None:
    """Of both clients; a longer one is an error of ours."""
    fetcher = Fetcher(timeouts=Timeouts(), allow_loopback=True)
    async with saying(answer(b"{}", "Policy: " + "a" * size)) as url:
        try:
            if client == "calls":
                headers = (await http.call("GET", url)).headers
            else:
                async with await fetcher.open(f"{url}/v.mp4", {}) as stream:
                    headers = stream.headers
        except APIConnectionError:
            assert size > LIMIT
        else:
            assert len(headers["Policy"]) == size
    await fetcher.aclose()


async def test_a_long_redirect_is_followed() -> None:
    """Signed redirects of some stores are longer than what HTTP libraries take by default."""
    asked: list[bytes] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b" HTTP")[0])
        target = f"/there?X-Signature={'a%2Fb' * 10_000}"
        found = answer(b"", f"Location: {target}", status="302 Found")
        writer.write(found if len(asked) == 1 else answer())

    fetcher = Fetcher(timeouts=Timeouts(), allow_loopback=True)
    async with Peer(redirect) as url:
        async with await fetcher.open(f"{url}/v.mp4", {}) as stream:
            assert stream.status == 200
        await fetcher.aclose()
    assert asked[1] == b"GET /there?X-Signature=" + b"a%2Fb" * 10_000


# --- nonsense -------------------------------------------------------------------------------------

PIECES = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 2x0 \r\n", b"HTTP/9.9 200\r\n", b"HTTP/1.1 999 \r\n",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n", b"HTTP/1.1 204 No\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"Content-Length: 2\r\n", b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Content-Length: x\r\n", b"Date: x\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Retry-After: \xff\r\n",
    b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n", b"Set-Cookie: a=b; c\r\n",
    b"Content-Type: text/\xff; charset=\xfe\r\n", b"x-request-id: \x1b[2J\r\n", b": nothing\r\n",
    b"\r\n", b"\r\n\r\n", b"{}", b"2\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n",
    b"zz\r\n", b"\0" * 40, b'{"id": "a", "status": []}', b'{"error": {"code": [{}]}}', b"[" * 300,
    gzip.compress(b"{}"), b"\x1f\x8b\x08", b"<html>", b"\xef\xbb\xbf{}", b"SSH-2.0\r\n",
]  # fmt: skip


async def test_no_answer_brings_a_foreign_error(http: Http) -> None:
    """Whatever bytes come back, the caller gets a task, or an error of ours; and of a request that
    left, only what the service itself says counts as certain.
    """
    dice = random.Random(20261126)

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"".join(dice.choices(PIECES, k=dice.randrange(1, 9))))

    found = list[HappyHorseError]()
    async with Peer(nonsense) as url:
        for _ in range(300):
            try:
                response = await http.call("POST", url, body=b"{}", timeout=5)
                wire.decode_task(response)
            except HappyHorseError as error:
                found.append(error)
    assert len(found) > 100
    assert all(str(error).isprintable() for error in found)
    assert all(getattr(error, "sent", True) is True for error in found)
    kinds = {type(error) for error in found}
    assert {APIConnectionError, UnreadableAnswerError} <= kinds


# --- the key --------------------------------------------------------------------------------------

ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY)
SLASHED = KEY.replace("/", "\\/")
SPOKEN = json.dumps({"error": {"code": "invalid_request", "message": f"bad key {KEY}"}}).encode()
ECHOES = {
    "a header": answer(SPOKEN, f"x-request-id: {KEY}", status="400 X"),
    "a header's name": answer(b"{}", "X-sk-secret: 1", f"X-Echo: Bearer {KEY}", status="400 X"),
    "the reason": b"HTTP/1.1 400 " + KEY.encode() + b"\r\nContent-Length: 0\r\n\r\n",
    "a broken status line": b"HTTP/1.1 2x0 " + KEY.encode() + b"\r\n\r\n",
    "a broken header": b"HTTP/1.1 200 OK\r\n" + KEY.encode() + b"\x00: x\r\n\r\n",
    "a broken chunk": PLAIN + b"Transfer-Encoding: chunked\r\n\r\n" + KEY.encode() + b"\r\n",
    "the body": answer(SPOKEN, status="401 X"),
    "escapes": answer(SPOKEN.replace(KEY.encode(), ESCAPED.encode()), status="400 X"),
    "escaped slashes": answer(SPOKEN.replace(KEY.encode(), SLASHED.encode()), status="400 X"),
    "percent signs": answer(f"<a href='/?key={quote(KEY, safe='')}'>".encode(), status="502 X"),
    "gzip": answer(gzip.compress(SPOKEN), "Content-Encoding: gzip", status="400 X"),
    "a good answer": answer(json.dumps({"id": "t", "status": "pending", "key": KEY}).encode()),
    "a redirect": answer(b"", f"Location: http://127.0.0.1:1/?{KEY}", status="307 X"),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=list(ECHOES))
async def test_a_key_that_is_sent_back_appears_nowhere(http: Http, echo: bytes) -> None:
    """Not in a message, a fact, a repr or a traceback with all that lies behind it."""
    async with saying(echo) as url:
        try:
            response = await http.call("POST", url, body=b"{}")
            shown = repr(response)
            shown += repr(wire.decode_task(response).raw)
        except HappyHorseError as error:
            lines = traceback.format_exception(error)
            shown = f"{error!r} {vars(error)} {''.join(lines)}"
    for form in (KEY, ESCAPED, SLASHED, quote(KEY, safe=""), "secret"):
        assert form not in shown.replace("test_hostile.py", "")
