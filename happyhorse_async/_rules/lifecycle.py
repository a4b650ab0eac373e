"""The states of a task and of a batch job, as tables. The poller, the ledger, the tests and
CONTRIBUTING's diagram read them.

May import the models.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from .._models import Billing, Task, TaskStatus
from ..errors import Charged, SessionClosedError, TaskCancelledError, TaskFailedError


class TaskState(NamedTuple):
    """What a status means for those who wait."""

    final: bool
    """No further change will come."""
    order: int
    """A later state never goes back to one with a smaller number; an answer that does is stale."""


TASK_STATES: dict[str, TaskState] = {
    TaskStatus.PENDING: TaskState(final=False, order=0),
    TaskStatus.PROCESSING: TaskState(final=False, order=1),
    TaskStatus.COMPLETED: TaskState(final=True, order=2),
    TaskStatus.FAILED: TaskState(final=True, order=2),
    TaskStatus.CANCELLED: TaskState(final=True, order=2),
}

# A word that is newer than this package is something between processing and the end. Waiting on is
# the safe reading.
UNKNOWN_STATE = TaskState(final=False, order=1)

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED
"""Ends that every answer is held against: as a member it takes Python ten times as long to find."""
FINAL_STATUSES = frozenset(status for status, state in TASK_STATES.items() if state.final)
GOING_ON = frozenset(status.value for status in TaskStatus if status not in FINAL_STATUSES)
"""The others as plain text, which is how they come: a member takes longer to compare with."""


def is_final(task: Task) -> bool:
    """Whether the task has ended."""
    return task.status in FINAL_STATUSES


def is_completed(task: Task) -> bool:
    """Whether the task has ended with a video."""
    return task.status == COMPLETED


def says_how_it_ended(task: Task) -> bool:
    """Return whether a task has ended and the state says how: with its links, or with a reason.

    The response to a replayed submission has neither.
    """
    return is_final(task) and bool(task.results or task.error is not None)


CANCELLED_CODE = "request_cancelled"
"""The service's other way to say that a task was cancelled: `failed`, with this code."""


def is_cancelled(task: Task) -> bool:
    """Whether the task was cancelled; the service also reports that as failed with the code
    request_cancelled.
    """
    if task.status == TaskStatus.CANCELLED:
        return True
    return (
        task.status == TaskStatus.FAILED
        and task.error is not None
        and task.error.code == CANCELLED_CODE
    )


def is_outdated(status: str, known: str | None) -> bool:
    """Whether an answer with this status is older than what is known: it arrived late."""
    if known is None:
        return False
    was, now = TASK_STATES.get(known, UNKNOWN_STATE), TASK_STATES.get(status, UNKNOWN_STATE)
    return was.final or now.order < was.order


class Retryable(StrEnum):
    """Whether the same input can work later."""

    NO = "no"
    """Change the input, or ask the user."""
    LATER = "later"
    UNSURE = "unsure"
    """Not automatically."""


# Task failures of the service's reference, and what was seen in the vendor's clients.
FAILURES: dict[str, Retryable] = {
    "content_policy_violation": Retryable.NO,
    "content_filter": Retryable.NO,
    "sensitive_content": Retryable.NO,
    "moderation_blocked": Retryable.NO,
    "input_moderation_failed": Retryable.NO,
    "invalid_parameters": Retryable.NO,
    "image_processing_error": Retryable.NO,
    "image_dimension_mismatch": Retryable.NO,
    CANCELLED_CODE: Retryable.NO,
    "service_error": Retryable.LATER,
    "service_unavailable": Retryable.LATER,
    "resource_exhausted": Retryable.LATER,
    "generation_timeout": Retryable.LATER,
    "quota_exceeded": Retryable.LATER,
    "generation_failed_no_content": Retryable.UNSURE,
    "resource_not_found": Retryable.UNSURE,
    "unknown_error": Retryable.UNSURE,
}


