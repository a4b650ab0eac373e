"""Result links are input from outside: where a download must never go, shown on the sockets
themselves.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from happyhorse_async import Timeouts, UnsafeLinkError
from happyhorse_async._edges.fetch import Fetcher
from happyhorse_async.errors import APIConnectionError
from happyhorse_async.sandbox import Fault
from tests.downloader.conftest import Kit, names_in
from tests.edges.peer import Peer, Polite, answer

pytestmark = pytest.mark.anyio

FORBIDDEN_LINKS = [
    "http://10.1.2.3/v.mp4",
    "http://localhost:8080/v.mp4",
    "file:///etc/passwd",
    "ftp://cdn.example.com/v.mp4",
    "data:video/mp4;base64,AAAA",
    "//cdn.example.com/v.mp4",
    "cdn.example.com/v.mp4",
    "https://",
    "https:///v.mp4",
    "",
    "https://user:secret@cdn.example.com/v.mp4",
    "https://user@cdn.example.com/v.mp4",
    "https://cdn.example.com\\@127.0.0.1/v.mp4",
    "https://127.0.0.1\\.example.com/v.mp4",
    "https://cdn.example.com\r\nX-Injected: 1/v.mp4",
    "https://%31%32%37.0.0.1/v.mp4",
    "https://cdn.example.com:99999/v.mp4",
    "https://cdn.example.com /v.mp4",
    "https://127.0.0.1/v.mp4",
    "https://127.1/v.mp4",
    "https://2130706433/v.mp4",
    "https://0x7f000001/v.mp4",
    "https://0x7f.0.0.1/v.mp4",
    "https://0177.0.0.1/v.mp4",
    "https://017700000001/v.mp4",
    "https://0/v.mp4",
    "https://0.0.0.0/v.mp4",
    "https://10.1.2.3/v.mp4",
    "https://172.16.0.1/v.mp4",
    "https://192.168.1.1:8443/v.mp4",
    "https://100.64.0.1/v.mp4",
    "https://169.254.169.254/latest/meta-data/",
    "https://2852039166/latest/meta-data/",
    "https://168.63.129.16/v.mp4",
    "https://192.0.0.192/opc/v2/instance/",
    "https://192.88.99.1/v.mp4",
    "https://224.0.0.1/v.mp4",
    "https://255.255.255.255/v.mp4",
    "https://[::1]/v.mp4",
    "https://[::]/v.mp4",
    "https://[::ffff:127.0.0.1]/v.mp4",
    "https://[::ffff:7f00:1]/v.mp4",
    "https://[::127.0.0.1]/v.mp4",
    "https://[64:ff9b::7f00:1]/v.mp4",
    "https://[2002:7f00:1::]/v.mp4",
    "https://[2001:0:5db8:d822::1]/v.mp4",
    "https://[64:ff9b:1::7f00:1]/v.mp4",
    "https://[2002:c000:c0::]/v.mp4",
    "https://[3fff::1]/v.mp4",
    "https://127.0.0.1./v.mp4",
    "https://127\u30020\u30020\u30021/v.mp4",
    "https://\uff11\uff12\uff17.0.0.1/v.mp4",
    "https://[fe80::1%25eth0]/v.mp4",
    "https://[fd00:ec2::254]/latest/meta-data/",
    "https://[fec0::1]/v.mp4",
    "https://[ff02::1]/v.mp4",
    "https://localhost/v.mp4",
    "https://LOCALHOST./v.mp4",
    "https://api.localhost/v.mp4",
    "https://metadata.google.internal/v.mp4",
    "https://printer.local/v.mp4",
    "https://router.home.arpa/v.mp4",
]

FORBIDDEN_ADDRESSES = [
    ["127.0.0.1"],
    ["127.8.8.8"],
    ["0.0.0.0"],
    ["10.0.0.1"],
    ["172.31.255.255"],
    ["192.168.0.1"],
    ["100.100.100.200"],
    ["169.254.169.254"],
    ["168.63.129.16"],
    ["192.0.0.192"],
    ["198.18.0.1"],
    ["224.0.0.251"],
    ["255.255.255.255"],
    ["::1"],
    ["::"],
    ["::ffff:10.0.0.1"],
    ["::ffff:a9fe:a9fe"],
    ["64:ff9b::a9fe:a9fe"],
    ["2002:a00:1::"],
    ["2001:0:a00:1::a2d1:47ec"],
    ["fe80::1"],
    ["fd12:3456::1"],
    ["93.184.216.34", "10.0.0.1"],
    ["2606:2800:220:1::1", "::1"],
]


class LyingResolver(AbstractResolver):
    """Gives the answers that it was told to, one after another; the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Lie."""
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=0,
            )
            for address in found
        ]

    async def close(self) -> None:
        """Have nothing to close."""


@pytest.fixture
def connected(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that a socket was about to be connected to; none is."""
    seen: list[Any] = []

    async def refuse(_loop: Any, _sock: Any, address: Any) -> None:
        seen.append(address[0])
        raise ConnectionRefusedError("no test connects to the internet")

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", refuse)
    return seen


def fetcher(resolver: AbstractResolver, *, allow_loopback: bool = False) -> Fetcher:
    """Make a fetcher that looks names up with a resolver of the test's."""
    return Fetcher(timeouts=Timeouts(), allow_loopback=allow_loopback, resolver=resolver)


@pytest.mark.parametrize("link", FORBIDDEN_LINKS)
async def test_forbidden_links_are_refused_as_text(link: str, connected: list[Any]) -> None:
    """Neither a name is looked up nor a socket connected."""
    resolver = LyingResolver(["93.184.216.34"])
    guarded = fetcher(resolver)
    with pytest.raises(UnsafeLinkError):
        await guarded.open(link, {})
    assert (resolver.asked, connected) == ([], [])
    await guarded.aclose()


