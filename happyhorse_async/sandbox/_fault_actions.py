"""The faults of one exchange: what they do to a request, to its answer, and to how that is sent.

Functions over values; the sockets are the server's. `_faults` says how a function is a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import formatdate
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from ._errors import Refused, typical_code
from ._fault_values import (
    Body,
    Count,
    Fields,
    Headers,
    HeaderSize,
    Ids,
    Line,
    Names,
    OddNumber,
    Page,
    Piece,
    Places,
    Share,
    Shift,
    Size,
    Span,
    Status,
    Wait,
)
from ._faults import RESULTS, TASKS, Act, fault
from ._http import Reply, api_error, expired_answer, file_error
from ._task_record import FINAL

if TYPE_CHECKING:
    from ._task_record import TaskRecord


GATEWAY_PAGE = (
    "<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center><hr>"
    "<center>gateway</center></body></html>"
)
"""What a gateway before the service shows of its own; it speaks no JSON."""


# --- Requests that get no answer, another one, or a late one.


@fault("before")
def refuse(
    act: Act, *, status: Status = 503, body: Body = None, headers: Headers | None = None
) -> None:
    """Reply this instead of handling the request; without a body it is the host's own error."""
    act.answer = _given(act, status, body, headers)


@fault("after")
def answer_after(
    act: Act, *, status: Status = 502, body: Body = None, headers: Headers | None = None
) -> None:
    """Handle the request, and answer this instead of the truth."""
    act.answer = _given(act, status, body, headers)


@fault("after")
def other_status(act: Act, *, status: Status = 202) -> None:
    """Give the true answer under another status."""
    act.true_answer.status = status


@fault("before")
def gateway_page(act: Act, *, status: Status = 502, title: Line = "Bad Gateway") -> None:
    """Reply with a foreign HTML page, as a gateway does that never asked the service.

    With `sending=2` it meets only the first replay of an `Idempotency-Key`.
    """
    page = GATEWAY_PAGE.format(title=f"{status} {title}")
    act.answer = _given(act, status, page, {"Server": "gateway"})


@fault("before")
def retry_after(act: Act, *, value: Line = "86400", status: Status = 429) -> None:
    """Refuse with this `Retry-After`: a day, a year, a date long gone, or no time at all."""
    act.answer = _given(act, status, None, {"Retry-After": value})


@fault("before")
def drop_before(act: Act) -> None:
    """Close the connection with a reset instead of handling the request."""
    _drop(act)


@fault("after")
def drop_after(act: Act) -> None:
    """Handle the request, and close the connection with a reset instead of answering."""
    _drop(act)


@fault("before")
def hang_before(act: Act, *, seconds: Wait = inf) -> None:
    """Handle nothing, say nothing, and close the connection after so many real seconds."""
    _hang(act, seconds)


@fault("after")
def hang_after(act: Act, *, seconds: Wait = inf) -> None:
    """Handle the request, say nothing, and close the connection after so many real seconds."""
    _hang(act, seconds)


@fault("after")
def slow(act: Act, *, seconds: Wait = 1.0) -> None:
    """Reply so many real seconds late."""
    act.delivery.delay = seconds


@fault("after")
def slow_bytes(act: Act, *, chunk: Piece = 1024, interval: Span = 0.05) -> None:
    """Send the body in pieces, so many real seconds apart."""
    act.delivery.chunk, act.delivery.interval = chunk, interval


@fault("after")
def surplus_answer(
    act: Act, *, status: Status = 408, body: Page = "Request Timeout", seconds: Span = 0.0
) -> None:
    """Send an answer that nobody asked for after the true one, on the idle connection."""
    data = _as_bytes(body)
    head = f"HTTP/1.1 {status} Surplus\r\nContent-Length: {len(data)}\r\n\r\n"
    act.delivery.surplus, act.delivery.surplus_delay = head.encode() + data, seconds


@fault("after")
def long_headers(act: Act, *, size: HeaderSize = 16_384, name: Line = "X-Trace") -> None:
    """Add a response header of so many bytes."""
    act.true_answer.headers[name] = "x" * size


@fault("after")
def odd_limits(
    act: Act,
    *,
    limit: Line = "0",
    remaining: Line = "0",
    reset: Line = "86400",
    prefix: Literal["RateLimit", "X-RateLimit"] = "RateLimit",
) -> None:
    """Tell this of the limit of requests in the answer's headers, whatever it is in truth."""
    told = {"Limit": limit, "Remaining": remaining, "Reset": reset}
    act.true_answer.headers |= {f"{prefix}-{name}": value for name, value in told.items()}


