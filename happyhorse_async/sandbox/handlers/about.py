"""The live page at `/` and the OpenAPI documents."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from ..exchange import Answer, json_answer
from ..openapi import api_document, files_document
from ..routing import Route

if TYPE_CHECKING:
    from ..exchange import Call
    from ..service import Service

__all__ = ["API_ROUTES", "FILES_ROUTES"]


async def _page(service: Service, call: Call) -> Answer:
    return Answer(body=_page_bytes(), content_type="text/html; charset=utf-8")


async def _icon(service: Service, call: Call) -> Answer:
    return Answer(204, body=b"")


async def _api(service: Service, call: Call) -> Answer:
    return json_answer(api_document(service.url))


async def _files(service: Service, call: Call) -> Answer:
    return json_answer(files_document(service.files_url))


@cache
def _page_bytes() -> bytes:
    return files("happyhorse_async.sandbox").joinpath("page.html").read_bytes()


API_ROUTES = (
    Route("GET", "/", _page, needs_key=False),
    Route("GET", "/favicon.ico", _icon, needs_key=False),
    Route("GET", "/openapi.json", _api, needs_key=False),
)
"""On the API's listener."""

FILES_ROUTES = (Route("GET", "/openapi.json", _files, needs_key=False),)
"""On the file host's listener."""
