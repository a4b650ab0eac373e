"""What becomes of the requests of `Session.submit_many`, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never

import attrs

from ._tasks import TaskHandle, handle_of
from ._values import Value
from .errors import HappyHorseError

if TYPE_CHECKING:
    from ._parts import Parts
    from ._request import ImageToVideo
    from ._submitter.shared import Acceptance


@attrs.frozen(kw_only=True)
class AcceptedSubmission(Value):
    """One request of `submit_many` that has become a task."""

    index: int
    """The request's place in the input, from 0."""
    request: ImageToVideo
    """The request as it was given."""
    task: TaskHandle
    """The handle of its task."""
    ok: ClassVar[Literal[True]] = True

    def to_dict(self) -> dict[str, Any]:
        """Return the submission as JSON has it."""
        return {"ok": True, **super().to_dict(), "error": None}

    error: ClassVar[None] = None


@attrs.frozen(kw_only=True)
class FailedSubmission(Value):
    """One request of `submit_many` that has not become a task, as far as it is known."""

    index: int
    """The request's place in the input, from 0."""
    request: ImageToVideo
    """The request as it was given; whatever else came instead of one."""
    error: HappyHorseError
    """Why it was not accepted; `charged` says whether money may have been spent all the same."""
    ok: ClassVar[Literal[False]] = False
    # Never to checkers. Some do not narrow a union by the truth of a member. So `task` is a handle
    # behind `if submission.ok` to them as well.
    if TYPE_CHECKING:
        task: ClassVar[Never]
    else:
        task = None

    def to_dict(self) -> dict[str, Any]:
        """Return the submission as JSON has it."""
        return {"ok": False, **super().to_dict(), "task": None}


Submission = AcceptedSubmission | FailedSubmission
"""What became of one request of `submit_many`. Behind `if submission.ok:` a checker knows that
`submission.task` is a `TaskHandle`. Behind `if submission.error is not None:` it knows why it
failed."""


def submission_of(
    parts: Parts, index: int, request: Any, ending: Acceptance | HappyHorseError
) -> Submission:
    """Return what became of one request of `submit_many`."""
    if isinstance(ending, HappyHorseError):
        return FailedSubmission(index=index, request=request, error=ending)
    return AcceptedSubmission(index=index, request=request, task=handle_of(parts, ending))
