"""How a batch stands, in words: for the board, for plain lines and for `batch status`.

The words are made by pure functions over values; the time is passed in. `show` and `watched` print
them for a folder, once or until its run has ended.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .._rules.lifecycle import JobState
from ..events import ReadFailed, Retrying, Submitted, Updated
from ._console import money, put, stream_for_people

if TYPE_CHECKING:
    from ..batch import Totals
    from ..batch.report import Overview

WORDS = {
    JobState.NEW: "waiting",
    JobState.SUBMITTING: "being submitted",
    JobState.RUNNING: "being made",
    JobState.COMPLETED: "to be fetched",
    JobState.SAVED: "saved",
    JobState.FAILED: "failed",
    JobState.UNKNOWN: "in doubt",
}
MOST_CODES = 8
"""Codes of failures that the board has room for."""
LONGEST_TROUBLE = 120


@attrs.define
class Trouble:
    """Why nothing moves: one failure, met again and again."""

    what: str = ""
    times: int = 0
    again_at: float | None = None
    """When it is tried again, by the clock that `heard` was given; None when nobody said."""

    KINDS = (Retrying, ReadFailed, Submitted, Updated)

    def heard(self, event: Retrying | ReadFailed | Submitted | Updated, now: float) -> None:
        """Count failures that are alike; a success ends them."""
        if not isinstance(event, (Retrying, ReadFailed)):
            self.what, self.times = "", 0
            return
        said = str(event.error)
        self.times = self.times + 1 if said == self.what else 1
        self.what = said
        self.again_at = now + event.pause if isinstance(event, Retrying) else None

    def text(self, now: float) -> str:
        """Say what happened how often, and when it is tried again; "" when all is well."""
        if not self.times:
            return ""
        often = f"{self.times} times" if self.times > 1 else "once"
        cut = self.what[:LONGEST_TROUBLE] + ("…" if len(self.what) > LONGEST_TROUBLE else "")
        left = max(0.0, self.again_at - now) if self.again_at is not None else None
        then = f", next try in {left:.0f} s" if left is not None else ""
        return f"{often}{then}: {cut}"


@attrs.frozen(kw_only=True)
class Standing:
    """How a run stands at one moment."""

    totals: Totals
    expected: int
    """Jobs that the input has; the folder may have more."""
    a_minute: float
    """Jobs that ended, by this run's pace."""
    trouble: str = ""
    waiting: str = ""
    """Until when nothing is submitted, if so."""

    @property
    def jobs(self) -> int:
        """All jobs that are known of."""
        return max(self.expected, self.totals.jobs)

    @property
    def percent(self) -> int:
        """How much has ended, 0 to 100; 100 only when all has."""
        return 100 * self.totals.ended // self.jobs if self.jobs else 0

    @property
    def to_go(self) -> str:
        """How long it may take yet."""
        left = self.jobs - self.totals.ended
        if self.jobs and not left:
            return "done"
        return f"about {span(60 * left / self.a_minute)} to go" if self.a_minute else "? to go"

    @property
    def progress(self) -> str:
        """How many of how many."""
        return f"{self.totals.ended:,}/{self.jobs:,}  {self.percent} %  {self.to_go}"

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the board's rows: what, and how much."""
        totals = self.totals
        # Jobs in doubt have codes as well.
        codes_at = JobState.FAILED if totals.states.get(JobState.FAILED) else JobState.UNKNOWN
        for state in JobState:
            if totals.states.get(state):
                codes = f" ({self._codes})" if state is codes_at and self._codes else ""
                yield WORDS[state], f"{totals.states[state]:,}{codes}"
        if self.jobs > totals.jobs:
            yield "not entered yet", f"{self.jobs - totals.jobs:,}"
        yield "rate", f"{self.a_minute:.1f} a minute"
        yield "credits", f"{money(totals.spent)} spent, {money(totals.reserved)} reserved"
        if totals.dying:
            yield "links about to die", f"{totals.dying:,}"
        if self.waiting:
            yield "paused", self.waiting
        if self.trouble:
            yield "trouble", self.trouble

    @property
    def _codes(self) -> str:
        """Count the failures, and the jobs in doubt, by the service's code."""
        codes = list(self.totals.failures.items())
        shown = ", ".join(f"{code} {count:,}" for code, count in codes[:MOST_CODES])
        return shown + (", ..." if len(codes) > MOST_CODES else "")

    def line(self) -> str:
        """Say it all on one line."""
        states = [f"{count:,} {WORDS[state]}" for state, count in self.totals.states.items()]
        if self.totals.jobs and self.jobs > self.totals.jobs:
            states.insert(0, f"{self.jobs - self.totals.jobs:,} not entered yet")
        spent = f"{money(self.totals.spent)} credits spent, {money(self.totals.reserved)} reserved"
        more = [text for text in (self.waiting, self.trouble) if text]
        pace = f"{self.a_minute:.1f} a minute, {self.to_go}"
        parts = [", ".join(states) or "nothing yet", *more, f"{self.percent} %", pace, spent]
        return "; ".join(parts)


