"""What a session is set up with: the key, the hosts and the policies, checked at once.

Imports nothing heavy.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs

from ._config import Budget, Limits, Network, Polling, RetryPolicy, Timeouts, Validator
from ._formats import urls
from ._formats.texts import shown
from .errors import ConfigurationError

if TYPE_CHECKING:
    import aiohttp

API_URL = "https://api.evolink.ai"
FILES_URL = "https://files-api.evolink.ai"

KEY_VARIABLE = "EVOLINK_API_KEY"
API_VARIABLE = "EVOLINK_BASE_URL"
FILES_VARIABLE = "EVOLINK_FILES_BASE_URL"


class Secret(str):
    """A text that does not show itself in a repr. So it stays out of logs and of tracebacks with
    local variables.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a key is not pickled, and so no session and nothing that works with one: make a "
            "Session in the other process, and pass task ids to it"
        )


def _kind(kind: type, example: str = "") -> Validator:
    """Return the check that a policy is of one kind; with an example it may be None too."""

    def check(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
        """Raise `ConfigurationError` for another kind."""
        if not isinstance(value, kind) and not (example and value is None):
            raise ConfigurationError(
                f"{field.name}: expected a {kind.__name__}{example}, got {shown(value)}"
            )

    return check


def _check_client(owner: Any, field: attrs.Attribute[Any], value: Any) -> None:
    # aiohttp itself is not loaded yet.
    if value is not None and not callable(getattr(value, "request", None)):
        raise ConfigurationError(f"http: expected an aiohttp.ClientSession, got {shown(value)}")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Settings:
    """A session's settings, resolved from arguments and environment."""

    limits: Limits = attrs.field(validator=_kind(Limits))
    timeouts: Timeouts = attrs.field(validator=_kind(Timeouts))
    retry: RetryPolicy = attrs.field(validator=_kind(RetryPolicy))
    polling: Polling = attrs.field(validator=_kind(Polling))
    network: Network = attrs.field(validator=_kind(Network))
    budget: Budget | None = attrs.field(
        validator=_kind(Budget, ", for example Budget(credits=500)")
    )
    http: aiohttp.ClientSession | None = attrs.field(validator=_check_client)
    key: Secret | None
    """None: only what is public can be asked for, such as prices."""
    base_url: str
    files_url: str
    webhook_url: str | None = None

    @classmethod
    def resolve(
        cls,
        api_key: str | None,
        *,
        base_url: str | None,
        files_url: str | None,
        public_url: str | None = None,
        **policies: Any,
    ) -> Settings:
        """Fill in from the environment what was not given; raises `ConfigurationError` that says
        what is missing or wrong.
        """
        given = api_key if api_key is not None else os.environ.get(KEY_VARIABLE) or None
        key = _key(given) if given is not None else None
        api = base_url or os.environ.get(API_VARIABLE) or API_URL
        files = files_url or os.environ.get(FILES_VARIABLE) or FILES_URL
        settings = cls(
            key=key,
            # Written with the version by habit: each path of ours begins with it.
            base_url=_url(api, "base_url", API_VARIABLE).removesuffix("/v1"),
            files_url=_url(files, "files_url", FILES_VARIABLE),
            **policies,
        )
        if public_url is None or public_url == "":
            return settings
        return attrs.evolve(settings, webhook_url=_webhook_url(public_url, settings))

    def require_key(self) -> Secret:
        """Return the key; raises `ConfigurationError` when there is none."""
        if self.key is None:
            raise no_key()
        return self.key

    def frame_problem(self, image: object) -> str | None:
        """Say why the service cannot fetch a first frame that is a link; None when it may.

        Its reference wants the public internet, and no intranet. A service in a private network is
        taken to reach what is there, and one on this machine what is here.
        """
        host = urls.private_host(image) if isinstance(image, str) else None
        if host is None:
            return None
        service = urlsplit(self.base_url).hostname or ""
        if urls.is_loopback_host(host) if self.on_loopback else not urls.is_public_host(service):
            return None
        return (
            f"image: the service cannot reach private addresses, and {host!r} is one: give the "
            "file's path, or its bytes"
        )

    @property
    def on_loopback(self) -> bool:
        """Whether the API itself is on this machine: only then may result links be there too."""
        return urls.is_loopback_host(urlsplit(self.base_url).hostname or "")


def no_key() -> ConfigurationError:
    """Return the error for what cannot be done without a key."""
    return ConfigurationError(
        f"no API key: set the environment variable {KEY_VARIABLE}, or pass Session(api_key=...). "
        "Keys are made on https://evolink.ai (dashboard, API keys). Without one, prices can be "
        "asked for, and everything tried on the sandbox: `happyhorse demo`, or --sandbox.",
        next_step=f"Set {KEY_VARIABLE}.",
    )


def _key(key: object) -> Secret:
    if not isinstance(key, str):
        raise ConfigurationError(f"api_key: expected text, got {type(key).__name__}")
    if not key.strip():
        raise no_key()
    key = key.strip()
    if key[0] in "\"'" and key[0] == key[-1]:
        raise ConfigurationError(
            "api_key: expected a key, got one in quotation marks",
            next_step="Take them away. `docker run --env-file` keeps those of its file, for one.",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            "api_key: expected printable ASCII without spaces; "
            "the key given has other characters in it"
        )
    return Secret(key)


def _webhook_url(public_url: object, settings: Settings) -> str:
    """Return where the service is to call back."""
    import hmac  # late: few sessions are called back

    if not isinstance(public_url, str):
        raise ConfigurationError(
            "public_url: expected a URL such as https://app.example.com/hooks, "
            f"got {shown(public_url)}"
        )
    key = settings.require_key()
    if "?" in public_url or "#" in public_url:
        raise ConfigurationError(
            "public_url: expected a URL without a query and a fragment, since a secret becomes the "
            f"last part of its path, got {shown(public_url)}"
        )
    try:
        urlsplit(public_url)
        public_url.encode()
    except ValueError:  # also of what cannot be encoded
        raise ConfigurationError(f"public_url: {shown(public_url)} is no URL") from None

    # The token is derived from the key. It stays the same over restarts and processes, as a
    # replayed submission needs the same body.
    token = hmac.new(
        key.encode(), b"happyhorse_async webhook " + public_url.rstrip("/").encode(), "sha256"
    ).hexdigest()[:43]
    url = f"{public_url.rstrip('/')}/{token}"
    problems = urls.callback_problems(url)
    parts = urlsplit(url)
    if problems and not (
        settings.on_loopback
        and parts.scheme in ("http", "https")
        and urls.is_loopback_host(parts.hostname or "")
    ):
        raise ConfigurationError(f"public_url: {'; '.join(problems).replace(token, '...')}")
    return url


def _url(url: str, name: str, variable: str) -> str:
    problem = f"{name} (or {variable}): expected a URL such as {API_URL}, got {shown(url)}"
    if not isinstance(url, str):
        raise ConfigurationError(problem)
    url = url.strip()  # a variable that was read from a file may end with its line
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(problem) from None
    if not url.isprintable() or " " in url:
        raise ConfigurationError(problem)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            f"{name} (or {variable}): expected a URL without user name and password"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or "?" in url or "#" in url:
        raise ConfigurationError(problem)
    if parts.scheme == "http" and urls.is_public_host(parts.hostname):
        raise ConfigurationError(
            f"{name} (or {variable}): expected https, since the key would travel in the open "
            f"to {parts.hostname!r}"
        )
    return url.rstrip("/")
