"""The memory of one job in flight, all in: the request, the handle, the caller's own asyncio task
and the wait. Beside a program by hand, and beside the least that any program can hold.

    python -m benchmarks.in_flight SIDE URL COUNT [breakdown]   one side, in this process

Jobs begin in waves of 200, so that nothing but what they hold counts. The figure is how much the
process grows by for each of them. With `breakdown` it is what Python's collector sees, by kind.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import figures, loopback, machine
from benchmarks.answers import dumps, loads
from benchmarks.candidates import KEY, body_of, distinct
from benchmarks.figures import Line
from benchmarks.harness import Effort
from benchmarks.waiting import Loop, end

if TYPE_CHECKING:
    from happyhorse_async import TaskHandle

WAVE = 200
"""Jobs that begin at once."""
SETTLED = 1.0
"""Seconds after the last wave."""

Job = Callable[[int, Callable[[], None]], Awaitable[None]]
"""Begins a job of a number, calls back when its task is accepted, and waits for its end."""


async def with_ours(url: str, work: Callable[[Job], Awaitable[Any]]) -> Any:
    """Do something with jobs of one session, as a user writes them."""
    from happyhorse_async import Session

    async with Session(KEY, base_url=url) as session:

        async def submitted(number: int) -> TaskHandle:
            wanted = distinct(number)
            return await session.submit(wanted.pop("image"), **wanted)

        async def job(number: int, accepted: Callable[[], None]) -> None:
            task = await submitted(number)
            accepted()
            await task.wait()

        return await work(job)


async def by_hand(url: str, work: Callable[[Job], Awaitable[Any]]) -> Any:
    """Do something with jobs of a program by hand: aiohttp, and one loop that reads all tasks."""
    import aiohttp

    loop = Loop(url, 5.0)
    submit = f"{url}/v1/videos/generations"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as client:

        async def submitted(request: object, key: str) -> str:
            headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
            async with client.post(submit, data=dumps(request), headers=headers) as response:
                return str(loads(await response.read())["id"])

        async def job(number: int, accepted: Callable[[], None]) -> None:
            request, key = body_of(number), secrets.token_hex(16)
            task_id = await submitted(request, key)
            accepted()
            await loop.wait(task_id)
            print(key, request)

        try:
            return await work(job)
        finally:
            await loop.aclose()


async def with_nothing(url: str, work: Callable[[Job], Awaitable[Any]]) -> Any:
    """Do something with jobs that hold a request and its id, and wait for a future of their own."""

    async def job(number: int, accepted: Callable[[], None]) -> None:
        request, task_id = body_of(number), f"task-unified-1790000000000-{number}"
        accepted()
        await asyncio.get_running_loop().create_future()
        print(request, task_id)

    return await work(job)


SIDES = {"ours": with_ours, "hand": by_hand, "floor": with_nothing}


def resident() -> int:
    """Give the bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def begun(job: Job, count: int, first: int) -> list[asyncio.Future[None]]:
    """Begin so many jobs, in waves."""
    tasks: list[asyncio.Future[None]] = []
    while len(tasks) < count:
        arrived = asyncio.Semaphore(0)
        accepted = arrived.release  # one object for all, which weighs nothing
        numbers = range(first + len(tasks), first + len(tasks) + WAVE)
        tasks += [asyncio.ensure_future(job(number, accepted)) for number in numbers]
        for _ in numbers:
            await arrived.acquire()
    await asyncio.sleep(SETTLED)
    gc.collect()
    return tasks


async def grown(job: Job, count: int) -> dict[str, float]:
    """Give the bytes by which the process grows for each job."""
    tasks = await begun(job, 2 * WAVE, 0)  # the connections, and what is loaded late
    before = resident()
    tasks += await begun(job, count, 2 * WAVE)
    held = resident() - before
    await end(tasks)
    return {"bytes": held / count}


async def broken_down(job: Job, count: int) -> dict[str, float]:
    """Give the bytes for each job by kind of object, with what only those objects hold."""
    tasks = await begun(job, 2 * WAVE, 0)
    before = weighed()
    tasks += await begun(job, count, 2 * WAVE)
    after = weighed()
    after.subtract(before)
    await end(tasks)
    return {kind: held / count for kind, held in after.most_common() if held >= count}


UNTRACKED = (str, bytes, int, float)


def weighed() -> Counter[str]:
    """Weigh all that the collector sees, and the plain values that these refer to, each once."""
    found: Counter[str] = Counter()
    plain: dict[int, object] = {}
    for thing in gc.get_objects():
        found[type(thing).__qualname__] += sys.getsizeof(thing)
        for value in gc.get_referents(thing):
            if isinstance(value, UNTRACKED):
                plain[id(value)] = value
    for value in plain.values():
        found[type(value).__qualname__] += sys.getsizeof(value)
    return found


def in_flight(effort: Effort) -> list[Line]:
    """10,000 jobs in flight."""
    count = 1000 if effort.quick else 10_000
    sides: dict[str, list[float]] = {side: [] for side in SIDES}
    with loopback.start(life=3600) as server:
        for _ in range(1 if effort.quick else 5):
            for side, runs in sides.items():
                line = [sys.executable, "-m", "benchmarks.in_flight", side, server.url, str(count)]
                said = subprocess.check_output(line, env=machine.environment(), text=True)
                runs.append(json.loads(said)["bytes"] / 1000)
    hand, floor = (figures.spread(sides[side]).median for side in ("hand", "floor"))
    return [
        Line(
            what=f"memory of one job in flight, all in ({count:,} in waves of {WAVE})",
            value=figures.spread(sides["ours"]),
            unit="kB",
            bound=1.8,
            against=f"by hand: {hand:.2f} kB; an asyncio task with a request, an id and a future: "
            f"{floor:.2f} kB",
        )
    ]


def main() -> None:
    """Run one side in this process."""
    side, url, count, *how = sys.argv[1:]
    machine.pin(machine.CLIENT)
    weigh = broken_down if how else grown
    print(json.dumps(asyncio.run(SIDES[side](url, lambda job: weigh(job, int(count))))))


if __name__ == "__main__":
    main()
