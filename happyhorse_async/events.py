"""What happens in a session, as typed events. `_dispatcher` hands them to listeners: progress
bars, metrics, reports and logs.

May import attrs and the models, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ._values import Value

if TYPE_CHECKING:
    from datetime import datetime

    from ._account import UploadedFile
    from ._models import Task
    from ._request import ImageToVideo
    from ._video import Video
    from .errors import HappyHorseError


@attrs.frozen(kw_only=True)
class Event(Value):
    """The base of all events: what has happened, and whose it is.

    A listener runs in the context (`contextvars`) of the caller for whom something was done,
    such as an upload. What a session does for all callers, such as reading tasks, runs in an empty
    context. There the id, the key and the tag say whose it is.
    """

    idempotency_key: str | None = None
    """The key of the submission; None when there is none, or this session does not know it."""
    tag: Any = None
    """What the caller gave as `tag=` to `submit`, `generate` or `task`."""

    @property
    def task_id(self) -> str | None:
        """The id of the task that the event is about; None when it is about none."""
        return None


@attrs.frozen(kw_only=True)
class _OfTask(Event):
    """What has happened to a task that the service has accepted."""

    task: Task

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self.task.id


@attrs.frozen(kw_only=True)
class Uploaded(Event):
    """A local first frame is on the service's file host."""

    file: UploadedFile


@attrs.frozen(kw_only=True)
class Submitting(Event):
    """A submission is about to leave; from here on its key matters."""

    idempotency_key: str
    request: ImageToVideo


@attrs.frozen(kw_only=True)
class Submitted(_OfTask):
    """The service accepted a request: it is paid for from now on."""

    idempotency_key: str
    request_id: str | None = None
    """The service's own id of the request, for its support."""
    replayed: bool = False
    """The service recognised the key and gave the original task back: nothing new was charged."""
    adopted: bool = False
    """The answer was lost, and the task was found in the service's list."""


@attrs.frozen(kw_only=True)
class SubmissionFailed(Event):
    """A request was not accepted, or its fate is not known: see `error.charged`."""

    idempotency_key: str
    error: HappyHorseError


@attrs.frozen(kw_only=True)
class Orphaned(Event):
    """A task was accepted after its caller had been cancelled; it is in `session.orphans`."""

    task_id: str | None
    """None: the service did not answer in time either, so it is not known whether there is a task.
    """
    idempotency_key: str
    request: ImageToVideo


@attrs.frozen(kw_only=True)
class Retrying(Event):
    """A call failed and is tried again after a pause."""

    what: str
    error: HappyHorseError
    pause: float
    attempt: int


@attrs.frozen(kw_only=True)
class Throttled(Event):
    """The service answered 429: all submissions of the session pause."""

    pause: float
    """Seconds. At most ten minutes are waited in one go, whatever the service asked for."""
    until: datetime
    """When submissions go on, by this machine's clock, in UTC."""
    concurrency: int
    """Submissions at once from now on."""


@attrs.frozen(kw_only=True)
class Updated(_OfTask):
    """A task that someone waits for has changed."""


@attrs.frozen(kw_only=True)
class Completed(Updated):
    """A task has ended with a video: its links are alive for 24 hours."""


@attrs.frozen(kw_only=True)
class Failed(Updated):
    """A task has ended without a video."""


@attrs.frozen(kw_only=True)
class ChargeSettled(_OfTask):
    """A read tells what an ended task has cost, which was not settled yet when it ended.

    A budget makes such reads; without one a task is read again only if somebody does.
    """


@attrs.frozen(kw_only=True)
class OddNumbers(_OfTask):
    """Numbers of a task cannot be true: they count as not said. It is told once for a task."""

    numbers: tuple[str, ...]
    """Each as "field=number", such as "usage.credits_used=-5"."""


@attrs.frozen(kw_only=True)
class ReadFailed(Event):
    """Reading tasks failed; their waits go on."""

    error: HappyHorseError
    tasks: int


@attrs.frozen(kw_only=True)
class Downloading(Event):
    """A part of a video has come."""

    task_id: str | None
    path: str
    received: int
    total: int | None


@attrs.frozen(kw_only=True)
class DownloadFailed(Event):
    """A download has ended without its video, which another one may bring."""

    task_id: str | None
    path: str
    error: BaseException
    """Why; also `asyncio.CancelledError`."""


@attrs.frozen(kw_only=True)
class LinkExpiring(Event):
    """A link may die before its download can be finished."""

    task_id: str | None
    expires_at: datetime
    seconds_left: float
    """Below 0 when the moment that was told has passed."""


@attrs.frozen(kw_only=True)
class Saved(Event):
    """A video is on disk, verified, under its final name."""

    video: Video

    @property
    def task_id(self) -> str | None:
        """The id of the video's task."""
        return self.video.task_id


@attrs.frozen(kw_only=True)
class BudgetChanged(Event):
    """Credits were reserved, settled or freed."""

    reserved: Decimal
    spent: Decimal
    left: Decimal


# --- Beginnings and ends, for traces. Only a listener that names their kind gets them, since there
# are many: two for each HTTP request alone.


Work = Literal[
    "generate", "upload", "submit", "follow", "wait", "download", "read", "call", "session"
]
"""What begins and ends: a generation, its parts, a shared read of tasks, an HTTP request, the
session. "follow" is waiting and saving together; the session only ends."""


@attrs.frozen(kw_only=True)
class Began(Event):
    """A piece of work begins. The listener runs in its context, and so does all that is done in it.

    A listener that sets a context variable has it set for the work, until `Ended` resets it.
    """

    work: Work
    number: int
    """Its `Ended` has the same."""
    task_id: str | None = None
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """What is known of it. "request" of a generation; "name" and "size" of an upload. "task_ids" of
    a read; "method", "url" and "resends" of a call. A url shows no key, and of a result link only
    the host."""


@attrs.frozen(kw_only=True)
class Ended(Began):
    """A piece of work has ended: `facts` has what was learned as well.

    That is "status" of a call, "task" of a wait, "bytes" and "resumed" of a download.
    """

    seconds: float
    error: BaseException | None = None
    """Why it brought nothing; also `asyncio.CancelledError`."""
