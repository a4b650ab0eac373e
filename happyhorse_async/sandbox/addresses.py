"""Which URLs the service agrees to fetch or to call: public ones, and loopback when a test wants it."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from urllib.parse import urlsplit

__all__ = ["CALLBACK_PATTERN", "IMAGE_PATTERN", "MAX_CALLBACK", "callback_problem", "fetch_problem"]

MAX_CALLBACK = 2048

_PORT = "(:(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4}))?"
_REST = "([/?#][!-~]*)?"
_PUBLIC_NAME = r"([A-Za-z0-9-]+\.)+[A-Za-z]{2,}"
_THIS_MACHINE = r"(127\.0\.0\.1|localhost)"
URL_PATTERN = f"https?://[A-Za-z0-9._~-]+{_PORT}{_REST}"
"""What the service takes for a URL that it can fetch: no user name, no unescaped characters."""
IMAGE_PATTERN = f"https?://({_PUBLIC_NAME}|{_THIS_MACHINE}){_PORT}{_REST}"
"""The shape of an image's URL that the sandbox takes for sure."""
CALLBACK_PATTERN = f"(https://{_PUBLIC_NAME}|https?://{_THIS_MACHINE}){_PORT}{_REST}"
"""The shape of a callback URL that the sandbox takes for sure."""

_PRIVATE_SUFFIXES = (".local", ".internal", ".lan", ".localhost", ".intranet")


def fetch_problem(url: str, *, allow_loopback: bool) -> str | None:
    """Return why the service cannot fetch this URL; None when it can. `allow_loopback` makes an exception for this machine."""
    if not re.fullmatch(URL_PATTERN, url):
        return "must be an http or https URL, percent-encoded and without a user name"
    host = _host(url)
    if _is_private(host) and not (allow_loopback and _is_loopback(host)):
        return "must be reachable from the public internet"
    return None


def callback_problem(url: str, *, allow_loopback: bool) -> str | None:
    """Return why the service would not call this URL; None when it would.

    With `allow_loopback` a loopback address is accepted, and then over plain http too.
    """
    if len(url) > MAX_CALLBACK:
        return f"must be at most {MAX_CALLBACK} characters"
    if not re.fullmatch(URL_PATTERN, url):
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
    for read in (ipaddress.ip_address, _short_form):
        with contextlib.suppress(ValueError, OSError):
            return read(host)
    return None


def _short_form(host: str) -> ipaddress.IPv4Address:
    """Read what the C library takes for an IPv4 address too: 127.1, 0x7f.1, 2130706433."""
    return ipaddress.IPv4Address(socket.inet_aton(host))


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def _is_private(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(_PRIVATE_SUFFIXES) or "." not in host
    return not address.is_global or address.is_multicast
