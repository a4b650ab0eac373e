"""What the service's list of recent tasks says of submissions whose outcome is unknown.

The list proves nothing: it shows no idempotency key, and other programs may use the same account.
It tells which tasks a submission can have become, and that it has become none.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from .._concurrency import Closing
from .._edges.api import Api
from .._models import Task
from .._request import ImageToVideo
from .._rules import wire
from ..errors import HappyHorseError, NotFoundError

if TYPE_CHECKING:
    from .._account import TaskPage, TaskSummary

LOOKS = 2
"""How often the list is read before a submission counts as absent. A task may appear in it a moment
late."""
LONGEST_PAUSE = 2.0
"""Seconds between two looks at most."""
MOST_PAGES = 20
"""Pages of 50 tasks that one look reads at most."""
TOO_LONG = f"it may stand beyond the newest {50 * MOST_PAGES:,} tasks, which were looked through"
NO_LIST = "this server has no list of tasks to look for it in"
REPEATED = "the list of tasks cannot be read on: a page of it came twice"
UNSETTLED = timedelta(seconds=60)
"""By so much the list may be out of its order, newest first."""
ROUNDING = timedelta(seconds=1)
"""The service's times are whole seconds, cut off."""
LARGEST_SKEW = timedelta(seconds=30)
"""An earlier process's time counts when the service's clock and this machine's differ by at most
this. Beyond it, one of them was set or runs unevenly."""
EVER = -math.inf
"""A time before all others: it is not known when a submission left."""


class LostSubmission(NamedTuple):
    """What is known of a submission whose task is looked for. Times are the event loop's."""

    request: ImageToVideo
    claimed: Callable[[str], bool]
    """Whether a task is known to be another submission's."""
    left_at: float
    """It cannot have been accepted earlier; `EVER` when that is not known."""
    until: float = math.inf
    """It cannot have been accepted later; given when an earlier process has sent it."""
    heard: tuple[datetime | None, float] | None = None
    """A time that the service told close to when it left, and when that was heard."""


class Findings(NamedTuple):
    """What the list says about a submission."""

    candidates: tuple[str, ...] = ()
    """Ids of the tasks that it may have become."""
    only: Task | None = None
    """The one task of nobody in all the time that counts, when it fits."""
    why: str = ""
    """Why the list could not be read, when it could not."""


class Reconciler:
    """Reads the list of recent tasks; those who look at the same time share what is read."""

    def __init__(self, api: Api, *, pause: float, closing: Closing) -> None:
        self._api = api
        self._pause = min(pause, LONGEST_PAUSE)
        self._closing = closing
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._looking = 0
        self._readings: dict[str, _Reading] = {}
        """The last one of each model."""

    async def look_for(self, lost: LostSubmission) -> Findings:
        """Say which unowned tasks a submission can have become; raise no service error."""
        self._looking += 1
        try:
            found: list[Task | TaskSummary] = []
            why = ""
            for look in range(LOOKS):
                if look:
                    # What was found may be claimed by a response that is still to come; what was
                    # not found may appear.
                    await self._closing.pause(self._pause)
                    found = [task for task in found if not lost.claimed(task.id)]
                if not found:
                    found, why = await self._look(lost)
            findings = self._judge(lost, found)
            return findings._replace(only=None, why=why) if why else findings
        except NotFoundError:
            return Findings(why=NO_LIST)
        except HappyHorseError as error:
            return Findings(why=f"the list of tasks could not be read: {error}")
        finally:
            self._looking -= 1
            if not self._looking:
                self._readings.clear()

    @staticmethod
    def _judge(lost: LostSubmission, found: list[Task | TaskSummary]) -> Findings:
        fitting = [
            task for task in found if not isinstance(task, Task) or may_be(lost.request, task)
        ]
        # That another program made a task meanwhile says that it may have made this one too.
        lone = fitting[0] if len(found) == 1 == len(fitting) else None
        return Findings(
            candidates=tuple(task.id for task in fitting),
            only=lone if isinstance(lone, Task) and lone.created is not None else None,
        )

    async def _look(self, lost: LostSubmission) -> tuple[list[Task | TaskSummary], str]:
        """Return the tasks of nobody in the time that counts; as the list shows them where they
        cannot be read. And why the list was not read so far back, when it was not.
        """
        asked = self._loop.time()
        async with self._turn:
            reading = self._readings.get(lost.request.model)
            if reading is None or reading.began < asked:
                reading = await self._begin(lost.request.model)
            start, end = _window(lost, reading)
            await self._read_back(reading, start)
            listed = [item for item in reading.items.values() if not lost.claimed(item.id)]
            near = [item for item in listed if _in(start, listed_at(item), end)]
            await self._read_tasks(reading, [item.id for item in near])
            why = "" if reading.ended or reading.reaches(start) else reading.why
        tasks = [reading.tasks.get(item.id) or item for item in near]
        return [task for task in tasks if _in(start, _created(task), end)], why

    async def _begin(self, model: str) -> _Reading:
        began = self._loop.time()
        page, date = await self._api.recent_tasks(1, model)
        here = datetime.now(UTC)
        reading = _Reading(model, began, self._loop.time(), date or here, here)
        reading.take(page)
        self._readings[model] = reading
        return reading

    async def _read_back(self, reading: _Reading, start: datetime) -> None:
        """Read on until the list is older than `start`."""
        while not (reading.ended or reading.repeated or reading.reaches(start)):
            if reading.pages >= MOST_PAGES:
                return
            page, _ = await self._api.recent_tasks(reading.pages + 1, reading.model)
            reading.take(page)

    async def _read_tasks(self, reading: _Reading, ids: list[str]) -> None:
        """Read the tasks themselves: the list shows little of them."""
        wanted = [task_id for task_id in ids if task_id not in reading.tasks]
        for first in range(0, len(wanted), wire.BATCH_SIZE):
            some = wanted[first : first + wire.BATCH_SIZE]
            try:
                raw = await self._api.retrying(
                    partial(self._api.read_raw_tasks_once, some), "looking for lost submissions"
                )
            except HappyHorseError:
                # Servers may lack that call. One is worth a call of its own; of many, what the list
                # shows has to do.
                if not first:
                    reading.tasks[some[0]] = await self._read_one(some[0])
                return
            reading.tasks |= {task_id: wire.task_of(value) for task_id, value in raw.items()}

    async def _read_one(self, task_id: str) -> Task | None:
        try:
            return await self._api.read_task(task_id)
        except HappyHorseError:
            return None


