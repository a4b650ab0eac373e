"""What happens in a session, as typed events. One dispatcher hands them to listeners: progress
bars, metrics, reports and logs.

May import attrs and the models, no I/O.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import attrs

from ._values import Value

if TYPE_CHECKING:
    from datetime import datetime

    from ._models import Task, UploadedFile
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
"""What begins and ends: a generation, its parts, a read of tasks for all who wait, an HTTP request,
and the session. "follow" is waiting and saving together; the session only ends."""


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
    """What is known of it: "request" of a generation; "name" and "size" of an upload; "task_ids" of
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


# --- The one dispatcher of a session. The code that works knows none of the listeners.


if TYPE_CHECKING:
    E = TypeVar("E", bound=Event)

logger: logging.Logger = logging.getLogger("happyhorse_async")

Listener = Callable[[Any], object]

MOST_ORIGINS = 32_768
"""Tasks of which it is remembered whose they are; the oldest are forgotten first."""


class Origin(NamedTuple):
    """Whose an event is."""

    idempotency_key: str | None
    tag: Any


_ORIGIN: ContextVar[Origin | None] = ContextVar("happyhorse_async_origin", default=None)


RESENDS: ContextVar[int] = ContextVar("happyhorse_async_resends", default=0)
"""How often the HTTP request that is about to leave has left before."""


class sent_before:  # noqa: N801 it is used like a function; as a generator it would cost more
    """Say of the HTTP request in here, in this context, how often it has left before."""

    __slots__ = ("_before", "_times")

    def __init__(self, times: int) -> None:
        self._times = times

    def __enter__(self) -> None:
        self._before = RESENDS.set(self._times)

    def __exit__(self, *error: object) -> None:
        RESENDS.reset(self._before)


class _Unheard(dict[str, Any]):
    """Facts that nobody wants: nothing is kept."""

    def __setitem__(self, name: str, value: Any) -> None: ...

    def update(self, *facts: Any, **more: Any) -> None: ...


UNHEARD: AbstractContextManager[dict[str, Any]] = nullcontext(_Unheard())
"""The facts of work to whose end nobody listens."""


class on_behalf_of:  # noqa: N801 as above
    """Mark every event that is emitted in here, in this context, as one caller's."""

    __slots__ = ("_before", "_origin")

    def __init__(self, idempotency_key: str | None, tag: Any) -> None:
        self._origin = Origin(idempotency_key, tag)

    def __enter__(self) -> None:
        self._before = _ORIGIN.set(self._origin)

    def __exit__(self, *error: object) -> None:
        _ORIGIN.reset(self._before)


class Events:
    """The dispatcher: hands each event to the listeners that asked for its kind, at once and in
    order.

    Listeners are called in the event loop and must not block. One that raises is logged and does
    not disturb the work.
    """

    def __init__(self) -> None:
        self._listeners: list[tuple[tuple[type[object], ...], Listener]] = []
        self._origins: OrderedDict[str, Origin] = OrderedDict()
        self._numbers = itertools.count(1)
        self.traced: bool = False
        """Whether anyone listens to beginnings and ends."""

    def subscribe(self, listener: Callable[[E], object], *kinds: type[E]) -> Callable[[], None]:
        """Call `listener` with every event of the kinds given; return a function that ends it.

        No kinds: every event but `Began` and `Ended`.
        """
        entry: tuple[tuple[type[object], ...], Listener] = (tuple(kinds), listener)
        self._listeners.append(entry)
        self._look()

        def unsubscribe() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)
            self._look()

        return unsubscribe

    def _look(self) -> None:
        asked = [kinds for kinds, _ in self._listeners if kinds]
        self.traced = any(issubclass(Ended, kinds) for kinds in asked)

    def __bool__(self) -> bool:
        """Whether anyone listens: code on hot paths makes no event when nobody does."""
        return bool(self._listeners)

    def work(
        self, work: Work, *, task_id: str | None = None, key: str | None = None, **facts: Any
    ) -> AbstractContextManager[dict[str, Any]]:
        """Emit `Began` and `Ended` around what is done in here; give the facts, to add to them."""
        if not self.traced:
            return UNHEARD
        began = Began(
            work=work,
            number=next(self._numbers),
            task_id=task_id,
            idempotency_key=key,
            facts=dict(facts),
        )
        return self._traced(began, facts)

    @contextmanager
    def _traced(self, began: Began, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        failure: BaseException | None = None
        self.emit(began)
        begun = time.perf_counter()
        try:
            yield facts
        except BaseException as error:
            failure = error
            raise
        finally:
            ended = Ended(
                work=began.work,
                number=began.number,
                task_id=began.task_id,
                idempotency_key=began.idempotency_key,
                facts=facts,
                seconds=time.perf_counter() - begun,
                error=failure,
            )
            self.emit(ended)

    def belongs(self, task_id: str, idempotency_key: str | None, tag: Any) -> None:
        """Remember whose a task is, since the poller later learns of it for all callers."""
        self._origins.pop(task_id, None)
        self._origins[task_id] = Origin(idempotency_key, tag)
        if len(self._origins) > MOST_ORIGINS:
            self._origins.popitem(last=False)

    def emit(self, event: Event) -> None:
        """Hand an event to all who asked for its kind, with the key and the tag of its caller."""
        if not self._listeners:
            return
        origin = self._origins.get(event.task_id or "")
        if origin is None or isinstance(event, Submitted):
            origin = _ORIGIN.get()  # of a key that is used again, the present caller counts
        if origin is not None:
            key = event.idempotency_key or origin.idempotency_key
            event = attrs.evolve(event, idempotency_key=key, tag=origin.tag)
        if isinstance(event, Submitted):
            self.belongs(event.task_id, event.idempotency_key, event.tag)
        for kinds, listener in tuple(self._listeners):
            if isinstance(event, kinds) if kinds else not isinstance(event, Began):
                try:
                    listener(event)
                except Exception:
                    logger.exception(
                        "a listener failed on %s",
                        type(event).__name__,
                        extra={"action": "listener_failed"},
                    )
