"""What waiting costs: requests, reads and delay on a simulated clock; then memory and the event
loop's freedom for real.

    python -m benchmarks.polling            everything (about three minutes)
    python -m benchmarks.polling simulate   requests, reads and delays of the real scheduler on a
                                            simulated clock
    python -m benchmarks.polling patience   what a task costs that the service denies for good
    python -m benchmarks.polling memory     bytes for each wait, with 100,000 of them
    python -m benchmarks.polling loop       how long the scheduler holds the event loop

It ends with 1 when a bound is missed.

The CPU of waiting, beside a loop written by hand, is measured over HTTP in `benchmarks.waiting`.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from benchmarks import virtual
from happyhorse_async import Limits, Polling, RetryPolicy
from happyhorse_async._account import TaskPage
from happyhorse_async._concurrency import Background
from happyhorse_async._dispatcher import Events
from happyhorse_async._models import Task
from happyhorse_async._poller import Poller, Watchlist
from happyhorse_async._recent import MOST_SEEN, Recent
from happyhorse_async._rules import wire
from happyhorse_async._rules.pacing import Skew
from happyhorse_async.errors import (
    APIConnectionError,
    InternalServerError,
    NotFoundError,
    TaskNotFoundError,
)

START = 1_790_000_000.0
LATENCY = 0.08
MOST_BYTES = {"wait": 1500, "updates": 2500}
LONGEST_STEP = 0.020
LONGEST_LIFE = 600.0
"""Seconds; longer draws are cut, at a life that one of a hundred thousand has."""


class Life(NamedTuple):
    """A task of the simulated service."""

    born: float
    seconds: float
    estimate: float


class Service:
    """The service as the poller sees it, on the loop's own clock: what is asked for costs a little
    time and is counted.
    """

    def __init__(
        self, *, progress: bool, batches: bool = True, failing: float = 0.0, seed: int = 1
    ) -> None:
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

    async def read_raw_tasks_once(self, task_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Answer a batch read."""
        await self._travel(len(task_ids))
        if not self._batches:
            raise NotFoundError("no such endpoint", status=404, code="not_found")
        return {task_id: self._view(task_id) for task_id in task_ids}

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
            raise self._chance.choice(
                [APIConnectionError("reset"), InternalServerError("oops", status=500)]
            )

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


class Bound(NamedTuple):
    """What a load may cost at most, on the average of its tasks."""

    requests: float = math.inf
    reads: float = math.inf
    delay: float = math.inf


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
    alone: bool = False
    """Each task has a session of its own, which knows nothing."""
    polling: Polling = Polling(max_reads_per_minute=6000)
    limits: Limits = Limits(max_reads=64)
    bound: Bound = Bound()


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


def poller_of(
    service: Service,
    background: Background,
    *,
    polling: Polling = Polling(),  # noqa: B008 a frozen value
    limits: Limits = Limits(),  # noqa: B008
) -> Poller:
    """Make a poller of a simulated service."""
    watchlist = Watchlist(
        service,  # type: ignore[arg-type]
        polling=polling,
        limits=limits,
        policy=RetryPolicy(),
        events=Events(),
        background=background,
        skew=Skew(),
        wall=service.wall,
        seen=Recent(MOST_SEEN),
    )
    return Poller(service, watchlist)  # type: ignore[arg-type]


async def simulate(load: Load, seed: int = 7) -> Figures:
    """Run one load through the real poller."""
    chance = random.Random(seed)
    random.seed(seed)
    loop = asyncio.get_running_loop()
    service = Service(progress=load.progress, batches=load.batches, failing=load.failing)
    background = Background()
    poller = poller_of(service, background, polling=load.polling, limits=load.limits)
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
        seconds = min(
            120 * math.exp(chance.gauss(0, load.sigma)),
            LONGEST_LIFE if load.sigma < 0.5 else math.inf,
        )
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


