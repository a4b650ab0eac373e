"""The service's state and rules without a wire: accounts, tasks, money, files, links. Time is
passed in.
"""

from __future__ import annotations

import math
import string
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ._accounts import Account, Entry, Wallet, price
from ._clock import Agenda
from ._errors import Refusal
from ._files import Shelf
from ._images import FrameProblem
from ._submissions import MAX_SEED, MODEL, check_idempotency_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from decimal import Decimal
    from typing import Literal

    from ._accounts import Charge, Wallet
    from ._submissions import Submission

__all__ = ["Accepted", "Lifetimes", "World"]

_ALPHABET = string.ascii_lowercase + string.digits


@attrs.frozen
class Accepted:
    """The outcome of a submission: the task, and whether the idempotency key gave back an earlier
    one.
    """

    task: TaskRecord
    replayed: bool


@attrs.frozen(kw_only=True)
class Lifetimes:
    """How long things live, in sandbox seconds."""

    task: float | None
    """Every task's life; None: a realistic distribution."""
    link: float
    file: float


class World:
    """Everything that the sandbox remembers. `run(now)` brings it up to a time; callers do so
    before they look.
    """

    def __init__(self, accounts: Iterable[Account], lifetimes: Lifetimes, *, seed: int) -> None:
        self._chance = Random(seed)
        self._lifetimes = lifetimes
        self._keys: dict[tuple[str, str], TaskRecord] = {}
        self._undecided: dict[str, float] = {}
        self._links: dict[str, TaskRecord] = {}
        self.agenda = Agenda()
        self.files = Shelf(self._chance, self.agenda, file_seconds=lifetimes.file)
        self.wallets = {account.key: Wallet(account) for account in accounts}
        self.tasks: dict[str, TaskRecord] = {}
        self.ledger: list[Entry] = []
        self.refunded = 0
        self.on_end: Callable[[TaskRecord], None] = lambda task: None

    def run(self, now: float) -> None:
        """Let everything happen that is due by `now`."""
        self.agenda.run(now)

    def submit(
        self,
        wallet: Wallet,
        submission: Submission,
        *,
        now: float,
        key: str | None = None,
    ) -> Accepted:
        """Accept and reserve a task, or give back the one that `key` already stands for; raises
        `Refusal`.
        """
        if MODEL not in wallet.account.models:
            raise Refusal(
                403, "model_access_denied", f"this key may not use {MODEL}", param="model"
            )
        if key is not None:
            check_idempotency_key(key)
            earlier = self._keys.get((wallet.account.key, key))
            if earlier is not None:
                return Accepted(self._replay(earlier, submission, now), replayed=True)
        charge = wallet.reserve(price(submission.duration, submission.quality))
        life = plan_life(
            self._chance,
            duration=submission.duration,
            quality=submission.quality,
            fixed=self._lifetimes.task,
        )
        task = TaskRecord(
            id=f"task-unified-{int(now)}-{''.join(self._chance.choices(_ALPHABET, k=10))}",
            wallet=wallet,
            submission=submission,
            seed=submission.seed or self._chance.randint(1, MAX_SEED),
            created=now,
            starts=now + life.queued,
            due=now + life.queued + life.working,
            charge=charge,
            idempotency_key=key,
        )
        self.tasks[task.id] = task
        if key is not None:
            self._keys[wallet.account.key, key] = task
        self._enter("reserve", task, now, charge.reserved)
        self.agenda.at(task.due, lambda when: self._come_due(task, when))
        return Accepted(task, replayed=False)

    def leave_undecided(self, task: TaskRecord, until: float) -> None:
        """Answer replays of this task's submission with `paid_outcome_unknown` until then."""
        self._undecided[task.id] = until

    def frame_known(self, task: TaskRecord, problem: FrameProblem | None, now: float) -> None:
        """Record the check of the first frame: a bad one fails the task as soon as it would have
        started.
        """
        if task.is_final:
            return
        task.frame = problem or "good"
        if problem is not None:
            task.ending = Ending("failed", problem.code, problem.message)
            task.due = min(task.due, max(task.starts, now))
            self.agenda.at(task.due, lambda when: self._come_due(task, when))
        elif task.due <= now:
            self._end(task, now)

    def hasten(self, task: TaskRecord, now: float) -> None:
        """Let an unfinished task come to its end now, without waiting for what is still unknown of
        its first frame.
        """
        if not task.is_final and task.status_override is None:
            self._end(task, now)

    def force(self, task: TaskRecord, ending: Ending, now: float) -> None:
        """Give an unfinished task a final status now; any other status is only shown, and stays."""
        if ending.status not in FINAL:
            task.status_override = ending.status
        elif task.is_final:
            raise ValueError(f"{task.id} has already ended as {task.ending.status}")
        else:
            task.status_override, task.ending = None, ending
            self._end(task, now)

    def find(self, wallet: Wallet, task_id: str) -> TaskRecord | None:
        """Return a task of this account; another account's is as good as unknown."""
        task = self.tasks.get(task_id)
        return task if task is not None and task.wallet is wallet else None

    def find_link(self, token: str) -> tuple[TaskRecord, Link] | None:
        """Return the task and the link that a result URL stands for, dead or alive."""
        task = self._links.get(token)
        if task is None:
            return None
        return task, next(link for link in task.links if link.token == token)

    def expire_link(self, task: TaskRecord, now: float, *, fresh: bool) -> None:
        """Kill a completed task's link before its time; `fresh`: the next read of the task gives
        another.
        """
        task.links[-1].expires = now
        if fresh:
            self._link(task, now)

    def _replay(self, task: TaskRecord, submission: Submission, now: float) -> TaskRecord:
        if task.submission.body != submission.body:
            raise Refusal(
                409, "idempotency_conflict", "this Idempotency-Key was used with another body"
            )
        if self._undecided.get(task.id, now) > now:
            raise Refusal(
                409,
                "paid_outcome_unknown",
                "the first submission is being decided, ask again with this key",
            )
        return task

    def _come_due(self, task: TaskRecord, when: float) -> None:
        waits = task.frame == "unknown" and task.ending.status == "completed"
        if not (task.is_final or task.status_override is not None or when < task.due or waits):
            self._end(task, when)

    def _end(self, task: TaskRecord, when: float) -> None:
        task.ended = when
        wallet, charge = task.wallet, task.charge
        if task.ending.status != "completed" and task.ending.refund:
            wallet.refund(charge)
            self.refunded += 1
            self._enter("refund", task, when, charge.refunded)
        else:
            wallet.settle(charge, price(task.output_seconds, task.submission.quality))
            self._enter("settle", task, when, charge.charged)
        if task.ending.status == "completed":
            self._link(task, when)
        self.on_end(task)

    def _link(self, task: TaskRecord, now: float) -> None:
        token = f"{self._chance.getrandbits(96):024x}"
        task.links.append(Link(token, now + self._lifetimes.link))
        self._links[token] = task

    def _enter(
        self,
        kind: Literal["reserve", "settle", "refund"],
        task: TaskRecord,
        at: float,
        amount: Decimal,
    ) -> None:
        self.ledger.append(Entry(at, kind, task.id, amount))


