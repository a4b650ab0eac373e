"""Which links may be handed to the service, which callback URLs it accepts, and which links may be
followed.

Pure functions over text and addresses: nothing is looked up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from .texts import shown

LONGEST_CALLBACK = 2048

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Ranges = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

FAKE_IP = ("198.18.0.0/15", "fc00::/18")
"""The ranges in which proxy tools answer every name in fake-IP mode."""

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# Addresses that some of the supported Pythons take for public ones. Clouds answer their machines
# with secrets on the first two (168.63.129.16: Azure, 192.0.0.192: Oracle); the others lead into
# tunnels or are for documents.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",
            "192.0.0.0/24",
            "192.88.99.0/24",
            "198.18.0.0/15",
            "2001::/32",
            "3fff::/20",
        ),
    )
)


def looks_like_link(text: str) -> bool:
    """Whether a text is meant as a link rather than a path. It has a scheme with "://", or is a
    data URI.
    """
    if text.startswith(("https://", "http://")):
        return True
    scheme, mark, _ = text.partition("://")
    return (
        bool(mark) and scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()
    ) or text.startswith("data:")


# What most first frames have. Nothing about such a link can be wrong. Looking any closer would take
# a tenth of a submission's time.
_PLAIN = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,4})?(?:[/?#][!-~]*)?")
# The patterns below are text, compiled when they are first needed: most processes only ever
# submit plain links.
_UNFIT = "[\\s\x00-\x1f\ud800-\udfff]"


def image_link_problems(link: str) -> list[str]:
    """List what the service's reference forbids in a first frame's link: only http and https, no
    credentials, a host.
    """
    if _PLAIN.fullmatch(link):
        return []
    if link.startswith(("https://", "http://")) and (unfit := re.search(r"[\s\x00-\x1f]", link)):
        return [
            f"no link has {unfit[0]!r} in it (a blank is written as %20), and there is one in "
            f"{link[:200]!r}"
        ]
    parts = _split(link)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return [
            f"expected an http or https link that the public internet can reach, got {link[:200]!r}"
        ]
    if parts.username is not None or parts.password is not None:
        return ["the service cannot log in: leave user name and password out of the link"]
    return []


def private_host(link: str) -> str | None:
    """Return the host of an http link when it cannot be public; None when it can."""
    return _private_host(link.split("/", 3)[2])


@lru_cache(maxsize=256)  # the frames of a night lie on the same few hosts
def _private_host(authority: str) -> str | None:
    host = urlsplit(f"//{authority}").hostname or ""
    return None if is_public_host(host) else host


def callback_problems(url: object) -> list[str]:
    """List what the service's reference forbids in a callback URL: https only, no private address,
    at most 2,048 characters.
    """
    if not isinstance(url, str):
        return [f"expected an https URL, got {shown(url)}"]
    problems = []
    if len(url) > LONGEST_CALLBACK:
        problems.append(f"expected at most {LONGEST_CALLBACK} characters, got {len(url)}")
    parts = _split(url)
    if parts is None or parts.scheme != "https" or not parts.hostname:
        problems.append(f"expected an https URL, got {url[:200]!r}")
    if parts is not None and parts.hostname and not is_public_host(parts.hostname):
        problems.append(
            f"the service does not call private addresses, and {parts.hostname!r} is one"
        )
    return problems


def is_public_host(host: str) -> bool:
    """Whether a host name or address literal can be public, judged without looking it up."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(
        (".localhost", ".local", ".internal", ".lan", ".home.arpa")
    ):
        return False
    address = parse_address(name)
    return address is None or is_public_address(address)


@lru_cache(maxsize=256)  # of the same few hosts, several times for each link
def parse_address(host: str) -> Address | None:
    """Read an address literal, also in the shortened, decimal, octal and hexadecimal forms that
    resolvers take; None for a name.
    """
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return _loose_ipv4(host)


