"""The parts of an open session, put together. Loads everything heavy, and is loaded when the first
session opens.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from ._budget import BudgetBook
from ._concurrency import Background, close_with_loop, until_closed, without_loop
from ._dispatcher import Events
from ._edges.api import Api
from ._edges.connections import Route
from ._edges.http import Http, require_client
from ._models import Task
from ._recent import MOST_SEEN, Recent
from ._rules.lifecycle import is_final
from ._rules.pacing import Skew
from ._settings import Settings
from ._submitter import Beside, Submitter
from .errors import SessionClosedError, WrongEventLoopError

if TYPE_CHECKING:
    from ._downloader import Downloader
    from ._edges.fetch import Fetcher
    from ._poller import Poller
    from ._pricing import Pricing
    from ._uploader import Uploader


SLEPT = 12 * 3600.0
"""Seconds of the service from which on this machine's steady clock is not believed against it."""
LONGEST_CLOSING = 5.0
"""Seconds beyond the shield after which a loop in another thread counts as stuck."""


class Parts:
    """One of each part, wired: what one part learns of a task goes to those that care."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._closed = False
        self._is_forked = False
        """Whether this is a copy, in a child process, of the parts of its parent."""
        self._closing: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop = _running_loop()
        """The event loop in which everything here lives."""
        require_client(settings.http)
        if getattr(settings.http, "_loop", self.loop) is not self.loop:
            raise WrongEventLoopError(
                "the client that was given as http= was made in another event loop",
                next_step="Make the aiohttp.ClientSession in the event loop of the Session.",
            )
        self._route = Route(settings.network)  # first: it raises for certificates of no use
        self._life = close_with_loop(self._close)
        self.events: Events = Events()
        self.background: Background = Background()
        self.http: Http = Http(
            key=settings.key,
            base_url=settings.base_url,
            files_url=settings.files_url,
            connect_timeout=settings.timeouts.connect,
            max_connections=settings.limits.max_connections,
            route=self._route,
            client=settings.http,
            events=self.events,
        )
        self.api: Api = Api(
            self.http, timeouts=settings.timeouts, policy=settings.retry, events=self.events
        )
        self.budget: BudgetBook = BudgetBook(
            settings.budget,
            events=self.events,
            read=lambda task_id: self.poller.read(task_id),
            background=self.background,
        )
        self._skew = Skew()
        self._seen: Recent[float | None] = Recent(MOST_SEEN)
        """Tasks that this session has submitted or read, and when it saw them unfinished, in the
        event loop's time."""
        self.submitter: Submitter = self._wired_submitter(settings)
        _OPEN.add(self)

    def _wired_submitter(self, settings: Settings) -> Submitter:
        submitter = Submitter(
            self.api,
            Beside(
                url_of=lambda image: self.uploader.url_of(image),
                credits_for=lambda request: self.pricing.credits_for(request),
                learn=self.learn,
                expect_callback=self.expect_callback,
                on_final=lambda callback: self.poller.on_final(callback),
                wait=lambda task_id: self.poller.wait(task_id),
                problem_of=settings.frame_problem,
            ),
            budget=self.budget,
            limits=settings.limits,
            timeouts=settings.timeouts,
            policy=settings.retry,
            events=self.events,
            background=self.background,
        )
        submitter.callback_url = settings.webhook_url
        return submitter

    def here(self) -> Self:
        """Return the parts, in the event loop in which their connections live; raises
        `WrongEventLoopError` in another.
        """
        if self._is_here:
            return self
        _running_loop()  # raises where none runs
        if self._is_forked:
            raise WrongEventLoopError(
                "this session was opened before this process was forked, and it is its parent's"
            )
        has_ended = self.loop.is_closed()
        raise WrongEventLoopError(
            "this session was opened in another event loop, "
            + ("which has ended" if has_ended else "where its connections live")
        )

    def require_open(self) -> None:
        """Raise `SessionClosedError` once the session is closing."""
        if self._closed:
            raise SessionClosedError(
                "this session is closed; make a new one", next_step="Open a new Session."
            )

    # --- parts that not every session needs: loaded and made when they are first used ------------

    @cached_property
    def poller(self) -> Poller:
        """The session's one poller."""
        from ._poller import Poller, Watchlist

        self.here().require_open()
        settings = self.settings
        watchlist = Watchlist(
            self.api,
            polling=settings.polling,
            limits=settings.limits,
            policy=settings.retry,
            events=self.events,
            background=self.background,
            skew=self._skew,
            seen=self._seen,
        )
        return Poller(self.api, watchlist)

    def learn(self, task: Task) -> None:
        """Tell the poller of an accepted task, or keep what it will want to know of it. How the
        clocks differ is best told by a task that is new.
        """
        if "poller" in vars(self):
            self.poller.learn(task)
        else:
            now = self.loop.time()
            self._skew.note(task.raw.get("created"), time.time(), now)
            self._seen.remember(task.id, None if is_final(task) else now)

    def expect_callback(self, task_id: str) -> None:
        """Read a task only now and then, because the service will call back."""
        if not self._closed:  # what is accepted while the session closes must not fail over this
            self.poller.expect_callback(task_id)

    def wait_completed(
        self, task_id: str, timeout: float | None, known: Task | None, key: str | None
    ) -> Coroutine[Any, Any, Task]:
        """Wait for a task's video; `known` is what is known of the task, `key` its idempotency
        key.
        """
        if self._is_here and not self.events.traced:
            return self.poller.wait_completed(
                task_id, timeout=timeout, known=known, idempotency_key=key
            )
        return self._traced_wait(task_id, timeout, known, key)

    async def _traced_wait(
        self, task_id: str, timeout: float | None, known: Task | None, key: str | None
    ) -> Task:
        with self.events.work("wait", task_id=task_id) as facts:
            # `runner.run(task.wait())`: no loop runs yet when the coroutine is made.
            facts["task"] = task = await self.here().poller.wait_completed(
                task_id, timeout=timeout, known=known, idempotency_key=key
            )
            return task

    @cached_property
    def pricing(self) -> Pricing:
        """The session's one book of prices."""
        from ._pricing import Pricing

        return Pricing(self.api, keyed=self.settings.key is not None)

    @cached_property
    def uploader(self) -> Uploader:
        """The session's one uploader."""
        from ._uploader import Uploader

        settings = self.settings
        return Uploader(
            self.http,
            self.api,
            limits=settings.limits,
            timeouts=settings.timeouts,
            events=self.events,
        )

    @cached_property
    def fetcher(self) -> Fetcher:
        """The session's one way to result links."""
        from ._edges.fetch import Fetcher

        self.require_open()
        settings = self.settings
        return Fetcher(
            timeouts=settings.timeouts,
            allow_loopback=settings.on_loopback,
            route=self._route,
            events=self.events,
        )

    @cached_property
    def downloader(self) -> Downloader:
        """The session's one downloader."""
        from ._downloader import Downloader

        settings = self.settings
        return Downloader(
            self.api,
            self.fetcher,
            limits=settings.limits,
            policy=settings.retry,
            patience=settings.polling.patience,
            events=self.events,
            unfinished=self._unfinished,
        )

    def _unfinished(self, task_id: str) -> float | None:
        """Return when this session saw a task unfinished, in the event loop's time. None when
        nobody knows, or when hours have passed for the service that this machine has slept through.
        """
        return self._seen.get(task_id) if self.http.leap() < SLEPT else None

    def hint(self, task_id: str) -> bool:
        """Read a task soon if anyone waits for it; may be called from any thread. Return False when
        the session's event loop has ended, or is another process's.
        """
        if self._closed or self.loop.is_closed() or self._is_forked:
            return False
        if self._is_here:
            self._take_hint(task_id)
        else:
            self.loop.call_soon_threadsafe(self._take_hint, task_id)
        return True

    def _take_hint(self, task_id: str) -> None:
        # The poller is made for it: the callback may come before the answer to the submission.
        if not self._closed:
            self.poller.hint(task_id)

    @property
    def _is_here(self) -> bool:
        return _loop_or_none() is self.loop and not self._is_forked

    # --- closing ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close all, to the end though the caller is cancelled meanwhile: what has left is waited
        for under the shield.

        May be called from any event loop, or from none of asyncio's. A session whose own loop runs
        in another thread is closed there. Of one whose loop does not run, or is that of a parent
        process, what can be is closed.
        """
        self._closed = True
        if self._is_here:
            await until_closed(self._begin_closing())
        elif self.loop.is_running() and not self._is_forked:
            await self._close_elsewhere()
        else:
            self._abandon()

    def _begin_closing(self) -> asyncio.Task[None]:
        # In no caller's context: what is closed is everybody's.
        create, name = self.loop.create_task, "happyhorse_async: closing"
        self._closing = Context().run(create, self._end(), name=name)
        return self._closing

    async def _end(self) -> None:
        await self._life.aclose()

    async def _close_elsewhere(self) -> None:
        """Close the parts in their own loop, which runs in another thread."""
        closing = asyncio.run_coroutine_threadsafe(self._end(), self.loop)
        if _loop_or_none() is None:
            return  # there is nothing here to wait with
        limit = time.monotonic() + self.settings.timeouts.shield + LONGEST_CLOSING
        # Looked at now and then: when that loop stops meanwhile, nobody tells.
        while not closing.done() and self.loop.is_running() and time.monotonic() < limit:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if closing.done() and not closing.cancelled():
            closing.result()
        else:
            self._abandon()

    def _abandon(self) -> None:
        """Close what can be closed without the loop, which has ended or stands still."""
        made, runs_no_more = vars(self), self._is_forked or self.loop.is_closed()
        for pool in self._pools:
            pool.sockets.abandon(close=runs_no_more)
        if not runs_no_more:
            # The rest follows when it runs again, at the latest when it ends.
            self.loop.call_soon_threadsafe(self._begin_closing)
            return
        if "downloader" in made:
            with suppress(RuntimeError):  # nobody who waited in a closed loop can be told
                self.downloader.close()
        for pool in self._pools:
            without_loop(pool.aclose())

    @property
    def _pools(self) -> tuple[Http | Fetcher, ...]:
        return (self.http, self.fetcher) if "fetcher" in vars(self) else (self.http,)

    def disown(self) -> None:
        """Leave everything to the parent of this process, which has just been forked.

        A child that runs the loop on, as `sys.exit` in a coroutine makes it do, would read the
        parent's answers, and send again what it does not hear of.
        """
        self._is_forked = True
        self.http.end()
        for pool in self._pools:
            pool.sockets.disown()

    async def _close(self) -> None:
        """Close the parts, those that use others first."""
        self._closed, made = True, vars(self)
        if self._is_forked:
            self._abandon()
            return
        with self.events.work("session"):
            try:
                await self.submitter.aclose()
            finally:
                self.api.close()
                if "poller" in made:
                    self.poller.close()
                if "downloader" in made:
                    self.downloader.close()
                await self.background.aclose()
                if "fetcher" in made:
                    await self.fetcher.aclose()
                await self.http.aclose()


def _loop_or_none() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _running_loop() -> asyncio.AbstractEventLoop:
    loop = _loop_or_none()
    if loop is None:
        raise WrongEventLoopError(
            "no event loop of asyncio runs here, and a session lives in one (trio has its own "
            "kind)",
            next_step="Call it in a coroutine that asyncio.run, or anyio.run on asyncio, runs.",
        )
    return loop


_OPEN: WeakSet[Parts] = WeakSet()


def _disown_all() -> None:
    for parts in tuple(_OPEN):
        parts.disown()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_disown_all)
