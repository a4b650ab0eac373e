"""How long a crowd holds the caller's event loop: the longest callback, and the longest turn.

    python -m benchmarks.turns [--submissions 50000] [--tasks 10000]

A loop that times itself runs the session. A callback is what nothing can interrupt; a turn is all
callbacks that are ready together, so that a timer of the caller's may have to wait for all of them.
Both are counted in CPU of the loop's own thread, since the machine may be busy. Python's collector
looks at all objects that live, also at the caller's own: the longest callbacks are its work, and
are shown beside those without it. For comparison the same crowd does nothing but wait: that is
asyncio's own share.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from benchmarks import loopback, machine
from benchmarks.candidates import KEY

MOST_MS = 50.0


class TimedLoop(asyncio.SelectorEventLoop):
    """An event loop that knows how long its longest callback and its longest turn took."""

    def __init__(self) -> None:
        super().__init__()
        self.timing = False
        self.longest_callback = self.longest_own = self.longest_turn = 0.0
        """Seconds; of a callback with and without the collector's work in it."""
        self._since = self._turn_since = self._collecting = 0.0

    def begin(self) -> None:
        """Forget what was measured; the running callback and turn count from here on."""
        self.longest_callback = self.longest_own = self.longest_turn = 0.0
        self._since = self._turn_since = time.thread_time()
        self.timing = True

    def note_callback(self, run: Callable[[], None]) -> None:
        """Run one callback, and time it."""
        self._since, self._collecting = time.thread_time(), 0.0
        run()
        took = time.thread_time() - self._since
        if not self.timing:
            return
        self.longest_callback = max(self.longest_callback, took)
        self.longest_own = max(self.longest_own, took - self._collecting)

    def collector(self, phase: str, info: object) -> None:
        """Note when Python's collector begins and ends."""
        now = time.thread_time()
        self._collecting += -now if phase == "start" else now

    def _run_once(self) -> None:
        self._turn_since = time.thread_time()
        super()._run_once()  # type: ignore[misc]
        if not self.timing:
            return
        self.longest_turn = max(self.longest_turn, time.thread_time() - self._turn_since)


def timed(run: Callable[[asyncio.Handle], None]) -> Callable[[asyncio.Handle], None]:
    """Wrap the method by which asyncio runs a callback."""

    def timed_run(self: asyncio.Handle) -> None:
        loop = self._loop  # type: ignore[attr-defined]
        if isinstance(loop, TimedLoop):
            loop.note_callback(lambda: run(self))
        else:
            run(self)

    return timed_run


class Crowd:
    """So many tasks at once; the loop is timed from when they have all been made."""

    def __init__(self, loop: TimedLoop) -> None:
        self._loop = loop
        self._left = 0
        self._over = loop.create_future()
        self.results: list[Any] = []

    async def _one(self, work: Awaitable[Any]) -> None:
        try:
            self.results.append(await work)
        finally:
            self._left -= 1
            if not self._left:
                self._over.set_result(None)

    async def run(self, works: Iterable[Awaitable[Any]], *, begun: float = 0.0) -> list[Any]:
        """Start them all, and wait; `begun` is how many seconds of the beginning do not count."""
        tasks = [self._loop.create_task(self._one(work)) for work in works]
        self._left = len(tasks)
        if begun:
            await asyncio.sleep(begun)
        self._loop.begin()
        await self._over
        self._loop.timing = False
        return self.results


async def nothing(loop: TimedLoop, count: int) -> None:
    """Start so many tasks that only wait."""
    over = loop.create_future()
    loop.call_later(1, over.set_result, None)

    async def one() -> None:
        await over

    await Crowd(loop).run(one() for _ in range(count))


async def submissions(loop: TimedLoop, count: int) -> None:
    """Start so many submissions at once, all of them different."""
    from happyhorse_async import Session

    with loopback.start(life=3600) as server:
        async with Session(KEY, base_url=server.url) as session:
            await session.submit("https://cdn.example.com/first.png")
            made = await Crowd(loop).run(
                session.submit(f"https://cdn.example.com/{number}.png") for number in range(count)
            )
        assert len({task.id for task in made}) == count


async def ends(loop: TimedLoop, count: int) -> None:
    """Wait for so many tasks that all end within one second."""
    from happyhorse_async import Polling, Session

    with loopback.start(life=30) as server:
        polling = Polling(min_interval=0.5, max_interval=2.0)
        async with Session(KEY, base_url=server.url, polling=polling) as session:
            end = int(time.time() * 1000) + 15_000
            ids = [f"task-unified-{end + number % 1000}-{number}" for number in range(count)]
            ended = await Crowd(loop).run((session.task(one).wait() for one in ids), begun=5)
        assert {task.status for task in ended} == {"completed"}


def measure(what: str, crowd: Callable[[TimedLoop], Coroutine[Any, Any, None]]) -> float:
    """Run a crowd, print what was measured, and return the longest callback in milliseconds."""
    before = time.process_time()
    with asyncio.Runner(loop_factory=TimedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, TimedLoop)
        gc.collect()
        gc.callbacks.append(loop.collector)
        runner.run(crowd(loop))
        gc.callbacks.remove(loop.collector)
        callback, turn = loop.longest_callback * 1000, loop.longest_turn * 1000
    took = time.process_time() - before
    print(
        f"{what:40} longest callback {loop.longest_own * 1000:6.1f} ms, with Python's collector "
        f"{callback:6.1f} ms; longest turn {turn:7.1f} ms; CPU {took:5.1f} s",
        flush=True,
    )
    return loop.longest_own * 1000


def main() -> int:
    """Measure all crowds; 1 when a callback held the loop for too long."""
    parser = argparse.ArgumentParser(description="How long a crowd holds the event loop")
    parser.add_argument("--submissions", type=int, default=50_000)
    parser.add_argument("--tasks", type=int, default=10_000)
    given = parser.parse_args()
    machine.allow_many_files()
    asyncio.Handle._run = timed(asyncio.Handle._run)  # type: ignore[attr-defined]
    count, tasks = given.submissions, given.tasks
    measure(f"{count:,} asyncio tasks that only wait", lambda loop: nothing(loop, count))
    worst = max(
        measure(f"{count:,} submissions at once", lambda loop: submissions(loop, count)),
        measure(f"{tasks:,} tasks end within a second", lambda loop: ends(loop, tasks)),
    )
    return int(worst > MOST_MS)


if __name__ == "__main__":
    raise SystemExit(main())
