"""Event loops in virtual time: several processes of one simulated world, each with a loop of its
own.

A world has one clock. It steps whichever loop has something to do now, and else jumps to the
earliest timer of all. What a loop would ask of the operating system is answered by the world:
names, connections, worker threads. Nothing above the loop is replaced.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
import re
import selectors
import socket
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.network import Network

FOLDER = "happyhorse-simulation"
"""How the folder of a simulation's files begins, before the number of the process."""
LATEST = 16 * 3600.0
"""Virtual seconds after which a world that still goes on counts as one that never ends."""
MOST_STEPS = 400_000
"""Steps after which a world counts as one that runs in circles."""


class StuckError(AssertionError):
    """Nothing will ever happen again, or it never ends, and somebody still waits."""


class _Selector(selectors.BaseSelector):
    """A selector on which nothing real ever happens; the loop's own wake-up pipe is registered and
    never read.
    """

    def __init__(self) -> None:
        self._map: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._map[number] = key = selectors.SelectorKey(fileobj, number, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self.register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []

    def get_map(self) -> Any:
        return self._map

    def close(self) -> None:
        self._map.clear()


class _Numbered:
    """Has a hash that does not depend on where the memory is, so that sets are walked in one
    order.
    """

    def __hash__(self) -> int:
        try:
            return self._number
        except AttributeError:
            self._number: int = next(NUMBERS)
            return self._number


class _Future(_Numbered, asyncio.Future):  # type: ignore[type-arg]
    pass


class _Task(_Numbered, asyncio.Task):  # type: ignore[type-arg]
    pass


NUMBERS = itertools.count()


class Loop(asyncio.SelectorEventLoop):
    """The loop of one simulated process."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.steps = 0
        self.errors: list[dict[str, Any]] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        """A heap of what rings when; equal times ring in the order in which they were set."""
        super().__init__(_Selector())
        self.set_exception_handler(lambda _, context: self.errors.append(context))
        self.set_task_factory(lambda loop, work, **how: _Task(work, loop=loop, **how))

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future with a hash of its own."""
        return _Future(loop=self)

    def time(self) -> float:
        """Return the world's time."""
        return self.world.now

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        """Run a callback soon; there are no threads, so nobody has to be woken."""
        return self.call_soon(callback, *args, context=context)

    # --- what the world answers -------------------------------------------------------------------

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Do what blocks inline, at one moment, and tell its end a little later."""
        future = self.create_future()
        self.world.inline(self, future, lambda: func(*args))
        return future

    async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> Any:  # type: ignore[override]
        """Look a name up in the world's own book."""
        await asyncio.sleep(self.world.chance.uniform(0.0005, 0.02))
        address = self.world.network.names.get(str(host), str(host))
        socket.inet_aton(address)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect within the world."""
        await self.world.network.connect(self, sock, address)

    async def create_connection(
        self, protocol_factory: Any, *args: Any, sock: Any = None, **how: Any
    ) -> Any:
        """Return the two ends' own side of a connection that `sock_connect` has made."""
        return self.world.network.open(self, sock, protocol_factory)

    async def create_server(
        self, protocol_factory: Any, *args: Any, sock: Any = None, **how: Any
    ) -> Any:
        """Serve a bound socket's address within the world."""
        return self.world.network.serve(self, sock, protocol_factory)

    # --- stepping ---------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether there is something to do now."""
        return bool(self._ready)  # type: ignore[attr-defined]

    @property
    def next_timer(self) -> float | None:
        """Return when the earliest timer rings."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:  # type: ignore[attr-defined]
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        """Run a callback in the next step; nights make millions of these calls."""
        self._check_closed()  # type: ignore[attr-defined]
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Run a callback at a time of the world."""
        self._check_closed()  # type: ignore[attr-defined]
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(NUMBERS), timer))
        return timer

    def step(self) -> None:
        """Run what is ready, once: what `_run_once` does, without a selector in between."""
        self.steps += 1
        ready, timers = self._ready, self._timers  # type: ignore[attr-defined]
        end = self.world.now + self._clock_resolution  # type: ignore[attr-defined]
        while timers and timers[0][0] < end:
            ready.append(heapq.heappop(timers)[2])
        events._set_running_loop(self)
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            events._set_running_loop(None)


