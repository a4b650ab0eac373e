"""The parts of an open session, put together. Loads everything heavy, and is loaded when the first
session opens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ._budget import BudgetBook
from ._concurrency import Background, to_the_end
from ._config import Settings
from ._edges.api import Api
from ._edges.http import Http
from ._models import Task
from ._request import ImageToVideo
from ._rules.pacing import Skew
from ._submitter import Beside, Submitter
from .errors import SessionClosedError
from .events import Events

if TYPE_CHECKING:
    from decimal import Decimal

    from ._downloader import Downloader
    from ._edges.fetch import Fetcher
    from ._poller import Poller
    from ._pricing import Pricing
    from ._uploader import Uploader


class Parts:
    """One of each part, wired: what one part learns of a task goes to those that care."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.events = Events()
        self.background = Background()
        self.http = Http(
            key=settings.key,
            base_url=settings.base_url,
            files_url=settings.files_url,
            connect_timeout=settings.timeouts.connect,
            max_connections=settings.limits.max_connections,
            client=settings.http,
        )
        self.api = Api(
            self.http, timeouts=settings.timeouts, policy=settings.retry, events=self.events
        )
        self.budget = BudgetBook(settings.budget, events=self.events)
        self._skew = Skew()
        self.submitter = Submitter(
            self.api,
            Beside(
                url_of=self.url_of,
                credits_for=self.credits_for,
                learn=self.learn,
                expect_callback=self.expect_callback,
                on_final=self.on_final,
                wait=self.wait,
            ),
            budget=self.budget,
            limits=settings.limits,
            timeouts=settings.timeouts,
            policy=settings.retry,
            events=self.events,
            background=self.background,
        )
        self.submitter.callback_url = settings.webhook_url

    def require_own_loop(self) -> None:
        """Raise `SessionClosedError` in another event loop than the one in which the connections
        live.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise SessionClosedError(
                "this session was opened in another event loop, where its connections live",
                next_step="Make one Session for each event loop.",
            )

    def _require_open(self) -> None:
        if self._closed:
            raise SessionClosedError(
                "this session is closed; make a new one", next_step="Open a new Session."
            )

    # --- parts that not every session needs: loaded and made when they are, so that the first submi

    @cached_property
    def poller(self) -> Poller:
        """The session's one poller."""
        from ._poller import Poller

        self._require_open()
        settings = self.settings
        return Poller(
            self.api,
            polling=settings.polling,
            limits=settings.limits,
            policy=settings.retry,
            events=self.events,
            background=self.background,
            skew=self._skew,
        )

    def learn(self, task: Task) -> None:
        """Tell the poller, if there is one yet, of an accepted task; how the clocks differ is best
        told by a task that is new.
        """
        self._skew.note(task.raw.get("created"), time.time())
        if "poller" in vars(self):
            self.poller.learn(task)

    def expect_callback(self, task_id: str) -> None:
        """Read a task only now and then, because the service will call back."""
        if not self._closed:  # what is accepted while the session closes must not fail over this
            self.poller.expect_callback(task_id)

    def on_final(self, callback: Callable[[Task], None]) -> None:
        """Call back with every task that is seen to have ended."""
        self.poller.on_final(callback)

    async def wait(
        self, task_id: str, *, timeout: float | None = None, known: Task | None = None
    ) -> Task:
        """Wait until a task has ended."""
        return await self.poller.wait(task_id, timeout=timeout, known=known)

    @cached_property
    def pricing(self) -> Pricing:
        """The session's one book of prices."""
        from ._pricing import Pricing

        return Pricing(self.api)

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

        self._require_open()
        settings = self.settings
        return Fetcher(timeouts=settings.timeouts, allow_loopback=settings.on_loopback)

    @cached_property
    def downloader(self) -> Downloader:
        """The session's one downloader."""
        from ._downloader import Downloader

        limits, policy = self.settings.limits, self.settings.retry
        return Downloader(
            self.api,
            self.fetcher,
            limits=limits,
            policy=policy,
            events=self.events,
        )

    async def url_of(self, image: Path | bytes) -> str:
        """Give the public URL of a local first frame."""
        return await self.uploader.url_of(image)

    async def credits_for(self, request: ImageToVideo) -> Decimal:
        """Say what a request will cost."""
        return await self.pricing.credits_for(request)

    async def aclose(self) -> None:
        """Close all, to the end though the caller is cancelled meanwhile: what has left is waited
        for under the shield.
        """
        self._closed = True
        closing = self._loop.create_task(self._close(), name="happyhorse_async: closing")
        await to_the_end(closing)

    async def _close(self) -> None:
        """Close the parts, those that use others first."""
        made = vars(self)
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
