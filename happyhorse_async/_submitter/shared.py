"""What all submissions of a session share: their way to the service, and what is known of them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import attrs

from .._concurrency import Closing
from .._config import RetryPolicy
from .._dispatcher import Events
from .._edges.api import Api
from .._formats.texts import printable
from .._models import Task
from .._recent import Recent
from .._request import FIELDS, ImageToVideo, quietly_made
from .._rules.responses import Answer
from .._values import Value
from .gate import Gate
from .key_proof import KeyProof
from .reconcile import Reconciler

logger = logging.getLogger("happyhorse_async")

MOST_TASKS = 20_000
"""Tasks that a session remembers as its own, or half of these. One look at the list shows far
fewer."""
MOST_KEPT = 1_000
"""Keys whose task a session remembers whole, so that it need not ask for it again."""
MOST_DOUBTS = 10_000
"""Keys of unknown outcome that a session remembers."""
MOST_ORPHANS = 1000
"""Orphans that a session keeps; the oldest are dropped first. Each was logged when it came."""
SETTLING = 60.0
"""Seconds after a submission was left in doubt in which the service may still accept it."""


class Beside(NamedTuple):
    """What a submitter asks of the parts beside it.

    Functions, because those parts are made when they are first used: a first submission needs none
    of them.
    """

    url_of: Callable[[Path | bytes], Awaitable[str]]
    """Return the public link of a local first frame."""
    credits_for: Callable[[ImageToVideo], Awaitable[Decimal]]
    """Return what a request will cost."""
    learn: Callable[[Task], None]
    """Take note of a task's state."""
    expect_callback: Callable[[str], None]
    """Read a task only now and then, because the service will call back."""
    on_final: Callable[[Callable[[Task], None]], object]
    """Call back with every task that has ended."""
    wait: Callable[[str], Awaitable[Task]]
    """Wait until a task has ended."""
    problem_of: Callable[[Path | bytes | str], str | None]
    """Say why the service cannot fetch a first frame; None when it may."""


class Acceptance(NamedTuple):
    """A submission that the service accepted: it is paid for."""

    task: Task
    idempotency_key: str
    request: ImageToVideo
    request_id: str | None = None
    replayed: bool = False
    """The service recognised the key, and gave the original task back: nothing new was charged."""
    adopted: bool = False
    """The response was lost, and the task was found in the service's list."""


class Earlier(NamedTuple):
    """What a caller knows of a key that an earlier process may have sent."""

    since: float | None = None
    """It was not sent before this time, in Unix seconds by this machine's clock; None: not known.
    """
    claimed: Callable[[str], bool] = lambda task_id: False
    """Whether a task is known to be another request's."""
    by_user: bool = False
    """The user has asked for it now: the service is asked for the key with replays=0 too."""
    known: tuple[str, str] | None = None
    """A key that has become another task, and that one's id: to ask with whether keys are kept."""


UNKNOWN_TO_US = Earlier()


# --- What a session remembers: whose each task is, and which keys are in doubt.


class Doubt(NamedTuple):
    """A key that was sent, and nobody knows what became of it. Times are the event loop's."""

    why: str
    left_at: float
    """When it first left."""
    since: float
    """When it was left in doubt."""
    link: str
    """The first frame's link."""
    slept: float
    """What `Shared.slept` was then."""


class Kept(NamedTuple):
    """What a key has become."""

    body: int
    """The hash of the body that it was sent with."""
    task: Task
    """The service's answer."""
    link: str
    """The first frame's link."""


