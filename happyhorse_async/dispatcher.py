"""The one dispatcher of a session: hands its typed events to whoever listens; the code that works knows none of them.

Apart from the events themselves, so that a session to which nobody listens need not even load them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .events import Event

    E = TypeVar("E", bound=Event)

logger = logging.getLogger("happyhorse_async")

Listener = Callable[[Any], None]


class Events:
    """The dispatcher: hands each event to the listeners that asked for its kind, at once and in order.

    Listeners are called in the event loop and must not block. One that raises is logged and does not disturb the work.
    """

    def __init__(self) -> None:
        self._listeners: list[tuple[tuple[type[object], ...], Listener]] = []

    def subscribe(self, listener: Callable[[E], None], *kinds: type[E]) -> Callable[[], None]:
        """Call `listener` with every event of the kinds given (none: every event); gives a function that ends it."""
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
                    logger.exception("a listener failed on %s", type(event).__name__, extra={"action": "listener_failed"})
