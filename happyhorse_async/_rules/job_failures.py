"""What follows when a job of a batch fails somewhere: one function and its table, like `retry`.

Pure functions over errors and facts. May import the errors, the models, and the rules beside it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from ..errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    DestinationExistsError,
    DownloadError,
    HappyHorseError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    LedgerError,
    LinkExpiredError,
    NotAVideoError,
    NotFoundError,
    PermissionDeniedError,
    PriceUnavailableError,
    SessionClosedError,
    SubmissionOutcomeUnknownError,
    TaskFailedError,
    TaskNotFoundError,
    TransportError,
    VideoTooLargeError,
)
from . import refusals, retry, wire
from .lifecycle import JobState


class Stage(StrEnum):
    """How far a job had come when it failed, which says what is at stake."""

    UNSENT = "unsent"
    """Nothing that may cost money has been accepted: that is certain."""
    DOUBT = "doubt"
    """Its request may have been accepted, in this try or in an earlier one."""
    WATCHED = "watched"
    """It is paid for, and the service makes its video."""
    ENDED = "ended"
    """Its task has ended without a video."""
    FETCHED = "fetched"
    """The service has its video, which is not here yet."""


class JobTrouble(StrEnum):
    """What is wrong, as far as it matters for what to do."""

    ALL = "all"
    """The account, the machine or the session: every other job would fail in the same way."""
    DAILY = "daily"
    """The key's daily limit is used up, and it is waited for the next day."""
    PASSING = "passing"
    """It can work when it is tried again."""
    LOST = "lost"
    """The request left, and no answer came that can be trusted."""
    UNPROVEN = "unproven"
    """The same, and asking again would tell nothing, or could be paid twice."""
    BARRED = "barred"
    """The request left, and something in front of the service refused it, such as a firewall."""
    GONE = "gone"
    """The service denies the task, or its link gives nothing: within days that is not final."""
    OVER = "over"
    """The same, after a time in which no video can have been kept."""
    FINAL = "final"
    """This job cannot work as it is."""


class Next(StrEnum):
    """What to do with a job whose try has failed."""

    AGAIN = "again"
    """Wait, then go on from where it stands; its key stays."""
    RESET = "reset"
    """Wait until the key's daily limit resets, then go on from where it stands; its key stays."""
    ANEW = "anew"
    """Wait, then make its next attempt: another task with another key, which costs again."""
    FAILED = "failed"
    """It has ended without a video."""
    UNKNOWN = "unknown"
    """It may be paid for, and nothing more is sent without the user's word."""
    LEFT = "left"
    """Tell it as it stands; the next run goes on with it."""
    HELD = "held"
    """Leave it untold as it stands, for the next run."""


class JobStep(NamedTuple):
    """What follows from a failure."""

    next: Next
    stops: bool = False
    """Nothing new is submitted any more: the other jobs would meet the same."""


class Facts(NamedTuple):
    """What else counts beside the error."""

    state: JobState
    sent_before: bool = False
    """Its key may have left before the try that failed, so that a refusal of it proves nothing."""
    tries_left: bool = True
    """It may be tried once more in this run."""
    attempts_left: bool = True
    """Another task may be bought for it."""
    replays: bool = True
    """What may be accepted already may be sent again with its key."""
    stopping: bool = False
    """The run submits nothing new."""
    waits: bool = True
    """The run waits until the key's daily limit resets, when that is used up."""
    others_go_on: bool = False
    """Another job was accepted since this one first failed: so its trouble is its own."""
    over: bool = False
    """So much time has passed that no video can have been kept, see `is_over`."""
    stale_upload: bool = False
    """Its first frame was too old when it was given to the service, which may be all that is wrong.
    """


HELD_AND_STOP = JobStep(Next.HELD, stops=True)

