"""Whether to try again, after how long, and whether the outcome of a try is certain.

Retrying is data plus arithmetic: nothing here waits, and randomness is passed in. May import errors
and config.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from .._config import RetryPolicy
from ..errors import (
    APIStatusError,
    HappyHorseError,
    RateLimitError,
    TransportError,
    UnreadableAnswerError,
)


class Certainty(StrEnum):
    """Whether a submission that failed can have been accepted."""

    NEVER_LEFT = "never left"
    """No connection stood, or nothing was written to it."""
    REFUSED = "refused"
    """The service itself said no."""
    UNKNOWN = "unknown"
    """It left, and no answer came that can be trusted."""


PENDING_OUTCOME = "paid_outcome_unknown"
"""The service's code for "the first submission with this key is still being decided, ask again with
the same key"."""
CONFLICT = "idempotency_conflict"
"""The service's code for "this key was used before with another body"."""
REFUSALS = frozenset(
    {
        "invalid_request",
        "invalid_task_id",
        "unauthorized",
        "insufficient_quota",
        "quota_exceeded",
        "model_access_denied",
        "permission_denied",
        "task_not_found",
        "rate_limit_exceeded",
        CONFLICT,
    }
)
"""The codes with which the service's reference refuses: they say no also inside of an answer whose
HTTP status is good."""
MOVED = frozenset({301, 307, 308})
"""Redirects that ask for the same request elsewhere: where they come from, nothing was done."""


def certainty_of(error: HappyHorseError) -> Certainty:
    """Sort a failed submission by whether it can have been accepted, and so charged."""
    if isinstance(error, TransportError):
        return Certainty.UNKNOWN if error.sent else Certainty.NEVER_LEFT
    if isinstance(error, APIStatusError):
        return _certainty_of_status(error)
    if isinstance(error, UnreadableAnswerError):
        return Certainty.REFUSED if error.status in MOVED else Certainty.UNKNOWN
    return Certainty.NEVER_LEFT


def _certainty_of_status(error: APIStatusError) -> Certainty:
    if is_pending(error):
        return Certainty.UNKNOWN
    if error.status in (408, 503):
        # With the service's own error object it comes from the service; without it, from some
        # gateway in front of it.
        return Certainty.REFUSED if error.own_body else Certainty.UNKNOWN
    if error.status >= 500:
        return Certainty.UNKNOWN
    # A good status hides what the trouble is: an "internal_error" in it is as uncertain as a 500.
    return Certainty.REFUSED if error.status >= 400 or error.code in REFUSALS else Certainty.UNKNOWN


def is_pending(error: HappyHorseError) -> bool:
    """Whether the service says that a submission with this key is still being decided.

    Codes were seen as integers once; then a 409 does not say which of its two meanings it has, and
    asking again is the safe reading.
    """
    if not isinstance(error, APIStatusError):
        return False
    return error.code == PENDING_OUTCOME or (
        error.status == 409 and error.code != CONFLICT and (not error.code or error.code.isdigit())
    )


def worth_retrying(error: HappyHorseError) -> bool:
    """Whether a call that changes nothing (a read, an upload) can work when it is made again: lost
    answers, 429, and 500 and up.
    """
    if isinstance(error, APIStatusError):
        return error.status == 429 or error.status >= 500
    return isinstance(error, (TransportError, UnreadableAnswerError))


def pause_before(
    policy: RetryPolicy, attempt: int, error: HappyHorseError | None, random: float
) -> float:
    """Seconds to wait before try number `attempt` + 1.

    Doubles from `policy.first_pause` up to `policy.longest_pause`, of which the share
    `policy.jitter` is random (`random` is 0 to 1). A Retry-After of the service is never undercut.
    """
    pause = min(policy.longest_pause, policy.first_pause * 2 ** min(attempt - 1, 32))
    pause *= 1 - policy.jitter * random
    asked = error.retry_after if isinstance(error, APIStatusError) else None
    return (
        pause
        if asked is None
        else max(asked, pause if isinstance(error, RateLimitError) and asked == 0 else asked)
    )


# --- submissions: what follows from a failed try --------------------------------------------------


class Reaction(StrEnum):
    """What a submission does after a failed try."""

    AGAIN = "again"
    """Sent again with the same key, after a pause."""
    LOOK = "look"
    """Looked for among the account's recent tasks: it may have been accepted, and must not be sent
    again."""
    STOP = "stop"
    """Given up: it has certainly not been accepted."""


class Failures(NamedTuple):
    """The failed attempts of one submission so far."""

    certain: int = 0
    """Tries that certainly changed nothing, 429 aside."""
    replays: int = 0
    """Times that it was sent again after a try whose outcome is unknown."""
    asked: int = 0
    """Times that the service said that it is still deciding."""
    held: float = 0.0
    """Seconds that 429 answers have held it off."""
    unknown: HappyHorseError | None = None
    """The last try of which it is not known whether it was accepted. As long as there is one, no
    refusal of a later try proves anything about the earlier ones."""

    @property
    def so_far(self) -> int:
        """Return how many attempts have failed, 429 aside."""
        return self.certain + self.replays + self.asked


NO_FAILURES = Failures()


class Step(NamedTuple):
    """The decision after a failed try."""

    what: Reaction
    failures: Failures
    pause: float = 0.0
    """Seconds; after a 429 all submissions of the session pause."""


def next_step(
    policy: RetryPolicy, failures: Failures, error: HappyHorseError, *, storm: int, random: float
) -> Step:
    """Decide what follows from a failed try; `storm` is how many 429 came in a row, over the whole
    session.
    """
    certainty = certainty_of(error)
    if certainty is Certainty.UNKNOWN:
        return _after_unknown(policy, failures._replace(unknown=error), error, random)
    give_up = Reaction.STOP if failures.unknown is None else Reaction.LOOK
    if isinstance(error, RateLimitError):
        pause = pause_before(policy, storm + 1, error, random)
        failures = failures._replace(held=failures.held + pause)
        patient = policy.patience is None or failures.held <= policy.patience
        return Step(Reaction.AGAIN, failures, pause) if patient else Step(give_up, failures)
    failures = failures._replace(certain=failures.certain + 1)
    again = certainty is Certainty.NEVER_LEFT or (
        isinstance(error, APIStatusError) and error.status == 503
    )
    if (
        again
        and isinstance(error, (TransportError, APIStatusError))
        and failures.certain < policy.attempts
    ):
        return Step(Reaction.AGAIN, failures, pause_before(policy, failures.certain, error, random))
    return Step(give_up, failures)


def _after_unknown(
    policy: RetryPolicy, failures: Failures, error: HappyHorseError, random: float
) -> Step:
    if is_pending(error):
        # Asking again is what the service wants here, and does not use a replay up; but no replays
        # means that nothing is sent again.
        failures = failures._replace(asked=failures.asked + 1)
        again, count = failures.asked < policy.attempts and policy.replays > 0, failures.asked
    else:
        again, count = failures.replays < policy.replays, failures.replays + 1
        failures = failures._replace(replays=failures.replays + again)
    return (
        Step(Reaction.AGAIN, failures, pause_before(policy, count, error, random))
        if again
        else Step(Reaction.LOOK, failures)
    )
