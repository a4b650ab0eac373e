"""`happyhorse batch status`: how a folder's batch stands, once or until its run has ended."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ._console import put, stream_for_people
from ._standing import lines_of

if TYPE_CHECKING:
    from ..batch.report import Overview

SECONDS = 2.0
"""Between two looks at the ledger."""


async def show(folder: Path, *, as_json: bool) -> Overview:
    """Print how a folder's batch stands."""
    from ..batch.report import overview

    facts = await asyncio.to_thread(overview, folder)
    put(facts.as_json() if as_json else "\n".join(lines_of(facts, time.time())))
    return facts


async def watched(folder: Path, *, as_json: bool) -> None:
    """Print it, on a terminal in place, until the run has ended or its process is gone."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from ..batch.report import overview

    console = Console(file=stream_for_people())
    if as_json or not console.is_terminal:
        while True:
            if not _goes_on(await show(folder, as_json=as_json)):
                return
            await asyncio.sleep(SECONDS)
    with Live(console=console, transient=True) as live:
        facts = await asyncio.to_thread(overview, folder)
        while _goes_on(facts):
            live.update(
                Text("\n".join(lines_of(facts, time.time())), no_wrap=True, overflow="ellipsis")
            )
            await asyncio.sleep(SECONDS)
            facts = await asyncio.to_thread(overview, folder)
    put("\n".join(lines_of(facts, time.time())))


def _goes_on(facts: Overview) -> bool:
    """Return whether the run's process still works on it, as far as this machine can tell."""
    if facts.how is not None or not facts.pid:
        return False
    if os.name != "posix":  # elsewhere a signal would end it
        return True
    try:
        os.kill(facts.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
