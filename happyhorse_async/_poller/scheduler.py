"""When a session reads tasks: what is due leaves as soon as the service may be asked.

It owns one asyncio task while anyone waits, and one more for each read on the wire. It lives with
failed reads by itself; what the service says is handed to the poller, by one callback.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .._rules.wire import BATCH_SIZE
from ..errors import (
    BadRequestError,
    HappyHorseError,
    NotFoundError,
    SessionClosedError,
    TaskNotFoundError,
)
from ..events import ReadFailed, Retrying
from .plan import Plan, ReadBudget, is_refusal
from .watched import Watched

if TYPE_CHECKING:
    from .._concurrency import Background
    from .._config import Limits, Polling, RetryPolicy
    from .._dispatcher import Events
    from .._edges.api import Api

# Tasks that wait to be read by themselves because a batch did not have them. Of very many that are
# denied together, few are enough to see whether the batch is right.
MOST_ALONE = 8

_NOTHING: Mapping[str, Mapping[str, Any]] = {}


class Reading(NamedTuple):
    """What one request said about some tasks."""

    values: Mapping[str, Mapping[str, Any]] = _NOTHING
    """JSON objects by task id."""
    error: HappyHorseError | None = None
    """The request failed, and says nothing about the tasks."""
    refused: HappyHorseError | None = None
    """The service itself refuses to speak of the one task that was asked for. Without it, what has
    no value is absent from the answer about many."""
    listed: bool | None = None
    """Whether the refused task stands in the account's list; None: it could not be looked at."""
    alone: bool = False
    """One task was asked for alone."""


