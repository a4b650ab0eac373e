"""`happyhorse profile`: set, list, remove."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigurationError
from ._common import run
from ._console import put, say
from ._options import AsJson
from ._profiles import keep, profile, profiles

app = typer.Typer(
    help="Keep keys and hosts under names: `--profile NAME` uses them in every command.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Name = Annotated[str, typer.Argument(help="The profile's name.")]


@app.command("set")
def set_profile(
    name: Name,
    base_url: Annotated[str | None, typer.Option("--base-url", help="The service's host.")] = None,
    files_url: Annotated[str | None, typer.Option("--files-url", help="Its file host.")] = None,
    proxy: Annotated[str | None, typer.Option("--proxy", help="An http or https proxy.")] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", help="Certificates to trust, as a PEM file.")
    ] = None,
) -> None:
    """Make a profile, or change it; the key is asked for, or read from a pipe.

    Example: happyhorse profile set work --base-url https://gateway.example.com
    """

    async def work() -> None:
        known = profiles()
        said = {"base_url": base_url, "files_url": files_url, "proxy": proxy}
        said["ca_file"] = str(ca_file.resolve()) if ca_file is not None else None
        key = _key()
        found = {**known.get(name, {}), **{word: value for word, value in said.items() if value}}
        if key:
            found["api_key"] = key
        if not found.get("api_key"):
            raise ConfigurationError("a profile needs a key", next_step="Paste it when asked.")
        _check(found)
        say(f"kept in {keep({**known, name: found})}; use it with --profile {name}")

    run(work)


def _check(found: dict[str, str]) -> None:
    """Refuse at once what no session would take."""
    from .._config import Network
    from .._session import Session

    Session(
        found["api_key"],
        base_url=found.get("base_url"),
        files_url=found.get("files_url"),
        network=Network(proxy=found.get("proxy"), ca_file=found.get("ca_file")),
    )


def _key() -> str:
    """Ask for the key without showing it; a pipe gives it as its first line."""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("API key (empty: keep the one that is there): ").strip()
    return sys.stdin.readline().strip()


@app.command("list")
def list_profiles(as_json: AsJson = False) -> None:
    """List the profiles, without their keys.

    Example: happyhorse profile list
    """

    async def work() -> None:
        for name in sorted(profiles()):
            facts = {word: value for word, value in profile(name).items() if word != "api_key"}
            shown = "  ".join(f"{word}={value}" for word, value in facts.items())
            put({"name": name, **facts} if as_json else f"{name}  {shown}".rstrip())

    run(work, as_json=as_json)


@app.command()
def remove(name: Name) -> None:
    """Remove a profile and its key.

    Example: happyhorse profile remove work
    """

    async def work() -> None:
        profile(name)
        known = profiles()
        del known[name]
        keep(known)

    run(work)
