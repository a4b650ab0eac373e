"""Those who wait for tasks: a future for a wait, a channel for updates, one channel for a watch.

They hold the newest state only, so a slow consumer costs nothing. None of them owns an asyncio task
or a timer, and none knows the poller. It gives them the functions that attach and detach them.
"""

from __future__ import annotations

import asyncio
import copy
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import attrs

from .._rules import lifecycle
from ..errors import HappyHorseError, WaitTimeoutError, WrongEventLoopError

if TYPE_CHECKING:
    from types import TracebackType

    from .._models import Task


class Channel(ABC):
    """Holds states for one consumer, who sleeps until something is there."""

    __slots__ = ("_loop", "bell", "error", "slot")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.bell: asyncio.Future[None] | None = None
        self.error: HappyHorseError | None = None
        self.slot: int = -1
        """Belongs to the wheel of time limits."""

    def here(self) -> None:
        """Note where it is first used; raises `WrongEventLoopError` in any other event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise WrongEventLoopError("these updates were begun in another event loop")

    @abstractmethod
    def publish(self, task: Task) -> None:
        """Take a state; the last one is final."""

    @abstractmethod
    def fail(self, task_id: str, error: HappyHorseError) -> None:
        """Take the error after which no further state of a task comes."""

    @abstractmethod
    def late(self, known: Mapping[str, Task | None]) -> None:
        """End the wait because its time is over; `known` is the last state of each task."""

    @abstractmethod
    def awaited(self) -> Iterable[str]:
        """Return the tasks that are still waited for."""

    def ring(self) -> None:
        """Wake the consumer."""
        if self.bell is not None and not self.bell.done():
            self.bell.set_result(None)

    async def sleep(self) -> None:
        """Sleep until something is published; raises `RuntimeError` for a second consumer."""
        if self.bell is not None:
            raise RuntimeError(
                "another task already waits for these updates; "
                "ask the session for a second iterator"
            )
        self.bell = asyncio.get_running_loop().create_future()
        try:
            await self.bell
        finally:
            self.bell = None


Waiter: TypeAlias = "asyncio.Future[Task] | Channel"
"""Waits for the end of a task (a future), or for each of its states (a channel)."""


def tell(waiter: Waiter, task: Task) -> None:
    """Hand a waiter a state that is not the last one; a future does not care."""
    if not isinstance(waiter, asyncio.Future):
        waiter.publish(task)


def tell_end(waiter: Waiter, task: Task) -> None:
    """Hand a waiter the last state of a task."""
    if not isinstance(waiter, asyncio.Future):
        waiter.publish(task)
    elif not waiter.done():
        waiter.set_result(task)


def fail(waiter: Waiter, task_id: str, error: HappyHorseError) -> None:
    """Hand a waiter the error after which no further state of a task comes."""
    own = copy.copy(error)  # a shared one would collect everybody's traceback
    if not isinstance(waiter, asyncio.Future):
        waiter.fail(task_id, own)
    elif not waiter.done():
        waiter.set_exception(own)


def timed_out(task_id: str, task: Task | None, others: int = 0) -> WaitTimeoutError:
    """Return the error for a wait that took too long; it says how to go on."""
    state = "the service has not said anything about it yet"
    if task is not None:
        state = f"it was {task.status} at {task.progress} %"
    if task is not None and lifecycle.is_completed(task):
        state = "it was completed, but without its links"
    more = f", and {others} more had not ended either" if others else ""
    return WaitTimeoutError(
        f"the time to wait for task {task_id} is over ({state}{more}); the task itself goes on",
        task=task,
        task_id=task_id,
        # Of an id alone nobody knows whether there is such a task.
        charged="unknown" if task is None else "yes",
        next_step=f"Wait again, from any process: await session.task({task_id!r}).wait()",
    )


@attrs.define(eq=False, repr=False)
class TimeLimit:
    """The time limit of one wait, whose future it wakes with an error."""

    task_id: str
    future: asyncio.Future[Task]
    slot: int = -1
    """Belongs to the wheel of time limits."""

    def late(self, known: Mapping[str, Task | None]) -> None:
        """End the wait."""
        if not self.future.done():
            self.future.set_exception(timed_out(self.task_id, known[self.task_id]))

    def awaited(self) -> Iterable[str]:
        """Return the task that is waited for."""
        return (self.task_id,)


class Latest(Channel):
    """The newest state of one task that was not yet fetched."""

    __slots__ = ("latest", "task_id")

    def __init__(self, task_id: str) -> None:
        super().__init__()
        self.task_id = task_id
        self.latest: Task | None = None

    def publish(self, task: Task) -> None:
        """Replace what was not fetched yet."""
        self.latest = task
        self.ring()

    def fail(self, task_id: str, error: HappyHorseError) -> None:
        """End the iteration with an error."""
        self.error = error
        self.ring()

    def late(self, known: Mapping[str, Task | None]) -> None:
        """End the iteration because its time is over."""
        self.fail(self.task_id, timed_out(self.task_id, known[self.task_id]))

    def awaited(self) -> Iterable[str]:
        """Return the task that is waited for."""
        return (self.task_id,)


class Updates:
    """The states of one task as an async iterator: what is known, then changes, last the final one.

    A slow consumer skips states in between, never the last one. It owns nothing: leaving it early
    is free. Raises `WaitTimeoutError`, `TaskNotFoundError` and `SessionClosedError`; after that,
    and after the last state, it is over.
    """

    # The session knows only the channel. So an iterator that was left early is collected, and ends
    # the channel by that.
    __slots__ = ("_attach", "_channel", "_detach", "_under_way")

    def __init__(
        self,
        task_id: str,
        *,
        attach: Callable[[Channel], None],
        detach: Callable[[Channel], None],
    ) -> None:
        self._channel = Latest(task_id)
        self._attach: Callable[[Channel], None] | None = attach
        self._detach = detach
        self._under_way = False

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self._channel.task_id

    def __aiter__(self) -> Updates:
        return self

    async def __anext__(self) -> Task:
        channel, attach = self._channel, self._attach
        if attach is not None:
            attach(channel)
            self._attach, self._under_way = None, True
        channel.here()
        while channel.latest is None:
            if channel.error is not None:
                error, channel.error = channel.error, None
                self._end()
                try:
                    raise error
                finally:
                    del error  # its frame is this one
            if not self._under_way:
                raise StopAsyncIteration
            await channel.sleep()
        latest, channel.latest = channel.latest, None
        if lifecycle.is_final(latest):
            self._end()
        return latest

    def _end(self) -> None:
        if self._under_way:
            self._detach(self._channel)
        self._attach, self._under_way = None, False

    def __del__(self) -> None:
        self._end()

    async def aclose(self) -> None:
        """End the updates; the task goes on. May be called twice."""
        self._channel.latest = self._channel.error = None
        self._end()
        self._channel.ring()


class Watch(Channel):
    """The states of many tasks, merged: an async context manager and iterator.

    It ends when all the tasks have ended. Of each task it keeps the newest state that was not yet
    fetched, in the order of the changes. `TaskNotFoundError` of one task is raised after the others
    have ended; `WaitTimeoutError` and `SessionClosedError` are raised at once.
    """

    __slots__ = ("__weakref__", "_attach", "_changed", "_detach", "_lost", "_waiting")

    error: HappyHorseError | None

    def __init__(
        self,
        task_ids: Iterable[str],
        *,
        attach: Callable[[Channel], None],
        detach: Callable[[Channel], None],
    ) -> None:
        super().__init__()
        self._waiting = dict.fromkeys(task_ids)
        self._attach: Callable[[Channel], None] | None = attach
        self._detach = detach
        self._changed: OrderedDict[str, Task] = OrderedDict()
        self._lost: list[HappyHorseError] = []

    async def __aenter__(self) -> Watch:
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _begin(self) -> None:
        if self._attach is not None:
            self._attach(self)
            self._attach = None
        self.here()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Task:
        self._begin()
        while not self._changed:
            error = self.error or (self._lost.pop(0) if self._lost and not self._waiting else None)
            self.error = None
            try:
                if error is not None:
                    raise error
            finally:
                del error  # its frame is this one
            if not self._waiting:
                self._detach(self)
                raise StopAsyncIteration
            await self.sleep()
        return self._changed.popitem(last=False)[1]

    async def aclose(self) -> None:
        """End the watch; the tasks go on. May be called twice."""
        self._attach = None
        self._detach(self)
        self._waiting.clear()
        self._changed.clear()
        self._lost.clear()
        self.ring()

    def publish(self, task: Task) -> None:
        """Take a newer state of one of the tasks."""
        if lifecycle.is_final(task):
            self._waiting.pop(task.id, None)
        self._changed[task.id] = task
        self.ring()

    def fail(self, task_id: str, error: HappyHorseError) -> None:
        """Note that one of the tasks is lost."""
        self._waiting.pop(task_id, None)
        self._lost.append(error)
        self.ring()

    def late(self, known: Mapping[str, Task | None]) -> None:
        """Raise in the consumer that the time is over."""
        first = next(iter(known))
        self.error = timed_out(first, known[first], len(known) - 1)
        self.ring()

    def awaited(self) -> Iterable[str]:
        """Return the tasks that have not ended."""
        return tuple(self._waiting)
