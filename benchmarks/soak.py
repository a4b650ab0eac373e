"""A session that lives for months: memory after a tenth of its submissions, and after all of them.

    python -m benchmarks.soak [--submissions 1000000]

A stub server on this machine accepts every submission. One session makes them all, 100 at once,
while somebody listens. It fails when its memory grows by more than 5 % between the two looks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os

from benchmarks import loopback
from happyhorse_async import Session
from happyhorse_async.events import Submitted

AT_ONCE = 100
BOUND = 1.05
"""Memory at the end over memory after a tenth."""


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def soak(url: str, submissions: int) -> tuple[int, int]:
    """Submit, and return the memory in bytes after a tenth and after all."""
    looks = []
    async with Session("k" * 40, base_url=url, files_url=url) as session:
        session.subscribe(lambda event: None, Submitted)

        async def work(count: int) -> None:
            for _ in range(count):
                await session.submit("https://cdn.example.com/cat.png", tag="an order")

        for part in (submissions // 10, submissions - submissions // 10):
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work(part // AT_ONCE))
            looks.append(resident())
    return looks[0], looks[1]


def main() -> None:
    """Run it, and say what was measured."""
    parser = argparse.ArgumentParser(description="Memory of a session that lives for months")
    parser.add_argument("--submissions", type=int, default=1_000_000)
    count = parser.parse_args().submissions
    with loopback.start() as server:
        early, late = asyncio.run(soak(server.url, count))
    print(f"{early / 1e6:.1f} MB after {count // 10:,}, {late / 1e6:.1f} MB after {count:,}")
    if late > early * BOUND:
        raise SystemExit(f"memory grows: {late / early:.3f} times, at most {BOUND} are allowed")


if __name__ == "__main__":
    main()
