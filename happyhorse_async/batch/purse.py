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
    """

    def __init__(self, cap: Decimal | None) -> None:
        self._cap = to_millionths(cap) if cap is not None else None
        self._spent = 0
        self._reserved = 0
        self._change = asyncio.Event()
        self._closed = False

    def begin(self, totals: Totals) -> None:
        """Take over what the ledger says."""
        self._spent, self._reserved, self._closed = to_millionths(totals.spent), to_millionths(totals.reserved), False

    async def reserve(self, amount: int) -> bool:
        """Set an estimate aside, waiting for running jobs to cost less than theirs if need be.

        Gives False when the batch stops meanwhile. Raises `BudgetExceededError` when it will not fit whatever the running jobs cost.
        """
        while self._cap is not None and self._spent + self._reserved + amount > self._cap:
            if not self._reserved or self._spent + amount > self._cap:
                raise self._exceeded(self._cap, amount)
            await self._change.wait()
            if self._closed:
                return False
        self._reserved += amount
        return True

    def settle(self, reserved: int, spent: int) -> None:
        """Replace what was set aside by what it has cost."""
        self._reserved -= reserved
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
