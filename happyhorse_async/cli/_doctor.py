"""`happyhorse doctor`: what would keep the command from working here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from ..errors import APIStatusError, ConfigurationError, HappyHorseError
from ._advice import spelled
from ._common import Exit, run
from ._connection import chosen_profile, chosen_settings, open_session
from ._console import money, put
from ._options import CHOSEN, AsJson, Sandboxed

if TYPE_CHECKING:
    from ._checks import Finding

_MARKS = {True: "ok", False: "FAILS", None: "note"}
_SERVICE = ("proxy", "API host", "file host", "API host's name", "file host's name", "key")


def doctor(sandbox: Sandboxed = False, as_json: AsJson = False) -> None:
    """Check this machine, the way to the service, and the key; spends nothing.

    Example: happyhorse doctor
    """

    async def work() -> int:
        findings = []
        async for finding in _all(sandbox=sandbox):
            findings.append(finding)
            _tell(finding, as_json=as_json)
        return _code(findings)

    run(work, as_json=as_json)


async def _all(*, sandbox: bool) -> AsyncIterator[Finding]:
    """Make every check, the quick ones first."""
    import asyncio

    from .._edges.disk import absolute
    from ._checks import machine

    for finding in await asyncio.to_thread(lambda: list(machine(absolute(".")))):
        yield finding
    for finding in await asyncio.to_thread(lambda: [] if sandbox else list(_way())):
        yield finding
    async for finding in _account(sandbox=sandbox):
        yield finding


def _tell(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        put(finding.to_dict())
        return
    put(f"{_MARKS[finding.ok]:<6}{finding.check:<18}{finding.fact}")
    if finding.next_step:
        put(f"{'':<24}{finding.next_step}")


def _way() -> Iterator[Finding]:
    from .._edges.connections import Route
    from .._session import Session
    from ._checks import way

    settings = Session(**chosen_settings())._settings
    yield from way(settings.base_url, settings.files_url, Route(settings.network))


async def _account(*, sandbox: bool) -> AsyncIterator[Finding]:
    """Check the key, where it is from, and its limits."""
    from .._config import RetryPolicy
    from ._checks import Finding

    origin = _origin(sandbox=sandbox)
    soon = RetryPolicy(attempts=2)  # somebody waits for the diagnosis
    try:
        async with open_session(sandbox=sandbox, retry=soon) as session:
            left = await session.credits()
    except ConfigurationError as error:
        yield Finding(check="key", ok=False, fact=str(error), next_step=spelled(error.next_step))
        return
    except HappyHorseError as error:
        code = error.code if isinstance(error, APIStatusError) else ""
        yield Finding(
            check="key",
            ok=False,
            fact=f"{origin}: {error}",
            next_step=spelled(error.next_step),
            more={"error": type(error).__name__, "code": code},
        )
        return
    if left.key_unlimited:
        limit = "no limit of its own"
    elif left.key_remaining is None:
        limit = "nothing is said of a limit of its own"
    else:
        limit = f"{money(left.key_remaining)} left of its own limit"
    enough = bool(left.spendable)
    yield Finding(
        check="key",
        ok=enough,
        fact=f"{origin}: {money(left.spendable)} credits to spend, {limit}",
        next_step="" if enough else "Top up on the service's dashboard, or raise the key's limit.",
        more={"credits": left.spendable, "key_unlimited": left.key_unlimited},
    )


def _origin(*, sandbox: bool) -> str:
    """Say where the key is from; options win over a profile, and that over the environment."""
    from .._settings import KEY_VARIABLE

    if sandbox:
        return "of the sandbox"
    if CHOSEN.get("api_key"):
        return "from --api-key"
    profile = chosen_profile()
    return f"from the profile {profile}" if profile else f"from {KEY_VARIABLE}"


def _code(findings: list[Finding]) -> Exit:
    """Return the exit code: the key's absence, then the service's, then the machine's."""
    failed = [finding for finding in findings if finding.ok is False]
    if any(finding.check == "key" and "error" not in finding.more for finding in failed):
        return Exit.WRONG_INPUT
    if any(finding.check in _SERVICE for finding in failed):
        return Exit.SERVICE
    return Exit.FAILED if failed else Exit.DONE
