"""The listeners: every request goes through `Front`, which logs it, lets faults strike, and asks
the router. The answer leaves as it is, or as a fault has it: slow, cut, or not at all.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
import zlib
from contextlib import suppress
from email.utils import formatdate
from math import isfinite
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from aiohttp import web

from ._accounts import RateLimited
from ._errors import Refused
from ._faults import Act, Delivery
from ._http import Call, Reply, api_error, file_error
from ._service import RequestRecord

if TYPE_CHECKING:
    from collections.abc import Collection

    from ._accounts import Wallet
    from ._faults import Fault
    from ._http import Host, Router
    from ._service import Service


_log = logging.getLogger("happyhorse_async.sandbox")

_LARGEST = {"api": 1024 * 1024, "files": 32 * 1024 * 1024}
"""Bytes of a request body before the answer is 413; the service's own limits are not published."""
_LONGEST_LINE = 64 * 1024
"""Bytes of a request line or header: signed links may be long."""
_OWN_PATHS = ("/sandbox/", "/openapi.json", "/favicon.ico")


class Front:
    """Answers the requests of one listener."""

    def __init__(self, service: Service, router: Router, host: Host) -> None:
        self._service = service
        self._router = router
        self.host: Host = host
        self._own_name = urlsplit(service.files_url if host == "files" else service.url).hostname
        self._requests = 0
        self._date = (0, "")

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Reply one request."""
        service = self._service
        raw_path, _, query = request.raw_path.partition("?")
        path = unquote(raw_path) if "%" in raw_path else raw_path
        host: Host = "results" if path.startswith("/results/") else self.host
        oversized = False
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            body, oversized = b"", True
        now = service.catch_up()
        call = Call(
            host=host,
            method=request.method,
            path=path,
            query=query,
            headers=request.headers,
            body=body,
            now=now,
        )
        if path == "/" or path.startswith(_OWN_PATHS):
            foreign = foreign_page(call, service.options.hosts, self._own_name)
            answer = self._refused(call, foreign) if foreign else await self._handle(call)
            return respond(answer, self._headers(now))
        record = RequestRecord(call.method, path, query, call.headers, body, now, host)
        service.journal.add(record)
        key = call.headers.get("Idempotency-Key") if call.method == "POST" else None
        sending = None if key is None else service.faults.sent(key)
        if oversized:
            answer = self._refused(
                call, Refused(413, "request_too_large", "the request is too large")
            )
        elif faults := service.faults.strike(call.method, path, sending, now):
            return await self._misbehave(request, call, record, faults)
        else:
            answer = await self._handle(call)
        service.journal.answered(record, answer.status)
        if is_large(request, answer):
            return await deliver(request, answer, self._headers(now), Delivery(), service.closing)
        return respond(answer, self._headers(now))

    async def _misbehave(
        self, request: web.BaseRequest, call: Call, record: RequestRecord, faults: list[Fault]
    ) -> web.StreamResponse:
        act = Act(self._service, call, Delivery(), request_id=self._error_id())
        for fault in faults:
            if fault.stage == "before":
                fault.run(act)
        if act.answer is None:
            act.answer = await self._handle(call)
            for fault in faults:
                if fault.stage == "after":
                    fault.run(act)
        answer, delivery = act.true_answer, act.delivery
        self._service.journal.answered(record, None if delivery.silent else answer.status)
        return await deliver(
            request, answer, self._headers(call.now), delivery, self._service.closing
        )

    async def _handle(self, call: Call) -> Reply:
        try:
            route, call.params = self._router.find(call.method, call.path)
            if route.feature is not None and not getattr(self._service.features, route.feature):
                raise _absence(self._service.features.missing)
            if route.needs_key:
                call.wallet = self._wallet(call)
            answer = await route.handler(self._service, call)
            self._service.keep_armed()
            return answer
        except Refused as refusal:
            return self._refused(call, refusal)
        except Exception as error:  # noqa: BLE001
            # A bug of the sandbox must show as the service's own 500, and loudly: users' tests hang
            # on it.
            _log.exception("the sandbox failed on %s %s", call.method, call.path)
            return self._refused(
                call, Refused(500, "internal_error", f"the sandbox failed: {error!r}")
            )

    def _wallet(self, call: Call) -> Wallet:
        scheme, _, key = call.headers.get("Authorization", "").partition(" ")
        wallet = (
            self._service.world.wallets.get(key.strip()) if scheme.lower() == "bearer" else None
        )
        if wallet is None:
            raise Refused(401, "unauthorized", "a valid key is needed: Authorization: Bearer KEY")
        wallet.account.check(call.now)
        return wallet

    def _refused(self, call: Call, refusal: Refused) -> Reply:
        if not self._service.features.error_details:
            refusal.details = {}
        if isinstance(refusal, RateLimited) and self._service.features.retry_after != "absent":
            refusal.headers["Retry-After"] = refusal.retry_after(
                call.now, as_date=self._service.features.retry_after == "date"
            )
        if call.host == "files":
            return file_error(refusal)
        if call.host == "results":
            return Reply(
                refusal.status,
                body=refusal.message.encode(),
                content_type="text/plain; charset=utf-8",
            )
        return api_error(
            refusal, request_id=self._error_id(), integer_code=self._service.features.integer_codes
        )

    def _headers(self, now: float) -> dict[str, str]:
        second = int(now)
        if self._date[0] != second:
            self._date = second, formatdate(second, usegmt=True)
        headers = {"Date": self._date[1], "Server": "happyhorse-sandbox"}
        name = self._service.features.request_ids
        if name != "absent":
            headers[name] = self._request_id()
        self._requests += 1
        return headers

    def _error_id(self) -> str | None:
        """Return the id for an error's body, the same as that of the header to come."""
        return self._request_id() if self._service.features.request_ids != "absent" else None

    def _request_id(self) -> str:
        return f"req-{self.host}-{self._requests:08d}"


