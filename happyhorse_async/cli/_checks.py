"""What `happyhorse doctor` looks at on this machine and on the way to the service.

Each check returns what it found, and what to do when that is not well. None spends anything.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import attrs

from .._edges.connections import Route
from .._edges.disk import FolderLock
from .._formats import proxies, urls
from .._formats.http_headers import http_date
from .._formats.texts import printable
from .._version import __version__
from ..errors import HappyHorseError

SECONDS = 10.0
"""How long a host may take to answer."""
LEAST_BYTES = 1_000_000_000
LEAST_DESCRIPTORS = 512
MOST_SKEW = 120.0
"""Seconds that this machine's clock may be wrong before it matters for links and waiting."""
EXTRAS = {
    "sandbox": ("av", "pillow"),
    "speed": ("orjson", "uvloop"),
    "object-store": ("obstore",),
    "parquet": ("pyarrow",),
    "otel": ("opentelemetry-api",),
    "fastapi": ("fastapi",),
    "dbos": ("dbos",),
}


@attrs.frozen(kw_only=True)
class Finding:
    """What one check found."""

    check: str
    ok: bool | None
    """None: it could not be looked at, or does not matter here."""
    fact: str
    next_step: str = ""
    """What to do; "" when it is well."""
    more: dict[str, Any] = attrs.field(factory=dict)
    """What programs may want to read, by field."""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        step = {"next_step": self.next_step} if self.next_step else {}
        return {"check": self.check, "ok": self.ok, "fact": self.fact, **step, **self.more}


# --- this machine ---------------------------------------------------------------------------------


def machine(folder: Path) -> Iterator[Finding]:
    """Check what does not need the network."""
    yield Finding(
        check="versions",
        ok=True,
        fact=f"happyhorse-async {__version__}, Python {platform.python_version()}",
        more={"happyhorse_async": __version__, "python": platform.python_version()},
    )
    yield _extras()
    yield _space(folder)
    yield _locks(folder)
    yield _descriptors()
    yield _certificates()


def _extras() -> Finding:
    found: dict[str, str | None] = {}
    for name in sorted({name for names in EXTRAS.values() for name in names}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    there = [extra for extra, names in EXTRAS.items() if all(found[name] for name in names)]
    absent = [extra for extra in EXTRAS if extra not in there]
    fact = f"{', '.join(there) or 'none'} installed"
    return Finding(
        check="extras",
        ok=None if absent else True,
        fact=fact + (f"; not {', '.join(absent)}" if absent else ""),
        next_step=f"If you need one: pip install 'happyhorse-async[{absent[0]}]'" if absent else "",
        more={"packages": found},
    )


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    return Finding(
        check="disk space",
        ok=free >= LEAST_BYTES,
        fact=f"{free / 1e9:.1f} GB free in {folder}",
        next_step="" if free >= LEAST_BYTES else "Free some, or give --out on another disk.",
        more={"free_bytes": free},
    )


def _locks(folder: Path) -> Finding:
    """Take a batch's lock in a folder beside, and write a database there."""
    try:
        import sqlite3
    except ImportError as error:  # as where Python was built without the headers of SQLite
        return Finding(
            check="locks",
            ok=False,
            fact=f"this Python has no SQLite ({error}), which batches need",
            next_step="Install SQLite's development files, then Python anew, or take another one.",
        )
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".happyhorse-doctor-") as name:
            lock = FolderLock(Path(name))
            lock.take()
            lock.release()
            connection = sqlite3.connect(Path(name) / "try.sqlite")
            try:
                [mode] = connection.execute("PRAGMA journal_mode=WAL").fetchone()
                connection.execute("CREATE TABLE t (x)")
            finally:
                connection.close()
    except (OSError, sqlite3.Error, HappyHorseError) as error:
        return Finding(
            check="locks",
            ok=False,
            fact=f"{folder} has no locks, or cannot be written to: {error}",
            next_step="Batches need them: give --out on a local disk.",
        )
    return Finding(check="locks", ok=True, fact=f"work in {folder} (journal mode {mode})")


