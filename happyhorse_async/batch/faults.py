"""Failures of jobs: as errors, and as the ledger keeps them."""

from __future__ import annotations

import json
from typing import Any

from ..errors import HappyHorseError, TaskFailedError
from ..models import Task
from ..rules import lifecycle, verdicts


def failure_of(task: Task, key: str | None) -> TaskFailedError:
    """Make the error for a task that ended without a video."""
    why = f"{task.error.code}: {task.error.message}" if task.error is not None else str(task.status)
    return TaskFailedError(
        f"task {task.id} failed: {why}",
        task=task,
        retryable=lifecycle.retryable(task) is lifecycle.Retryable.LATER,
        charged=lifecycle.charged(task),
        task_id=task.id,
        idempotency_key=key,
    )


def fault_of(error: HappyHorseError) -> str:
    """Write an error for the ledger."""
    facts: dict[str, Any] = {"code": verdicts.code_of(error), "message": str(error), "charged": error.charged}
    if isinstance(error, TaskFailedError):
        reason = error.task.error if error.task is not None else None
        facts |= {"task": True, "retryable": error.retryable, "message": reason.message if reason is not None else str(error)}
    elif error.next_step:
        facts["next_step"] = error.next_step
    return json.dumps(facts, ensure_ascii=False)
