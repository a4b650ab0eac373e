"""One run of `happyhorse batch`: a look at its rows and their price, then its outcomes to the end.

`Look` says which rows are wrong and what the good ones will cost. `Follow` shows each outcome and
finds the exit code.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import typer

from ..errors import HappyHorseError
from ._advice import SAME_LINE, spelled
from ._common import Exit, exit_code, overall
from ._console import agreed, counted, money, put, say
from ._signals import stopping_on_signals

if TYPE_CHECKING:
    from .._session import Session
    from ..batch import Batch, Outcome, Outcomes, Totals
    from ..batch._manifest import BadLine, Checked, Manifest
    from ._board import BatchDisplay

MOST_SHOWN = 50
"""Bad rows that are printed one by one."""


@attrs.frozen(kw_only=True)
class Look:
    """How an input is looked at before anything is spent."""

    skip_bad: bool
    """Work on the good rows although there are bad ones."""
    quiet: bool
    """Do not ask."""
    as_json: bool

    async def at(
        self,
        session: Session,
        manifest: Manifest,
        folder: Path | None = None,
        *,
        retry: bool = False,
    ) -> tuple[Checked, Exit | None]:
        """Look at every row and say the price of what `folder` does not have yet.

        Return what was found, and an exit code when this is the end.
        """
        manifest.problem_of = session._settings.frame_problem
        found = await _checked(session, manifest, folder, retry=retry)
        self._show_bad(found)
        self._show_skipped(*manifest.skipped)
        if found.cut_prompts:
            say(
                f"warning: {found.cut_prompts} prompts are longer than the service reads, and will "
                "be cut"
            )
        self._show_price(found)
        return found, self._end(found, manifest.source)

    def _end(self, found: Checked, source: str) -> Exit | None:
        if found.bad_rows and not self.skip_bad:
            say("nothing was sent: mend the bad rows, or leave them out with --skip-bad")
            if found.begun:
                say(
                    f"{counted(found.begun, 'job')} of earlier runs may be paid and not saved, and "
                    "links die after 24 hours: --skip-bad finishes these too"
                )
            return Exit.WRONG_INPUT
        if not found.good and not found.begun:
            say(f"nothing was sent: there is no job in {source}")
            return Exit.WRONG_INPUT
        if not found.good:
            say(f"there is no job in {source}: what earlier runs have begun is finished")
        if not self.quiet and found.settled < found.good and not agreed("Go on?"):
            return Exit.NOT_WANTED
        return None

    def _show_price(self, found: Checked) -> None:
        if self.as_json:
            facts = {"jobs": found.good, "settled": found.settled, "bad_rows": found.bad_rows}
            put({"event": "checked", **facts, "credits": found.credits, "usd": found.usd})
            return
        cost = f"about {money(found.credits)} credits (${found.usd:,.2f})"
        what = ""
        if found.settled:
            left = found.good - found.settled
            what = f", {found.settled:,} of them paid or ended before, {left:,} left"
        say(f"{counted(found.good, 'job')}{what}; {counted(found.bad_rows, 'bad row')}: {cost}")

    def _show_bad(self, found: Checked) -> None:
        """Name the bad rows; those that follow each other with the same problem share a line."""
        alike = itertools.groupby(found.bad, key=lambda row: row.problems)
        groups = [list(group) for _, group in alike][:MOST_SHOWN]
        for group in groups:
            for row in group if self.as_json else ():
                self._put_bad(row)
            more = f", and the next {len(group) - 1:,} alike" if len(group) > 1 else ""
            say(f"error: {group[0]}{more}")
        left = found.bad_rows - sum(map(len, groups))
        if left:
            say(f"... and {counted(left, 'more bad row')}")

    def _put_bad(self, row: BadLine) -> None:
        facts = {"place": row.place, "line": row.line, "problems": row.problems}
        put({"event": "bad_row", **facts})

    def _show_skipped(self, count: int, names: Sequence[str]) -> None:
        if self.as_json and count:
            put({"event": "skipped", "files": count, "names": list(names)})
        if count:
            named = ", ".join(names) + (", ..." if count > len(names) else "")
            say(f"skipped, as no JPEG, PNG or WEBP by name: {count:,} ({named})")


async def _checked(
    session: Session, manifest: Manifest, folder: Path | None, *, retry: bool
) -> Checked:
    from ..batch._earlier_runs import EarlierRuns
    from ..batch._manifest import check

    if folder is None:
        return await check(manifest, session.estimate)
    earlier = await asyncio.to_thread(EarlierRuns, folder, retry=retry)
    with closing(earlier):
        found = await check(manifest, session.estimate, earlier.settled)
        found.begun = await asyncio.to_thread(earlier.begun)
        return found


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
            step = spelled(error.next_step)
            again = "" if SAME_LINE in step else " Run the same line again to go on."
            say(f"  next: {step}{again}")
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
