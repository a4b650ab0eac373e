"""A task as the world keeps it, what faults made of it, and its state at a given time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ._images import FrameProblem

if TYPE_CHECKING:
    from ._accounts import Charge, Wallet
    from ._prices import Tariff
    from ._submissions import Order

FINAL = frozenset({"completed", "failed", "cancelled"})


@attrs.frozen
class Ending:
    """How a task is going to end."""

    status: str = "completed"
    error_code: str | None = None
    message: str | None = None
    refund: bool = True
    """A failed task that is not refunded was charged all the same."""


@attrs.frozen
class Window:
    """A span of a task's life in which the service says what is not true of it,
    in sandbox seconds after acceptance.
    """

    begins: float
    ends: float
    listed: bool = False
    """The list shows it all the same."""


@attrs.frozen(kw_only=True)
class Quirks:
    """What faults make of one task. The seconds are the sandbox's, after its end."""

    ending: Ending | None = None
    """How it ends, unless that is known otherwise."""
    output_seconds: int | None = None
    """The length of its video; None: what was asked for."""
    hidden: tuple[Window, ...] = ()
    unlisted: tuple[Window, ...] = ()
    """When the list alone leaves it out."""
    false_ends: tuple[tuple[str, Window], ...] = ()
    """When it reads as failed, or by another word for an end, and goes on after that."""
    results_late: float = 0.0
    """For so long it is completed without results."""
    link_late: float = 0.0
    """For so long the file host answers `link_status`."""
    link_status: int = 404
    link_seconds: float | None = None
    """The life of a link, which every read renews; None: the sandbox's usual one, never renewed."""
    link_base: str | None = None
    """What links begin with; None: the file host's address."""
    settled_late: float = 0.0
    """For so long its charge is not settled."""
    charge_factor: float = 1.0
    """The charge is so many times the price."""
    completed_word: str = "completed"
    tail: bytes | None = None
    """What follows the video's last box."""
    sector: bool = False
    """The video is filled up to a multiple of 4,096 bytes."""

    def finish(self, video: bytes) -> bytes:
        """Return the bytes that the file host has of a video."""
        if self.sector:
            return video + bytes(-len(video) % 4096)
        return video + self.tail if self.tail else video


NO_QUIRKS = Quirks()


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
    submission: Order
    seed: int
    """The seed of the video: the submission's, or one that the service drew."""
    created: float
    starts: float
    due: float
    charge: Charge
    tariff: Tariff
    """The prices of its acceptance, by which it is charged."""
    idempotency_key: str | None = None
    quirks: Quirks = NO_QUIRKS
    ending: Ending = attrs.field(
        default=attrs.Factory(lambda task: task.quirks.ending or Ending(), takes_self=True)
    )
    frame: Literal["unknown", "good"] | FrameProblem = "unknown"
    """What is known of the first frame; a task cannot end well before it is known to be good."""
    ended: float | None = None
    status_override: str | None = None
    links: list[Link] = attrs.field(factory=list)
    """Every link that the task ever had, the present one last."""
    etag_version: int = 0
    """Counts the changes of the video's `ETag`."""
    encoding: int = 0
    """Counts how often the video was made anew: with other bytes, and so another `ETag`."""
    frame_size: tuple[int, int] | None = None
    """Width and height of the first frame, where known."""
    output_seconds: int = attrs.field(
        default=attrs.Factory(
            lambda task: task.quirks.output_seconds or task.submission.duration, takes_self=True
        )
    )
    """The length of the video that is made, which decides the charge."""
    frame_digest: str | None = None
    """What the studio keeps the first frame under, where it has it."""

    def is_hidden(self, now: float, *, in_list: bool = False) -> bool:
        """Return whether the service denies the task right now."""
        quirks = self.quirks
        if in_list and self._is_in(now, quirks.unlisted):
            return True
        return self._is_in(now, (each for each in quirks.hidden if not (in_list and each.listed)))

    def false_end(self, now: float) -> str | None:
        """Return by which word the service says right now that it has ended, and is wrong."""
        ends = () if self.ended is not None else self.quirks.false_ends
        return next((word for word, window in ends if self._is_in(now, (window,))), None)

    def _is_in(self, now: float, windows: Iterable[Window]) -> bool:
        age = now - self.created
        return any(window.begins <= age < window.ends for window in windows)

    def has_results(self, now: float) -> bool:
        """Return whether reads show the results."""
        return bool(self.links) and now >= (self.ended or 0.0) + self.quirks.results_late

    def is_late_on_host(self, now: float) -> bool:
        """Return whether the file host does not have the video yet."""
        return now < (self.ended or 0.0) + self.quirks.link_late

    @property
    def is_final(self) -> bool:
        """Return whether the task has ended."""
        return self.ended is not None

    def status_at(self, now: float) -> str:
        """Return `status` as the service reports it."""
        if self.status_override is not None:
            return self.status_override
        if self.ended is not None:
            word = self.ending.status
            return self.quirks.completed_word if word == "completed" else word
        if (false := self.false_end(now)) is not None:
            return false
        return "pending" if now <= self.starts else "processing"

    def progress_at(self, now: float) -> int:
        """Return `progress`, 0 to 100."""
        if self.ended is not None and self.ending.status == "completed":
            return 100
        until = now if self.ended is None else self.ended
        return 0 if until <= self.starts else progress_at(self.starts, self.due, until)

    def error(self) -> dict[str, Any] | None:
        """Return `error` as the service reports it; None when the task did not fail."""
        if (
            self.ended is None
            or self.ending.status == "completed"
            or self.ending.error_code is None
        ):
            return None
        return task_error(self.ending.error_code, self.ending.message)


def task_error(code: str, message: str | None = None) -> dict[str, Any]:
    """Return the `error` of a failed task."""
    return {"code": code, "message": message or _MESSAGES.get(code, code), "type": "task_error"}


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


# --- How long a task lives and how far it is: pure functions of time and seeded chance.


_ESTIMATED_SECONDS = 2400
"""What the service announces as `task_info.estimated_time`: its reference's example, the far end of
the range."""

_MEDIAN, _SIGMA = 180.0, 0.75
_SHORTEST, _LONGEST = 60.0, 2400.0
_QUEUED_SHARE = 0.1


def plan_life(
    chance: Random, *, duration: int, quality: str, fixed: float | None
) -> tuple[float, float]:
    """Return the seconds that a task waits in the queue, and then works: `fixed` ones in all, or
    lognormal around 3 minutes, between 1 and 40.

    Longer and finer videos take longer.
    """
    if fixed is None:
        factor = (0.6 + 0.08 * duration) * (1.6 if quality == "1080p" else 1.0)
        seconds = _MEDIAN * factor * math.exp(chance.gauss(0.0, _SIGMA))
        seconds = min(max(seconds, _SHORTEST), _LONGEST)
    else:
        seconds = fixed
    return seconds * _QUEUED_SHARE, seconds * (1 - _QUEUED_SHARE)


def estimate_of(fixed: float | None) -> int:
    """Return what to announce as `task_info.estimated_time`: the true life where it is fixed, in
    whole seconds.
    """
    return _ESTIMATED_SECONDS if fixed is None else max(1, math.ceil(fixed))


def progress_at(started: float, ends: float, now: float) -> int:
    """Return the progress of a task at work: 1 to 99,
    faster at first as the service's own bar is.
    """
    if now >= ends or ends <= started:
        return 99
    share = (now - started) / (ends - started)
    return max(1, min(99, int(100 * (1 - (1 - share) ** 1.5))))
