"""The parts of one running sandbox, put together once and handed to every handler."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import attrs

from happyhorse_async.sandbox.callbacks import Callbacks
from happyhorse_async.sandbox.faults import FaultPlan
from happyhorse_async.sandbox.fetcher import Fetcher
from happyhorse_async.sandbox.journal import Journal
from happyhorse_async.sandbox.studio import Studio, choose_video
from happyhorse_async.sandbox.views import Views
from happyhorse_async.sandbox.world import World

if TYPE_CHECKING:
    from happyhorse_async.sandbox.clock import Clock
    from happyhorse_async.sandbox.features import Features
    from happyhorse_async.sandbox.images import FrameProblem
    from happyhorse_async.sandbox.money import Account
    from happyhorse_async.sandbox.tasks import TaskRecord

__all__ = ["Options", "Service"]


@attrs.frozen(kw_only=True)
class Options:
    """What a sandbox was made with, checked and with the defaults filled in."""

    accounts: tuple[Account, ...]
    features: Features
    video: str
    stub_bytes: int
    task_seconds: float | None
    link_seconds: float
    file_seconds: float
    expired_link: int
    allow_loopback: bool
    callback_timeout: float
    control: bool
    seed: int


class Service:
    """World, clock, faults, log and background work of one sandbox. Lives in one event loop."""

    def __init__(self, options: Options, clock: Clock, *, files_url: str) -> None:
        self.options = options
        self.features = options.features
        self.clock = clock
        self.faults = FaultPlan()
        self.journal = Journal()
        self.views = Views(options.features, files_url)
        self.closing = asyncio.Event()
        self.world = World(
            options.accounts,
            seed=options.seed,
            task_seconds=options.task_seconds,
            link_seconds=options.link_seconds,
            file_seconds=options.file_seconds,
        )
        self.fetcher = Fetcher(self.world.files, files_url, follow_redirects=options.allow_loopback)
        self.studio = Studio(
            self.fetcher,
            video=choose_video(options.video),
            stub_bytes=options.stub_bytes,
            frame_known=self._frame_known,
        )
        self.callbacks = Callbacks(
            clock, self.world.agenda, self.faults, self._callback_view, timeout=options.callback_timeout, rearm=self.rearm
        )
        self.world.on_end = self.callbacks.task_ended
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._armed: float | None = None

    def catch_up(self) -> float:
        """Let everything happen that is due, and return the sandbox's time."""
        now = self.clock.now()
        self.world.run(now)
        if self.world.agenda.next_due != self._armed:
            self.rearm()
        return now

    def rearm(self) -> None:
        """Wake up when the next thing is due; to be called after a change of clock or agenda."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._armed = due = self.world.agenda.next_due
        delay = None if due is None or self.closing.is_set() else self.clock.real_delay(due)
        if delay is not None:
            # Event loops refuse timers that are many days away; this one is set again when it rings too early.
            self._alarm = self._loop.call_later(min(delay, 3600.0), self._ring)

    async def close(self) -> None:
        """Stop everything that runs in the background."""
        self.closing.set()
        self.rearm()
        await self.callbacks.close()
        await self.studio.close()
        await self.fetcher.close()

    def _ring(self) -> None:
        self._armed = None
        self.catch_up()

    def _frame_known(self, task: TaskRecord, problem: FrameProblem | None) -> None:
        self.world.frame_known(task, problem, self.clock.now())

    def _callback_view(self, task: TaskRecord) -> dict[str, Any]:
        return self.views.task(task, self.clock.now())