def retryable(task: Task) -> Retryable:
    """Whether a failed task's input can work later; codes that are newer than this package are not
    retried automatically.
    """
    if is_cancelled(task):
        return Retryable.NO
    return (
        FAILURES.get(task.error.code, Retryable.UNSURE)
        if task.error is not None
        else Retryable.UNSURE
    )


ACCOUNT_SCOPE = "account_balance"
"""The `refund_scope` without which the ledger facts of a task say nothing."""


def charged(task: Task) -> Charged:
    """Return whether a task costs money, as far as it is proven.

    A completed task, and one that is still running, is paid. A failed one is normally not charged,
    but only its ledger facts prove it: see `is_refunded`.
    """
    if not is_final(task) or is_completed(task):
        return "yes"
    facts = task.billing
    if facts is not None and facts.refund_scope == ACCOUNT_SCOPE:
        if is_refunded(facts):
            return "no"
        if facts.refund_status != "completed" and (
            facts.charge_status == "charged" or facts.charged_credits
        ):
            return "yes"
    return "yes" if task.usage.credits_used else "unknown"


def is_refunded(facts: Billing) -> bool:
    """Return whether ledger facts prove that all that was reserved was given back.

    No status alone is a proof: scope, both statuses, the time and the amount must agree. So the
    vendor's newest client has it.
    """
    return (
        facts.refund_scope == ACCOUNT_SCOPE
        and facts.refund_status == "completed"
        and facts.charge_status == "released"
        and facts.refunded_at is not None
        and bool(facts.refunded_credits)
        and facts.refunded_credits == facts.reserved_credits
    )


MOST_CREDITS = Decimal(1_000_000)
"""Credits that one task can be believed to have cost, about 14,700 USD: thousands of times the
dearest video. A larger number is a mistake, and sums of them would not fit into a ledger."""

_HELD_WORDS = frozenset({"reserved", "pending"})
_NOT_RETURNED = frozenset({"pending", "failed"})


def believable(credits: Decimal | None) -> Decimal | None:  # noqa: A002 the service's word
    """Return a charge as the service tells it. None for one that cannot be: below zero, not a
    number, or over `MOST_CREDITS`.
    """
    if credits is None or not credits.is_finite() or not 0 <= credits <= MOST_CREDITS:
        return None
    return credits


def told_charge(task: Task) -> Decimal | None:
    """Return the charge that the service tells of a task in credits, settled or not; None when it
    tells none that can be.
    """
    billed = believable(task.billing.charged_credits) if task.billing is not None else None
    used = believable(task.usage.credits_used)
    return max((said for said in (billed, used) if said is not None), default=None)


def is_settled(task: Task) -> bool:
    """Whether what an ended task has cost is certain.

    A video is settled when its ledger facts say that it was charged. It also is when a charge above
    zero is told and no ledger fact says that it is only held. Callbacks come after that, answers to
    reads may come before. A task without a video is settled when its ledger facts say so. It also
    is when there are none, since it is normally not charged.
    """
    facts = task.billing
    held = facts is not None and (
        facts.charge_status in _HELD_WORDS
        or facts.refund_status in _NOT_RETURNED
        or _is_partly_refunded(facts)
    )
    if not is_completed(task):
        return charged(task) != "unknown" or not held
    if facts is not None and facts.charge_status == "charged":
        return told_charge(task) is not None
    return not held and bool(told_charge(task))


def settled_charge(task: Task) -> Decimal | None:
    """Return what a task has cost, in credits; None while that is not certain. What a read tells
    before the settlement is no charge, and most often zero.
    """
    return told_charge(task) if is_settled(task) else None


def _is_partly_refunded(facts: Billing) -> bool:
    refunded, reserved = facts.refunded_credits, facts.reserved_credits
    if refunded is None or reserved is None:
        return False
    return facts.refund_status == "completed" and refunded < reserved


