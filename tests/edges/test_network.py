"""The way out: proxies, certificates and declared addresses, for calls, uploads and downloads."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import attrs
import pytest
import trustme

from happyhorse_async import (
    APIConnectionError,
    APITimeoutError,
    ConfigurationError,
    DownloadError,
    HappyHorseError,
    IncompleteDownloadError,
    Network,
    RetryPolicy,
    Session,
    Task,
    Timeouts,
    UnsafeLinkError,
)
from happyhorse_async._edges.connections import Route
from happyhorse_async._edges.fetch import Fetcher
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import QUICK_POLLING, QUICK_RETRY, open_session
from tests.edges.peer import Peer, Polite
from tests.edges.proxy import Proxy, tls_front

pytestmark = pytest.mark.anyio

API, FILES = "https://api.happyhorse.test", "https://files.happyhorse.test"
LINK = "https://example.com/frame.png"
PASSWORD = "a long password/of a proxy"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without the proxies of the machine on which the tests run."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that nobody else believes."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """Its certificate."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    """Return what the hosts of the tests identify themselves with."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    hosts = ("api.happyhorse.test", "files.happyhorse.test", "127.0.0.1")
    authority.issue_cert(*hosts).configure_cert(context)
    return context


@asynccontextmanager
async def behind_a_proxy(
    sandbox: Sandbox, authority: trustme.CA, *, credentials: str | None = None
) -> AsyncIterator[Proxy]:
    """Let the sandbox be reached over TLS, by names that only a proxy knows."""
    api, files = urlsplit(sandbox.url).port or 0, urlsplit(sandbox.files_url).port or 0
    context = server_context(authority)
    async with AsyncExitStack() as stack:
        api_front = await stack.enter_async_context(tls_front(api, context))
        files_front = await stack.enter_async_context(tls_front(files, context))
        hosts = {
            "api.happyhorse.test:443": api_front,
            "files.happyhorse.test:443": files_front,
            f"127.0.0.1:{files}": files_front,  # where the sandbox's result links lead
        }
        yield await stack.enter_async_context(Proxy(hosts, credentials=credentials))


def session_out(sandbox: Sandbox, network: Network, **settings: object) -> Session:
    """Make a session that speaks to the sandbox by the names that only the proxy knows."""
    defaults: dict[str, object] = {"polling": QUICK_POLLING, "retry": QUICK_RETRY}
    return Session(
        sandbox.key, base_url=API, files_url=FILES, network=network, **{**defaults, **settings}
    )  # type: ignore[arg-type]


