"""The tables of states: what is final, what is news, what is charged, what can be tried again."""

from __future__ import annotations

from decimal import Decimal

import pytest

from happyhorse_async._models import Billing, Task, TaskError, TaskStatus
from happyhorse_async._rules.lifecycle import (
    FAILURES,
    JOB_TRANSITIONS,
    TASK_STATES,
    JobState,
    Retryable,
    charged,
    failure_of,
    is_completed,
    is_final,
    retryable,
)
from happyhorse_async.errors import TaskCancelledError, TaskFailedError


def test_every_named_status_has_a_row() -> None:
    """The table covers the reference's statuses, and nothing else."""
    assert set(TASK_STATES) == set(TaskStatus)


@pytest.mark.parametrize(
    ("status", "final"),
    [
        ("pending", False),
        ("processing", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
        ("new", False),
    ],
)
def test_final_statuses_end_a_wait(status: str, final: bool) -> None:
    """Three statuses are final; a word that is newer than the package is not."""
    assert is_final(Task(id="t", status=status)) is final
    assert is_completed(Task(id="t", status=status)) is (status == "completed")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("content_policy_violation", "no"),
        ("invalid_parameters", "no"),
        ("image_processing_error", "no"),
        ("image_dimension_mismatch", "no"),
        ("request_cancelled", "no"),
        ("service_error", "later"),
        ("service_unavailable", "later"),
        ("resource_exhausted", "later"),
        ("generation_timeout", "later"),
        ("quota_exceeded", "later"),
        ("generation_failed_no_content", "unsure"),
        ("resource_not_found", "unsure"),
        ("unknown_error", "unsure"),
        ("brand_new_code", "unsure"),
    ],
)
def test_each_failure_code_says_whether_to_try_again(code: str, expected: str) -> None:
    """The service's table of failures, row by row; what it does not name is not tried
    automatically.
    """
    assert retryable(Task(id="t", status="failed", error=TaskError(code=code))) == Retryable(
        expected
    )
    assert code in FAILURES or code == "brand_new_code"


def test_a_failure_without_a_code_is_not_retried() -> None:
    """Nothing is known, so nothing is spent."""
    assert retryable(Task(id="t", status="failed")) is Retryable.UNSURE
    assert retryable(Task(id="t", status="cancelled")) is Retryable.NO


@pytest.mark.parametrize(
    ("status", "billing", "expected"),
    [
        ("completed", None, "yes"),
        ("processing", None, "yes"),
        ("failed", None, "unknown"),
        ("failed", Billing(), "unknown"),
        ("failed", Billing(refund_status="refunded"), "no"),
        ("failed", Billing(charge_status="released"), "no"),
        ("failed", Billing(charged_credits=Decimal(0)), "no"),
        ("failed", Billing(charged_credits=Decimal(5)), "yes"),
        ("failed", Billing(charge_status="charged", refund_status="none"), "yes"),
        ("cancelled", Billing(charge_status="a new word"), "unknown"),
    ],
)
def test_only_ledger_facts_prove_that_a_failure_was_free(
    status: str, billing: Billing | None, expected: str
) -> None:
    """A failed task is normally free, but without proof the answer is unknown."""
    assert charged(Task(id="t", status=status, billing=billing)) == expected


def test_job_states_lead_only_to_job_states() -> None:
    """Every state has a row; a saved video is the end; money at stake never turns into nothing
    silently.
    """
    assert set(JOB_TRANSITIONS) == set(JobState)
    assert JOB_TRANSITIONS[JobState.SAVED] == frozenset()
    assert (
        JobState.NEW not in JOB_TRANSITIONS[JobState.RUNNING] | JOB_TRANSITIONS[JobState.COMPLETED]
    )


@pytest.mark.parametrize(
    "task",
    [
        Task(id="t", status="cancelled"),
        Task(
            id="t", status="cancelled", error=TaskError(code="request_cancelled", message="by hand")
        ),
        Task(id="t", status="failed", error=TaskError(code="request_cancelled", message="by hand")),
    ],
)
def test_a_cancelled_task_has_one_error_whatever_its_word(task: Task) -> None:
    """Both of the service's words for a cancellation give the same kind, code and next step."""
    error = failure_of(task, "key-1")
    assert type(error) is TaskCancelledError
    assert (error.code, error.retryable, error.idempotency_key) == (
        "request_cancelled",
        False,
        "key-1",
    )
    assert str(error).startswith("task t cancelled: request_cancelled")
    assert error.next_step.startswith("Ask whoever cancelled the task")


def test_a_failure_says_what_the_service_suggests() -> None:
    """The next step begins with ours and ends with the service's own advice."""
    failed = TaskError(code="service_error", message="no luck", suggestion="wait an hour")
    error = failure_of(Task(id="t", status="failed", error=failed))
    assert type(error) is TaskFailedError
    assert str(error) == "task t failed: service_error: no luck"
    assert error.next_step.endswith("The service says: wait an hour")
