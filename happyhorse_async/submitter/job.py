"""One submission: how far it has come, and what may become of it."""

from __future__ import annotations

import asyncio
from datetime import datetime

import attrs

from ..edges.http import TrackedBody
from ..errors import HappyHorseError
from ..models import ImageToVideo, Task
from ..rules import retry
from ..rules.answers import Answer
from .throttle import Group

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
    """The try that is on its way. The job is its owner; it takes no cancellation but that of `Courier.cut`."""
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
    """The last answer that came before it left (or else the first one after), and when: it tells the service's time."""
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
        return self.tally.unknown is not None or (self.post is not None and self.payload is not None and self.payload.left)


@attrs.frozen(kw_only=True)
class Verdict:
    """What the service's list of recent tasks says about a submission whose outcome is unknown."""

    adopted: Task | None = None
    """The one task that it can only have become."""
    candidates: tuple[str, ...] = ()
    """Tasks that it may have become: it cannot be said which, or whether any."""
    why: str = ""
    """Why there is no verdict, when there is none."""


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
