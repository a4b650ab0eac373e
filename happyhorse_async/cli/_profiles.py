"""Profiles: keys and hosts under names, in a file that only its owner can read.

`happyhorse profile` sets, lists and removes them.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import stat
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigurationError, LedgerError
from ._common import run
from ._console import put, say
from ._options import AsJson, group_of
from ._signals import ending_at_once

FIELDS = ("api_key", "base_url", "files_url", "proxy", "ca_file")
"""What a profile may say."""
VARIABLE = "HAPPYHORSE_CONFIG_DIR"
LOCK = "profiles.lock"
LONGEST_WAIT = 10.0
"""Seconds that another process may take to change the profiles."""


def config_folder(platform: str, variables: Mapping[str, str], home: Path) -> Path:
    """Return the folder for settings, as the platform has it.

    `HAPPYHORSE_CONFIG_DIR` wins. Else APPDATA on Windows and "Application Support" on a Mac.
    Elsewhere XDG_CONFIG_HOME, which counts only as an absolute path, or ~/.config.
    """
    if variables.get(VARIABLE):
        return Path(variables[VARIABLE])
    if platform == "win32":
        return Path(variables.get("APPDATA") or home / "AppData" / "Roaming") / "happyhorse"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "happyhorse"
    said = variables.get("XDG_CONFIG_HOME", "")
    return (Path(said) if said.startswith("/") else home / ".config") / "happyhorse"


def profiles_file() -> Path:
    """Return the file of all profiles; raises `ConfigurationError` where no home is known."""
    home = Path(os.path.expanduser("~"))  # stays "~" for a user whom the system does not know
    path = config_folder(sys.platform, os.environ, home) / "profiles.json"
    if path.parts[0] == "~":
        raise ConfigurationError(
            "no home folder is known, where profiles would be",
            next_step=f"Set HOME, or {VARIABLE} to a folder for them.",
        )
    return path


def profiles() -> dict[str, dict[str, Any]]:
    """Read all profiles; raises `ConfigurationError` for a file that others can read."""
    path = profiles_file()
    try:
        with path.open(encoding="utf-8") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & (
                stat.S_IRWXG | stat.S_IRWXO
            ):
                raise ConfigurationError(
                    f"{path} can be read by others, and keys are in it",
                    next_step=f"Run: chmod 600 {path}",
                )
            found = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(it, dict) for it in found.values()):
        raise ConfigurationError(f"{path} is no file of profiles")
    return found


def profile(name: str) -> dict[str, Any]:
    """Return one profile; raises `ConfigurationError` when there is none of that name."""
    found = profiles()
    if name not in found:
        known = f"known are {', '.join(sorted(found))}" if found else "there is none yet"
        raise ConfigurationError(
            f"--profile: there is no profile {name!r}; {known}",
            next_step=f"Make it: happyhorse profile set {name}",
        )
    return {field: found[name][field] for field in FIELDS if found[name].get(field)}


def keep(found: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write all profiles, for their owner alone, whole or not at all."""
    path = profiles_file()
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # 0600 from its first moment on: nobody can open it in between.
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(number, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise ConfigurationError(
            f"{path} cannot be written: {error}",
            next_step=f"Set {VARIABLE} to a folder that may be written to.",
        ) from None
    return path


@asynccontextmanager
async def alone() -> AsyncIterator[None]:
    """Keep other processes from changing the profiles: each of them writes all that it has read."""
    from .._edges.disk import FolderLock

    folder = profiles_file().parent
    lock, until = FolderLock(folder, name=LOCK), time.monotonic() + LONGEST_WAIT
    # Without a lock, as on some network disks, one change at a time does well all the same.
    with suppress(OSError, LedgerError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while not lock.try_take():
            if time.monotonic() > until:
                raise ConfigurationError(
                    f"the profiles in {folder} are being changed by {lock.holder()}",
                    next_step="Wait for that process, or end it.",
                )
            await asyncio.sleep(0.02)
    try:
        yield
    finally:
        lock.release()


app = group_of("Keep keys and hosts under names: `--profile NAME` uses them in every command.")
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
    if not name.strip():
        raise typer.BadParameter("expected a name, got none", param_hint="NAME")

    async def work() -> None:
        said = {"base_url": base_url, "files_url": files_url, "proxy": proxy}
        said["ca_file"] = str(ca_file.resolve()) if ca_file is not None else None
        profiles()  # what is wrong with the file is said before a key is asked for
        said["api_key"] = _key()
        said = {word: value for word, value in said.items() if value}
        async with alone():
            known = profiles()
            found = {**known.get(name, {}), **said}
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
    """Ask for the key without showing it; a pipe gives it as its first line. Ctrl-C is an
    interruption, at once.
    """
    if sys.stdin is None:  # closed by whoever started this
        return ""
    with ending_at_once():
        if not sys.stdin.isatty():
            return sys.stdin.readline().strip()
        from getpass import getpass

        try:
            return getpass("API key (empty: keep the one that is there): ").strip()
        except EOFError:  # Ctrl-D
            return ""


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
        async with alone():
            profile(name)
            known = profiles()
            del known[name]
            keep(known)

    run(work)