def cost_of(task: Task, estimate: Decimal) -> Decimal:
    """Return what an ended task has cost, in credits, as far as it is known.

    A video costs its settled charge, and until then its estimate or what is told, whichever is
    more. A task without a video is free, unless something says that it was charged or still holds
    money. Then only a whole proof that all was given back makes it free.
    """
    told = told_charge(task)
    if is_completed(task):
        return told if told is not None and is_settled(task) else max(estimate, told or estimate)
    if charged(task) == "no":
        return Decimal(0)
    return (told or estimate) if _hints_at_a_charge(task) else Decimal(0)


def _hints_at_a_charge(task: Task) -> bool:
    facts = task.billing
    billed = facts is not None and (facts.charge_status == "charged" or facts.charged_credits)
    return bool(billed or task.usage.credits_used) or not is_settled(task)


class JobState(StrEnum):
    """Where a job of a batch stands."""

    NEW = "new"
    """Known, nothing sent: no money is at stake."""
    SUBMITTING = "submitting"
    """Its key is on disk and its request may have left. Replay it with the same key, never with
    another."""
    RUNNING = "running"
    """The task id is on disk."""
    COMPLETED = "completed"
    """The service has a video, which is not here yet."""
    SAVED = "saved"
    """The video is on disk and verified."""
    FAILED = "failed"
    """Ended without a video."""
    UNKNOWN = "unknown"
    """It cannot be said whether it was accepted; never submitted anew without the user's word."""


JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.NEW: frozenset({JobState.SUBMITTING, JobState.FAILED}),
    JobState.SUBMITTING: frozenset(
        {JobState.RUNNING, JobState.NEW, JobState.FAILED, JobState.UNKNOWN}
    ),
    JobState.RUNNING: frozenset({JobState.COMPLETED, JobState.FAILED}),
    JobState.COMPLETED: frozenset({JobState.SAVED, JobState.FAILED}),
    JobState.SAVED: frozenset(),
    # To the next attempt when the service says that the same input can work later, or at the user's
    # word. Back to its task when that goes on after all.
    JobState.FAILED: frozenset({JobState.NEW, JobState.RUNNING}),
    # At the user's word, and with the same key.
    JobState.UNKNOWN: frozenset({JobState.SUBMITTING}),
}

AT_STAKE = (JobState.COMPLETED, JobState.RUNNING, JobState.SUBMITTING)
"""The states in which money is, or may be, spent on a video that is not here yet. A run takes these
up first, nearest to the end first."""


# --- The error for a task that ended without a video.


def failure_of(task: Task, idempotency_key: str | None = None) -> TaskFailedError:
    """Return the error for a task that ended without a video.

    Session and batch raise this same error: what happened, whether it was charged, what to do now.
    A cancelled task is a `TaskCancelledError`, whichever of the service's two words it came with.
    """
    cancelled, later = is_cancelled(task), retryable(task)
    message = task.error.message if task.error is not None else ""
    said = (task.error.suggestion if task.error is not None else None) or message
    step = TaskCancelledError.default_next_step if cancelled else _NEXT_STEPS[later]
    error = (TaskCancelledError if cancelled else TaskFailedError)(
        task=task,
        retryable=later is Retryable.LATER,
        charged=charged(task),
        task_id=task.id,
        idempotency_key=idempotency_key,
        next_step=step + (f" The service says: {said}" if said else ""),
    )
    word = "cancelled" if cancelled else task.status
    error.args = (f"task {task.id} {word}: {error.code}" + (f": {message}" if message else ""),)
    return error


_NEXT_STEPS = {
    Retryable.LATER: "Submit the same request again later, with a new idempotency key.",
    Retryable.NO: "Change the request (or ask whoever made it) before submitting again.",
    Retryable.UNSURE: (
        "Look at the request and at the service's message before submitting again; "
        "the same input may fail again."
    ),
}


def closed() -> SessionClosedError:
    """Make the error for a wait that the session's end cuts off."""
    return SessionClosedError(
        "the session was closed while the task was being waited for; the task itself goes on",
        charged="unknown",
        next_step="Open a new session and wait again with session.task(task_id).",
    )
