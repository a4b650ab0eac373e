"""One submission: its state, the table of its stages, and what happens in each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import attrs

from .._concurrency import Closing
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
from .reconcile import Facts, Findings, Reconciler


class Stage(StrEnum):
    """How far a submission has come."""

    WAITING = "waiting"
    """It waits for its turn to leave."""
    SENT = "sent"
    """An attempt is on its way; the response is to come."""
    PAUSING = "pausing"
    """It is sent again after a pause."""
    LOOKING = "looking"
    """It is not sent again, only looked for among the account's recent tasks."""
    ACCEPTED = "accepted"
    """It has become a task."""
    REFUSED = "refused"
    """It has certainly not become a task."""
    IN_DOUBT = "in doubt"
    """It left, and nobody can say what became of it."""


STAGES: dict[Stage, frozenset[Stage]] = {
    # Turned away at the gate: it was never sent, or an earlier attempt is to be looked for.
    Stage.WAITING: frozenset({Stage.SENT, Stage.REFUSED, Stage.LOOKING}),
    # After a 429 it waits at the gate at once: the gate itself pauses.
    Stage.SENT: frozenset(
        {Stage.ACCEPTED, Stage.WAITING, Stage.PAUSING, Stage.LOOKING, Stage.REFUSED}
    ),
    Stage.PAUSING: frozenset({Stage.WAITING}),
    Stage.LOOKING: frozenset({Stage.ACCEPTED, Stage.IN_DOUBT}),
    Stage.ACCEPTED: frozenset(),
    Stage.REFUSED: frozenset(),
    Stage.IN_DOUBT: frozenset(),
}
"""Which stage may follow which. The last three are ends."""


@attrs.frozen
class Acceptance:
    """A submission that the service accepted: it is paid for."""

    task: Task
    idempotency_key: str
    request: ImageToVideo
    request_id: str | None = None
    replayed: bool = False
    """The service recognised the key, and gave the original task back: nothing new was charged."""
    adopted: bool = False
    """The response was lost, and the task was found in the service's list."""


@attrs.frozen(kw_only=True)
class Orphan:
    """A submission that was accepted, or may have been, after its caller was cancelled."""

    request: ImageToVideo
    idempotency_key: str
    task_id: str | None
    """None: it is not known whether there is a task. Submitting again with the same key tells."""
    at: datetime


@attrs.define(kw_only=True, eq=False)
class Road:
    """What all submissions of a session share on their way to the service."""

    api: Api
    gate: Gate
    policy: RetryPolicy
    events: Events
    reconciler: Reconciler
    loop: asyncio.AbstractEventLoop = attrs.field(factory=asyncio.get_running_loop)
    closing: Closing = attrs.field(factory=Closing)
    """Begun when the session closes: nothing pauses any more."""
    given_up: bool = False
    """Nothing is looked for any more: the connections are about to be closed."""
    heard: tuple[Answer, float] | None = None
    """The last response, and when it came: it tells the service's time."""


