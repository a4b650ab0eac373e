"""Cancels a caller at one chosen step of its event loop, or closes its session there, and looks at
what is left afterwards.

A step is one callback of the loop: a moment is the time just before it runs. An event loop that
counts its callbacks makes every moment reachable, and a verb is tried at each of them, from the
first to the last, until it is over before the moment comes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import attrs

from happyhorse_async import (
    Polling,
    RetryPolicy,
    Session,
    SessionClosedError,
    SubmissionOutcomeUnknownError,
    Timeouts,
)
from happyhorse_async._edges.part_notes import leftovers
from happyhorse_async.sandbox import Sandbox
from tests.conftest import open_session

PATIENCE = 100.0
"""Seconds after which something counts as hanging; it is never waited for when all is well."""
NEVER = 10**9
"""A step that is not reached."""
QUICK = Polling(
    target_delay=0.001, min_interval=0.001, max_interval=0.01, max_reads_per_minute=10**6
)


class _Ready(deque[asyncio.Handle]):
    """The callbacks of a loop that are to run now; calls `ring` before each one that is listed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.moments: dict[int, Callable[[], object]] = {}

    def popleft(self) -> asyncio.Handle:
        """Hand over the next callback, at whose moment something may happen."""
        self.count += 1
        if self.moments:
            ring = self.moments.pop(self.count, None)
            if ring is not None:
                ring()
        return super().popleft()


class SteppingLoop(asyncio.SelectorEventLoop):
    """An event loop whose callbacks are counted."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = _Ready()
        self.complaints: list[str] = []
        self.set_exception_handler(lambda _, context: self.complaints.append(str(context)))

    def at_step(self, step: int, call: Callable[[], object]) -> None:
        """Make a call just before the n-th callback from now."""
        self._ready.moments[self._ready.count + step] = call

    def forget(self) -> int:
        """Call nothing more; return how many steps the loop has taken."""
        self._ready.moments.clear()
        return self._ready.count


@attrs.define
class World:
    """A session, a folder, and what the caller of a verb came to know."""

    sandbox: Sandbox
    folder: Path
    session: Session
    known: set[str] = attrs.Factory(set)
    """Tasks whose id the caller was given."""
    unknown: int = 0
    """Submissions of which the caller was told that their fate is not known."""
    over: bool = False
    """The verb was over before the moment came."""
    steps: int = 0
    """Steps that the loop took until the verb was over."""
    wrong: list[str] = attrs.Factory(list)
    others: list[Session] = attrs.Factory(list)
    """Sessions that the verb has opened itself."""
    afterwards: Callable[[], Awaitable[None]] | None = None
    """What is to work after the session was closed, as if nothing had happened."""
    scope: anyio.CancelScope = attrs.Factory(anyio.CancelScope)
    """The scope around the caller."""
    closing: asyncio.Task[None] | None = None
    """Closes the session under the caller."""

    def close(self) -> None:
        """Begin to close the session, as another task of the program does."""
        self.closing = asyncio.get_running_loop().create_task(self.session.aclose())

    def take(self, error: BaseException) -> None:
        """Take note of what an error tells the caller of the verb."""
        task_id = getattr(error, "task_id", None)
        is_told = isinstance(error, (SessionClosedError, SubmissionOutcomeUnknownError))
        if self.closing is None:
            self.wrong.append(f"{type(error).__name__} instead of a cancellation: {error}")
        elif not is_told:
            self.wrong.append(f"{type(error).__name__} from a session that was closed: {error}")
        elif task_id is not None:
            self.known.add(task_id)
        elif isinstance(error, SubmissionOutcomeUnknownError):
            self.unknown += 1


Verb = Callable[[World], Awaitable[None]]
How = Callable[[SteppingLoop, int, "asyncio.Task[None]", World], None]


def once(loop: SteppingLoop, step: int, task: asyncio.Task[None], world: World) -> None:
    """Cancel the caller's task, as asyncio.timeout, a TaskGroup or a server does."""
    loop.at_step(step, task.cancel)


def twice(loop: SteppingLoop, step: int, task: asyncio.Task[None], world: World) -> None:
    """Cancel it again a little later, as an impatient server does."""
    loop.at_step(step, task.cancel)
    loop.at_step(step + 1 + step % 5, task.cancel)


def by_scope(loop: SteppingLoop, step: int, task: asyncio.Task[None], world: World) -> None:
    """Cancel the scope of anyio around it, which cancels every wait inside anew."""
    loop.at_step(step, world.scope.cancel)


def closed(loop: SteppingLoop, step: int, task: asyncio.Task[None], world: World) -> None:
    """Close the session under it, as another task of the program does at its end."""
    loop.at_step(step, world.close)


