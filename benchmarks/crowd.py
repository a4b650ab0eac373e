"""10,000 `generate` calls at once on one session with its defaults, against a server that accepts
so many submissions a second.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import figures, loopback, machine
from benchmarks.candidates import IMAGE, KEY
from benchmarks.figures import Line
from benchmarks.harness import Effort

RATE = 200.0
"""Submissions a second that the server accepts: it answers each when its turn has come."""
LIFE = 2.0
"""Seconds that a task runs."""


def generate(effort: Effort) -> list[Line]:
    """Start them all at once, and see how much longer the last video takes than the server alone
    would.
    """
    count = 500 if effort.quick else 10_000
    seen: list[dict[str, float]] = []
    with loopback.start(life=LIFE, rate=RATE) as server, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.crowd", server.url, str(count), folder]
        for _ in range(1 if effort.quick else 2):
            before = server.work()
            seen.append(
                json.loads(subprocess.check_output(command, env=machine.environment(), text=True))
            )
            after = server.work()
            seen[-1]["busy"] = (after["cpu"] - before["cpu"]) / (after["wall"] - before["wall"])
    limit = count / RATE + LIFE
    failed = sum(run["failed"] for run in seen)
    wall, cpu, memory = (
        figures.spread([run[name] for run in seen]).median for name in ("wall", "cpu", "memory")
    )
    against = (
        f"{count:,} at {RATE:g} a second + {LIFE:g} s of life: {figures.number(wall)} to "
        f"{figures.number(limit)} s; "
        f"{cpu / count * 1e6:,.0f} us of CPU a video, {memory:,.0f} MB"
    )
    return [
        Line(
            what=f"{count:,} `generate` calls at once, time over the server's own limit",
            value=figures.spread([run["wall"] / limit for run in seen]),
            bound=1.3,
            against=against,
            busy=figures.spread([run["busy"] for run in seen]).median,
        ),
        Line(
            what="of these, failed or timed out",
            value=figures.spread([failed]),
            unit="calls",
            bound=0,
            against=f"{len(seen)} runs",
        ),
    ]


async def run(url: str, count: int, folder: str) -> dict[str, float]:
    """Generate so many at once, and count."""
    from happyhorse_async import HappyHorseError, Session

    failed = 0

    async def one(session: Session, number: int) -> None:
        nonlocal failed
        try:
            await session.generate(
                IMAGE,
                prompt=f"The cat runs, {number}",
                save_to=f"{folder}/{number}.mp4",
                overwrite=True,
            )
        except HappyHorseError as error:
            failed += 1
            print(repr(error), file=sys.stderr)

    cpu, wall = time.process_time(), time.perf_counter()
    async with Session(KEY, base_url=url) as session:
        await asyncio.gather(*(one(session, number) for number in range(count)))
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "failed": failed}
    assert failed or sum(path.suffix == ".mp4" for path in Path(folder).iterdir()) == count
    return {**took, "memory": machine.most_memory()}


if __name__ == "__main__":
    machine.pin(machine.CLIENT)
    machine.allow_many_files()
    print(json.dumps(asyncio.run(run(sys.argv[1], int(sys.argv[2]), sys.argv[3]))))