# --- A task as the world keeps it, and its state at a given time.


FINAL = frozenset({"completed", "failed", "cancelled"})


def usual_code(status: str) -> str | None:
    """Return the error code of a task that somebody ends with this status and without a code; None:
    it has no error.
    """
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
    output_seconds: int = attrs.field(
        default=attrs.Factory(lambda task: task.submission.duration, takes_self=True)
    )
    """The length of the video that is made, which decides the charge; what was asked for unless a
    fault changes it."""
    frame_digest: str | None = None
    """What the studio keeps the first frame under, where it has it."""

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
        if (
            self.ended is None
            or self.ending.status == "completed"
            or self.ending.error_code is None
        ):
            return None
        code = self.ending.error_code
        return {
            "code": code,
            "message": self.ending.message or _MESSAGES.get(code, code),
            "type": "task_error",
        }


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


# --- How long a task lives and how far it has come: pure functions of time and a seeded source of
# chance.


_ESTIMATED_SECONDS = 2400
"""What the service announces as `task_info.estimated_time`: its reference's example, the far end of
the range."""

_MEDIAN, _SIGMA = 180.0, 0.75
_SHORTEST, _LONGEST = 60.0, 2400.0
_QUEUED_SHARE = 0.1


@attrs.frozen
class Life:
    """The seconds that a task waits in the queue and then works."""

    queued: float
    working: float


def plan_life(chance: Random, *, duration: int, quality: str, fixed: float | None) -> Life:
    """Return a task's life: `fixed` seconds, or lognormal around 3 minutes, between 1 and 40.

    Longer and finer videos take longer.
    """
    if fixed is None:
        factor = (0.6 + 0.08 * duration) * (1.6 if quality == "1080p" else 1.0)
        seconds = _MEDIAN * factor * math.exp(chance.gauss(0.0, _SIGMA))
        seconds = min(max(seconds, _SHORTEST), _LONGEST)
    else:
        seconds = fixed
    return Life(seconds * _QUEUED_SHARE, seconds * (1 - _QUEUED_SHARE))


def estimate_of(fixed: float | None) -> int:
    """Return what to announce as `task_info.estimated_time`: the true life where it is fixed, in
    whole seconds.
    """
    return _ESTIMATED_SECONDS if fixed is None else max(1, math.ceil(fixed))


def progress_at(started: float, ends: float, now: float) -> int:
    """Return the progress of a task at work: 1 to 99, faster at first as the service's own bar is."""
    if now >= ends or ends <= started:
        return 99
    share = (now - started) / (ends - started)
    return max(1, min(99, int(100 * (1 - (1 - share) ** 1.5))))
