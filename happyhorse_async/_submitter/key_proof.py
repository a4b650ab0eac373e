"""Whether the service keeps idempotency keys. Until it has shown it, a key that may have been
accepted is not sent again blindly.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from .._concurrency import Closing
from .._config import RetryPolicy
from .._edges.api import Api
from .._edges.http import TrackedBody
from .._models import Task
from .._rules import retry, wire
from .._rules.responses import Answer
from ..errors import APIStatusError, HappyHorseError, RateLimitError

logger = logging.getLogger("happyhorse_async")

REPLAYED = "idempotency-replayed"
"""The header with which the service says whether it recognised a key."""
MOST_ASKED = 32
"""How often a service that will not say whether it keeps keys is asked in a session.

One killed process leaves several requests in doubt, and the first of them may never have arrived.
"""
ROUNDED = 2.0
"""Seconds by which the service's times may be rounded, taken together."""


class KeyProof:
    """What a session has learned of the service's idempotency keys.

    The vendor's clients rely on them, but the reference does not promise them.
    """

    def __init__(self, api: Api, policy: RetryPolicy, closing: Closing) -> None:
        self._api = api
        self._policy = policy
        self._closing = closing
        self._turn = asyncio.Lock()
        self._in_vain = 0
        self._undecided = 0
        self._decided = asyncio.Event()
        self.shown = False
        """The service has shown that it keeps keys: sending one again is free."""
        self._sample: tuple[str, str] | None = None
        """A key that the service certainly has had, of another submission, and its task's id."""
        self._sampled = False

    def can_be_asked(self, *, by_user: bool) -> bool:
        """Whether asking may help. With replays=0 no key is sent again, not even to ask, but at the
        user's word.
        """
        return (by_user or bool(self._policy.replays)) and self._in_vain < MOST_ASKED

    def learn(self, error: HappyHorseError) -> None:
        """Learn from a failed attempt: only a service that keeps keys has these codes.

        Codes were seen as integers once: then either of them is 409. A 409 with another number, or
        with none, may be a firewall's and proves nothing.
        """
        self.shown = self.shown or _knows_key(error)

    def offer(self, sample: tuple[str, str] | None) -> None:
        """Take a key to ask with that has become a task, and the task's id; the first counts."""
        if sample is not None and not self._sampled:
            self._sample, self._sampled = sample, True

    @contextmanager
    def undecided(self) -> Iterator[None]:
        """Count a submission that may yet show that the service keeps keys."""
        self._undecided += 1
        try:
            yield
        finally:
            self._undecided -= 1
            self._decided.set()

    async def ask(self, key: str, *, by_user: bool = False) -> Answer | None:
        """Ask whether the service keeps keys, with one that it may know: see `shown` afterwards.

        A key that never arrived shows nothing, so whoever asked in vain waits for the others.
        """
        with self.undecided():
            answer = await self._ask(key, by_user=by_user)
        while answer is None and self._undecided and not self.shown:
            self._decided.clear()
            await self._decided.wait()
        return answer

    async def _ask(self, key: str, *, by_user: bool) -> Answer | None:
        """Ask with a key until the service has said something.

        The key is sent with an empty body, which nobody can accept. By the contract a known key
        with another body is a conflict, which proves it and costs nothing. A service that looks at
        the body first refuses that, which proves nothing. One that looks at the key alone answers
        with the key's task, which is returned.
        """
        async with self._turn:
            for attempt in range(1, self._policy.attempts + 1):
                if self.shown or not self.can_be_asked(by_user=by_user):
                    break
                sample = self._sample
                heard = await self._ask_once(sample[0] if sample else key)
                if not isinstance(heard, HappyHorseError):
                    return heard[0] if self._believed(*heard, sample) and not sample else None
                if self._is_final(heard):
                    if sample is not None:
                        self._sample = None  # it may be too old to be known: on with the own key
                        continue
                    self._in_vain += 1
                    break
                pause = retry.pause_before(self._policy, attempt, heard, random.random())
                if self.shown or not await self._closing.pause(pause):
                    break
        return None

    async def ask_of(self, key: str, *, by_user: bool) -> tuple[Answer | None, bool]:
        """Ask whether the service still has a key, whatever it has shown of others: most forget
        them after a day. Return an answer that gave its task, and whether the service has it.
        """
        async with self._turn:  # one that takes the question for a request is asked no more
            for attempt in range(1, self._policy.attempts + 1):
                if not self.can_be_asked(by_user=by_user):
                    break
                heard = await self._ask_once(key)
                if not isinstance(heard, HappyHorseError):
                    return (heard[0] if self._believed(*heard, None) else None), False
                if _knows_key(heard):
                    return None, True
                pause = retry.pause_before(self._policy, attempt, heard, random.random())
                if self._is_final(heard) or not await self._closing.pause(pause):
                    break
        return None, False

    def _believed(
        self, answer: Answer, task: Task, took: float, sample: tuple[str, str] | None
    ) -> bool:
        """Whether an accepted question gave the key's own task, and not a new one.

        A server that takes anything, and keeps no keys, has made a task of the empty body. Then
        nothing more is asked: each question would make another one.
        """
        if sample is not None:
            old = task.id == sample[1]
        else:
            old = answer.headers.get(REPLAYED) == "true" or _is_old(task.created, answer.date, took)
        if not old:
            logger.warning(
                "the service took an empty request for a new task, %s: it is asked no more",
                task.id,
                extra={"action": "question_accepted", "task_id": task.id},
            )
            self._in_vain = MOST_ASKED
        self.shown = self.shown or (old and sample is not None)
        return old

    async def _ask_once(self, key: str) -> tuple[Answer, Task, float] | HappyHorseError:
        """Ask once; return what accepted the question, with the seconds that it took."""
        nothing = TrackedBody(b"", content_type="application/json")
        now = asyncio.get_running_loop().time
        began = now()
        try:
            answer = await self._api.submit_once(nothing, key, fresh=True)
            return answer, wire.decode_task(answer), now() - began
        except HappyHorseError as error:
            self.learn(error)
            return error

    @staticmethod
    def _is_final(error: HappyHorseError) -> bool:
        """Whether the service itself has refused, so that it would refuse again."""
        refused = retry.certainty_of(error) is retry.Certainty.REFUSED
        return refused and not isinstance(error, RateLimitError)


def _knows_key(error: HappyHorseError) -> bool:
    """Whether only a service that has had the key refuses so."""
    if not isinstance(error, APIStatusError) or not error.own_body:
        return False
    known = error.code in (retry.CONFLICT, retry.PENDING_OUTCOME)
    return known or (error.status == 409 and error.code == "409")


def _is_old(created: datetime | None, answered: datetime | None, took: float) -> bool:
    """Whether a task is older than the question that was answered with it, by the service's clock.

    `took` is how long that was, in seconds. Without both times nothing is proven.
    """
    if created is None or answered is None:
        return False
    return (answered - created).total_seconds() > took + ROUNDED
