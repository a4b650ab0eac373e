"""One submission: its state, the table of its stages, and what happens in each."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import attrs

from .._dispatcher import RESENDS
from .._edges.http import TrackedBody
from .._models import Task
from .._request import ImageToVideo
from .._rules import responses, retry, wire
from .._rules.responses import Answer
from ..errors import (
    APIConnectionError,
    HappyHorseError,
    IdempotencyConflictError,
    RateLimitError,
    SubmissionOutcomeUnknownError,
)
from .gate import Group
from .key_proof import REPLAYED
from .reconcile import EVER, NO_LIST, REPEATED, TOO_LONG, Findings, LostSubmission
from .shared import UNKNOWN_TO_US, Acceptance, Earlier, Shared

KEY_LIFE = 12 * 3600.0
"""Seconds after which a service that keeps keys may have forgotten one. A day is usual."""
FRESH = 60.0
"""Seconds for which a list without a task says nothing of a submission: it may be late."""
NOT_YET = "the list may not show it yet"
DECIDE = (
    "Look whether one of the tasks in `candidates`, or on the service's dashboard, is it: then its "
    "video can be downloaded by the task's id. If none is, submit it with a new idempotency key "
    "(in a batch: give its row another id), which costs money."
)
"""What helps when asking again with the same key would tell nothing."""
UPLOADED = (
    "Another process would upload the first frame anew, which makes another request: there, give "
    "the link that it has now, {}."
)
UPLOADED_ANEW = (
    "The first frame was uploaded anew, which makes it another request: give the link that it had "
    "when the key was first sent. Or look for the task with session.find_tasks(). A new key may "
    "pay again."
)
"""What helps when a key that was sent by another process comes with a local first frame."""
GLANCE = 1.0
"""Seconds between two looks whether the service has shown meanwhile that it keeps keys."""
LATEST = 60.0
"""Seconds after a session's start by which the service has decided what an earlier process sent."""
NOTHING_FOUND = Findings()
MOST_SHOWN = 10
"""Ids that a message lists."""


class SubmissionStage(StrEnum):
    """How far a submission has come."""

    __hash__ = str.__hash__  # that of enumerations is slow, and each step looks into two tables

    CHECKING = "checking"
    """An earlier process may have sent it: it is looked for in the list before it is sent again."""
    ASKING = "asking"
    """The list has tasks that could be it: the service is asked whether it keeps keys."""
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


_S = SubmissionStage
STAGES: dict[SubmissionStage, frozenset[SubmissionStage]] = {
    _S.CHECKING: frozenset({_S.WAITING, _S.ASKING, _S.ACCEPTED, _S.IN_DOUBT}),
    _S.ASKING: frozenset({_S.WAITING, _S.CHECKING, _S.ACCEPTED, _S.IN_DOUBT}),
    # Turned away at the gate: it was never sent, or an earlier attempt is to be looked for. Its key
    # may have grown old meanwhile.
    _S.WAITING: frozenset({_S.SENT, _S.REFUSED, _S.LOOKING, _S.CHECKING}),
    # After a 429 it waits at the gate at once: the gate itself pauses. An answer that names another
    # request's task leaves it in doubt. Its key may have grown old while it waited for its permit.
    _S.SENT: frozenset(_S) - {_S.ASKING, _S.SENT},
    _S.PAUSING: frozenset({_S.WAITING}),
    _S.LOOKING: frozenset({_S.ACCEPTED, _S.IN_DOUBT}),
    _S.ACCEPTED: frozenset(),
    _S.REFUSED: frozenset(),
    _S.IN_DOUBT: frozenset(),
}
"""Which stage may follow which. The last three are ends."""


