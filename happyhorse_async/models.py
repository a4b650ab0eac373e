"""What goes in and what comes out, as frozen values: requests, tasks, videos, money.

May import attrs, the errors, and the rules over plain strings and bytes (frames, links); nothing that does I/O.
Times are timezone-aware datetimes in UTC, durations seconds, sizes bytes, credits exact decimals.
"""

from __future__ import annotations

import base64
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from .errors import InvalidRequestError
from .formats import images, urls

if TYPE_CHECKING:
    from .errors import HappyHorseError

EMBEDDED_BYTES = 16 * 1024 * 1024
"""Videos up to this size are shown in notebooks by their bytes, larger ones by their path."""
MODEL = "happyhorse-1.0-image-to-video"
"""The one model of the service that this package speaks to."""

Image = str | Path | bytes
"""A first frame: an http(s) link, the path of a local file, or the file's bytes."""
Quality = Literal["720p", "1080p"]

QUALITIES: tuple[Quality, ...] = ("720p", "1080p")
DURATIONS = range(3, 16)
SEEDS = range(1, 2147483648)


def _image(value: Any) -> Any:
    if isinstance(value, str) and not urls.looks_like_link(value):
        return Path(value)
    if isinstance(value, os.PathLike):
        return Path(value)
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


def _short_image(value: Image) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)


@attrs.frozen
class ImageToVideo:
    """One video that is wanted: a first frame and what should become of it.

    Checks itself when it is made and raises `InvalidRequestError` with every problem at once. A local file is looked at later, when it
    is submitted, because that reads the disk. A prompt over the service's limit gives a `UserWarning` that says where it will be cut.
    """

    image: Image = attrs.field(converter=_image, repr=_short_image)
    """The first frame: an http or https link that the public internet can reach, a path, or the bytes of a JPEG, PNG or WEBP file of at
    most 10 MB, at least 300 px on each side, and with sides between 1:2.5 and 2.5:1."""
    prompt: str | None = attrs.field(default=None, kw_only=True)
    """What should happen; up to 2,500 characters when Chinese, 5,000 otherwise. None: the model interprets the frame freely."""
    quality: Quality = attrs.field(default="720p", kw_only=True)
    """"720p" or "1080p"; changes the price."""
    duration: int = attrs.field(default=5, kw_only=True)
    """Whole seconds, 3 to 15; changes the price."""
    seed: int | None = attrs.field(default=None, kw_only=True)
    """1 to 2147483647; None: the service draws one."""
    callback_url: str | None = attrs.field(default=None, kw_only=True)
    """Where the service should POST the finished task: https, no private address, at most 2,048 characters."""

    def __attrs_post_init__(self) -> None:
        problems = request_problems(self)
        if problems:
            raise InvalidRequestError(problems)
        cut = images.prompt_cut(self.prompt) if self.prompt else None
        if cut is not None:
            warnings.warn(f"prompt: {cut}", UserWarning, stacklevel=3)

    @property
    def is_local(self) -> bool:
        """Whether the first frame has to be uploaded before it can be submitted."""
        return not isinstance(self.image, str)


def request_problems(request: ImageToVideo) -> list[str]:
    """List what the service's reference forbids in a request; a local file's content is not looked at."""
    problems = _image_problems(request.image)
    prompt: object = request.prompt
    if prompt is not None and not isinstance(prompt, str):
        problems.append(f"prompt: expected text or None, got {prompt!r}")
    elif prompt is not None and urls.has_surrogate(prompt):
        problems.append("prompt: expected text that can be written as UTF-8; there is half of a surrogate pair in it")
    if request.quality not in QUALITIES:
        problems.append(f"quality: expected '720p' or '1080p', got {request.quality!r}")
    if not _whole_in(request.duration, DURATIONS):
        problems.append(f"duration: expected whole seconds from 3 to 15, got {request.duration!r}")
    if request.seed is not None and not _whole_in(request.seed, SEEDS):
        problems.append(f"seed: expected a whole number from 1 to 2147483647 or None, got {request.seed!r}")
    if request.callback_url is not None:
        problems += [f"callback_url: {problem}" for problem in urls.callback_problems(request.callback_url)]
    return problems


def _whole_in(value: object, allowed: range) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in allowed


def _image_problems(image: object) -> list[str]:
    if isinstance(image, bytes):
        return [f"image: {problem}" for problem in images.frame_problems(image, len(image))]
    if isinstance(image, str):
        return [f"image: {problem}" for problem in urls.image_link_problems(image)]
    if isinstance(image, Path):
        return []
    shown = f"an empty {type(image).__name__}" if isinstance(image, Sequence) and not image else repr(image)
    return [f"image: expected one http(s) link, path, or the bytes of an image, got {shown}"]


class TaskStatus(StrEnum):
    """The statuses that the service's reference names. It may send newer ones: those stay plain text, and count as unfinished."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@attrs.frozen(kw_only=True)
class TaskError:
    """Why a task failed, in the service's words."""

    code: str = "unknown_error"
    """The service's code; codes newer than this package are kept as they come."""
    message: str = ""
    """The service's sentence about it."""
    suggestion: str | None = None
    """What the service suggests, when it does."""


@attrs.frozen(kw_only=True)
class Usage:
    """What a task has reserved or cost; each field is None while the service has not said it."""

    credits_reserved: Decimal | None = None
    """As reported at submission; its unit has differed between the service's pages, so do not calculate with it."""
    credits_used: Decimal | None = None
    """The settled charge in credits."""
    usd: Decimal | None = None
    """The settled charge in US dollars."""


