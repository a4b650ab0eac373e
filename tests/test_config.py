"""Policies and settings check themselves and say what was expected."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from happyhorse_async import (
    Budget,
    ConfigurationError,
    Limits,
    Network,
    Polling,
    RetryPolicy,
    Session,
    Timeouts,
)
from happyhorse_async._settings import Secret, Settings

KEY = "sk-secret-0123456789"


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            Limits,
            {"max_submissions": 0},
            r"Limits\(max_submissions=0\): expected a whole number of at least 1",
        ),
        (Limits, {"max_submissions": 1.5}, "a whole number"),
        (Limits, {"max_unfinished": 0}, "at least 1, or None"),
        (Limits, {"max_reads": True}, "a whole number"),
        (Timeouts, {"connect": 0}, "at least 0.001, or None"),
        (Timeouts, {"shield": -1}, "at least 0"),
        (RetryPolicy, {"jitter": 1.1}, "at least 0 and at most 1"),
        (RetryPolicy, {"replays": -1}, "a whole number of at least 0"),
        (
            Polling,
            {"min_interval": 5, "max_interval": 4},
            "max_interval to be at least min_interval",
        ),
        (Budget, {"credits": -1}, "not negative"),
        (Network, {"trust_env": "no"}, "True or False"),
        (Network, {"proxy": "socks5://p:1"}, "http or https proxy"),
        (Network, {"proxy": 5}, "http or https proxy"),
        (Network, {"ca_file": ""}, "the path of a PEM file"),
        (Network, {"client_cert": ("a", "b", "c")}, r"or \(certificate, key\)"),
        (Network, {"client_cert": ("a", None)}, r"or \(certificate, key\)"),
        (Network, {"allow": ["10.0.0.0/33"]}, "ranges of addresses"),
        (Network, {"allow": 5}, "ranges of addresses"),
        (Network, {"max_answer_bytes": 5}, "at least 65536"),
        (Budget, {"credits": "many"}, "a number of credits"),
        (Budget, {"credits": "nan"}, "a number of credits"),
        (Budget, {"credits": float("inf")}, "a number of credits"),
        (Timeouts, {"read": float("inf")}, "a number of at least 0.001, or None"),
        (Timeouts, {"submit": 10**400}, "a number of at least 0.001, or None"),
        (RetryPolicy, {"longest_pause": float("nan")}, "a number of at least 0"),
        (Budget, {"credits": True}, "a number of credits"),
    ],
)
def test_a_wrong_policy_is_refused(kind: type[Any], settings: dict[str, Any], message: str) -> None:
    """A policy that cannot work is refused where it is made, with the setting's name, its value and
    what it may be.
    """
    with pytest.raises(ConfigurationError, match=message):
        kind(**settings)


def test_policies_have_defaults_and_accept_none_where_it_means_no_limit() -> None:
    """Defaults are sound, and None switches a limit off where that makes sense."""
    assert Timeouts(submit=None).submit is None
    assert Limits().max_unfinished is None
    assert Budget(credits="12.50").credits == "12.50"


def test_a_network_may_be_declared_shortly_and_shows_no_password() -> None:
    """One range needs no list; of a proxy the password stays out of every text."""
    network = Network(allow="198.18.0.0/15", proxy="http://me:secret@proxy.example.com:3128")
    assert network.allow == ("198.18.0.0/15",)
    assert "secret" not in repr(network)
    assert "http://me:***@proxy.example.com:3128" in repr(network)
    with pytest.raises(ConfigurationError) as caught:
        Network(proxy="ftp://me:secret@proxy.example.com")
    assert "secret" not in str(caught.value)


def test_without_a_key_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, the place to get a key, and the way to try without one are all named, by the
    first verb that needs a key; a session that is to be called back needs it at once, and an empty
    key is none.
    """
    monkeypatch.delenv("EVOLINK_API_KEY", raising=False)
    needed = pytest.raises(ConfigurationError, match=r"EVOLINK_API_KEY.*evolink\.ai.*--sandbox")
    with needed:
        Session().task("task-unified-1")
    with needed:
        Session(public_url="https://app.example.com/hooks")
    for empty in ("", " "):
        with needed:
            Session(empty)
    monkeypatch.setenv("EVOLINK_API_KEY", "")
    with needed:
        Session().task("task-unified-1")


