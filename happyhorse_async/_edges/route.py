"""The way out: through which proxy a URL is asked for, and whose certificates are believed."""

from __future__ import annotations

import logging
import os
import ssl
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

from .._config import Network
from .._formats import proxies, urls
from ..errors import ConfigurationError

logger = logging.getLogger("happyhorse_async")

SHORTEST_PASSWORD = 6


class Route:
    """The way out of a session, for calls, uploads and downloads alike.

    The environment is read once. Raises `ConfigurationError` for certificates that cannot be used.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.allow: urls.Ranges = urls.ranges(network.allow)
        found = getproxies() if network.trust_env else {}
        self._proxies = proxies.from_environment(found)
        if network.proxy is not None:
            self._proxies = self._proxies._replace(by_scheme={"all": network.proxy})
        elif problem := proxies.unspoken(found):
            logger.warning("%s", problem, extra={"action": "proxy_passed_over"})
        # macOS and Windows keep their own list of exceptions, for the proxies in their settings.
        self._of_the_system = bool(found) and not getproxies_environment()
        self.tls: ssl.SSLContext | bool = _tls(network)

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy through which a URL is asked for; None when it is asked for directly."""
        if not self._proxies.by_scheme:
            return None
        proxy = proxies.proxy_for(url, self._proxies)
        if proxy is not None and self._of_the_system and proxy_bypass(urlsplit(url).netloc):
            return None
        return proxy

    @property
    def passwords(self) -> list[str]:
        """The passwords of the proxies, which no message may show;
        shorter ones stand in any text.
        """
        found = map(proxies.password_of, self._proxies.by_scheme.values())
        return [text for text in found if text is not None and len(text) >= SHORTEST_PASSWORD]


def _tls(network: Network) -> ssl.SSLContext | bool:
    if network.ca_file is None and network.client_cert is None:
        return True  # the library's own, which is made once for all sessions
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    if network.ca_file is not None:
        try:
            context.load_verify_locations(os.fspath(network.ca_file))
        except (OSError, ValueError) as error:
            raise _unusable("ca_file", network.ca_file, error) from None
    if network.client_cert is not None:
        given = network.client_cert
        try:
            certificate, *key = (given,) if not isinstance(given, tuple) else given
            context.load_cert_chain(certificate, key[0] if key else None)
        except (OSError, ValueError) as error:
            raise _unusable("client_cert", given, error) from None
    return context


def _unusable(field: str, value: object, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"Network({field}={value!r}): expected a usable PEM file ({error})")
