"""`Batch`: a folder, its ledger, and the runs over it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from .._budget import Purse
from .._config import Budget, RetryPolicy
from .._edges.part_files import FolderLock
from ..errors import ConfigurationError, HappyHorseError, LedgerError, TaskNotFoundError
from ._admission import Input
from ._database import Store
from ._jobs import Outcome, Totals
from ._ledger import Ledger
from ._run import Run, RunOptions

if TYPE_CHECKING:
    from .._parts import Parts


PAUSES = RetryPolicy(attempts=4, first_pause=20.0, longest_pause=600.0)
"""Jobs are tried again more slowly than calls are: each call has had its own tries before."""


@attrs.frozen(kw_only=True)
class BatchOptions:
    """How a batch works; what is None is taken from the session."""

    max_in_flight: int = 200
    """Tasks that are being made at once, and so the most that are paid for and not here yet."""
    budget: Budget | None = None
    """The most that the folder's jobs may cost together, over all runs."""
    retry: RetryPolicy = PAUSES
    """`attempts`: the most tasks for one job, and the most tries of whatever else fails; and the
    pauses between them."""
    timeout: float | None = None
    """Seconds that one run waits for one task; the next run goes on waiting."""

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.max_in_flight, int) or self.max_in_flight < 1:
            raise ConfigurationError(
                f"max_in_flight: expected a whole number of at least 1, got {self.max_in_flight!r}"
            )
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise ConfigurationError(
                f"budget: expected a Budget, for example Budget(credits=500), got {self.budget!r}"
            )


