"""What the sandbox shows of itself: the live page at `/`, and each host's OpenAPI document."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from .._http import Endpoint, Reply, json_answer

if TYPE_CHECKING:
    from .._http import Call
    from .._service import Service

__all__ = ["DOCUMENT", "ROUTES", "document"]


async def _page(service: Service, call: Call) -> Reply:
    # Another site could put the page in a frame and lead a click onto its buttons.
    headers = {"X-Frame-Options": "DENY", "Cache-Control": "no-store"}
    page = _data("page.html")
    if not service.options.control:
        page = page.replace(b'data-control="on"', b'data-control="off"', 1)
    return Reply(body=page, content_type="text/html; charset=utf-8", headers=headers)


async def _icon(service: Service, call: Call) -> Reply:
    return Reply(204, body=b"")


async def _document(service: Service, call: Call) -> Reply:
    url = service.files_url if call.host == "files" else service.url
    return json_answer(document(call.host, url))


def document(host: str, url: str) -> dict[str, Any]:
    """Return the OpenAPI document of a host, "api" or "files", that listens at a URL."""
    text = _data(f"openapi_{host}.json")
    return {**json.loads(text), "servers": [{"url": url}]}


@cache
def _data(name: str) -> bytes:
    return files("happyhorse_async.sandbox").joinpath(name).read_bytes()


DOCUMENT = Endpoint("GET", "/openapi.json", _document, needs_key=False)
"""On each host's listener."""

ROUTES = (
    Endpoint("GET", "/", _page, needs_key=False),
    Endpoint("GET", "/favicon.ico", _icon, needs_key=False),
    DOCUMENT,
)
"""On the API's listener."""
