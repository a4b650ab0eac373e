"""What a session is set up with: the key, the hosts and the policies, checked at once. Imports nothing heavy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from .config import Budget, Limits, Polling, RetryPolicy, Timeouts
from .errors import ConfigurationError
from .rules import links

if TYPE_CHECKING:
    import aiohttp

API_URL = "https://api.evolink.ai"
FILES_URL = "https://files-api.evolink.ai"

KEY_VARIABLE = "EVOLINK_API_KEY"
API_VARIABLE = "EVOLINK_BASE_URL"
FILES_VARIABLE = "EVOLINK_FILES_BASE_URL"


class Secret(str):
    """A text that does not show itself in a repr, so that it stays out of logs and of tracebacks with local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not pickled")


@attrs.frozen(kw_only=True)
class Settings:
    """A session's settings, resolved from arguments and environment."""

    key: Secret
    base_url: str
    files_url: str
    limits: Limits
    timeouts: Timeouts
    retry: RetryPolicy
    polling: Polling
    budget: Budget | None
    http: aiohttp.ClientSession | None
    webhook_url: str | None = None

    @classmethod
    def resolve(
        cls, api_key: str | None, *, base_url: str | None, files_url: str | None, public_url: str | None = None, **policies: Any
    ) -> Settings:
        """Fill in from the environment what was not given; raises `ConfigurationError` that says what is missing or wrong."""
        kinds = {"limits": Limits, "timeouts": Timeouts, "retry": RetryPolicy, "polling": Polling}
        for name, kind in kinds.items():
            if not isinstance(policies[name], kind):
                raise ConfigurationError(f"{name}: expected a {kind.__name__}, got {policies[name]!r}")
        if policies["budget"] is not None and not isinstance(policies["budget"], Budget):
            raise ConfigurationError(f"budget: expected a Budget, for example Budget(credits=500), got {policies['budget']!r}")
        client = policies["http"]
        if client is not None and not callable(getattr(client, "request", None)):  # aiohttp itself is not loaded yet
            raise ConfigurationError(f"http: expected an aiohttp.ClientSession, got {client!r:.200}")
        if public_url is not None and not isinstance(public_url, str):
            raise ConfigurationError(f"public_url: expected a URL such as https://app.example.com/hooks, got {public_url!r:.200}")
        key = _key(api_key if api_key is not None else os.environ.get(KEY_VARIABLE, ""))
        api = _url(base_url or os.environ.get(API_VARIABLE) or API_URL, "base_url", API_VARIABLE)
        return cls(
            key=key,
            base_url=api,
            webhook_url=_webhook_url(public_url, key, local=is_loopback(urlsplit(api).hostname or "")) if public_url else None,
            files_url=_url(files_url or os.environ.get(FILES_VARIABLE) or FILES_URL, "files_url", FILES_VARIABLE),
            **policies,
        )

    @property
    def on_loopback(self) -> bool:
        """Whether the API itself is on this machine: only then may result links be there too."""
        return is_loopback(urlsplit(self.base_url).hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its literal address or the name localhost."""
    address = links.parse_address(host)
    return address.is_loopback if address is not None else host.lower().rstrip(".") == "localhost"


def _key(key: str) -> Secret:
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError(
            f"no API key: set the environment variable {KEY_VARIABLE}, or pass Session(api_key=...). Keys are made on https://evolink.ai "
            "(dashboard, API keys). Without one, try everything on the sandbox: `happyhorse demo`, or --sandbox.",
            next_step=f"Set {KEY_VARIABLE}.",
        )
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("api_key: expected printable ASCII without spaces; the key given has other characters in it")
    return Secret(key)


def _webhook_url(public_url: str, key: str, *, local: bool) -> str:
    import hmac  # late: few sessions are called back

    # The token is derived from the key: it stays the same over restarts and processes, as a replayed submission needs the same body.
    token = hmac.new(key.encode(), b"happyhorse_async webhook " + public_url.rstrip("/").encode(), "sha256").hexdigest()[:43]
    url = f"{public_url.rstrip('/')}/{token}"
    problems = links.callback_problems(url)
    parts = urlsplit(url)
    if problems and not (local and parts.scheme in ("http", "https") and is_loopback(parts.hostname or "")):
        raise ConfigurationError(f"public_url: {'; '.join(problems).replace(token, '...')}")
    return url


def _url(url: str, name: str, variable: str) -> str:
    problem = f"{name} (or {variable}): expected a URL such as {API_URL}, got {url!r}"
    if not isinstance(url, str):
        raise ConfigurationError(problem)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(problem) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{name} (or {variable}): expected a URL without user name and password")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(problem)
    if parts.scheme == "http" and links.is_public_host(parts.hostname):
        raise ConfigurationError(
            f"{name} (or {variable}): expected https, since the key would travel in the open to {parts.hostname!r}"
        )
    return url.rstrip("/")
