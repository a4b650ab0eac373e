"""The rules of the submit endpoint: a JSON body becomes an `Order`, or a refusal that names the
parameter.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from ._errors import Refused, invalid
from ._prices import IMAGE_TO_VIDEO

if TYPE_CHECKING:
    from collections.abc import Callable

QUALITIES = ("720p", "1080p")
MAX_SEED = 2_147_483_647
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
_IDEMPOTENCY_KEY = "[A-Za-z0-9._-]{16,96}"


@attrs.frozen(kw_only=True)
class Order:
    """A submission that the service accepts, with its defaults filled in."""

    body: dict[str, Any]
    """The body as it was sent."""
    model: str
    image_url: str
    prompt: str | None
    """Cut to the service's limit."""
    quality: str
    duration: int
    seed: int | None
    callback_url: str | None


def read_submission(body: Any, *, allow_loopback: bool, is_own: Callable[[str], bool]) -> Order:
    """Return the accepted submission; raises `Refused` (400 `invalid_request` with `param`)
    otherwise.

    `is_own` says whether an image URL is the file service's own, which is accepted wherever that
    listens.
    """
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", "the body must be a JSON object")
    if body.get("model") not in IMAGE_TO_VIDEO:
        raise invalid("model", f"model must be one of {', '.join(IMAGE_TO_VIDEO)}")
    if "aspect_ratio" in body:
        raise invalid("aspect_ratio", "aspect_ratio is not accepted: the first frame decides it")
    quality = "720p" if body.get("quality") is None else body["quality"]
    if quality not in QUALITIES:
        raise invalid("quality", "quality must be 720p or 1080p")
    return Order(
        body=body,
        model=body["model"],
        image_url=_image_url(body, allow_loopback=allow_loopback, is_own=is_own),
        prompt=_prompt(body),
        quality=quality,
        duration=_integer(body, "duration", 3, 15) or 5,
        seed=_integer(body, "seed", 1, MAX_SEED),
        callback_url=_callback_url(body, allow_loopback=allow_loopback),
    )


def check_idempotency_key(key: str) -> None:
    """Raise `Refused` unless the key is 16 to 96 characters of `A-Za-z0-9._-` (seen in the vendor's
    clients).
    """
    if not re.fullmatch(_IDEMPOTENCY_KEY, key):
        raise invalid(
            "Idempotency-Key", "Idempotency-Key must be 16 to 96 characters of A-Za-z0-9._-"
        )


def _image_url(body: dict[str, Any], *, allow_loopback: bool, is_own: Callable[[str], bool]) -> str:
    urls = body.get("image_urls")
    if not isinstance(urls, list) or len(urls) != 1 or not isinstance(urls[0], str):
        raise invalid("image_urls", "image_urls must be an array of exactly 1 URL")
    url: str = urls[0]
    if not is_own(url) and (problem := fetch_problem(url, allow_loopback=allow_loopback)):
        raise invalid("image_urls", f"image_urls[0] {problem}")
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


# --- Which URLs the service agrees to fetch or to call: public ones, and loopback when a test wants
# it.


MAX_CALLBACK = 2048

_PORT = "(:(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4}))?"
_REST = "([/?#][!-~]*)?"
_URL_PATTERN = f"https?://[A-Za-z0-9._~-]+{_PORT}{_REST}"
"""What the service takes for a URL that it can fetch: no user name, no unescaped characters."""
_PRIVATE_SUFFIXES = (".local", ".internal", ".lan", ".localhost", ".intranet")


def fetch_problem(url: str, *, allow_loopback: bool) -> str | None:
    """Return why the service cannot fetch this URL; None when it can.

    With `allow_loopback` a loopback address is accepted, and no other private one.
    """
    if not re.fullmatch(_URL_PATTERN, url):
        return "must be an http or https URL, percent-encoded and without a user name"
    host = _host(url)
    if allow_loopback and _is_loopback(host):
        return None
    if _is_private(host):
        return "must be reachable from the public internet"
    return None


def callback_problem(url: str, *, allow_loopback: bool) -> str | None:
    """Return why the service would not call this URL; None when it would.

    With `allow_loopback` a loopback address is accepted, and then over plain http too.
    """
    if len(url) > MAX_CALLBACK:
        return f"must be at most {MAX_CALLBACK} characters"
    if not re.fullmatch(_URL_PATTERN, url):
        return "must be an https URL"
    host = _host(url)
    if allow_loopback and _is_loopback(host):
        return None
    if not url.startswith("https:"):
        return "must be an https URL"
    return "must not be a private address" if _is_private(host) else None


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if ":" not in host and not host.rpartition(".")[2][:1].isdigit():
        return None  # a name, told without the two failures below
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # Resolvers also take `127.1`, `0x7f.1` and `2130706433` for addresses.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def _is_private(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(_PRIVATE_SUFFIXES) or "." not in host
    return not address.is_global or address.is_multicast
