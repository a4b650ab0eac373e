"""The rules of the submit endpoint: a JSON body becomes a `Submission`, or a refusal that names the parameter."""

from __future__ import annotations

import re
from typing import Any

import attrs

from .addresses import callback_problem, fetch_problem
from .refusals import Refusal, invalid

__all__ = ["MODEL", "Submission", "check_idempotency_key", "read_submission"]

MODEL = "happyhorse-1.0-image-to-video"
QUALITIES = ("720p", "1080p")
MAX_SEED = 2_147_483_647
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
IDEMPOTENCY_PATTERN = "[A-Za-z0-9._-]{16,96}"


@attrs.frozen(kw_only=True)
class Submission:
    """A submission that the service accepts, with its defaults filled in."""

    body: dict[str, Any]
    """The body as it was sent."""
    image_url: str
    prompt: str | None
    """Cut to the service's limit."""
    quality: str
    duration: int
    seed: int | None
    callback_url: str | None


def read_submission(body: Any, *, allow_loopback: bool) -> Submission:
    """Return the accepted submission; raises `Refusal` (400 `invalid_request` with `param`) otherwise."""
    if not isinstance(body, dict):
        raise Refusal(400, "invalid_request", "the body must be a JSON object")
    if body.get("model") != MODEL:
        raise invalid("model", f"model must be {MODEL}")
    if "aspect_ratio" in body:
        raise invalid("aspect_ratio", "aspect_ratio is not accepted: the first frame decides it")
    quality = "720p" if body.get("quality") is None else body["quality"]
    if quality not in QUALITIES:
        raise invalid("quality", "quality must be 720p or 1080p")
    return Submission(
        body=body,
        image_url=_image_url(body, allow_loopback=allow_loopback),
        prompt=_prompt(body),
        quality=quality,
        duration=_integer(body, "duration", 3, 15) or 5,
        seed=_integer(body, "seed", 1, MAX_SEED),
        callback_url=_callback_url(body, allow_loopback=allow_loopback),
    )


def check_idempotency_key(key: str) -> None:
    """Raise `Refusal` unless the key is 16 to 96 characters of `A-Za-z0-9._-` (seen in the vendor's clients)."""
    if not re.fullmatch(IDEMPOTENCY_PATTERN, key):
        raise invalid("Idempotency-Key", "Idempotency-Key must be 16 to 96 characters of A-Za-z0-9._-")


def _image_url(body: dict[str, Any], *, allow_loopback: bool) -> str:
    urls = body.get("image_urls")
    if not isinstance(urls, list) or len(urls) != 1 or not isinstance(urls[0], str):
        raise invalid("image_urls", "image_urls must be an array of exactly 1 URL")
    if problem := fetch_problem(urls[0], allow_loopback=allow_loopback):
        raise invalid("image_urls", f"image_urls[0] {problem}")
    url: str = urls[0]
    return url


def _prompt(body: dict[str, Any]) -> str | None:
    prompt = body.get("prompt")
    if prompt is None:
        return None
    if not isinstance(prompt, str):
        raise invalid("prompt", "prompt must be a string")
    return prompt[: 2500 if _CHINESE.search(prompt) else 5000]


def _integer(body: dict[str, Any], name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    whole = not isinstance(value, bool) and isinstance(value, (int, float)) and value % 1 == 0
    if not whole or not low <= value <= high:
        raise invalid(name, f"{name} must be an integer from {low} to {high}")
    return int(value)


def _callback_url(body: dict[str, Any], *, allow_loopback: bool) -> str | None:
    url = body.get("callback_url")
    if url is None:
        return None
    if not isinstance(url, str):
        raise invalid("callback_url", "callback_url must be a string")
    if problem := callback_problem(url, allow_loopback=allow_loopback):
        raise invalid("callback_url", f"callback_url {problem}")
    return url
