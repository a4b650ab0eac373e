"""What people see while tasks run: live bars on a terminal, plain lines elsewhere, on stderr."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..events import Downloading, Event, Throttled
from ._console import harmless, is_for_people, money, say, stream_for_people
from ._standing import Trouble

if TYPE_CHECKING:
    from .._session import Session
    from .._video import Video


WORTH_A_WORD = 3
"""Times that the same fails in a row before it is told: most failures pass at the next try."""


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
        self._trouble = Trouble()
        kinds = Downloading, Throttled, *Trouble.KINDS
        self._unsubscribe = session.subscribe(self._heard, *kinds)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._unsubscribe()
        self._progress.stop()

    def _heard(self, event: Event) -> None:
        if isinstance(event, Trouble.KINDS):
            self._trouble.heard(event, now := time.monotonic())
            if self._trouble.times == WORTH_A_WORD:
                self._note(self._trouble.text(now))
        elif isinstance(event, Throttled):
            self._note(f"the service asks to slow down: next submission in {event.pause:.0f} s")
        elif isinstance(event, Downloading):
            name = self._names.get(event.task_id or "")
            if name is not None and event.total:
                self.status(name, "downloading", 100 * event.received / event.total)

    def _note(self, text: str) -> None:
        if self._live:
            self._console.log(Text(harmless(text)))
        elif not self._quiet:
            say(text)

    def add(self, name: str) -> None:
        """Show a job that has not been submitted yet."""
        self._rows[name] = self._progress.add_task(
            escape(harmless(name)), total=100, status="waiting"
        )

    def submitted(self, name: str, task_id: str) -> None:
        """Note the id of a job's task: it is paid for now."""
        self._names[task_id] = name
        if not self._live:
            self._note(f"{name}: accepted as {task_id}")

    def status(self, name: str, status: str, percent: float = 0) -> None:
        """Show where a job stands."""
        self._progress.update(self._rows[name], completed=percent, status=escape(str(status)))
        if not self._live and self._shown.get(name) != status:
            self._note(f"{name}: {status}")
        self._shown[name] = status

    def failed(self, name: str, why: str) -> None:
        """Show that a job ended without a video."""
        self._progress.update(self._rows[name], status=f"[red]{escape(why)}")
        self._progress.stop_task(self._rows[name])

    def table(self, videos: Sequence[Video]) -> None:
        """Show what was made."""
        if not videos:
            return
        table = Table(
            title=f"{len(videos)} video{'s' * (len(videos) != 1)} in "
            f"{time.monotonic() - self._started:.1f} s"
        )
        table.add_column("file")
        for heading in ("length", "size", "pixels", "credits", "made in"):
            table.add_column(heading, justify="right")
        for video in videos:
            seconds = video.task.seconds if video.task is not None else None
            table.add_row(
                Text(harmless(video.path.name)),
                f"{video.duration:.2f} s" if video.duration is not None else "?",
                f"{video.size / 1e6:.2f} MB",
                f"{video.width} x {video.height}" if video.width else "?",
                money(video.credits),
                f"{seconds:.0f} s" if seconds is not None else "?",
            )
        self._console.print(table)
