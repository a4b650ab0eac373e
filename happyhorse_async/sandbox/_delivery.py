"""Answers onto sockets: the quick way for true ones, and the slow,
cut and silent ways of faults.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from math import isfinite
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from ._faults import Delivery
    from ._http import Reply

__all__ = ["deliver", "is_large", "respond"]

_PIECE = 65536
_LARGE = 1024 * 1024
"""Bytes of a body from which on it is sent in pieces. Handing over a long video whole would hold up
the other answers."""


def is_large(request: web.BaseRequest, answer: Reply) -> bool:
    """Return whether an answer is too long to be handed over whole."""
    return answer.body is not None and len(answer.body) > _LARGE and request.method != "HEAD"


def respond(answer: Reply, headers: dict[str, str]) -> web.Response:
    """Return the whole answer for the framework to send."""
    headers["Content-Type"] = answer.content_type
    headers.update(answer.headers)
    return web.Response(body=answer.encoded(), status=answer.status, headers=headers)


async def deliver(
    request: web.BaseRequest,
    answer: Reply,
    headers: dict[str, str],
    delivery: Delivery,
    closing: asyncio.Event,
) -> web.StreamResponse:
    """Send an answer as a fault has it; `closing` ends every wait."""
    await _pause(delivery.delay, closing)
    if delivery.silent:
        _close(request, reset=delivery.reset)
        return web.Response()
    if delivery.encoding is not None:
        headers["Content-Encoding"] = delivery.encoding
        compressor = zlib.compressobj(wbits=31 if delivery.encoding == "gzip" else 15)
        answer.body = compressor.compress(answer.encoded()) + compressor.flush()
    if delivery.surplus:
        return await _send_with_surplus(request, answer, headers, delivery, closing)
    if delivery.stop_after is None and delivery.chunk is None and not is_large(request, answer):
        return respond(answer, headers)
    return await _send_in_pieces(request, answer, headers, delivery, closing)


async def _send_with_surplus(
    request: web.BaseRequest,
    answer: Reply,
    headers: dict[str, str],
    delivery: Delivery,
    closing: asyncio.Event,
) -> web.StreamResponse:
    response = respond(answer, headers)
    await response.prepare(request)
    await response.write_eof()
    await _pause(delivery.surplus_delay, closing)
    transport = request.transport
    if isinstance(transport, asyncio.WriteTransport):
        transport.write(delivery.surplus)
    return response


async def _send_in_pieces(
    request: web.BaseRequest,
    answer: Reply,
    headers: dict[str, str],
    delivery: Delivery,
    closing: asyncio.Event,
) -> web.StreamResponse:
    body = answer.encoded()
    headers["Content-Type"] = answer.content_type
    response = web.StreamResponse(status=answer.status, headers={**headers, **answer.headers})
    response.content_length = len(body)
    await response.prepare(request)
    piece = delivery.chunk or _PIECE
    end = len(body) if delivery.stop_after is None else delivery.stop_after
    for at in range(0, end, piece):
        try:
            await response.write(body[at : min(at + piece, end)])
        except ConnectionResetError:  # whoever asked has hung up meanwhile
            return response
        await _pause(delivery.interval, closing)
    if delivery.stop_after is not None:
        _close(request, reset=delivery.reset)
    return response


async def _pause(seconds: float, closing: asyncio.Event) -> None:
    if seconds <= 0:
        await asyncio.sleep(
            0
        )  # a quick reader never makes a write wait, and the other answers want their turn
        return
    try:
        await asyncio.wait_for(closing.wait(), seconds if isfinite(seconds) else None)
    except TimeoutError:
        return


def _close(request: web.BaseRequest, *, reset: bool) -> None:
    transport = request.transport
    if transport is None:
        return
    if not reset:
        transport.close()
        return
    peer = transport.get_extra_info("socket")
    if peer is not None:  # a transport in memory has none
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
