"""Money: what is reserved, what is spent, and what may still be promised, for a session and for a
batch.
"""

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
        self._spent += lifecycle.cost_of(task, estimate)
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


# --- The batch's money: what its ledger says is spent or reserved, and what may still be.


class BatchBook:
    """Keeps a batch's jobs within its budget, in whole millionths of a credit, like the ledger.

    It begins with what earlier runs left there. What is reserved counts as gone until the charge is
    known, and is committed to the ledger before the request leaves. So the budget holds across a
    crash too, as far as the service charges no more than its own pricing rule says.

    Reservations are known by the job. Those of jobs that this run works on will be settled, and may
    leave room. The others stay as they are in this run, so nobody waits for them.
    """

    def __init__(self, budget: Budget | None) -> None:
        self._cap = None if budget is None else to_millionths(Decimal(str(budget.credits)))
        self._spent = 0
        self._parked = 0
        """Reserved for jobs that nobody works on in this run."""
        self._reserved: dict[int, int] = {}
        """Reserved for the jobs that this run works on, by their numbers in the ledger."""
        self._promised = 0
        """The sum of those."""
        self._turn = asyncio.Lock()
        self._change = asyncio.Event()
        self._closed = False

    @property
    def limited(self) -> bool:
        """Whether there is a budget at all."""
        return self._cap is not None

    def begin(self, *, spent: Decimal, reserved: Decimal) -> None:
        """Take over what the ledger says when a run begins."""
        self._reserved.clear()
        self._spent, self._parked, self._promised = to_millionths(spent), to_millionths(reserved), 0
        self._closed = False

    async def reserve(self, job: int, amount: int) -> bool:
        """Reserve an estimate as soon as there is room for it, in the order of asking.

        Return False when the batch stops meanwhile. Raises `BudgetExceededError` when it will not
        fit whatever the jobs under way cost. The caller holds nothing that those jobs need: they
        have to end before there is room.
        """
        if self._cap is None:
            self._reserve(job, amount)
            return True
        async with self._turn:
            while not self._closed:
                if self._spent + self._parked + self._promised + amount <= self._cap:
                    self._reserve(job, amount)
                    return True
                if not self._promised or self._spent + self._parked + amount > self._cap:
                    raise self._exceeded(self._cap, amount)
                self._change.clear()
                await self._change.wait()
        return False

    def _reserve(self, job: int, amount: int) -> None:
        self._reserved[job] = amount
        self._promised += amount

    def claim(self, job: int, amount: int) -> None:
        """Take over the reservation of an earlier run: its job is worked on in this one."""
        if amount:
            self._parked -= amount
            self._reserve(job, amount)

    def park(self, job: int) -> None:
        """Keep a job's reservation, though nothing more happens to it in this run."""
        self._parked += self._release(job)

    def settle(self, job: int, cost: int) -> None:
        """Replace a job's reservation by what its task has cost."""
        self._release(job)
        self._spent += cost

    def free(self, job: int) -> None:
        """Give back the reservation of a job that was certainly not accepted."""
        self._release(job)

    def _release(self, job: int) -> int:
        amount = self._reserved.pop(job, 0)
        self._promised -= amount
        self._change.set()
        return amount

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        self._change.set()

    def _exceeded(self, cap: int, amount: int) -> BudgetExceededError:
        left = cap - self._spent - self._parked - self._promised
        return BudgetExceededError(
            f"the next job needs about {to_credits(amount)} credits, and {to_credits(left)} of "
            f"the batch's {to_credits(cap)} are left",
            needed=str(to_credits(amount)),
            left=str(to_credits(left)),
            next_step="Run the batch again with a higher limit: it goes on where it stopped.",
        )