def _given(act: Act, status: int, body: Any, headers: dict[str, str] | None) -> Reply:
    headers = dict(headers or {})
    if isinstance(body, (bytes, str)):
        kind = "text/html; charset=utf-8"
        return Reply(status, body=_as_bytes(body), content_type=kind, headers=headers)
    if body is not None:
        return Reply(status, body, headers=headers)
    message = "refused by a fault of the sandbox"
    refusal = Refused(status, typical_code(status), message, headers=headers)
    if act.call.host == "files":
        return file_error(refusal)
    integer_code = act.service.features.integer_codes
    return api_error(refusal, request_id=act.request_id, integer_code=integer_code)


def _drop(act: Act) -> None:
    act.answer = act.answer or Reply()
    act.delivery.silent = act.delivery.reset = True


def _hang(act: Act, seconds: float) -> None:
    act.answer = act.answer or Reply()
    act.delivery.silent, act.delivery.delay = True, seconds


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


# --- Result links that give something else than the video.


@fault("after", path=RESULTS)
def truncate(act: Act, *, bytes: Size | None = None, fraction: Share = 0.5) -> None:  # noqa: A002
    """Announce the whole body, send so much of it, and close the connection."""
    if act.true_answer.status in (200, 206):
        act.delivery.stop_after = _share(act, bytes, fraction)


@fault("after", path=RESULTS)
def reset(act: Act, *, bytes: Size | None = None, fraction: Share = 0.5) -> None:  # noqa: A002
    """Announce the whole body, send so much of it, and close the connection with a reset."""
    act.delivery.reset = True
    truncate(act, bytes=bytes, fraction=fraction)


@fault("after", path=RESULTS)
def short(act: Act, *, bytes: Size | None = None, fraction: Share = 0.5) -> None:  # noqa: A002
    """Reply with the beginning of the body as if it were the whole."""
    body = act.true_answer.encoded()[: _share(act, bytes, fraction)]
    act.answer = Reply(200, body=body, content_type=act.true_answer.content_type)


@fault("after", path=RESULTS)
def html(act: Act, *, status: Status = 200, body: Page | None = None) -> None:
    """Reply with a page instead of the video."""
    act.answer = expired_answer(status, body)


@fault("after", path=RESULTS)
def json(act: Act, *, status: Status = 200, body: Body = None) -> None:
    """Reply with JSON instead of the video."""
    expired = {"error": {"code": "expired", "message": "This link has expired."}}
    act.answer = Reply(status, expired if body is None else body)


@fault("after", path=RESULTS)
def empty(act: Act, *, status: Status = 200) -> None:
    """Reply with no body at all."""
    act.answer = Reply(status, body=b"", content_type=act.true_answer.content_type)


@fault("after", path=RESULTS)
def label(act: Act, *, content_type: Line = "text/html; charset=utf-8") -> None:
    """Send the true body under another `Content-Type`."""
    act.true_answer.content_type = content_type


@fault("before", path=RESULTS)
def compressed(act: Act, *, encoding: Literal["gzip", "deflate"] = "gzip") -> None:
    """Send the whole body compressed, though the client asked for `identity`."""
    ignore_range(act)
    act.delivery.encoding = encoding


@fault("before", path=RESULTS)
def ignore_range(act: Act) -> None:
    """Reply with the whole body whatever range was asked for."""
    kept = {name: value for name, value in act.call.headers.items() if name.lower() != "range"}
    act.call.headers = kept


@fault("after", path=RESULTS)
def wrong_range(act: Act, *, content_range: Line = "bytes 1-2/3") -> None:
    """Name a `Content-Range` that is not the one that is sent."""
    if act.true_answer.status == 206:
        act.true_answer.headers["Content-Range"] = content_range


@fault("before", path=RESULTS)
def new_etag(act: Act) -> None:
    """Change the video's `ETag` from now on."""
    task = _linked(act)
    if task is not None:
        task.etag_version += 1


@fault("before", path=RESULTS)
def re_encode(act: Act) -> None:
    """Make the video anew from now on, with other bytes of the same length and another `ETag`."""
    task = _linked(act)
    if task is not None:
        task.encoding += 1


@fault("after", path=RESULTS)
def no_validators(act: Act) -> None:
    """Leave out `ETag` and `Last-Modified`, by which a client knows a video again."""
    for name in ("ETag", "Last-Modified"):
        act.true_answer.headers.pop(name, None)


