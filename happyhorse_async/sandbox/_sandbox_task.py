"""A task as a test looks at it: live, so that an assertion after `advance` sees the new state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from ._service import Service
    from ._task_record import TaskRecord


class SandboxTask:
    """One accepted task; every attribute shows the state at the moment when it is read."""

    def __init__(self, record: TaskRecord, do: Callable[[Callable[[Service], Any]], Any]) -> None:
        self._record = record
        self._do = do

    def __repr__(self) -> str:
        return f"SandboxTask(id={self.id!r}, status={self.status!r}, progress={self.progress})"

    @property
    def id(self) -> str:
        """Return the task's id."""
        return self._record.id

    @property
    def status(self) -> str:
        """Return the status that a query shows."""
        status: str = self._do(
            lambda service: service.views.status(self._record, service.catch_up())
        )
        return status

    @property
    def progress(self) -> int:
        """Return the progress, 0 to 100."""
        progress: int = self._do(lambda service: self._record.progress_at(service.catch_up()))
        return progress

    @property
    def request(self) -> dict[str, Any]:
        """Return the submitted body."""
        return self._record.submission.body

    @property
    def created(self) -> float:
        """Return the sandbox time of acceptance."""
        return self._record.created

    @property
    def results(self) -> list[str]:
        """Return the present result links; none before completion."""
        link: str | None = self._do(
            lambda service: service.catch_up() and service.views.link(self._record)
        )
        return [link] if link else []

    @property
    def error(self) -> dict[str, Any] | None:
        """Return the error that a query shows."""
        self._do(lambda service: service.catch_up())
        return self._record.error()

    @property
    def idempotency_key(self) -> str | None:
        """Return the key that the task was submitted with."""
        return self._record.idempotency_key

    @property
    def charged(self) -> Decimal:
        """Return the credits that were settled: zero before the end and after a refund."""
        self._do(lambda service: service.catch_up())
        return self._record.charge.charged

    @property
    def reserved(self) -> Decimal:
        """Return the credits that were reserved on acceptance."""
        return self._record.charge.reserved