# --- proxies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("named_by", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "Network"])
async def test_everything_goes_through_the_proxy(
    named_by: str,
    cat: Path,
    authority: trustme.CA,
    ca_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Upload, submission, reads and the download of one video; the proxy sees neither key nor link.

    That addresses cannot be checked then is said once.
    """
    caplog.set_level(logging.INFO, logger="happyhorse_async")
    async with Sandbox(video="stub", speed=10_000) as sandbox:
        async with behind_a_proxy(sandbox, authority) as proxy:
            if named_by != "Network":
                monkeypatch.setenv(named_by, proxy.address)  # without a scheme, as curl takes it
            network = Network(
                proxy=proxy.url if named_by == "Network" else None,
                ca_file=ca_file,
                allow=["127.0.0.1"],
            )
            async with session_out(sandbox, network) as session:
                video = await session.generate(cat, prompt="walks", save_to=tmp_path / "v.mp4")
        asked = {line.split(" ")[1] for line in proxy.asked}
        files_port = urlsplit(sandbox.files_url).port
    assert video.path.stat().st_size == video.size
    assert asked == {
        "api.happyhorse.test:443",
        "files.happyhorse.test:443",
        f"127.0.0.1:{files_port}",
    }
    assert all(line.startswith("CONNECT ") for line in proxy.asked)
    assert not [head for head in proxy.heads if sandbox.key in head or "/v1/" in head]
    said = [record for record in caplog.records if getattr(record, "action", "") != ""]
    assert [record.action for record in said].count("addresses_unchecked") == 1  # type: ignore[attr-defined]


async def test_plain_http_is_passed_on_by_the_proxy(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY counts for an API that is spoken to in the open, such as one on this machine."""
    async with Proxy({urlsplit(sandbox.url).netloc: urlsplit(sandbox.url).port or 0}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with open_session(sandbox) as session:
            await session.submit(LINK)
    assert [line.split(" ")[0] for line in proxy.asked] == ["POST"]
    assert proxy.asked[0].split(" ")[1] == f"{sandbox.url}/v1/videos/generations"


@pytest.mark.parametrize("how", ["NO_PROXY", "trust_env"])
async def test_exceptions_go_past_the_proxy(
    how: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_PROXY names hosts that are reached directly;
    trust_env=False is deaf to the environment.
    """
    async with Proxy({}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "example.com, 127.0.0.1" if how == "NO_PROXY" else "")
        network = Network(trust_env=how == "NO_PROXY")
        async with open_session(sandbox, network=network) as session:
            await session.submit(LINK)
    assert proxy.asked == []


async def test_a_proxy_that_asks_for_a_password_gets_it(
    sandbox: Sandbox, authority: trustme.CA, ca_file: Path
) -> None:
    """User and password stand in the proxy's URL, escaped as in any URL."""
    async with behind_a_proxy(sandbox, authority, credentials=f"me:{PASSWORD}") as proxy:
        url = proxy.url.replace("://", "://me:a%20long%20password%2Fof%20a%20proxy@")
        async with session_out(sandbox, Network(proxy=url, ca_file=ca_file)) as session:
            await session.submit(LINK)
    assert sandbox.paid == 1


async def test_a_file_host_whose_certificate_nobody_knows_is_told_with_what_helps(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """The video is paid for and its link dies: who is behind a firewall that signs anew learns
    which setting brings it home.
    """
    async with Sandbox(video="stub", speed=10_000) as sandbox:
        files = urlsplit(sandbox.files_url).port or 0
        async with (
            tls_front(files, server_context(authority)) as front,
            open_session(sandbox) as session,
        ):
            task = await session.submit(LINK)
            await task.wait()
            sandbox.fail(Fault("redirect", to=f"https://127.0.0.1:{front}/v.mp4", times=None))
            with pytest.raises(IncompleteDownloadError) as caught:
                await task.download(tmp_path / "v.mp4")
    assert "ca_file" in caught.value.next_step
    assert "download()" in caught.value.next_step


@pytest.mark.parametrize("password", ["unified", "completed", "127.0.0.1"])
async def test_a_word_for_a_password_takes_nothing_out_of_answers(
    password: str, authority: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    """A password that stands in ids, statuses and links by chance changes none of them: the video
    of a paid task is saved.
    """
    async with (
        Sandbox(video="stub", speed=10_000) as sandbox,
        behind_a_proxy(sandbox, authority, credentials=f"me:{password}") as proxy,
    ):
        network = Network(
            proxy=proxy.url.replace("://", f"://me:{password}@"),
            ca_file=ca_file,
            allow=["127.0.0.1"],
        )
        async with session_out(sandbox, network) as session:
            video = await session.generate(LINK, save_to=tmp_path / "v.mp4")
    assert video.task_id.startswith("task-unified-")
    assert video.path.stat().st_size == video.size


@pytest.mark.parametrize("user", ["", "me:another%20long%20password@"])
async def test_without_the_right_password_the_error_says_where_to_give_it(
    user: str,
    sandbox: Sandbox,
    authority: trustme.CA,
    ca_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is no matter of trying again; nothing was sent, and the password given is not shown."""
    caplog.set_level(logging.DEBUG)
    async with behind_a_proxy(sandbox, authority, credentials=f"me:{PASSWORD}") as proxy:
        network = Network(proxy=proxy.url.replace("://", f"://{user}"), ca_file=ca_file)
        async with session_out(sandbox, network) as session:
            with pytest.raises(ConfigurationError, match="proxy asks for a user") as caught:
                await session.submit(LINK)
    assert caught.value.charged == "no"
    assert "Network(proxy=...)" in caught.value.next_step
    assert len(proxy.asked) == 1
    shown = f"{caught.value} {caught.value.__cause__!r} {network!r} {caplog.text}"
    assert "another" not in shown
    assert sandbox.requests == []


async def test_a_download_says_so_too(ca_file: Path) -> None:
    """A download that a proxy refuses is an error of the download, at once."""
    async with Proxy({}, credentials="me:secret") as proxy:
        fetcher = Fetcher(timeouts=Timeouts(), route=Route(Network(proxy=proxy.url)))
        with pytest.raises(DownloadError, match="asks for a user"):
            await fetcher.open("https://videos.example.com/v.mp4", {})
        await fetcher.aclose()


async def test_a_download_does_not_wait_for_a_proxy_that_refuses(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only a network that is away is waited for through the patience: this is told after the tries
    of the policy, with what to do.
    """
    async with Proxy({}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        policy = RetryPolicy(attempts=2, first_pause=0.01)
        async with open_session(sandbox, retry=policy) as session:
            accepted = await session.submit(LINK)
            links = ("https://videos.example.com/v.mp4",)
            task = attrs.evolve(await accepted.read(), status="completed", results=links)

            async def read_task(_: str) -> Task:
                return task

            parts = session._open()
            monkeypatch.setattr(parts.api, "read_task", read_task)
            async with asyncio.timeout(100):
                with pytest.raises(DownloadError, match="the proxy makes no connection"):
                    await parts.downloader.download(task, tmp_path / "a.mp4")
    assert 0 < len(proxy.asked) <= 4


@pytest.mark.parametrize("there", [True, False], ids=["refuses", "is not there"])
async def test_a_proxy_that_does_not_work_is_named(there: bool) -> None:
    """Nothing was sent, and the error says which settings name the proxy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with Proxy({}) as proxy:
            network = Network(proxy=proxy.url if there else nobody)
            retry = RetryPolicy(attempts=1)
            async with Session("k" * 20, base_url=API, network=network, retry=retry) as session:
                with pytest.raises(APIConnectionError) as caught:
                    await session.submit(LINK)
    assert (caught.value.charged, caught.value.sent) == ("no", False)
    assert "Network(proxy=...)" in caught.value.next_step


async def test_a_socks_proxy_is_passed_over_and_it_is_said(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The environments of many desktops name one beside an http proxy; it must not end anything."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:7891")
    async with open_session(sandbox) as session:
        await session.submit(LINK)
    assert "ALL_PROXY is passed over: only http and https proxies" in caplog.text


async def test_through_a_proxy_links_are_judged_by_scheme_and_name() -> None:
    """What can be known without the address still holds."""
    async with Proxy({}) as proxy:
        fetcher = Fetcher(timeouts=Timeouts(), route=Route(Network(proxy=proxy.url)))
        for link in (
            "https://10.0.0.1/v.mp4",
            "https://metadata.google.internal/v.mp4",
            "https://me:secret@videos.example.com/v.mp4",
            "ftp://videos.example.com/v.mp4",
        ):
            with pytest.raises(UnsafeLinkError):
                await fetcher.open(link, {})
        await fetcher.aclose()
    assert proxy.asked == []


# --- netrc ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("borrowed", [False, True])
async def test_netrc_never_touches_the_key(
    borrowed: bool, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with a session's own client, and not with one that was told to
    look at the environment.
    """
    (tmp_path / "netrc").write_text("default login somebody password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with AsyncExitStack() as stack:
        settings = {}
        if borrowed:
            settings["http"] = await stack.enter_async_context(
                aiohttp.ClientSession(trust_env=True)
            )
        session = await stack.enter_async_context(open_session(sandbox, **settings))
        await session.submit(LINK)
    assert sandbox.requests[0].headers["Authorization"] == f"Bearer {sandbox.key}"


async def test_a_borrowed_client_keeps_its_middlewares_and_carries_no_key(
    sandbox: Sandbox,
) -> None:
    """The key goes with our calls only, whatever else the client is used for."""
    seen: list[str] = []

    async def watch(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        seen.append(request.method)
        return await handler(request)

    server = Polite()
    async with Peer(server) as elsewhere, aiohttp.ClientSession(middlewares=[watch]) as client:
        async with open_session(sandbox, http=client) as session:
            await session.submit(LINK)
        async with client.get(elsewhere) as response:
            await response.read()
    assert seen == ["POST", "GET"]
    assert b"Authorization" not in server.requests[0][1]


# --- certificates ---------------------------------------------------------------------------------


async def test_a_strange_certificate_is_refused_and_the_setting_named(
    sandbox: Sandbox, authority: trustme.CA
) -> None:
    """Companies sign anew what passes their proxies: the error says what to do then."""
    async with tls_front(urlsplit(sandbox.url).port or 0, server_context(authority)) as port:
        retry = RetryPolicy(attempts=1)
        async with Session("k" * 20, base_url=f"https://127.0.0.1:{port}", retry=retry) as session:
            with pytest.raises(APIConnectionError) as caught:
                await session.submit(LINK)
    assert (caught.value.charged, caught.value.sent) == ("no", False)
    assert "Network(ca_file=...)" in caught.value.next_step


@pytest.mark.parametrize("shown", [True, False])
async def test_a_host_that_asks_for_a_certificate_gets_it(
    shown: bool, sandbox: Sandbox, authority: trustme.CA, ca_file: Path, tmp_path: Path
) -> None:
    """As one file with key and certificate, or as two; without it the host breaks off."""
    mine = authority.issue_cert("me@example.com")
    together, key = tmp_path / "me.pem", tmp_path / "me.key"
    mine.private_key_and_cert_chain_pem.write_to_path(str(together))
    mine.private_key_pem.write_to_path(str(key))
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    async with tls_front(urlsplit(sandbox.url).port or 0, context) as port:
        for cert in (together, (together, key)) if shown else (None,):
            network = Network(ca_file=ca_file, client_cert=cert)
            async with Session(
                sandbox.key,
                base_url=f"https://127.0.0.1:{port}",
                network=network,
                retry=RetryPolicy(attempts=1, replays=0),
            ) as session:
                if shown:
                    await session.submit(LINK)
                else:
                    with pytest.raises(HappyHorseError):
                        await session.submit(LINK)
    assert sandbox.paid == (2 if shown else 0)


@pytest.mark.parametrize("field", ["ca_file", "client_cert"])
async def test_certificates_that_cannot_be_used_are_refused_when_the_session_opens(
    field: str, tmp_path: Path
) -> None:
    """Before anything is sent, by the name of the setting."""
    (tmp_path / "no.pem").write_text("this is no certificate")
    for path in (tmp_path / "no.pem", tmp_path / "missing.pem"):
        session = Session("k" * 20, network=Network(**{field: path}))  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=rf"Network\({field}=.*usable PEM file"):
            await session.submit(LINK)


async def test_a_proxy_that_never_answers_is_given_up_in_the_time_for_a_connection(
    sandbox: Sandbox,
) -> None:
    """Its tunnel belongs to the connection: what never left is told as that, and costs nothing."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Peer(silent) as url, asyncio.timeout(100):
        session = Session(
            "k" * 20,
            network=Network(proxy=url),
            timeouts=Timeouts(connect=0.05, submit=None),
            retry=RetryPolicy(attempts=1),
        )
        async with session:
            with pytest.raises(APITimeoutError, match="no connection") as caught:
                await session.submit(LINK)
    assert caught.value.charged == "no"


# --- declared addresses ---------------------------------------------------------------------------


async def refusal_of(link: str, network: Network) -> HappyHorseError:
    """Return what following a link ends with, where nobody listens."""
    fetcher = Fetcher(timeouts=Timeouts(connect=1.0), route=Route(network))
    with pytest.raises(HappyHorseError) as caught:
        await fetcher.open(link, {})
    await fetcher.aclose()
    return caught.value


async def test_fake_addresses_of_a_proxy_tool_can_be_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such tools answer every name with an address of 198.18.0.0/15; the refusal says how to allow
    that, and after it the address is connected to.
    """
    connected = []

    async def refuse(_loop: object, _sock: object, address: tuple[str, int]) -> None:
        connected.append(address[0])
        raise ConnectionRefusedError("no test connects to the internet")

    def fake(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("198.18.0.21", port))]

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", fake)
    error = await refusal_of("https://videos.example.com/v.mp4", Network())
    assert isinstance(error, UnsafeLinkError)
    assert 'Network(allow=["198.18.0.0/15"])' in error.next_step
    assert connected == []
    error = await refusal_of("https://videos.example.com/v.mp4", Network(allow=["198.18.0.0/15"]))
    assert isinstance(error, APIConnectionError)
    assert connected == ["198.18.0.21"]


@pytest.mark.parametrize(
    ("link", "setting"),
    [
        ("https://10.1.2.3/v.mp4", 'Network(allow=["10.1.2.3/32"])'),
        ("http://93.184.216.34/v.mp4", 'Network(allow=["93.184.216.34/32"])'),
        ("https://[fd00::7]/v.mp4", 'Network(allow=["fd00::7/128"])'),
        ("https://minio.internal/v.mp4", "Network(allow=["),
    ],
)
async def test_the_refusal_of_a_private_host_names_the_setting(link: str, setting: str) -> None:
    """Whoever has an object store at home is told how to declare it."""
    error = await refusal_of(link, Network())
    assert isinstance(error, UnsafeLinkError)
    assert setting in error.next_step


async def test_an_http_link_is_tried_over_https(authority: trustme.CA, ca_file: Path) -> None:
    """Nothing is lost by it; when it does not work, the error says what was tried."""
    server = Polite()
    network = Network(ca_file=ca_file, allow=["127.0.0.0/8"])
    async with Peer(server) as url:
        port = urlsplit(url).port or 0
        async with tls_front(port, server_context(authority)) as front:
            fetcher = Fetcher(timeouts=Timeouts(), route=Route(network))
            async with await fetcher.open(f"http://127.0.0.1:{front}/v.mp4?s=a%2Fb", {}) as stream:
                assert stream.status == 200
            await fetcher.aclose()
        error = await refusal_of(f"http://127.0.0.1:{port}/v.mp4", network)
    assert b"GET /v.mp4?s=a%2Fb HTTP/1.1" in server.requests[0][1]
    assert "its link is http, which is asked for over https only" in str(error)