@fault("after", path=RESULTS)
def corrupt(act: Act, *, at: Places | None = None) -> None:
    """Flip the bytes at these places, by default a few in the later two thirds."""
    body = bytearray(act.true_answer.encoded())
    size = len(body)
    for place in range(size // 3, size, max(1, size // 7)) if at is None else at:
        if place < size:
            body[place] ^= 0xFF
    act.true_answer.body = bytes(body)


@fault("before", path=RESULTS)
def redirect(act: Act, *, status: Status = 302, to: Line | None = None) -> None:
    """Redirect to another place, by default to the same link once more, which then answers."""
    if "hop=" not in act.call.query:
        location = f"{act.call.path}?hop=1" if to is None else to
        act.answer = Reply(status, body=b"", headers={"Location": location})


@fault("before", path=RESULTS)
def expire(act: Act, *, status: Status | None = None, fresh: bool = False) -> None:
    """Kill the link before its time; with `fresh` the next read of the task gives another."""
    task = _linked(act)
    if task is not None:
        act.service.world.expire_link(task, act.call.now, fresh=fresh)
        act.answer = expired_answer(status or act.service.options.expired_link)


def _linked(act: Act) -> TaskRecord | None:
    """Return the task whose present link is being called."""
    token = act.call.path.rpartition("/")[2].removesuffix(".mp4")
    found = act.service.world.find_link(token)
    return found[0] if found and found[1] is found[0].links[-1] else None


def _share(act: Act, most: int | None, fraction: float) -> int:
    size = len(act.true_answer.encoded())
    return min(size, int(size * fraction) if most is None else most)


# --- The answer's JSON: fields, numbers and texts that are not what the reference says.


@fault("after", path="/v1/tasks/batch")
def absent(act: Act, *, ids: Ids = "all") -> None:
    """Leave these tasks, or all, out of an answer to a query of many."""
    payload = act.true_answer.payload
    if act.true_answer.status == 200 and isinstance(payload, dict) and "data" in payload:
        rows = [] if ids == "all" else _views_in(act.true_answer)
        payload["data"] = [row for row in rows if row.get("id") not in ids]


@fault("after", path=TASKS)
def unknown_status(act: Act, *, status: str = "archiving", ids: Ids = "all") -> None:
    """Show these tasks, or all, in one answer with a status word that nobody knows."""
    for view in _views_in(act.true_answer):
        if "status" in view and (ids == "all" or view.get("id") in ids):
            view["status"] = status


@fault("after", path=TASKS)
def odd_results(act: Act, *, value: Body = None) -> None:
    """Put this in the place of the results, where an answer has them."""
    for view in _views_in(act.true_answer):
        if view.pop("result_data", None) is not None or "results" in view:
            view["results"] = value


_OF_THE_END = ("results", "result_data", "error", "billing", "duration")


@fault("after", path=TASKS)
def stale(act: Act, *, ids: Ids = "all") -> None:
    """Show these ended tasks, or all, in one answer as before their end, as a replica does that
    lags.
    """
    for view in _views_in(act.true_answer):
        if view.get("status") not in FINAL or not (ids == "all" or view.get("id") in ids):
            continue
        view |= {"status": "processing", "progress": min(view.get("progress", 0), 99)}
        view |= {name: False for name in ("has_results", "has_error") if name in view}
        for name in _OF_THE_END:
            view.pop(name, None)
        for name in ("credits_used", "cost"):
            view.get("usage", {}).pop(name, None)


@fault("after", path=TASKS)
def other_task(act: Act) -> None:
    """Answer a read of one task with the account's task before it, as a cache does that mixes them
    up. A query of many gives that one besides.
    """
    payload = act.true_answer.payload if act.true_answer.status == 200 else None
    if not isinstance(payload, dict) or "total" in payload:
        return
    rows = _views_in(act.true_answer)
    before = task_before(act, rows[0].get("id") if rows else None)
    if before is not None:
        other = act.service.show(before, act.call.now)
        act.true_answer.payload = {"data": [other, *rows]} if "data" in payload else other


def task_before(act: Act, task_id: object) -> TaskRecord | None:
    """Return the account's task before one; None when that is its first, or none of its own."""
    mine = [task for task in act.service.world.tasks.values() if task.wallet is act.call.wallet]
    ids = [task.id for task in mine]
    at = ids.index(task_id) if task_id in ids else 0
    return mine[at - 1] if at else None


@fault("before", path=TASKS)
def oldest_first(act: Act) -> None:
    """List the tasks in the other order, the oldest first."""
    act.call.oldest_first = True


@fault("before", path=TASKS)
def shifted_pages(act: Act, *, rows: Count = 50) -> None:
    """Begin each page of a list but the first so many rows too early, as if new tasks had come on
    top of it while it was read. With as many as a page has, the same page comes twice.
    """
    act.call.shift = rows


@fault("after", path=TASKS)
def unknown_fields(act: Act, *, fields: Fields | None = None) -> None:
    """Add these fields to every task in an answer."""
    more = {"new_field": {"nested": [1, None, "two"]}, "another": 3} if fields is None else fields
    for view in _views_in(act.true_answer):
        view.update(more)


@fault("after", path="/api/v1/files/upload-receipts/")
def unknown_receipt(act: Act) -> None:
    """Say that it is not known what became of an upload."""
    if act.true_answer.status == 200:
        for view in _views_in(act.true_answer):
            view |= {"state": "outcome_unknown", "result_verified": False}
            view.pop("file", None)


_NUMBERS = (
    "created",
    "created_at",
    "credits",
    "credits_reserved",
    "credits_used",
    "charged_credits",
    "duration",
    "estimated_time",
    "progress",
    "refunded_credits",
    "remaining_credits",
    "reserved_credits",
    "uc",
    "usd",
    "used_credits",
)
_AMOUNTS = ("credits", "uc", "usd")


@fault("after", path="/v1/")
def odd_number(act: Act, *, value: OddNumber = -1, fields: Names = _NUMBERS) -> None:
    """Put this number in place of those of these fields: credits, progress, times, estimates.

    As text it may be any: "NaN", "1e305", or 400 digits.
    """
    number = _number(value) if isinstance(value, str) else value

    def _change(name: str, old: Any) -> Any:
        if name not in fields or isinstance(old, bool):
            return old
        if isinstance(old, str):  # the service writes amounts of money as decimal text
            return str(value) if name in _AMOUNTS else old
        return number if isinstance(old, (int, float)) else old

    _retell(act, _change)


_TEXTS = ("action_url", "file_name", "key_name", "message", "msg", "original_name", "suggestion")


@fault("after")
def surrogate(act: Act, *, fields: Names = _TEXTS) -> None:
    """Put half a surrogate pair, which no UTF-8 can say, into the texts of these fields."""
    _retext(act, fields, "\ud83d")


@fault("after")
def escapes(act: Act, *, fields: Names = _TEXTS) -> None:
    """Put control sequences of terminals into the texts of these fields."""
    _retext(act, fields, "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\u202e")


@fault("after")
def skew(act: Act, *, seconds: Shift = 3600.0) -> None:
    """Move every timestamp and the `Date` header, as a clock that is wrong."""
    act.true_answer.headers["Date"] = formatdate(act.call.now + seconds, usegmt=True)
    for view in _views_in(act.true_answer):
        for name in ("created", "created_at"):
            if name in view:
                view[name] += int(seconds)
        for name in ("upload_time", "expires_at"):
            if name in view:
                moment = datetime.fromisoformat(view[name]) + timedelta(seconds=seconds)
                view[name] = moment.isoformat(timespec="seconds")


def _views_in(answer: Reply) -> list[dict[str, Any]]:
    """Return the tasks and files in an answer, which another fault may have changed."""
    payload = answer.payload if isinstance(answer.payload, dict) else {}
    data = payload.get("data", payload)
    return [view for view in (data if isinstance(data, list) else [data]) if isinstance(view, dict)]


def _retext(act: Act, fields: Names, text: str) -> None:
    def _change(name: str, old: Any) -> Any:
        return f"{text}{old}" if name in fields and isinstance(old, str) else old

    _retell(act, _change)


def _retell(act: Act, change: Callable[[str, Any], Any]) -> None:
    """Change every field of an answer's JSON, however deep, also to what strict JSON has not."""
    answer = act.true_answer
    answer.payload, answer.strict = _changed(answer.payload, change), False


def _changed(value: Any, change: Callable[[str, Any], Any]) -> Any:
    if isinstance(value, list):
        return [_changed(member, change) for member in value]
    if isinstance(value, dict):
        return {name: change(name, _changed(member, change)) for name, member in value.items()}
    return value


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