def _loose_ipv4(host: str) -> ipaddress.IPv4Address | None:
    # inet_aton's forms: "2130706433", "0x7f.1", "0177.0.0.1". Resolvers take them, so they must be
    # judged as what they become.
    pieces = host.split(".")
    if not 1 <= len(pieces) <= 4:
        return None
    try:
        numbers = [_loose_number(piece) for piece in pieces]
    except ValueError:
        return None
    *heads, tail = numbers
    if any(number > 255 for number in heads) or tail >= 256 ** (5 - len(numbers)):
        return None
    value = tail
    for place, number in enumerate(heads):
        value += number << (8 * (3 - place))
    return ipaddress.IPv4Address(value)


def _loose_number(piece: str) -> int:
    if not piece.isascii() or not piece[:1].isdigit():
        raise ValueError(piece)
    if piece.lower().startswith("0x"):
        return int(piece[2:] or "0", 16)
    return int(piece, 8) if len(piece) > 1 and piece.startswith("0") else int(piece, 10)


def is_public_address(address: Address) -> bool:
    """Whether an address belongs to the public internet; forms that carry an IPv4 address inside
    are judged by it too.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.IPv6Network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public_address(inner)
        if address not in _GLOBAL_UNICAST:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _NOT_PUBLIC)
    )


# --- result links: input from outside, which is followed under strict rules -----------------------

_LINK = r"(?s)([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)((?:[/?#].*)?)"
_HOST_AND_PORT = "(?s)(.*?)(:[0-9]*)?"
_NAME = "[A-Za-z0-9._-]+"
_UNSENDABLE = "[^!-\\[\\]-~]"
_AROUND = "".join(map(chr, range(33))) + "\x7f\x85\xa0\u2028\u2029\ufeff"


def prepared_link(link: str) -> str | None:
    """Return a result link as it can be sent; None when it is not a link.

    Only ever adds encoding, since each "%2F" that became a "/" would break a signature. Blanks
    around the link go. A blank, a control character, a backslash or a letter that is not ASCII
    becomes its percent form, in UTF-8. A host becomes its IDNA form.
    """
    found = re.fullmatch(_LINK, link.strip(_AROUND))
    if found is None:
        return None
    scheme, authority, rest = found.groups()
    try:
        if not authority.isascii():
            authority = _ascii_authority(authority)
        return f"{scheme.lower()}://{authority}{re.sub(_UNSENDABLE, _percent, rest)}"
    except UnicodeError:
        return None


def _ascii_authority(authority: str) -> str:
    host_and_port = re.fullmatch(_HOST_AND_PORT, authority)
    host, port = host_and_port.groups() if host_and_port is not None else (authority, None)
    ascii_host = host.encode("idna").decode()
    if not re.fullmatch(_NAME, ascii_host):  # some letters stand for a slash and more
        raise UnicodeError
    return ascii_host + (port or "")


def _percent(found: re.Match[str]) -> str:
    # Header lines come with the bytes that are no UTF-8 escaped as surrogates.
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape"))


def redirected(link: str, location: str) -> str | None:
    """Return where a Location header leads from a prepared link; None when that is no link."""
    location = location.strip(_AROUND)
    if re.fullmatch(_LINK, location):
        return location
    try:
        return urljoin(link, re.sub(_UNSENDABLE, _percent, location))
    except ValueError:
        return None


def over_https(link: str, *, allow_loopback: bool = False, allow: Ranges = ()) -> str:
    """Return a prepared link with https for http: some makers hand out http links to hosts that
    speak both.

    A link to an address stays as it is, unless the address was declared: certificates are for
    names. With `allow_loopback`, a link to this machine stays too.
    """
    scheme, mark, rest = link.partition("://")
    parts = _split(link)
    if scheme != "http" or parts is None:
        return link
    host = parts.hostname or ""
    address = parse_address(host)
    if address is not None and not any(address in network for network in allow):
        return link
    if allow_loopback and is_loopback_host(host):
        return link
    authority, slash, path = re.match(r"([^/?#]*)([/?#]?)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"https{mark}{authority.removesuffix(':80')}{slash}{path}"


class Refusal(NamedTuple):
    """Why a link must not be followed."""

    why: str
    remedy: str | None = None
    """The setting that lifts it; None when none does."""


_AUTHORITY = r"[A-Za-z0-9._~!$&'()*+,;=:@-]+|[^@]*\[[0-9A-Fa-f:.%A-Za-z_-]+\](?::[0-9]*)?"


def link_refusal(link: str, *, allow_loopback: bool = False, allow: Ranges = ()) -> Refusal | None:
    """Say why a prepared result link, or what it redirects to, must not be followed; None when it
    may be.

    Only https to a public host, on any port, without user name or password. With `allow_loopback`,
    which is for an API that is itself on this machine, http and https to loopback addresses too.
    Hosts in the ranges `allow` need not be public. Nothing is looked up: what a name stands for is
    judged again when it is connected to.
    """
    parts = _split(link)
    # A backslash is a slash to some parsers and not to others, which hides the true host.
    if parts is None or not parts.hostname or not re.fullmatch(_AUTHORITY, parts.netloc):
        return Refusal("it is not a link that can be read in one way only")
    if parts.username is not None or parts.password is not None:
        return Refusal("it carries a user name or a password")
    if allow_loopback and parts.scheme in ("http", "https") and is_loopback_host(parts.hostname):
        return None
    address = parse_address(parts.hostname)
    if parts.scheme != "https":
        remedy = _remedy(address) if address is not None and parts.scheme == "http" else None
        return Refusal(f"only https is followed, and it is {parts.scheme or 'no'}", remedy)
    if address is not None:
        return address_refusal(parts.hostname, allow=allow)
    # A name of a private network is judged by its address, once there are ranges to judge it by.
    if not allow and not is_public_host(parts.hostname):
        return Refusal(
            f"{parts.hostname} is not on the public internet",
            'If you trust that host, declare its addresses: Network(allow=["10.20.0.0/16"]).',
        )
    return None


def ranges(texts: Iterable[str]) -> Ranges:
    """Read addresses and ranges of addresses, such as "198.18.0.0/15"; raises `ValueError`."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def is_loopback_host(host: str) -> bool:
    """Whether a host is this machine: a loopback address in any form, or the name localhost."""
    address = parse_address(host)
    if address is None:
        name = host.rstrip(".").lower()
        return name == "localhost" or name.endswith(".localhost")
    return is_loopback_address(address)


