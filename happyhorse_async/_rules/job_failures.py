"""What the end of a try means for a job of a batch: go on, wait and try again, give up the job, or
stop the whole batch.

Pure functions over errors and tasks. May import the errors, the models, and the rules beside it.
"""

from __future__ import annotations

from decimal import Decimal
from enum import Enum

from .._models import Task
from ..errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    DownloadError,
    HappyHorseError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    LedgerError,
    LinkExpiredError,
    NotFoundError,
    PermissionDeniedError,
    PriceUnavailableError,
    SessionClosedError,
    SubmissionOutcomeUnknownError,
    TaskNotFoundError,
)
from . import lifecycle, retry


class Next(Enum):
    """What there is to do with a job whose try has failed."""

    GIVE_UP = "give up"
    """The job has failed; the others go on."""
    LATER = "later"
    """Try again after a pause. When that does not help, something is wrong that the other jobs will
    meet too: stop the batch."""
    STOP = "stop"
    """The next job would fail in the same way: stop the batch, and leave this one as it is."""
    LEAVE = "leave"
    """Neither done nor lost: leave it to the next run."""


# The same for every job of the account, and only the user can change it.
_FOR_ALL = (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    LedgerError,
    NotFoundError,
    PermissionDeniedError,
    PriceUnavailableError,
    SessionClosedError,
)


def after_submission(error: HappyHorseError) -> Next:
    """Judge an upload or a submission that was not accepted, or not certainly."""
    if isinstance(error, SubmissionOutcomeUnknownError):
        return Next.LATER
    if isinstance(error, _FOR_ALL):
        return Next.STOP
    return Next.LATER if retry.worth_retrying(error) else Next.GIVE_UP


def may_be_paid(error: HappyHorseError) -> bool:
    """Whether a submission that ended with this error can have been accepted; a key in use for
    another body proves that one was.
    """
    return (
        isinstance(error, (SubmissionOutcomeUnknownError, IdempotencyConflictError))
        or error.charged != "no"
    )


def proves_absence(error: HappyHorseError) -> bool:
    """Whether the refusal of a replay says that no earlier try was accepted either.

    A service that knows the key gives its task back; so one that finds fault with the body does not
    know it. No other failure says anything about earlier tries: whether the account has credits, or
    whether a connection stands, is another matter now.
    """
    return (
        isinstance(error, BadRequestError)
        and not isinstance(error, IdempotencyConflictError)
        and not may_be_paid(error)
    )


def after_watching(error: HappyHorseError) -> Next:
    """Judge a wait that ended without the task's end."""
    if isinstance(error, TaskNotFoundError):
        return Next.GIVE_UP
    return Next.STOP if isinstance(error, _FOR_ALL) else Next.LEAVE


def after_download(error: HappyHorseError) -> Next:
    """Judge a download that failed; as long as the link can be alive the video is not lost."""
    if isinstance(error, LinkExpiredError):
        return Next.GIVE_UP
    if isinstance(error, _FOR_ALL) or type(error) is DownloadError:
        # A bare DownloadError is this machine's: no room, no right to write. Paying for more videos
        # would not help.
        return Next.STOP
    return Next.LATER


def code_of(error: HappyHorseError) -> str:
    """Give a short word for an error: the service's code, or the error's own name."""
    code = (
        getattr(error, "code", "")
        if isinstance(error, APIStatusError) or hasattr(error, "code")
        else ""
    )
    return str(code) or type(error).__name__.removesuffix("Error")


def settled(task: Task, estimate: Decimal) -> Decimal:
    """Say what an ended task has cost, in credits.

    A video without a reported charge costs its estimate. A task without a video is free unless its
    ledger facts prove the opposite.
    """
    billed = task.billing.charged_credits if task.billing is not None else None
    reported = task.usage.credits_used if task.usage.credits_used is not None else billed
    if lifecycle.is_completed(task):
        return estimate if reported is None else reported
    return (reported or estimate) if lifecycle.charged(task) == "yes" else Decimal(0)