def lines_of(facts: Overview, now: float) -> list[str]:
    """Write an overview as lines; `now` in Unix seconds."""
    totals = facts.totals
    lines = [f"{facts.folder}: {totals.ended:,} of {totals.jobs:,} jobs have ended"]
    lines += [
        f"  {totals.states[state]:>9,}  {WORDS[state]}"
        for state in JobState
        if totals.states.get(state)
    ]
    lines += [f"  {count:>9,}    of these {code}" for code, count in totals.failures.items()]
    if facts.left_out:
        lines.append(f"  {facts.left_out:>9,}  rows left out, which could not become jobs")
    lines.append(f"  credits: {money(totals.spent)} spent, {money(totals.reserved)} reserved")
    if totals.dying and totals.first_death is not None:
        first = span(totals.first_death - now)
        lines.append(f"  links about to die: {totals.dying:,}, the first in {first}")
    if facts.missing:
        lines.append(f"  not in their place any more, or not whole: {facts.missing:,} saved videos")
    if facts.missing is None:
        lines.append("  the object store could not be looked at: saved videos may be missing")
    end = facts.how or f"going on, or killed (process {facts.pid})"
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts.started))
    lines.append(f"  run {facts.run}, begun {begun}: {end}")
    lines.append(f"  rate: {facts.per_hour:,.0f} an hour")
    return lines


def span(seconds: float) -> str:
    """Write a length of time as people say it."""
    minutes = max(0, round(seconds / 60))
    if minutes < 1:
        return f"{max(0, seconds):.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


SECONDS = 2.0
"""Between two looks at the ledger."""


async def show(folder: Path, *, as_json: bool) -> Overview:
    """Print how a folder's batch stands."""
    from ..batch.report import overview

    facts = await asyncio.to_thread(overview, folder)
    put(facts.as_json() if as_json else "\n".join(lines_of(facts, time.time())))
    return facts


async def watched(folder: Path, *, as_json: bool) -> None:
    """Print it, on a terminal in place, until the run has ended or its process is gone."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from ..batch.report import overview

    console = Console(file=stream_for_people())
    if as_json or not console.is_terminal:
        while True:
            if not _goes_on(await show(folder, as_json=as_json)):
                return
            await asyncio.sleep(SECONDS)
    with Live(console=console, transient=True) as live:
        facts = await asyncio.to_thread(overview, folder)
        while _goes_on(facts):
            live.update(
                Text("\n".join(lines_of(facts, time.time())), no_wrap=True, overflow="ellipsis")
            )
            await asyncio.sleep(SECONDS)
            facts = await asyncio.to_thread(overview, folder)
    put("\n".join(lines_of(facts, time.time())))


def _goes_on(facts: Overview) -> bool:
    """Return whether the run's process still works on it, as far as this machine can tell."""
    if facts.how is not None or not facts.pid:
        return False
    if os.name != "posix":  # elsewhere a signal would end it
        return True
    try:
        os.kill(facts.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
