"""Which links may be followed, and what an address is, in all the forms that hide it."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

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
    assert (urls.address_refusal(literal, allow_loopback=loopback_allowed) is None) is fine


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
    refusal = urls.link_refusal(link, allow_loopback=loopback_allowed)
    assert (refusal is None) is fine
    assert "secret" not in str(refusal)


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


# --- first frames ---------------------------------------------------------------------------------


def looked_at_closely(link: str) -> bool:
    """Judge a first frame's link character by character, as it was done before there was a
    compiled expression.
    """
    if any(character.isspace() or ord(character) < 32 for character in link):
        return False
    try:
        link.encode()
        parts = urlsplit(link)
        _ = parts.port
    except ValueError:
        return False
    fine = parts.scheme in ("http", "https") and bool(parts.hostname)
    return fine and parts.username is None and parts.password is None


PIECES = st.sampled_from(
    [
        "https",
        "http",
        "HTTP",
        "ftp",
        "://",
        ":",
        "/",
        "//",
        "@",
        "?",
        "#",
        "[",
        "]",
        "::1",
        "a.b",
        "example.com",
        "-",
        "%2F",
        "\\",
        ":80",
        ":99999",
        ":x",
        " ",
        "\n",
        "\x1c",
        "\x85",
        "é",
        "\ud800",
    ]
)


@given(st.lists(PIECES | st.characters(exclude_categories=()), max_size=9).map("".join))
@example("https://example.com/cat.png?a=b#c")
@example("https://example.com:8080")
@example("http://a\u2100b/")
def test_links_of_first_frames_are_judged_as_they_always_were(link: str) -> None:
    """The quick look says nothing else than the close one."""
    assert (not urls.image_link_problems(link)) is looked_at_closely(link)


# --- preparing a result link ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "prepared"),
    [
        ("https://h.example/v.mp4?s=a%2Fb%2fc&e=1", "https://h.example/v.mp4?s=a%2Fb%2fc&e=1"),
        ("https://h.example/v.mp4\n", "https://h.example/v.mp4"),
        (" \t\u00a0https://h.example/v.mp4\ufeff\r\n", "https://h.example/v.mp4"),
        ("https://h.example/my cat.mp4?n=a b", "https://h.example/my%20cat.mp4?n=a%20b"),
        ("https://h.example/猫.mp4?s=a%2Fb", "https://h.example/%E7%8C%AB.mp4?s=a%2Fb"),
        ("https://h.example/a\\b?c\\d", "https://h.example/a%5Cb?c%5Cd"),
        ("https://h.example/a\r\nX-Injected: 1", "https://h.example/a%0D%0AX-Injected:%201"),
        ("https://h.example/50%-off.mp4", "https://h.example/50%-off.mp4"),
        ("https://h.example/a/../b//c?", "https://h.example/a/../b//c?"),
        ('https://h.example/{"a"|b}^`', 'https://h.example/{"a"|b}^`'),
        ("HTTPS://H.example/V.mp4", "https://H.example/V.mp4"),
        ("https://bücher.example:8443/v.mp4", "https://xn--bcher-kva.example:8443/v.mp4"),
        ("https://127。0。0。1/", "https://127.0.0.1/"),
        ("https://①②⑦.⓪.⓪.①/", "https://127.0.0.1/"),
        ("https://h.example/\udce7\udc8c", "https://h.example/%E7%8C"),
        ("https://exa℀mple.example/", None),
        ("https://h.example\\@127.0.0.1/", None),
        ("h.example/v.mp4", None),
        ("data:text/html,x", None),
        ("https://h.example/\ud800", None),
        ("", None),
    ],
)
def test_a_link_is_made_ready_to_be_sent(link: str, prepared: str | None) -> None:
    """Encoding is added where nothing could be sent without, and never taken away."""
    assert urls.prepared_link(link) == prepared


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
def test_preparing_only_adds_encoding(path: str, query: str) -> None:
    """Undoing what was added gives the link again; doing it twice adds nothing more; and the
    library sends exactly that.
    """
    tail = f"{path}?{query}x"
    prepared = urls.prepared_link(f"https://h.example/{tail}")
    assert prepared is not None
    assert prepared.isascii()
    assert prepared.isprintable()
    assert " " not in prepared
    assert urls.prepared_link(prepared) == prepared
    remaining = prepared.removeprefix("https://h.example/")
    for character in tail:
        escaped = "".join(f"%{byte:02X}" for byte in character.encode())
        form = character if remaining.startswith(character) else escaped
        assert remaining.startswith(form)
        remaining = remaining[len(form) :]
    assert remaining == ""
    sent = prepared.removeprefix("https://h.example").partition("#")[0]
    assert URL(prepared, encoded=True).raw_path_qs.removesuffix("?") == sent.removesuffix("?")


@pytest.mark.parametrize(
    ("link", "asked"),
    [
        ("http://h.example/v.mp4?s=a%2Fb", "https://h.example/v.mp4?s=a%2Fb"),
        ("http://h.example:80/v.mp4", "https://h.example/v.mp4"),
        ("http://h.example:8080/v:80", "https://h.example:8080/v:80"),
        ("http://h.example", "https://h.example"),
        ("http://127.0.0.1:80/v.mp4", "http://127.0.0.1:80/v.mp4"),
        ("http://localhost/v.mp4", "http://localhost/v.mp4"),
        ("http://93.184.216.34/v.mp4", "http://93.184.216.34/v.mp4"),
        ("http://10.20.1.1/v.mp4", "https://10.20.1.1/v.mp4"),
        ("https://h.example:80/v.mp4", "https://h.example:80/v.mp4"),
        ("ftp://h.example/v.mp4", "ftp://h.example/v.mp4"),
    ],
)
def test_http_links_become_https_links(link: str, asked: str) -> None:
    """But for those to addresses that nobody declared, and to this machine."""
    declared = urls.ranges(["10.20.0.0/16"])
    assert urls.over_https(link, allow_loopback=True, allow=declared) == asked


@pytest.mark.parametrize(
    ("location", "after"),
    [
        ("https://b.example/x y", "https://b.example/x y"),
        ("/x y?s=a%2Fb", "https://a.example/x%20y?s=a%2Fb"),
        ("?t=1", "https://a.example/p/v.mp4?t=1"),
        ("w.mp4\n", "https://a.example/p/w.mp4"),
        ("//b.example/w", "https://b.example/w"),
        ("\\\\b.example/w", "https://a.example/p/%5C%5Cb.example/w"),
        ("//[bad/w", None),
    ],
)
def test_redirects_are_joined_without_changing_them(location: str, after: str | None) -> None:
    """A relative one to where it comes from, a whole one as it is."""
    assert urls.redirected("https://a.example/p/v.mp4?s=1", location) == after


@pytest.mark.parametrize(
    ("link", "allow", "fine"),
    [
        ("https://10.20.1.1/v", ["10.20.0.0/16"], True),
        ("https://10.21.1.1/v", ["10.20.0.0/16"], False),
        ("https://[::ffff:10.20.1.1]/v", ["10.20.0.0/16"], True),
        ("https://[fd00::1]/v", ["fd00::/8"], True),
        ("https://minio.internal/v", ["10.20.0.0/16"], True),
        ("https://minio.internal/v", [], False),
        ("http://10.20.1.1/v", ["10.20.0.0/16"], False),
        ("https://me@10.20.1.1/v", ["10.20.0.0/16"], False),
    ],
)
def test_declared_addresses_may_be_followed(link: str, allow: list[str], fine: bool) -> None:
    """Names of private networks are then judged by their addresses, when they are connected to."""
    assert (urls.link_refusal(link, allow=urls.ranges(allow)) is None) is fine


@given(st.ip_addresses())
def test_every_refused_address_can_be_declared(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """The range that the refusal itself names lifts it."""
    refusal = urls.address_refusal(str(address))
    if refusal is None:
        return
    assert refusal.remedy is not None
    named = refusal.remedy.partition('["')[2].partition('"')[0]
    assert urls.address_refusal(str(address), allow=urls.ranges([named])) is None


@pytest.mark.parametrize("unfit", [" ", "\n", "\t", "\0"])
def test_what_no_link_has_in_it_is_named(unfit: str) -> None:
    """Else nobody would see what is wrong with a link that a browser opens."""
    [problem] = urls.image_link_problems(f"https://cdn.example.com/my{unfit}cat.png")
    assert f"no link has {unfit!r} in it" in problem
    assert "%20" in problem