@pytest.mark.parametrize("key", ["with space", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_a_header_is_refused_without_being_shown(key: str) -> None:
    """A broken key gives a clear error, which does not contain it."""
    with pytest.raises(ConfigurationError) as caught:
        Session(key)
    assert key not in str(caught.value)


def test_hosts_come_from_arguments_then_environment_then_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Arguments win over the environment, which wins over the service's own hosts."""
    nothing: dict[str, Any] = {
        "limits": Limits(),
        "timeouts": Timeouts(),
        "retry": RetryPolicy(),
        "polling": Polling(),
        "network": Network(),
        "budget": None,
        "http": None,
    }
    monkeypatch.setenv("EVOLINK_API_KEY", f" {KEY}\n")
    monkeypatch.delenv("EVOLINK_BASE_URL", raising=False)
    settings = Settings.resolve(None, base_url=None, files_url=None, **nothing)
    assert (settings.key, settings.base_url) == (KEY, "https://api.evolink.ai")
    assert settings.files_url == "https://files-api.evolink.ai"
    assert not settings.on_loopback
    monkeypatch.setenv("EVOLINK_BASE_URL", "http://127.0.0.1:8787/")
    monkeypatch.setenv("EVOLINK_FILES_BASE_URL", "http://localhost:8788")
    settings = Settings.resolve(
        None, base_url=None, files_url="https://files.example.com", **nothing
    )
    assert (settings.base_url, settings.files_url) == (
        "http://127.0.0.1:8787",
        "https://files.example.com",
    )
    assert settings.on_loopback
    versioned = Settings.resolve(
        None, base_url="https://gw.example/x/v1/", files_url=None, **nothing
    )
    assert versioned.base_url == "https://gw.example/x"
    assert Settings.resolve(
        None, base_url="http://api.localhost:8787", files_url=None, **nothing
    ).on_loopback


def test_a_host_may_come_from_a_line_of_a_file() -> None:
    """What stands around it is no part of it."""
    assert Session(KEY, base_url=" https://gw.example/x/\n")._settings.base_url == (
        "https://gw.example/x"
    )


@pytest.mark.parametrize(
    "url",
    [
        "api.example.com",
        "ftp://x.example",
        "https://",
        "https://x:y@h.example",
        "http://h:99999",
        "https://h?q=1",
        "https://h/x?",
        "https://[::1",
        "https://api.exa mple.com",
        "https://h/\ud800",
    ],
)
def test_a_wrong_host_is_refused(url: str) -> None:
    """A base URL that cannot be one is refused with an example of a right one."""
    with pytest.raises(ConfigurationError, match=r"base_url \(or EVOLINK_BASE_URL\)"):
        Session(KEY, base_url=url)


def test_a_password_in_a_host_is_not_shown() -> None:
    """A base URL with a password in it is refused without repeating the password, which would go
    into logs.
    """
    with pytest.raises(ConfigurationError, match="without user name and password") as caught:
        Session(KEY, base_url="https://me:secret@h.example")
    assert "secret" not in str(caught.value)


def test_the_key_does_not_travel_in_the_open() -> None:
    """Plain http is for loopback and private networks; over the internet the key needs https."""
    with pytest.raises(ConfigurationError, match="expected https"):
        Session(KEY, base_url="http://api.example.com")
    Session(KEY, base_url="http://10.0.0.5:8080")


@pytest.mark.parametrize("name", ["limits", "timeouts", "retry", "polling", "budget"])
def test_a_policy_of_the_wrong_kind_is_refused(name: str) -> None:
    """A dict or a number where a policy belongs is refused at once."""
    with pytest.raises(ConfigurationError, match=name):
        Session(KEY, **{name: 5})  # type: ignore[arg-type]


def test_a_secret_does_not_show_itself() -> None:
    """Neither a repr nor a pickle gives the key away; what to pass instead is said."""
    secret = Secret(KEY)
    assert repr(secret) == "'***'"
    assert KEY not in repr(Session(secret))
    with pytest.raises(TypeError, match="pass task ids"):
        pickle.dumps(Session(secret))


@pytest.mark.parametrize("name", ["base_url", "files_url", "public_url", "http"])
def test_settings_of_another_type_are_named(name: str) -> None:
    """A setting that is of no use at all is refused by its name,
    at once and not by the first call.
    """
    with pytest.raises(ConfigurationError, match=f"{name}.*got 5"):
        Session(KEY, **{name: 5})  # type: ignore[arg-type]


def test_a_key_of_another_type_is_named() -> None:
    """It was told that there was none, which is not what is wrong."""
    with pytest.raises(ConfigurationError, match="api_key: expected text, got bytes"):
        Session(KEY.encode())  # type: ignore[arg-type]


@pytest.mark.parametrize("mark", ["'", '"'])
def test_a_key_in_quotation_marks_is_named(mark: str) -> None:
    """Not every reader of files with variables takes them away, and the service refuses them."""
    with pytest.raises(ConfigurationError, match="quotation marks") as caught:
        Session(f" {mark}{KEY}{mark}\n")
    assert KEY not in f"{caught.value} {caught.value.next_step}"


@pytest.mark.parametrize(
    ("service", "refused"),
    [
        ("https://api.example.com", {"loopback", "private"}),
        ("http://127.0.0.1:8080", {"private"}),
        ("http://192.168.1.20:8080", set()),
    ],
)
def test_a_first_frame_that_the_service_cannot_reach_is_named(
    service: str, refused: set[str]
) -> None:
    """A public service reaches no intranet, and none but the machine's own reaches this machine."""
    settings = Session(KEY, base_url=service, files_url=service)._settings
    links = {
        "public": "https://cdn.example.com/10.0.0.1/localhost.png",
        "loopback": "http://localhost:8000/cat.png",
        "private": "https://10.0.0.1/cat.png",
    }
    assert {name for name, link in links.items() if settings.frame_problem(link)} == refused
