"""Callbacks: only hints, from whoever knows the URL, and harmless in any number and form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    MutableMapping,
)
from functools import partial
from urllib.parse import urlsplit

import aiohttp
import fastapi
import httpx
import pytest
from aiohttp import web

from happyhorse_async import ConfigurationError, ImageToVideo, Polling, Session
from happyhorse_async.integrations.aiohttp import webhook_route
from happyhorse_async.integrations.fastapi import webhook_router
from happyhorse_async.sandbox import Fault, Sandbox
from happyhorse_async.webhooks import LARGEST_BODY, Webhooks, foreign_page
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://images.example.com/cat.png"
SLOW = Polling(min_interval=0.01, max_interval=3600.0, target_delay=3600.0, heartbeat=3600.0)


class Server:
    """An aiohttp server on loopback that takes callbacks for a session."""

    def __init__(self, sandbox: Sandbox, **settings: object) -> None:
        self._sandbox = sandbox
        self._settings = settings

    async def __aenter__(self) -> Server:
        self._app = web.Application()
        self._app.add_routes([webhook_route("/hooks", lambda _: self.webhooks)])
        self._runner = web.AppRunner(self._app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.session = open_session(
            self._sandbox, polling=SLOW, public_url=f"http://{host}:{port}/hooks", **self._settings
        )
        self.webhooks = Webhooks(self.session)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.aclose()
        await self._runner.cleanup()


@pytest.fixture
async def server(sandbox: Sandbox) -> AsyncIterator[Server]:
    """A server whose session would not read a task by itself within the hour."""
    async with Server(sandbox) as server:
        yield server


def token_of(session: Session) -> str:
    """The secret part of the URL."""
    assert session.webhook_url is not None
    return session.webhook_url.rpartition("/")[2]


async def test_a_callback_ends_a_wait_at_once(sandbox: Sandbox, server: Server) -> None:
    """The waiting code knows nothing of callbacks, and needs one read instead of many."""
    task = await server.session.submit(LINK)
    waiting = asyncio.ensure_future(task.wait())
    await asyncio.sleep(0)
    sandbox.finish()
    assert (await waiting).status == "completed"
    assert sandbox.count("GET", f"/v1/tasks/{task.id}") == 1


async def test_callbacks_repeated_and_reordered_change_nothing(
    sandbox: Sandbox, server: Server
) -> None:
    """Each task is seen to end once, by reading it, whatever the callbacks did."""
    sandbox.fail(Fault("duplicate-callback", times=None))
    sandbox.fail(Fault("reorder-callbacks", times=2))
    tasks = [await server.session.submit(LINK, seed=number) for number in range(1, 6)]
    waits = [asyncio.ensure_future(task.wait()) for task in tasks]
    await asyncio.sleep(0)
    for task in tasks:
        sandbox.finish(task.id)
    assert {done.id for done in await asyncio.gather(*waits)} == {task.id for task in tasks}


async def test_a_callback_that_comes_before_the_answer_counts(
    sandbox: Sandbox, server: Server
) -> None:
    """A task that ends at once is told of while its submission is still without an answer. Nobody
    calls a second time, and the first submission of a session finds no poller yet.
    """
    sandbox.fail(Fault("slow", path="/v1/videos/generations", seconds=0.3))
    sandbox.fail(Fault("no-callback", times=None))
    async with asyncio.timeout(100):
        submitting = asyncio.ensure_future(server.session.submit(LINK))
        while not sandbox.tasks:
            await asyncio.sleep(0)
        [accepted] = sandbox.tasks
        sandbox.finish(accepted.id)
        body = json.dumps({"id": accepted.id}).encode()
        assert server.webhooks.receive(token_of(server.session), body) == 204
        task = await submitting
        assert (await task.wait()).status == "completed"


async def test_a_forged_body_is_not_believed(sandbox: Sandbox, server: Server) -> None:
    """Whoever knows the URL can only make the session look sooner: the state comes from the
    service.
    """
    task = await server.session.submit(LINK)
    waiting = asyncio.ensure_future(task.wait())
    await asyncio.sleep(0)
    forged = json.dumps(
        {"id": task.id, "status": "completed", "results": ["https://evil.example/x.mp4"]}
    ).encode()
    assert server.webhooks.receive(token_of(server.session), forged) == 204
    sandbox.finish()
    done = await waiting
    assert all("evil" not in link for link in done.results)


async def test_requests_with_a_callback_url_of_their_own_keep_it(
    sandbox: Sandbox, server: Server
) -> None:
    """The session's URL is the default, not more."""
    await server.session.submit(
        ImageToVideo(LINK, callback_url="https://elsewhere.example.com/done")
    )
    await server.session.submit(ImageToVideo(LINK))
    urls = [
        json.loads(request.body)["callback_url"]
        for request in sandbox.requests
        if request.path.endswith("generations")
    ]
    assert urls == ["https://elsewhere.example.com/done", server.session.webhook_url]