def _descriptors() -> Finding:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return Finding(check="descriptors", ok=True, fact="no limit on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= LEAST_DESCRIPTORS
    most = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    step = f"Raise it: ulimit -n {most}"
    if most < LEAST_DESCRIPTORS:
        step = f"Only the administrator can raise it: the hard limit is {hard}."
    return Finding(
        check="descriptors",
        ok=enough,
        fact=f"{soft} open files and connections at once",
        next_step="" if enough else step,
        more={"soft": soft, "hard": hard},
    )


def _certificates() -> Finding:
    count = ssl.create_default_context().cert_store_stats()["x509_ca"]
    paths = ssl.get_default_verify_paths()
    # A folder of certificates is read when it is needed, and counts none before.
    there = bool(count) or bool(paths.capath and os.path.isdir(paths.capath))
    return Finding(
        check="TLS store",
        ok=there,
        fact=f"{count} authorities from {paths.cafile or paths.capath or 'the system'}",
        next_step="" if there else "Install ca-certificates, or give --ca-file FILE.pem.",
        more={"authorities": count},
    )


# --- the way to the service -----------------------------------------------------------------------


def way(base_url: str, files_url: str, route: Route) -> Iterator[Finding]:
    """Check proxies, names, both hosts, and the clock."""
    yield _proxy(base_url, route)
    for check, url in (("API host", base_url), ("file host", files_url)):
        direct = route.proxy_for(url) is None
        named = _name(f"{check}'s name", url, route) if direct else None
        if named is not None:
            yield named
        if named is None or named.ok is not False:
            yield from _host(check, url, route)


def _proxy(url: str, route: Route) -> Finding:
    proxy = route.proxy_for(url)
    if proxy is None:
        return Finding(check="proxy", ok=True, fact="none: hosts are asked directly")
    shown = proxies.without_password(proxy)
    parts = urlsplit(proxy)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), SECONDS).close()
    except OSError as error:
        return Finding(
            check="proxy",
            ok=False,
            fact=f"{shown}: {error}",
            next_step="Check --proxy or HTTPS_PROXY; NO_PROXY or --proxy - goes past it.",
        )
    return Finding(check="proxy", ok=True, fact=shown, more={"proxy": shown})


def _name(check: str, url: str, route: Route) -> Finding:
    """Look a host's name up: proxy tools in fake-IP mode, and a machine without IPv4, are seen."""
    host = urlsplit(url).hostname or ""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)}
    except OSError as error:
        return Finding(
            check=check,
            ok=False,
            fact=f"{host} has no address: {error}",
            next_step="Check the network, the DNS server, and the spelling of --base-url.",
        )
    addresses = sorted(map(str, found))
    loopback = urls.is_loopback_host(host)
    refusals = [
        refusal
        for address in addresses
        if (refusal := urls.address_refusal(address, allow_loopback=loopback, allow=route.allow))
    ]
    families = [name for name, mark in (("IPv4", "."), ("IPv6", ":")) if mark in "".join(addresses)]
    fact = f"{host}: {', '.join(addresses[:4])} ({' and '.join(families)})"
    return Finding(
        check=check,
        ok=None if refusals else True,
        fact=fact + (f"; {refusals[0].why}" if refusals else ""),
        next_step=(refusals[0].remedy or "") if refusals else "",
        more={"addresses": addresses},
    )


def _host(check: str, url: str, route: Route) -> Iterator[Finding]:
    """Ask a host for its front page: any answer will do. Its date tells of this machine's clock."""
    proxy = route.proxy_for(url)
    if proxy is not None and proxy.startswith("https:") and url.startswith("https:"):
        # The standard library makes no tunnel through TLS; a session does.
        told = f"{url}: not tried alone, through a proxy that is spoken to over TLS"
        yield Finding(check=check, ok=None, fact=told, next_step="The check of the key tells more.")
        return
    context = route.tls if isinstance(route.tls, ssl.SSLContext) else ssl.create_default_context()
    opener = build_opener(
        ProxyHandler({urlsplit(url).scheme: proxy} if proxy else {}), HTTPSHandler(context=context)
    )
    began = time.monotonic()
    try:
        # The session has refused every scheme but http and https.
        request = Request(url, method="HEAD")  # noqa: S310
        with opener.open(request, timeout=SECONDS) as response:
            status, headers = response.status, response.headers
    except HTTPError as error:
        status, headers = error.code, error.headers
        error.close()
    except (OSError, ValueError, HTTPException) as error:  # the last: it speaks something else
        yield Finding(check=check, ok=False, fact=_why(url, error), next_step=_remedy(error))
        return
    milliseconds = round(1000 * (time.monotonic() - began))
    yield Finding(
        check=check,
        ok=True,
        fact=f"{url} answers in {milliseconds} ms",
        more={"url": url, "status": status, "milliseconds": milliseconds},
    )
    if check == "API host":
        yield _clock(http_date(headers.get("Date")))


def _why(url: str, error: BaseException) -> str:
    inner = error.reason if isinstance(error, URLError) else error
    if isinstance(inner, HTTPException) and not isinstance(inner, OSError):
        return f"{url}: its answer is no HTTP ({type(inner).__name__}: {printable(str(inner))})"
    return f"{url}: {inner}"


def _remedy(error: BaseException) -> str:
    inner = error.reason if isinstance(error, URLError) else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return (
            "If a proxy or a firewall of your own signs anew what passes, name its certificate: "
            "--ca-file FILE.pem."
        )
    return "Check the network, a firewall, --proxy, and --base-url or --files-url."


def _clock(told: datetime | None) -> Finding:
    if told is None:
        return Finding(check="clock", ok=None, fact="the service says no time")
    skew = time.time() - told.timestamp()
    right = abs(skew) <= MOST_SKEW
    return Finding(
        check="clock",
        ok=right,
        fact=f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the service's",
        next_step="" if right else "Set this machine's clock: links and waits go by it.",
        more={"skew_seconds": round(skew, 1)},
    )
