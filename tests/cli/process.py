"""The command as a process of its own, for all tests of it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import IO, Any, NamedTuple

from happyhorse_async.sandbox import Sandbox
from tests.forks import Process, python

ROOT = Path(__file__).parents[2]
LINK = "https://cdn.example.com/frames/cat.png"
PHOTOS = ROOT / "happyhorse_async" / "sandbox" / "photos"


class Ran(NamedTuple):
    """What a process left behind."""

    code: int | None
    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        """Read what --json printed."""
        return [json.loads(line) for line in self.out.splitlines()]


async def start(
    *arguments: str | Path,
    cwd: Path,
    world: Sandbox | None = None,
    stdin: int = asyncio.subprocess.DEVNULL,
    stdout: int | IO[str] = asyncio.subprocess.PIPE,
    **variables: str,
) -> Process:
    """Start the command; warnings are errors in it."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("EVOLINK")}
    own = {"PYTHONPATH": str(ROOT), "HAPPYHORSE_CONFIG_DIR": str(cwd / "config")}
    return await python(
        "happyhorse_async",
        *arguments,
        cwd=cwd,
        env={**keep, **own, **(world.env() if world is not None else {}), **variables},
        stdin=stdin,
        stdout=stdout,
    )


async def happyhorse(
    *arguments: str | Path,
    cwd: Path,
    world: Sandbox | None = None,
    stdin: bytes = b"",
    **variables: str,
) -> Ran:
    """Run the command to its end."""
    process = await start(
        *arguments, cwd=cwd, world=world, stdin=asyncio.subprocess.PIPE, **variables
    )
    out, err = await process.communicate(stdin)
    return Ran(process.returncode, os.fsdecode(out), os.fsdecode(err))
