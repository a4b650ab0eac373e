"""Looking for the tasks of submissions that were left without an answer, in the service's list of
recent tasks.

All that are looked for at the same time share one look, and are judged together, so that no task is
claimed twice.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Set
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import attrs

from .._concurrency import Background
from .._edges.api import Api
from .._models import Task
from .._request import ImageToVideo
from .._rules.responses import Answer
from ..errors import HappyHorseError, NotFoundError

LOOKS = 2
"""How often the list is read before a submission counts as absent: a task may appear in it a moment
late."""
MOST_PAGES = 20
"""Pages of 50 tasks that one look reads at most."""
MOST_OWNED = 2 * 50 * MOST_PAGES
"""Ids that are kept between two looks: those that a look can find, the newest ones, and room for
answers that came out of order."""
MOST_READ = 50
"""Unclaimed tasks that one look compares at most; with more of them, no single one could be told
apart anyway."""
MARGIN = 60.0
"""Seconds by which ids are kept longer than they can be needed by the clocks."""
PATIENCE = 30.0
"""Seconds that a look waits for submissions whose answer is still to come: what it found may be
theirs."""
GHOST_LIFE = 3600.0
"""Seconds for which a submission whose outcome stayed unknown can still be what a new task belongs
to."""


@attrs.define(eq=False)
class Facts:
    """What is known of a submission that has left."""

    request: ImageToVideo
    left_at: float
    """When the first attempt left that may have been accepted, by the event loop's clock."""
    heard: tuple[Answer, float] | None = None
    """The last response that came before it left, or else the first one after, and when: it tells
    the service's time."""


@attrs.frozen(kw_only=True)
class Findings:
    """What the service's list of recent tasks says about a submission whose outcome is unknown."""

    adopted: Task | None = None
    """The one task that it can only have become."""
    candidates: tuple[str, ...] = ()
    """Tasks that it may have become: it cannot be said which, or whether any."""
    why: str = ""
    """Why there is no verdict, when there is none."""


@attrs.frozen
class _Found:
    """What a look has read."""

    tasks: dict[str, datetime]
    """Unclaimed tasks and when they were created."""
    listed: datetime
    """The service's time."""
    now: float
    """The same moment by the event loop's clock."""