AMPLE = {"polling": Polling(max_reads_per_minute=6000), "limits": Limits(max_reads=64)}
DEFAULT = {"polling": Polling(), "limits": Limits()}
LOADS = [
    Load("10,000 at once, estimates good to 10 %", estimate=within(0.1), bound=Bound(0.3, 12, 2.5)),
    Load("10,000 at once, progress, no usable estimate", progress=True, bound=Bound(0.3, 12, 2.5)),
    Load("10,000 at once, neither"),
    Load(
        "10,000, 25 a second, estimates good to 10 %",
        a_second=25,
        estimate=within(0.1),
        bound=Bound(0.3, 12, 2.5),
    ),
    Load("10,000, 25 a second, neither", a_second=25),
    Load("10,000 at once, sigma 0.7, neither", sigma=0.7, bound=Bound(requests=0.5, delay=3.5)),
    Load(
        "10,000, 25 a second, sigma 0.7, neither",
        sigma=0.7,
        a_second=25,
        bound=Bound(requests=0.5, delay=3.5),
    ),
    Load("10,000, 25 a second, neither, default policies", a_second=25, **DEFAULT),
    Load("10,000 at once, neither, default policies", **DEFAULT),
    Load("10,000 at once, estimates, 10 % of reads failing", failing=0.1, estimate=within(0.1)),
    Load(
        "1,000 at once, estimates, no batches, 10 % failing",
        tasks=1000,
        batches=False,
        failing=0.1,
        estimate=within(0.1),
    ),
    Load(
        "one task after the other, estimates",
        tasks=200,
        one_by_one=True,
        estimate=within(0.1),
        bound=Bound(requests=10, delay=3),
    ),
    Load(
        "one task after the other, progress",
        tasks=200,
        one_by_one=True,
        progress=True,
        bound=Bound(requests=10, delay=3),
    ),
    Load("one task after the other, neither", tasks=200, one_by_one=True),
    Load(
        "the first task of a session, progress",
        tasks=100,
        alone=True,
        progress=True,
        bound=Bound(requests=10, delay=3),
    ),
    Load("the first task of a session, estimate", tasks=100, alone=True, estimate=within(0.1)),
    Load("the first task of a session, neither", tasks=100, alone=True),
]


def figures_of(load: Load) -> Figures:
    """Simulate a load; one whose tasks are alone has a session for each."""
    if not load.alone:
        return virtual.run(simulate(load))
    single = load._replace(tasks=1)
    runs = [virtual.run(simulate(single, seed)) for seed in range(load.tasks)]
    delays = sorted(run.delay for run in runs)
    mean = [sum(column) / len(runs) for column in zip(*runs, strict=True)]
    return Figures(
        mean[0], mean[1], mean[2], delays[int(len(delays) * 0.95)], delays[-1], len(runs)
    )


def simulated() -> bool:
    """Print what every load costs; gives whether all bounds hold."""
    print(
        f"{'lives lognormal, median 120 s, sigma 0.35 unless said':54} requests  reads  mean "
        "delay    95 %  longest  (at most)"
    )
    hold = True
    for load in LOADS:
        found, bound = figures_of(load), load.bound
        fits = (
            found.requests <= bound.requests
            and found.reads <= bound.reads
            and found.delay <= bound.delay
        )
        limits = zip(bound, ("requests", "reads", "s"), strict=True)
        said = ", ".join(f"{most:g} {what}" for most, what in limits if most < math.inf)
        hold &= fits
        print(
            f"{load.name:54} {found.requests:8.3f} {found.reads:6.1f} {found.delay:9.2f} s "
            f"{found.p95:6.1f} s {found.longest:6.0f} s"
            f"  {said}{'' if fits else ': MISSED'}",
            flush=True,
        )
    return hold


# --- what patience costs --------------------------------------------------------------------------


class Denial(NamedTuple):
    """A crowd of tasks that the service denies for good."""

    name: str
    tasks: int = 1
    seen: bool = True
    polling: Polling = Polling()
    seconds: float = 910.0
    """The longest that the error may take."""
    requests: float = 25.0
    """The most requests for each task."""


DENIALS = [
    Denial("one task of this session, denied for good"),
    Denial("50 tasks of this session, denied for good", tasks=50, requests=3.0),
    Denial(
        "10,000 tasks of this session, denied for good", tasks=10_000, requests=2.0, seconds=2000
    ),
    Denial("one id that nobody here has seen", seen=False, seconds=10, requests=3),
    Denial("100 ids that nobody here has seen", tasks=100, seen=False, seconds=20, requests=4),
]


async def denied(denial: Denial) -> tuple[float, float]:
    """Wait for tasks that the service denies; return the seconds and requests until the errors."""
    service, background = Denying(progress=False), Background()
    poller = poller_of(service, background, polling=denial.polling)
    waits = (poller.wait(f"task-{number}", seen=denial.seen) for number in range(denial.tasks))
    ends = await asyncio.gather(*waits, return_exceptions=True)
    assert all(isinstance(end, TaskNotFoundError) for end in ends)
    poller.close()
    await background.aclose()
    return asyncio.get_running_loop().time(), service.requests / denial.tasks


