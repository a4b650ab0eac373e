"""Uploads as base64: large ones and broken ones."""

from __future__ import annotations

import base64

import pytest

from happyhorse_async.sandbox._handlers import files
from tests.sandbox.conftest import Wire, picture

pytestmark = pytest.mark.anyio
UPLOAD = "/api/v1/files/upload/base64"


async def test_a_large_upload_as_base64_is_matched_at_its_beginning_alone(wire: Wire) -> None:
    """It is stored as it was sent, and no pattern runs over its megabytes while the event loop
    waits.
    """
    data = picture() + bytes(range(256)) * 2048
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    stored = (await wire.files("POST", UPLOAD, json={"base64_data": url})).json["data"]
    assert (await wire.get(stored["file_url"], key=None)).body == data
    matched = files._DATA_URL.match(url)
    assert matched is not None
    assert matched.end() == url.index(",") + 1


@pytest.mark.parametrize(
    "text",
    ["AAA", "A===", "AA=A", "AAAA=", "AAAA====", "AA AA", "AAA_", "AA\nAA", "AAAé", "A", "="],
)
async def test_what_is_not_base64_is_refused_as_such(wire: Wire, text: str) -> None:
    """The beginning is right and the rest is not: 400, which says so, never a 500."""
    reply = await wire.files("POST", UPLOAD, json={"base64_data": f"data:image/png;base64,{text}"})
    assert (reply.status, reply.json["msg"]) == (
        400,
        "what follows base64, in base64_data is not base64",
    )