class Reconciler:
    """Knows which tasks are this session's own, and finds those that nobody told it of."""

    def __init__(self, api: Api, *, background: Background, pause: float) -> None:
        self._api = api
        self._background = background
        self._pause = pause
        self._loop = asyncio.get_running_loop()
        self._afoot: dict[Facts, None] = {}
        self._unsure: set[Facts] = set()
        """Those on their way of which an attempt may have been accepted."""
        self._decided: dict[Facts, asyncio.Future[None]] = {}
        """Those on their way for whose outcome somebody waits."""
        self._recent: deque[tuple[float, str]] = deque()
        self._owned: set[str] = set()
        self._ghosts: list[tuple[float, Facts]] = []
        self._sought: dict[Facts, asyncio.Future[Findings]] = {}
        self._findings: dict[Facts, Findings] = {}
        """What was found and not taken yet."""
        self._search: asyncio.Task[None] | None = None

    # --- bookkeeping, on every submission's way: kept short ---------------------------------------

    def left(self, facts: Facts) -> None:
        """Note that an attempt has left, before which nothing can have been accepted."""
        self._afoot[facts] = None

    def judged(self, facts: Facts, *, certain: bool) -> None:
        """Note the outcome of an attempt: either nothing was accepted so far, or nobody knows."""
        if certain:
            self._afoot.pop(facts, None)
        else:
            self._unsure.add(facts)
        self._tell(facts)

    def accepted(self, facts: Facts, task_id: str) -> None:
        """Note that a task is this session's own."""
        self._own(task_id)
        self._forget(facts)
        if self._ghosts:
            self._ghosts = [ghost for ghost in self._ghosts if ghost[1] is not facts]

    def lost(self, facts: Facts) -> None:
        """Note that nobody will know what became of a submission: tasks that appear may be its own."""
        self._forget(facts)
        now = self._loop.time()
        self._ghosts = [ghost for ghost in self._ghosts if now - ghost[0] < GHOST_LIFE] + [
            (now, facts)
        ]

    def _forget(self, facts: Facts) -> None:
        self._afoot.pop(facts, None)
        self._unsure.discard(facts)
        self._findings.pop(facts, None)
        self._tell(facts)

    def _tell(self, facts: Facts) -> None:
        decided = self._decided.pop(facts, None)
        if decided is not None and not decided.done():
            decided.set_result(None)

    def _own(self, task_id: str) -> None:
        now = self._loop.time()
        self._owned.add(task_id)
        self._recent.append((now, task_id))
        oldest = next(iter(self._afoot)).left_at if self._afoot else now
        # A look that is going on may still need all that come meanwhile.
        most = MOST_OWNED if self._search is None or self._search.done() else sys.maxsize
        while self._recent and (self._recent[0][0] < oldest - MARGIN or len(self._recent) > most):
            self._owned.discard(self._recent.popleft()[1])

    # --- the search -------------------------------------------------------------------------------

    async def look_for(self, facts: Facts) -> Findings:
        """Find out what became of a submission."""
        if facts in self._findings:
            return self._findings[facts]
        findings: asyncio.Future[Findings] = self._loop.create_future()
        self._sought[facts] = findings
        if self._search is None or self._search.done():
            self._search = self._background.start(
                self._searching(), name="looking for lost submissions"
            )
        try:
            return await findings
        finally:
            self._sought.pop(facts, None)

    async def _searching(self) -> None:
        try:
            while self._sought:
                verdicts = await self._verdicts(list(self._sought))
                for job, verdict in verdicts.items():
                    self._decide(job, verdict)
        finally:
            # However the search ended: nobody waits for it for ever.
            for job in tuple(self._sought):
                self._decide(job, Findings(why="the search for it was cut off"))

    def _decide(self, job: Facts, verdict: Findings) -> None:
        # Kept as well: the caller may be cancelled in this very moment, and what was adopted is
        # nobody else's.
        self._findings[job] = verdict
        sought = self._sought.pop(job, None)
        if sought is not None and not sought.done():
            sought.set_result(verdict)

    async def _verdicts(self, jobs: list[Facts]) -> dict[Facts, Findings]:
        verdicts: dict[Facts, Findings] = {}
        for look in range(LOOKS):
            absent = [job for job in jobs if job not in verdicts]
            if not absent:
                break
            if look:
                await asyncio.sleep(self._pause)
            try:
                verdicts |= await self._look(absent)
            except NotFoundError:
                return (
                    dict.fromkeys(
                        jobs, Findings(why="this server has no list of tasks to look for it in")
                    )
                    | verdicts
                )
            except HappyHorseError as error:
                return (
                    dict.fromkeys(
                        jobs, Findings(why=f"the list of tasks could not be read: {error}")
                    )
                    | verdicts
                )
        return dict.fromkeys(jobs, Findings()) | verdicts

    async def _look(self, jobs: list[Facts]) -> dict[Facts, Findings]:
        """Give verdicts for those of which there is a trace."""
        found = await self._read_list(jobs)
        if not found.tasks:
            return {}
        await self._await_answers(found.now)
        unclaimed = [task_id for task_id in found.tasks if task_id not in self._owned]
        tasks = {task_id: await self._read(task_id) for task_id in unclaimed[:MOST_READ]}
        unclaimed = [task_id for task_id in unclaimed if task_id not in self._owned]
        wanted = {job: self._possible(job, found, unclaimed, tasks) for job in jobs}
        others = [
            job
            for job in (*self._afoot, *(ghost for _, ghost in self._ghosts))
            if job not in wanted
        ]
        rivals = dict.fromkeys(unclaimed, 0)
        for job in others:
            for task_id in self._possible(job, found, unclaimed, tasks):
                rivals[task_id] += 1
        adopted = assign(wanted, rivals)
        verdicts = {
            job: Findings(candidates=tuple(sorted(ids))) for job, ids in wanted.items() if ids
        }
        for job, task_id in adopted.items():
            task = tasks.get(task_id)
            if task is not None:
                self._own(task_id)
                verdicts[job] = Findings(adopted=task)
        return verdicts

    async def _read_list(self, jobs: Iterable[Facts]) -> _Found:
        """Read the newest tasks, back to the time at which the first of the jobs left."""
        models = {job.request.model for job in jobs}
        model = models.pop() if len(models) == 1 else None
        page, date = await self._api.recent_tasks(1, model)
        now = self._loop.time()
        listed = date if date is not None else datetime.now(UTC)
        found = _Found({}, listed, now)
        start = min(self._earliest(job, found) for job in jobs)
        for number in range(2, MOST_PAGES + 2):
            for item in page.items:
                if (
                    item.created is not None
                    and item.created >= start
                    and (model is None or item.model in ("", model))
                    and item.id not in self._owned
                ):
                    found.tasks[item.id] = item.created
            older = [
                item for item in page.items if item.created is not None and item.created < start
            ]
            if older or len(page.items) < max(1, page.page_size) or number > MOST_PAGES:
                break
            page, _ = await self._api.recent_tasks(number, model)
        return found

    def _earliest(self, facts: Facts, found: _Found) -> datetime:
        date = facts.heard[0].date if facts.heard is not None else None
        before = (date, facts.heard[1]) if date is not None and facts.heard is not None else None
        return earliest(facts.left_at, found.now, found.listed, before)

    async def _await_answers(self, now: float) -> None:
        """Wait for the submissions that were on their way during the look, unless their outcome is
        unknown as well.
        """
        waits = [
            self._decided.setdefault(facts, self._loop.create_future())
            for facts in self._afoot
            if facts.left_at <= now and facts not in self._unsure
        ]
        if waits:
            await asyncio.wait(waits, timeout=PATIENCE)

    async def _read(self, task_id: str) -> Task | None:
        try:
            return await self._api.read_task(task_id)
        except HappyHorseError:
            return None

    def _possible(
        self, job: Facts, found: _Found, unclaimed: Iterable[str], tasks: dict[str, Task | None]
    ) -> frozenset[str]:
        start = self._earliest(job, found)
        possible = set()
        for task_id in unclaimed:
            task = tasks.get(task_id)
            if found.tasks[task_id] >= start and (task is None or may_be(job.request, task)):
                possible.add(task_id)
        return frozenset(possible)


