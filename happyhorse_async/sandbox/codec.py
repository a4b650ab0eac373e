"""JSON in and out, with orjson where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import Any

from .refusals import Refusal

_orjson: Any = importlib.import_module("orjson") if importlib.util.find_spec("orjson") else None

__all__ = ["decode", "encode"]


def encode(value: Any) -> bytes:
    """Return compact JSON."""
    if _orjson is None:
        return json.dumps(value, separators=(",", ":")).encode()
    encoded: bytes = _orjson.dumps(value)
    return encoded


def decode(body: bytes) -> Any:
    """Return the value of a JSON request body; raises `Refusal` (400) when it is none."""
    try:
        return _orjson.loads(body) if _orjson is not None else json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refusal(400, "invalid_request", "the body is not valid JSON") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