class Scheduler:
    """Reads tasks when they are worth it; see the module.

    `on_reading` gets the tasks that were asked for, what the service said, and when it was asked. A
    reading with an error ends all waiting for its tasks. `on_broken` hears of a bug.
    """

    def __init__(
        self,
        reader: Reader,
        plan: Plan,
        *,
        on_reading: Callable[[list[Watched], Reading, float], None],
        on_broken: Callable[[BaseException], None],
        polling: Polling,
        limits: Limits,
        policy: RetryPolicy,
        events: Events,
        background: Background,
    ) -> None:
        self._reader = reader
        self._plan = plan
        self._on_reading = on_reading
        self._on_broken = on_broken
        self._limits = limits
        self._events = events
        self._background = background
        self._clock = asyncio.get_running_loop().time
        self._budget = ReadBudget(polling, policy)
        self._alone: deque[Watched] = deque()
        self._on_wire = 0
        self._wakes_at = 0.0
        self._bell: asyncio.Future[None] | None = None
        self._running = False

    # --- what the poller asks for -----------------------------------------------------------------

    def wake_by(self, when: float) -> None:
        """Look at the plan at a time at the latest: something was entered there."""
        if not self._running:
            self._running = True  # first: asyncio's eager tasks run in this very call
            self._background.start(self._run(), name="reading tasks")
        elif when < self._wakes_at:
            self._wakes_at = when  # of very many who come at once, one wakes it
            self._wake()

    def soon(self, watched: Watched) -> None:
        """Read a task as soon as its last read is not too recent; a flood of calls is one read."""
        if watched.slot < 0:
            watched.hinted = True
        else:
            self.wake_by(self._plan.soon(watched, self._clock()))

    def alone(self, watched: Watched) -> None:
        """Read a task next, by itself."""
        self._alone.append(watched)
        self.wake_by(-math.inf)

    @property
    def has_room(self) -> bool:
        """Whether few tasks are to be read by themselves: many would use up the read budget."""
        return len(self._alone) < MOST_ALONE

    # --- the one task -----------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def _run(self) -> None:
        try:
            while self._busy():
                now = self._clock()
                self._start_reads(now)
                await self._sleep(now)
        except Exception as error:
            self._on_broken(error)
            raise
        finally:
            self._running = False

    def _busy(self) -> bool:
        return bool(self._plan or self._on_wire or self._alone)

    async def _sleep(self, now: float) -> None:
        self._wakes_at = self._next_read()
        if self._wakes_at <= now:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._bell = loop.create_future()
        alarm = (
            loop.call_later(self._wakes_at - now, self._wake) if self._wakes_at < math.inf else None
        )
        try:
            await self._bell
        finally:
            self._bell = None
            if alarm is not None:
                alarm.cancel()

    def _next_read(self) -> float:
        if self._on_wire >= self._limits.max_reads:
            return math.inf
        return max(-math.inf if self._alone else self._plan.ripe_at(), self._budget.next())

    # --- reads ------------------------------------------------------------------------------------

    def _start_reads(self, now: float) -> None:
        while self._next_read() <= now:
            if self._alone:
                watched = self._alone.popleft()
                if watched.first is not None:
                    self._start([watched], now)
                continue
            group = self._plan.take(now)
            if alone := [watched for watched in group if watched.trouble and watched.is_alone]:
                self._alone += alone
                group = [watched for watched in group if not watched.is_alone]
            if group:
                self._start(group, now)

    def _start(self, group: list[Watched], now: float) -> None:
        self._budget.spend(now)
        self._on_wire += 1
        self._background.start(self._read(group, now), name="reading")

    async def _read(self, group: list[Watched], asked: float) -> None:
        try:
            try:
                reading = await self._ask([watched.id for watched in group], group[0])
            finally:
                self._on_wire -= 1
            self._plan.batches = self._reader.batches
            group = [watched for watched in group if watched.first is not None]
            if reading.error is not None:
                self._failed(group, reading.error, asked)
            else:
                self._budget.answered(asked, self._clock())
                if len(group) > 1 and not reading.values and self.has_room:
                    # Whether these tasks are not there, or only the way to read many, one shows.
                    self.alone(group.pop(0))
                self._on_reading(group, reading, asked)
            # What waits for room on the wire goes at once, without a turn of the scheduler's own
            # task.
            self._start_reads(self._clock())
        except Exception as error:
            self._on_broken(error)
            raise
        except (KeyboardInterrupt, SystemExit):
            # These are meant for the program. In a notebook the loop goes on, and so do the waits.
            for watched in group:
                if watched.first is not None:
                    self.wake_by(self._plan.enter(watched, self._clock()))
            raise
        finally:
            if not self._busy() or self._next_read() < self._wakes_at:
                self._wake()

    async def _ask(self, task_ids: list[str], first: Watched) -> Reading:
        with self._events.work("read", task_ids=task_ids):
            reading, trouble = await self._reader.read(task_ids), first.trouble
            if reading.refused is not None and trouble is not None and trouble.look:
                reading = reading._replace(listed=await self._reader.is_listed(first.id))
            return reading

    def _failed(self, group: list[Watched], error: HappyHorseError, asked: float) -> None:
        now = self._clock()
        if self._events:
            self._events.emit(ReadFailed(error=error, tasks=len(group)))
        # A client that was lent and closed reads nothing ever again.
        hopeless = self._budget.failed(error, asked, now) or isinstance(error, SessionClosedError)
        if self._events and getattr(error, "retry_after", None) is not None:
            pause = max(0.0, self._budget.next() - now)
            self._events.emit(
                Retrying(
                    what="reading tasks", error=error, pause=pause, attempt=self._budget.failures
                )
            )
        if hopeless:
            self._on_reading(group, Reading(error=error), asked)
            return
        if len(group) > 1 and self._reader.doubts_batches and self.has_room:
            # Whether the service is in trouble, or only its way to read many, one task shows.
            self.alone(group.pop(0))
        for watched in group:
            trouble = watched.troubled()
            trouble.failures += 1
            self._plan.enter(watched, now + self._budget.pause(trouble.failures))


# --- Reading tasks, many with one request where the service can, and sorting what can go wrong.