def is_loopback_address(address: Address) -> bool:
    """Whether an address is this machine's own, also as an IPv4 address inside an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def address_refusal(
    literal: str, *, allow_loopback: bool = False, allow: Ranges = ()
) -> Refusal | None:
    """Say why the resolved address of a name must not be connected to; None if it may be."""
    address = parse_address(literal)
    if address is None:
        return Refusal(f"{literal!r} is not an address")
    if is_public_address(address) or (allow_loopback and is_loopback_address(address)):
        return None
    inner = getattr(address, "ipv4_mapped", None) or address
    if any(inner in network for network in allow):
        return None
    return Refusal(f"{literal} is not on the public internet", _remedy(inner))


def _remedy(address: Address) -> str:
    for text in FAKE_IP:
        if address in ipaddress.ip_network(text):
            return (
                "Proxy tools in fake-IP mode (Clash, mihomo, sing-box, Surge) answer every name "
                f'with such an address. If you use one, allow them: Network(allow=["{text}"]).'
            )
    bits = 32 if address.version == 4 else 128
    return f'If you trust that host, allow its address: Network(allow=["{address}/{bits}"]).'


def _split(link: str) -> SplitResult | None:
    if re.search(_UNFIT, link):
        return None
    try:
        parts = urlsplit(link)
        _ = parts.port
    except ValueError:
        return None
    return parts
