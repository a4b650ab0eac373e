"""The session that a command speaks through: key, hosts, proxies and policies, from options,
profiles and the environment.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from ._console import say, stream_for_people
from ._options import CHOSEN

if TYPE_CHECKING:
    from .._config import Network, Polling
    from .._session import Session
    from ..events import Event


def sandbox_speed(url: str) -> float:
    """Return how much faster than real time the sandbox at a URL of this machine runs; 1.0 when
    there is none.
    """
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=2)
    try:
        connection.request("GET", "/sandbox/state")
        return float(json.loads(connection.getresponse().read())["speed"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return 1.0
    finally:
        connection.close()


def eager_polling() -> Polling:
    """Return how to look at tasks that take seconds: so often that progress moves."""
    from .._config import Polling

    return Polling(target_delay=0.2, min_interval=0.2, max_interval=0.5, max_reads_per_minute=6000)


def chosen_profile() -> str | None:
    """Return the name of the profile that is used; None when none is."""
    return CHOSEN.get("profile") or os.environ.get("HAPPYHORSE_PROFILE")


def chosen_settings() -> dict[str, Any]:
    """Return what options and the profile say of a session; options win over the profile.

    What neither says is left to the environment. Raises `ConfigurationError`.
    """
    from ._profiles import profile

    name = chosen_profile()
    said: dict[str, Any] = {**(profile(name) if name else {}), **CHOSEN}
    settings: dict[str, Any] = {"network": _network(said)}
    for word in ("api_key", "base_url", "files_url"):
        if word in said:
            settings[word] = said[word]
    return settings


def _network(said: dict[str, Any]) -> Network:
    from .._config import Network

    direct = said.get("proxy") == "-"
    how = {name: said[name] for name in ("ca_file", "allow") if name in said}
    return Network(trust_env=not direct, proxy=None if direct else said.get("proxy"), **how)


@asynccontextmanager
async def open_session(
    *, sandbox: bool = False, speed: float = 30.0, public: bool = False, **settings: Any
) -> AsyncIterator[Session]:
    """Open a session to the real service, or to a sandbox started for it.

    `settings` are those of `Session`. A command that is not `public` needs a key, and says so
    before it does anything.
    """
    from .._config import Budget, Network
    from .._session import Session

    max_credits = settings.pop("max_credits", None)
    if max_credits is not None:
        settings["budget"] = Budget(credits=max_credits)
    if not sandbox:
        session = await _real(Session, {**chosen_settings(), **settings})
        async with session:
            if not public:
                session._settings.require_key()
            with _telling(session):
                yield session
        return
    from ..sandbox import Sandbox

    settings.setdefault("polling", eager_polling())
    settings.setdefault("network", Network(trust_env=False))  # no proxy leads to this machine
    async with (
        Sandbox(speed=speed) as world,
        Session(world.key, base_url=world.url, files_url=world.files_url, **settings) as session,
    ):
        with _telling(session):
            yield session


async def _real(kind: type[Session], settings: dict[str, Any]) -> Session:
    """Make a session; one to a fast sandbox of its own looks at its tasks often."""
    import asyncio

    session = kind(**settings)
    if session._settings.on_loopback and "polling" not in settings:
        speed = await asyncio.to_thread(sandbox_speed, session._settings.base_url)
        if speed > 1:
            return kind(**settings, polling=eager_polling())
    return session


@contextmanager
def _telling(session: Session) -> Iterator[None]:
    """Tell what happens, as far as --verbose and --debug ask for it."""
    logger = logging.getLogger("happyhorse_async")
    if CHOSEN.get("debug"):
        handler = logging.StreamHandler(stream_for_people())
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    if CHOSEN.get("verbose") or CHOSEN.get("debug"):
        session.subscribe(_tell)
    yield


def _tell(event: Event) -> None:
    """Print an event on one line."""
    facts = {name: fact for name, fact in event.to_dict().items() if name not in _LONG}
    facts = {"task_id": event.task_id, **facts}
    told = " ".join(
        f"{name}={fact}"
        for name, fact in facts.items()
        if fact not in (None, "") and isinstance(fact, (str, int, float))
    )
    say(f"{type(event).__name__}: {told}".rstrip(": "))


_LONG = ("tag", "request")
