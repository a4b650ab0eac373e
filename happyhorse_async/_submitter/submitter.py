"""One request becomes one task, exactly once; many under a limit. Keeps what is known of all
submissions of a session.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from .._budget import BudgetBook
from .._concurrency import Background, to_the_end
from .._config import Limits, RetryPolicy, Timeouts
from .._dispatcher import Events
from .._edges.api import Api
from .._formats.texts import shown
from .._request import ImageToVideo
from .._rules import retry, wire
from ..errors import (
    HappyHorseError,
    IdempotencyConflictError,
    InvalidRequestError,
    SessionClosedError,
    SubmissionOutcomeUnknownError,
)
from .gate import Following, Gate, Group
from .in_flight import InFlight, SubmissionStage
from .reconcile import EVER
from .shared import (
    UNKNOWN_TO_US,
    Acceptance,
    Beside,
    Doubt,
    Earlier,
    Kept,
    Orphan,
    Orphans,
    Shared,
)

logger = logging.getLogger("happyhorse_async")

MARGIN = 60.0
"""Seconds by which this machine's clock may have been set since an earlier process sent a key."""

_KEY = re.compile(r"[A-Za-z0-9._-]{16,96}")


class Submitter:
    """The session's one submitter."""

    def __init__(
        self,
        api: Api,
        beside: Beside,
        *,
        budget: BudgetBook,
        limits: Limits,
        timeouts: Timeouts,
        policy: RetryPolicy,
        events: Events,
        background: Background,
    ) -> None:
        self._beside = beside
        self._budget = budget
        self._shield = timeouts.shield
        self._events = events
        self._background = background
        self._gate = Gate(limits, on_full=lambda: self._following.watch())
        self._following = Following(self._gate, budget, background, beside.wait)
        self._shared = Shared(api=api, gate=self._gate, policy=policy, events=events)
        self._follows = limits.max_unfinished is not None or budget.limited
        self._in_flight: set[InFlight] = set()
        self._turns: dict[str, asyncio.Future[SubmissionOutcomeUnknownError | None] | None] = {}
        """Keys that somebody submits, and what others wait for who submit them too."""
        self._closing = False
        self._emptied: asyncio.Future[None] | None = None
        self.callback_url: str | None = None
        """Where the service should call back about requests that name no place of their own."""
        self._orphans = Orphans(events)
        if self._follows:
            beside.on_final(self._following.ended)

    def turn(self) -> asyncio.Future[None] | None:
        """Return what a single submission waits for before it begins; None: it begins at once."""
        return self._gate.entrance.turn()

    def ask_before_sending(self, permit: Callable[[], Awaitable[None]]) -> None:
        """Have every sending wait for a permit first, for limits that several processes share."""
        self._shared.permit = permit

    @staticmethod
    def new_key() -> str:
        """Return an idempotency key that nobody has used."""
        return secrets.token_hex(16)

    def submit(
        self,
        request: ImageToVideo,
        *,
        idempotency_key: str | None = None,
        drawn: bool = False,
        group: Group | None = None,
        image_url: str | None = None,
        callback_url: str | None = None,
        resent: bool | Earlier = False,
    ) -> Coroutine[Any, Any, Acceptance]:
        """Submit one request, and give what the service made of it.

        A key that is `drawn` was made for this submission: nobody can have sent it before. Requests
        of one `group` wait in one line, and groups take turns. A key that was used before needs the
        very same body: `image_url` is where the first frame was uploaded to before. `callback_url`
        is where the service was to call back, "" for nowhere.

        `resent` says that an earlier process may have sent the key. Then no refusal proves that
        nothing was charged. A service that keeps keys gives the task back. Until it has shown in
        this session that it does, the list of tasks is looked at first. When nothing in it fits,
        the key is sent again. When something fits, the service is asked whether it knows the key.
        When it does not say so, nothing is sent, and `SubmissionOutcomeUnknownError` has the
        candidates. Raises what `Session.submit` raises.
        """
        if idempotency_key is None:
            key, drawn = self.new_key(), True
        else:
            key = idempotency_key if drawn else _checked(idempotency_key)
        submitting = self._submit(request, key, drawn, group, image_url, callback_url, resent)
        if not self._events.traced:
            return submitting
        return self._traced(submitting, key, request)

    async def _traced(
        self, submitting: Coroutine[Any, Any, Acceptance], key: str, request: ImageToVideo
    ) -> Acceptance:
        with self._events.work("generate", key=key, request=request):
            return await submitting

    async def _submit(
        self,
        request: ImageToVideo,
        key: str,
        drawn: bool,
        group: Group | None,
        image_url: str | None,
        callback_url: str | None,
        resent: bool | Earlier,
    ) -> Acceptance:
        """Submit one request under its key, once nobody else submits it."""
        if key in self._turns:
            await self._take_turn(key)
        if self._closing:
            raise SessionClosedError(
                "this session is closed; nothing was sent", idempotency_key=key
            )
        self._turns[key] = None
        doubt: SubmissionOutcomeUnknownError | None = None
        try:
            kept = self._shared.known.kept(key)
            if kept is not None:
                return await self._repeat(kept, request, key, image_url, callback_url)
            is_new = not resent and image_url is None
            if is_new and (problem := self._beside.problem_of(request.image)) is not None:
                raise InvalidRequestError([problem])
            if self._budget.limited:
                # Money first: an upload for what cannot be paid is wasted.
                price = await self._beside.credits_for(request)
                self._budget.reserve(key, price, drawn=drawn)
            sub = await self._prepare(request, key, group, image_url, callback_url)
            self._recall(sub, UNKNOWN_TO_US if resent is True else resent or None)
            return await self._bring(sub)
        except HappyHorseError as error:
            doubt = error if isinstance(error, SubmissionOutcomeUnknownError) else None
            self._failed(error, key)
            raise
        finally:
            turn = self._turns.pop(key)
            if turn is not None:
                turn.set_result(doubt)
            del doubt  # an error that its own frame holds would keep all that is in it

    async def _take_turn(self, key: str) -> None:
        """Wait until nobody else submits a key: one request at a time, and one reservation.

        What is in doubt then is in doubt for those who have waited as well.
        """
        while key in self._turns:
            turn = self._turns[key]
            if turn is None:
                turn = self._turns[key] = self._shared.loop.create_future()
            await asyncio.wait([turn])
            doubt = turn.result()
            if doubt is not None:
                error = copy.copy(doubt)
                self._failed(error, key)
                raise error

    async def _bring(self, sub: InFlight) -> Acceptance:
        """Bring a submission to its end, also when its caller is cancelled."""
        self._in_flight.add(sub)
        self._shared.known.under_way = len(self._in_flight)
        try:
            with self._events.work("submit"):
                return await self._carry(sub)
        except asyncio.CancelledError:
            await self._rescue(sub)
            raise
        except (KeyboardInterrupt, SystemExit):  # a listener's, or Ctrl-C in a notebook
            accepted = sub.acceptance
            if accepted is not None or sub.at_stake:
                task_id = accepted.task.id if accepted is not None else None
                self.orphan(sub.request, sub.key, task_id)
            raise
        finally:
            sub.forget_failures()
            self._in_flight.discard(sub)
            self._shared.known.under_way = len(self._in_flight)
            if self._emptied is not None and not self._in_flight and not self._emptied.done():
                self._emptied.set_result(None)

    async def _repeat(
        self,
        kept: Kept,
        request: ImageToVideo,
        key: str,
        image_url: str | None,
        callback_url: str | None,
    ) -> Acceptance:
        """Return the task that a key has become in this session.

        Nothing is sent: it would tell nothing new, and a service without keys would be paid again.
        """
        body, _, _ = await self._encode(request, image_url, callback_url)
        if hash(body) != kept.body:
            raise IdempotencyConflictError(
                "this session has used the idempotency key for another request; nothing was sent",
                status=409,
                code=retry.CONFLICT,
            )
        acceptance = Acceptance(kept.task, key, request, replayed=True)
        self._announce(acceptance)
        return acceptance

    async def aclose(self) -> None:
        """Turn away what has not left, and wait under the shield for what has: its callers still
        get their responses.
        """
        self._closing = True
        self._gate.close()
        self._shared.closing.begin()
        for sub in self._in_flight:
            if not sub.at_stake:
                sub.cut()
        if self._in_flight:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=self._shield)
            self._shared.given_up = True
            posts = [sub.post for sub in self._in_flight if sub.post is not None]
            for sub in self._in_flight:
                sub.cut()
            if posts:
                await asyncio.wait(posts)

    def orphan(
        self, request: ImageToVideo | None, idempotency_key: str | None, task_id: str | None
    ) -> None:
        """Keep a submission that nobody takes any more among the orphans."""
        if request is not None and idempotency_key is not None:  # else not of this session
            link = self._shared.known.link_of(idempotency_key)
            self._orphans.add(request, idempotency_key, task_id, link)

    @property
    def orphans(self) -> list[Orphan]:
        """Return the newest submissions whose caller was cancelled after they had left."""
        return self._orphans.kept

    # --- one submission ---------------------------------------------------------------------------

    async def _prepare(
        self,
        request: ImageToVideo,
        key: str,
        group: Group | None,
        image_url: str | None,
        callback_url: str | None,
    ) -> InFlight:
        """Do all that comes before anything can be paid."""
        try:
            body, link, back = await self._encode(request, image_url, callback_url)
            return InFlight(
                request=request,
                key=key,
                body=body,
                link=link,
                uploaded=request.is_local and not image_url,
                group=group,
                calls_back=bool(back) and back == self.callback_url,
                shared=self._shared,
            )
        except BaseException:
            self._budget.free(key)
            raise

    async def _encode(
        self, request: ImageToVideo, image_url: str | None, callback_url: str | None
    ) -> tuple[bytes, str, str]:
        """Return the body of a request, its first frame's link, and where to be called back."""
        link, back = image_url or request.image, callback_url
        if not isinstance(link, str):
            link = await self._beside.url_of(link)
        if back is None:
            back = request.callback_url or self.callback_url or ""
        return wire.encode_submission(request, link, callback_url=back), link, back

    def _recall(self, sub: InFlight, earlier: Earlier | None) -> None:
        """Give a submission what is known of earlier sendings of its key.

        After one that may have been accepted, no refusal of a later one proves anything.
        """
        doubt = self._shared.known.doubts.get(sub.key)
        if doubt is None and earlier is None:
            return
        why = doubt.why if doubt is not None else "an earlier process may have sent it"
        sub.failures = retry.Failures(unknown=SubmissionOutcomeUnknownError(why))
        sub.earlier = earlier
        if doubt is not None:
            sub.left_at, sub.slept = doubt.left_at, doubt.slept
        elif earlier is not None and earlier.since is not None:
            # Clocks are set now and then: a window that is too narrow would hide the task.
            ago = max(0.0, time.time() - earlier.since) + MARGIN
            sub.left_at, sub.slept = self._shared.loop.time() - ago, self._shared.slept()
        sub.aged = sub.has_grown_old()
        if earlier is not None:
            self._shared.proof.offer(earlier.known)
        if earlier is not None or sub.aged:
            sub.stage = SubmissionStage.CHECKING

    async def _carry(self, sub: InFlight) -> Acceptance:
        try:
            acceptance = await sub.run()
        except HappyHorseError as error:
            self._drop(sub, charged=error.charged != "no")
            raise
        except Exception as error:
            # Not ours, so nobody can say how it came about: what has left may be paid for.
            sub.failure = sub.broken(error)
            self._drop(sub, charged=sub.failure.charged != "no")
            raise sub.failure from error
        self._accept(sub, acceptance)
        return acceptance

    def _accept(self, sub: InFlight, acceptance: Acceptance) -> None:
        task = acceptance.task
        if acceptance.replayed and not sub.in_doubt:
            # An earlier submission has paid for it, and was counted then.
            self._budget.replayed(sub.key)
        if self._follows:
            self._following.begin(task, sub.key)
        self._beside.learn(task)
        if sub.calls_back:
            self._beside.expect_callback(task.id)
        self._announce(acceptance)
        if sub.answer is not None:
            wire.pack(task, sub.answer)

    def _announce(self, acceptance: Acceptance) -> None:
        if self._events:
            from ..events import Submitted

            self._events.emit(
                Submitted(
                    task=acceptance.task,
                    idempotency_key=acceptance.idempotency_key,
                    request_id=acceptance.request_id,
                    replayed=acceptance.replayed,
                    adopted=acceptance.adopted,
                )
            )

    def _drop(self, sub: InFlight, *, charged: bool) -> None:
        """Discard what was kept for a submission that did not become a task. Money that may have
        been spent stays reserved.
        """
        if sub.placed:
            sub.placed = False
            self._gate.release_place()
        if not charged:
            self._budget.free(sub.key)
            return
        left_at = sub.left_at if sub.left_at is not None else EVER
        why = f"an earlier sending: {sub.failure}"
        doubt = Doubt(why, left_at, self._shared.loop.time(), sub.link, sub.slept)
        self._shared.known.doubt(sub.key, doubt)

    def _failed(self, error: HappyHorseError, key: str) -> None:
        error.with_facts(idempotency_key=key)
        if self._events:
            from ..events import SubmissionFailed

            self._events.emit(SubmissionFailed(idempotency_key=key, error=error))

    # --- cancelled callers ------------------------------------------------------------------------

    async def _rescue(self, sub: InFlight) -> None:
        """Hold a cancelled caller until its submission has come to an end, for as long as the
        shield lasts.
        """
        sub.abandoned = True
        if not sub.at_stake:
            # If it leaves in this very moment, that shows in the outcome of the attempt.
            sub.cut()
            if sub.post is None:
                self._drop(sub, charged=False)
                return
        try:
            work = self._background.start(
                self._finish(sub), name="a cancelled submission", for_caller=True
            )
        except RuntimeError:  # the session has closed meanwhile
            self._give_up(sub)
            return
        with suppress(asyncio.CancelledError):
            # The caller's own cancellation is raised once the submission has ended.
            await to_the_end(work)
        # The session has closed in this very moment: an asyncio task that has not begun never runs.
        if not sub.started:
            self._give_up(sub)

    async def _finish(self, sub: InFlight) -> None:
        acceptance: Acceptance | None = None
        certain = False
        sub.started = True
        # An attempt that hangs is cut off half-way. That leaves time to send it again or to look
        # for its task.
        alarm = asyncio.get_running_loop().call_later(self._shield / 2, sub.cut)
        try:
            async with asyncio.timeout(self._shield):
                acceptance = await self._carry(sub)
        except HappyHorseError as error:
            certain = error.charged == "no"
        except TimeoutError:
            pass  # nobody knows what became of it
        finally:
            alarm.cancel()
            if acceptance is not None:
                self.orphan(sub.request, sub.key, acceptance.task.id)
            elif not certain:
                self._give_up(sub)

    def _give_up(self, sub: InFlight) -> None:
        sub.cut()
        self._drop(sub, charged=True)
        self.orphan(sub.request, sub.key, None)


def _checked(key: object) -> str:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise InvalidRequestError(
            [f"idempotency_key: expected 16 to 96 characters of A-Za-z0-9._-, got {shown(key)}"]
        )
    return key
