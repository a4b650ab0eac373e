"""The batch's money: what its ledger says is spent or set aside, and what may still be."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from ..errors import BudgetExceededError
from .jobs import Totals, to_credits, to_millionths


class Purse:
    """Counts in whole millionths of a credit, like the ledger, and begins with what earlier runs left there.

    What is set aside counts as gone until the charge is known, and is committed to the ledger before the request leaves; so the cap holds
    across a crash too, as far as the service charges no more than its own pricing rule says.

    What is set aside for jobs that somebody works on is live: it will be settled, and may leave room. The rest is dormant: it is kept for
    jobs that nobody works on any more in this run, so that waiting for it would have no end.
    """

    def __init__(self, cap: Decimal | None) -> None:
        self._cap = to_millionths(cap) if cap is not None else None
        self._spent = 0
        self._reserved = 0
        self._live = 0
        """The part of it that belongs to jobs that are being worked on."""
        self._change = asyncio.Event()
        self._closed = False

    def begin(self, totals: Totals) -> None:
        """Take over what the ledger says; none of it is live before its job is taken up."""
        self._live = 0
        self._spent, self._reserved, self._closed = to_millionths(totals.spent), to_millionths(totals.reserved), False

    def take(self, amount: int) -> bool:
        """Set an estimate aside; gives False when that has to wait for jobs under way to cost less than theirs.

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
        """Set an estimate aside as soon as there is room for it; gives False when the batch stops meanwhile.

        Not for the workers of a stage: a job whose answer was lost may need one of them before it can give its money back.
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
        """Wake all who wait, once: each looks for itself, and waits for the next change if there is still no room."""
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
