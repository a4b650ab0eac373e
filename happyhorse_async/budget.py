"""The session's money: what is reserved, what is spent, and what may still be promised."""

from __future__ import annotations

from decimal import Decimal

from .config import Budget
from .dispatcher import Events
from .errors import BudgetExceededError
from .models import Task
from .rules import lifecycle


class BudgetBook:
    """Keeps the submissions of a session within its budget; with no budget it keeps nothing.

    Each submission is known by its idempotency key, so that a replay of one is never counted twice. What is reserved counts as gone
    until the task's charge is known: the sum of charges cannot pass the budget as long as the estimates are not too low.
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
        """Set the estimate of a submission aside; raises `BudgetExceededError` when it does not fit into what is left."""
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

        A task without a video is free unless its ledger facts prove the opposite; a video without a reported charge costs its estimate.
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
