"""Which links may be followed, and what an address is, in all the forms that hide it."""

from __future__ import annotations

import pytest

from happyhorse_async._formats import urls


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("example.com", None),
        ("1.2.3.4.5", None),
        ("256.1.1.1", None),
        ("4294967296", None),
        ("08.0.0.1", None),
        ("1e3", None),
    ],
)
def test_addresses_are_read_in_all_forms_that_resolvers_take(
    text: str, expected: str | None
) -> None:
    """Shortened, decimal, octal and hexadecimal forms are what they become; names are none."""
    address = urls.parse_address(text)
    assert (str(address) if address is not None else None) == expected


@pytest.mark.parametrize(
    ("literal", "loopback_allowed", "fine"),
    [
        ("93.184.216.34", False, True),
        ("2606:2800:220:1:248:1893:25c8:1946", False, True),
        ("127.0.0.1", False, False),
        ("127.0.0.1", True, True),
        ("::1", True, True),
        ("::ffff:127.0.0.1", True, True),
        ("10.0.0.1", True, False),
        ("169.254.169.254", True, False),
        ("not an address", True, False),
    ],
)
def test_addresses_to_connect_to(literal: str, loopback_allowed: bool, fine: bool) -> None:
    """Public ones, and with permission this machine; nothing private in any case."""
    assert (
        urls.connected_address_problem(literal, allow_loopback=loopback_allowed) is None
    ) is fine


@pytest.mark.parametrize(
    ("link", "loopback_allowed", "fine"),
    [
        ("https://cdn.example.com/v.mp4?X-Signature=a%2Fb&Expires=1", False, True),
        ("https://cdn.example.com:8443/v.mp4", False, True),
        ("https://xn--bcher-kva.example/v.mp4", False, True),
        ("https://93.184.216.34/v.mp4", False, True),
        ("https://[2606:2800:220:1:248:1893:25c8:1946]/v.mp4", False, True),
        ("http://127.0.0.1:8080/v.mp4", True, True),
        ("http://localhost:8080/v.mp4", True, True),
        ("http://[::1]:8080/v.mp4", True, True),
        ("http://127.0.0.1:8080/v.mp4", False, False),
        ("http://cdn.example.com/v.mp4", True, False),
        ("http://10.0.0.1/v.mp4", True, False),
        ("ftp://127.0.0.1/v.mp4", True, False),
        ("http://me:secret@127.0.0.1/v.mp4", True, False),
        ("https://[not an address/v.mp4", True, False),
    ],
)
def test_links_to_follow(link: str, loopback_allowed: bool, fine: bool) -> None:
    """Only https to public hosts; this machine, also by plain http, only with permission."""
    problem = urls.followed_link_problem(link, allow_loopback=loopback_allowed)
    assert (problem is None) is fine
    assert "secret" not in str(problem)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("api.localhost", True),
        ("notlocalhost", False),
        ("localhost.example.com", False),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("a.b", False),
    ],
)
def test_this_machine_is_recognised_in_every_form(host: str, expected: bool) -> None:
    """By name, by the names below it, by address, and as an IPv4 address inside an IPv6 one."""
    assert urls.is_loopback_host(host) is expected