MOST_LISTED = 20
"""Pages of the account's list, 50 tasks each, that are looked through for a task that is denied."""
LIST_LIFE = 60.0
"""Seconds for which one look through the list serves all tasks that are denied."""
MOST_PAGES = 3
"""Pages in a row with status 404 that are not the service's own. After so many there counts as
being no way to read many."""

MOST_FAILED = 3
"""Batch reads that fail in a row, however, before one task is read by itself to compare."""
ALONE_SECONDS = 600.0
"""For so long tasks are read one by one after batch reads failed that single reads did not."""


class Reader:
    """Reads tasks; remembers when the service has no way to read many."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._clock = asyncio.get_running_loop().time
        self._pages = 0
        self._failed = 0
        """Batch reads that failed in a row."""
        self._unanswered: Collection[str] = ()
        """The tasks of the last batch read, when it spoke of none of them."""
        self._alone_until = -math.inf
        self._listed: frozenset[str] = frozenset()
        self._listed_at = -math.inf

    @property
    def batches(self) -> bool:
        """Whether many tasks can be read with one request, as far as is known."""
        return self._clock() >= self._alone_until

    @property
    def doubts_batches(self) -> bool:
        """Whether so many batch reads failed in a row that a task is to be read by itself."""
        return self._failed >= MOST_FAILED

    async def read(self, task_ids: Sequence[str]) -> Reading:
        """Read up to 50 tasks (one, where the service lacks batches)."""
        return await (
            self._read_one(task_ids[0]) if len(task_ids) == 1 else self._read_many(task_ids)
        )

    async def _read_many(self, task_ids: Sequence[str]) -> Reading:
        try:
            values = await self._api.read_raw_tasks_once(task_ids)
        except (TaskNotFoundError, BadRequestError):
            # One id that the service finds malformed must not hold up the other 49.
            return self._spoke_of_none(task_ids)
        except NotFoundError as error:
            # A gateway's page instead of the service's word can be a hiccup: it counts when it
            # comes again and again.
            self._pages += 1
            if error.status == 404 and not error.own_body and self._pages < MOST_PAGES:
                return Reading(error=error)
            self._alone_until = math.inf
            return Reading()
        except HappyHorseError as error:
            self._failed += 1
            return Reading(error=error)
        self._pages = 0
        if values.keys().isdisjoint(task_ids):
            return self._spoke_of_none(task_ids)
        self._failed, self._unanswered = 0, ()
        return Reading(values=values)

    def _spoke_of_none(self, task_ids: Sequence[str]) -> Reading:
        """Take in a batch read without a word about its tasks. It has failed if one of them is
        there when it is read by itself.
        """
        self._unanswered = frozenset(task_ids)
        return Reading()

    async def _read_one(self, task_id: str) -> Reading:
        try:
            value = await self._api.read_raw_task_once(task_id)
        except (TaskNotFoundError, BadRequestError) as error:
            return Reading(refused=error) if error.own_body else Reading(error=error)
        except HappyHorseError as error:
            return Reading(error=error)
        if task_id in self._unanswered:
            self._failed, self._unanswered = self._failed + 1, ()
        if self.doubts_batches:
            # Tasks can be read one by one, and many cannot: the batches are tried again later.
            self._failed, self._alone_until = MOST_FAILED - 1, self._clock() + ALONE_SECONDS
        return Reading(values={task_id: value}, alone=True)

    async def is_listed(self, task_id: str) -> bool | None:
        """Return whether a task is among the newest of the account's list.

        None when the list cannot be read now; False where the service has none.
        """
        if self._clock() - self._listed_at > LIST_LIFE:
            try:
                self._listed = frozenset([found async for found in self._list()])
            except HappyHorseError as error:
                return False if is_refusal(error) or isinstance(error, NotFoundError) else None
            self._listed_at = self._clock()
        return task_id in self._listed

    async def _list(self) -> AsyncIterator[str]:
        for number in range(1, MOST_LISTED + 1):
            page = await self._api.list_tasks(page=number, page_size=BATCH_SIZE)
            for item in page.items:
                yield item.id
            if page.is_last:
                return
