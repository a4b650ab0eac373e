"""Which proxy a URL goes through: the rules that curl, pip and httpx share."""

from __future__ import annotations

from base64 import b64decode

import pytest
from aiohttp import BasicAuth
from yarl import URL

from happyhorse_async._formats import proxies

API = "https://api.evolink.ai/v1/credits"


@pytest.mark.parametrize(
    ("found", "url", "proxy"),
    [
        ({}, API, None),
        ({"https": "http://p:1"}, API, "http://p:1"),
        ({"http": "http://p:1"}, API, None),
        ({"http": "http://p:1"}, "http://files.example.com/", "http://p:1"),
        ({"all": "http://p:1"}, API, "http://p:1"),
        ({"all": "http://p:1", "https": "http://q:2"}, API, "http://q:2"),
        ({"https": "p:1"}, API, "http://p:1"),
        ({"https": "https://p:1"}, API, "https://p:1"),
        ({"https": "socks5://p:1"}, API, None),
        ({"https": "http://"}, API, None),
        ({"https": ""}, API, None),
        ({"https": "http://p:1", "no": "api.evolink.ai"}, API, None),
        ({"https": "http://p:1", "no": "evolink.ai"}, API, None),
        ({"https": "http://p:1", "no": ".evolink.ai"}, API, None),
        ({"https": "http://p:1", "no": "*.evolink.ai"}, API, None),
        ({"https": "http://p:1", "no": "localhost, EVOLINK.AI"}, API, None),
        ({"https": "http://p:1", "no": "localhost evolink.ai"}, API, None),
        ({"https": "http://p:1", "no": "*"}, API, None),
        ({"https": "http://p:1", "no": "link.ai"}, API, "http://p:1"),
        ({"https": "http://p:1", "no": "evolink.ai:443"}, API, None),
        ({"https": "http://p:1", "no": "evolink.ai:8443"}, API, "http://p:1"),
        ({"https": "http://p:1", "no": "10.0.0.0/8"}, "https://10.2.3.4/v", None),
        ({"https": "http://p:1", "no": "10.2.3.4"}, "https://10.2.3.4/v", None),
        ({"https": "http://p:1", "no": "10.0.0.0/8"}, "https://11.2.3.4/v", "http://p:1"),
        ({"https": "http://p:1", "no": "10.0.0.0/8"}, API, "http://p:1"),
        ({"https": "http://p:1", "no": "[fd00::1]:443"}, "https://[fd00::1]/v", None),
        ({"https": "http://p:1", "no": "fd00::/8"}, "https://[fd00::1]/v", None),
        ({"https": "http://p:1", "no": ","}, API, "http://p:1"),
    ],
)
def test_the_proxy_of_a_url(found: dict[str, str], url: str, proxy: str | None) -> None:
    """By the scheme, else ALL_PROXY; names stand for those below them, addresses for ranges."""
    assert proxies.proxy_for(url, proxies.from_environment(found)) == proxy


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"all": "socks5://p:1"}, "ALL_PROXY is passed over"),
        ({"https": "socks5h://p:1", "http": "http://p:1"}, "HTTPS_PROXY is passed over"),
        ({"all": "socks5://p:1", "https": "http://p:1"}, None),
        ({"https": "http://p:1"}, None),
        ({}, None),
    ],
)
def test_a_proxy_that_is_not_spoken_is_told_only_when_it_is_missed(
    found: dict[str, str], said: str | None
) -> None:
    """A SOCKS proxy beside an http one is no reason for a word."""
    told = proxies.unspoken(found)
    assert (told is None) if said is None else (told or "").startswith(said)


@pytest.mark.parametrize(
    ("proxy", "shown", "password"),
    [
        ("http://me:se%40cret@p:1", "http://me:***@p:1", "se@cret"),
        ("http://me:a@b@p:1", "http://me:***@p:1", "a@b"),
        ("http://me@p:1", "http://me:***@p:1", None),
        ("http://p:1", "http://p:1", None),
    ],
)
def test_a_password_is_known_and_not_shown(proxy: str, shown: str, password: str | None) -> None:
    """What is shown of a proxy has no password in it."""
    assert proxies.without_password(proxy) == shown
    assert proxies.password_of(proxy) == password


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [
        ("http://p:1", None),
        ("https://p", None),
        ("socks5://p:1", "only http and https"),
        ("p:1", "only http and https"),
        ("http://p:port", "not a URL"),
        ("http://[p", "not a URL"),
        ("http://", "names no host"),
    ],
)
def test_what_is_no_proxy_is_said(proxy: str, problem: str | None) -> None:
    """With the reason, and without the URL, which may hold a password."""
    said = proxies.proxy_problem(proxy)
    assert said is None if problem is None else problem in (said or "")


@pytest.mark.parametrize(
    ("password", "sent"),
    [
        ("s3cret", b"joe:s3cret"),
        ("p%C3%A4", b"joe:p\xe4"),
        ("%D0%BF%3A%40", "joe:п:@".encode()),
        ("п", "joe:п".encode()),
        ("%E5%AF%86%E7%A0%81", "joe:密码".encode()),
    ],
)
def test_a_password_in_any_script_can_be_sent(password: str, sent: bytes) -> None:
    """The HTTP library breaks on what Latin-1 does not have; as UTF-8 it reaches the proxy."""
    found = proxies.from_environment({"https": f"http://joe:{password}@proxy:3128"})
    proxy = proxies.proxy_for(API, found)
    assert proxy is not None
    auth = BasicAuth.from_url(URL(proxy))
    assert auth is not None
    assert b64decode(auth.encode().removeprefix("Basic ")) == sent
    assert (URL(proxy).host, URL(proxy).port) == ("proxy", 3128)
