"""Callbacks for aiohttp's server: a route that takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from http import HTTPStatus

from aiohttp import web

from ..webhooks import Webhooks, finder


def webhook_route(
    path: str, webhooks: Webhooks | Callable[[web.Request], Webhooks]
) -> web.RouteDef:
    """Make a route to add to an application, for example `app.add_routes([webhook_route("/hooks",
    webhooks)])`.

    `path` is the path of `Session(public_url=...)`. `webhooks` is the receiver, or a function that
    finds it for a request. Such a function suits apps that open their session in a cleanup context.
    Raises `ConfigurationError` for anything else.
    """
    receiver_of = finder(webhooks)

    async def take(request: web.Request) -> web.Response:
        """Answer one callback as the receiver says."""
        token = request.match_info["token"]
        try:
            status = await receiver_of(request).receive_stream(token, _body(request))
        except (ConnectionError, web.RequestPayloadError):
            status = HTTPStatus.BAD_REQUEST  # it broke off, and the service comes again
        return web.Response(status=status)

    return web.post(f"{path.rstrip('/')}/{{token}}", take)


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    if request.content.at_eof():
        yield await request.read()  # a middleware may have read it, and aiohttp has kept it
        return
    async for chunk in request.content.iter_any():
        yield chunk
