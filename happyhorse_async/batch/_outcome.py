"""What became of a batch's jobs, one by one (`Outcome`) and together (`Totals`)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never

import attrs

from .._models import Task, TaskError, TaskStatus
from .._request import ImageToVideo
from .._rules import lifecycle
from .._rules.lifecycle import JobState
from .._rules.numbers import to_credits
from .._values import Value
from .._video import Video
from ..errors import HappyHorseError, TaskCancelledError, TaskFailedError
from ._jobs import JobRow, read_request
from ._videos import VideoFolder


@attrs.frozen(kw_only=True)
class _Ended(Value):
    """What is told of each job."""

    id: str
    """The caller's id, or the one made from the request's content."""
    state: JobState
    """SAVED: the video is on disk. FAILED: it ended without one. UNKNOWN: it may have been paid,
    see `error`. COMPLETED: the service has the video, and it could not be fetched yet: the next run
    tries again. RUNNING: the wait was given up, the next run goes on."""
    request: ImageToVideo | None = None
    """The request, unless its image was given as bytes in an earlier run."""
    extra: Mapping[str, Any] = attrs.field(factory=dict)
    """The caller's own columns."""
    task_id: str | None = None
    credits: Decimal = Decimal(0)
    """What the job has cost so far, over all attempts."""
    attempts: int = 1
    """How many tasks were asked for."""
    resumed: bool = False
    """Whether it had ended in an earlier run, and is only told again."""
    ok: ClassVar[bool]
    """Whether there is a video."""

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON has it, with `ok`, and with the ending that is None."""
        ending = {"video": None, "error": None}
        return {"ok": self.ok, **ending, **super().to_dict()}


@attrs.frozen(kw_only=True)
class SavedOutcome(_Ended):
    """What became of a job whose video is on the disk and verified."""

    video: Video
    """The saved video."""
    ok: ClassVar[Literal[True]] = True
    error: ClassVar[None] = None

    def _repr_html_(self) -> str:
        return self.video._repr_html_() + super()._repr_html_()


@attrs.frozen(kw_only=True)
class UnsavedOutcome(_Ended):
    """What became of a job that has no video, or none yet."""

    error: HappyHorseError
    """Why there is none; see its `charged`."""
    ok: ClassVar[Literal[False]] = False
    # Never to checkers. Some do not narrow a union by the truth of a member. So `video` is a Video
    # behind `if outcome.ok` to them as well.
    if TYPE_CHECKING:
        video: ClassVar[Never]
    else:
        video = None


Outcome = SavedOutcome | UnsavedOutcome
"""What became of one job. Behind `if outcome.ok:` a checker knows that `outcome.video` is a
`Video`. Behind `if outcome.error is not None:` it knows why there is none."""


def outcome_of(
    job: JobRow,
    videos: VideoFolder,
    *,
    error: HappyHorseError | None = None,
    state: JobState | None = None,
    resumed: bool = False,
) -> Outcome:
    """Tell what became of a job, from its row; with `state`, as if it stood there."""
    state = job.state if state is None else state
    request = job.asked
    if request is None and '"sha256"' not in job.request:
        request = read_request(job.request)
    told: dict[str, Any] = {
        "id": job.id,
        "state": state,
        "request": request,
        "extra": job.columns,
        "task_id": job.task_id,
        "credits": to_credits(job.spent),
        "attempts": job.attempt,
        "resumed": resumed,
    }
    if state is JobState.SAVED:
        return SavedOutcome(video=_video_of(job, videos, request), **told)
    return UnsavedOutcome(error=error or _error_of(job), **told)


def _video_of(job: JobRow, videos: VideoFolder, request: ImageToVideo | None) -> Video:
    task = job.task or (Task(id=job.task_id, status=TaskStatus.COMPLETED) if job.task_id else None)
    return Video(
        path=videos.path(job.name),
        url=videos.url(job.name),
        size=job.size or 0,
        sha256=job.sha256 or "",
        duration=job.length,
        width=job.width,
        height=job.height,
        task=task,
        request=request,
        credits=to_credits(job.spent),
    )


def _error_of(job: JobRow) -> HappyHorseError:
    fault = job.fault or {"message": "nothing is known of why there is no video yet"}
    facts = {
        "charged": fault.get("charged", "unknown"),
        "task_id": job.task_id,
        "idempotency_key": job.key,
    }
    if not fault.get("task"):
        return HappyHorseError(fault.get("message", ""), next_step=fault.get("next_step"), **facts)
    failed = TaskError(code=fault.get("code", "unknown_error"), message=fault.get("message", ""))
    task = job.task or Task(id=job.task_id or "", status=TaskStatus.FAILED, error=failed)
    kind = TaskCancelledError if lifecycle.is_cancelled(task) else TaskFailedError
    return kind(
        fault.get("message", ""), task=task, retryable=bool(fault.get("retryable")), **facts
    )


@attrs.frozen(kw_only=True)
class Totals(Value):
    """How a batch stands."""

    states: Mapping[JobState, int]
    """Jobs in each state."""
    spent: Decimal = Decimal(0)
    """Credits settled."""
    reserved: Decimal = Decimal(0)
    """Credits that running jobs may still cost."""
    failures: Mapping[str, int] = attrs.field(factory=dict)
    """Failed and unknown jobs by the service's code."""
    dying: int = 0
    """Videos not fetched yet whose links die within the next two hours."""
    first_death: float | None = None
    """When the first of those links dies, in Unix seconds."""

    @property
    def jobs(self) -> int:
        """All jobs."""
        return sum(self.states.values())

    @property
    def ended(self) -> int:
        """Jobs that nothing more will happen to by itself."""
        return sum(
            self.states.get(state, 0)
            for state in (JobState.SAVED, JobState.FAILED, JobState.UNKNOWN)
        )