@attrs.define(kw_only=True, eq=False)
class InFlight:
    """One submission on its way. Whoever holds it can go on with it where it is."""

    request: ImageToVideo
    key: str
    body: bytes
    group: Group | None = None
    calls_back: bool = False
    """The service was asked to call this session back."""
    road: Road
    failures: retry.Failures = retry.NO_FAILURES
    stage: Stage = Stage.WAITING
    placed: bool = False
    """It holds a place among the unfinished tasks."""
    abandoned: bool = False
    """Nobody waits for it: only what may have been accepted is still brought to its end."""
    started: bool = False
    """Somebody else has begun to bring it to its end, after its caller was cancelled."""
    acceptance: Acceptance | None = None
    failure: HappyHorseError | None = None
    """Why it was refused or is in doubt; before that, why its last attempt failed."""
    facts: Facts | None = attrs.field(init=False, default=None)
    """What there is to look for it with, once it has left."""
    _pause: float = attrs.field(init=False, default=0.0)
    # The attempt that is on its way.
    _post: asyncio.Task[None] | None = attrs.field(init=False, default=None)
    """It takes no cancellation but that of `cut`."""
    _payload: TrackedBody | None = attrs.field(init=False, default=None)
    _begun: bool = attrs.field(init=False, default=False)
    _cut: bool = attrs.field(init=False, default=False)
    _epoch: int = attrs.field(init=False, default=0)
    """The gate's epoch when it left."""
    _outcome: Answer | HappyHorseError | None = attrs.field(init=False, default=None)
    _waiter: asyncio.Future[None] | None = attrs.field(init=False, default=None)

    @property
    def in_doubt(self) -> bool:
        """Whether an attempt that has ended may have been accepted."""
        return self.failures.unknown is not None

    @property
    def at_stake(self) -> bool:
        """Whether it may have been accepted, so that it must be brought to an end."""
        return self.in_doubt or (
            self._post is not None and self._payload is not None and self._payload.left
        )

    @property
    def post(self) -> asyncio.Task[None] | None:
        """The attempt that is on its way."""
        return self._post

    async def run(self) -> Acceptance:
        """Bring it to its end; called again after a cancellation, goes on where it is.

        Raises the last attempt's error when it is certain that nothing was accepted, and
        `SubmissionOutcomeUnknownError` when it is not.
        """
        while (step := _STEPS.get(self.stage)) is not None:
            await step(self)
        if self.acceptance is not None:
            return self.acceptance
        raise self.failure or APIConnectionError("the submission was cut off")

    def cut(self) -> None:
        """End the attempt that is on its way."""
        self._cut = True
        if self._post is not None and self._begun:
            self._post.cancel()

    def _to(self, stage: Stage) -> None:
        if stage not in STAGES[self.stage]:
            raise AssertionError(f"a submission that is {self.stage} cannot be {stage} next")
        self.stage = stage

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait(self) -> None:
        gate = self.road.gate
        # What may be paid for already is brought to its end, also when its group is closed.
        group = None if self.at_stake else self.group
        if not gate.try_enter(group, again=self.placed):
            try:
                await gate.enter(group, again=self.placed)
            except HappyHorseError as error:
                self._judge(error)
                return
        self.placed = True
        self._launch()
        self._to(Stage.SENT)

    def _launch(self) -> None:
        road = self.road
        if road.events:
            from ..events import Submitting

            road.events.emit(Submitting(idempotency_key=self.key, request=self.request))
        if self.facts is None or not self.in_doubt:
            self.facts = Facts(self.request, road.loop.time(), road.heard)
            road.reconciler.left(self.facts)
        self._epoch = road.gate.pace.epoch
        self._payload = TrackedBody(self.body, content_type="application/json")
        self._begun = self._cut = False
        self._post = road.loop.create_task(self._send(self._payload))

    async def _send(self, payload: TrackedBody) -> None:
        outcome: Answer | HappyHorseError | None = None
        # A task that is cancelled before it has begun never begins: then nobody would be told, and
        # the slot would be lost.
        self._begun = True
        try:
            if not self._cut:
                outcome = await self.road.api.submit_once(payload, self.key)
        except HappyHorseError as error:
            outcome = error
        except asyncio.CancelledError:
            # Only the session's end and an abandoned submission cut an attempt off, and both look
            # at its outcome.
            outcome = None
        finally:
            self._outcome = outcome or APIConnectionError(
                "the submission was cut off", sent=payload.left
            )
            self.road.gate.leave()
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    # --- sent -------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        if self._outcome is None:
            self._waiter = self.road.loop.create_future()
            await self._waiter
        outcome, self._post, self._outcome = self._outcome, None, None
        if not isinstance(outcome, Answer):
            self._judge(outcome or APIConnectionError("the submission was cut off"))
            return
        self.road.heard = outcome, self.road.loop.time()
        if self.facts is not None and self.facts.heard is None:
            self.facts.heard = self.road.heard  # the first of all: the nearest to when it left
        if outcome.status != 429:
            self.road.gate.answered()
        try:
            task = wire.decode_task(outcome)
        except HappyHorseError as error:
            self._judge(error)
            return
        replayed = outcome.headers.get("idempotency-replayed") == "true"
        self._accept(task, request_id=outcome.request_id, replayed=replayed)

    def _accept(
        self,
        task: Task,
        *,
        request_id: str | None = None,
        replayed: bool = False,
        adopted: bool = False,
    ) -> None:
        self.acceptance = Acceptance(task, self.key, self.request, request_id, replayed, adopted)
        if self.facts is not None:
            self.road.reconciler.accepted(self.facts, task.id)
        self._to(Stage.ACCEPTED)

    def _judge(self, error: HappyHorseError) -> None:
        """Decide what follows from a failed attempt."""
        road = self.road
        step = retry.next_step(
            road.policy,
            self.failures,
            error,
            storm=road.gate.pace.refusals,
            random=random.random(),
        )
        self.failures, self.failure = step.failures, error
        certain = step.failures.unknown is None
        # Here already, and not only at the end: listeners see the error of each attempt.
        error.with_facts(idempotency_key=self.key, charged="no" if certain else "unknown")
        if self.facts is not None:
            road.reconciler.judged(self.facts, certain=certain)
        if step.what is retry.Reaction.LOOK:
            self._to(Stage.LOOKING)
        elif step.what is retry.Reaction.STOP or (self.abandoned and certain):
            self._to(Stage.REFUSED)
        else:
            self._again(error, step.pause)

    def _again(self, error: HappyHorseError, pause: float) -> None:
        if self.road.events:
            from ..events import Retrying

            self.road.events.emit(
                Retrying(what="submitting", error=error, pause=pause, attempt=self.failures.so_far)
            )
        if isinstance(error, RateLimitError):
            self._hold_all(pause)
            self._to(Stage.WAITING)
        else:
            self._pause = pause
            self._to(Stage.PAUSING)

    def _hold_all(self, pause: float) -> None:
        """Make the whole session pause after a 429."""
        gate = self.road.gate
        if gate.hold(self._epoch, pause) and self.road.events:
            from ..events import Throttled

            until = datetime.now(UTC) + timedelta(seconds=pause)
            self.road.events.emit(
                Throttled(pause=pause, until=until, concurrency=int(gate.pace.limit))
            )

    # --- pausing, looking -------------------------------------------------------------------------

    async def _rest(self) -> None:
        # Whoever goes on with it after a cancellation does not pause anew.
        pause, self._pause = self._pause, 0.0
        if pause:
            await self.road.closing.pause(pause)
        self._to(Stage.WAITING)

    async def _look(self) -> None:
        if self.road.given_up or self.facts is None:
            found = Findings(why="the session was closed before it could be found")
        else:
            found = await self.road.reconciler.look_for(self.facts)
        if found.adopted is not None:
            self._accept(found.adopted, adopted=True)
            return
        self.failure = self._doubt(found)
        self._to(Stage.IN_DOUBT)

    def _doubt(self, found: Findings) -> SubmissionOutcomeUnknownError:
        """Return the error that says that nobody can tell what became of it."""
        last = self.failure
        unknown = self.failures.unknown or last or APIConnectionError("the submission was cut off")
        listed = (
            f"these tasks could be it: {', '.join(found.candidates)}"
            if found.candidates
            else found.why or "no task was found that could be it"
        )
        error = SubmissionOutcomeUnknownError(
            f"the request left, and it is not known whether it was accepted ({unknown}); {listed}",
            candidates=found.candidates,
            idempotency_key=self.key,
            request_id=unknown.request_id,
        )
        error.__cause__ = last
        return error


_STEPS: dict[Stage, Callable[[InFlight], Awaitable[None]]] = {
    Stage.WAITING: InFlight._wait,
    Stage.SENT: InFlight._receive,
    Stage.PAUSING: InFlight._rest,
    Stage.LOOKING: InFlight._look,
}
"""What happens in each stage that is not an end."""
