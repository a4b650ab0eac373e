"""What people see of a batch: a live board on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..batch._daily_limit import WaitingForReset
from ..batch._jobs import JobChanged
from ..events import LinkExpiring, Throttled
from ._advice import spelled
from ._console import harmless, is_for_people, put, say, stream_for_people
from ._standing import Standing, Trouble

if TYPE_CHECKING:
    from .._session import Session
    from ..batch import Batch, Outcome, Totals

LINE_SECONDS = 30.0
"""How often the board is a plain line where there is no terminal."""
WIDEST_BAR = 60
_ALARMS = ("links about to die", "paused", "trouble")


class BatchDisplay:
    """The board of one run.

    `private`: the service is a sandbox that ends with this process, and its tasks with it.
    `expected` is how many jobs the input has.
    """

    def __init__(
        self,
        session: Session,
        batch: Batch,
        *,
        as_json: bool,
        private: bool = False,
        expected: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batch = batch
        self._as_json = as_json
        self._private = private
        self._expected = expected
        self._clock = clock
        self._console = Console(file=stream_for_people())
        self._live = (
            Live(
                console=self._console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=is_for_people(),
            )
            if self._console.is_terminal and not as_json
            else None
        )
        self._started = clock()
        self._ended = 0
        self.signals = 0
        """How often the user asked to stop."""
        self._until: datetime | None = None
        """Until when the key's daily limit is waited for."""
        self._trouble = Trouble()
        self._unsubscribe = (
            session.subscribe(self._heard, JobChanged, Throttled, LinkExpiring, WaitingForReset),
            session.subscribe(lambda event: self._trouble.heard(event, clock()), *Trouble.KINDS),
        )

    def __enter__(self) -> BatchDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        if self._live is not None:
            self._live.stop()

    # --- what is told at once -----------------------------------------------------------------

    def _heard(self, event: JobChanged | Throttled | LinkExpiring | WaitingForReset) -> None:
        if isinstance(event, JobChanged):
            if self._as_json:
                facts = {"id": event.id, "state": event.state, "task_id": event.task_id}
                put({"event": "job", **facts, "code": event.code})
        elif isinstance(event, Throttled):
            self._note(f"the service asks to slow down: next submission in {event.pause:.0f} s")
        elif isinstance(event, WaitingForReset):
            self._until = event.until
            if self._as_json:
                put({"event": "waiting", "until": event.until, "error": event.error.to_dict()})
                return
            self._note(f"{self._waiting()}. {spelled(event.error.next_step)}")
        else:
            self._note(warning_of(event))

    def _note(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(Text(harmless(text)), highlight=False)
        else:
            say(text)

    def signalled(self, count: int) -> None:
        """Say what a signal does."""
        self.signals = count
        if count == 1:
            lost = (
                "what is being made ends with the sandbox"
                if self._private
                else "nothing is lost either"
            )
            self._note(
                "stopping: nothing new is submitted, what is paid is finished. Once more: stop now "
                f"({lost})."
            )

    def outcome(self, outcome: Outcome) -> None:
        """Show a job that has ended in this run, with the name of its image."""
        self._ended += 1
        name = name_of(outcome)
        if outcome.error is not None:
            self._note(f"{name}: {outcome.state.value}: {outcome.error}")
        elif self._live is None:
            self._note(f"{name}: saved")

    # --- how it stands ------------------------------------------------------------------------

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """Keep the board up to date.

        Asking the ledger takes longer the longer it is, so it is asked less often then.
        """
        board = asyncio.create_task(self._refresh()) if not self._as_json else None
        try:
            yield
        finally:
            if board is not None:
                board.cancel()
                await asyncio.wait([board])

    async def _refresh(self) -> None:
        while True:
            before = time.monotonic()
            totals = await self._batch.totals()
            took = time.monotonic() - before
            if self._live is not None:
                self._live.update(self.board(totals))
            else:
                say(self.standing(totals).line())
            await asyncio.sleep(LINE_SECONDS if self._live is None else max(0.5, 20 * took))

    def _waiting(self) -> str:
        """Say until when nothing is submitted, if so."""
        if self._until is None or self._until <= datetime.now(UTC):
            return ""
        return f"waiting until {self._until:%Y-%m-%d %H:%M} UTC for the key's daily limit"

    def standing(self, totals: Totals) -> Standing:
        """Return how the run stands now."""
        now = self._clock()
        return Standing(
            totals=totals,
            expected=self._expected,
            a_minute=60 * self._ended / max(1.0, now - self._started),
            trouble=self._trouble.text(now),
            waiting=self._waiting(),
        )

    def board(self, totals: Totals) -> Group:
        """Draw how the batch stands: a bar, and a row for each thing that is known."""
        standing = self.standing(totals)
        head = Table.grid(expand=True, padding=(0, 2))
        head.add_column(ratio=1, max_width=WIDEST_BAR)
        head.add_column(no_wrap=True)
        bar = ProgressBar(total=max(1, standing.jobs), completed=totals.ended)
        head.add_row(bar, standing.progress)
        rows, known = Table.grid(padding=(0, 2)), list(standing.rows())
        rows.add_column(no_wrap=True, min_width=max(len(what) for what, _ in known))
        rows.add_column(overflow="fold")
        for what, much in known:
            style = "red" if what in _ALARMS else ""
            rows.add_row(Text(harmless(what), style), Text(harmless(much), style))
        return Group(head, rows)

    def final(self, totals: Totals, counts: Mapping[bool, int]) -> None:
        """Say how it ended."""
        if not self._as_json:
            say(
                f"{counts[True]:,} videos, {counts[False]:,} without; the folder as a whole: "
                f"{self.standing(totals).line()}"
            )
            return
        put(
            {
                "event": "end",
                "states": totals.states,
                "credits_spent": totals.spent,
                "credits_reserved": totals.reserved,
                "failures": totals.failures,
            }
        )


def name_of(outcome: Outcome) -> str:
    """Name a job as people know it: by the caller's id, and the image if the id lacks it."""
    from .._formats.filenames import stem_of

    image = outcome.request.image if outcome.request is not None else None
    stem = stem_of(image) if image is not None else ""
    return outcome.id if not stem or stem in outcome.id else f"{stem} ({outcome.id})"


def warning_of(event: LinkExpiring) -> str:
    """Say that a link is about to die, or may be dead by what the service told of its times."""
    when = f"dies in {event.seconds_left / 60:.0f} minutes"
    if event.seconds_left <= 0:
        when = "may be dead already"
    return f"warning: the link of {event.task_id} {when}, and its video is not here"
