"""Waiting for many tasks, beside a loop written by hand: one aiohttp session, fifty ids a request,
a future for each task.

Each run is a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks import figures, loopback, machine
from benchmarks.answers import DONE, NEVER, loads
from benchmarks.candidates import KEY
from benchmarks.figures import Line
from benchmarks.harness import Effort

INTERVAL = 1.0
"""Seconds between two reads of a task."""


class Loop:
    """The loop by hand: reads all tasks that have not ended, every so many seconds."""

    def __init__(self, url: str, interval: float) -> None:
        import aiohttp

        self._url = url
        self._interval = interval
        self._client = aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"})
        self._futures: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._runs: asyncio.Task[None] | None = None

    async def wait(self, task_id: str) -> dict[str, Any]:
        """Wait for the end of a task."""
        future: asyncio.Future[dict[str, Any]]
        self._futures[task_id] = future = asyncio.get_running_loop().create_future()
        if self._runs is None:
            self._runs = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while True:
            ids = list(self._futures)
            for at in range(0, len(ids), 50):
                async with self._client.post(
                    f"{self._url}/v1/tasks/batch", json={"task_ids": ids[at : at + 50]}
                ) as response:
                    response.raise_for_status()
                    for task in loads(await response.read())["data"]:
                        if task["status"] in ("completed", "failed", "cancelled"):
                            self._futures.pop(task["id"]).set_result(task)
            await asyncio.sleep(self._interval)

    async def aclose(self) -> None:
        """End it."""
        if self._runs is not None:
            self._runs.cancel()
        await self._client.close()


async def with_ours(
    url: str, interval: float, work: Callable[[Callable[[str], Awaitable[object]]], Awaitable[Any]]
) -> Any:
    """Do something with the session's `wait`."""
    from happyhorse_async import Polling, Session

    polling = Polling()
    if interval:
        # A loop that reads all tasks every so often sees an end half of that late on average.
        polling = Polling(
            target_delay=interval / 2,
            min_interval=interval,
            max_interval=interval,
            max_reads_per_minute=60_000,
        )
    async with Session(KEY, base_url=url, polling=polling) as session:
        return await work(lambda task_id: session.task(task_id).wait())


async def with_loop(
    url: str, interval: float, work: Callable[[Callable[[str], Awaitable[object]]], Awaitable[Any]]
) -> Any:
    """Do something with the loop by hand."""
    loop = Loop(url, interval)
    try:
        return await work(loop.wait)
    finally:
        await loop.aclose()


async def with_nothing(
    url: str, interval: float, work: Callable[[Callable[[str], Awaitable[object]]], Awaitable[Any]]
) -> Any:
    """Do something with a future that nobody will set."""
    return await work(lambda _: asyncio.get_running_loop().create_future())


async def all_done(wait: Callable[[str], Awaitable[object]], count: int) -> dict[str, float]:
    """Start waits on tasks that are done, all at once."""
    await wait(f"{DONE}first")  # the connection, and what is loaded late
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(wait(f"{DONE}{number}") for number in range(count)))
    return {"cpu": (time.process_time() - cpu) / count, "wall": time.perf_counter() - wall}


async def steady(
    wait: Callable[[str], Awaitable[object]], count: int, seconds: float
) -> dict[str, float]:
    """Wait for tasks that do not end, and give the CPU share after the first reads."""
    tasks = [asyncio.ensure_future(wait(f"{NEVER}{number}")) for number in range(count)]
    await asyncio.sleep(2 * INTERVAL)
    print(flush=True)
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    print(flush=True)
    await end(tasks)
    return {"share": share}


async def memory(wait: Callable[[str], Awaitable[object]], count: int) -> dict[str, float]:
    """Give the bytes that a wait holds in all, once each task was read."""
    ids = [f"{NEVER}{number}" for number in range(count)]

    async def caller(task_id: str) -> None:
        await wait(task_id)

    warm = asyncio.create_task(caller(f"{NEVER}first"))
    await asyncio.sleep(0.5)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tasks = [asyncio.create_task(caller(task_id)) for task_id in ids]
    await asyncio.sleep(8.0)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    await end([warm, *tasks])
    return {"bytes": held / count}


async def end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel tasks."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


SIDES = {"ours": with_ours, "loop": with_loop, "nothing": with_nothing}
WORKS: dict[str, Callable[..., Awaitable[Any]]] = {
    "done": all_done,
    "steady": steady,
    "memory": memory,
}