@pytest.mark.parametrize("addresses", FORBIDDEN_ADDRESSES)
async def test_a_good_name_with_a_forbidden_address_is_refused(
    addresses: list[str], connected: list[Any]
) -> None:
    """A name is judged by what it is resolved to;
    one forbidden address among good ones is enough.
    """
    resolver = LyingResolver(addresses)
    guarded = fetcher(resolver)
    with pytest.raises(UnsafeLinkError):
        await guarded.open("https://cdn.example.com/v.mp4", {})
    assert (resolver.asked, connected) == (["cdn.example.com"], [])
    await guarded.aclose()


@pytest.mark.parametrize("addresses", FORBIDDEN_ADDRESSES[:-2])
async def test_the_socket_itself_is_judged(addresses: list[str], connected: list[Any]) -> None:
    """Even when the look-up is not judged at all, a socket to a forbidden address is not made."""
    guarded = fetcher(LyingResolver(["93.184.216.34"]))
    connector: Any = guarded._direct.connector
    connector._resolver = LyingResolver(addresses)
    with pytest.raises(UnsafeLinkError):
        await guarded.open("https://cdn.example.com/v.mp4", {})
    assert connected == []
    await guarded.aclose()


async def test_a_name_that_changes_its_address_gains_nothing(connected: list[Any]) -> None:
    """The address that was judged is the one that is connected to;
    the next time it is judged anew.
    """
    guarded = fetcher(LyingResolver(["93.184.216.34"], ["127.0.0.1"]))
    with pytest.raises(APIConnectionError):
        await guarded.open("https://cdn.example.com/v.mp4", {})
    with pytest.raises(UnsafeLinkError):
        await guarded.open("https://cdn.example.com/v.mp4", {})
    assert set(connected) == {"93.184.216.34"}
    await guarded.aclose()


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
async def test_public_addresses_are_connected_to(address: str, connected: list[Any]) -> None:
    """The guard does not keep out what is allowed."""
    guarded = fetcher(LyingResolver([address]))
    with pytest.raises(APIConnectionError):
        await guarded.open("https://cdn.example.com:8443/v.mp4?Signature=a%2Fb", {})
    assert set(connected) == {address}
    await guarded.aclose()


FORBIDDEN_REDIRECTS = [
    "file:///etc/passwd",
    "ftp://127.0.0.1/v.mp4",
    "gopher://127.0.0.1/",
    "https://user:secret@127.0.0.1/v.mp4",
    "https://10.0.0.1/v.mp4",
    "//10.0.0.1/v.mp4",
    "https://169.254.169.254/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "https://[fe80::1]/v.mp4",
    "https://0xa9fea9fe/",
    "http://[::ffff:10.0.0.1]/",
    "https://[bad/v.mp4",
    "https://exa\u2100mple.com/v.mp4",
    "https://[not-an-address/v.mp4",
    "https://[::1",
]


@pytest.mark.parametrize("target", FORBIDDEN_REDIRECTS)
async def test_redirects_are_judged_like_links(kit: Kit, folder: Path, target: str) -> None:
    """A host on this machine, which is allowed as the API is there too, cannot lead anywhere else;
    the error is final.
    """
    task = await kit.task()
    kit.sandbox.fail(Fault("redirect", to=target, times=None))
    with pytest.raises(UnsafeLinkError) as caught:
        await kit.downloader.download(task, f"{folder}/")
    assert (caught.value.charged, caught.value.task_id) == ("yes", task.id)
    assert isinstance(caught.value, ValueError)
    assert (len(kit.fetches()), names_in(folder)) == (1, [])


async def test_no_video_is_taken_from_an_answer_too_many() -> None:
    """What a host sends on an idle connection is not taken for the next task's video."""
    server = Polite()
    guarded = Fetcher(timeouts=Timeouts(), allow_loopback=True)
    async with Peer(server) as url:
        for _ in range(2):
            async with await guarded.open(f"{url}/v.mp4", {}) as stream:
                while await stream.fill(1000):
                    body = b"".join(stream.take())
            server.connections[0].write(answer(b"the video of somebody else"))
        await guarded.aclose()
    assert body == b'{"request": 2}'


async def test_redirects_without_end_are_left(kit: Kit, folder: Path) -> None:
    """Ten redirects are followed, not more."""
    task = await kit.task()
    kit.sandbox.fail(Fault("redirect", to=f"{task.results[0]}?again", times=None))
    with pytest.raises(UnsafeLinkError, match="more than 10"):
        await kit.downloader.download(task, f"{folder}/")
    assert len(kit.fetches()) == 11


async def test_loopback_is_for_a_loopback_api_only(kit: Kit, folder: Path) -> None:
    """The sandbox's own links are refused by a session whose API is elsewhere."""
    task = await kit.task()
    guarded = Fetcher(timeouts=Timeouts(), allow_loopback=False)
    for link in (task.results[0], task.results[0].replace("http:", "https:")):
        with pytest.raises(UnsafeLinkError):
            await guarded.open(link, {})
    assert kit.fetches() == []
    await guarded.aclose()


async def test_an_unsafe_link_of_a_task_is_an_error_of_the_download(kit: Kit, folder: Path) -> None:
    """The link is not tried again, and nothing is left behind; the message does not hold the link,
    which opens the video to anyone.
    """
    task = attrs.evolve(await kit.task(), results=("https://10.0.0.1/secret-token.mp4",))
    with pytest.raises(UnsafeLinkError) as caught:
        await kit.downloader.download(task, f"{folder}/")
    assert "secret-token" not in str(caught.value)
    assert (kit.fetches(), names_in(folder)) == ([], [])
