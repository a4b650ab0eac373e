"""What people see while tasks run: live bars on a terminal, plain lines elsewhere. Writes to
stderr.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from .._rules.lifecycle import JobState
from ..batch._daily_limit import WaitingForReset
from ..batch._jobs import JobChanged
from ..events import Downloading, LinkExpiring, Throttled
from ._console import is_for_people, money, put, say, stream_for_people

if TYPE_CHECKING:
    from types import TracebackType

    from .._session import Session
    from .._video import Video
    from ..batch import Batch, Outcome, Totals
    from ..batch.report import Overview


class Display:
    """One line for each job: its name, status and percent."""

    def __init__(self, session: Session, *, quiet: bool = False) -> None:
        self._console = Console(file=stream_for_people(), quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[status]:<12}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
            redirect_stdout=is_for_people(),
        )
        self._rows: dict[str, Any] = {}
        self._shown: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._quiet = quiet
        self._started = time.monotonic()
        self._unsubscribe = session.subscribe(self._heard, Downloading, Throttled)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unsubscribe()
        self._progress.stop()

    def _heard(self, event: Downloading | Throttled) -> None:
        if isinstance(event, Throttled):
            self._note(f"the service asks to slow down: next submission in {event.pause:.0f} s")
            return
        name = self._names.get(event.task_id or "")
        if name is not None and event.total:
            self.status(name, "downloading", 100 * event.received / event.total)

    def _note(self, text: str) -> None:
        if self._live:
            self._console.log(text)
        elif not self._quiet:
            say(text)

    def add(self, name: str) -> None:
        """Show a job that has not been submitted yet."""
        self._rows[name] = self._progress.add_task(name, total=100, status="waiting")

    def submitted(self, name: str, task_id: str) -> None:
        """Note the id of a job's task: it is paid for now."""
        self._names[task_id] = name
        if not self._live:
            self._note(f"{name}: accepted as {task_id}")

    def status(self, name: str, status: str, percent: float = 0) -> None:
        """Show where a job stands."""
        self._progress.update(self._rows[name], completed=percent, status=str(status))
        if not self._live and self._shown.get(name) != status:
            self._note(f"{name}: {status}")
        self._shown[name] = status

    def saved(self, name: str) -> None:
        """Show that a job's video is on disk and verified."""
        self.status(name, "saved", 100)

    def failed(self, name: str, why: str) -> None:
        """Show that a job ended without a video."""
        self._progress.update(self._rows[name], status=f"[red]{why}")
        self._progress.stop_task(self._rows[name])

    def table(self, videos: Sequence[Video]) -> None:
        """Show what was made."""
        if not videos:
            return
        table = Table(
            title=f"{len(videos)} video{'s' * (len(videos) != 1)} in {time.monotonic() - self._started:.1f} s"
        )
        table.add_column("file")
        for heading in ("length", "size", "pixels", "credits", "seconds"):
            table.add_column(heading, justify="right")
        for video in videos:
            seconds = video.task.seconds if video.task is not None else None
            table.add_row(
                video.path.name,
                f"{video.duration:.2f} s" if video.duration is not None else "?",
                f"{video.size / 1e6:.2f} MB",
                f"{video.width} x {video.height}" if video.width else "?",
                money(video.credits),
                f"{seconds:.0f}" if seconds is not None else "?",
            )
        self._console.print(table)


# --- What people see of a batch: a live board on a terminal, plain lines elsewhere. Writes to
# stderr.


LINE_SECONDS = 30.0
"""How often the board is a plain line where there is no terminal."""
WORDS = {
    JobState.NEW: "waiting",
    JobState.SUBMITTING: "being submitted",
    JobState.RUNNING: "being made",
    JobState.COMPLETED: "to be fetched",
    JobState.SAVED: "saved",
    JobState.FAILED: "failed",
    JobState.UNKNOWN: "in doubt",
}


