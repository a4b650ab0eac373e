"""One submission: how far it has come, and what may become of it."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import datetime

import attrs

from .._config import RetryPolicy
from .._edges.api import Api
from .._edges.http import TrackedBody
from .._models import Task
from .._request import ImageToVideo
from .._rules import retry, wire
from .._rules.responses import Answer
from ..errors import (
    APIConnectionError,
    HappyHorseError,
    RateLimitError,
    SubmissionOutcomeUnknownError,
)
from ..events import Events
from .gate import Gate, Group
from .reconcile import Reconciler, Verdict

NO_TALLY = retry.Tally()


@attrs.define(kw_only=True, eq=False)
class Job:
    """A submission; whoever holds it can go on with it where it is."""

    request: ImageToVideo
    key: str
    body: bytes
    group: Group | None = None
    calls_back: bool = False
    """The service was asked to call this session back."""
    tally: retry.Tally = NO_TALLY
    placed: bool = False
    """It holds a place among the unfinished tasks."""
    payload: TrackedBody | None = None
    post: asyncio.Task[None] | None = None
    """The try that is on its way. The job is its owner; it takes no cancellation but that of
    `Courier.cut`."""
    begun: bool = False
    """That try has begun to run."""
    cut: bool = False
    """That try was told to end."""
    epoch: int = 0
    """The gate's epoch when that try left."""
    outcome: Answer | HappyHorseError | None = None
    """What became of that try."""
    waiter: asyncio.Future[None] | None = None
    left_at: float = 0.0
    """When the first try left that may have been accepted, by the event loop's clock."""
    heard: tuple[Answer, float] | None = None
    """The last answer that came before it left (or else the first one after), and when: it tells
    the service's time."""
    decided: asyncio.Future[None] | None = None
    """Somebody waits for the outcome of the try that is on its way."""
    failure: HappyHorseError | None = None
    """Why its last try failed."""
    sought: bool = False
    """It is not sent again, only looked for among the recent tasks."""
    verdict: Verdict | None = None
    """What the search has found."""
    taken_up: bool = False
    """After its caller was cancelled, somebody else has begun to bring it to its end."""
    abandoned: bool = False
    """Nobody waits for it: only what may have been accepted is still gone after."""

    @property
    def at_stake(self) -> bool:
        """Whether it may have been accepted, so that it must be brought to an end."""
        return self.tally.unknown is not None or (
            self.post is not None and self.payload is not None and self.payload.left
        )


@attrs.frozen
class Accepted:
    """A submission that the service accepted: it is paid for."""

    task: Task
    idempotency_key: str
    request: ImageToVideo
    request_id: str | None = None
    replayed: bool = False
    """The service recognised the key, and gave the original task back: nothing new was charged."""
    adopted: bool = False
    """The answer was lost, and the task was found in the service's list."""


@attrs.frozen(kw_only=True)
class Orphan:
    """A submission that was accepted, or may have been, after its caller was cancelled."""

    request: ImageToVideo
    idempotency_key: str
    task_id: str | None
    """None: it is not known whether there is a task. Submitting again with the same key tells."""
    at: datetime


# --- One submission on its way: tried, judged, tried again, and brought to an end even when nobody
# waits for it any more.


