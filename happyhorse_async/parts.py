"""The parts of an open session, put together. Loads everything heavy, and is loaded when the first session opens."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .budget import BudgetBook
from .concurrency import Background, to_the_end
from .config import Settings
from .edges.api import Api
from .edges.http import Http
from .errors import InvalidRequestError, SessionClosedError
from .events import Events
from .models import Task
from .request import ImageToVideo
from .rules.pacing import Skew
from .submitter import Orphan, Submitter
from .tasks import TaskHandle

if TYPE_CHECKING:
    from decimal import Decimal

    from .batch.batch import Batch
    from .downloader import Downloader
    from .edges.fetch import Fetcher
    from .poller import Poller, Watch
    from .pricing import Pricing
    from .submitter.fan_out import Submissions
    from .uploader import Uploader
    from .video import Video


class Engine:
    """One of each part, wired: what one part learns of a task goes to those that care."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
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
        self.api = Api(self.http, timeouts=settings.timeouts, policy=settings.retry, events=self.events)
        self.budget = BudgetBook(settings.budget, events=self.events)
        self._skew = Skew()
        self.submitter = Submitter(
            self.api,
            self,
            pricing=self,
            budget=self.budget,
            limits=settings.limits,
            timeouts=settings.timeouts,
            policy=settings.retry,
            events=self.events,
            background=self.background,
            poller=self,
        )
        self.submitter.callback_url = settings.webhook_url

    def require_own_loop(self) -> None:
        """Raise `SessionClosedError` in another event loop than the one in which the connections live."""
        if asyncio.get_running_loop() is not self._loop:
            raise SessionClosedError(
                "this session was opened in another event loop, where its connections live",
                next_step="Make one Session for each event loop.",
            )

    def _require_open(self) -> None:
        if self._closed:
            raise SessionClosedError("this session is closed; make a new one", next_step="Open a new Session.")

    # --- parts that not every session needs: loaded and made when they are, so that the first submission is not held up --------------

    @cached_property
    def poller(self) -> Poller:
        """The session's one poller."""
        from .poller import Poller

        self._require_open()
        settings = self._settings
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
        """Tell the poller, if there is one yet, of an accepted task; how the clocks differ is best told by a task that is new."""
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

    async def wait(self, task_id: str, *, timeout: float | None = None, known: Task | None = None) -> Task:
        """Wait until a task has ended."""
        return await self.poller.wait(task_id, timeout=timeout, known=known)

    @cached_property
    def pricing(self) -> Pricing:
        """The session's one book of prices."""
        from .pricing import Pricing

        return Pricing(self.api)

    @cached_property
    def uploader(self) -> Uploader:
        """The session's one uploader."""
        from .uploader import Uploader

        settings = self._settings
        return Uploader(self.http, self.api, limits=settings.limits, timeouts=settings.timeouts, events=self.events)

    @cached_property
    def fetcher(self) -> Fetcher:
        """The session's one way to result links."""
        from .edges.fetch import Fetcher

        self._require_open()
        settings = self._settings
        return Fetcher(timeouts=settings.timeouts, limits=settings.limits, allow_loopback=settings.on_loopback)

    @cached_property
    def downloader(self) -> Downloader:
        """The session's one downloader."""
        from .downloader import Downloader

        limits, policy = self._settings.limits, self._settings.retry
        return Downloader(self.api, self.fetcher, limits=limits, policy=policy, events=self.events, background=self.background)

    async def url_of(self, image: Path | bytes) -> str:
        """Give the public URL of a local first frame."""
        return await self.uploader.url_of(image)

    async def credits_for(self, request: ImageToVideo) -> Decimal:
        """Say what a request will cost."""
        return await self.pricing.credits_for(request)

    # --- verbs --------------------------------------------------------------------------------------------------------------------

    @property
    def orphans(self) -> list[Orphan]:
        """Submissions whose caller was cancelled."""
        return self.submitter.orphans

    async def submit(self, request: Any, fields: Mapping[str, Any], idempotency_key: str | None) -> TaskHandle:
        """Submit an `ImageToVideo`, or an image with fields."""
        try:
            checked = await self._request(request, fields)
        except InvalidRequestError as error:
            error.with_facts(idempotency_key=idempotency_key)
            raise
        accepted = await self.submitter.submit(checked, idempotency_key=idempotency_key)
        return TaskHandle(self, accepted.task.id, request=checked, idempotency_key=accepted.idempotency_key, accepted=accepted.task)

    async def _request(self, request: Any, fields: Mapping[str, Any]) -> ImageToVideo:
        if isinstance(request, ImageToVideo) and not fields:
            return request
        try:
            return made_request(request, fields)
        except InvalidRequestError as error:
            # The file is looked at as well, so that one error names everything that is wrong.
            raise InvalidRequestError([*error.problems, *await self.uploader.problems(request)]) from None

    async def problems(self, request: Any, fields: Mapping[str, Any]) -> list[str]:
        """List everything that is wrong with a request and its local image."""
        found: list[str] = []
        try:
            request = made_request(request, fields).image
        except InvalidRequestError as error:
            found += error.problems
        return [*found, *await self.uploader.problems(request)]

    def leave(self, task: TaskHandle) -> None:
        """Keep an accepted task among the orphans, because its caller was cancelled before it had seen the id."""
        if task.request is not None and task.idempotency_key is not None:
            self.submitter.leave(task.request, task.idempotency_key, task.id)

    async def finish(self, task: TaskHandle, save_to: str | os.PathLike[str], **how: Any) -> Video:
        """Follow a submission to its saved video; a task whose caller is cancelled is kept among the orphans."""
        try:
            return await task.download(save_to, **how)
        except (asyncio.CancelledError, SessionClosedError) as error:
            self.leave(task)  # its caller never saw the task's id
            if isinstance(error, SessionClosedError):
                error.with_facts(charged="yes")
            raise

    def submit_many(self, requests: Iterable[ImageToVideo] | AsyncIterable[ImageToVideo], *, ordered: bool) -> Submissions:
        """Fan out."""
        return self.submitter.submit_many(requests, ordered=ordered, handle=self._handle)

    def _handle(self, request: ImageToVideo, idempotency_key: str, task: Task) -> TaskHandle:
        return TaskHandle(self, task.id, request=request, idempotency_key=idempotency_key, accepted=task)

    def task(self, task_id: str) -> TaskHandle:
        """Re-attach to a task."""
        if not isinstance(task_id, str) or not task_id.strip() or not task_id.isprintable():
            raise InvalidRequestError([f"task_id: expected the id of a task, such as 'task-unified-...', got {task_id!r}"])
        return TaskHandle(self, task_id)

    def watch(self, tasks: Iterable[TaskHandle | str], *, timeout: float | None) -> Watch:
        """Merge the updates of many tasks."""
        return self.poller.watch([task if isinstance(task, str) else task.id for task in tasks], timeout=timeout)

    def batch(self, folder: str | os.PathLike[str], options: Mapping[str, Any]) -> Batch:
        """Make a durable batch over the parts."""
        from .batch.batch import Batch, BatchOptions
        from .batch.run import RunOptions

        settings, limits = self._settings, self._settings.limits
        run = RunOptions(
            uploads=limits.max_uploads,
            downloads=limits.max_downloads,
            replays=settings.retry.replays > 0,
            # A sandbox comes back on another port, and is the same one to the user.
            service="a service on this machine" if settings.on_loopback else settings.base_url,
            key=settings.key,
        )
        return Batch(self, folder, BatchOptions(**options), run=run)

    async def check_destination(self, to: str | os.PathLike[str], *, overwrite: bool) -> None:
        """Refuse a destination that cannot work, before anything is paid."""
        await self.downloader.check_destination(to if isinstance(to, str) else Path(to), overwrite=overwrite)

    async def aclose(self) -> None:
        """Close all, to the end though the caller is cancelled meanwhile: what has left is waited for under the shield."""
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


FIELDS = tuple(field.name for field in attrs.fields(ImageToVideo) if field.name != "image")


def made_request(request: Any, fields: Mapping[str, Any]) -> ImageToVideo:
    """Make an `ImageToVideo` of an image and fields; raises `InvalidRequestError` for fields that the service does not have."""
    problems = [f"{name}: the service has no such field; it has {', '.join(FIELDS)}" for name in fields if name not in FIELDS]
    if isinstance(request, ImageToVideo):
        problems += [f"{name}: give it to ImageToVideo, which is what was passed" for name in fields if name in FIELDS]
    if problems:
        raise InvalidRequestError(problems)
    return request if isinstance(request, ImageToVideo) else ImageToVideo(request, **fields)