@pytest.mark.parametrize("token", ["", "x", "é", "\udcff", "a" * 10_000])
async def test_a_wrong_token_is_not_told_apart_from_a_wrong_address(
    server: Server, token: str
) -> None:
    """Without the token there is nothing here."""
    assert server.webhooks.receive(token, b'{"id": "task-unified-1"}') == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"<html>", 400),
        (b"[]", 400),
        (b'{"id": 7.5}', 400),
        (b'{"id": ""}', 400),
        (b'{"id": "a\\u0000b"}', 400),
        (b'{"id": "%s"}' % (b"x" * 300), 400),
        (b"[" * 50_000, 400),
        (b"\xff\xfe", 400),
        (b" " * (LARGEST_BODY + 1), 413),
        (b'{"id": "task-unified-nobody-waits-for"}', 204),
        (b'{"data": {"id": "task-unified-nobody-waits-for"}}', 204),
        (b'{"data": ["id"]}', 400),
        (b'{"id": "task-unified-1", "error": {"message": "cut in a letter: \xe7\x8c"}}', 204),
        (b'{"id": "task-unified-1", "created": %s}' % (b"1" * 5000), 204),
        ('{"id": "task-unified-1"}'.encode("utf-16"), 204),
        ('{"id": "task-unified-1", "prompt": "caf\u00e9 \udcff"}', 204),
        ("", 400),
    ],
)
async def test_every_body_has_an_answer(server: Server, body: bytes | str, status: int) -> None:
    """Nothing that is posted raises, and the answer does not tell which tasks are known."""
    assert server.webhooks.receive(token_of(server.session), body) == status


async def test_a_flood_costs_no_reads_and_no_memory(sandbox: Sandbox, server: Server) -> None:
    """Thousands of callbacks about tasks that nobody waits for leave nothing behind."""
    for number in range(10_000):
        assert (
            server.webhooks.receive(token_of(server.session), b'{"id": "task-unified-%d"}' % number)
            == 204
        )
    parts = server.session._parts
    assert parts is None or parts.poller.waiting == 0
    assert not [request for request in sandbox.requests if request.path.startswith("/v1/tasks")]


async def test_a_closed_session_asks_the_service_to_come_again(server: Server) -> None:
    """While an app restarts, a callback is not lost: the service tries again after an error."""
    token = token_of(server.session)
    await server.session.aclose()
    assert server.webhooks.receive(token, b'{"id": "task-unified-1"}') == 503


async def test_the_aiohttp_route_answers_over_http(server: Server) -> None:
    """Wrong methods, types, tokens and sizes get their answers over a socket."""
    url = server.session.webhook_url
    assert url is not None
    async with aiohttp.ClientSession() as client:
        answers = {
            "good": await client.post(
                url, data=b'{"id": "task-unified-1"}', headers={"Content-Type": "text/plain"}
            ),
            "token": await client.post(url + "x", data=b"{}"),
            "large": await client.post(url, data=b" " * (LARGEST_BODY + 1)),
            "method": await client.get(url),
            "compressed": await client.post(url, data=b"\x1f\x8b not gzip"),
        }
    assert {name: answer.status for name, answer in answers.items()} == {
        "good": 204,
        "token": 404,
        "large": 413,
        "method": 405,
        "compressed": 400,
    }


async def test_the_fastapi_router_answers_over_http(sandbox: Sandbox) -> None:
    """The router reads the body as it comes, and gives the receiver's answer."""
    async with open_session(sandbox, public_url="http://127.0.0.1/hooks") as session:
        app = fastapi.FastAPI()
        app.include_router(webhook_router(Webhooks(session)), prefix="/hooks")
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            token = token_of(session)
            good = await client.post(f"/hooks/{token}", content=b'{"id": "task-unified-1"}')
            wrong = await client.post("/hooks/guess", content=b'{"id": "task-unified-1"}')
            large = await client.post(f"/hooks/{token}", content=b" " * (LARGEST_BODY + 1))
        assert [good.status_code, wrong.status_code, large.status_code] == [204, 404, 413]
        assert good.content == b""


