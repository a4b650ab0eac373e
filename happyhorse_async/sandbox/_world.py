"""The service's state and rules without a wire: accounts, tasks, money, files, links. Time is
passed in.
"""

from __future__ import annotations

import string
from math import inf
from random import Random
from typing import TYPE_CHECKING, Literal

import attrs

from ._accounts import Account, Entry, Wallet
from ._clock import Agenda
from ._errors import Refused
from ._files import Shelf
from ._images import FrameProblem
from ._prices import PriceBook
from ._submissions import MAX_SEED, check_idempotency_key
from ._task_record import FINAL, NO_QUIRKS, Ending, Link, Quirks, TaskRecord, plan_life

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from decimal import Decimal

    from ._submissions import Order

_ALPHABET = string.ascii_lowercase + string.digits


@attrs.frozen(kw_only=True)
class Lifetimes:
    """How long things live, in sandbox seconds."""

    task: float | None
    """Every task's life; None: a realistic distribution."""
    link: float
    file: float

    def __attrs_post_init__(self) -> None:
        if self.task is not None and not 0 <= self.task < float("inf"):
            raise ValueError(f"task_seconds is zero or more and finite, not {self.task}")


def _conflict() -> Refused:
    return Refused(409, "idempotency_conflict", "this Idempotency-Key was used with another body")


class World:
    """Everything that the sandbox remembers. Running its agenda brings it up to a time; callers do
    so before they look.
    """

    def __init__(
        self,
        accounts: Iterable[Account],
        lifetimes: Lifetimes,
        *,
        ids: Literal["unified", "short", "long"] = "unified",
        key_seconds: float = inf,
        seed: int,
    ) -> None:
        self._chance = Random(seed)
        self._lifetimes = lifetimes
        self._ids = ids
        self._key_seconds = key_seconds
        self._keys: dict[tuple[str, str], TaskRecord] = {}
        self._undecided: dict[str, float] = {}
        self._links: dict[str, tuple[TaskRecord, Link]] = {}
        self.prices: PriceBook = PriceBook()
        self.agenda: Agenda = Agenda()
        self.files: Shelf = Shelf(self._chance, self.agenda, file_seconds=lifetimes.file)
        self.wallets: dict[str, Wallet] = {account.key: Wallet(account) for account in accounts}
        self.tasks: dict[str, TaskRecord] = {}
        self.ledger: list[Entry] = []
        self.refunded: int = 0
        self.on_end: Callable[[TaskRecord], None] = lambda task: None
        """Called once a task has ended and its charge is decided."""

    def submit(
        self,
        wallet: Wallet,
        submission: Order,
        *,
        now: float,
        key: str | None = None,
        quirks: Quirks = NO_QUIRKS,
    ) -> tuple[TaskRecord, bool]:
        """Accept and reserve a task, or give back the one that `key` already stands for. Return it,
        and whether it is such an earlier one. Raises `Refused`.
        """
        wallet.account.check_model(submission.model)
        if key is not None:
            check_idempotency_key(key)
            earlier = self._known(wallet, key, now)
            if earlier is not None:
                return self._replay(earlier, submission, now), True
        tariff = self.prices.tariff(wallet.account.discount)
        price = tariff.video(submission.model, submission.duration, submission.quality)
        charge = wallet.reserve(price, now)
        queued, working = plan_life(
            self._chance,
            duration=submission.duration,
            quality=submission.quality,
            fixed=self._lifetimes.task,
        )
        task = TaskRecord(
            id=self._draw_id(now),
            wallet=wallet,
            submission=submission,
            seed=submission.seed or self._chance.randint(1, MAX_SEED),
            created=now,
            starts=now + queued,
            due=now + queued + working,
            charge=charge,
            idempotency_key=key,
            quirks=quirks,
            tariff=tariff,
        )
        self.tasks[task.id] = task
        if key is not None:
            self._keys[wallet.account.key, key] = task
        self._enter("reserve", task, now, charge.reserved)
        self.agenda.at(task.due, lambda when: self._come_due(task, when))
        return task, False

    def leave_undecided(self, task: TaskRecord, until: float) -> None:
        """Reply replays of this task's submission with `paid_outcome_unknown` until then."""
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

    def find(self, wallet: Wallet, task_id: str, now: float) -> TaskRecord | None:
        """Return a task of this account that is not denied right now; others' are unknown."""
        task = self.tasks.get(task_id)
        if task is None or task.wallet is not wallet or task.is_hidden(now):
            return None
        return task

    def find_link(self, token: str) -> tuple[TaskRecord, Link] | None:
        """Return the task and the link that a result URL stands for, dead or alive."""
        return self._links.get(token)

    def renew_link(self, task: TaskRecord, now: float) -> None:
        """Give a task another link, when its links live for short and every read signs one."""
        if task.links and task.quirks.link_seconds is not None:
            self._link(task, now)

    def expire_link(self, task: TaskRecord, now: float, *, fresh: bool) -> None:
        """Kill a completed task's link before its time; `fresh`: the next read of the task gives
        another.
        """
        task.links[-1].expires = now
        if fresh:
            self._link(task, now)

    def check_unused(self, wallet: Wallet, key: str | None, now: float) -> None:
        """Raise `Refused` (409 `idempotency_conflict`) when a key stands for a task already."""
        if key is not None and self._known(wallet, key, now) is not None:
            raise _conflict()

    def _known(self, wallet: Wallet, key: str, now: float) -> TaskRecord | None:
        task = self._keys.get((wallet.account.key, key))
        return task if task is not None and now - task.created < self._key_seconds else None

    def _replay(self, task: TaskRecord, submission: Order, now: float) -> TaskRecord:
        if task.submission.body != submission.body:
            raise _conflict()
        if self._undecided.get(task.id, now) > now:
            raise Refused(
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
        if task.ending.status == "completed":
            self._link(task, when)
        if task.quirks.settled_late:
            self.agenda.at(when + task.quirks.settled_late, lambda at: self._settle(task, at))
        else:
            self._settle(task, when)

    def _settle(self, task: TaskRecord, when: float) -> None:
        wallet, charge = task.wallet, task.charge
        if task.ending.status != "completed" and task.ending.refund:
            wallet.refund(charge, when)
            self.refunded += 1
            self._enter("refund", task, when, charge.refunded)
        else:
            order, times = task.submission, task.quirks.charge_factor
            wallet.settle(
                charge, task.tariff.video(order.model, task.output_seconds, order.quality, times)
            )
            self._enter("settle", task, when, charge.charged)
        self.on_end(task)

    def _draw_id(self, now: float) -> str:
        if self._ids == "short":
            return f"{len(self.tasks):x}"
        drawn = "".join(self._chance.choices(_ALPHABET, k=10))
        if self._ids == "long":
            return f"video:{int(now)}.{drawn}_".ljust(128, "A")
        return f"task-unified-{int(now)}-{drawn}"

    def _link(self, task: TaskRecord, now: float) -> None:
        life = task.quirks.link_seconds
        link = Link(
            f"{self._chance.getrandbits(96):024x}",
            now + (self._lifetimes.link if life is None else life),
        )
        task.links.append(link)
        self._links[link.token] = task, link

    def _enter(
        self,
        kind: Literal["reserve", "settle", "refund"],
        task: TaskRecord,
        at: float,
        amount: Decimal,
    ) -> None:
        self.ledger.append(Entry(at, kind, task.id, amount))