class Courier:
    """Takes submissions to the service, each as often as the rules say."""

    def __init__(
        self,
        api: Api,
        gate: Gate,
        *,
        policy: RetryPolicy,
        events: Events,
        reconciler: Reconciler,
    ) -> None:
        self._api = api
        self._gate = gate
        self._policy = policy
        self._events = events
        self._reconciler = reconciler
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._given_up = False
        self._heard: tuple[Answer, float] | None = None

    def close(self) -> None:
        """Begin nothing new and wait for nothing any more."""
        self._closing.set()

    def give_up(self) -> None:
        """Look for nothing any more: the connections are about to be closed."""
        self._given_up = True

    def cut(self, job: Job) -> None:
        """End the try that is on its way."""
        job.cut = True
        if job.post is not None and job.begun:
            job.post.cancel()

    async def deliver(self, job: Job) -> tuple[Task, Answer | None]:
        """Bring a submission to its end; may be called again after a cancellation, to go on where
        the first call was.

        Gives the task and the answer (None when the task was found in the list instead). Raises the
        error of the last try when it is certain that nothing was accepted,
        `SubmissionOutcomeUnknownError` when it is not.
        """
        while not job.sought:
            try:
                answer = await self._try(job)
                return wire.decode_task(answer), answer
            except HappyHorseError as error:
                step = self._judge(job, error)
                if step.what is retry.Next.STOP:
                    raise
                # Kept in the job: whoever goes on with it after a cancellation must not send again
                # what is only to be looked for.
                job.sought = step.what is retry.Next.LOOK
                job.failure = error
            if step.pause:
                await self._rest(step.pause)
        return await self._look(job), None

    async def _try(self, job: Job) -> Answer:
        if job.post is None:
            # What may be paid for already is brought to its end, also when its group is closed.
            group = None if job.at_stake else job.group
            if not self._gate.try_enter(group, again=job.placed):
                await self._gate.enter(group, again=job.placed)
            job.placed = True
            self._launch(job)
        if job.outcome is None:
            job.waiter = self._loop.create_future()
            await job.waiter
        outcome, job.post, job.outcome = job.outcome, None, None
        if isinstance(outcome, Answer):
            self._heard = outcome, self._loop.time()
            if job.heard is None:
                job.heard = self._heard  # the first answer of all: the nearest to when it left
            if outcome.status != 429:
                self._gate.answered()
            return outcome
        raise outcome if outcome is not None else APIConnectionError("the submission was cut off")

    def _launch(self, job: Job) -> None:
        if self._events:
            from ..events import Submitting

            self._events.emit(Submitting(idempotency_key=job.key, request=job.request))
        if job.tally.unknown is None:
            job.left_at, job.heard = self._loop.time(), self._heard
            self._reconciler.left(job)
        job.epoch = self._gate.pace.epoch
        job.payload = TrackedBody(job.body, content_type="application/json")
        job.begun = job.cut = False
        job.post = self._loop.create_task(self._post(job, job.payload))

    async def _post(self, job: Job, payload: TrackedBody) -> None:
        outcome: Answer | HappyHorseError | None = None
        # A task that is cancelled before it has begun never begins: then nobody would be told, and
        # the slot would be lost.
        job.begun = True
        try:
            if not job.cut:
                outcome = await self._api.submit_once(payload, job.key)
        except HappyHorseError as error:
            outcome = error
        except asyncio.CancelledError:
            # Only the session's end and an abandoned submission cut a try off, and both look at its
            # outcome.
            outcome = None
        finally:
            job.outcome = outcome or APIConnectionError(
                "the submission was cut off", sent=payload.left
            )
            self._gate.leave()
            if job.waiter is not None and not job.waiter.done():
                job.waiter.set_result(None)

    def _judge(self, job: Job, error: HappyHorseError) -> retry.Step:
        step = retry.next_step(
            self._policy, job.tally, error, storm=self._gate.pace.refusals, random=random.random()
        )
        job.tally = step.tally
        # Here already, and not only at the end: listeners see the error of each try.
        error.with_facts(
            idempotency_key=job.key, charged="no" if step.tally.unknown is None else "unknown"
        )
        self._reconciler.judged(job)
        if job.abandoned and step.tally.unknown is None:
            return step._replace(what=retry.Next.STOP)
        if step.what is retry.Next.AGAIN:
            pause, attempt = step.pause, step.tally.failed + step.tally.replays + step.tally.asked
            if self._events:
                from ..events import Retrying

                self._events.emit(
                    Retrying(what="submitting", error=error, pause=pause, attempt=attempt)
                )
            if isinstance(error, RateLimitError):
                self._hold(job, pause)
                return step._replace(pause=0.0)
        return step

    def _hold(self, job: Job, pause: float) -> None:
        """Make the whole session pause after a 429."""
        if self._gate.hold(job.epoch, pause) and self._events:
            from ..events import Throttled

            self._events.emit(Throttled(pause=pause, concurrency=int(self._gate.pace.limit)))

    async def _rest(self, pause: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause)

    async def _look(self, job: Job) -> Task:
        """Look for a submission among the recent tasks, and say so when it cannot be told what
        became of it.
        """
        verdict = (
            await self._reconciler.look_for(job)
            if not self._given_up
            else Verdict(why="the session was closed before it could be found")
        )
        if verdict.adopted is not None:
            return verdict.adopted
        unknown = (
            job.tally.unknown or job.failure or APIConnectionError("the submission was cut off")
        )
        found = (
            f"these tasks could be it: {', '.join(verdict.candidates)}"
            if verdict.candidates
            else verdict.why
        )
        raise SubmissionOutcomeUnknownError(
            f"the request left, and it is not known whether it was accepted ({unknown}); {found or 'no task was found that could be it'}",
            candidates=verdict.candidates,
            idempotency_key=job.key,
            request_id=unknown.request_id,
        ) from job.failure
