"""While a batch runs: its outcomes, its end, and the exit code."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import typer

from ..errors import HappyHorseError
from ._advice import spelled
from ._common import Exit, exit_code, overall
from ._console import put, say
from ._signals import stopping_on_signals

if TYPE_CHECKING:
    from .._session import Session
    from ..batch import Batch, Outcome, Outcomes, Totals
    from ._board import BatchDisplay


class Follow:
    """One run of a batch, taken to its end.

    `private`: the service is a sandbox that ends with this process, and its tasks with it.
    """

    def __init__(self, session: Session, batch: Batch, *, as_json: bool, private: bool) -> None:
        self._session = session
        self._batch = batch
        self._as_json = as_json
        self._private = private
        self._counts = {True: 0, False: 0}
        self._codes: set[Exit] = set()

    async def to_the_end(self, outcomes: Outcomes, *, expected: int = 0) -> int:
        """Take every outcome and return the exit code; `expected` is the input's length."""
        from ._board import BatchDisplay

        display = BatchDisplay(
            self._session,
            self._batch,
            as_json=self._as_json,
            private=self._private,
            expected=expected,
        )
        with display, stopping_on_signals(self._batch, display.signalled):
            try:
                error = await self._take_all(outcomes, display)
                totals = await self._batch.totals()
            except asyncio.CancelledError:
                say(f"stopped at once. {self._way_on}")
                raise typer.Exit(Exit.INTERRUPTED) from None
        return self._end(display, totals, error)

    @property
    def _way_on(self) -> str:
        if self._private:
            return "What was being made has ended with the sandbox."
        return f"What is paid is not lost: run the same line again ({self._line})"

    @property
    def _line(self) -> str:
        return f"happyhorse batch ... --out {self._batch.place}"

    async def _take_all(self, outcomes: Outcomes, display: BatchDisplay) -> HappyHorseError | None:
        """Take every outcome; return what stopped the batch before its end."""
        try:
            async with display.refreshing():
                async for outcome in outcomes:
                    self._counts[outcome.ok] += 1
                    self._codes.add(code_of(outcome))
                    self._show(outcome, display)
        except HappyHorseError as stopped:
            return stopped
        return None

    def _show(self, outcome: Outcome, display: BatchDisplay) -> None:
        if not self._as_json:
            if not outcome.resumed:
                display.outcome(outcome)
            return
        video, error = outcome.video, outcome.error
        put(
            {
                "event": "outcome",
                "id": outcome.id,
                "state": outcome.state.value,
                "path": str(video.path) if video is not None else None,
                "sha256": video.sha256 if video is not None else None,
                "task_id": outcome.task_id,
                "credits": outcome.credits,
                "attempts": outcome.attempts,
                "resumed": outcome.resumed,
                **({"error": _told(error)} if error is not None else {}),
                **({"extra": dict(outcome.extra)} if outcome.extra else {}),
            }
        )

    def _end(self, display: BatchDisplay, totals: Totals, error: HappyHorseError | None) -> int:
        display.final(totals, self._counts)
        if error is not None:
            say(f"the batch stopped: {error}")
            say(f"  next: {spelled(error.next_step)} Run the same line again to go on.")
            if self._as_json:
                put({"event": "stopped", "error": _told(error)})
            # What stopped the batch says more than the jobs that failed before, unless their money
            # is in doubt.
            return overall({exit_code(error)} | (self._codes & {Exit.OUTCOME_UNKNOWN}))
        if display.signals:
            say(f"stopped after what was paid. To go on, run the same line again ({self._line})")
            return Exit.INTERRUPTED
        return overall(self._codes)


def _told(error: HappyHorseError) -> dict[str, Any]:
    """Return an error for JSON, with its next step in the command's words."""
    return {**error.to_dict(), "next_step": spelled(error.next_step)}


def code_of(outcome: Outcome) -> Exit:
    """Return a job's code from its state, which the next run tells again.

    Its error keeps no class in the ledger.
    """
    from .._rules.lifecycle import JobState

    if outcome.ok:
        return Exit.DONE
    return Exit.OUTCOME_UNKNOWN if outcome.state is JobState.UNKNOWN else Exit.FAILED