class BatchDisplay:
    """The board of one run; `private`: the service is a sandbox that ends with this process, and
    its tasks with it.
    """

    def __init__(
        self, session: Session, batch: Batch, *, as_json: bool, private: bool = False
    ) -> None:
        self._batch = batch
        self._as_json = as_json
        self._private = private
        self._console = Console(file=stream_for_people())
        self._on_terminal = self._console.is_terminal and not as_json
        self._live = (
            Live(
                console=self._console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=is_for_people(),
            )
            if self._on_terminal
            else None
        )
        self._started = time.monotonic()
        self._ended = 0
        self.signals = 0
        """How often the user asked to stop."""
        self._until: datetime | None = None
        """Until when the key's daily limit is waited for."""
        self._unsubscribe = session.subscribe(
            self._heard, JobChanged, Throttled, LinkExpiring, WaitingForReset
        )

    def __enter__(self) -> BatchDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unsubscribe()
        if self._live is not None:
            self._live.stop()

    def _heard(self, event: JobChanged | Throttled | LinkExpiring | WaitingForReset) -> None:
        if isinstance(event, JobChanged):
            if self._as_json:
                put(
                    {
                        "event": "job",
                        "id": event.id,
                        "state": event.state.value,
                        "task_id": event.task_id,
                        "code": event.code,
                    }
                )
        elif isinstance(event, Throttled):
            self._note(f"the service asks to slow down: next submission in {event.pause:.0f} s")
        elif isinstance(event, WaitingForReset):
            self._until = event.until
            if self._as_json:
                put({"event": "waiting", "until": event.until, "error": event.error.to_dict()})
                return
            self._note(f"{self._waiting()}. {event.error.next_step or ''}")
        else:
            self._note(
                f"warning: the link of {event.task_id} dies in {event.seconds_left / 60:.0f} minutes, and its video is not here"
            )

    def _note(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
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
                f"stopping: nothing new is submitted, what is paid is finished. Once more: stop now ({lost})."
            )

    def outcome(self, outcome: Outcome) -> None:
        """Show a job that has ended in this run."""
        self._ended += 1
        if outcome.error is not None:
            self._note(f"{outcome.id}: {outcome.state.value}: {outcome.error}")
        elif self._live is None:
            self._note(f"{outcome.id}: saved")

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """Keep the board up to date; asking the ledger takes longer the longer it is, so it is
        asked less often then.
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
                say(self._line(totals))
            await asyncio.sleep(LINE_SECONDS if self._live is None else max(0.5, 20 * took))

    def _waiting(self) -> str:
        """Say until when nothing is submitted, if so."""
        if self._until is None or self._until <= datetime.now(UTC):
            return ""
        return f"waiting until {self._until:%Y-%m-%d %H:%M} UTC for the key's daily limit"

    def _rate(self) -> float:
        return self._ended / max(1.0, time.monotonic() - self._started)

    def _eta(self, totals: Totals) -> str:
        rate = self._rate()
        return _span((totals.jobs - totals.ended) / rate) if rate else "?"

    def _line(self, totals: Totals) -> str:
        states = ", ".join(f"{count:,} {WORDS[state]}" for state, count in totals.states.items())
        spent = f"{money(totals.spent)} credits spent, {money(totals.reserved)} reserved"
        waiting = f"; {self._waiting()}" if self._waiting() else ""
        return f"{states or 'nothing yet'}{waiting}; {60 * self._rate():.1f} a minute, about {self._eta(totals)} to go; {spent}"

    def board(self, totals: Totals) -> Group:
        """Draw how the batch stands: a bar, the jobs in each state, the pace, the credits, failures
        by code, and links about to die.
        """
        table = Table.grid(padding=(0, 2))
        for state in JobState:
            if totals.states.get(state):
                table.add_row(WORDS[state], f"{totals.states[state]:,}")
        table.add_row(
            "rate",
            f"{60 * self._rate():.1f} a minute, about {self._eta(totals)} to go for {totals.jobs:,} known jobs",
        )
        if self._waiting():
            table.add_row("[yellow]paused", self._waiting())
        table.add_row("credits", f"{money(totals.spent)} spent, {money(totals.reserved)} reserved")
        for code, count in list(totals.failures.items())[:8]:
            table.add_row(f"  {code}", f"{count:,}")
        if totals.dying:
            table.add_row("[red]links about to die", f"[red]{totals.dying:,}")
        return Group(
            ProgressBar(total=max(1, totals.jobs), completed=totals.ended, width=60), table
        )

    def final(self, totals: Totals, counts: Mapping[bool, int]) -> None:
        """Say how it ended."""
        facts: dict[str, Any] = {
            "event": "end",
            "states": {state.value: count for state, count in totals.states.items()},
            "credits_spent": totals.spent,
            "credits_reserved": totals.reserved,
            "failures": dict(totals.failures),
        }
        if self._as_json:
            put(facts)
        else:
            say(
                f"{counts[True]:,} videos, {counts[False]:,} without; the folder as a whole: {self._line(totals)}"
            )


def lines_of(facts: Overview) -> list[str]:
    """Write an overview as lines."""
    totals = facts.totals
    lines = [f"{facts.folder}: {totals.jobs:,} jobs"]
    lines += [
        f"  {totals.states[state]:>9,}  {WORDS[state]}"
        for state in JobState
        if totals.states.get(state)
    ]
    lines += [f"  {count:>9,}    of these {code}" for code, count in totals.failures.items()]
    lines.append(f"  credits: {money(totals.spent)} spent, {money(totals.reserved)} reserved")
    if totals.dying and totals.first_death is not None:
        lines.append(
            f"  links about to die: {totals.dying:,}, the first in {_span(totals.first_death - time.time())}"
        )
    if facts.missing:
        lines.append(f"  not in the folder any more, or not whole: {facts.missing:,} saved videos")
    end = facts.how or f"going on, or killed (process {facts.pid})"
    lines.append(
        f"  run {facts.run}, begun {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(facts.started))}: {end}"
    )
    lines.append(f"  rate: {facts.per_hour:,.0f} an hour")
    return lines


def _span(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    if minutes < 1:
        return f"{max(0, seconds):.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
