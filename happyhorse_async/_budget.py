"""The session's money: what is reserved, what is spent, and what may still be promised."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from ._config import Budget
from ._models import Task
from ._rules import lifecycle
from ._rules.prices import to_credits, to_millionths
from .errors import BudgetExceededError
from .events import Events


class BudgetBook:
    """Keeps the submissions of a session within its budget; with no budget it keeps nothing.

    Each submission is known by its idempotency key, so that a replay of one is never counted twice.
    What is reserved counts as gone until the task's charge is known: the sum of charges cannot pass
    the budget as long as the estimates are not too low.
    """

    def __init__(self, budget: Budget | None, *, events: Events) -> None:
        self._cap = Decimal(str(budget.credits)) if budget is not None else None
        self._events = events
        self._reserved: dict[str, Decimal] = {}
        self._holders: dict[str, int] = {}
        self._settled: set[str] = set()
        self._promised = Decimal(0)
        self._spent = Decimal(0)

    @property
    def limited(self) -> bool:
        """Whether there is a budget at all."""
        return self._cap is not None

    @property
    def reserved(self) -> Decimal:
        """Credits of submissions whose charge is not known yet."""
        return self._promised

    @property
    def spent(self) -> Decimal:
        """Credits that were charged, as far as this session has seen its tasks end."""
        return self._spent

    @property
    def left(self) -> Decimal | None:
        """Credits that may still be promised; None without a budget."""
        return None if self._cap is None else self._cap - self._promised - self._spent

    def reserve(self, key: str, credits: Decimal) -> None:  # noqa: A002 the service's word for its money
        """Set the estimate of a submission aside; raises `BudgetExceededError` when it does not fit
        into what is left.
        """
        if self._cap is None or key in self._settled:
            return
        if key in self._reserved:
            self._holders[key] += 1
            return
        left = self._cap - self._promised - self._spent
        if credits > left:
            raise BudgetExceededError(
                f"the request needs about {credits} credits, and {left} of the budget of {self._cap} are left",
                needed=str(credits),
                left=str(left),
                idempotency_key=key,
            )
        self._reserved[key], self._holders[key] = credits, 1
        self._promised += credits
        self._changed()

    def settle(self, key: str, task: Task) -> None:
        """Replace a reservation by the charge that the service reports for a task that has ended.

        A task without a video is free unless its ledger facts prove the opposite; a video without a
        reported charge costs its estimate.
        """
        estimate = self._forget(key)
        if estimate is None:
            return
        self._settled.add(key)
        self._spent += _charge(task, estimate)
        self._changed()

    def free(self, key: str) -> None:
        """Give back the reservation of a submission that was certainly not accepted."""
        if key not in self._reserved:
            return
        if self._holders[key] > 1:
            self._holders[key] -= 1
            return
        self._forget(key)
        self._changed()

    def _forget(self, key: str) -> Decimal | None:
        estimate = self._reserved.pop(key, None)
        if estimate is not None:
            del self._holders[key]
            self._promised -= estimate
        return estimate

    def _changed(self) -> None:
        if self._events and self._cap is not None:
            from .events import BudgetChanged

            left = self._cap - self._promised - self._spent
            self._events.emit(BudgetChanged(reserved=self._promised, spent=self._spent, left=left))


def _charge(task: Task, estimate: Decimal) -> Decimal:
    billed = task.billing.charged_credits if task.billing is not None else None
    reported = task.usage.credits_used if task.usage.credits_used is not None else billed
    if lifecycle.is_completed(task):
        return estimate if reported is None else reported
    if lifecycle.charged(task) == "yes":
        return reported or estimate
    return Decimal(0)


# --- The batch's money: what its ledger says is spent or set aside, and what may still be.


class Purse:
    """Counts in whole millionths of a credit, like the ledger, and begins with what earlier runs
    left there.

    What is set aside counts as gone until the charge is known, and is committed to the ledger
    before the request leaves; so the cap holds across a crash too, as far as the service charges no
    more than its own pricing rule says.

    What is set aside for jobs that somebody works on is live: it will be settled, and may leave
    room. The rest is dormant: it is kept for jobs that nobody works on any more in this run, so
    that waiting for it would have no end.
    """

    def __init__(self, cap: Decimal | None) -> None:
        self._cap = to_millionths(cap) if cap is not None else None
        self._spent = 0
        self._reserved = 0
        self._live = 0
        """The part of it that belongs to jobs that are being worked on."""
        self._change = asyncio.Event()
        self._closed = False

    @property
    def limited(self) -> bool:
        """Whether there is a cap at all."""
        return self._cap is not None

    def begin(self, *, spent: Decimal, reserved: Decimal) -> None:
        """Take over what the ledger says; none of it is live before its job is taken up."""
        self._live = 0
        self._spent, self._reserved, self._closed = (
            to_millionths(spent),
            to_millionths(reserved),
            False,
        )

    def take(self, amount: int) -> bool:
        """Set an estimate aside; gives False when that has to wait for jobs under way to cost less
        than theirs.

        Raises `BudgetExceededError` when it will not fit whatever the jobs under way cost.
        """
        if self._cap is not None and self._spent + self._reserved + amount > self._cap:
            dormant = self._reserved - self._live
            if not self._live or self._spent + dormant + amount > self._cap:
                raise self._exceeded(self._cap, amount)
            return False
        self._reserved += amount
        self._live += amount
        return True

    async def reserve(self, amount: int) -> bool:
        """Set an estimate aside as soon as there is room for it; gives False when the batch stops
        meanwhile.

        Not for the workers of a stage: a job whose answer was lost may need one of them before it
        can give its money back.
        """
        while not self._closed:
            if self.take(amount):
                return True
            await self._change.wait()
        return False

    def wake(self, reserved: int) -> None:
        """Count what the ledger has set aside for a job as live: it is taken up in this run."""
        self._live += reserved

    def rest(self, reserved: int) -> None:
        """Count what is set aside for a job as dormant: nothing more happens to it in this run."""
        if reserved:
            self._live -= reserved
            self._tell()

    def settle(self, reserved: int, spent: int) -> None:
        """Replace what was set aside for a job under way by what it has cost."""
        self._reserved -= reserved
        self._live -= reserved
        self._spent += spent
        self._tell()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        self._tell()

    def _tell(self) -> None:
        """Wake all who wait, once: each looks for itself, and waits for the next change if there is
        still no room.
        """
        change, self._change = self._change, asyncio.Event()
        change.set()

    def _exceeded(self, cap: int, amount: int) -> BudgetExceededError:
        left = cap - self._spent - self._reserved
        return BudgetExceededError(
            f"the next job needs about {to_credits(amount)} credits, and {to_credits(left)} of the batch's {to_credits(cap)} are left",
            needed=str(to_credits(amount)),
            left=str(to_credits(left)),
            next_step="Run the batch again with a higher limit: it goes on where it stopped.",
        )