class Known:
    """The newest tasks and doubts of one session; the oldest are forgotten first."""

    def __init__(self, service: str) -> None:
        self.service = service
        """The address of the API."""
        self.under_way = 0
        """Submissions that are not decided yet."""
        self.latest_doubt = -math.inf
        self.doubts: OrderedDict[str, Doubt] = OrderedDict()
        """By key."""
        self._owners: Recent[str] = Recent(MOST_TASKS)
        """Keys by task id."""
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        """By key."""
        with _LOCK:
            _SESSIONS.add(self)

    def owner_of(self, task_id: str) -> str | None:
        """Return the key of the submission that has become a task."""
        return self._owners.get(task_id)

    def kept(self, key: str) -> Kept | None:
        """Return what a key has become in this session."""
        return self._kept.get(key)

    def link_of(self, key: str) -> str | None:
        """Return the link of the first frame that a key was sent with."""
        found = self._kept.get(key) or self.doubts.get(key)
        return found.link if found is not None else None

    def accepted(self, key: str, task: Task, body: bytes, link: str) -> None:
        """Remember what a key has become."""
        if self.doubts:
            self.doubts.pop(key, None)
        self._owners.remember(task.id, key)
        self._kept[key] = Kept(hash(body), task, link)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def doubt(self, key: str, doubt: Doubt) -> None:
        """Remember that nobody knows what became of a key."""
        self.doubts[key] = doubt
        self.latest_doubt = doubt.since
        if len(self.doubts) > MOST_DOUBTS:
            self.doubts.popitem(last=False)

    def alone(self, key: str, task_id: str, left_at: float) -> bool:
        """Whether no other submission of this process can have become a task.

        Sessions of other threads are asked as well, so only single values of theirs are looked at.
        What other processes do cannot be seen.
        """
        settled = left_at - SETTLING
        others = any(doubt.since > settled for other, doubt in self.doubts.items() if other != key)
        if self.under_way > 1 or others or self._owners.get(task_id, key) != key:
            return False
        with _LOCK:
            sessions = [session for session in _SESSIONS if session.service == self.service]
        return not any(
            session.under_way
            or session.latest_doubt > settled
            or session._owners.get(task_id, key) != key
            for session in sessions
            if session is not self
        )


_SESSIONS: weakref.WeakSet[Known] = weakref.WeakSet()
"""Those of this process: one account may be used by several."""
_LOCK = threading.Lock()


# --- Submissions that outlived their callers: kept for whoever asks, bounded, and without pictures.


@attrs.frozen(kw_only=True)
class Orphan(Value):
    """A submission that was accepted, or may have been, after its caller was cancelled."""

    request: ImageToVideo
    """The request, without the picture. The link that bytes were uploaded to replaces them. So
    submitting it again with the same key sends the same body."""
    idempotency_key: str
    task_id: str | None
    """None: it is not known whether there is a task. Submitting again with the same key tells."""
    at: datetime
    image_sha256: str | None = None
    """The SHA-256 of the picture, in hexadecimal digits, when it was given as bytes."""


class Orphans:
    """The orphans of a session."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.kept: list[Orphan] = []
        """The newest ones, oldest first."""

    def add(
        self, request: ImageToVideo, idempotency_key: str, task_id: str | None, link: str | None
    ) -> None:
        """Keep a submission that nobody waits for; `link` is where its image was uploaded."""
        digest = None
        if isinstance(request.image, bytes):
            digest = hashlib.sha256(request.image).hexdigest()
            # A service that lives for months must not keep the pictures of all who went away.
            fields = {name: getattr(request, name) for name in FIELDS}
            request = quietly_made(link or f"https://image.invalid/{digest}", fields)
        self.kept.append(
            Orphan(
                request=request,
                idempotency_key=idempotency_key,
                task_id=task_id,
                at=datetime.now(UTC),
                image_sha256=digest,
            )
        )
        if len(self.kept) > MOST_ORPHANS:
            del self.kept[0]
        logger.warning(
            "a submission outlived its caller: task %s, idempotency key %s",
            printable(task_id or "not known"),
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


# --- The way to the service.


class Shared:
    """What all submissions of a session share on their way to the service."""

    def __init__(self, *, api: Api, gate: Gate, policy: RetryPolicy, events: Events) -> None:
        self.api = api
        self.gate = gate
        self.policy = policy
        self.events = events
        self.loop = asyncio.get_running_loop()
        self.opened = self.loop.time()
        self._lag = time.time() - self.opened
        """How far the wall clock was ahead of the event loop's."""
        self.closing = Closing()
        """Begun when the session closes: nothing pauses any more."""
        self.given_up = False
        """Nothing is looked for any more: the connections are about to be closed."""
        self.known = Known(api.base_url)
        self.reconciler = Reconciler(api, pause=policy.first_pause, closing=self.closing)
        self.proof = KeyProof(api, policy, self.closing)
        """Whether the service keeps keys."""
        self.heard: tuple[Answer, float] | None = None
        """The last response, and when it came: it tells the service's time."""
        self.permit: Callable[[], Awaitable[None]] | None = None
        """Waited for right before a request is sent."""

    def slept(self) -> float:
        """Return the seconds that the event loop's clock has stood still since the session began:
        most steady clocks do while a machine sleeps. Only two such numbers, compared, say
        something, for the wall clock may be set.
        """
        return time.time() - self.loop.time() - self._lag
