"""Which proxy a URL goes through, as the environment says it.

The rules are those that curl, pip and httpx share: HTTP_PROXY and HTTPS_PROXY by the scheme of the
URL, ALL_PROXY for the rest, NO_PROXY for exceptions. Pure functions over text.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from .urls import parse_address

_PORTS = {"http": 80, "https": 443}


class Proxies(NamedTuple):
    """The proxies of an environment."""

    by_scheme: Mapping[str, str]
    """The proxy's URL by the URL's scheme, or by "all"."""
    exceptions: tuple[str, ...] = ()
    """What NO_PROXY lists, in small letters."""


def from_environment(found: Mapping[str, str]) -> Proxies:
    """Return what the environment says; `found` is as `urllib.request.getproxies()` gives it.

    A proxy without a scheme is an http one. Proxies of a kind that is not spoken here (SOCKS) are
    left out; see `unspoken`.
    """
    by_scheme = {
        scheme: with_scheme(found[scheme])
        for scheme in ("http", "https", "all")
        if found.get(scheme) and proxy_problem(with_scheme(found[scheme])) is None
    }
    return Proxies(by_scheme, tuple(found.get("no", "").lower().replace(",", " ").split()))


def unspoken(found: Mapping[str, str]) -> str | None:
    """Say why https goes past the proxy that the environment names; None when it does not."""
    if not {"https", "all"}.isdisjoint(from_environment(found).by_scheme):
        return None
    for scheme in ("https", "all"):
        problem = proxy_problem(with_scheme(found[scheme])) if found.get(scheme) else None
        if problem:
            return f"{scheme.upper()}_PROXY is passed over: {problem}"
    return None


def with_scheme(proxy: str) -> str:
    """Return a proxy's URL; what has no scheme is an http proxy."""
    return proxy.strip() if "://" in proxy else f"http://{proxy.strip()}"


def proxy_problem(proxy: str) -> str | None:
    """Say why a URL names no proxy that is spoken here; None when it does. Shows no password."""
    try:
        parts = urlsplit(proxy)
        _ = parts.port
    except ValueError:
        return "it is not a URL"
    if parts.scheme not in _PORTS:
        return f"only http and https proxies are spoken, and it is {parts.scheme or 'no URL'}"
    return None if parts.hostname else "it names no host"


def without_password(proxy: str) -> str:
    """Return a proxy's URL as it may be shown."""
    before, mark, host = proxy.rpartition("@")
    if not mark:
        return proxy
    scheme, _, user = before.rpartition("://")
    return f"{scheme}://{user.partition(':')[0]}:***@{host}"


def password_of(proxy: str) -> str | None:
    """Return the password in a proxy's URL, as the proxy reads it."""
    password = urlsplit(proxy).password
    return unquote(password) if password else None


def proxy_for(url: str, proxies: Proxies) -> str | None:
    """Return the proxy through which a URL is asked for; None when it is asked for directly."""
    parts = urlsplit(url)
    proxy = proxies.by_scheme.get(parts.scheme) or proxies.by_scheme.get("all")
    host = (parts.hostname or "").rstrip(".")
    if proxy is None or is_exception(host, parts.port or _PORTS.get(parts.scheme), proxies):
        return None
    return _writable(proxy)


def _writable(proxy: str) -> str:
    """Return a proxy's URL whose user and password the HTTP library can write. It knows Latin-1 for
    them; of others their UTF-8 leaves, as from curl.
    """
    before, mark, host = proxy.rpartition("@")
    scheme, _, known = before.rpartition("://")
    told = unquote(known)
    if not mark or max(told, default="") < "\u0100":
        return proxy
    parts = (quote(unquote(part).encode().decode("latin-1"), safe="") for part in known.split(":"))
    return f"{scheme}://{':'.join(parts)}@{host}"


def is_exception(host: str, port: int | None, proxies: Proxies) -> bool:
    """Return whether NO_PROXY takes a host out.

    An entry is "*", a name, an address or a range of addresses, and may end with a port. A name
    stands for all names below it too.
    """
    address = parse_address(host)
    return any(_matches(entry, host, address, port) for entry in proxies.exceptions)


def _matches(
    entry: str,
    host: str,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
    port: int | None,
) -> bool:
    if entry == "*":
        return True
    if entry.startswith("[") or entry.count(":") == 1:
        entry, _, wanted = entry.rpartition(":") if not entry.endswith("]") else (entry, "", "")
        if wanted and wanted != str(port):
            return False
        entry = entry.strip("[]")
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))
