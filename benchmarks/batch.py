"""What a durable batch costs beside the same work without a ledger, and what it needs of memory.

    python benchmarks/batch.py    # 100,000 jobs each way; memory for 10,000 and 1,000,000
    python benchmarks/batch.py --jobs 5000 --memory 20000

CPU: each candidate is a process of its own that submits, waits and downloads against a server that
answers at once; user and system time of all its threads, divided by the jobs. The bound is 1.3
times the plain way. Videos are removed as they come, in both ways alike.

Memory: a batch over a generator whose submissions and reads go over HTTP, and whose videos have no
bytes: the largest memory of the process for a million jobs, beside that for ten thousand. The bound
is 1.2 times. The mode "stubbed" makes the answers on the spot as well: the batch's own machinery
alone (ledger, admission, following), for what a job costs at any number of jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import loopback, machine  # noqa: E402
from happyhorse_async import (  # noqa: E402
    ImageToVideo,
    Polling,
    RetryPolicy,
    Session,
    Task,
    TaskStatus,
    Video,
)
from happyhorse_async.batch._batch import Batch  # noqa: E402
from happyhorse_async.batch._follow import BatchOptions  # noqa: E402

IN_FLIGHT = 200
CPU_FACTOR, MEMORY_FACTOR = 1.3, 1.2
POLLING = Polling(
    target_delay=0.05, min_interval=0.05, max_interval=1.0, max_reads_per_minute=1_000_000
)


def requests(count: int) -> Iterator[ImageToVideo]:
    """Make requests, each unlike the others."""
    return (
        ImageToVideo(f"https://cdn.example.com/{n}.png", prompt="The cat runs", seed=n + 1)
        for n in range(count)
    )


async def plain(url: str, count: int, folder: Path) -> None:
    """Submit, wait, download, with as many at once as the batch has, and no ledger."""
    source = requests(count)

    async def work(session: Session) -> None:
        for request in source:
            task = await session.submit(request)
            video = await task.download(folder / f"{request.seed}.mp4")
            video.path.unlink()

    async with (
        Session("sk-bench", base_url=url, files_url=url, polling=POLLING) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(IN_FLIGHT):
            group.create_task(work(session))


async def durable(url: str, count: int, folder: Path) -> None:
    """The same as a batch."""
    async with (
        Session("sk-bench", base_url=url, files_url=url, polling=POLLING) as session,
        session.batch(folder, max_in_flight=IN_FLIGHT) as batch,
    ):
        async for outcome in batch.run(requests(count)):
            assert outcome.video is not None, outcome
            outcome.video.path.unlink()


class Stub:
    """All parts of a session at once, whose service answers without a wire."""

    def __init__(self) -> None:
        from happyhorse_async._concurrency import Background
        from happyhorse_async._dispatcher import Events

        self.events, self.background = Events(), Background()
        self.submitter = self.poller = self.downloader = self.uploader = self.pricing = self
        self.settings = SimpleNamespace(require_key=lambda: "sk-bench", retry=RetryPolicy())
        self.callback_url = None
        self._count = 0

    async def submit(self, request: ImageToVideo, **_: Any) -> Any:
        """Accept a task."""
        self._count += 1
        await asyncio.sleep(0)
        return SimpleNamespace(
            task=Task(id=f"task-unified-{self._count}", status=TaskStatus.PENDING)
        )

    async def wait(self, task_id: str, **_: Any) -> Task:
        """Complete a task."""
        return Task(
            id=task_id, status=TaskStatus.COMPLETED, results=("https://cdn.example.com/v.mp4",)
        )

    async def download(self, task: Task, to: str, **_: Any) -> Video:
        """Save a video of no bytes."""
        return Video(path=Path(to), size=0, sha256="0" * 64, task=task)

    def close(self) -> None:
        """End."""

    def here(self) -> None:
        """Allow any event loop."""

    def require_open(self) -> None:
        """Be open for ever."""

    async def credits_for(self, request: ImageToVideo) -> Any:
        """Price a request."""
        from decimal import Decimal

        return Decimal("38.08")


async def bodiless(url: str, count: int, folder: Path) -> None:
    """A batch over HTTP whose videos have no bytes."""
    async with Session("sk-bench", base_url=url, files_url=url, polling=POLLING) as session:
        vars(session._open())["downloader"] = Stub()
        async with session.batch(folder, max_in_flight=IN_FLIGHT) as batch:
            async for outcome in batch.run(requests(count)):
                assert outcome.ok, outcome


async def stubbed(url: str, count: int, folder: Path) -> None:
    """The batch's own machinery alone; how fast the machine is meanwhile is looked at again and
    again.
    """
    parts: Any = Stub()
    options = BatchOptions(max_in_flight=IN_FLIGHT)
    async with Batch(parts, folder, options, service="none") as batch:
        seen = 0
        async for outcome in batch.run(requests(count)):
            seen += outcome.ok
            if seen % 50 == 0:
                yardstick()
    assert seen == count
    await parts.background.aclose()


YARDS: list[float] = []
"""Seconds of CPU that the same piece of work took, each time: the speed of a shared machine changes
within one long run."""


def yardstick() -> None:
    """Do a fixed piece of plain work: values made, written as JSON and read again."""
    began = time.process_time()
    for number in range(20):
        text = json.dumps(
            [
                {"id": f"task-{number}-{each}", "status": "completed", "progress": each}
                for each in range(10)
            ]
        )
        assert len(json.loads(text)) == 10
    YARDS.append(time.process_time() - began)


MODES = {"plain": plain, "batch": durable, "bodiless": bodiless, "stubbed": stubbed}


def child(mode: str, url: str, count: int) -> None:
    """Do one measurement in this process, and print it."""
    folder = Path(tempfile.mkdtemp(prefix="happyhorse-bench-"))
    try:
        # A few jobs first: what is loaded when it is first needed is not the cost of a job.
        asyncio.run(MODES[mode](url, min(100, count), folder / "first"))
        began, busy = time.perf_counter(), time.process_time()
        YARDS.clear()
        asyncio.run(MODES[mode](url, count, folder))
        facts = {
            "cpu": time.process_time() - busy,
            "wall": time.perf_counter() - began,
            "memory": machine.most_memory(),
        }
        if YARDS:
            facts |= {"cpu": facts["cpu"] - sum(YARDS), "yard": statistics.mean(YARDS)}
        print(json.dumps(facts))
    finally:
        shutil.rmtree(folder)


def measure(mode: str, url: str, count: int) -> dict[str, float]:
    """Do one measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", mode, url, str(count)]
    facts: dict[str, float] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    per_job = f"{1e6 * facts['cpu'] / count:.0f} us CPU a job, {count / facts['wall']:.0f} jobs/s"
    print(f"  {mode:8} {count:>9,} jobs: {per_job}, at most {facts['memory']:.0f} MB", flush=True)
    return facts


def main() -> int:
    """Measure both bounds; 1 when one is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--memory", type=int, default=1_000_000)
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    if given.child:
        mode, url, count = given.child
        child(mode, url, int(count))
        return 0
    missed = False
    if given.jobs:
        with loopback.start() as server:
            ratios = []
            for _ in range(given.rounds):
                each = {
                    mode: measure(mode, server.url, given.jobs)["cpu"]
                    for mode in ("plain", "batch")
                }
                ratios.append(each["batch"] / each["plain"])
        factor = statistics.median(ratios)
        print(f"CPU of a batch: {factor:.2f} times the plain way (bound {CPU_FACTOR})")
        missed |= factor > CPU_FACTOR
    if given.memory:
        with loopback.start() as server:
            small, large = (
                measure("bodiless", server.url, count)["memory"] for count in (10_000, given.memory)
            )
        print(
            f"memory for {given.memory:,} jobs: {large / small:.2f} times that for 10,000 "
            f"(bound {MEMORY_FACTOR})"
        )
        missed |= large > MEMORY_FACTOR * small
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