@attrs.frozen(kw_only=True)
class Billing:
    """The ledger facts of a task, where the service sends them; open text, kept as it comes."""

    charge_status: str | None = None
    refund_status: str | None = None
    reserved_credits: Decimal | None = None
    charged_credits: Decimal | None = None


@attrs.frozen(kw_only=True)
class Task:
    """What the service last said of a task: one snapshot."""

    id: str
    """Starts with "task-unified-"."""
    status: TaskStatus | str
    """A `TaskStatus`, or plain text when the word is newer than this package."""
    progress: int = 0
    """0 to 100."""
    results: tuple[str, ...] = ()
    """Links to the videos, each dead 24 hours after completion. Treat them as untrusted input: `download` does."""
    error: TaskError | None = None
    """Set when the task failed."""
    usage: Usage = Usage()
    """Reserved and settled credits."""
    billing: Billing | None = None
    """The service's ledger facts; the only proof of whether a failed task was charged."""
    model: str = MODEL
    created: datetime | None = None
    """When the service accepted it."""
    expires_at: datetime | None = None
    """The earliest time at which the links can die; None while there are none."""
    estimated_seconds: float | None = None
    """The service's guess of how long the task will take in all."""
    seconds: float | None = None
    """How long it took in all, once that is known."""
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)
    """The answer as it came, with the fields that are newer than this package."""
    _late: Callable[[Task], Mapping[str, Any]] | None = attrs.field(default=None, init=False, repr=False, eq=False)
    """Reads the other fields from `raw` when the first of them is asked for: of ten thousand tasks that end at once, few are looked at."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            late = None if name == "_late" else self._late
            if late is None or name not in Task.__slots__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            for field, value in late(self).items():
                object.__setattr__(self, field, value)
            object.__setattr__(self, "_late", None)
            return object.__getattribute__(self, name)


@attrs.frozen(kw_only=True)
class TaskSummary:
    """One line of the service's task list; it has no result links."""

    id: str
    status: TaskStatus | str
    model: str = ""
    created: datetime | None = None
    progress: int = 0
    has_results: bool = False
    has_error: bool = False
    credits_used: Decimal | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)


@attrs.frozen(kw_only=True)
class TaskPage:
    """One page of the service's task list, newest first."""

    items: tuple[TaskSummary, ...]
    total: int
    page: int
    page_size: int


@attrs.frozen(kw_only=True)
class Estimate:
    """What one or more requests will cost by the pricing rule; settlement follows the actual length of the output."""

    credits: Decimal
    usd: Decimal
    requests: int = 1
    source: Literal["catalog", "bundled"] = "bundled"
    """"catalog": the service's live rule. "bundled": the rule that came with this package, because the live one could not be had."""
    as_of: str = ""
    """The date of the rule (ISO 8601), when it is known."""


@attrs.frozen(kw_only=True)
class Credits:
    """What is left in the account and in the key."""

    remaining: Decimal
    used: Decimal
    key_remaining: Decimal | None = None
    key_used: Decimal | None = None
    key_unlimited: bool = False

    @property
    def spendable(self) -> Decimal:
        """The credits that this key can still spend: the lesser of the account's and the key's."""
        if self.key_unlimited or self.key_remaining is None:
            return self.remaining
        return min(self.remaining, self.key_remaining)


@attrs.frozen(kw_only=True)
class UploadedFile:
    """A file on the service's file host; public, and gone 72 hours after the upload."""

    url: str
    id: str = ""
    name: str = ""
    size: int = 0
    mime_type: str = ""
    expires_at: datetime | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)


@attrs.frozen(kw_only=True)
class Video:
    """A saved and verified video."""

    path: Path
    """Where it lies; in an object store its key."""
    url: str | None = None
    """Where it lies in an object store, as s3://bucket/key."""
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal digest of the whole file, calculated while it was written."""
    content_type: str = "video/mp4"
    duration: float | None = None
    """Seconds, read from the file."""
    width: int | None = None
    """Pixels, read from the file."""
    height: int | None = None
    """Pixels, read from the file."""
    task: Task | None = attrs.field(default=None, repr=False)
    """The finished task."""
    request: ImageToVideo | None = attrs.field(default=None, repr=False)
    """The request, when this process made it."""
    credits: Decimal | None = None
    """The settled charge, when the service reported it."""

    @property
    def task_id(self) -> str | None:
        """The id of the task that made it."""
        return self.task.id if self.task is not None else None

    def _repr_html_(self) -> str:
        """Play it in a notebook: a small one is put into the page, so that the page can be sent on."""
        import html  # needed in notebooks only

        where = html.escape(self.url or str(self.path))
        facts = f"<small>{where}, {self.size:,} bytes, SHA-256 {html.escape(self.sha256)}</small>"
        if self.url is not None or not self.path.is_file():
            return f"<div>{facts}</div>"
        source = html.escape(self.path.as_posix())
        if self.size <= EMBEDDED_BYTES:
            source = f"data:video/mp4;base64,{base64.b64encode(self.path.read_bytes()).decode()}"
        return f'<div><video controls loop width="480" src="{source}"></video><br>{facts}</div>'


@attrs.frozen(kw_only=True)
class Submission:
    """What became of one request of `submit_many`: a task handle, or an error."""

    index: int
    """The request's place in the input, from 0."""
    request: ImageToVideo | Any
    """The request as it was given."""
    task: Any | None = None
    """The task handle, when it was accepted."""
    error: HappyHorseError | None = None
    """Why it was not; see its `charged`."""

    @property
    def ok(self) -> bool:
        """Whether the service accepted it."""
        return self.error is None
