"""The one dispatcher of a session: it hands events to listeners, and knows whose each event is.

Apart from the events themselves: making their classes takes a quarter of the package's loading
time. Nobody needs them before somebody listens.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import attrs

from ._recent import Recent
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .events import Began, Event, Work

    E = TypeVar("E", bound=Event)

logger: logging.Logger = logging.getLogger("happyhorse_async")

Listener = Callable[[Any], object]

MOST_ORIGINS = 65_536
"""Tasks of which it is remembered whose they are, or half of these; the oldest are forgotten
first."""


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
        # A set value costs more than the look whether it is there already, as it mostly is.
        self._before = RESENDS.set(self._times) if RESENDS.get() != self._times else None

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            RESENDS.reset(self._before)


class _Unheard(dict[str, Any]):
    """Facts that nobody wants: nothing is kept."""

    def __setitem__(self, name: str, value: Any) -> None: ...

    def update(self, *facts: Any, **more: Any) -> None:
        """Keep nothing."""


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
    not disturb the work. An `Ended` goes to the last listener first, as context managers nest: each
    takes back what it has set, and finds what it had found.
    """

    def __init__(self) -> None:
        self._listeners: list[tuple[tuple[type[object], ...], Listener]] = []
        self._origins: Recent[Origin] = Recent(MOST_ORIGINS)
        self._numbers = itertools.count(1)
        self.traced: bool = False
        """Whether anyone listens to beginnings and ends."""

    def subscribe(self, listener: Callable[[E], object], *kinds: type[E]) -> Callable[[], None]:
        """Call `listener` with every event of the kinds given; return a function that ends it.

        No kinds: every event but `Began` and `Ended`.
        """
        if not callable(listener) or not all(map(_can_be_heard, kinds)):
            raise ConfigurationError(
                "subscribe: expected a function of one event, and then classes of "
                f"happyhorse_async.events, got {(listener, *kinds)!r:.200}"
            )
        if iscoroutinefunction(listener) or iscoroutinefunction(type(listener).__call__):
            raise ConfigurationError(
                f"subscribe: expected a function that nobody has to await, got {listener!r:.200}",
                next_step="Give a plain one; for what takes time it may start a task of its own.",
            )
        entry: tuple[tuple[type[object], ...], Listener] = (tuple(kinds), listener)
        self._listeners.append(entry)
        self._look()

        def unsubscribe() -> None:
            """End it; a second time does nothing."""
            # Not by `==`: a listener may be subscribed twice, or be equal to another one.
            self._listeners = [one for one in self._listeners if one is not entry]
            self._look()

        return unsubscribe

    def _look(self) -> None:
        asked = [kinds for kinds, _ in self._listeners if kinds]
        if not asked:
            self.traced = False
            return
        from .events import Ended

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
        from .events import Began

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
        from .events import Ended

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
        self._origins.remember(task_id, Origin(idempotency_key, tag))

    def emit(self, event: Event) -> None:
        """Hand an event to all who asked for its kind, with the key and the tag of its caller."""
        if not self._listeners:
            return
        from .events import Began, Ended, Submitted

        origin = self._origins.get(event.task_id or "")
        if origin is None or isinstance(event, Submitted):
            origin = _ORIGIN.get()  # of a key that is used again, the present caller counts
        if origin is not None:
            key = event.idempotency_key or origin.idempotency_key
            event = attrs.evolve(event, idempotency_key=key, tag=origin.tag)
        if isinstance(event, Submitted):
            self.belongs(event.task_id, event.idempotency_key, event.tag)
        heard = tuple(self._listeners)
        for kinds, listener in reversed(heard) if isinstance(event, Ended) else heard:
            if isinstance(event, kinds) if kinds else not isinstance(event, Began):
                _tell(listener, event)


def _can_be_heard(kind: object) -> bool:
    """Whether some event is of a kind; of any other a listener would never hear."""
    from .events import Event

    return isinstance(kind, type) and (issubclass(kind, Event) or issubclass(Event, kind))


def _tell(listener: Listener, event: Event) -> None:
    try:
        listener(event)
    except (KeyboardInterrupt, SystemExit):
        raise  # these are meant for the program
    except BaseException:
        # Also a `CancelledError`, as of a cancelled future that a listener looks at, and the
        # `pytest.fail` of a test: nobody has cancelled the work.
        logger.exception(
            "a listener failed on %s", type(event).__name__, extra={"action": "listener_failed"}
        )