@attrs.define(eq=False, repr=False)
class _Reading:
    """The list, as far as it was read."""

    model: str
    began: float
    now: float
    """When the service's time `listed` was received."""
    listed: datetime
    here: datetime
    """This machine's time then."""
    pages: int = 0
    ended: bool = False
    repeated: bool = False
    """A page brought nothing new: the next one would not either, and none of them is an end."""
    _ordered: bool = True
    _span: tuple[datetime, datetime] | None = None
    """When the oldest and the newest of its tasks were accepted."""
    _seen: set[str] = attrs.field(factory=set)
    items: dict[str, TaskSummary] = attrs.field(factory=dict)
    tasks: dict[str, Task | None] = attrs.field(factory=dict)

    def take(self, page: TaskPage) -> None:
        """Add a page."""
        self.pages += 1
        self.ended = page.is_last
        new = [item for item in page.items if item.id not in self._seen]
        self._seen.update(item.id for item in new)
        self.repeated = not new
        for time in filter(None, map(listed_at, new)):
            oldest, newest = self._span or (time, time)
            self._ordered &= time - oldest <= UNSETTLED
            self._span = min(time, oldest), max(time, newest)
        self.items |= {item.id: item for item in new if item.model in ("", self.model)}

    @property
    def why(self) -> str:
        """Why it was not read back further."""
        return REPEATED if self.repeated else TOO_LONG

    def reaches(self, start: datetime) -> bool:
        """Whether it was read back to a time, and is seen to have the newest first: of one in
        another order nothing is known before its end.
        """
        if self._span is None or not self._ordered:
            return False
        oldest, newest = self._span
        return min(start, newest) - oldest > UNSETTLED


def _window(lost: LostSubmission, reading: _Reading) -> tuple[datetime, datetime]:
    """Return the earliest and the latest time of acceptance, by the service's clock."""
    before = None
    if lost.heard is not None and lost.heard[0] is not None:
        before = lost.heard[0], lost.heard[1]
    start = earliest(lost.left_at, reading.now, reading.listed, before)
    if lost.until == math.inf:
        return start, datetime.max.replace(tzinfo=UTC)
    if abs(reading.listed - reading.here) > LARGEST_SKEW:
        start = datetime.min.replace(tzinfo=UTC)
    return start, reading.listed + timedelta(seconds=lost.until - reading.now) + ROUNDING


def _in(start: datetime, created: datetime | None, end: datetime) -> bool:
    return created is None or start <= created <= end


def _created(task: Task | TaskSummary) -> datetime | None:
    return task.created if isinstance(task, Task) else listed_at(task)


# --- Which task can a submission have become: pure functions --------------------------------------


def listed_at(item: TaskSummary) -> datetime | None:
    """Return when a task was accepted, as far as its line in the list says so.

    A time without an offset may be any time zone's, so it says nothing.
    """
    text = item.raw.get("created_at", item.raw.get("created"))
    if isinstance(text, str):
        try:
            return item.created if datetime.fromisoformat(text).tzinfo is not None else None
        except ValueError:
            return None
    return item.created


def may_be(request: ImageToVideo, task: Task) -> bool:
    """Whether a task can be what a request has become, by everything that can be compared. The
    response shows little of the request.
    """
    info, data = _object(task.raw.get("task_info")), _object(task.raw.get("result_data"))
    shown = (
        (info.get("video_duration"), request.duration),
        (data.get("quality"), request.quality),
        (data.get("seed"), request.seed),
        (task.raw.get("model"), request.model),
    )
    return all(value is None or wanted is None or value == wanted for value, wanted in shown)


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, dict) else {}


def earliest(
    left: float, now: float, listed: datetime, before: tuple[datetime, float] | None
) -> datetime:
    """Return the earliest time, by the service's clock, at which a submission can have become a
    task.

    `left` and `now` are seconds of this machine's clock: when it left, and when the service's time
    `listed` was received. `before` is a service's time that was received before it left, and when.
    Two estimates are taken, and the earlier one counts. Either clock may run unevenly, and a window
    that is too narrow would hide the task.
    """
    if left == EVER:
        return datetime.min.replace(tzinfo=UTC)
    estimates = [listed - timedelta(seconds=now - left)]
    if before is not None:
        estimates.append(before[0] + timedelta(seconds=left - before[1]))
    return min(estimates) - ROUNDING