# --- Which task can a submission have become whose answer was lost. May import the models.


K = TypeVar("K", bound=Hashable)

ROUNDING = timedelta(seconds=1)
"""The service's times are whole seconds, cut off."""


def may_be(request: ImageToVideo, task: Task) -> bool:
    """Whether a task can be what a request has become, by everything that can be compared: the
    answer shows little of the request.
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
    """Give the earliest time, by the service's clock, at which a submission can have become a task.

    `left` and `now` are seconds of this machine's clock: when it left, and when the service's time
    `listed` was received. `before` is a service's time that was received before it left, and when.
    Two estimates are taken, and the earlier one counts: either clock may run unevenly, and a window
    that is too narrow would hide the task.
    """
    estimates = [listed - timedelta(seconds=now - left)]
    if before is not None:
        estimates.append(before[0] + timedelta(seconds=left - before[1]))
    return min(estimates) - ROUNDING


def assign(wanted: Mapping[K, Set[str]], rivals: Mapping[str, int]) -> dict[K, str]:
    """Give each submission the one task that it can have become, if nobody else can have become it.

    `wanted` has the possible tasks of each submission, `rivals` how many others, outside of
    `wanted`, can have become a task.
    """
    claims: dict[str, int] = dict(rivals)
    for tasks in wanted.values():
        for task in tasks:
            claims[task] = claims.get(task, 0) + 1
    return {
        key: task
        for key, tasks in wanted.items()
        if len(tasks) == 1 and claims[task := next(iter(tasks))] == 1
    }