class Moments:
    """Tries one verb at each of its moments."""

    def __init__(self, sandbox: Sandbox, folder: Path, **settings: Any) -> None:
        self._sandbox = sandbox
        self._folder = folder
        self._settings = settings
        self._known: set[str] = set()
        self._unknown = 0

    def steps(self, verb: Verb) -> int:
        """Return how many steps a verb takes that nobody cancels."""
        return self.one(verb, once, NEVER).steps

    def all(self, verb: Verb, how: How, steps: Iterable[int]) -> None:
        """Cancel a verb at each of some steps; raises `AssertionError` for what it leaves."""
        for step in steps:
            if self.one(verb, how, step).over:
                break
        gc.collect()
        lost = {task.id for task in self._sandbox.tasks} - self._known
        assert len(lost) <= self._unknown, f"paid, and nobody knows of it: {lost}"

    def one(self, verb: Verb, how: How, step: int) -> World:
        """Cancel a verb at one moment."""
        folder = self._folder / f"{verb.__name__}-{step}"  # type: ignore[attr-defined]
        folder.mkdir()
        threads, sockets = set(threading.enumerate()), open_sockets()
        with asyncio.Runner(loop_factory=SteppingLoop) as runner:
            world = runner.run(self._cancelled(verb, how, step, folder))
            loop = runner.get_loop()
        assert isinstance(loop, SteppingLoop)
        wrong = [*world.wrong, *loop.complaints, *_files_left(folder)]
        wrong += [f"thread {thread.name}" for thread in _alive(threads)]
        if not _comes_true(lambda: open_sockets() <= sockets):
            wrong.append(f"{open_sockets() - sockets} sockets")
        assert not wrong, f"{how.__name__} at step {step}: {'; '.join(wrong)}"
        return world

    async def _cancelled(self, verb: Verb, how: How, step: int, folder: Path) -> World:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SteppingLoop)
        session = open_session(
            self._sandbox,
            polling=QUICK,
            retry=RetryPolicy(first_pause=0.001, longest_pause=0.001),
            timeouts=Timeouts(shield=PATIENCE / 2),
            **self._settings,
        )
        world = World(self._sandbox, folder, session)

        async def call() -> None:
            with world.scope:
                await verb(world)

        task = loop.create_task(call())
        how(loop, step, task, world)
        await asyncio.wait([task], timeout=PATIENCE)
        world.steps = loop.forget()
        if not task.done():
            world.wrong.append("the caller hangs")
        elif not task.cancelled():
            world.over = not world.scope.cancel_called and world.closing is None
            if error := task.exception():
                world.take(error)
        if world.closing is not None:
            await asyncio.wait([world.closing], timeout=PATIENCE)
        await asyncio.wait_for(session.aclose(), PATIENCE)
        if world.afterwards is not None:
            await asyncio.wait_for(world.afterwards(), PATIENCE)
        await asyncio.sleep(0)
        world.wrong += [f"task {task}" for task in asyncio.all_tasks() - {asyncio.current_task()}]
        self._audit(world)
        return world

    def _audit(self, world: World) -> None:
        """Note who knows of what: each paid task is the caller's, an orphan, or not known."""
        sessions = (world.session, *world.others)
        orphans = [orphan for session in sessions for orphan in session.orphans]
        self._known |= world.known | {orphan.task_id for orphan in orphans if orphan.task_id}
        self._unknown += world.unknown + sum(not orphan.task_id for orphan in orphans)
        lost = {task.id for task in self._sandbox.tasks} - self._known
        if len(lost) > self._unknown:
            world.wrong.append(f"paid, and nobody knows of it: {lost}")


def open_sockets() -> int:
    """Count the open sockets of this process."""
    return sum(link.startswith("socket:") for link in _links())


def _links() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue


def _alive(before: set[threading.Thread]) -> list[threading.Thread]:
    """Give the new threads that do not end; the pools of event loops belong to the loops."""
    after = [
        thread
        for thread in threading.enumerate()
        if thread not in before and not thread.name.startswith("asyncio_")
    ]
    for thread in after:
        thread.join(PATIENCE)
    return [thread for thread in after if thread.is_alive()]


def _files_left(folder: Path) -> list[str]:
    """Name the files that are neither a video nor a download that can be resumed."""
    resumable = {left.path for left in leftovers(folder)}
    wrong = []
    for path in folder.glob("*.mp4*"):
        video = path.with_name(path.name.partition(".mp4")[0].lstrip(".") + ".mp4")
        if path.suffix != ".mp4" and (video not in resumable or video.exists()):
            wrong.append(f"file {path.name}")
    return wrong


def _comes_true(condition: Callable[[], bool]) -> bool:
    """Whether something that another thread does comes true in time."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.001)
    return True
