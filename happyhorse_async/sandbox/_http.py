"""One request and one answer, as the handlers see them: no sockets, no web framework."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, unquote

import attrs

from ._errors import Refused, decode, encode, error_type
from ._task_record import NO_QUIRKS, Quirks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._accounts import Wallet

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
    quirks: Quirks = NO_QUIRKS
    """What faults make of the submitted task."""
    oldest_first: bool = False
    """A list that is asked for begins with the oldest task."""
    shift: int = 0
    """Its pages after the first begin so many rows too early."""

    @property
    def owner(self) -> Wallet:
        """Return the account that calls; only on routes that need a key."""
        if self.wallet is None:
            raise Refused(401, "unauthorized", "this call needs a key")
        return self.wallet

    def json(self) -> Any:
        """Return the body's JSON value; raises `Refused` (400)."""
        return decode(self.body)

    def argument(self, name: str) -> str | None:
        """Return one query argument, the last of several."""
        values = parse_qs(self.query, keep_blank_values=True).get(name)
        return values[-1] if values else None


@attrs.define(eq=False)
class Reply:
    """An answer before it is sent: either `payload`, which faults may still change, or `body`."""

    status: int = 200
    payload: Any = None
    body: bytes | None = None
    content_type: str = _JSON
    headers: dict[str, str] = attrs.field(factory=dict)
    strict: bool = True
    """Off: `payload` has values that JSON has not, and is sent all the same."""

    def encoded(self) -> bytes:
        """Return the body's bytes."""
        return encode(self.payload, strict=self.strict) if self.body is None else self.body


def expired_answer(status: int, page: str | bytes | None = None) -> Reply:
    """Return what a dead result link answers: a page, with whatever status the host of the day
    prefers.
    """
    body = _EXPIRED_PAGE if page is None else page
    body = body.encode() if isinstance(body, str) else body
    return Reply(status, body=body, content_type="text/html; charset=utf-8")


def api_error(refusal: Refused, *, request_id: str | None, integer_code: bool) -> Reply:
    """Return a refusal in the API's error envelope."""
    error: dict[str, Any] = {
        "code": refusal.status if integer_code else refusal.code,
        "message": refusal.message,
        "type": error_type(refusal.status),
    }
    if refusal.param is not None:
        error["param"] = refusal.param
    error.update(refusal.details)
    if request_id is not None and refusal.status >= 500:
        error["request_id"] = request_id
    return Reply(refusal.status, {"error": error}, headers=dict(refusal.headers))


def file_error(refusal: Refused) -> Reply:
    """Return a refusal in the file service's envelope (seen in the vendor's clients)."""
    payload = {"success": False, "code": refusal.status, "msg": refusal.message}
    return Reply(refusal.status, payload, headers=dict(refusal.headers))


# --- From method and path to a handler. A dozen routes need no framework, and this is quick on the
# paths that matter.


Handler = Callable[[Any, Call], Awaitable[Reply]]


@attrs.frozen
class Endpoint:
    """One operation: a path pattern with `{name}` parts, which match anything but a slash."""

    method: str
    pattern: str
    handler: Handler
    needs_key: bool = True
    feature: str | None = None
    """The flag of `Features` without which the route does not exist."""


class Router:
    """The routes of one listener."""

    def __init__(self, routes: Iterable[Endpoint]) -> None:
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Endpoint]]] = {}
        for route in routes:
            if "{" in route.pattern:
                regex = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.pattern))
                self._patterns.setdefault(route.pattern, (regex, {}))[1][route.method] = route
            else:
                self._exact.setdefault(route.pattern, {})[route.method] = route

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        """Return the route and the values of its pattern; raises `Refused` (404 or 405)."""
        methods, params = self._methods(path)
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            if not methods:
                raise Refused(404, "not_found", "there is nothing at this path")
            allowed = ", ".join(sorted(methods))
            raise Refused(
                405,
                "method_not_allowed",
                f"only {allowed} is possible here",
                headers={"Allow": allowed},
            )
        return route, params

    def _methods(self, path: str) -> tuple[dict[str, Endpoint], dict[str, str]]:
        exact = self._exact.get(path)
        if exact is not None:
            return exact, {}
        for regex, methods in self._patterns.values():
            found = regex.fullmatch(path)
            if found is not None:
                return methods, {name: unquote(value) for name, value in found.groupdict().items()}
        return {}, {}


# --- `multipart/form-data` from bytes that are all there: a pure function, quick on files of many
# megabytes.


@attrs.frozen
class Part:
    """One field of a form: its file name, if it is a file, and its bytes."""

    filename: str | None
    data: bytes = attrs.field(repr=False)


def parse_multipart(body: bytes, content_type: str) -> dict[str, Part]:
    """Return the fields by name; raises `Refused` (400) when the body is not a well-formed form."""
    header = _header("content-type", content_type)
    boundary = header.get_param("boundary")
    if (
        header.get_content_type() != "multipart/form-data"
        or not isinstance(boundary, str)
        or not boundary
    ):
        raise Refused(400, "invalid_request", "the body must be multipart/form-data")
    try:
        delimiter = b"\r\n--" + boundary.encode("ascii")
    except UnicodeEncodeError:
        raise Refused(400, "invalid_request", "the boundary must be ASCII") from None
    _, *pieces = (b"\r\n" + body).split(delimiter)
    if not pieces or not pieces[-1].startswith(b"--"):
        raise Refused(400, "invalid_request", "the form does not end with its boundary")
    return dict(_part(piece) for piece in pieces[:-1])


def _part(piece: bytes) -> tuple[str, Part]:
    head, separator, data = piece.partition(b"\r\n\r\n")
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if separator and name.strip().lower() == "content-disposition":
            disposition = _header("content-disposition", value.strip())
            field = disposition.get_param("name", header="content-disposition")
            if isinstance(field, str):
                return field, Part(disposition.get_filename(), data)
    raise Refused(400, "invalid_request", "a part of the form has no name")


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value
    return message


# --- `Range` and `If-Range` as a file host understands them: pure functions over header values.


_SINGLE = re.compile(r"bytes=\s*(\d*)-(\d*)\s*")


class UnsatisfiableRangeError(Exception):
    """No byte of the range is in the file: answer 416."""


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first and the last byte of a single range; None when the header is to be ignored.

    Several ranges and malformed ones are ignored, as HTTP allows. Raises `UnsatisfiableRangeError`.
    """
    found = _SINGLE.fullmatch(header)
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
        if last and int(last) < start:
            return None
    if start >= size:
        raise UnsatisfiableRangeError
    return start, end


def applies(if_range: str | None, *, etag: str, modified: float) -> bool:
    """Return whether `If-Range` lets a range apply: the validator is the file's own, or there is
    none.
    """
    if if_range is None:
        return True
    if if_range.startswith(('"', "W/")):
        return if_range == etag
    try:
        return parsedate_to_datetime(if_range).timestamp() == int(modified)
    except ValueError:
        return False
