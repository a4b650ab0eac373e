"""Receiving the service's callbacks, for any framework: a callback is a hint, the authenticated
re-read is the truth.

The service does not sign its callbacks, so nothing in a body is believed. The URL carries a token
that cannot be guessed. Only the task id of the body is used, to read that task sooner when somebody
here waits. So a forged, repeated, late or reordered callback can cause one early read at most.
Waiting code is the same with and without callbacks.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from http import HTTPStatus
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from ._formats import json_text
from ._models import TASK_ID
from ._rules.wire import id_of, unwrapped
from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Collection, Mapping

    from ._session import Session

logger: logging.Logger = logging.getLogger("happyhorse_async")

LARGEST_BODY = 64 * 1024
"""Bytes of a callback that are read; a task's JSON is about two thousand."""
SLOWEST_BODY = 5.0
"""Seconds that a callback's body may take; the service gives up after ten."""


class Webhooks:
    """Takes callbacks for one session, which was made with `public_url=`. Answers are decided
    without waiting for anything.

    Mount it where `session.webhook_url` points: `integrations.fastapi` and `integrations.aiohttp`
    have it ready. Any other framework calls `receive` with the last part of the path and the body.
    Callbacks only help the process that waits. Behind a load balancer send them to that process, or
    lower `Polling(heartbeat=...)`.
    """

    def __init__(self, session: Session) -> None:
        url = session.webhook_url
        if url is None:
            raise ConfigurationError(
                "this session has no public URL, so the service cannot call back",
                next_step="Make it with Session(public_url='https://app.example.com/hooks').",
            )
        self._session = session
        self._token = url.rpartition("/")[2].encode()

    def receive(self, token: str, body: bytes | str) -> int:
        """Take one callback, and give the HTTP status to answer with; an empty body goes with it.

        204: taken, whether or not the task is known here, so that the answer tells nothing. 404:
        wrong token. 413: too large. 400: no task in it. 503: the session is closed; the service
        will try again.
        """
        if not hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token):
            return HTTPStatus.NOT_FOUND
        if len(body) > LARGEST_BODY:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        task_id = _task_id(body)
        if task_id is None:
            return HTTPStatus.BAD_REQUEST
        logger.debug(
            "a callback came for task %s", task_id, extra={"action": "callback", "task_id": task_id}
        )
        return (
            HTTPStatus.NO_CONTENT if self._session.hint(task_id) else HTTPStatus.SERVICE_UNAVAILABLE
        )

    async def receive_stream(self, token: str, chunks: AsyncIterable[bytes]) -> int:
        """Take one callback whose body is still arriving. No more of it is read than
        `LARGEST_BODY`, and nothing for a wrong token.

        408: it took longer than `SLOWEST_BODY`.
        """
        if not hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self._token):
            return HTTPStatus.NOT_FOUND
        body = bytearray()
        try:
            async with asyncio.timeout(SLOWEST_BODY):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > LARGEST_BODY:
                        break
        except TimeoutError:
            return HTTPStatus.REQUEST_TIMEOUT
        return self.receive(token, bytes(body))


def finder(webhooks: Webhooks | Callable[[Any], Webhooks]) -> Callable[[Any], Webhooks]:
    """Return what finds the receiver for a request; for integrations. Raises `ConfigurationError`
    for what is neither a receiver nor a plain function. Else each callback would be an error of the
    app, which only its log would tell.
    """
    if isinstance(webhooks, Webhooks):
        return lambda request: webhooks
    if not callable(webhooks) or iscoroutinefunction(webhooks):
        raise ConfigurationError(
            "callbacks: expected a Webhooks, or a function (not an async one) that finds it for a "
            f"request, got {webhooks!r:.200}",
            next_step="Give the Webhooks of the session, or a function that takes the request.",
        )
    return webhooks


# --- Pages of others: a browser sends their requests to this machine too.


OWN_MACHINE = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""The names under which only this machine reaches itself."""


def foreign_page(
    headers: Mapping[str, str], *, hosts: Collection[str] = OWN_MACHINE, method: str = "GET"
) -> str | None:
    """Say why a request cannot come from a page of the app itself; None when it can.

    For an app that spends credits. Any page in a browser may post to it. A name that a foreign
    server points at this machine (DNS rebinding) may even read it. `headers` have lower-case names,
    or ignore case. `hosts` are the names that the app is served under, without a port. A proxy in
    front has to pass `Host` on as it came, or the app's own pages are refused. Browsers send
    `Origin` and `Sec-Fetch-Site`; programs, which send neither, are let in. A link that
    somebody follows to the app is let in too. Callbacks do not need this: their URL is a secret.
    """
    if isinstance(hosts, str):  # else each part of the text would be a name of the app
        hosts = (hosts,)
    host = headers.get("host", "").lower()
    name, _, port = host.rpartition(":")
    if (name if port.isdecimal() else host) not in map(str.lower, hosts):
        return f"the app is not served under the name {host!r}"
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    # A form of the app's own says so where the app tells browsers to send no referrer.
    own = origin == "null" and site == "same-origin"
    if origin is not None and not own and not _is_of(origin.lower(), host):
        return f"the request comes from a page of {origin!r}"
    follows = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
    if not follows and site not in ("none", "same-origin"):
        return "the request comes from a page of another site"
    return None


def _is_of(origin: str, host: str) -> bool:
    scheme, _, authority = origin.partition("://")
    # A browser leaves the usual port out; a proxy in front of the app may write it.
    usual = {"http": ":80", "https": ":443"}.get(scheme, "")
    return authority.removesuffix(usual) == host.removesuffix(usual)


def _task_id(body: bytes | str) -> str | None:
    # As some frameworks hand it over.
    whole = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    try:
        value = json_text.loads(whole)
    except ValueError:
        return None
    task_id = id_of(unwrapped(value)) if isinstance(value, dict) else None
    return task_id if task_id is not None and TASK_ID.fullmatch(task_id) else None