def foreign_page(call: Call, hosts: Collection[str], own: str | None) -> Refused | None:
    """Return the refusal of a call that a foreign page in somebody's browser makes; else None.

    Such a page names itself in `Origin` or `Sec-Fetch-Site`. A page whose name was bound to this
    address anew (DNS rebinding) has the same origin. But its name is in `Host`.
    """
    headers = call.headers
    host = headers.get("Host", "")
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    if not (name in ("localhost", own) or name in hosts or _is_address(name)):
        message = f"{host!r} is not a name of the sandbox; Sandbox(hosts=[...]) adds names"
        return Refused(403, "forbidden_host", message)
    is_link = call.path == "/" and headers.get("Sec-Fetch-Dest") == "document"
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and not is_link:
        return Refused(403, "forbidden_origin", "pages of other sites may not call this")
    if headers.get("Origin", f"http://{host}") != f"http://{host}":
        return Refused(403, "forbidden_origin", "pages of other origins may not call this")
    return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _absence(status: int) -> Refused:
    """Return what an endpoint that is switched off answers."""
    if status == 405:
        return Refused(405, "method_not_allowed", "there is no such method at this path")
    return Refused(404, "not_found", "there is nothing at this path")


_ACCEPTING = 3
"""Turns of the event loop from accepting a connection until the server knows that it has it."""


class Listener:
    """One server: what makes the protocols of its connections, and its socket if it has one."""

    def __init__(self, front: Front) -> None:
        loop = asyncio.get_running_loop()
        largest = _LARGEST[front.host]

        def make_request(message, payload, protocol, writer, task):  # type: ignore[no-untyped-def]
            return web.BaseRequest(
                message, payload, protocol, writer, task, loop, client_max_size=largest
            )

        # Cancelled handlers end their waits when the client goes away; nothing that is paid awaits
        # in between.
        self._web = web.Server(
            front,
            request_factory=make_request,
            handler_cancellation=True,
            access_log=None,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
        )
        self._server: asyncio.Server | None = None

    def protocol(self) -> asyncio.Protocol:
        """Return the server's end of a new connection."""
        return self._web()

    async def listen(self, bound: socket.socket) -> None:
        """Accept connections on a bound socket from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._web, sock=bound, backlog=1024)

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server is not None:
            await self._accept_no_more(self._server)
            self._server.close()
        await self._web.shutdown(1.0)
        if self._server is not None:
            await self._server.wait_closed()

    @staticmethod
    async def _accept_no_more(server: asyncio.Server) -> None:
        """Let what was accepted in this moment become a connection that can be closed.

        A server that is closed at once forgets it, and its client would wait for ever.
        """
        for listening in server.sockets:
            with suppress(NotImplementedError):  # other kinds of loops accept in other ways
                asyncio.get_running_loop().remove_reader(listening.fileno())
        for _ in range(_ACCEPTING):
            await asyncio.sleep(0)


def bind(host: str, *ports: int) -> list[socket.socket]:
    """Return a bound socket for each port; raises `OSError`, and leaves none open, when one is
    taken.
    """
    sockets: list[socket.socket] = []
    try:
        for port in ports:
            sockets.append(
                bound := socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            )
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setblocking(False)
            bound.bind((host, port))
    except OSError as error:
        for bound in sockets:
            bound.close()
        why = f"port {port} of {host}: {error.strerror or error} (0 takes a free one)"
        raise OSError(error.errno, why) from error
    return sockets


def url_of(bound: socket.socket) -> str:
    """Return the base URL of a bound socket, without a slash at the end."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# --- Answers onto sockets: the quick way for true ones, the slow, cut and silent ways of faults.


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
        response = respond(answer, headers)
        await response.prepare(request)
        await response.write_eof()
        await _pause(delivery.surplus_delay, closing)
        if isinstance(request.transport, asyncio.WriteTransport):
            request.transport.write(delivery.surplus)
        return response
    if delivery.stop_after is None and delivery.chunk is None and not is_large(request, answer):
        return respond(answer, headers)
    return await _send_in_pieces(request, answer, headers, delivery, closing)


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
        # A quick reader never makes a write wait, and the other answers want their turn.
        await asyncio.sleep(0)
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