class Denying(Service):
    """The service when it knows no task any more."""

    async def read_raw_tasks_once(self, task_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Answer a batch read."""
        await self._travel(len(task_ids))
        return {}

    async def list_tasks(self, *, page: int, page_size: int) -> TaskPage:
        """Answer for the list, which is empty."""
        await self._travel(0)
        return TaskPage(items=(), total=0, page=page, page_size=page_size)


def patience() -> bool:
    """Print what it costs to wait for tasks that are gone; return whether the bounds hold."""
    print(f"{'tasks that the service denies, default policies':54} seconds  requests each")
    hold = True
    for denial in DENIALS:
        seconds, requests = virtual.run(denied(denial))
        fits = seconds <= denial.seconds and requests <= denial.requests
        hold &= fits
        said = f"at most {denial.seconds:g}, {denial.requests:g}{'' if fits else ': MISSED'}"
        print(f"{denial.name:54} {seconds:7.1f} {requests:14.2f}  {said}", flush=True)
    return hold


# --- for real: memory and the loop ----------------------------------------------------------------


async def crowd(
    count: int, seconds: Callable[[int], float]
) -> tuple[Poller, Background, list[Task]]:
    """Make a poller and tasks that nobody waits for yet."""
    service = Service(progress=False)
    background = Background()
    # So many ends a second take more reads than a service would let one session make.
    polling, limits = Polling(max_reads_per_minute=60_000), Limits(max_reads=64)
    poller = poller_of(service, background, polling=polling, limits=limits)
    return poller, background, [service.accept(seconds(index), 120.0) for index in range(count)]


async def weighed(
    count: int, wait: Callable[[Poller, Task], Coroutine[Any, Any, Any]] | None
) -> float:
    """Weigh so many waits, or so many callers that wait for a bare future."""
    poller, background, tasks = await crowd(count, lambda index: 1e6)
    never = asyncio.get_running_loop().create_future()

    async def caller(task: Task) -> None:
        await (wait(poller, task) if wait is not None else never)

    gc.collect()
    tracemalloc.start()
    waits = [asyncio.ensure_future(caller(task)) for task in tasks]
    await asyncio.sleep(0)
    # One caller's own future is shared, so that it weighs nothing.
    held = tracemalloc.get_traced_memory()[0] / count
    tracemalloc.stop()
    for one in waits:
        one.cancel()
    await asyncio.wait(waits)
    poller.close()
    await background.aclose()
    return held


def memory(count: int = 100_000) -> bool:
    """Print how many bytes a wait takes beyond the caller's own asyncio task; gives whether that is
    within the bounds.
    """

    async def iterate(poller: Poller, task: Task) -> None:
        async for _ in poller.updates(task.id, known=task):
            pass

    bare = asyncio.run(weighed(count, None))
    kinds: dict[str, Callable[[Poller, Task], Coroutine[Any, Any, Any]]] = {
        "wait": lambda poller, task: poller.wait_completed(task.id, known=task),
        "updates": iterate,
    }
    hold = True
    for name, wait in kinds.items():
        held = asyncio.run(weighed(count, wait)) - bare
        said = (
            f"{held:6.0f} bytes each beyond the caller's own task, which takes {bare:.0f} (at "
            f"most {MOST_BYTES[name]:,})"
        )
        print(f"{count:,} tasks, {name:8} {said}")
        hold &= held <= MOST_BYTES[name]
    return hold


async def held_loop(count: int, seconds: float) -> tuple[float, int]:
    """Watch the loop while 1,000 of many tasks end each second: the scheduler's longest step and
    how many ended.
    """
    order = random.Random(1).sample(range(count), count)
    poller, background, tasks = await crowd(count, lambda index: 5 + order[index] / 1000)
    waits = [asyncio.ensure_future(poller.wait(task.id, known=task)) for task in tasks]
    await asyncio.sleep(1)
    gc.collect()
    gc.freeze()
    steps: list[tuple[float, str]] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        begun = time.thread_time()
        run(handle)
        steps.append(
            (
                time.thread_time() - begun,
                repr(getattr(handle._callback, "__self__", handle._callback))[:200],
            )
        )

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]
    await asyncio.sleep(seconds)
    asyncio.events.Handle._run = run  # type: ignore[method-assign]
    ended = sum(one.done() for one in waits)
    poller.close()
    await background.aclose()
    await asyncio.gather(*waits, return_exceptions=True)
    gc.unfreeze()
    ours = [took for took, whose in steps if "happyhorse_async: " in whose]
    return max(ours), ended


def loop(count: int = 100_000) -> bool:
    """Print how long the event loop is held while 100,000 tasks wait; gives whether that is within
    the bound.
    """
    longest, ended = asyncio.run(held_loop(count, 20.0))
    print(
        f"{count:,} tasks waiting, {ended:,} ended: the longest step of the scheduler took "
        f"{longest * 1000:.1f} ms of CPU (at most 20)"
    )
    return longest <= LONGEST_STEP


if __name__ == "__main__":
    parts = {"simulate": simulated, "patience": patience, "memory": memory, "loop": loop}
    held = [parts[name]() for name in sys.argv[1:] or parts]
    sys.exit(0 if all(held) else 1)