TABLE: dict[tuple[Stage, JobTrouble], tuple[JobStep, JobStep]] = {
    (Stage.UNSENT, JobTrouble.ALL): (HELD_AND_STOP, HELD_AND_STOP),
    (Stage.UNSENT, JobTrouble.DAILY): (JobStep(Next.RESET), JobStep(Next.HELD)),
    (Stage.UNSENT, JobTrouble.PASSING): (JobStep(Next.AGAIN), HELD_AND_STOP),
    (Stage.UNSENT, JobTrouble.FINAL): (JobStep(Next.FAILED), JobStep(Next.FAILED)),
    (Stage.DOUBT, JobTrouble.ALL): (HELD_AND_STOP, HELD_AND_STOP),
    (Stage.DOUBT, JobTrouble.DAILY): (JobStep(Next.RESET), JobStep(Next.HELD)),
    (Stage.DOUBT, JobTrouble.PASSING): (JobStep(Next.AGAIN), HELD_AND_STOP),
    (Stage.DOUBT, JobTrouble.LOST): (JobStep(Next.AGAIN), JobStep(Next.UNKNOWN, stops=True)),
    (Stage.DOUBT, JobTrouble.UNPROVEN): (JobStep(Next.UNKNOWN), JobStep(Next.UNKNOWN)),
    (Stage.DOUBT, JobTrouble.BARRED): (JobStep(Next.AGAIN), JobStep(Next.UNKNOWN, stops=True)),
    # A refusal of what was sent before says nothing of the first sending, and may be a gateway's.
    (Stage.DOUBT, JobTrouble.FINAL): (JobStep(Next.AGAIN), JobStep(Next.UNKNOWN)),
    (Stage.WATCHED, JobTrouble.ALL): (HELD_AND_STOP, HELD_AND_STOP),
    (Stage.WATCHED, JobTrouble.GONE): (JobStep(Next.LEFT), JobStep(Next.LEFT)),
    (Stage.WATCHED, JobTrouble.OVER): (JobStep(Next.FAILED), JobStep(Next.FAILED)),
    (Stage.WATCHED, JobTrouble.PASSING): (JobStep(Next.LEFT), JobStep(Next.LEFT)),
    (Stage.ENDED, JobTrouble.PASSING): (JobStep(Next.ANEW), JobStep(Next.FAILED)),
    (Stage.ENDED, JobTrouble.FINAL): (JobStep(Next.FAILED), JobStep(Next.FAILED)),
    (Stage.FETCHED, JobTrouble.ALL): (HELD_AND_STOP, HELD_AND_STOP),
    (Stage.FETCHED, JobTrouble.GONE): (JobStep(Next.LEFT), JobStep(Next.LEFT)),
    (Stage.FETCHED, JobTrouble.OVER): (JobStep(Next.FAILED), JobStep(Next.FAILED)),
    (Stage.FETCHED, JobTrouble.PASSING): (JobStep(Next.AGAIN), JobStep(Next.LEFT)),
    (Stage.FETCHED, JobTrouble.FINAL): (JobStep(Next.LEFT), JobStep(Next.LEFT)),
}
"""What to do while more tries (of what has ended: attempts) are allowed, and what after them."""


def next_step(facts: Facts, error: HappyHorseError) -> JobStep:
    """Decide what follows from a failure."""
    stage = stage_of(facts, error)
    trouble = trouble_of(stage, facts, error)
    allowed, exhausted = TABLE[stage, trouble]
    if trouble is JobTrouble.DAILY:
        forbidden = stage is Stage.DOUBT and not facts.replays
        return exhausted if facts.stopping or forbidden else allowed
    if _more(stage, facts) and not (trouble is JobTrouble.BARRED and facts.others_go_on):
        return allowed
    if facts.others_go_on and exhausted.stops and trouble is not JobTrouble.ALL:
        if stage is Stage.UNSENT and _never_left(error):
            return JobStep(Next.LEFT)  # it met no one who could have said a word against it
        # It is this job's alone: it ends, so that it stops no run, and no later one either.
        return JobStep(Next.FAILED if stage is Stage.UNSENT else Next.UNKNOWN)
    if stage is Stage.DOUBT and trouble in (JobTrouble.LOST, JobTrouble.BARRED):
        if facts.stopping:
            return HELD_AND_STOP  # it stays submitting: the next run asks again
        return exhausted if facts.replays else JobStep(Next.UNKNOWN)
    return exhausted


def _more(stage: Stage, facts: Facts) -> bool:
    if stage is Stage.ENDED:
        return facts.attempts_left
    if stage is Stage.DOUBT:
        return facts.tries_left and facts.replays
    return facts.tries_left and not (stage is Stage.FETCHED and facts.stopping)


def stage_of(facts: Facts, error: HappyHorseError) -> Stage:
    """Say how far a job had come when it failed."""
    if isinstance(error, TaskFailedError):
        return Stage.ENDED
    if facts.state is JobState.RUNNING:
        return Stage.WATCHED
    if facts.state is JobState.COMPLETED:
        return Stage.FETCHED
    doubtful = facts.state is JobState.SUBMITTING and (facts.sent_before or may_be_paid(error))
    return Stage.DOUBT if doubtful else Stage.UNSENT


