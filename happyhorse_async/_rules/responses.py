"""Answers -> JSON objects or errors: what an HTTP answer says before one looks at its fields.

Its headers may also tell of a limit: by the IETF's drafts on RateLimit fields, and by GitHub's API.
May import the errors, and the rules of refusals; no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from .._formats import json_text
from .._formats.http_headers import http_date
from .._formats.texts import printable
from ..errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    TaskNotFoundError,
    UnreadableAnswerError,
)
from . import refusals

LONGEST_CODE = 100
LONGEST_MESSAGE = 2000
"""Characters of a refusal's code and message that go into its error."""


class Answer(NamedTuple):
    """An HTTP answer as plain data."""

    status: int
    headers: Mapping[str, str]
    """Looked up without regard to case."""
    body: bytes

    @property
    def request_id(self) -> str | None:
        """The id that the service's support asks for."""
        found = self.headers.get("x-request-id") or self.headers.get("x-oneapi-request-id")
        return printable(found, most=LONGEST_CODE) if found else None

    @property
    def date(self) -> datetime | None:
        """The service's time of the answer."""
        return http_date(self.headers.get("date"))


def decode_json(answer: Answer) -> Any:
    """Read an answer's JSON; raises `UnreadableAnswerError` for anything else."""
    try:
        return json_text.loads(answer.body)
    except ValueError:
        why = "is not JSON" if answer.body.strip() else "is empty"
        if 300 <= answer.status < 400:
            why = "is a redirect, which no call follows: base_url or files_url is another address"
        raise unreadable(answer, why) from None


def decode_object(answer: Answer) -> dict[str, Any]:
    """Read an answer's JSON object; raises the service's error for an error status,
    `UnreadableAnswerError` for anything else.
    """
    if answer.status >= 400:
        raise error_of(answer)
    value = decode_json(answer)
    if not isinstance(value, dict):
        raise unreadable(answer, "is not a JSON object")
    if isinstance(value.get("error"), dict) and "id" not in value:
        # Gateways have answered 200 with an error object inside: it is a refusal all the same.
        raise error_of(answer)
    return value


def unreadable(answer: Answer, why: str) -> UnreadableAnswerError:
    """Make the error for an answer that is not the service's."""
    excerpt = answer.body[:200].decode("utf-8", "replace")
    message = f"the answer (HTTP {answer.status}, {len(answer.body)} bytes) {why}" + (
        f": {excerpt[:80]!r}" if excerpt else ""
    )
    return UnreadableAnswerError(
        message, status=answer.status, excerpt=printable(excerpt), request_id=answer.request_id
    )


_BY_CODE: dict[str, type[APIStatusError]] = {
    **refusals.KINDS,
    "idempotency_conflict": IdempotencyConflictError,
    "task_not_found": TaskNotFoundError,
}
_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: PermissionDeniedError,
    404: NotFoundError,
    405: NotFoundError,
    413: BadRequestError,
    422: BadRequestError,
    429: RateLimitError,
}


_FIREWALL = (
    "A gateway or a firewall on the way refused this, not the service: change what may look like "
    "an attack in the request, try from another network, or ask the service's support."
)
"""What helps against a 403 that is not the service's; the key is not the problem."""


def error_of(answer: Answer) -> APIStatusError:
    """Return the error for a refusal: by the service's code where it is known, else by the HTTP
    status.
    """
    error, own = _error_object(answer.body)
    code = printable(str(error.get("code") or ""), most=LONGEST_CODE)
    kind = _BY_CODE.get(code) or _BY_STATUS.get(answer.status)
    if kind is None:
        kind = InternalServerError if answer.status >= 500 else APIStatusError
    message = (
        str(error.get("message") or error.get("msg") or "")[:LONGEST_MESSAGE]
        or answer.body[:200].decode("utf-8", "replace").strip()
        or "no message"
    )
    details = refusals.details_of(error, answer.date or datetime.now(UTC)) if error else None
    return kind(
        f"HTTP {answer.status}{f' {code}' if code else ''}: {printable(message)}",
        status=answer.status,
        code=code,
        param=_told(error.get("param")),
        retry_after=parse_retry_after(
            answer.headers.get("retry-after"), answer.headers.get("date")
        ),
        own_body=own,
        details=details,
        next_step=_FIREWALL
        if answer.status == 403 and not error
        else refusals.next_step(code, details),
        request_id=answer.request_id or _told(error.get("request_id")),
    )


