"""The answers that refuse a request: status, code, type and parameter, as the service's error table
has them.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import Any

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}

_CODES = {
    401: "unauthorized",
    402: "insufficient_quota",
    403: "permission_denied",
    404: "task_not_found",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    503: "service_unavailable",
}


def error_type(status: int) -> str:
    """Return the `error.type` that goes with an HTTP status."""
    return _TYPES.get(status, "api_error")


def typical_code(status: int) -> str:
    """Return the `error.code` that mostly goes with an HTTP status."""
    return _CODES.get(status, "internal_error" if status >= 500 else "invalid_request")


class Refused(Exception):  # noqa: N818  # an answer like any other, not a failure
    """The service says no: carries everything that either host's error envelope needs."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers or {}
        self.details = details or {}
        """What else the error object carries: limits, balances, what is allowed."""


def invalid(param: str, message: str) -> Refused:
    """Return the refusal of one bad parameter: 400 `invalid_request`."""
    return Refused(400, "invalid_request", message, param=param)


# --- JSON in and out, with orjson where it is installed.


_orjson: Any = importlib.import_module("orjson") if importlib.util.find_spec("orjson") else None


def encode(value: Any, *, strict: bool = True) -> bytes:
    """Return compact JSON; not `strict`: also what JSON has not,
    such as NaN and half surrogates.
    """
    if _orjson is None or not strict:
        return json.dumps(value, separators=(",", ":")).encode()
    encoded: bytes = _orjson.dumps(value)
    return encoded


def decode(body: bytes) -> Any:
    """Return the value of a JSON request body; raises `Refused` (400) when it is none."""
    try:
        return (
            _orjson.loads(body)
            if _orjson is not None
            else json.loads(body, parse_constant=_no_constant)
        )
    except (ValueError, RecursionError):
        raise Refused(400, "invalid_request", "the body is not valid JSON") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
