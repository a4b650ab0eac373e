"""Whether to send again, after how long, and whether the outcome of an attempt is certain.

Retrying is data plus arithmetic: nothing here waits, and randomness is passed in. May import
errors, config, and the rules beside it.
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
from .refusals import ADMISSION_CODES, CAPACITY_CODES

# --- What proves that nothing was accepted --------------------------------------------------------


class Certainty(StrEnum):
    """Whether a failed attempt of a submission can have been accepted."""

    NEVER_LEFT = "never left"
    """No connection stood, or nothing was written to it."""
    REFUSED = "refused"
    """The service itself said no, in a way that proves it."""
    UNKNOWN = "unknown"
    """It left, and nothing proves that it was not accepted."""


REFUSALS = frozenset({400, 401, 402, 403, 404, 413, 422})
"""HTTP statuses with which the service refuses a request before it accepts it."""
RATE_LIMITED = "rate_limit_exceeded"
"""The service's code for "too many requests": a 429 with another code may come from elsewhere."""
PENDING_OUTCOME = "paid_outcome_unknown"
"""The service's code for "the first submission with this key is still being decided, ask again with
the same key"."""
CONFLICT = "idempotency_conflict"
"""The service's code for "this key was used before with another body"."""


def certainty_of(error: HappyHorseError) -> Certainty:
    """Sort a failed attempt by whether it can have been accepted, and so charged."""
    if isinstance(error, TransportError):
        return Certainty.UNKNOWN if error.sent else Certainty.NEVER_LEFT
    if isinstance(error, APIStatusError):
        return Certainty.REFUSED if _proves_refusal(error) else Certainty.UNKNOWN
    if isinstance(error, UnreadableAnswerError):
        return Certainty.UNKNOWN
    return Certainty.NEVER_LEFT


def _proves_refusal(error: APIStatusError) -> bool:
    """Whether a response proves that its own request was not accepted.

    Only the service's own error object counts. Any other body may come from a gateway that knows
    nothing of what happened behind it.
    """
    if not error.own_body or is_pending(error) or error.code == CONFLICT:
        return False
    if error.code in ADMISSION_CODES or error.status in REFUSALS:
        return True
    return error.status == 429 and error.code == RATE_LIMITED


def is_pending(error: HappyHorseError) -> bool:
    """Whether the service says that a submission with this key is still being decided.

    Codes were seen as integers once. Then a 409 does not say which of its two meanings it has, and
    asking again is the safe reading. Other services of this kind say "idempotency_key_in_use" or
    "request_in_progress".
    """
    if not isinstance(error, APIStatusError):
        return False
    code = error.code
    return code == PENDING_OUTCOME or (
        error.status == 409
        and (not code or code.isdigit() or code.endswith(("_in_use", "_in_progress")))
    )


# --- Pauses ---------------------------------------------------------------------------------------

LONGEST_ASKED = 600.0
"""Seconds of a Retry-After that are waited in one go.

Links die within a day, and one wrong number must not stop a session. After a longer one the service
is asked again after the policy's longest pause.
"""
SHORTEST_ASKED = 0.1
"""Seconds of a Retry-After; a shorter one says as little as 0, and kept to it would be a flood."""


_PASSING = frozenset({408, 421, 425, 429})
"""HTTP statuses below 500 that ask for the same request again: it came too slowly, on the wrong
connection, too early or too often (RFC 9110, 8470 and 6585)."""


_ABSENT = frozenset({404, 405})
"""Pages that may say that the server lacks the call."""
_TOO_LARGE = 413
"""A page with it says what a gateway never lets through."""


def worth_retrying(error: HappyHorseError, *, promised: bool = False) -> bool:
    """Whether a call that changes nothing (a read, an upload) can work when it is made again. It
    can after lost responses, 408, 421, 425, 429, 500 and up, and a lack of capacity.

    It also can after a page that is not the service's: a gateway or a firewall may let the next
    request through. `promised`: every server has the call, so even a 404 page is no last word.
    """
    if not isinstance(error, APIStatusError):
        return isinstance(error, (TransportError, UnreadableAnswerError))
    if error.status in _PASSING or error.status >= 500 or error.code in CAPACITY_CODES:
        return True
    if error.own_body or error.status == _TOO_LARGE:
        return False
    return promised or error.status not in _ABSENT


def pause_before(
    policy: RetryPolicy, attempt: int, error: HappyHorseError | None, random: float
) -> float:
    """Return the seconds to wait before attempt number `attempt` + 1.

    Doubles from `policy.first_pause` up to `policy.longest_pause`, of which the share
    `policy.jitter` is random (`random` is 0 to 1). A Retry-After of the service is not undercut, up
    to `LONGEST_ASKED`. Of a 429 a shorter one wins too. Of all else it is no promise that the next
    try succeeds, and would use up all tries within a moment.
    """
    shortened: float = 1 - policy.jitter * random
    pause: float = (
        min(policy.longest_pause, policy.first_pause * 2 ** min(attempt - 1, 32)) * shortened
    )
    asked = error.retry_after if isinstance(error, APIStatusError) else None
    if asked is None:
        return pause
    if asked > LONGEST_ASKED:
        return policy.longest_pause * shortened
    short = asked >= SHORTEST_ASKED and isinstance(error, RateLimitError)
    return asked if short else max(asked, pause)


