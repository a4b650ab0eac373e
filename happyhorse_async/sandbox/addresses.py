"""Which URLs the service agrees to fetch or to call: public ones, and loopback when a test wants it."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

__all__ = ["callback_problem", "fetch_problem"]

_MAX_CALLBACK = 2048
_PRIVATE_SUFFIXES = (".local", ".internal", ".lan", ".localhost", ".intranet")


def fetch_problem(url: str, *, allow_private: bool) -> str | None:
    """Return why the service cannot fetch this URL; None when it can."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be an http or https URL"
    if parts.username is not None or parts.password is not None:
        return "must not carry a user name or password"
    if not allow_private and _is_private(parts.hostname):
        return "must be reachable from the public internet"
    return None


def callback_problem(url: str, *, allow_loopback: bool) -> str | None:
    """Return why the service would not call this URL; None when it would.

    With `allow_loopback` a loopback address is accepted, and then over plain http too.
    """
    if len(url) > _MAX_CALLBACK:
        return f"must be at most {_MAX_CALLBACK} characters"
    parts = _split(url)
    if parts is None or not parts.hostname:
        return "must be an https URL"
    if allow_loopback and parts.scheme in ("http", "https") and _is_loopback(parts.hostname):
        return None
    if parts.scheme != "https":
        return "must be an https URL"
    return "must not be a private address" if _is_private(parts.hostname) else None


def _split(url: str) -> SplitResult | None:
    if not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port  # an impossible port number shows only when it is read
    except ValueError:
        return None
    return parts


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def _is_private(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(_PRIVATE_SUFFIXES) or "." not in host
    return not address.is_global or address.is_multicast