class Batch:
    """A durable batch in a folder. Made by `Session.batch`; an async context manager.

    The folder gets the videos and `happyhorse.sqlite`, the ledger. Whatever ends the process,
    running the same input again goes on where it stopped: nothing is paid twice, nothing that is
    here is fetched twice. A second process on the same folder is refused with the first one's id.
    """

    def __init__(
        self,
        parts: Parts,
        folder: str | os.PathLike[str],
        options: BatchOptions,
        *,
        run: RunOptions,
    ) -> None:
        self.folder = Path(folder)
        """Where the videos go."""
        self._parts = parts
        self._options = options
        self._run_options = run
        self._lock: FolderLock | None = None
        self._ledger: Ledger | None = None
        self._purse = Purse(
            Decimal(str(options.budget.credits)) if options.budget is not None else None
        )
        self._outcomes: Outcomes | None = None

    def __repr__(self) -> str:
        return f"<Batch {str(self.folder)!r} {'open' if self._ledger is not None else 'not open'}>"

    async def __aenter__(self) -> Batch:
        self._parts.here()
        lock = FolderLock(self.folder)
        await anyio.to_thread.run_sync(partial(_take, lock, self.folder))
        ledger = None
        try:
            ledger = await Ledger.open(self.folder)
            service = self._run_options.service
            await ledger.call(lambda store: store.bind(service))
            await check_account(ledger, self._parts, self._run_options.key)
        except BaseException:
            with anyio.CancelScope(shield=True):
                if ledger is not None:
                    await ledger.aclose()
                lock.release()
            raise
        self._lock, self._ledger = lock, ledger
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the run if one goes on, at once, and close the ledger; what is paid for is found
        again by the next run.
        """
        with anyio.CancelScope(shield=True):
            if self._outcomes is not None:
                await self._outcomes.aclose()
            ledger, self._ledger = self._ledger, None
            if ledger is not None:
                await ledger.aclose()
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()

    # --- running ----------------------------------------------------------------------------------

    def run(
        self,
        requests: Input,
        *,
        retry_failed: bool = False,
    ) -> Outcomes:
        """Work on the requests until each is done, and iterate over the outcomes as they come.

        `requests` is any iterable or async iterable of `ImageToVideo` or `Job`, of any length. What
        earlier runs have paid for is finished first, whether it is in the input or not. Jobs that
        ended in an earlier run are told again (`Outcome.resumed`); with `retry_failed` those that
        failed begin again, which costs money again.

        After the last outcome the iteration raises whatever stopped the batch before its end: a
        refused key, no credits left, a budget that is used up, a service that cannot be reached.
        What was not submitted stays for the next run.
        """
        return self._start(lambda run: run.over(requests, retry=retry_failed))

    def retry(self) -> Outcomes:
        """Begin the failed jobs again, from the ledger alone, and iterate over their outcomes.

        Jobs whose fate is unknown are asked for with the same key, which cannot be charged twice
        where the service honours keys. Failed ones become new tasks, which are charged.
        """
        return self._start(lambda run: run.over_failed())

    def resume(self) -> Outcomes:
        """Finish what earlier runs have paid for, and submit nothing."""
        return self._start(lambda run: run.over(()))

    def _start(self, feed: Callable[[Run], Awaitable[None]]) -> Outcomes:
        if self._ledger is None:
            raise HappyHorseError(
                "this batch is not open: use `async with session.batch(folder) as batch`"
            )
        if self._outcomes is not None and not self._outcomes.over:
            raise HappyHorseError(
                "a run of this batch is going on already: take its outcomes to the end, or close it"
            )
        self._outcomes = Outcomes(
            self._parts,
            self._ledger,
            self.folder,
            self._purse,
            self._options,
            self._run_options,
            feed,
        )
        return self._outcomes

    def stop(self) -> None:
        """Submit nothing new from now on, and finish what is paid for; the iteration then ends by
        itself.
        """
        if self._outcomes is not None:
            self._outcomes.stop()

    async def totals(self) -> Totals:
        """Count how the whole batch stands, earlier runs included."""
        if self._ledger is None:
            raise LedgerError("the batch is not open")
        return await self._ledger.call(Store.totals)


class Outcomes:
    """The outcomes of one run, in the order in which jobs end. The run begins with the first `async
    for`, and belongs to its batch.
    """

    def __init__(
        self,
        parts: Parts,
        ledger: Ledger,
        folder: Path,
        purse: Purse,
        options: BatchOptions,
        run_options: RunOptions,
        feed: Callable[[Run], Awaitable[None]],
    ) -> None:
        self._parts = parts
        self._run = Run(
            parts,
            ledger,
            folder,
            purse,
            attrs.evolve(
                run_options,
                in_flight=options.max_in_flight,
                policy=options.retry,
                timeout=options.timeout,
            ),
        )
        self._feed = feed
        self._task: asyncio.Task[None] | None = None
        self.over = False
        """Whether the run has ended."""

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        self._parts.here()
        if self._task is None and not self.over:
            self._task = self._parts.background.start(
                self._run.drive(self._feed), name="batch", for_caller=True
            )
        outcome = await self._run.take()
        if outcome is not None:
            return outcome
        self.over = True
        if self._run.failure is not None:
            failure, self._run.failure = self._run.failure, None
            raise failure
        raise StopAsyncIteration

    def stop(self) -> None:
        """Submit nothing new from now on, and finish what is paid for."""
        self._run.stop()

    async def aclose(self) -> None:
        """End the run at once. What has left is known to the ledger by its key, and found again by
        the next run.
        """
        self.over = True
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])
        self._run.close()


def _take(lock: FolderLock, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
    except OSError as error:
        raise LedgerError(
            f"nothing can be written in {folder}: {error.strerror or error}"
        ) from error


# --- Whose tasks a ledger knows: a key of another account would find none of them, and pay for all
# of them again.


async def check_account(ledger: Ledger, parts: Parts, key: str) -> None:
    """Bind a ledger to the account of an API key; raises `LedgerError` when it is another
    account's.

    The ledger keeps a digest of the key, salted with the batch's id, and never the key. A new key
    of the same account is known by what it can read: one task of the ledger is asked for.
    """
    mark = hashlib.blake2b(key.encode(), key=ledger.batch_id.encode(), digest_size=16).hexdigest()
    if await ledger.call(lambda store: store.fact("account")) == mark:
        return
    at_stake, task_ids = await ledger.call(lambda store: store.proofs())
    if at_stake and not await _knows_one(parts, task_ids):
        raise LedgerError(
            f"{at_stake} jobs in this folder were submitted with another API key, and this one knows none of their tasks",
            next_step="Open the batch with a key of the account that it was begun with, or use another folder.",
        )
    await ledger.call(lambda store: store.set_fact("account", mark))


async def _knows_one(parts: Parts, task_ids: list[str]) -> bool:
    for task_id in task_ids:
        try:
            await parts.poller.read(task_id)
        except TaskNotFoundError:
            continue
        return True
    return False
