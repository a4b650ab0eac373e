"""The parts of one running sandbox, put together once and handed to every handler."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import attrs

from ._callbacks import Callbacks
from ._faults import FaultPlan
from ._files import UrlFetcher
from ._scenarios import scenario_faults
from ._task_record import Ending, estimate_of
from ._videos import Videos
from ._views import Views
from ._world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from decimal import Decimal

    from ._accounts import Account
    from ._clock import Clock
    from ._features import Features
    from ._http import Host
    from ._images import FrameProblem
    from ._task_record import TaskRecord
    from ._world import Lifetimes


@attrs.frozen(kw_only=True)
class Options:
    """What a sandbox was made with, checked and with the defaults filled in."""

    accounts: tuple[Account, ...]
    features: Features
    video: Literal["real", "stub"]
    stub_bytes: int
    lifetimes: Lifetimes
    expired_link: int
    allow_loopback: bool
    callback_timeout: float
    control: bool
    hosts: frozenset[str]
    """Names under which page and control paths may be called, beside loopback and addresses."""
    connector: Callable[[], aiohttp.BaseConnector] | None
    """Makes what callbacks and fetched URLs go out through; None: aiohttp's usual one."""
    seed: int


class Service:
    """World, clock, faults, log and background work of one sandbox. Lives in one event loop."""

    def __init__(self, options: Options, clock: Clock, *, url: str, files_url: str) -> None:
        self.url = url
        self.files_url = files_url
        self.options = options
        self.features: Features = options.features
        self.clock = clock
        self.faults: FaultPlan = FaultPlan()
        self.journal: Journal = Journal()
        self.views: Views = Views(
            options.features, clock, files_url, estimate_of(options.lifetimes.task)
        )
        self.closing: asyncio.Event = asyncio.Event()
        self.world: World = World(
            options.accounts,
            options.lifetimes,
            ids=options.features.task_ids,
            key_seconds=options.features.key_seconds,
            seed=options.seed,
        )
        self.fetcher: UrlFetcher = UrlFetcher(
            self.world.files,
            files_url,
            follow_redirects=options.allow_loopback,
            client=lambda: self.client,
        )
        self.videos: Videos = Videos(
            self.fetcher,
            video=options.video,
            stub_bytes=options.stub_bytes,
            frame_known=self._frame_known,
        )
        self.callbacks: Callbacks = Callbacks(
            clock,
            self.world.agenda,
            self.faults,
            lambda task: self.show(task, clock.now()),
            timeout=options.callback_timeout,
            client=lambda: self.client,
            agenda_changed=self.keep_armed,
        )
        self.world.on_end = self.callbacks.task_ended
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._armed: float | None = None

    @cached_property
    def client(self) -> aiohttp.ClientSession:
        """Return what callbacks and fetched URLs go out through, opened with the first."""
        connector = self.options.connector
        return aiohttp.ClientSession(
            connector=connector() if connector is not None else None,
            headers={"User-Agent": "happyhorse-sandbox"},
        )

    def catch_up(self) -> float:
        """Let everything happen that is due, and return the sandbox's time."""
        now = self.clock.now()
        self.world.agenda.run(now)
        self.keep_armed()
        return now

    def keep_armed(self) -> None:
        """Set the alarm anew if something earlier has come up; to be called after every change of
        the world.
        """
        if self.world.agenda.next_due != self._armed:
            self.rearm()

    def rearm(self) -> None:
        """Set the alarm for what is due next; to be called after a change of the clock."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._armed = due = self.world.agenda.next_due
        delay = None if due is None or self.closing.is_set() else self.clock.real_delay(due)
        if delay is not None:
            # Event loops refuse timers that are many days away; this one is set again when it rings
            # too early.
            self._alarm = self._loop.call_later(min(delay, 3600.0), self._ring)

    def advance(self, seconds: float) -> None:
        """Move the clock forward and let happen what is due by then."""
        self.clock.advance(seconds)
        self.catch_up()
        self.rearm()

    def set_speed(self, speed: float) -> None:
        """Change how fast the clock runs."""
        self.clock.speed = speed
        self.rearm()

    def finish(self, task_id: str | None = None) -> None:
        """Let one task, or all that are unfinished, come to their end now; raises `KeyError`."""
        now = self.catch_up()
        for task in (
            list(self.world.tasks.values()) if task_id is None else [self.world.tasks[task_id]]
        ):
            self.world.hasten(task, now)
        self.keep_armed()

    def end(
        self, task_id: str, status: str, code: str | None, message: str | None, *, refund: bool
    ) -> None:
        """Give a task this status now; without a code a failed task has the usual one. Raises
        `KeyError`, and `ValueError` when it has ended already.
        """
        usual = {"failed": "unknown_error", "cancelled": "request_cancelled"}.get(status)
        ending = Ending(status, code or usual, message, refund)
        self.world.force(self.world.tasks[task_id], ending, self.catch_up())
        self.keep_armed()

    def add_scenario(self, name: str) -> None:
        """Add the faults of a scenario; raises `ValueError`."""
        for fault in scenario_faults(name):
            self.faults.add(fault)

    def show(self, task: TaskRecord, now: float) -> dict[str, Any]:
        """Return a task as a read shows it, with a link of its own where links live for short."""
        self.world.renew_link(task, now)
        return self.views.task(task, now)

    async def close(self) -> None:
        """Stop everything that runs in the background."""
        self.closing.set()
        self.rearm()
        await self.callbacks.close()
        await self.videos.close()
        if "client" in vars(self):
            await self.client.close()

    def _ring(self) -> None:
        self._armed = None
        self.catch_up()

    def _frame_known(self, task: TaskRecord, problem: FrameProblem | None) -> None:
        self.world.frame_known(task, problem, self.clock.now())
        self.keep_armed()


# --- The log of requests that tests assert on, bounded in entries and in bytes.


_MOST_ENTRIES = 100_000
_MOST_BYTES = 256 * 1024 * 1024


@attrs.define(eq=False)
class RequestRecord:
    """A request as it arrived, and the status of its answer."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    """Case-insensitive."""
    body: bytes = attrs.field(repr=False)
    at: float
    """Sandbox time of arrival."""
    host: Host
    status: int | None = None
    """None while it is unanswered, and for ever when the connection was dropped."""


class Journal:
    """The latest requests, oldest first; the oldest are forgotten after 100,000 requests or 256 MB
    of bodies.
    """

    def __init__(self) -> None:
        self._records: deque[RequestRecord] = deque()
        self._bytes = 0
        self.on_answer: Callable[[RequestRecord], None] | None = None

    def add(self, record: RequestRecord) -> None:
        """Keep a request."""
        records = self._records
        records.append(record)
        self._bytes += len(record.body)
        while len(records) > _MOST_ENTRIES or self._bytes > _MOST_BYTES:
            self._bytes -= len(records.popleft().body)

    def answered(self, record: RequestRecord, status: int | None) -> None:
        """Note how a request ended."""
        record.status = status
        if self.on_answer is not None:
            self.on_answer(record)

    def all(self) -> list[RequestRecord]:
        """Return the requests in order of arrival."""
        return list(self._records)

    def latest(self, most: int) -> list[RequestRecord]:
        """Return the last requests, oldest first."""
        return list(islice(reversed(self._records), most))[::-1]

    def count(self, method: str | None, path: str | None) -> int:
        """Return how many requests had this method and exactly this path."""
        return sum(
            (method is None or record.method == method) and (path is None or record.path == path)
            for record in self._records
        )


class SandboxTask:
    """One accepted task as a test looks at it.

    Every attribute shows the state at the moment when it is read, also after `advance`.
    """

    def __init__(self, record: TaskRecord, do: Callable[[Callable[[Service], Any]], Any]) -> None:
        self._record = record
        self._do = do

    def __repr__(self) -> str:
        return f"SandboxTask(id={self.id!r}, status={self.status!r}, progress={self.progress})"

    @property
    def id(self) -> str:
        """Return the task's id."""
        return self._record.id

    @property
    def status(self) -> str:
        """Return the status that a query shows."""
        status: str = self._do(
            lambda service: service.views.status(self._record, service.catch_up())
        )
        return status

    @property
    def progress(self) -> int:
        """Return the progress, 0 to 100."""
        progress: int = self._do(lambda service: self._record.progress_at(service.catch_up()))
        return progress

    @property
    def request(self) -> dict[str, Any]:
        """Return the submitted body."""
        return self._record.submission.body

    @property
    def created(self) -> float:
        """Return the sandbox time of acceptance."""
        return self._record.created

    @property
    def results(self) -> list[str]:
        """Return the present result links; none before completion."""
        link: str | None = self._do(
            lambda service: service.catch_up() and service.views.link(self._record)
        )
        return [link] if link else []

    @property
    def error(self) -> dict[str, Any] | None:
        """Return the error that a query shows."""
        self._do(lambda service: service.catch_up())
        return self._record.error()

    @property
    def idempotency_key(self) -> str | None:
        """Return the key that the task was submitted with."""
        return self._record.idempotency_key

    @property
    def charged(self) -> Decimal:
        """Return the credits that were settled: zero before the end and after a refund."""
        self._do(lambda service: service.catch_up())
        return self._record.charge.charged

    @property
    def reserved(self) -> Decimal:
        """Return the credits that were reserved on acceptance."""
        return self._record.charge.reserved
