"""The values of a batch: what goes in (`Job`), what the ledger keeps (`JobRow`), what comes out
(`Outcome`, `Totals`).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never
from urllib.parse import unquote, urlsplit

import attrs

from .._formats.filenames import safe_name
from .._models import MODEL, Task, TaskError, TaskStatus
from .._request import Image, ImageToVideo
from .._rules import job_failures, lifecycle
from .._rules.lifecycle import JobState
from .._rules.prices import to_credits
from .._submitter import Earlier
from .._values import Value
from .._video import Video
from ..errors import (
    HappyHorseError,
    InvalidRequestError,
    TaskCancelledError,
    TaskFailedError,
)
from ..events import Event


@attrs.frozen
class Job(Value):
    """A row of a batch's input: a request, with the caller's own id and columns if there are any.

    Raises `InvalidRequestError` for what the ledger cannot keep: an id that is no text, lone
    surrogates, NUL characters.
    """

    request: ImageToVideo
    """The video that is wanted."""
    id: str | None = attrs.field(default=None, kw_only=True)
    """The caller's id, unique in the input; None: the job is known by its request's content."""
    extra: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)
    """Columns that are given back in the results; values as JSON has them."""

    def __attrs_post_init__(self) -> None:
        problems = job_problems(self.request, self.id, self.extra)
        if problems:
            raise InvalidRequestError(problems)


@attrs.define(kw_only=True, on_setattr=attrs.setters.NO_OP)
class JobRow:
    """A job as the ledger has it. Lives in memory only while the job is being worked on."""

    seq: int
    id: str
    fingerprint: str
    state: JobState = attrs.field(converter=JobState)
    request: str
    extra: str
    name: str
    attempt: int
    key: str | None
    image_url: str | None
    uploaded: float | None
    callback_url: str | None
    task_id: str | None
    reserved: int
    spent: int
    accepted: float | None
    """When its task was accepted; of a request in doubt, when it was first sent (None: by a version
    that did not note it)."""
    completed: float | None
    expires: float | None
    ended: float | None
    seconds: float | None
    size: int | None
    sha256: str | None
    length: float | None
    width: int | None
    height: int | None
    error: str | None
    ended_run: int
    superseded: int
    asked: ImageToVideo | None = None
    """The request as the caller gave it, when it came in this run: it may hold the image's bytes,
    which the ledger does not."""
    task: Task | None = None
    """The last state that this run has seen."""
    before: int = 0
    """Attempts before the user's word in this run that it begin again; they do not count against
    the limit."""
    earlier: Earlier | None = None
    """What is known of its key, when an earlier run may have sent it."""
    sent_before: bool = False
    """Its request may have left before the present try, so that this one's failure does not say
    that nothing was accepted."""

    @classmethod
    def of_row(cls, row: Any) -> JobRow:
        """Read a row in the order of the ledger's queries."""
        return cls(**dict(zip(COLUMNS, row, strict=True)))

    @property
    def wanted(self) -> ImageToVideo:
        """The request; raises `HappyHorseError` when its image was given as bytes in an earlier
        run.
        """
        if self.asked is None:
            self.asked = read_request(self.request)
        return self.asked

    @property
    def posted(self) -> ImageToVideo:
        """The request as it is sent: once its first frame has a link, the link is all that the body
        needs of it.
        """
        if self.asked is None and self.image_url is not None:
            return read_request(self.request, image=self.image_url)
        return self.wanted

    @property
    def is_local(self) -> bool:
        """Whether its first frame must be uploaded; also known of images whose bytes are not here."""
        return (
            self.asked.is_local
            if self.asked is not None
            else "link" not in json.loads(self.request)["image"]
        )

    @property
    def awaits_upload(self) -> bool:
        """Whether its first frame has to be uploaded before it can be submitted."""
        return self.state is JobState.NEW and self.image_url is None and self.is_local

    @property
    def image_at_hand(self) -> bool:
        """Whether the image can be had: not one that was given as bytes to an earlier run."""
        return self.asked is not None or "sha256" not in json.loads(self.request)["image"]

    def is_over(self, now: float) -> bool:
        """Whether no link to its video can live any more."""
        return job_failures.is_over(now, accepted=self.accepted, completed=self.completed)

    def given(self, request: ImageToVideo) -> None:
        """Take the image of the same request from the input; everything else is as the ledger has
        it, and perhaps as it was sent.
        """
        if self.asked is None:
            self.asked = read_request(self.request, image=request.image)

    def rename(self, now: JobRow) -> None:
        """Take note that the caller's id stands for another request now, or for this one again;
        what is paid for is brought home anyway.
        """
        self.id, self.name, self.superseded = now.id, now.name, now.superseded

    @property
    def columns(self) -> dict[str, Any]:
        """The caller's own columns."""
        return dict(json.loads(self.extra))

    @property
    def fault(self) -> dict[str, Any]:
        """Why it ended without a video, as the ledger keeps it; empty when it did not."""
        return dict(json.loads(self.error)) if self.error else {}


