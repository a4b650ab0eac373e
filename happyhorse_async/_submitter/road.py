"""What all submissions of a session share, and the values that go in and out of one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import attrs

from .._concurrency import Closing
from .._config import RetryPolicy
from .._edges.api import Api
from .._models import Task
from .._request import ImageToVideo
from .._rules.responses import Answer
from ..events import Events
from .gate import Gate
from .key_proof import KeyProof
from .known import Known
from .reconcile import Reconciler


@attrs.frozen(kw_only=True)
class Beside:
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
class Earlier:
    """What a caller knows of a key that an earlier process may have sent."""

    since: float | None = None
    """It was not sent before this time, in Unix seconds by this machine's clock; None: not known.
    """
    claimed: Callable[[str], bool] = lambda task_id: False
    """Whether a task is known to be another request's."""
    look: bool = True
    """Look in the list of tasks first. False: send it again whatever the list shows, at the user's
    word."""
    by_user: bool = False
    """The user has asked for it now: the service is asked for the key with replays=0 too."""
    known: tuple[str, str] | None = None
    """A key that has become another task, and that one's id: to ask with whether keys are kept."""


UNKNOWN_TO_US = Earlier()


@attrs.define(kw_only=True, eq=False)
class Road:
    """What all submissions of a session share on their way to the service."""

    api: Api
    gate: Gate
    policy: RetryPolicy
    events: Events
    reconciler: Reconciler = attrs.field(init=False)
    proof: KeyProof = attrs.field(init=False)
    """Whether the service keeps keys."""
    known: Known = attrs.field(init=False)
    loop: asyncio.AbstractEventLoop = attrs.field(factory=asyncio.get_running_loop)
    closing: Closing = attrs.field(factory=Closing)
    """Begun when the session closes: nothing pauses any more."""
    given_up: bool = False
    """Nothing is looked for any more: the connections are about to be closed."""
    heard: tuple[Answer, float] | None = None
    """The last response, and when it came: it tells the service's time."""
    opened: float = attrs.field(init=False)
    permit: Callable[[], Awaitable[None]] | None = None
    """Waited for right before a request is sent."""

    def __attrs_post_init__(self) -> None:
        self.opened = self.loop.time()
        self.known = Known(self.api.base_url)
        pause = self.policy.first_pause
        self.reconciler = Reconciler(self.api, pause=pause, closing=self.closing)
        self.proof = KeyProof(self.api, self.policy, self.closing)
