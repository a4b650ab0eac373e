"""A task as the world keeps it, and its state at a given time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs

from .life import progress_at

if TYPE_CHECKING:
    from .images import FrameProblem
    from .money import Charge, Wallet
    from .submissions import Submission

__all__ = ["FINAL", "Ending", "Link", "TaskRecord", "usual_code"]

FINAL = frozenset({"completed", "failed", "cancelled"})


def usual_code(status: str) -> str | None:
    """Return the error code of a task that somebody ends with this status and without a code; None: it has no error."""
    return {"failed": "unknown_error", "cancelled": "request_cancelled"}.get(status)


@attrs.frozen
class Ending:
    """How a task is going to end."""

    status: str = "completed"
    error_code: str | None = None
    message: str | None = None
    refund: bool = True
    """A failed task that is not refunded was charged all the same."""


@attrs.define
class Link:
    """A result link: its secret part, and when it dies in sandbox time."""

    token: str
    expires: float


@attrs.define(eq=False, kw_only=True)
class TaskRecord:
    """One accepted task."""

    id: str
    wallet: Wallet
    submission: Submission
    seed: int
    """The seed of the video: the submission's, or one that the service drew."""
    created: float
    starts: float
    due: float
    charge: Charge
    idempotency_key: str | None = None
    ending: Ending = Ending()
    frame: Literal["unknown", "good"] | FrameProblem = "unknown"
    """What is known of the first frame; a task cannot end well before it is known to be good."""
    ended: float | None = None
    status_override: str | None = None
    links: list[Link] = attrs.field(factory=list)
    """Every link that the task ever had, the present one last."""
    etag_version: int = 0
    """Counts the changes of the video's `ETag`."""
    frame_size: tuple[int, int] | None = None
    """Width and height of the first frame, where known."""

    @property
    def is_final(self) -> bool:
        """Return whether the task has ended and its charge is decided."""
        return self.ended is not None

    def status_at(self, now: float) -> str:
        """Return `status` as the service reports it."""
        if self.status_override is not None:
            return self.status_override
        if self.ended is not None:
            return self.ending.status
        return "pending" if now <= self.starts else "processing"

    def progress_at(self, now: float) -> int:
        """Return `progress`, 0 to 100."""
        if self.ended is not None and self.ending.status == "completed":
            return 100
        until = now if self.ended is None else self.ended
        return 0 if until <= self.starts else progress_at(self.starts, self.due, until)

    def error(self) -> dict[str, Any] | None:
        """Return `error` as the service reports it; None when the task did not fail."""
        if self.ended is None or self.ending.status == "completed" or self.ending.error_code is None:
            return None
        code = self.ending.error_code
        return {"code": code, "message": self.ending.message or _MESSAGES.get(code, code), "type": "task_error"}


_MESSAGES = {
    "content_policy_violation": "The content was refused by the safety system.",
    "invalid_parameters": "The parameters do not fit together.",
    "image_processing_error": "The image could not be processed.",
    "image_dimension_mismatch": "The image's size is outside the accepted range.",
    "request_cancelled": "The request was cancelled.",
    "service_error": "The service failed.",
    "service_unavailable": "The service is not available.",
    "resource_exhausted": "No capacity is left.",
    "generation_timeout": "The generation took too long.",
    "quota_exceeded": "The provider's quota is used up.",
    "generation_failed_no_content": "The generation ended without a video.",
    "resource_not_found": "A resource was not found.",
    "unknown_error": "An unknown error occurred.",
}