IN_MEMORY = ("asked", "task", "before", "earlier", "sent_before")
COLUMNS = tuple(field.name for field in attrs.fields(JobRow) if field.name not in IN_MEMORY)
"""The columns of a job, in the order in which the ledger's queries give them."""

CHANGES: dict[str, tuple[str, ...]] = {
    "submitting": ("key", "reserved", "image_url", "uploaded", "callback_url", "accepted"),
    "running": ("task_id", "accepted"),
    "completed": ("completed", "expires", "seconds"),
    "saved": (
        *("ended_run", "ended", "spent", "seconds"),
        *("size", "sha256", "length", "width", "height"),
    ),
    "ended": ("state", "ended_run", "ended", "reserved", "spent", "error"),
    "again": ("attempt", "spent"),
}
"""What each kind of change writes of a job. In the order in which a group of them is written: a job
goes through several of them only in this order."""

_VALUES = {change: attrgetter("seq", *columns) for change, columns in CHANGES.items()}


def values_of(change: str, job: JobRow) -> tuple[Any, ...]:
    """Return what a change writes of a job, after the job's number."""
    values: tuple[Any, ...] = _VALUES[change](job)
    return values


def write_request(request: ImageToVideo, image_digest: str | None) -> str:
    """Write a request for the ledger; of an image given as bytes only the digest is kept."""
    image = request.image
    if isinstance(image, bytes):
        shown = {"sha256": image_digest}
    else:
        shown = {"link": image} if isinstance(image, str) else {"path": str(Path(image).absolute())}
    fields = {
        name: getattr(request, name)
        for name in ("prompt", "quality", "duration", "seed", "callback_url", "model")
        if name != "model" or request.model != MODEL
    }
    return json.dumps(
        {"image": shown, **{name: value for name, value in fields.items() if value is not None}},
        ensure_ascii=False,
    )


def read_request(text: str, *, image: Image | None = None) -> ImageToVideo:
    """Read a request from the ledger, with another form of its image if one is given.

    Raises `HappyHorseError` when its image was given as bytes, and there is no other form of it.
    """
    fields = json.loads(text)
    kept = fields.pop("image")
    if image is not None:
        return ImageToVideo(image, **fields)
    if "sha256" in kept:
        raise HappyHorseError(
            "the image of this job was given as bytes, which the ledger does not keep",
            next_step="Run the batch again with the same input.",
        )
    return ImageToVideo(Path(kept["path"]) if "path" in kept else kept["link"], **fields)


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
        """Return the outcome as JSON has it, with `ok`, and with what is None of its two endings."""
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
    # Never to checkers: some do not narrow a union by the truth of a member, and so `video` is a
    # Video behind `if outcome.ok` to them as well.
    if TYPE_CHECKING:
        video: ClassVar[Never]
    else:
        video = None


Outcome = SavedOutcome | UnsavedOutcome
"""What became of one job: behind `if outcome.ok:` a checker knows that `outcome.video` is a `Video`,
and behind `if outcome.error is not None:` why there is none."""


