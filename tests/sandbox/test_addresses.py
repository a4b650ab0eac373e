"""Which addresses the sandbox takes: public ones, loopback with the switch, and never another
private one.
"""

from __future__ import annotations

import aiohttp
import pytest

from happyhorse_async.sandbox import Sandbox
from tests.sandbox.conftest import Wire, picture

pytestmark = pytest.mark.anyio

LOOPBACK = ["127.0.0.1", "localhost", "127.8.8.8", "127.1", "2130706433", "0x7f.1", "0177.0.0.1"]
PRIVATE = [
    "10.0.0.1",
    "192.168.1.4",
    "172.16.0.9",
    "169.254.169.254",
    "10.1",
    "192.168.260",
    "0xa9fea9fe",
    "nas.local",
    "intranet",
]


async def refused(wire: Wire, host: str) -> list[bool]:
    """Return whether an image, an upload and callbacks with this host are refused."""
    image = await wire.submit(image_urls=[f"http://{host}/a.png"])
    callbacks = [
        await wire.submit(callback_url=f"{scheme}://{host}/hook") for scheme in ("http", "https")
    ]
    return [reply.status == 400 for reply in (image, *callbacks)]


@pytest.mark.parametrize("host", PRIVATE)
async def test_the_loopback_switch_opens_no_other_private_address(wire: Wire, host: str) -> None:
    """The standing sandbox allows loopback, and refuses images and callbacks there, however the
    address is written.
    """
    assert await refused(wire, host) == [True, True, True]
    upload = await wire.files(
        "POST", "/api/v1/files/upload/url", json={"file_url": f"http://{host}/a.png"}
    )
    assert (upload.status, "public internet" in upload.json["msg"]) == (400, True)


@pytest.mark.parametrize("host", LOOPBACK)
async def test_the_loopback_switch_opens_loopback(http: aiohttp.ClientSession, host: str) -> None:
    """With it all ways to write such an address are accepted, without it none is."""
    for allowed in (True, False):
        async with Sandbox(video="stub", allow_loopback=allowed) as sandbox:
            assert await refused(Wire(sandbox, http), host) == [not allowed] * 3


async def test_the_file_services_own_urls_need_no_switch(http: aiohttp.ClientSession) -> None:
    """What was uploaded here can be animated here, wherever the sandbox listens."""
    async with Sandbox(video="stub", allow_loopback=False) as sandbox:
        wire = Wire(sandbox, http)
        file_url = (await wire.upload(picture())).json["data"]["file_url"]
        assert (await wire.submit(image_urls=[file_url])).status == 200
