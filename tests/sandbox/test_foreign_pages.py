"""Only the sandbox's own page and local programs may steer it:
what a browser tells is looked at.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Sandbox
from tests.sandbox.conftest import Wire

pytestmark = pytest.mark.anyio
CROSS = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
FORM = {**CROSS, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
REBOUND = {"Host": "evil.example:8787"}


@pytest.mark.parametrize(
    "headers",
    [
        CROSS,
        FORM,
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        REBOUND,
        {"Host": "localhost.evil.example"},
        {**REBOUND, "Origin": "http://evil.example:8787", "Sec-Fetch-Site": "same-origin"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/sandbox/advance"),
        ("DELETE", "/sandbox/faults"),
        ("GET", "/sandbox/state"),
        ("GET", "/sandbox/requests"),
    ],
)
async def test_a_foreign_page_neither_steers_nor_reads(
    wire: Wire, method: str, path: str, headers: dict[str, str]
) -> None:
    """Cross-site requests, forms that navigate,
    and names bound anew (DNS rebinding) are refused.
    """
    before = wire.sandbox.now
    data = '{"seconds": 60}' if method == "POST" else None
    reply = await wire.call(method, path, key=None, headers=headers, data=data)
    assert (reply.status, b"paid" in reply.body) == (403, False)
    assert wire.sandbox.now == before


async def test_the_own_page_local_programs_and_other_names_of_this_machine_go_on(
    wire: Wire,
) -> None:
    """Same origin, no browser at all, localhost, a forwarded port, and every address."""
    port = wire.sandbox.url.rpartition(":")[2]
    own = {"Origin": wire.sandbox.url, "Sec-Fetch-Site": "same-origin"}
    for headers in (
        own,
        {},
        {"Sec-Fetch-Site": "none"},
        {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"},
        {"Host": "localhost:9000"},
        {"Host": "[::1]:9000"},
        {"Host": "10.1.2.3"},
    ):
        reply = await wire.post("/sandbox/advance", {"seconds": 1}, key=None, headers=headers)
        assert (reply.status, headers) == (200, headers)


@pytest.mark.parametrize("hosts", [["Sandbox"], "Sandbox"])
async def test_names_can_be_added(http: aiohttp.ClientSession, hosts: list[str] | str) -> None:
    """A container's name, say: it is called by that, and no other name is."""
    async with Sandbox(video="stub", hosts=hosts) as sandbox:
        wire = Wire(sandbox, http)
        for host, status in (("sandbox:8787", 200), ("evil:8787", 403), ("s:8787", 403)):
            reply = await wire.get("/sandbox/state", key=None, headers={"Host": host})
            assert reply.status == status


async def test_a_link_from_elsewhere_opens_the_page_but_nobody_frames_it(wire: Wire) -> None:
    """The page holds nothing; a frame around it could lead clicks onto its buttons."""
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    page = await wire.get("/", key=None, headers=link)
    assert (page.status, page.headers["X-Frame-Options"]) == (200, "DENY")
    framed = await wire.get("/", key=None, headers={**link, "Sec-Fetch-Dest": "iframe"})
    assert framed.status == 403


async def test_the_service_itself_asks_for_a_key_and_nothing_else(wire: Wire) -> None:
    """The vendor's own API has no such check, so a gateway's `Host` changes nothing there."""
    assert (await wire.get("/v1/credits", headers=REBOUND)).status == 200


@pytest.mark.parametrize(
    ("settings", "status"),
    [({}, 404), ({"control": True}, 200), ({"control": False}, 404)],
)
async def test_beyond_loopback_there_is_no_control_unless_it_is_asked_for(
    http: aiohttp.ClientSession, settings: dict[str, Any], status: int
) -> None:
    """Listening for the whole network opens the service, not the steering."""
    async with Sandbox(video="stub", host="0.0.0.0", **settings) as sandbox:
        wire = Wire(sandbox, http)
        port = sandbox.url.rpartition(":")[2]
        reply = await wire.get(f"http://127.0.0.1:{port}/sandbox/state", key=None)
        assert reply.status == status
        assert (await wire.get(f"http://127.0.0.1:{port}/v1/credits")).status == 200
