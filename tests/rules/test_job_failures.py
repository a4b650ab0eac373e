"""What follows from the failure of a batch's job, row by row, and what holds for all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    DownloadError,
    HappyHorseError,
    IdempotencyConflictError,
    IncompleteDownloadError,
    InsufficientCreditsError,
    InternalServerError,
    LedgerError,
    LinkExpiredError,
    NotAVideoError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    SubmissionOutcomeUnknownError,
    Task,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    UnreadableAnswerError,
    VideoTooLargeError,
    WaitTimeoutError,
    errors,
)
from happyhorse_async._rules.job_failures import (
    TABLE,
    Facts,
    JobStep,
    JobTrouble,
    Next,
    Stage,
    code_of,
    next_step,
    stage_of,
    trouble_of,
)
from happyhorse_async._rules.lifecycle import JobState

NEW, SUBMITTING = JobState.NEW, JobState.SUBMITTING
RUNNING, COMPLETED = JobState.RUNNING, JobState.COMPLETED
HELD_AND_STOP = JobStep(Next.HELD, stops=True)


def failed(code: str, *, retryable: bool = False) -> TaskFailedError:
    """Make the error of a task that ended without a video."""
    task = Task(id="task-unified-1", status="failed", error=TaskError(code=code))
    return TaskFailedError("failed", task=task, retryable=retryable)


def charged_failure() -> TaskFailedError:
    """Make the error of a task that can be tried again, and was charged."""
    error = failed("generation_timeout", retryable=True)
    error.charged = "yes"
    return error


def barred(status: int) -> SubmissionOutcomeUnknownError:
    """Make the error of a submission that something in front of the service refused."""
    error = SubmissionOutcomeUnknownError("?")
    error.__cause__ = APIStatusError("?", status=status, own_body=False)
    return error


def page(kind: type[APIStatusError], status: int) -> APIStatusError:
    """Make the error of a page that something in front of the service shows."""
    return kind("?", status=status, own_body=False)


def daily() -> InsufficientCreditsError:
    """Make the refusal of a key whose daily limit is used up."""
    code = "token_daily_quota_exceeded"
    return InsufficientCreditsError("?", status=402, code=code, own_body=True)


ALL_ERRORS = [
    *(
        kind("?")
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, HappyHorseError)
    ),
    UnreadableAnswerError("?", charged="unknown"),
    APIConnectionError("?", charged="unknown"),
    failed("service_error", retryable=True),
    barred(403),
    SubmissionOutcomeUnknownError("?", retryable=False),
    daily(),
]


@pytest.mark.parametrize(
    ("facts", "error", "while_allowed", "after"),
    [
        # Nothing was accepted.
        (Facts(NEW), APIConnectionError("?", sent=False), Next.AGAIN, HELD_AND_STOP),
        (Facts(NEW), BudgetExceededError("?"), HELD_AND_STOP, HELD_AND_STOP),
        (Facts(SUBMITTING), RateLimitError("?", status=429), Next.AGAIN, HELD_AND_STOP),
        (Facts(SUBMITTING), BadRequestError("?", status=400), Next.FAILED, Next.FAILED),
        (Facts(SUBMITTING), AuthenticationError("?", status=401), HELD_AND_STOP, HELD_AND_STOP),
        # A gateway's page in the place of an upload's answer.
        (Facts(NEW), page(PermissionDeniedError, 403), Next.AGAIN, HELD_AND_STOP),
        (Facts(NEW), page(NotFoundError, 404), Next.AGAIN, HELD_AND_STOP),
        (Facts(NEW), page(BadRequestError, 413), Next.FAILED, Next.FAILED),
        (
            Facts(SUBMITTING),
            InsufficientCreditsError("?", status=402),
            HELD_AND_STOP,
            HELD_AND_STOP,
        ),
        (Facts(SUBMITTING), daily(), Next.RESET, Next.RESET),
        (Facts(SUBMITTING, stopping=True), daily(), Next.HELD, Next.HELD),
        (Facts(SUBMITTING, waits=False), daily(), HELD_AND_STOP, HELD_AND_STOP),
        (Facts(SUBMITTING, sent_before=True), daily(), Next.RESET, Next.RESET),
        (Facts(SUBMITTING, sent_before=True, replays=False), daily(), Next.HELD, Next.HELD),
        (Facts(SUBMITTING, replays=False), daily(), Next.RESET, Next.RESET),
        # It may have been accepted.
        (
            Facts(SUBMITTING),
            SubmissionOutcomeUnknownError("?"),
            Next.AGAIN,
            JobStep(Next.UNKNOWN, stops=True),
        ),
        (
            Facts(SUBMITTING),
            SubmissionOutcomeUnknownError("?", retryable=False),
            Next.UNKNOWN,
            Next.UNKNOWN,
        ),
        (Facts(SUBMITTING), barred(403), Next.AGAIN, JobStep(Next.UNKNOWN, stops=True)),
        (Facts(SUBMITTING), IdempotencyConflictError("?"), Next.AGAIN, Next.UNKNOWN),
        (Facts(SUBMITTING, sent_before=True), BadRequestError("?"), Next.AGAIN, Next.UNKNOWN),
        (
            Facts(SUBMITTING, sent_before=True),
            APIConnectionError("?", sent=False),
            Next.AGAIN,
            HELD_AND_STOP,
        ),
        (
            Facts(SUBMITTING, sent_before=True),
            PermissionDeniedError("?"),
            HELD_AND_STOP,
            HELD_AND_STOP,
        ),
        # It is paid for.
        (Facts(RUNNING), WaitTimeoutError("?"), Next.LEFT, Next.LEFT),
        (Facts(RUNNING), InternalServerError("?"), Next.LEFT, Next.LEFT),
        (Facts(RUNNING), TaskNotFoundError("?"), Next.LEFT, Next.LEFT),
        (Facts(RUNNING, over=True), TaskNotFoundError("?"), Next.FAILED, Next.FAILED),
        (Facts(RUNNING), LedgerError("?"), HELD_AND_STOP, HELD_AND_STOP),
        # Its task has ended without a video.
        (Facts(RUNNING), failed("content_policy_violation"), Next.FAILED, Next.FAILED),
        (Facts(RUNNING), failed("image_processing_error"), Next.FAILED, Next.FAILED),
        (
            Facts(RUNNING, stale_upload=True),
            failed("image_processing_error"),
            Next.ANEW,
            Next.FAILED,
        ),
        (Facts(RUNNING), failed("service_error", retryable=True), Next.ANEW, Next.FAILED),
        (Facts(RUNNING), charged_failure(), Next.FAILED, Next.FAILED),
        # The service has its video.
        (Facts(COMPLETED), IncompleteDownloadError("?"), Next.AGAIN, Next.LEFT),
        (Facts(COMPLETED), LinkExpiredError("?"), Next.LEFT, Next.LEFT),
        (Facts(COMPLETED, over=True), LinkExpiredError("?"), Next.FAILED, Next.FAILED),
        (Facts(COMPLETED), NotAVideoError("?"), Next.LEFT, Next.LEFT),
        (Facts(COMPLETED), VideoTooLargeError("?"), Next.LEFT, Next.LEFT),
        (Facts(COMPLETED), DownloadError("no room"), HELD_AND_STOP, HELD_AND_STOP),
    ],
)
def test_rows(
    facts: Facts, error: HappyHorseError, while_allowed: Next | JobStep, after: Next | JobStep
) -> None:
    """Each kind of failure has its answer while more tries are allowed, and another after them."""
    for step, allowed in ((while_allowed, True), (after, False)):
        right = step if isinstance(step, JobStep) else JobStep(step)
        now = facts._replace(tries_left=allowed, attempts_left=allowed)
        assert next_step(now, error) == right


def test_every_row_of_the_table_can_be_reached() -> None:
    """No row of the table stands there for nothing."""
    reached = {
        (stage, trouble_of(stage, facts, error))
        for facts in (
            *(Facts(state) for state in (NEW, SUBMITTING, RUNNING, COMPLETED)),
            Facts(SUBMITTING, sent_before=True),
            Facts(RUNNING, over=True),
            Facts(COMPLETED, over=True),
        )
        for error in ALL_ERRORS
        for stage in [stage_of(facts, error)]
    }
    assert reached == set(TABLE)


FACTS = st.builds(
    Facts,
    state=st.sampled_from([NEW, SUBMITTING, RUNNING, COMPLETED]),
    sent_before=st.booleans(),
    tries_left=st.booleans(),
    attempts_left=st.booleans(),
    replays=st.booleans(),
    stopping=st.booleans(),
    others_go_on=st.booleans(),
    over=st.booleans(),
    stale_upload=st.booleans(),
)


@given(
    facts=FACTS,
    error=st.sampled_from(ALL_ERRORS),
    charged=st.sampled_from(["no", "yes", "unknown"]),
)
def test_what_may_be_paid_is_never_given_up(
    facts: Facts, error: HappyHorseError, charged: errors.Charged
) -> None:
    """Every error has an answer, whatever the facts; what may have been accepted is never failed,
    and gets another key only when its task has ended.
    """
    error.charged = charged
    step = next_step(facts, error)
    ended = isinstance(error, TaskFailedError)
    if facts.state is SUBMITTING and not ended and (facts.sent_before or charged != "no"):
        assert step.next in (Next.AGAIN, Next.RESET, Next.UNKNOWN, Next.HELD)
    if step.next is Next.ANEW:
        assert ended
        assert facts.attempts_left
        assert error.charged != "yes"
    if step.stops:
        assert step.next in (Next.HELD, Next.UNKNOWN)


@given(facts=FACTS, error=st.sampled_from(ALL_ERRORS))
def test_denials_of_days_are_no_failures(facts: Facts, error: HappyHorseError) -> None:
    """What is paid for fails only when its task has ended, or when no link can live any more."""
    if facts.state in (RUNNING, COMPLETED) and next_step(facts, error).next is Next.FAILED:
        assert isinstance(error, TaskFailedError) or facts.over


@given(facts=FACTS, error=st.sampled_from(ALL_ERRORS))
def test_the_trouble_of_one_job_stops_no_run(facts: Facts, error: HappyHorseError) -> None:
    """While others are accepted, only what concerns the account or the machine stops a run."""
    facts = facts._replace(others_go_on=True, stopping=False)
    if next_step(facts, error).stops:
        assert trouble_of(stage_of(facts, error), facts, error) is JobTrouble.ALL


@given(facts=FACTS, error=st.sampled_from(ALL_ERRORS))
def test_tries_come_to_an_end(facts: Facts, error: HappyHorseError) -> None:
    """When no more tries and attempts are allowed, nothing is tried again."""
    spent = facts._replace(tries_left=False, attempts_left=False)
    assert next_step(spent, error).next not in (Next.AGAIN, Next.ANEW)


@given(facts=FACTS, error=st.sampled_from(ALL_ERRORS))
def test_without_replays_nothing_in_doubt_is_sent_again(
    facts: Facts, error: HappyHorseError
) -> None:
    """Where replays are forbidden, what may have been accepted is not sent again by itself."""
    facts = facts._replace(replays=False)
    if stage_of(facts, error) is Stage.DOUBT:
        assert next_step(facts, error).next in (Next.UNKNOWN, Next.HELD)


def test_what_nobody_was_asked_is_no_failure() -> None:
    """A job that reached no service, while others did, has been refused by nobody: it is left."""
    facts = Facts(NEW, tries_left=False, others_go_on=True)
    assert next_step(facts, APIConnectionError("?", sent=False)) == JobStep(Next.LEFT)
    page = InternalServerError("?", status=503, charged="no")
    assert next_step(facts, page) == JobStep(Next.FAILED)


def test_an_error_that_says_nothing_of_others_stops_nothing() -> None:
    """An error that is this job's alone ends this job, and the run goes on."""
    facts = Facts(NEW)
    assert trouble_of(Stage.UNSENT, facts, HappyHorseError("?")) is JobTrouble.FINAL
    assert next_step(facts, HappyHorseError("?")) == JobStep(Next.FAILED)


def test_codes() -> None:
    """An error is known by the service's code, or else by its own name."""
    assert code_of(BadRequestError("?", code="invalid_request")) == "invalid_request"
    assert code_of(BadRequestError("?")) == "BadRequest"
    assert code_of(failed("service_error")) == "service_error"
    assert code_of(SubmissionOutcomeUnknownError("?")) == "SubmissionOutcomeUnknown"