# --- Submissions: what follows from a failed attempt ----------------------------------------------


class Reaction(StrEnum):
    """What a submission does after a failed attempt."""

    AGAIN = "again"
    """It is sent again with the same key, after a pause."""
    LOOK = "look"
    """It may have been accepted and must not be sent again: it is looked for among the account's
    recent tasks."""
    STOP = "stop"
    """It is given up: this attempt was certainly not accepted, and no earlier one is in doubt."""


class Failures(NamedTuple):
    """The failed attempts of one submission so far."""

    certain: int = 0
    """Attempts that certainly changed nothing, 429 aside."""
    replays: int = 0
    """Times that it was sent again after an attempt whose outcome is unknown."""
    asked: int = 0
    """Times that the service itself said that it cannot say yet."""
    held: float = 0.0
    """Seconds that 429 responses have held it off."""
    unknown: HappyHorseError | None = None
    """The last attempt that may have been accepted. As long as there is one, no refusal of a later
    attempt proves anything about the earlier ones."""

    @property
    def so_far(self) -> int:
        """Return how many attempts have failed, 429 aside."""
        return self.certain + self.replays + self.asked


NO_FAILURES = Failures()


class Step(NamedTuple):
    """The decision after a failed attempt."""

    what: Reaction
    failures: Failures
    pause: float = 0.0
    """Seconds; after a 429 all submissions of the session pause."""


def next_step(
    policy: RetryPolicy, failures: Failures, error: HappyHorseError, *, storm: int, random: float
) -> Step:
    """Decide what follows from a failed attempt.

    `storm` is how many 429 came in a row, over the whole session.
    """
    certainty = certainty_of(error)
    doubted = failures.unknown is not None
    if certainty is Certainty.UNKNOWN:
        failures = failures._replace(unknown=error)
    give_up = Reaction.LOOK if doubted else Reaction.STOP
    if isinstance(error, APIStatusError) and error.code == CONFLICT:
        # Sent again it would conflict again. What was accepted under the key is not this request.
        return Step(give_up, failures)
    if isinstance(error, RateLimitError):
        return _after_429(policy, failures, error, storm=storm, random=random)
    if certainty is Certainty.UNKNOWN:
        return _after_unknown(policy, failures, error, random)
    failures = failures._replace(certain=failures.certain + 1)
    passing = isinstance(error, TransportError) or (
        isinstance(error, APIStatusError) and error.code in CAPACITY_CODES
    )
    if passing and failures.certain < policy.attempts:
        return Step(Reaction.AGAIN, failures, pause_before(policy, failures.certain, error, random))
    return Step(give_up, failures)


def _after_429(
    policy: RetryPolicy, failures: Failures, error: RateLimitError, *, storm: int, random: float
) -> Step:
    """Wait the limit out, for as long as the policy has patience.

    A 429 that proves nothing is waited out as well, unless nothing may be sent again. One that is
    not the service's own counts: a gateway cannot keep a submission for ever.
    """
    give_up = Reaction.STOP if failures.unknown is None else Reaction.LOOK
    pause = pause_before(policy, storm + 1, error, random)
    wait = max(pause, error.retry_after or 0.0)
    if policy.patience is not None and failures.held + wait > policy.patience:
        return Step(give_up, failures)
    failures = failures._replace(held=failures.held + pause)
    if certainty_of(error) is Certainty.UNKNOWN:
        if not error.own_body:
            failures = failures._replace(asked=failures.asked + 1)
        if not policy.replays or failures.asked >= policy.attempts:
            return Step(give_up, failures)
    return Step(Reaction.AGAIN, failures, pause)


def _after_unknown(
    policy: RetryPolicy, failures: Failures, error: HappyHorseError, random: float
) -> Step:
    if _asks_for_patience(error):
        # That does not use a replay up. But no replays means that nothing is sent again.
        failures = failures._replace(asked=failures.asked + 1)
        again, count = failures.asked < policy.attempts and policy.replays > 0, failures.asked
    else:
        again, count = failures.replays < policy.replays, failures.replays + 1
        failures = failures._replace(replays=failures.replays + again)
    if not again:
        return Step(Reaction.LOOK, failures)
    return Step(Reaction.AGAIN, failures, pause_before(policy, count, error, random))


def _asks_for_patience(error: HappyHorseError) -> bool:
    """Whether the service itself says that it cannot say yet, or not take the request yet."""
    if not isinstance(error, APIStatusError):
        return False
    busy = error.status == 503 or error.code in CAPACITY_CODES
    return is_pending(error) or (busy and error.own_body)