async def test_a_caller_that_goes_away_is_no_fault_of_the_app(sandbox: Sandbox) -> None:
    """A callback that is cut off in its body leaves no error in the app's log: it comes again."""
    async with open_session(sandbox, public_url="http://127.0.0.1/hooks") as session:
        app = fastapi.FastAPI()
        app.include_router(webhook_router(Webhooks(session)), prefix="/hooks")
        path = f"/hooks/{token_of(session)}"
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
        parts = iter(
            [
                {"type": "http.request", "body": b'{"id": "task-', "more_body": True},
                {"type": "http.disconnect"},
            ]
        )
        told: list[int] = []

        async def receive() -> MutableMapping[str, object]:
            return next(parts)

        async def send(message: MutableMapping[str, object]) -> None:
            if message["type"] == "http.response.start":
                told.append(int(str(message["status"])))

        await app(scope, receive, send)
        assert told == [400]


async def test_a_broken_callback_is_no_fault_of_an_aiohttp_app(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A body that is cut off, or not encoded as it says, leaves no error of ours in the log."""
    begun, taken = asyncio.Event(), asyncio.Event()
    whole = server.webhooks.receive_stream

    async def receive_stream(token: str, chunks: AsyncIterable[bytes]) -> int:
        begun.set()
        try:
            return await whole(token, chunks)
        finally:
            taken.set()

    monkeypatch.setattr(server.webhooks, "receive_stream", receive_stream)
    url = urlsplit(str(server.session.webhook_url))
    head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 99\r\n\r\n"
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(head.encode() + b'{"id": "task-')
    await begun.wait()
    writer.close()
    await taken.wait()
    async with aiohttp.ClientSession(headers={"Content-Encoding": "gzip"}) as client:
        encoded = await client.post(url.geturl(), data=b'{"id": "task-unified-1"}')
    assert encoded.status == 400
    assert "Error handling request" not in caplog.text


async def test_a_body_that_never_ends_is_cut_off(server: Server) -> None:
    """No more is read than a callback can have."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 4096
            yield b"x" * 4096

    assert await server.webhooks.receive_stream(token_of(server.session), endless()) == 413
    assert read <= LARGEST_BODY + 2 * 4096


async def test_a_body_of_a_stranger_is_not_read_at_all(server: Server) -> None:
    """Without the token not one byte is taken in."""

    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("this must not be read")
        yield b""

    assert await server.webhooks.receive_stream("guess", body()) == 404


async def test_callbacks_that_never_come_are_given_up(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """After a few tasks that ended without their callback,
    tasks are read at the usual pace again.
    """
    polling = Polling(target_delay=0.01, min_interval=0.01, max_interval=0.05, heartbeat=0.05)
    sandbox.fail(Fault("no-callback", times=None))
    async with open_session(
        sandbox, polling=polling, public_url="http://127.0.0.1:9/hooks"
    ) as session:
        tasks = [await session.submit(LINK, seed=number) for number in range(1, 5)]
        sandbox.finish()
        await asyncio.gather(*(task.wait() for task in tasks))
    assert [
        record for record in caplog.records if getattr(record, "action", "") == "callbacks_missing"
    ]


def test_the_url_is_stable_and_tells_nothing_of_the_key() -> None:
    """The same key and address give the same URL in every process, and another key another one."""
    one, same, other = (
        Session(key, public_url="https://app.example.com/hooks/")
        for key in ("key-1", "key-1", "key-2")
    )
    assert one.webhook_url == same.webhook_url != other.webhook_url
    assert one.webhook_url is not None
    assert one.webhook_url.startswith("https://app.example.com/hooks/")
    assert len(one.webhook_url.rpartition("/")[2]) >= 40
    assert "key-1" not in one.webhook_url


@pytest.mark.parametrize(
    "url",
    [
        "http://app.example.com",
        "https://10.0.0.1/hooks",
        "https://localhost/hooks",
        "hooks",
        "https://",
        "https://app.example.com/hooks?app=1",
        "https://app.example.com/#hooks",
        "https://[::1",
        "https://app.example.com/\ud800",
    ],
)
def test_a_public_url_that_the_service_would_refuse_is_refused_at_once(url: str) -> None:
    """The mistake shows when the session is made, not when a paid task ends."""
    with pytest.raises(ConfigurationError, match="public_url"):
        Session("key", public_url=url)


def test_a_receiver_needs_a_public_url() -> None:
    """Without one there is nothing to receive, and the error says what to do."""
    with pytest.raises(ConfigurationError, match="public URL") as caught:
        Webhooks(Session("key"))
    assert "public_url=" in (caught.value.next_step or "")


OWN = "127.0.0.1:8000"
EVIL = "https://evil.example"


@pytest.mark.parametrize(
    ("method", "headers", "problem"),
    [
        ("POST", {"host": OWN}, None),
        ("POST", {"host": OWN, "origin": f"http://{OWN}", "sec-fetch-site": "same-origin"}, None),
        ("GET", {"host": "localhost"}, None),
        ("GET", {"host": "LOCALHOST:1"}, None),
        ("GET", {"host": "[::1]:8000"}, None),
        ("GET", {"host": OWN, "sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, None),
        ("GET", {"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, None),
        ("POST", {"host": OWN, "origin": EVIL, "sec-fetch-site": "cross-site"}, "a page of"),
        ("POST", {"host": OWN, "origin": EVIL}, "a page of"),
        ("POST", {"host": OWN, "origin": "null"}, "a page of"),
        ("POST", {"host": OWN, "origin": "null", "sec-fetch-site": "same-origin"}, None),
        ("POST", {"host": OWN, "origin": "null", "sec-fetch-site": "cross-site"}, "a page of"),
        ("POST", {"host": OWN, "origin": "http://127.0.0.1:3000"}, "a page of"),
        ("POST", {"host": OWN, "sec-fetch-site": "cross-site"}, "another site"),
        ("POST", {"host": OWN, "sec-fetch-site": "same-site"}, "another site"),
        (
            "POST",
            {"host": OWN, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
            "another site",
        ),
        ("GET", {"host": OWN, "sec-fetch-site": "cross-site"}, "another site"),
        ("GET", {"host": "evil.example:8000"}, "not served under"),
        ("GET", {"host": "127.0.0.1.evil.example"}, "not served under"),
        ("GET", {}, "not served under"),
    ],
)
def test_pages_of_others_are_told_apart(
    method: str, headers: dict[str, str], problem: str | None
) -> None:
    """A foreign page can neither spend through an app on this machine, nor read it by rebinding its
    own name; programs, the app's own pages and links that are followed get in.
    """
    said = foreign_page(headers, method=method)
    assert said is None if problem is None else problem in (said or "")


def test_an_app_may_be_served_under_its_own_name() -> None:
    """Behind a proxy the public name is the app's own, and the machine's is not."""
    hosts = {"app.example.com"}
    headers = {"host": "app.example.com", "origin": "https://app.example.com"}
    assert foreign_page(headers, hosts=hosts, method="POST") is None
    assert foreign_page({"host": OWN}, hosts=hosts) is not None


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("https://app.example.com", "app.example.com:443", True),
        ("http://app.example.com", "app.example.com:80", True),
        ("https://app.example.com", "app.example.com:80", False),
        ("https://app.example.com:8443", "app.example.com:443", False),
        ("http://app.example.com", "app.example.com:8000", False),
        ("null", "app.example.com", False),
    ],
)
def test_a_proxy_may_write_the_usual_port(origin: str, host: str, own: bool) -> None:
    """A browser leaves it out of both headers, and some proxies put it into one. Any other port is
    another app's.
    """
    said = foreign_page({"host": host, "origin": origin}, hosts={"app.example.com"}, method="POST")
    assert (said is None) is own


async def test_a_middleware_may_have_read_the_body(server: Server) -> None:
    """As one that logs requests does: the callback is taken all the same."""

    @web.middleware
    async def reading(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        await request.read()
        return await handler(request)

    app = web.Application(middlewares=[reading])
    app.add_routes([webhook_route("/hooks", server.webhooks)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}/hooks/{token_of(server.session)}"
        async with aiohttp.ClientSession() as client:
            for body, status in ((b'{"id": "task-unified-1"}', 204), (b"", 400)):
                async with client.post(url, data=body) as answer:
                    assert answer.status == status
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("hosts", ["app.example.com", ["app.example.com"], {"App.Example.Com"}])
def test_one_host_is_one_name(hosts: str | Collection[str]) -> None:
    """Given as a text, parts of it are no names of the app: a name such as "e" may be anybody's.
    Names ignore case.
    """
    assert foreign_page({"host": "app.example.com:443"}, hosts=hosts) is None
    for host in ("example.com", "e", ""):
        assert "not served" in (foreign_page({"host": host}, hosts=hosts) or "")


@pytest.mark.parametrize("make", [webhook_router, partial(webhook_route, "/hooks")])
async def test_what_finds_no_receiver_is_refused_at_once(
    server: Server, make: Callable[[object], object]
) -> None:
    """And not with each callback, where the app's log alone would tell it."""

    async def find(request: object) -> Webhooks:
        return server.webhooks

    for wrong in (server.session, None, find):
        with pytest.raises(ConfigurationError, match="expected a Webhooks"):
            make(wrong)
    assert make(server.webhooks)
