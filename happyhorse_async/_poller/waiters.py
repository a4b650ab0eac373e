"""Those who wait for tasks: one future for a wait, a latest-state channel for updates, and one
channel for many tasks at once.

They hold the newest state only, so a slow consumer costs nothing, and none owns an asyncio task or
a timer.
"""

from __future__ import annotations

import asyncio
import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeGuard

from .._rules import lifecycle
from ..errors import HappyHorseError, WaitTimeoutError

if TYPE_CHECKING:
    from types import TracebackType

    from .._models import Task


class Source(Protocol):
    """Where the states of a channel come from."""

    def subscribe(self, task_id: str, subscriber: Channel, known: Task | None = None) -> None:
        """Publish the task's states to the subscriber: what is known at once, the rest as it comes."""

    def unsubscribe(self, task_id: str, subscriber: Channel) -> None:
        """End that; harmless when it has ended."""

    def remind(self, subscriber: Channel, timeout: float | None) -> None:
        """Call the subscriber's `late` after a time (seconds)."""

    def forget(self, subscriber: Channel) -> None:
        """Take that back."""


def timed_out(task_id: str, task: Task | None, others: int = 0) -> WaitTimeoutError:
    """Make the error for a wait that took too long; it says how to go on."""
    state = (
        f"it was {task.status} at {task.progress} %"
        if task is not None
        else "the service has not said anything about it yet"
    )
    more = f", and {others} more had not ended either" if others else ""
    return WaitTimeoutError(
        f"the time to wait for task {task_id} is over ({state}{more}); the task itself goes on",
        task=task,
        task_id=task_id,
        charged="yes",
        next_step=f"Wait again, from any process: await session.task({task_id!r}).wait()",
    )


def ends(timeout: float | None) -> TypeGuard[float]:
    """Whether a time limit is one."""
    return timeout is not None and timeout < math.inf


class Limit:
    """The time limit of one wait, whose future it wakes with an error."""

    __slots__ = ("future", "slot", "task_id")

    def __init__(self, task_id: str, future: asyncio.Future[Task]) -> None:
        self.task_id = task_id
        self.future = future
        self.slot = -1
        """Belongs to the agenda of time limits."""

    def late(self, known: Mapping[str, Task | None]) -> None:
        """End the wait."""
        if not self.future.done():
            self.future.set_exception(timed_out(self.task_id, known[self.task_id]))

    def awaited(self) -> Iterable[str]:
        """Name the task that is waited for."""
        return (self.task_id,)


class Channel(ABC):
    """Where states wait for a consumer, who sleeps until something is there."""

    __slots__ = ("bell", "error", "slot")

    def __init__(self) -> None:
        self.bell: asyncio.Future[None] | None = None
        self.error: HappyHorseError | None = None
        self.slot = -1
        """Belongs to the agenda of time limits."""

    @abstractmethod
    def publish(self, task: Task) -> None:
        """Take a state; the last one is final."""

    @abstractmethod
    def fail(self, task_id: str, error: HappyHorseError) -> None:
        """Learn that no further state of a task will come."""

    @abstractmethod
    def late(self, known: Mapping[str, Task | None]) -> None:
        """Learn that the time to wait is over, with what is known of the tasks waited for."""

    @abstractmethod
    def awaited(self) -> Iterable[str]:
        """Name the tasks that are still waited for."""

    def ring(self) -> None:
        """Wake whoever sleeps."""
        if self.bell is not None and not self.bell.done():
            self.bell.set_result(None)

    async def sleep(self) -> None:
        """Sleep until something was published."""
        if self.bell is not None:
            raise RuntimeError(
                "these updates are already being waited for by another task; ask the session for a second iterator"
            )
        self.bell = asyncio.get_running_loop().create_future()
        try:
            await self.bell
        finally:
            self.bell = None


Subscriber: TypeAlias = "asyncio.Future[Task] | Channel"
"""Who waits for a task: for its end, or for each of its states."""


def publish(subscriber: Subscriber, task: Task) -> None:
    """Tell one who waits of a state; a future waits for the final one."""
    if lifecycle.is_final(task):
        publish_end(subscriber, task)
    elif not isinstance(subscriber, asyncio.Future):
        subscriber.publish(task)


