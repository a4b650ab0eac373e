"""A process that downloads a video and is killed by the system in the middle of it: `python -m
tests.downloader.victim ...`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from happyhorse_async import Polling, RetryPolicy, Session
from happyhorse_async._edges import part_files


def die(*_: Any, **__: Any) -> None:
    """End at once, as with kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, *, call: int = 1) -> None:
    """Die before a call of a function, the first one or a later one."""
    true, calls = getattr(owner, name), iter(range(1, 1_000_000))
    setattr(
        owner, name, lambda *args, **facts: die() if next(calls) == call else true(*args, **facts)
    )


def after(owner: Any, name: str, *, call: int = 1) -> None:
    """Die right after a call of a function, the first one or a later one."""
    true, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def called(*args: Any, **facts: Any) -> Any:
        given = true(*args, **facts)
        return die(given) if next(calls) == call else given

    setattr(owner, name, called)


PHASES: dict[str, Callable[[], None]] = {
    "before the new folder's sync": lambda: before(os, "fsync"),
    "before the part file": lambda: before(part_files, "_open_alone"),
    "with an empty part file": lambda: before(part_files.PartFile, "restart"),
    "before the note has its name": lambda: before(Path, "replace"),
    "before the first bytes": lambda: before(os, "writev"),
    "after the first bytes": lambda: after(os, "writev"),
    "in the middle": lambda: before(os, "writev", call=3),
    "before verification": lambda: before(part_files.Tally, "finish"),
    "before the sync": lambda: before(os, "fsync", call=2),
    "before the final name": lambda: before(os, "link"),
    "with both names": lambda: after(os, "link"),
    "with the note left": lambda: after(part_files.PartFile, "_publish_as_new"),
    "before the folder's sync": lambda: before(os, "fsync", call=3),
}


async def main(url: str, files_url: str, key: str, task_id: str, folder: str, phase: str) -> None:
    """Download, and die in a phase."""
    PHASES[phase]()
    polling = Polling(min_interval=0.01, max_interval=0.05)
    async with Session(
        key, base_url=url, files_url=files_url, polling=polling, retry=RetryPolicy(attempts=1)
    ) as session:
        parts = session._open()
        task = await parts.api.read_task(task_id)
        await parts.downloader.download(task, folder)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