@attrs.define(kw_only=True, eq=False, repr=False)
class InFlight:
    """One submission on its way. Whoever holds it can go on with it where it is."""

    request: ImageToVideo
    key: str
    body: bytes
    link: str
    """The first frame's."""
    uploaded: bool = False
    """It was uploaded for this submission, and has another link each time."""
    group: Group | None = None
    calls_back: bool = False
    """The service was asked to call this session back."""
    shared: Shared
    failures: retry.Failures = retry.NO_FAILURES
    stage: SubmissionStage = SubmissionStage.WAITING
    placed: bool = False
    """It holds a place among the unfinished tasks."""
    abandoned: bool = False
    """Nobody waits for it: only what may have been accepted is still brought to its end."""
    started: bool = False
    """Somebody else has begun to bring it to its end, after its caller was cancelled."""
    acceptance: Acceptance | None = None
    answer: Answer | None = None
    """The one that accepted it."""
    failure: HappyHorseError | None = None
    """Why it was refused or is in doubt; before that, why its last attempt failed."""
    earlier: Earlier | None = None
    aged: bool = False
    """Its key was sent so long ago that a service which keeps keys may have forgotten it."""
    left_at: float | None = None
    """When the first attempt left that may have been accepted, by the event loop's clock."""
    slept: float = 0.0
    """What `Shared.slept` was when `left_at` was noted, or last corrected by it."""
    _last: float = attrs.field(init=False, default=-math.inf)
    """When this process has last sent it."""
    _heard: tuple[Answer, float] | None = attrs.field(init=False, default=None)
    """The last response that came before it left, or else the first one after."""
    _sent: int = attrs.field(init=False, default=0)
    """How often this process has sent it."""
    found: Findings = attrs.field(init=False, default=NOTHING_FOUND)
    """What the list showed before it was sent again."""
    _pause: float = attrs.field(init=False, default=0.0)
    # The attempt that is on its way.
    post: asyncio.Task[None] | None = attrs.field(init=False, default=None)
    """It takes no cancellation but that of `cut`."""
    _payload: TrackedBody | None = attrs.field(init=False, default=None)
    _begun: bool = attrs.field(init=False, default=False)
    _cut: bool = attrs.field(init=False, default=False)
    _withheld: bool = attrs.field(init=False, default=False)
    """It did not leave: its key had grown old."""
    _epoch: int = attrs.field(init=False, default=0)
    """The gate's epoch when it left."""
    _outcome: Answer | HappyHorseError | None = attrs.field(init=False, default=None)
    _waiter: asyncio.Future[None] | None = attrs.field(init=False, default=None)

    @property
    def in_doubt(self) -> bool:
        """Whether an attempt that has ended may have been accepted."""
        return self.failures.unknown is not None

    @property
    def _by_user(self) -> bool:
        return self.earlier is not None and self.earlier.by_user

    @property
    def at_stake(self) -> bool:
        """Whether an attempt of this process may have been accepted: that is brought to an end."""
        return (self._sent > 0 and self.in_doubt) or (
            self.post is not None and self._payload is not None and self._payload.left
        )

    async def run(self) -> Acceptance:
        """Bring it to its end; called again after a cancellation, goes on where it is.

        Raises the last attempt's error when it is certain that nothing was accepted, and
        `SubmissionOutcomeUnknownError` when it is not.
        """
        while (step := _STEPS.get(self.stage)) is not None:
            if self.post is not None and self._outcome is None:
                self._waiter = self.shared.loop.create_future()
                await self._waiter
            await step(self)
        if self.acceptance is not None:
            return self.acceptance
        raise self.failure or APIConnectionError("the submission was cut off")

    def has_grown_old(self) -> bool:
        """Whether its key was sent so long ago that the service may have forgotten it; all that the
        machine has slept through meanwhile counts.
        """
        if self.left_at is None or self.left_at == EVER:
            return False
        slept = self.shared.slept()
        self.left_at -= max(0.0, slept - self.slept)
        self.slept = slept
        return self.shared.loop.time() - self.left_at > KEY_LIFE

    def _grows_old(self) -> bool:
        """Note that its key has grown old while it waited; return whether it just has."""
        grown = self.in_doubt and not self.aged and self.has_grown_old()
        self.aged = self.aged or grown
        return grown

    def forget_failures(self) -> None:
        """Let go of the errors of its attempts: their frames hold it, and it the first frame's
        bytes. Together they would stay until Python looks for rings.
        """
        self.failure, self.failures = None, retry.NO_FAILURES

    def cut(self) -> None:
        """End the attempt that is on its way."""
        self._cut = True
        if self.post is not None and self._begun:
            self.post.cancel()

    def _to(self, stage: SubmissionStage) -> None:
        if stage not in STAGES[self.stage]:
            raise AssertionError(f"a submission that is {self.stage} cannot be {stage} next")
        self.stage = stage

    # --- waiting ----------------------------------------------------------------------------------

    async def _wait(self) -> None:
        gate = self.shared.gate
        # What may be paid for already is brought to its end, also when its group is closed.
        group = None if self.at_stake else self.group
        if not gate.try_enter(group, again=self.placed):
            try:
                await gate.enter(group, again=self.placed)
            except HappyHorseError as error:
                self._judge(error)
                return
        self.placed = True
        if self._grows_old():
            gate.leave()
            self._to(SubmissionStage.CHECKING)
            return
        self._launch()
        self._to(SubmissionStage.SENT)

    def _launch(self) -> None:
        shared = self.shared
        if shared.events:
            from ..events import Submitting

            shared.events.emit(Submitting(idempotency_key=self.key, request=self.request))
        if self.left_at is None or not self.in_doubt:
            self.left_at, self._heard = shared.loop.time(), shared.heard
            self.slept = shared.slept()
        self._last = shared.loop.time()
        self._sent += 1
        self._epoch = shared.gate.pace.epoch
        self._payload = TrackedBody(self.body, content_type="application/json")
        self._begun = self._cut = False
        self.post = shared.loop.create_task(self._send(self._payload))
        if not self._begun:  # where tasks begin at once, it has
            self.post.add_done_callback(self._not_begun)

    def _not_begun(self, post: asyncio.Task[None]) -> None:
        # A task that is cancelled before it has begun never begins, as at the end of `asyncio.run`:
        # nobody would be told, and the slot would be lost.
        self._tell(None, sent=False)

    async def _send(self, payload: TrackedBody) -> None:
        outcome: Answer | HappyHorseError | None = None
        self._begun = True
        if self.post is not None:
            self.post.remove_done_callback(self._not_begun)
        try:
            if self.shared.permit is not None and not self._cut:
                await self.shared.permit()
                self._withheld = not self._cut and self._grows_old()
            if not self._cut and not self._withheld:
                # A task of its own has a context of its own: nothing has to be set back.
                if self._sent > 1:
                    RESENDS.set(self._sent - 1)
                # A replay leaves on a new connection: the pool's others may be as dead as the last.
                outcome = await self.shared.api.submit_once(payload, self.key, fresh=self.in_doubt)
        except HappyHorseError as error:
            outcome = error
        except asyncio.CancelledError:
            # Only the session's end and an abandoned submission cut an attempt off, and both look
            # at its outcome.
            outcome = None
        finally:
            self._tell(outcome, sent=payload.left)
            del outcome  # an error that its own frame holds would keep all that is in it

    def _tell(self, outcome: Answer | HappyHorseError | None, *, sent: bool) -> None:
        self._outcome = outcome or APIConnectionError("the submission was cut off", sent=sent)
        self.shared.gate.leave()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- sent -------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        outcome, self.post, self._outcome = self._outcome, None, None
        if self._withheld:
            self._withheld = False
            self._to(SubmissionStage.CHECKING)
            return
        if not isinstance(outcome, Answer):
            self._judge(outcome or APIConnectionError("the submission was cut off"))
            return
        self.shared.heard = outcome, self.shared.loop.time()
        if responses.tells_limit(outcome.headers):
            told = responses.told_limit(outcome.headers, outcome.date)
            if told is not None:
                self.shared.gate.told(told)
        if self._heard is None:
            self._heard = self.shared.heard  # the first of all: the nearest to when it left
        if outcome.status != 429:
            self.shared.gate.answered(self._epoch)
        self._take(outcome)

    def _take(self, answer: Answer) -> None:
        """Take what the service answered to the request itself."""
        said = answer.headers.get(REPLAYED)
        if said is not None:
            self.shared.proof.shown = True
        try:
            task = wire.decode_accepted(answer)
        except HappyHorseError as error:
            self._judge(error)
            return
        owner = self.shared.known.owner_of(task.id)
        if owner is not None and owner != self.key:
            self.failure = self._doubt(
                f"the service answered with the task {task.id}, which is another request's",
                retryable=False,
            )
            self._to(SubmissionStage.IN_DOUBT)
            return
        self.shared.proof.offer((self.key, task.id))
        self.answer = answer
        self._accept(task, request_id=answer.request_id, replayed=said == "true")

    def _accept(
        self,
        task: Task,
        *,
        request_id: str | None = None,
        replayed: bool = False,
        adopted: bool = False,
    ) -> None:
        self.acceptance = Acceptance(task, self.key, self.request, request_id, replayed, adopted)
        self.shared.known.accepted(self.key, task, self.body, self.link)
        self._to(SubmissionStage.ACCEPTED)

    def _judge(self, error: HappyHorseError) -> None:
        """Decide what follows from a failed attempt."""
        shared = self.shared
        step = retry.next_step(
            shared.policy,
            self.failures,
            error,
            storm=shared.gate.pace.refusals,
            random=random.random(),
        )
        self.failures, self.failure = step.failures, error
        certain = step.failures.unknown is None
        # Here already, and not only at the end: listeners see the error of each attempt.
        error.with_facts(idempotency_key=self.key, charged="no" if certain else "unknown")
        if self.uploaded and isinstance(error, IdempotencyConflictError):
            error.next_step = UPLOADED_ANEW
        shared.proof.learn(error)
        if step.what is retry.Reaction.LOOK:
            self._to(SubmissionStage.LOOKING)
        elif step.what is retry.Reaction.STOP or (self.abandoned and certain):
            self._to(SubmissionStage.REFUSED)
        else:
            self._again(error, step.pause)

    def _again(self, error: HappyHorseError, pause: float) -> None:
        if isinstance(error, RateLimitError):
            pause = self._hold_all(error, pause)
        if self.shared.events:
            from ..events import Retrying

            self.shared.events.emit(
                Retrying(
                    idempotency_key=self.key,
                    what="submitting",
                    error=error,
                    pause=pause,
                    attempt=self.failures.so_far,
                )
            )
        if isinstance(error, RateLimitError):
            self._to(SubmissionStage.WAITING)
        else:
            self._pause = pause
            self._to(SubmissionStage.PAUSING)

    def _hold_all(self, error: RateLimitError, wanted: float) -> float:
        """Make the whole session pause after a 429; return the seconds."""
        gate = self.shared.gate
        asked = wanted if error.retry_after is not None else None
        news, pause = gate.hold(self._epoch, asked, wanted)
        if news and self.shared.events:
            from ..events import Throttled

            until = datetime.now(UTC) + timedelta(seconds=pause)
            self.shared.events.emit(
                Throttled(pause=pause, until=until, concurrency=int(gate.pace.limit))
            )
        return pause

    # --- pausing, looking -------------------------------------------------------------------------

    async def _rest(self) -> None:
        # Whoever goes on with it after a cancellation does not pause anew.
        pause, self._pause = self._pause, 0.0
        if pause:
            await self.shared.closing.pause(pause)
        self._to(SubmissionStage.WAITING)

    async def _look(self) -> None:
        found = await self._find()
        if self._adopt(found):
            return
        unknown = self.failures.unknown or self.failure
        what = f"the request left, and it is not known whether it was accepted ({unknown})"
        self.failure = self._doubt(f"{what}; {_listed(found)}", found.candidates)
        self._to(SubmissionStage.IN_DOUBT)

    async def _find(self, until: float = math.inf) -> Findings:
        """Look for it in the list of tasks."""
        shared = self.shared
        if shared.given_up:
            return Findings(why="the session was closed before it could be found")
        self.has_grown_old()  # dates it back by what the machine has slept
        earlier = self.earlier or UNKNOWN_TO_US
        lost = LostSubmission(
            request=self.request,
            left_at=EVER if self.left_at is None else self.left_at,
            until=until,
            heard=(self._heard[0].date, self._heard[1]) if self._heard is not None else None,
            claimed=lambda task_id: (
                shared.known.owner_of(task_id) not in (None, self.key) or earlier.claimed(task_id)
            ),
        )
        return await shared.reconciler.look_for(lost)

    def _adopt(self, found: Findings) -> bool:
        """Take the only task that it can have become, when the caller has asked for that."""
        only, shared = found.only, self.shared
        if only is None or shared.policy.adopt != "single":
            return False
        left_at = EVER if self.left_at is None else self.left_at
        if not shared.known.alone(self.key, only.id, left_at):
            return False
        self._accept(only, adopted=True)
        return True

    def _doubt(
        self, what: str, candidates: tuple[str, ...] = (), *, retryable: bool = True
    ) -> SubmissionOutcomeUnknownError:
        """Return the error that says that nobody can tell what became of it."""
        unknown = self.failures.unknown or self.failure
        error = SubmissionOutcomeUnknownError(
            what,
            candidates=candidates,
            retryable=retryable,
            idempotency_key=self.key,
            request_id=unknown.request_id if unknown is not None else None,
        )
        error.__cause__ = self.failure
        if self.uploaded:
            error.next_step = f"{error.next_step} {UPLOADED.format(self.link)}"
        return error

    # --- sent by an earlier process ---------------------------------------------------------------

    async def _check(self) -> None:
        """Look for it before it is sent again: a service that keeps no keys would be paid twice."""
        shared = self.shared
        if shared.proof.shown and not self.aged:
            self._to(SubmissionStage.WAITING)
            return
        sent_here = self._sent > 0 or self.key in shared.known.doubts
        with shared.proof.undecided():
            self.found = await self._find(math.inf if sent_here else shared.opened + LATEST)
        if self._adopt(self.found):
            return
        if not self.found.candidates and not self.found.why:
            if self._early() <= 0:
                self._to(SubmissionStage.WAITING)
                return
            self.found = self.found._replace(why=NOT_YET)
        if shared.proof.can_be_asked(by_user=self._by_user):
            self._to(SubmissionStage.ASKING)
        else:
            await self._stay_unproven()

    def _early(self) -> float:
        """Return the seconds for which a list without its task still proves nothing. They count
        from the last time at which it can have left.
        """
        doubt = self.shared.known.doubts.get(self.key)
        left = self.shared.opened if doubt is None else doubt.since
        return max(left, self._last) + FRESH - self.shared.loop.time()

    async def _ask(self) -> None:
        """Ask the service whether it keeps keys, and send it again only if it does. Of an old key
        it is asked whether it still has that very one.
        """
        proof, has_it = self.shared.proof, False
        if self.aged:
            answer, has_it = await proof.ask_of(self.key, by_user=self._by_user)
        else:
            answer = await proof.ask(self.key, by_user=self._by_user)
        if answer is not None:
            # It looks at keys alone: whatever it answers with is the task of this one.
            self._take(answer)
        elif has_it or (proof.shown and not self.aged):
            self._to(SubmissionStage.WAITING)
        else:
            await self._stay_unproven()

    async def _stay_unproven(self) -> None:
        """Look once more when the list must show what an earlier process sent; leave all else in
        doubt.
        """
        shared = self.shared
        if self.found.why == NOT_YET and self.key not in shared.known.doubts:
            while (early := self._early()) > 0 and (self.aged or not shared.proof.shown):
                if not await shared.closing.pause(min(early, GLANCE)):
                    break
            else:
                if self.stage is not SubmissionStage.CHECKING:
                    self._to(SubmissionStage.CHECKING)
                return
        self._leave_in_doubt()

    def broken(self, error: Exception) -> HappyHorseError:
        """Return the error for one that is not ours, which nobody has foreseen."""
        what = f"the submission broke on {type(error).__name__}: {error!s:.200}"
        if self._sent or self.in_doubt:
            return self._doubt(what)
        return HappyHorseError(what, idempotency_key=self.key)

    def _leave_in_doubt(self) -> None:
        """Not send it again, because that could be paid twice."""
        found = self.found
        why = "keeps this idempotency key still" if self.aged else "keeps idempotency keys"
        # A list does not become shorter, and an old key no younger.
        in_vain = found.why in ("", TOO_LONG, REPEATED) or (self.aged and found.why == NO_LIST)
        self.failure = self._doubt(
            "this request may have been sent before. It was not sent again, because "
            f"this service has not shown that it {why}; {_listed(found)}",
            found.candidates,
            retryable=not in_vain,
        )
        if not self.failure.retryable:
            self.failure.next_step = DECIDE
        self._to(SubmissionStage.IN_DOUBT)


def _listed(found: Findings) -> str:
    """Say in words what the list has shown."""
    shown, more = found.candidates[:MOST_SHOWN], len(found.candidates) - MOST_SHOWN
    if shown:
        ids = ", ".join(shown)
        return f"these tasks could be it: {ids}" + (f" and {more} more" if more > 0 else "")
    return found.why or "no task was found that could be it"


_STEPS: dict[SubmissionStage, Callable[[InFlight], Awaitable[None]]] = {
    SubmissionStage.CHECKING: InFlight._check,
    SubmissionStage.ASKING: InFlight._ask,
    SubmissionStage.WAITING: InFlight._wait,
    SubmissionStage.SENT: InFlight._receive,
    SubmissionStage.PAUSING: InFlight._rest,
    SubmissionStage.LOOKING: InFlight._look,
}
"""What happens in each stage that is not an end."""