def may_be_paid(error: HappyHorseError) -> bool:
    """Whether a submission that ended with this error can have been accepted.

    A key in use for another body proves that one was.
    """
    return (
        isinstance(error, (SubmissionOutcomeUnknownError, IdempotencyConflictError))
        or error.charged != "no"
    )


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


def trouble_of(stage: Stage, facts: Facts, error: HappyHorseError) -> JobTrouble:
    """Say what is wrong with a job that failed at a stage."""
    if isinstance(error, TaskFailedError):
        # What was charged is not bought again by itself, whatever is said of the input.
        too_old = facts.stale_upload and error.code == "image_processing_error"
        again = (error.retryable or too_old) and error.charged != "yes"
        return JobTrouble.PASSING if again else JobTrouble.FINAL
    if stage in (Stage.WATCHED, Stage.FETCHED):
        return _trouble_of_paid(stage, facts, error)
    last = last_failure(error)
    if facts.waits and refusals.is_daily_limit(last):
        return JobTrouble.DAILY
    if _is_for_all(last):
        return JobTrouble.ALL
    if stage is Stage.DOUBT:
        return _trouble_in_doubt(error, last)
    again = retry.worth_retrying(last, promised=True)
    return JobTrouble.PASSING if again else JobTrouble.FINAL


def counts(error: HappyHorseError) -> bool:
    """Whether a failure counts as a try of its job: a night's wait is nothing that was tried."""
    return not (isinstance(error, TaskFailedError) or refusals.is_daily_limit(last_failure(error)))


def last_failure(error: HappyHorseError) -> HappyHorseError:
    """Return what went wrong at last, where an error only says that the outcome is unknown."""
    inner = error.__cause__ if isinstance(error, SubmissionOutcomeUnknownError) else None
    return inner if isinstance(inner, HappyHorseError) else error


def _is_for_all(error: HappyHorseError) -> bool:
    """Whether every job would fail so; a page from before the service says nothing of it."""
    own = not isinstance(error, APIStatusError) or error.own_body
    return own and (isinstance(error, _FOR_ALL) or refusals.is_file_quota(error))


def _trouble_in_doubt(error: HappyHorseError, last: HappyHorseError) -> JobTrouble:
    if isinstance(error, SubmissionOutcomeUnknownError) and not error.retryable:
        return JobTrouble.UNPROVEN
    if isinstance(last, APIStatusError) and not last.own_body and _refuses(last.status):
        return JobTrouble.BARRED
    if isinstance(last, BadRequestError):
        return JobTrouble.FINAL
    if _never_left(last):
        return JobTrouble.PASSING
    return JobTrouble.LOST if may_be_paid(error) else JobTrouble.PASSING


def _never_left(error: HappyHorseError) -> bool:
    return isinstance(error, TransportError) and not error.sent


def _refuses(status: int) -> bool:
    return 400 <= status < 500 and status not in (408, 409, 425, 429)


def _trouble_of_paid(stage: Stage, facts: Facts, error: HappyHorseError) -> JobTrouble:
    if isinstance(error, (TaskNotFoundError, LinkExpiredError)):
        return JobTrouble.OVER if facts.over else JobTrouble.GONE
    # A bare DownloadError is this machine's: no room, no right to write. Paying for more videos
    # would not help.
    local = stage is Stage.FETCHED and type(error) is DownloadError
    if local or isinstance(error, _FOR_ALL):
        return JobTrouble.ALL
    # What came whole and is refused here would be refused again at once, and what lies in its way
    # does not go by itself.
    final = (NotAVideoError, VideoTooLargeError, DestinationExistsError)
    refused = stage is Stage.FETCHED and isinstance(error, final)
    return JobTrouble.FINAL if refused else JobTrouble.PASSING


LONGEST_LIFE = 48 * 3600.0
"""Seconds after which no task has a link: it takes minutes, and its links live a day."""


def is_over(now: float, *, accepted: float | None, completed: float | None) -> bool:
    """Whether no link to a job's video can live any more. That is told by when this machine saw its
    task accepted and completed (Unix seconds).
    """
    if completed is not None and now - completed > wire.LINK_LIFE.total_seconds():
        return True
    return accepted is not None and now - accepted > LONGEST_LIFE


def code_of(error: HappyHorseError) -> str:
    """Return a short word for an error: the service's code, or the error's own name."""
    code = error.code if isinstance(error, (APIStatusError, TaskFailedError)) else ""
    return str(code) or type(error).__name__.removesuffix("Error")
