"""One request and one answer, as the handlers see them: no sockets, no web framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs

import attrs

from .codec import decode, encode
from .refusals import Refusal, error_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .money import Wallet
    from .tasks import Ending

__all__ = ["Answer", "Call", "Host", "api_error", "expired_answer", "file_error", "json_answer"]

Host = Literal["api", "files", "results"]
_JSON = "application/json"
_EXPIRED_PAGE = "<!doctype html><title>Link expired</title><p>This link is no longer valid."


@attrs.define(eq=False, kw_only=True)
class Call:
    """A request that has arrived completely."""

    host: Host
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    now: float
    """Sandbox time of arrival."""
    wallet: Wallet | None = None
    params: dict[str, str] = attrs.field(factory=dict)
    """What the route's pattern found in the path."""
    ending: Ending | None = None
    """How the submitted task shall end, when a fault has a say in that."""

    @property
    def owner(self) -> Wallet:
        """Return the account that calls; only on routes that need a key."""
        if self.wallet is None:
            raise Refusal(401, "unauthorized", "this call needs a key")
        return self.wallet

    def json(self) -> Any:
        """Return the body's JSON value; raises `Refusal` (400)."""
        return decode(self.body)

    def argument(self, name: str) -> str | None:
        """Return one query argument, the last of several."""
        values = parse_qs(self.query, keep_blank_values=True).get(name)
        return values[-1] if values else None


@attrs.define(eq=False)
class Answer:
    """An answer before it is sent: either `payload`, which faults may still change, or `body`."""

    status: int = 200
    payload: Any = None
    body: bytes | None = None
    content_type: str = _JSON
    headers: dict[str, str] = attrs.field(factory=dict)

    def encoded(self) -> bytes:
        """Return the body's bytes."""
        return encode(self.payload) if self.body is None else self.body


def json_answer(payload: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Return an answer that carries JSON."""
    return Answer(status, payload, headers=headers or {})


def expired_answer(status: int, page: str | bytes | None = None) -> Answer:
    """Return what a dead result link answers: a page, with whatever status the host of the day prefers."""
    body = _EXPIRED_PAGE if page is None else page
    body = body.encode() if isinstance(body, str) else body
    return Answer(status, body=body, content_type="text/html; charset=utf-8")


def api_error(refusal: Refusal, *, request_id: str | None, integer_code: bool) -> Answer:
    """Return a refusal in the API's error envelope."""
    error: dict[str, Any] = {
        "code": refusal.status if integer_code else refusal.code,
        "message": refusal.message,
        "type": error_type(refusal.status),
    }
    if refusal.param is not None:
        error["param"] = refusal.param
    if request_id is not None and refusal.status >= 500:
        error["request_id"] = request_id
    return Answer(refusal.status, {"error": error}, headers=dict(refusal.headers))


def file_error(refusal: Refusal) -> Answer:
    """Return a refusal in the file service's envelope (seen in the vendor's clients)."""
    payload = {"success": False, "code": refusal.status, "msg": refusal.message}
    return Answer(refusal.status, payload, headers=dict(refusal.headers))