def _error_object(body: bytes) -> tuple[dict[str, Any], bool]:
    """Find the service's error object, of the API or of the file service; ({}, False) when the body
    is not the service's.
    """
    try:
        value = json_text.loads(body)
    except ValueError:
        return {}, False
    if isinstance(value, dict):
        error = value.get("error")
        # The reference promises an object with a code and a type; a bare text is a gateway's way of
        # speaking.
        if isinstance(error, dict):
            return error, bool(error.get("code") or error.get("type"))
        if isinstance(error, str):
            return {"message": error}, False
        if value.get("success") is False:
            return value, value.get("code") is not None
    return {}, False


def _told(value: Any) -> str | None:
    return printable(str(value), most=LONGEST_CODE) if value is not None else None


def parse_retry_after(value: str | None, date: str | None) -> float | None:
    """Read a Retry-After header as seconds: a number, or an HTTP date.

    A date is counted from the answer's own Date header, so that a wrong local clock does no harm.
    None when it cannot be read.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until, now = http_date(value), http_date(date)
        if until is None or now is None:
            return None
        seconds = (until - now).total_seconds()
    return max(0.0, seconds) if seconds < 10**9 else None


# --- What the headers tell of a limit.


class Told(NamedTuple):
    """What the headers of an answer say of the limit."""

    remaining: float
    """Requests that may still come in this window."""
    reset: float
    """Seconds until the next window."""
    rate: float | None
    """Requests a second, when the length of the window is told too."""


# Text, compiled with the first answer that tells a limit.
_NUMBER = r"\s*(\d{1,20}(?:\.\d{1,9})?)"
_WINDOW = r";\s*w=(\d{1,9}(?:\.\d{1,9})?)"
_FAMILIES = "ratelimit-", "x-ratelimit-"
_LASTING = r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)(m?)s)?"
_EPOCH = 1e9
"""A reset that is larger is a moment in Unix seconds and no duration."""
_FINER = 1e11
"""A moment that is larger is in milliseconds, or in a thousandth of these, and so on."""
_LEAST_RESET = 10.0
"""Resets come in whole seconds: from so many on they tell a rate."""


def tells_limit(headers: Mapping[str, str]) -> bool:
    """Return whether an answer may tell of a limit: then `told_limit` is worth its time."""
    return "ratelimit-remaining" in headers or "x-ratelimit-remaining" in headers


def told_limit(headers: Mapping[str, str], date: datetime | None = None) -> Told | None:
    """Read `RateLimit-*` or `X-RateLimit-*` headers; None when there are none that make sense.

    `date` is the service's time of the answer, for a reset that is a moment. The names and forms
    are those of the IETF's drafts on RateLimit header fields, and of GitHub's API.
    """
    for family in _FAMILIES:
        said = headers.get(family + "remaining")
        if said is not None:
            return _read(said, family, headers, date)
    return None


def _seconds_until(reset: str, date: datetime | None) -> float | None:
    """Return the seconds until a window resets. Gateways write a number, a duration such as
    "1m30s", or a moment; of what is none of these nothing is believed.
    """
    lasting = re.fullmatch(_LASTING, reset) if reset else None
    if lasting is not None:
        hours, minutes, seconds = (float(part or 0) for part in lasting.groups()[:3])
        return 3600 * hours + 60 * minutes + seconds / (1000 if lasting[4] else 1)
    plain = re.match(_NUMBER + r"\s*(?:[;,]|$)", reset)
    if plain is not None:
        moment = float(plain[1])
        if moment <= _EPOCH:
            return moment
        while moment > _FINER:
            moment /= 1000
    else:
        try:
            read = datetime.fromisoformat(reset)
        except ValueError:
            return None
        moment = (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
    return None if date is None else max(0.0, moment - date.timestamp())


def _read(said: str, family: str, headers: Mapping[str, str], date: datetime | None) -> Told | None:
    remaining = re.match(_NUMBER, said)
    seconds = _seconds_until(headers.get(family + "reset", "").strip(), date)
    if remaining is None or seconds is None:
        return None
    limit = headers.get(family + "limit", "")
    most = re.match(_NUMBER, limit)
    window = re.search(_WINDOW, limit) or re.search(_WINDOW, headers.get(family + "policy", ""))
    rate = None
    if most is not None and window is not None and float(window[1]) > 0:
        rate = float(most[1]) / float(window[1])
    elif seconds >= _LEAST_RESET:
        rate = float(remaining[1]) / seconds
    return Told(float(remaining[1]), seconds, rate or None)
