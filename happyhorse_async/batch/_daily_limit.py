"""The wait of a whole run until the key's daily limit resets."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import time

import attrs

from .._dispatcher import Events
from ..errors import APIStatusError, HappyHorseError
from ..events import Event

logger = logging.getLogger("happyhorse_async")

LONGEST_SLEEP = 60.0
"""Seconds after which the clock is looked at again: a machine that was asleep sleeps on in its
timers."""
LATE = 2.0
"""Seconds after the reset: the service's times are whole seconds."""
HOUR = 3600.0
"""Where nobody says when the limit resets, the run asks again at each full hour."""
LATE_RESET = 300.0
"""Seconds between questions in the hour after a reset. The service may be late with it, and a
refusal that is believed then costs a day."""


@attrs.frozen(kw_only=True)
class WaitingForReset(Event):
    """A batch has met the key's daily limit, and submits nothing until it resets."""

    until: datetime
    """When it goes on, by this machine's clock, in UTC."""
    error: HappyHorseError
    """The service's refusal; its `details` say more."""


class DailyLimit:
    """What a run knows of its key's daily limit."""

    def __init__(self, events: Events, pause: Callable[[float], Awaitable[bool]]) -> None:
        """`pause` waits for some seconds, and ends early when the run stops."""
        self._events = events
        self._pause = pause
        self._until = 0.0
        self._reset: float | None = None
        """The reset that was waited for, until something is accepted."""

    def accepted(self) -> None:
        """Take note of a submission that was accepted: the limit has been reset."""
        self._reset = None

    def met(self, error: HappyHorseError) -> None:
        """Take note of a refusal."""
        now = time()
        until = _reset_after(error, now)
        if self._reset is not None and self._reset < now < self._reset + HOUR:
            until = min(until, now + LATE_RESET)
        elif self._reset is None or now >= self._reset:
            self._reset = until
        if until <= self._until:
            return
        said_before = self._until > now
        self._until = until
        if said_before:
            return  # another job has met the same limit
        moment = datetime.fromtimestamp(until, UTC)
        logger.warning(
            "the key's daily limit is used up: nothing is submitted until %s UTC",
            f"{moment:%Y-%m-%d %H:%M}",
            extra={"action": "waiting_for_reset"},
        )
        if self._events:
            self._events.emit(WaitingForReset(until=moment, error=error))

    async def passed(self) -> None:
        """Wait until no limit is known to hold, or until the run stops."""
        while (left := self._until - time()) > 0:
            if not await self._pause(min(left, LONGEST_SLEEP)):
                return


def _reset_after(error: HappyHorseError, now: float) -> float:
    """Return when a limit resets, by this machine's clock: only the service's own span is taken."""
    details = error.details if isinstance(error, APIStatusError) else None
    if details is None or details.resets_at is None:
        return now - now % HOUR + HOUR
    return now + max(0.0, (details.resets_at - details.as_of).total_seconds()) + LATE
