"""One request -> one task, exactly once; many under a limit. What is known of all submissions of a
session is kept here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncIterable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .._budget import BudgetBook
from .._concurrency import Background, to_the_end
from .._config import Limits, RetryPolicy, Timeouts
from .._edges.api import Api
from .._models import Task
from .._request import ImageToVideo
from .._rules import lifecycle, wire
from .._rules.responses import Answer
from ..errors import HappyHorseError, InvalidRequestError, SessionClosedError
from ..events import Events
from .gate import Gate, Group
from .in_flight import Accepted, Courier, Job, Orphan
from .reconcile import Reconciler

if TYPE_CHECKING:
    from .fan_out import MakeHandle, Submissions

__all__ = ["Accepted", "Group", "Orphan", "Submitter"]

logger = logging.getLogger("happyhorse_async")

_KEY = re.compile(r"[A-Za-z0-9._-]{16,96}")


class Images(Protocol):
    """Where local first frames become links."""

    async def url_of(self, image: Path | bytes) -> str:
        """Give the public URL of a path or of bytes."""


class Prices(Protocol):
    """Where estimates come from."""

    async def credits_for(self, request: ImageToVideo) -> Decimal:
        """Say what a request will cost."""


class Watcher(Protocol):
    """Who follows tasks to their end."""

    def learn(self, task: Task) -> None:
        """Take note of a task's state."""

    def expect_callback(self, task_id: str) -> None:
        """Read a task only now and then, because the service will call back."""

    def on_final(self, callback: Callable[[Task], None]) -> object:
        """Call back with every task that is seen to have ended."""

    async def wait(
        self, task_id: str, *, timeout: float | None = None, known: Task | None = None
    ) -> Task:
        """Wait until a task has ended."""


