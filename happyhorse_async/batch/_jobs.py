"""The values of a batch: what goes in (`Job`), what the ledger keeps (`JobRow`), its statements."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from operator import attrgetter
from pathlib import Path
from typing import Any

import attrs

from .._edges.disk import absolute
from .._models import MODEL, Task
from .._request import Image, ImageToVideo, quietly_made
from .._rules import job_failures, lifecycle
from .._rules.lifecycle import JobState
from .._rules.numbers import to_credits, to_millionths
from .._submitter import Earlier
from .._values import Value
from ..errors import HappyHorseError, InvalidRequestError
from ..events import Event
from ._identity import job_problems


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


def _in_the_folder(job: object, field: attrs.Attribute[str], name: str) -> None:
    """Raise `ValueError` for a name that leads out of the folder: whoever wrote it in by hand, or
    handed the ledger on, must not choose which other files are written.
    """
    if name in ("", ".", "..") or name != os.path.basename(name):
        raise ValueError(f"a video named {name!r:.200}, which is no name in its folder")


@attrs.define(kw_only=True, on_setattr=attrs.setters.NO_OP)
class JobRow:
    """A job as the ledger has it. Lives in memory only while the job is being worked on."""

    seq: int
    id: str
    fingerprint: str
    state: JobState = attrs.field(converter=JobState)
    request: str
    extra: str
    name: str = attrs.field(validator=_in_the_folder)
    attempt: int
    key: str | None
    image_url: str | None
    uploaded: float | None
    callback_url: str | None
    task_id: str | None
    reserved: int
    spent: int
    accepted: float | None
    """When its task was accepted. Of a request in doubt, when it was first sent; None: by a version
    that did not note it."""
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
    """The request as the caller gave it, when it came in this run. It may hold the image's bytes,
    which the ledger does not."""
    task: Task | None = None
    """The last state that this run has seen."""
    before: int = 0
    """Attempts before the user's word in this run that it begin again; they do not count against
    the limit."""
    earlier: Earlier | None = None
    """What is known of its key, when an earlier run may have sent it."""
    sent_before: bool = False
    """Its request may have left before the present try. So this one's failure does not say that
    nothing was accepted."""

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
        """The request as it is sent. Once its first frame has a link, the link is all that the body
        needs of it.
        """
        if self.asked is None and self.image_url is not None:
            return read_request(self.request, image=self.image_url)
        return self.wanted

    @property
    def is_local(self) -> bool:
        """Whether its first frame must be uploaded; also known where its bytes are not here."""
        return (
            self.asked.is_local
            if self.asked is not None
            else "link" not in json.loads(self.request)["image"]
        )

    @property
    def awaits_upload(self) -> bool:
        """Whether its first frame has to be uploaded before it can be submitted."""
        return self.state is JobState.NEW and self.image_url is None and self.is_local

    def forget_upload(self) -> None:
        """Forget an upload of before, which may be gone. For a new job nothing hangs on its link:
        the service never accepted it.
        """
        self.image_url = self.uploaded = None

    @property
    def image_at_hand(self) -> bool:
        """Whether the image can be had: not one that was given as bytes to an earlier run."""
        return self.asked is not None or "sha256" not in json.loads(self.request)["image"]

    def is_over(self, now: float) -> bool:
        """Whether no link to its video can live any more."""
        return job_failures.is_over(now, accepted=self.accepted, completed=self.completed)

    def given(self, request: ImageToVideo) -> None:
        """Take the image of the same request from the input. Everything else is as the ledger has
        it, and perhaps as it was sent.
        """
        if self.asked is None:
            self.asked = read_request(self.request, image=request.image)

    def rename(self, now: JobRow) -> None:
        """Take note that the caller's id stands for another request now, or for this one again.
        What is paid for is brought home anyway.
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

    @property
    def has_failed_task(self) -> bool:
        """Whether it ended because its task did. That task may go on after all, and is asked for
        before another one is bought.
        """
        return self.task_id is not None and bool(self.fault.get("task"))

    @property
    def begins_again(self) -> bool:
        """Whether the user has begun it again, in a cluster, and its failed task is still to be
        asked for.
        """
        return self.state is JobState.NEW and self.task_id is not None

    @property
    def cost(self) -> int:
        """What its present task has cost, in millionths, as far as the service says."""
        if self.task is None:
            return self.reserved
        return to_millionths(lifecycle.cost_of(self.task, to_credits(self.reserved)))

    @property
    def failure_cost(self) -> int:
        """What its failed task has cost, in millionths: a part of all that was spent."""
        # Ledgers of before do not tell it. Of a first attempt it is all.
        return int(self.fault.get("cost", self.spent if self.attempt == 1 else 0))


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
"""What each kind of change writes of a job. A group is written in this order, the only one in which
a job goes through several."""

_VALUES = {change: attrgetter("seq", *columns) for change, columns in CHANGES.items()}


def values_of(change: str, job: JobRow) -> tuple[Any, ...]:
    """Return what a change writes of a job, after the job's number."""
    values: tuple[Any, ...] = _VALUES[change](job)
    return values


# --- The statements of `ledger.sql`: SQL lives there, named and commented, and nowhere else.


_NAME = re.compile(r"^-- name: (\S+)$", re.MULTILINE)


@cache
def queries() -> dict[str, str]:
    """Return all queries by name, without their comments; "{columns}" stands for the columns of a
    job, or for those that a change writes.
    """
    text = files(__package__).joinpath("ledger.sql").read_text("utf-8")
    return {
        name: sql.replace("{columns}", _columns_of(name))
        for name, sql in named_queries(text).items()
    }


def named_queries(text: str) -> dict[str, str]:
    """Return the queries of a file by their names, without comments."""
    _, *pieces = _NAME.split(text)
    return {
        name: "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()
        for name, body in zip(pieces[::2], pieces[1::2], strict=True)
    }


def _columns_of(query: str) -> str:
    """Write the columns that a query gives, or that a change sets."""
    if query not in CHANGES:
        return ", ".join(f"j.{column}" for column in COLUMNS)
    return ", ".join(
        f"{column} = json_extract(v.value, '$[{place}]')"
        for place, column in enumerate(CHANGES[query], 1)
    )


# --- A request, as the ledger keeps it.


def write_request(request: ImageToVideo, image_digest: str | None) -> str:
    """Write a request for the ledger; of an image given as bytes only the digest is kept."""
    image = request.image
    if isinstance(image, bytes):
        shown = {"sha256": image_digest}
    else:
        shown = {"link": image} if isinstance(image, str) else {"path": str(absolute(image))}
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
        return quietly_made(image, fields)
    if "sha256" in kept:
        raise HappyHorseError(
            "the image of this job was given as bytes, which the ledger does not keep",
            next_step="Run the batch again with the same input.",
        )
    return quietly_made(Path(kept["path"]) if "path" in kept else kept["link"], fields)


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
