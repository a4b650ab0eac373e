"""Whether to try again, after how long, and whether the outcome is certain.

Retrying is data plus arithmetic: nothing here waits, and randomness is passed in. May import errors and config.
"""

from __future__ import annotations

from enum import StrEnum

from ..config import RetryPolicy
from ..errors import APIStatusError, HappyHorseError, RateLimitError, TransportError, UnreadableAnswerError


class Certainty(StrEnum):
    """Whether a submission that failed can have been accepted."""

    NEVER_LEFT = "never left"
    """No connection stood, or nothing was written to it."""
    REFUSED = "refused"
    """The service itself said no."""
    UNKNOWN = "unknown"
    """It left, and no answer came that can be trusted."""


PENDING_OUTCOME = "paid_outcome_unknown"
"""The service's code for "the first submission with this key is still being decided, ask again with the same key"."""


def certainty_of(error: HappyHorseError) -> Certainty:
    """Sort a failed submission by whether it can have been accepted, and so charged."""
    if isinstance(error, TransportError):
        return Certainty.UNKNOWN if error.sent else Certainty.NEVER_LEFT
    if isinstance(error, APIStatusError):
        return _certainty_of_status(error)
    return Certainty.UNKNOWN if isinstance(error, UnreadableAnswerError) else Certainty.NEVER_LEFT


def _certainty_of_status(error: APIStatusError) -> Certainty:
    if error.code == PENDING_OUTCOME:
        return Certainty.UNKNOWN
    if error.status == 503:
        # A 503 with the service's own error object comes from the service; without it, from some gateway in front of it.
        return Certainty.REFUSED if error.own_body else Certainty.UNKNOWN
    if error.status >= 500:
        return Certainty.UNKNOWN
    return Certainty.REFUSED if error.status >= 400 or error.own_body else Certainty.UNKNOWN


def worth_retrying(error: HappyHorseError) -> bool:
    """Whether a call that changes nothing (a read, an upload) can work when it is made again: lost answers, 429, and 500 and up."""
    if isinstance(error, APIStatusError):
        return error.status == 429 or error.status >= 500
    return isinstance(error, (TransportError, UnreadableAnswerError))


def pause_before(policy: RetryPolicy, attempt: int, error: HappyHorseError | None, random: float) -> float:
    """Seconds to wait before try number `attempt` + 1.

    Doubles from `policy.first_pause` up to `policy.longest_pause`, of which the share `policy.jitter` is random (`random` is 0 to 1).
    A Retry-After of the service is never undercut.
    """
    pause = min(policy.longest_pause, policy.first_pause * 2 ** min(attempt - 1, 32))
    pause *= 1 - policy.jitter * random
    asked = error.retry_after if isinstance(error, APIStatusError) else None
    return pause if asked is None else max(asked, pause if isinstance(error, RateLimitError) and asked == 0 else asked)
