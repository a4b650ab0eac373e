"""One candidate in a process of its own, which does as many operations as it is told and says what
they cost. Run by `harness`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import machine
from benchmarks.candidates import CANDIDATES, Candidate


async def drive(operation: Callable[[], Awaitable[object]], count: int, at_once: int) -> None:
    """Do an operation `count` times, `at_once` at a time."""
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await operation()

    await asyncio.gather(*(work() for _ in range(at_once)))


def measure(
    runner: asyncio.Runner, operation: Callable[[], Awaitable[object]], count: int, at_once: int
) -> dict[str, float]:
    """Give the CPU and the wall seconds of one operation."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    runner.run(drive(operation, count, at_once))
    return {
        "cpu": (time.process_time() - cpu) / count,
        "wall": (time.perf_counter() - wall) / count,
    }


def main() -> None:
    """Do what is asked on standard input, line by line, until it ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("candidate", choices=sorted(CANDIDATES))
    parser.add_argument("url")
    parser.add_argument("--uvloop", action="store_true")
    given = parser.parse_args()
    apart = machine.pin(machine.CLIENT)
    factory = None
    if given.uvloop:
        from uvloop import new_event_loop as factory
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            candidate: Candidate = runner.run(opened(given.candidate, given.url))
        except ImportError as error:
            print(json.dumps({"absent": str(error)}), flush=True)
            return
        print(json.dumps({"apart": apart}), flush=True)
        for line in sys.stdin:
            order: dict[str, Any] = json.loads(line)
            print(
                json.dumps(
                    measure(
                        runner,
                        getattr(candidate, order["operation"]),
                        order["count"],
                        order["at_once"],
                    )
                ),
                flush=True,
            )
        runner.run(candidate.aclose())


async def opened(name: str, url: str) -> Candidate:
    """Make a candidate inside the running loop, as its clients want it."""
    return CANDIDATES[name](url)


if __name__ == "__main__":
    main()