class World:
    """One clock, one network, and the loops of the processes that live."""

    def __init__(self, seed: int) -> None:
        from tests.simulation.network import Network

        self.seed = seed
        self.chance = random.Random(seed)
        self.now = 1000.0
        self.wall_offset = 1_790_000_000.0
        """What the wall clock shows beyond the world's time; it steps."""
        self.slept = 0.0
        """Seconds for which our machine and its steady clock stood still, but not the service."""
        self.network: Network = Network(self)
        self.loops: list[Loop] = []
        self.dead: list[Any] = []
        """Loops of killed processes, kept so that none of their `finally` ever runs."""
        self.trace: list[str] = []
        self.stepping = False
        """A loop is running."""
        self.inlined = False
        """It does what a thread would do."""
        self.stalled = 0.0
        """The chance of what a thread does to take minutes, as on a disk that hangs."""
        self.steps = 0

    def wall(self) -> float:
        """Return what the wall clock shows, in Unix seconds."""
        return self.now + self.wall_offset

    def note(self, text: str) -> None:
        """Add a line to the trace; a path in it loses the number of the process."""
        if FOLDER in text:
            text = re.sub(rf"{FOLDER}-\d+", FOLDER, text)
        self.trace.append(f"{self.now:.6f} {text}")

    def process(self, name: str) -> Loop:
        """Start a process: a loop of its own."""
        loop = Loop(self, name)
        self.loops.append(loop)
        return loop

    def kill(self, loop: Loop) -> None:
        """End a process as `kill -9` does: it never runs again, and its connections are cut."""
        self.loops.remove(loop)
        self.dead.append((loop, asyncio.all_tasks(loop)))
        self.network.orphan(loop)
        self.note(f"{loop.name} killed")

    def inline(self, loop: Loop, future: asyncio.Future[Any], call: Callable[[], Any]) -> None:
        """Make a blocking call now; its end is told after the time that it may have taken."""
        self.inlined = True
        try:
            result = call()
        except BaseException as raised:  # noqa: BLE001  # as a thread hands it on
            self._tell(loop, future, None, raised)
        else:
            self._tell(loop, future, result, None)
        finally:
            self.inlined = False

    def _tell(
        self, loop: Loop, future: asyncio.Future[Any], result: Any, error: BaseException | None
    ) -> None:
        def tell() -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        took = self.chance.expovariate(500)
        if self.stalled and self.chance.random() < self.stalled:
            took = self.chance.uniform(1, 300)
            self.note("the disk hangs")
        loop.call_at(self.now + took, tell)

    def start(self, loop: Loop, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start some work of a process, beside whatever else goes on."""
        events._set_running_loop(loop)
        try:
            return loop.create_task(work, name="main")
        finally:
            events._set_running_loop(None)

    def run(
        self,
        loop: Loop,
        work: Coroutine[Any, Any, Any],
        *,
        until: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Run the world until some work of one process has ended, or until a condition holds; then
        None.
        """
        task = self.start(loop, work)
        deadline = self.now + LATEST
        while not task.done():
            if until():
                return None
            self.advance(deadline)
        return task.result()

    def settle(self, seconds: float) -> None:
        """Let the world go on for a while."""
        end = self.now + seconds
        while (upcoming := self._next()) is not None and upcoming <= end:
            self.advance(end)
        self.now = max(self.now, end)

    def _next(self) -> float | None:
        if any(loop.ready for loop in self.loops):
            return self.now
        timers = [timer for loop in self.loops if (timer := loop.next_timer) is not None]
        return min(timers, default=None)

    def advance(self, deadline: float) -> None:
        """Do the next thing that happens anywhere."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise StuckError(f"{MOST_STEPS:,} steps, and no end")
        for loop in self.loops:
            if loop._ready:  # type: ignore[attr-defined]
                break
        else:
            loop = self._sleep(deadline)
        self.stepping = True
        try:
            loop.step()
        finally:
            self.stepping = False

    def _sleep(self, deadline: float) -> Loop:
        """Go on to the earliest timer of all; return its loop."""
        earliest, found = math.inf, None
        for loop in self.loops:
            when = loop.next_timer
            if when is not None and when < earliest:
                earliest, found = when, loop
        if found is None:
            raise StuckError("nothing will ever happen again")
        if earliest > deadline:
            raise StuckError(f"still going on after {LATEST:,.0f} virtual seconds")
        self.now = max(self.now, earliest)
        return found
