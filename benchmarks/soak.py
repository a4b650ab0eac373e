"""A session that lives for months: its memory after a tenth of its submissions, and after all.

    python -m benchmarks.soak [--submissions 1000000] [--then drop|wait|save]

A stub server in another process accepts every submission. One session makes them all, 100 at once,
as a service does it, while somebody listens. What a caller does after a submission:

- `drop` (a service that is told by callbacks): it keeps neither the handle nor the id.
- `wait`: it awaits the task's end, then drops the handle.
- `save`: it awaits the video with `generate`, and hands the file on, which is then gone.

Each submission has a tag of its own. It fails when the memory grows by more than 5 % from the
tenth to the end. What is remembered of the newest 32,768 tasks is full long before a tenth of a
million, so a smaller number of submissions shows growth that ends.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import loopback
from happyhorse_async import Limits, Polling, Session
from happyhorse_async.events import Submitted

AT_ONCE = 100
BOUND = 1.05
"""Memory at the end over memory after a tenth."""
LOOKS = 10
IMAGE = "https://cdn.example.com/cat.png"
POLLING = Polling(
    target_delay=0.05, min_interval=0.05, max_interval=1.0, max_reads_per_minute=1_000_000
)
"""Tasks of the stub have ended when they are read, so nobody should wait for them for long."""


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def caller(session: Session, then: str, folder: Path) -> Callable[[int], Awaitable[None]]:
    """Return what one caller does, which is given the submission's number."""

    async def drop(number: int) -> None:
        await session.submit(IMAGE, tag=number)

    async def wait(number: int) -> None:
        task = await session.submit(IMAGE, tag=number)
        await task.wait()

    async def save(number: int) -> None:
        video = await session.generate(IMAGE, save_to=folder / f"{number}.mp4", tag=number)
        video.path.unlink()

    return {"drop": drop, "wait": wait, "save": save}[then]


async def soak(url: str, submissions: int, then: str) -> list[int]:
    """Submit, and return the memory in bytes after each tenth."""
    looks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Session(
            "k" * 40, base_url=url, files_url=url, polling=POLLING, limits=Limits()
        ) as session:
            session.subscribe(lambda event: None, Submitted)
            call = caller(session, then, Path(folder))
            numbers = iter(range(submissions))

            async def work(count: int) -> None:
                for _ in range(count):
                    await call(next(numbers))

            for look in range(1, LOOKS + 1):
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(work(submissions // LOOKS // AT_ONCE))
                looks.append(resident())
                done = submissions // LOOKS * look
                print(f"{looks[-1] / 1e6:.1f} MB after {done:,}", file=sys.stderr, flush=True)
    return looks


def main() -> None:
    """Run it, and say what was measured."""
    parser = argparse.ArgumentParser(description="Memory of a session that lives for months")
    parser.add_argument("--submissions", type=int, default=1_000_000)
    parser.add_argument("--then", choices=("drop", "wait", "save"), default="drop")
    given = parser.parse_args()
    with loopback.start() as server:
        early, *_, late = asyncio.run(soak(server.url, given.submissions, given.then))
    print(
        f"{given.then}: {early / 1e6:.1f} MB after {given.submissions // LOOKS:,}, "
        f"{late / 1e6:.1f} MB after {given.submissions:,}: {late / early:.3f} x"
    )
    if late > early * BOUND:
        raise SystemExit(f"memory grows: {late / early:.3f} times, at most {BOUND} are allowed")


if __name__ == "__main__":
    main()
