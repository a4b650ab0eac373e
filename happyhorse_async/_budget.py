"""Money: what is reserved, what is spent, and what may still be promised, for a session and for a
batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from decimal import ROUND_CEILING, Decimal

import attrs

from ._concurrency import Background
from ._config import Budget
from ._dispatcher import Events
from ._formats.texts import printable
from ._models import Task
from ._rules import lifecycle
from ._rules.numbers import EXACT, to_credits, to_millionths
from .errors import BudgetExceededError, HappyHorseError

logger = logging.getLogger("happyhorse_async")

DEARNESS = 10_000
"""The unit of how much more tasks cost than their estimates."""
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0, 420.0)
"""Seconds before each look at a charge that was not settled when its task ended: 15 minutes in all,
within which nothing that the service says about an ended task is final."""


class Dearness:
    """What tasks cost of late, as a multiple of their estimates."""

    def __init__(self, factor: int = DEARNESS) -> None:
        self.factor: int = factor
        """In ten thousandths; at least 1.0."""
        self.rises: int = 0
        """How often it has risen."""

    def of(self, estimates: int) -> int:
        """Return what so many millionths of credits would come to, rounded up."""
        return -(-estimates * self.factor // DEARNESS)

    def learn(self, factor: int, since: int) -> None:
        """Take note of what a task has cost whose estimate was made after so many rises."""
        if factor > self.factor:
            self.factor, self.rises = factor, self.rises + 1
            logger.warning(
                "a task has cost %.3g times its estimate: reservations rise to that",
                factor / DEARNESS,
                extra={"action": "dearer_than_estimated"},
            )
        elif since == self.rises:
            # Estimated since prices rose, and cheaper: by now the estimates know of it.
            self.factor = max(DEARNESS, factor)


@attrs.define(eq=False, repr=False)
class _Reservation:
    """What one idempotency key may cost."""

    estimate: Decimal
    drawn: bool
    """Nobody else can have used the key before."""
    rises: int
    """How often prices had risen when it was made."""
    holders: int = 1
    """Submissions under way with this key, or tasks made of it."""


class BudgetBook:
    """Keeps the submissions of a session within its budget; with no budget it keeps nothing.

    Each submission is known by its idempotency key, so that a replay is never counted twice. What
    is reserved counts as gone until the charge of its task is settled. A charge above its estimate
    raises all reservations by the same factor, those of requests under way as well. So only what
    was under way when a dearer price could first be known can pass the budget.
    """

    def __init__(
        self,
        budget: Budget | None,
        *,
        events: Events,
        read: Callable[[str], Awaitable[Task]] | None = None,
        background: Background | None = None,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        """Keep a book; without `read` and `background` an unsettled charge counts as it is told."""
        self._cap = Decimal(str(budget.credits)) if budget is not None else None
        self._events = events
        self._read = read
        self._background = background
        self._pauses = pauses
        self._reserved: dict[str, _Reservation] = {}
        self._estimates = Decimal(0)
        """The sum of what is reserved, by the estimates."""
        self._dearness = Dearness()
        self._spent = Decimal(0)
        self._awaited: set[str] = set()
        """Keys of ended tasks whose charge is not settled."""
        self._turn = asyncio.Lock()

    @property
    def limited(self) -> bool:
        """Whether there is a budget at all."""
        return self._cap is not None

    @property
    def reserved(self) -> Decimal:
        """Credits of submissions whose charge is not settled yet."""
        return self._dear(self._estimates)

    def _dear(self, estimates: Decimal) -> Decimal:
        factor = Decimal(self._dearness.factor).scaleb(-4, EXACT)
        return _plain(EXACT.multiply(estimates, factor))

    @property
    def spent(self) -> Decimal:
        """Credits that were charged, as far as this session has seen its tasks end."""
        return _plain(self._spent)

    @property
    def left(self) -> Decimal | None:
        """Credits that may still be promised; None without a budget.

        Below zero when tasks have cost more than anybody could know.
        """
        if self._cap is None:
            return None
        return _plain(EXACT.subtract(EXACT.subtract(self._cap, self.reserved), self._spent))

    def reserve(self, key: str, credits: Decimal, *, drawn: bool = False) -> None:  # noqa: A002 the service's word for its money
        """Reserve the estimate of a submission; raises `BudgetExceededError` when it does not fit
        into what is left.

        The same key twice is one reservation. A key that was `drawn` here was never sent before.
        """
        left = self.left
        if left is None:
            return
        held = self._reserved.get(key)
        if held is not None:
            held.holders += 1
            return
        needed = self._dear(credits)
        if needed > left:
            raise self._exceeded(key, needed, left)
        self._reserved[key] = _Reservation(credits, drawn, self._dearness.rises)
        self._estimates = EXACT.add(self._estimates, credits)
        self._changed()

    def settle(self, key: str, task: Task) -> None:
        """Replace a reservation by what the task has cost, now that it has ended.

        While its charge is not settled the estimate stays reserved, and the task is looked at
        again.
        """
        if key not in self._reserved:
            return
        if not lifecycle.is_settled(task) and self._look_later(key, task):
            return
        self._close(key, task)

    def replayed(self, key: str) -> None:
        """Give a reservation back because an earlier submission with this key has paid already.

        Nobody can have used a key before that was drawn here, whatever the service says.
        """
        held = self._reserved.get(key)
        if held is not None and not held.drawn:
            self.free(key)

    def free(self, key: str) -> None:
        """Give back the reservation of a submission that was certainly not accepted."""
        held = self._reserved.get(key)
        if held is None:
            return
        held.holders -= 1
        if not held.holders:
            self._forget(key)
            self._changed()

    def _forget(self, key: str) -> _Reservation:
        held = self._reserved.pop(key)
        self._estimates = EXACT.subtract(self._estimates, held.estimate)
        return held

    def _close(self, key: str, task: Task) -> None:
        held = self._forget(key)
        cost = lifecycle.cost_of(task, held.estimate)
        self._spent = EXACT.add(self._spent, cost)
        if lifecycle.is_completed(task) and held.estimate > 0:
            factor = EXACT.divide(EXACT.multiply(cost, DEARNESS), held.estimate)
            rounded = factor.to_integral_value(ROUND_CEILING, EXACT)
            self._dearness.learn(int(rounded), held.rises)
        self._changed()

    def _changed(self) -> None:
        left = self.left if self._events else None
        if left is not None:
            from .events import BudgetChanged

            self._events.emit(BudgetChanged(reserved=self.reserved, spent=self.spent, left=left))

    def _exceeded(self, key: str, needed: Decimal, left: Decimal) -> BudgetExceededError:
        rise = ""
        factor = self._dearness.factor
        if factor > DEARNESS:
            rise = f" (tasks cost {factor / DEARNESS:.3g} times their estimates of late)"
        return BudgetExceededError(
            f"the request needs about {needed} credits{rise}, "
            f"and {left} of the budget of {self._cap} are left",
            needed=str(needed),
            left=str(left),
            idempotency_key=key,
        )

    # --- charges that are settled late ------------------------------------------------------------

    def _look_later(self, key: str, task: Task) -> bool:
        """Begin to look at a task again and again; returns False when nobody can."""
        if self._read is None or self._background is None:
            return False
        if key not in self._awaited:
            work = self._await_charge(self._read, key, task)
            try:
                self._background.start(work, name=f"the charge of {task.id}")
            except RuntimeError:  # the session is closing: nobody reserves anything any more
                return False
            self._awaited.add(key)
        return True

    async def _await_charge(
        self, read: Callable[[str], Awaitable[Task]], key: str, task: Task
    ) -> None:
        async def again(task: Task) -> Task:
            async with self._turn:  # one read after the other: nobody waits for these
                return await read(task.id)

        try:
            task = await settled(task, again, self._pauses)
            if key in self._reserved:
                self._close(key, task)
        finally:
            self._awaited.discard(key)


async def settled(
    task: Task, again: Callable[[Task], Awaitable[Task]], pauses: Sequence[float]
) -> Task:
    """Look at an ended task `again` after each pause, until its charge is settled; return it as it
    was seen last.
    """
    for pause in pauses:
        await asyncio.sleep(pause)
        try:
            task = await again(task)
        except HappyHorseError as error:
            logger.debug("the charge of %s could not be read: %s", printable(task.id), error)
        if lifecycle.is_settled(task):
            break
    return task


def _plain(amount: Decimal) -> Decimal:
    """Return an amount without zeros at its end, and not in exponents up to 28 digits: more do not
    fit, and "no limit" is written so.
    """
    whole = amount == amount.to_integral_value() and amount.adjusted() < 28
    return amount.quantize(Decimal(1), context=EXACT) if whole else amount.normalize(EXACT)


# --- The batch's money: what its ledger says is spent or reserved, and what may still be.


class BatchBook:
    """Keeps a batch's jobs within its budget, in whole millionths of a credit, like the ledger.

    It begins with what earlier runs left there. What is reserved counts as gone until the charge is
    known. It is committed to the ledger before the request leaves. A charge above its estimate
    raises all reservations by the same factor, as in a session's book. So only what was under way
    when a dearer price could first be known can pass the budget. That holds across crashes too.

    Reservations are known by the job. Those of jobs that this run works on will be settled, and may
    leave room. The others stay as they are in this run, so nobody waits for them.
    """

    def __init__(self, budget: Budget | None) -> None:
        self._cap = None if budget is None else to_millionths(Decimal(str(budget.credits)))
        self._spent = 0
        self._parked = 0
        """Reserved for jobs that nobody works on in this run."""
        self._reserved: dict[int, int] = {}
        """Estimates of the jobs that this run works on, by their numbers in the ledger."""
        self._promised = 0
        """The sum of those."""
        self._rises: dict[int, int] = {}
        """How often prices had risen when each of those was reserved."""
        self._late: dict[int, int] = {}
        """Estimates of jobs whose charge is not settled yet; they count as parked."""
        self.dearness: Dearness = Dearness()
        self._turn = asyncio.Lock()
        self._change = asyncio.Event()
        self._closed = False

    @property
    def limited(self) -> bool:
        """Whether there is a budget at all."""
        return self._cap is not None

    def begin(self, *, spent: Decimal, reserved: Decimal, dearness: int = DEARNESS) -> None:
        """Take over what the ledger says when a run begins."""
        self._reserved.clear()
        self._rises.clear()
        self._late.clear()
        self._spent, self._parked, self._promised = to_millionths(spent), to_millionths(reserved), 0
        self.dearness.factor = max(DEARNESS, dearness)
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
                wanted = self._parked + self._promised + amount
                if self._spent + self.dearness.of(wanted) <= self._cap:
                    self._reserve(job, amount)
                    return True
                alone = self._spent + self.dearness.of(self._parked + amount)
                if not self._promised or alone > self._cap:
                    raise self._exceeded(self._cap, amount)
                self._change.clear()
                await self._change.wait()
        return False

    def _reserve(self, job: int, amount: int) -> None:
        self._reserved[job], self._rises[job] = amount, self.dearness.rises
        self._promised += amount

    def claim(self, job: int, amount: int) -> None:
        """Take over the reservation of an earlier run: its job is worked on in this one."""
        if amount:
            self._parked -= amount
            self._reserve(job, amount)

    def take_back(self, job: int, cost: int, *, estimate: int) -> None:
        """Replace what a job's failure has cost by an estimate, whether there is room or not: its
        task goes on, and is paid for already.
        """
        self._spent -= cost
        self._reserve(job, estimate)

    def park(self, job: int) -> None:
        """Keep a job's reservation, though nothing more happens to it in this run."""
        self._parked += self._release(job)

    def await_charge(self, job: int) -> None:
        """Keep the estimate of a job that has ended until its charge is settled. Nobody waits for
        that: it leaves room only if the task has cost less.
        """
        self._late[job] = self._release(job)
        self._parked += self._late[job]

    def settle(self, job: int, cost: int) -> None:
        """Replace a job's reservation by what its task has cost."""
        self._parked -= self._late.pop(job, 0)
        self._release(job)
        self._spent += cost

    def fits(self) -> bool:
        """Whether all that is reserved fits into the budget, which rising prices can end."""
        held = self.dearness.of(self._parked + self._promised)
        return self._cap is None or self._spent + held <= self._cap

    def learn(self, job: int, cost: int) -> None:
        """Take note of the settled charge of a job's video, before that replaces its estimate."""
        estimate = self._reserved.get(job, self._late.get(job, 0))
        if estimate > 0:
            self.dearness.learn(-(-cost * DEARNESS // estimate), self._rises.get(job, 0))

    def free(self, job: int) -> None:
        """Give back the reservation of a job that was certainly not accepted."""
        self._release(job)

    def _release(self, job: int) -> int:
        amount = self._reserved.pop(job, 0)
        self._rises.pop(job, None)
        self._promised -= amount
        self._change.set()
        return amount

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        self._change.set()

    def _exceeded(self, cap: int, amount: int) -> BudgetExceededError:
        needed = self.dearness.of(amount)
        left = cap - self._spent - self.dearness.of(self._parked + self._promised)
        return BudgetExceededError(
            f"the next job needs about {to_credits(needed)} credits, and {to_credits(left)} of "
            f"the batch's {to_credits(cap)} are left",
            needed=str(to_credits(needed)),
            left=str(to_credits(left)),
            next_step="Run the batch again with a higher limit: it goes on where it stopped.",
        )