def command(side: str, work: str, url: str, interval: float, *arguments: float) -> list[str]:
    """Give the command of one run."""
    return [
        sys.executable,
        "-m",
        "benchmarks.waiting",
        side,
        work,
        url,
        str(interval),
        *map(str, arguments),
    ]


def in_process(
    side: str, work: str, url: str, interval: float, *arguments: float
) -> dict[str, float]:
    """Run one side once."""
    said = subprocess.check_output(
        command(side, work, url, interval, *arguments), env=machine.environment(), text=True
    )
    figures_of_run: dict[str, float] = json.loads(said)
    return figures_of_run


def many_done(effort: Effort) -> list[Line]:
    """10,000 waits on tasks that are done."""
    count = 1000 if effort.quick else 10_000
    sides: dict[str, list[dict[str, float]]] = {"ours": [], "loop": []}
    with loopback.start() as server:
        for _ in range(3 if effort.quick else 9):
            for side, runs in sides.items():
                runs.append(in_process(side, "done", server.url, 0.0, count))
    ours, loop = ([run["cpu"] for run in runs] for runs in sides.values())
    walls = [figures.spread([run["wall"] for run in runs]).median for runs in sides.values()]
    return [
        Line(
            what=f"{count:,} waits started at once on tasks that are done, CPU per task",
            value=figures.spread(figures.ratios(ours, loop)),
            bound=1.5,
            against=f"loop by hand: {compared(ours, loop, 1e6)} us of CPU; "
            f"{compared_walls(walls)} s in all",
        )
    ]


def compared(ours: list[float], theirs: list[float], scale: float) -> str:
    """Write both sides' middle."""
    return " to ".join(
        figures.number(figures.spread(side).median * scale) for side in (ours, theirs)
    )


def compared_walls(walls: list[float]) -> str:
    """Write both sides' time."""
    return " to ".join(map(figures.number, walls))


def steady_share(effort: Effort) -> list[Line]:
    """The CPU share of waiting for 1,000 tasks, and of the loop at the interval that ours was seen
    to keep.
    """
    seconds = 2.0 if effort.quick else 8.0
    ours: list[float] = []
    loop: list[float] = []
    with loopback.start() as server:
        for _ in range(2 if effort.quick else 4):
            share, requests = watched(
                server, command("ours", "steady", server.url, INTERVAL, 1000, seconds)
            )
            interval = 20 * seconds / requests
            theirs, read = watched(
                server, command("loop", "steady", server.url, interval, 1000, seconds)
            )
            ours.append(share)
            # What is left of the difference between the intervals is taken out.
            loop.append(theirs * requests / read)
    return [
        Line(
            what="waiting for 1,000 tasks, CPU share, each read about once a second",
            value=figures.spread(figures.ratios(ours, loop)),
            bound=1.25,
            against=f"loop by hand: {compared(ours, loop, 100)} % of a core",
        )
    ]


def watched(server: loopback.Loopback, line: list[str]) -> tuple[float, float]:
    """Run one side; gives its share, and the requests that the server saw while it was measured."""
    with subprocess.Popen(
        line, env=machine.environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = server.work()["requests"]
        process.stdout.readline()
        requests = server.work()["requests"] - before
        said = json.loads(process.stdout.read())
    return said["share"], requests


def memory_line(effort: Effort) -> list[Line]:
    """The memory of a wait."""
    count = 1000 if effort.quick else 10_000
    with loopback.start() as server:
        held = {
            side: in_process(side, "memory", server.url, INTERVAL, count)["bytes"] / 1000
            for side in SIDES
        }
    own = held["nothing"]
    against = (
        f"an asyncio task that waits for a future: {own:.2f} kB; with the loop by hand "
        f"{held['loop'] - own:.2f} kB more"
    )
    value = figures.spread([held["ours"] - own])
    return [
        Line(
            what="memory per waiting task, beyond the caller's own asyncio task",
            value=value,
            unit="kB",
            bound=1.5,
            against=against,
        )
    ]


def waiting(effort: Effort) -> list[Line]:
    """All that is measured of waiting."""
    return [*memory_line(effort), *steady_share(effort), *many_done(effort)]


def main() -> None:
    """Run one side of one benchmark, in this process."""
    side, work, url, interval, *arguments = sys.argv[1:]
    machine.pin(machine.CLIENT)
    numbers = [int(float(arguments[0])), *map(float, arguments[1:])]
    print(
        json.dumps(
            asyncio.run(SIDES[side](url, float(interval), lambda wait: WORKS[work](wait, *numbers)))
        )
    )


if __name__ == "__main__":
    main()