def publish_end(subscriber: Subscriber, task: Task) -> None:
    """Tell one who waits of the final state."""
    if not isinstance(subscriber, asyncio.Future):
        subscriber.publish(task)
    elif not subscriber.done():
        subscriber.set_result(task)


def fail(subscriber: Subscriber, task_id: str, error: HappyHorseError) -> None:
    """Tell one who waits that no further state of a task will come."""
    own = copy.copy(error)  # a shared one would collect everybody's traceback
    if not isinstance(subscriber, asyncio.Future):
        subscriber.fail(task_id, own)
    elif not subscriber.done():
        subscriber.set_exception(own)


class _Latest(Channel):
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
        """Name the task that is waited for."""
        return (self.task_id,)


class Updates:
    """The states of one task as an async iterator: first what is known, then changes, last the
    final one.

    A slow consumer skips states in between, never the last one. It owns nothing: leaving it early
    is free. Raises `WaitTimeoutError`, `TaskNotFoundError` and `SessionClosedError`; after that,
    and after the last state, it is over.
    """

    # The session knows only the channel, so that an iterator that was left early is collected, and
    # ends the channel by that.
    __slots__ = ("_channel", "_known", "_source", "_timeout", "_under_way")

    def __init__(
        self, source: Source, task_id: str, *, timeout: float | None, known: Task | None
    ) -> None:
        self._source = source
        self._channel = _Latest(task_id)
        self._timeout = timeout
        self._known = known
        self._under_way: bool | None = None

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self._channel.task_id

    def __aiter__(self) -> Updates:
        return self

    async def __anext__(self) -> Task:
        channel = self._channel
        if self._under_way is None:
            self._begin()
        while channel.latest is None:
            if channel.error is not None:
                error, channel.error = channel.error, None
                self._end()
                raise error
            if not self._under_way:
                raise StopAsyncIteration
            await channel.sleep()
        latest, channel.latest = channel.latest, None
        if lifecycle.is_final(latest):
            self._end()
        return latest

    def _begin(self) -> None:
        known, self._known = self._known, None
        self._source.subscribe(self.task_id, self._channel, known)
        self._source.remind(self._channel, self._timeout)
        self._under_way = True

    def _end(self) -> None:
        if self._under_way:
            self._source.unsubscribe(self.task_id, self._channel)
            self._source.forget(self._channel)
        self._under_way = False

    def __del__(self) -> None:
        self._end()

    async def aclose(self) -> None:
        """End the updates; the task goes on. May be called twice."""
        self._channel.latest = self._channel.error = None
        self._end()
        self._channel.ring()


class Watch(Channel):
    """The states of many tasks, merged: an async context manager and iterator that ends when all
    the tasks have ended.

    Of each task the newest state that was not yet fetched is kept, in the order in which the tasks
    changed. What goes wrong with one task (`TaskNotFoundError`) is raised after the others have
    ended; `WaitTimeoutError` and `SessionClosedError` are raised at once.
    """

    __slots__ = ("__weakref__", "_changed", "_lost", "_open", "_source", "_timeout", "_waiting")

    def __init__(self, source: Source, task_ids: Iterable[str], *, timeout: float | None) -> None:
        super().__init__()
        self._source = source
        self._waiting = dict.fromkeys(task_ids)
        self._timeout = timeout
        self._changed: dict[str, Task] = {}
        self._lost: list[HappyHorseError] = []
        self._open = False

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
        if not self._open:
            self._open = True
            for task_id in tuple(self._waiting):
                self._source.subscribe(task_id, self)
            self._source.remind(self, self._timeout)

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Task:
        self._begin()
        while not self._changed:
            error = self.error or (self._lost.pop(0) if self._lost and not self._waiting else None)
            self.error = None
            if error is not None:
                raise error
            if not self._waiting:
                self._source.forget(self)
                raise StopAsyncIteration
            await self.sleep()
        task_id = next(iter(self._changed))
        return self._changed.pop(task_id)

    async def aclose(self) -> None:
        """End the watch; the tasks go on. May be called twice."""
        waiting, self._waiting = self._waiting, {}
        for task_id in waiting:
            self._source.unsubscribe(task_id, self)
        self._source.forget(self)
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
        """The tasks that have not ended."""
        return tuple(self._waiting)