class Submitter:
    """The session's one submitter."""

    def __init__(
        self,
        api: Api,
        uploader: Images,
        *,
        pricing: Prices,
        budget: BudgetBook,
        limits: Limits,
        timeouts: Timeouts,
        policy: RetryPolicy,
        events: Events,
        background: Background,
        poller: Watcher,
    ) -> None:
        self._uploader = uploader
        self._pricing = pricing
        self._budget = budget
        self._limits = limits
        self._shield = timeouts.shield
        self._events = events
        self._background = background
        self._poller = poller
        self._gate = Gate(limits, on_full=self._watch)
        self._reconciler = Reconciler(api, background=background, pause=policy.first_pause)
        self._courier = Courier(
            api, self._gate, policy=policy, events=events, reconciler=self._reconciler
        )
        self._follows = limits.max_unfinished is not None or budget.limited
        self._running: dict[str, str] = {}
        self._watched: set[str] = set()
        self._jobs: set[Job] = set()
        self._closing = False
        self._emptied: asyncio.Future[None] | None = None
        self.callback_url: str | None = None
        """Where the service should call back about requests that name no place of their own."""
        self.orphans: list[Orphan] = []
        """Submissions whose caller was cancelled after they had left."""
        if self._follows:
            poller.on_final(self._ended)

    @staticmethod
    def new_key() -> str:
        """Return an idempotency key that nobody has used."""
        return secrets.token_hex(16)

    async def submit(
        self,
        request: ImageToVideo,
        *,
        idempotency_key: str | None = None,
        group: Group | None = None,
        image_url: str | None = None,
        callback_url: str | None = None,
    ) -> Accepted:
        """Submit one request, and give what the service made of it.

        Requests of one `group` wait in one line, and groups take turns. A key that was used before
        needs the very same body: `image_url` is where the first frame was uploaded to before, and
        `callback_url` where the service was to call back, "" for nowhere. Raises what
        `Session.submit` raises.
        """
        key = _checked(idempotency_key) if idempotency_key is not None else self.new_key()
        if self._closing:
            raise SessionClosedError(
                "this session is closed; nothing was sent", idempotency_key=key
            )
        try:
            job = await self._prepare(request, key, group, image_url, callback_url)
        except HappyHorseError as error:
            self._failed(error, key)
            raise
        self._jobs.add(job)
        try:
            return await self._carry(job)
        except asyncio.CancelledError:
            await self._rescue(job)
            raise
        except HappyHorseError as error:
            self._failed(error, key)
            raise
        finally:
            self._jobs.discard(job)
            if self._emptied is not None and not self._jobs and not self._emptied.done():
                self._emptied.set_result(None)

    def submit_many(
        self,
        requests: Iterable[ImageToVideo] | AsyncIterable[ImageToVideo],
        *,
        ordered: bool,
        handle: MakeHandle,
    ) -> Submissions:
        """Submit many requests; they wait in a line of their own."""
        from .fan_out import Submissions

        return Submissions(
            requests,
            ordered=ordered,
            handle=handle,
            submit=lambda request, group: self.submit(request, group=group),
            leave=self.leave,
            workers=self._limits.max_submissions,
        )

    async def aclose(self) -> None:
        """Turn away what has not left, and wait under the shield for what has: its callers still
        get their answers.
        """
        self._closing = True
        self._gate.close()
        self._courier.close()
        self._cut(all_of_them=False)
        if self._jobs:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=self._shield)
            self._courier.give_up()
            posts = [job.post for job in self._jobs if job.post is not None]
            self._cut(all_of_them=True)
            if posts:
                await asyncio.wait(posts)

    def _cut(self, *, all_of_them: bool) -> None:
        for job in self._jobs:
            if all_of_them or not job.at_stake:
                self._courier.cut(job)

    def leave(
        self, request: ImageToVideo | None, idempotency_key: str | None, task_id: str | None
    ) -> None:
        """Keep a submission that nobody takes any more among the orphans."""
        if request is None or idempotency_key is None:
            return  # a task that this session did not submit
        self.orphans.append(
            Orphan(
                request=request,
                idempotency_key=idempotency_key,
                task_id=task_id,
                at=datetime.now(UTC),
            )
        )
        logger.warning(
            "a submission outlived its caller: task %s, idempotency key %s",
            task_id or "not known",
            idempotency_key,
            extra={
                "action": "submission_orphaned",
                "task_id": task_id,
                "idempotency_key": idempotency_key,
            },
        )
        if self._events:
            from ..events import Orphaned

            self._events.emit(
                Orphaned(task_id=task_id, idempotency_key=idempotency_key, request=request)
            )

    # --- one submission ---------------------------------------------------------------------------

    async def _prepare(
        self,
        request: ImageToVideo,
        key: str,
        group: Group | None,
        image_url: str | None,
        callback_url: str | None,
    ) -> Job:
        """Do all that comes before anything can be paid; money first, because an upload for what
        cannot be paid is wasted.
        """
        if self._budget.limited:
            self._budget.reserve(key, await self._pricing.credits_for(request))
        try:
            url = image_url or (
                request.image
                if isinstance(request.image, str)
                else await self._uploader.url_of(request.image)
            )
            back = (
                request.callback_url or self.callback_url or ""
                if callback_url is None
                else callback_url
            )
            body = wire.encode_submission(request, url, callback_url=back)
            return Job(
                request=request,
                key=key,
                body=body,
                group=group,
                calls_back=bool(back) and back == self.callback_url,
            )
        except BaseException:
            self._budget.free(key)
            raise

    async def _carry(self, job: Job) -> Accepted:
        try:
            task, answer = await self._courier.deliver(job)
        except HappyHorseError as error:
            self._drop(job, charged=error.charged != "no")
            raise
        return self._accept(job, task, answer)

    def _accept(self, job: Job, task: Task, answer: Answer | None) -> Accepted:
        self._reconciler.accepted(job, task.id)
        replayed = answer is not None and answer.headers.get("idempotency-replayed") == "true"
        if replayed and job.tally.unknown is None:
            self._budget.free(
                job.key
            )  # an earlier submission has paid for it, and was counted then
        if self._follows:
            self._follow(task, job.key)
        self._poller.learn(task)
        if job.calls_back:
            self._poller.expect_callback(task.id)
        request_id = answer.request_id if answer is not None else None
        accepted = Accepted(task, job.key, job.request, request_id, replayed, answer is None)
        if self._events:
            from ..events import Submitted

            self._events.emit(
                Submitted(
                    task=task,
                    idempotency_key=job.key,
                    request_id=request_id,
                    replayed=replayed,
                    adopted=answer is None,
                )
            )
        return accepted

    def _drop(self, job: Job, *, charged: bool) -> None:
        """Let go of what was kept for a submission that did not become a task; money that may have
        been spent stays reserved.
        """
        if job.placed:
            job.placed = False
            self._gate.give_place_back()
        if charged:
            self._reconciler.lost(job)
        else:
            self._budget.free(job.key)

    def _failed(self, error: HappyHorseError, key: str) -> None:
        error.with_facts(idempotency_key=key)
        if self._events:
            from ..events import SubmissionFailed

            self._events.emit(SubmissionFailed(idempotency_key=key, error=error))

    # --- cancelled callers ------------------------------------------------------------------------

    async def _rescue(self, job: Job) -> None:
        """Hold a cancelled caller until its submission has come to an end, for as long as the
        shield lasts.
        """
        job.abandoned = True
        if not job.at_stake:
            # If it leaves in this very moment, that shows in the outcome of the try.
            self._courier.cut(job)
            if job.post is None:
                self._drop(job, charged=False)
                return
        try:
            work = self._background.start(
                self._finish(job), name="a cancelled submission", for_caller=True
            )
        except RuntimeError:  # the session has closed meanwhile
            self._give_up(job)
            return
        with suppress(
            asyncio.CancelledError
        ):  # the caller's own is raised once the submission has ended
            await to_the_end(work)
        # the session has closed in this very moment, and an asyncio task that has not begun is
        # never run
        if not job.taken_up:
            self._give_up(job)

    async def _finish(self, job: Job) -> None:
        accepted: Accepted | None = None
        certain = False
        job.taken_up = True
        # A try that hangs is cut off half-way, which leaves time to replay it or to look for its
        # task.
        alarm = asyncio.get_running_loop().call_later(self._shield / 2, self._courier.cut, job)
        try:
            async with asyncio.timeout(self._shield):
                accepted = await self._carry(job)
        except HappyHorseError as error:
            certain = error.charged == "no"
        except TimeoutError:
            pass  # it is not known what became of it
        finally:
            alarm.cancel()
            if accepted is not None:
                self.leave(job.request, job.key, accepted.task.id)
            elif not certain:
                self._give_up(job)

    def _give_up(self, job: Job) -> None:
        self._courier.cut(job)
        self._drop(job, charged=True)
        self.leave(job.request, job.key, None)

    # --- accepted tasks ---------------------------------------------------------------------------

    def _follow(self, task: Task, key: str) -> None:
        """Keep a place and a reservation until the task has ended."""
        if lifecycle.is_final(task):
            self._budget.settle(key, task)
            self._gate.give_place_back()
        elif task.id in self._running:
            self._gate.give_place_back()  # a replay: the task has its place
        else:
            self._running[task.id] = key
            if self._gate.full and self._gate.waiting:
                self._watch()

    def _ended(self, task: Task) -> None:
        key = self._running.pop(task.id, None)
        if key is not None:
            self._watched.discard(task.id)
            self._budget.settle(key, task)
            self._gate.give_place_back()

    def _watch(self) -> None:
        """Follow the unfinished tasks when their places are wanted: there may be nobody else who
        does.
        """
        for task_id in self._running.keys() - self._watched:
            self._watched.add(task_id)
            self._background.start(self._await_end(task_id), name=f"watching {task_id}")

    async def _await_end(self, task_id: str) -> None:
        try:
            self._ended(await self._poller.wait(task_id))
        except HappyHorseError:
            # It cannot be followed (the service does not know it any more): its place must not be
            # lost for ever.
            if self._running.pop(task_id, None) is not None:
                self._gate.give_place_back()
            self._watched.discard(task_id)


def _checked(key: object) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InvalidRequestError(
            [f"idempotency_key: expected 16 to 96 characters of A-Za-z0-9._-, got {key!r:.120}"]
        )
    return key