def outcome_of(
    job: JobRow,
    folder: Path,
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
        return SavedOutcome(video=_video_of(job, folder, request), **told)
    return UnsavedOutcome(error=error or _error_of(job), **told)


def _video_of(job: JobRow, folder: Path, request: ImageToVideo | None) -> Video:
    task = job.task or (Task(id=job.task_id, status=TaskStatus.COMPLETED) if job.task_id else None)
    return Video(
        path=folder / job.name,
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


@attrs.frozen(kw_only=True)
class JobChanged(Event):
    """A job of a batch has entered another state."""

    id: str
    was: JobState | None
    """None: it has just come in."""
    state: JobState
    task_id: str | None = None
    code: str | None = None
    """The code of the failure, if it is one."""


# --- Who a job of a batch is: its identity, its idempotency key, and its video's name.


ID_LENGTH = 16
LONGEST_STEM = 80
"""Bytes: file systems count those, and digests, suffixes and the mark of a part file come on top.
"""

_DERIVED = re.compile(rf"-[0-9a-f]{{{ID_LENGTH}}}(-\d+)?\Z", re.IGNORECASE)


def fingerprint(request: ImageToVideo, image_digest: str | None) -> str:
    """Give the digest of what a request asks for.

    `image_digest` is the SHA-256 of a local image's content; a link counts as it is. A moved or
    touched image is the same request, a changed one is another. The callback URL does not count: it
    says who is told, not what is made, and often holds a token per process.
    """
    image = request.image if isinstance(request.image, str) else f"sha256:{image_digest}"
    # The default model stands where it always stood, so ledgers of earlier versions keep their keys.
    fields = [request.model, image, request.prompt, request.quality, request.duration, request.seed]
    return hashlib.sha256(
        json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def twin_id(base: str, ordinal: int) -> str:
    """Give the id of the n-th equal request of one input: two equal rows are two videos that are
    wanted, not one.
    """
    return base if ordinal == 1 else f"{base}-{ordinal}"


def key_of(batch_id: str, job_id: str, digest: str, attempt: int) -> str:
    """Give the idempotency key of one attempt at a job; 43 of the 16 to 96 characters that the
    service takes.
    """
    parts = json.dumps([batch_id, job_id, digest, attempt])
    return "hh-" + hashlib.sha256(parts.encode()).hexdigest()[:40]


def video_name(request: ImageToVideo, job_id: str, *, own: bool) -> str:
    """Give the name of a job's video: the caller's own id, or the image's stem and the job's id.

    The two kinds never meet: an own id that ends as the other names do is hashed, so names of the
    other kind need not be compared.
    """
    if own:
        stem = _stem(job_id)
        plain = stem == job_id and _same_everywhere(stem) and not _DERIVED.search(stem)
        return f"{stem if plain else hashed_stem(job_id)}.mp4"
    return f"{_stem(image_stem(request))}-{job_id}.mp4"


def hashed_stem(job_id: str, salt: str = "") -> str:
    """Give a safe stem for an id that is no file's name, or whose name another job has."""
    return f"{_stem(job_id)}-{hashlib.sha256((job_id + salt).encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def folded(name: str) -> str:
    """Give what two names have in common that are one file where file systems take no notice of
    case or of how accents are written.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _stem(text: str) -> str:
    return safe_name(text, fallback="_", room=LONGEST_STEM)


def image_stem(request: ImageToVideo) -> str:
    """Give a first frame's name without its suffix; "video" for bytes and nameless links."""
    image = request.image
    if isinstance(image, bytes):
        return "video"
    name = (
        image.name if isinstance(image, Path) else unquote(urlsplit(image).path).rpartition("/")[2]
    )
    return Path(name).stem or "video"


def _same_everywhere(stem: str) -> bool:
    """Whether a name is folded already but for ASCII letters, whose case the ledger itself takes no
    notice of.

    Of all names that fold into one, only such a one is used as it is: the others get a digest,
    without asking which of them are there.
    """
    return folded(stem) == "".join(sign.lower() if sign.isascii() else sign for sign in stem)


# --- What a job's texts must be for the ledger to keep them: SQLite's text is UTF-8, and ends for
# some of its functions at a NUL.


def job_problems(request: Any, job_id: Any, extra: Any) -> list[str]:
    """List what the ledger cannot keep of a row; what the service thinks of its request is not
    asked here.
    """
    texts: dict[str, Any] = {}
    if isinstance(request, ImageToVideo):
        image = None if isinstance(request.image, bytes) else str(request.image)
        texts = {"image": image, "prompt": request.prompt, "callback_url": request.callback_url}
    problems = [
        f"{name}: {problem}"
        for name, text in texts.items()
        if text and (problem := text_problem(text))
    ]
    return [*_id_problems(job_id), *problems, *_extra_problems(extra)]


def text_problem(text: str) -> str | None:
    """Say what is wrong with a text; None when nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"expected text that UTF-8 can hold, got a lone surrogate in {text!r:.200}"
    return f"expected text without a NUL character, got {text!r:.200}" if "\0" in text else None


def _id_problems(job_id: Any) -> list[str]:
    if job_id is None:
        return []
    problem = (
        text_problem(job_id)
        if isinstance(job_id, str)
        else f"expected text or None, got {job_id!r:.200}"
    )
    return [f"id: {problem}"] if problem else []


def _extra_problems(extra: Any) -> list[str]:
    if not isinstance(extra, Mapping):
        return [f"extra: expected a mapping of columns, got {extra!r:.200}"]
    try:
        problem = text_problem(write_extra(extra))
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"cannot be written as JSON: {error}"
    return [f"extra: {problem}"] if problem else []


def write_extra(extra: Mapping[str, Any]) -> str:
    """Write the caller's own columns as the ledger keeps them; JSON escapes a NUL in them."""
    return json.dumps(dict(extra), ensure_ascii=False, allow_nan=False, default=str)
