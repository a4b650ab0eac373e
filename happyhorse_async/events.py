"""What happens in a session, as typed events. Progress bars, metrics, reports and logs listen; see
the dispatcher.

May import attrs and the models, no I/O.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

if TYPE_CHECKING:
    from datetime import datetime

    from ._models import Task, UploadedFile
    from ._request import ImageToVideo
    from ._video import Video
    from .errors import HappyHorseError


@attrs.frozen(kw_only=True)
class Event:
    """The base of all events."""


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
class Submitted(Event):
    """The service accepted a request: it is paid for from now on."""

    task: Task
    idempotency_key: str
    request_id: str | None = None
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
    concurrency: int
    """Submissions at once from now on."""


@attrs.frozen(kw_only=True)
class Updated(Event):
    """A task that someone waits for has changed."""

    task: Task


@attrs.frozen(kw_only=True)
class Completed(Updated):
    """A task has ended with a video: its links are alive for 24 hours."""


@attrs.frozen(kw_only=True)
class Failed(Updated):
    """A task has ended without a video."""


@attrs.frozen(kw_only=True)
class ReadFailed(Event):
    """Reading tasks failed; their waits go on."""

    error: HappyHorseError
    tasks: int


@attrs.frozen(kw_only=True)
class Downloading(Event):
    """A part of a video has been written."""

    task_id: str | None
    path: str
    received: int
    total: int | None


@attrs.frozen(kw_only=True)
class LinkExpiring(Event):
    """A link may die before its download can be finished."""

    task_id: str | None
    expires_at: datetime
    seconds_left: float


@attrs.frozen(kw_only=True)
class Saved(Event):
    """A video is on disk, verified, under its final name."""

    video: Video


@attrs.frozen(kw_only=True)
class BudgetChanged(Event):
    """Credits were reserved, settled or freed."""

    reserved: Decimal
    spent: Decimal
    left: Decimal


# --- The one dispatcher of a session: hands its typed events to whoever listens; the code that
# works knows none of them.


if TYPE_CHECKING:
    E = TypeVar("E", bound=Event)

logger = logging.getLogger("happyhorse_async")

Listener = Callable[[Any], None]


class Events:
    """The dispatcher: hands each event to the listeners that asked for its kind, at once and in
    order.

    Listeners are called in the event loop and must not block. One that raises is logged and does
    not disturb the work.
    """

    def __init__(self) -> None:
        self._listeners: list[tuple[tuple[type[object], ...], Listener]] = []

    def subscribe(self, listener: Callable[[E], None], *kinds: type[E]) -> Callable[[], None]:
        """Call `listener` with every event of the kinds given (none: every event); gives a function
        that ends it.
        """
        entry: tuple[tuple[type[object], ...], Listener] = (tuple(kinds) or (object,), listener)
        self._listeners.append(entry)

        def unsubscribe() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)

        return unsubscribe

    def __bool__(self) -> bool:
        """Whether anyone listens: code on hot paths need not even make an event when nobody does."""
        return bool(self._listeners)

    def emit(self, event: Event) -> None:
        """Hand an event to all who asked for its kind."""
        for kinds, listener in tuple(self._listeners):
            if isinstance(event, kinds):
                try:
                    listener(event)
                except Exception:
                    logger.exception(
                        "a listener failed on %s",
                        type(event).__name__,
                        extra={"action": "listener_failed"},
                    )
