"""The tables of states: what is final, what is news, what is charged, what can be tried again."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._models import Billing, Task, TaskError, TaskStatus, Usage
from happyhorse_async._rules.lifecycle import (
    ACCOUNT_SCOPE,
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

PROOF = Billing(
    charge_status="released",
    refund_status="completed",
    refund_scope=ACCOUNT_SCOPE,
    reserved_credits=Decimal("38.08"),
    refunded_credits=Decimal("38.08"),
    refunded_at=datetime(2026, 1, 2, tzinfo=UTC),
)


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
        ("content_filter", "no"),
        ("sensitive_content", "no"),
        ("moderation_blocked", "no"),
        ("input_moderation_failed", "no"),
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
        ("failed", PROOF, "no"),
        ("cancelled", PROOF, "no"),
        ("failed", attrs.evolve(PROOF, refund_scope=None), "unknown"),
        ("failed", attrs.evolve(PROOF, refund_scope="key_quota"), "unknown"),
        ("failed", attrs.evolve(PROOF, refund_status="pending"), "unknown"),
        ("failed", attrs.evolve(PROOF, refund_status="not_required"), "unknown"),
        ("failed", attrs.evolve(PROOF, charge_status="unknown"), "unknown"),
        ("failed", attrs.evolve(PROOF, charge_status="charged"), "unknown"),
        ("failed", attrs.evolve(PROOF, refunded_at=None), "unknown"),
        ("failed", attrs.evolve(PROOF, refunded_credits=None), "unknown"),
        ("failed", attrs.evolve(PROOF, refunded_credits=Decimal(0)), "unknown"),
        ("failed", attrs.evolve(PROOF, refunded_credits=Decimal(38)), "unknown"),
        (
            "failed",
            attrs.evolve(PROOF, refunded_credits=Decimal(0), reserved_credits=Decimal(0)),
            "unknown",
        ),
        ("failed", Billing(refund_scope=ACCOUNT_SCOPE, charged_credits=Decimal(0)), "unknown"),
        ("failed", Billing(refund_scope=ACCOUNT_SCOPE, charged_credits=Decimal(5)), "yes"),
        ("failed", Billing(refund_scope=ACCOUNT_SCOPE, charge_status="charged"), "yes"),
        ("failed", Billing(charge_status="charged", charged_credits=Decimal(5)), "unknown"),
        ("cancelled", Billing(refund_scope=ACCOUNT_SCOPE, charge_status="a new word"), "unknown"),
    ],
)
def test_only_ledger_facts_prove_that_a_failure_was_free(
    status: str, billing: Billing | None, expected: str
) -> None:
    """A failed task is normally free; but only all the facts of a refund together prove it."""
    assert charged(Task(id="t", status=status, billing=billing)) == expected


def test_a_failure_with_a_settled_charge_was_charged() -> None:
    """The charge itself says so, whatever the ledger facts leave open;
    a charge of zero does not.
    """
    for used, expected in ((Decimal("38.08"), "yes"), (Decimal(0), "unknown"), (None, "unknown")):
        assert charged(Task(id="t", status="failed", usage=Usage(credits_used=used))) == expected


@given(
    st.builds(
        Billing,
        charge_status=st.sampled_from([None, "unknown", "reserved", "charged", "released"]),
        refund_status=st.sampled_from([None, "not_required", "pending", "failed", "completed"]),
        refund_scope=st.sampled_from([None, ACCOUNT_SCOPE, "key"]),
        reserved_credits=st.none() | st.integers(0, 2).map(Decimal),
        charged_credits=st.none() | st.integers(0, 2).map(Decimal),
        refunded_credits=st.none() | st.integers(0, 2).map(Decimal),
        refunded_at=st.none() | st.just(datetime(2026, 1, 2, tzinfo=UTC)),
    )
)
def test_nothing_less_than_the_whole_proof_says_that_nothing_was_charged(facts: Billing) -> None:
    """Of all combinations of ledger facts, "no" comes with the four facts of api and scope only."""
    proven = (
        facts.refund_scope == "account_balance"
        and (facts.refund_status, facts.charge_status) == ("completed", "released")
        and facts.refunded_at is not None
        and facts.refunded_credits == facts.reserved_credits
        and facts.refunded_credits not in (None, 0)
    )
    assert (charged(Task(id="t", status="failed", billing=facts)) == "no") is proven


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
