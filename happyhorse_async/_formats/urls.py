"""Which links may be handed to the service, which callback URLs it accepts, and which links may be
followed.

Pure functions over text and addresses: nothing is looked up.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from .texts import has_surrogate

LONGEST_CALLBACK = 2048

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

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
    """Whether a text is meant as a link rather than a path: it has a scheme with "://", or is a
    data URI.
    """
    scheme, mark, _ = text.partition("://")
    return (
        bool(mark) and scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()
    ) or text.startswith("data:")


def image_link_problems(link: str) -> list[str]:
    """List what the service's reference forbids in a first frame's link: only http and https, no
    credentials, a host.
    """
    parts = _split(link)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return [
            f"expected an http or https link that the public internet can reach, got {link[:200]!r}"
        ]
    if parts.username is not None or parts.password is not None:
        return ["the service cannot log in: leave user name and password out of the link"]
    return []


def callback_problems(url: object) -> list[str]:
    """List what the service's reference forbids in a callback URL: https only, no private address,
    at most 2,048 characters.
    """
    if not isinstance(url, str):
        return [f"expected an https URL, got {url!r}"]
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


def followed_link_problem(link: str, *, allow_loopback: bool = False) -> str | None:
    """Say why a result link, or what it redirects to, must not be followed; None when it may be.

    Only https to a public host, on any port, without user name or password. With `allow_loopback`,
    which is for an API that is itself on this machine, http and https to loopback addresses too.
    Nothing is looked up: what a name stands for is judged again when it is connected to.
    """
    # A backslash is a slash to some parsers and not to others, which hides the true host.
    parts = _split(link) if "\\" not in link else None
    if parts is None or not parts.hostname:
        return "it is not a link that can be read in one way only"
    if parts.username is not None or parts.password is not None:
        return "it carries a user name or a password"
    if allow_loopback and parts.scheme in ("http", "https") and is_loopback_host(parts.hostname):
        return None
    if parts.scheme != "https":
        return f"only https is followed, and it is {parts.scheme or 'no'}"
    if not is_public_host(parts.hostname):
        return f"{parts.hostname} is not on the public internet"
    return None


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


def connected_address_problem(literal: str, *, allow_loopback: bool = False) -> str | None:
    """Say why an address that a name was resolved to must not be connected to; None when it may be."""
    address = parse_address(literal)
    if address is None:
        return f"{literal!r} is not an address"
    if is_public_address(address) or (allow_loopback and is_loopback_address(address)):
        return None
    return f"{literal} is not on the public internet"


def _split(link: str) -> SplitResult | None:
    if any(character.isspace() or ord(character) < 32 for character in link) or has_surrogate(link):
        return None
    try:
        parts = urlsplit(link)
        _ = parts.port
    except ValueError:
        return None
    return parts
