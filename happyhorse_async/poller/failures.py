"""The error for a task that ended without a video: what happened, whether it was charged, and what to do now."""

from __future__ import annotations

from ..errors import SessionClosedError, TaskCancelledError, TaskFailedError
from ..models import Task
from ..rules import lifecycle


def failure_of(task: Task, idempotency_key: str | None = None) -> TaskFailedError:
    """Make the error for a task that ended without a video."""
    kind = TaskCancelledError if lifecycle.is_cancelled(task) else TaskFailedError
    code = task.error.code if task.error is not None else "unknown_error"
    said = (task.error.suggestion or task.error.message) if task.error is not None else ""
    later = lifecycle.retryable(task)
    return kind(
        f"task {task.id} {task.status}: {code}"
        + (f": {task.error.message}" if task.error is not None and task.error.message else ""),
        task=task,
        retryable=later is lifecycle.Retryable.LATER,
        charged=lifecycle.charged(task),
        task_id=task.id,
        idempotency_key=idempotency_key,
        next_step=_NEXT_STEPS[later] + (f" The service says: {said}" if said else ""),
    )


_NEXT_STEPS = {
    lifecycle.Retryable.LATER: "Submit the same request again later, with a new idempotency key.",
    lifecycle.Retryable.NO: "Change the request (or ask whoever made it) before submitting again.",
    lifecycle.Retryable.UNSURE: "Look at the request and at the service's message before submitting again; the same input may fail again.",
}


def closed() -> SessionClosedError:
    """Make the error for a wait that the session's end cuts off."""
    return SessionClosedError(
        "the session was closed while the task was being waited for; the task itself goes on",
        charged="unknown",
        next_step="Open a new session and wait again with session.task(task_id).",
    )
