"""What waiting costs: requests, reads and delay on a simulated clock, then memory, CPU and the event loop's freedom for real.

    python -m benchmarks.polling            everything (about two minutes)
    python -m benchmarks.polling simulate   requests, reads and delays of the real scheduler on a simulated clock
    python -m benchmarks.polling memory     bytes for each wait, with 100,000 of them
    python -m benchmarks.polling loop       how long the scheduler holds the event loop
    python -m benchmarks.polling cpu        CPU for each task, against a hand-written loop
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks import virtual
from happyhorse_async import Limits, Polling, RetryPolicy
from happyhorse_async.background import Background
from happyhorse_async.errors import APIConnectionError, InternalServerError, NotFoundError, TaskNotFoundError
from happyhorse_async.events import Events
from happyhorse_async.models import Task
from happyhorse_async.poller import Poller
from happyhorse_async.rules import wire

START = 1_790_000_000.0
LATENCY = 0.08


class Life(NamedTuple):
    """A task of the simulated service."""

    born: float
    seconds: float
    estimate: float


class Service:
    """The service as the poller sees it, on the loop's own clock: what is asked for costs a little time and is counted."""

    def __init__(self, *, progress: bool, batches: bool = True, failing: float = 0.0, seed: int = 1) -> None:
        self._clock = asyncio.get_running_loop().time
        self._chance = random.Random(seed)
        self._progress = progress
        self._batches = batches
        self._failing = failing
        self.lives: dict[str, Life] = {}
        self.requests = 0
        self.reads = 0

    def accept(self, seconds: float, estimate: float) -> Task:
        """Take a task that will live so long."""
        task_id = f"task-unified-{len(self.lives)}"
        self.lives[task_id] = Life(self._clock(), seconds, estimate)
        task = wire.task_of(self._view(task_id))
        assert task is not None
        return task

    def wall(self) -> float:
        """The time of day on the simulated clock."""
        return START + self._clock()

    async def read_raw_tasks_once(self, task_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Answer a batch read."""
        await self._travel(len(task_ids))
        if not self._batches:
            raise NotFoundError("no such endpoint", status=404, code="not_found")
        return [self._view(task_id) for task_id in task_ids]

    async def read_raw_task_once(self, task_id: str) -> dict[str, Any]:
        """Answer a single read."""
        await self._travel(1)
        if task_id not in self.lives:
            raise TaskNotFoundError("no such task", status=404, code="task_not_found")
        return self._view(task_id)

    async def _travel(self, tasks: int) -> None:
        self.requests += 1
        self.reads += tasks
        await asyncio.sleep(LATENCY / 2)
        if self._chance.random() < self._failing:
            raise self._chance.choice([APIConnectionError("reset"), InternalServerError("oops", status=500)])

    def _view(self, task_id: str) -> dict[str, Any]:
        born, seconds, estimate = self.lives[task_id]
        share = (self._clock() - born) / seconds
        view = {
            "id": task_id,
            "status": "completed" if share >= 1 else "processing",
            "progress": int(100 * (1 - (1 - min(share, 1.0)) ** 1.5)) if self._progress else 0,
            "created": START + born,
            "task_info": {"estimated_time": estimate},
        }
        if share >= 1:
            view |= {"results": ["https://files.example.com/video.mp4"], "duration": seconds}
        return view


class Load(NamedTuple):
    """What is simulated."""

    name: str
    tasks: int = 10_000
    sigma: float = 0.35
    a_second: float = math.inf
    """Submissions a second; infinite: all at once."""
    estimate: Callable[[random.Random, float], float] = lambda chance, seconds: 2400.0
    progress: bool = False
    batches: bool = True
    failing: float = 0.0
    one_by_one: bool = False
    polling: Polling = Polling(max_reads_per_minute=6000)
    limits: Limits = Limits(max_reads=64)
    promise: str = ""


class Figures(NamedTuple):
    """What came out."""

    requests: float
    reads: float
    delay: float
    p95: float
    longest: float
    seen: int


def within(spread: float) -> Callable[[random.Random, float], float]:
    """Make an estimate that is good to so much (standard deviation of its logarithm)."""
    return lambda chance, seconds: seconds * math.exp(chance.gauss(0, spread))


async def simulate(load: Load, seed: int = 7) -> Figures:
    """Run one load through the real poller."""
    chance = random.Random(seed)
    random.seed(seed)
    loop = asyncio.get_running_loop()
    service = Service(progress=load.progress, batches=load.batches, failing=load.failing)
    background = Background()
    poller = Poller(
        service,  # type: ignore[arg-type]
        polling=load.polling,
        limits=load.limits,
        policy=RetryPolicy(),
        events=Events(),
        background=background,
        wall=service.wall,
    )
    delays: list[float] = []
    ends: list[str] = []
    poller.on_final(lambda task: ends.append(task.id))

    async def one(task: Task) -> None:
        await poller.wait(task.id, known=task)
        life = service.lives[task.id]
        delays.append(loop.time() - life.born - life.seconds)

    waits = []
    for index in range(load.tasks):
        if not load.one_by_one and index / load.a_second > loop.time():
            await asyncio.sleep(index / load.a_second - loop.time())
        seconds = 120 * math.exp(chance.gauss(0, load.sigma))
        wait = one(service.accept(seconds, load.estimate(chance, seconds)))
        if load.one_by_one:
            await wait
        else:
            waits.append(asyncio.ensure_future(wait))
    if waits:
        await asyncio.wait(waits)
        for wait_ in waits:
            wait_.result()
    poller.close()
    await background.aclose()
    assert len(ends) == len(set(ends)) == load.tasks, "a task was missed, or seen twice"
    delays.sort()
    return Figures(
        service.requests / load.tasks,
        service.reads / load.tasks,
        sum(delays) / len(delays),
        delays[int(len(delays) * 0.95)],
        delays[-1],
        len(ends),
    )


LOADS = [
    Load("10,000 at once, estimate good to 10 %", estimate=within(0.1)),
    Load("10,000 at once, honest progress, no usable estimate", progress=True),
    Load("10,000 at once, neither", ),
    Load("10,000, 25 a second, estimate good to 10 %", a_second=25, estimate=within(0.1)),
    Load("10,000, 25 a second, neither", a_second=25),
    Load("sigma 0.7, 10,000 at once, neither", sigma=0.7),
    Load("sigma 0.7, 25 a second, neither", sigma=0.7, a_second=25),
    Load("default policies, 10,000 at once, neither", polling=Polling(), limits=Limits()),
    Load("default policies, 10,000, 25 a second, neither", polling=Polling(), limits=Limits(), a_second=25),
    Load("10 % failing, 10,000 at once, estimate 10%", failing=0.1, estimate=within(.1)),
    Load("no batches, 10,000 at once", batches=False, estimate=within(.1), polling=Polling(max_reads_per_minute=600_000)),
    Load("no batches, 10 % failing, defaults 1,000", tasks=1000, batches=False, failing=.1, polling=Polling(), limits=Limits()),
    Load("100 at once, neither", tasks=100),
    Load("30, 1 per 4 s, neither", tasks=300, a_second=.25),
    Load("one after the other, estimate good to 10 %", tasks=200, one_by_one=True, estimate=within(0.1)),
    Load("one after the other, estimate median", tasks=200, one_by_one=True, estimate=lambda c,s: 120.),
    Load("one after the other, progress", tasks=200, one_by_one=True, progress=True),
    Load("one after the other, neither", tasks=200, one_by_one=True),
]
def fresh(load, n=100):
    out=[]
    for i in range(n):
        out.append(virtual.run(simulate(load._replace(tasks=1),seed=i)))
    return Figures(*(sum(x)/n for x in zip(*out)))

if __name__ == "__main__":
    for load in LOADS:
        if len(sys.argv)>1 and not any(a in load.name for a in sys.argv[1:]): continue
        t=time.process_time()
        f=virtual.run(simulate(load))
        print(f"{load.name:55} req {f.requests:.3f} reads {f.reads:.1f} delay {f.delay:.2f} p95 {f.p95:.1f} max {f.longest:.0f}  ({time.process_time()-t:.1f} s CPU)", flush=True)
        if load.one_by_one:
            f=fresh(load)
            print(f"{'   first of a session':55} req {f.requests:.3f} reads {f.reads:.1f} delay {f.delay:.2f} p95 {f.p95:.1f} max {f.longest:.0f}")
