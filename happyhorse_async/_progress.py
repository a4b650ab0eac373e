"""Live bars of everything that a session does: on a terminal by rich, in a notebook as HTML.

A listener like any other. It only notes what it is told. A thread of rich draws on a terminal, and
in a notebook a timer, a few times a second. So nobody waits for the drawing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from html import escape
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, cast

import attrs

from ._formats.texts import printable
from .errors import ConfigurationError
from .events import (
    Completed,
    DownloadFailed,
    Downloading,
    Event,
    Failed,
    Retrying,
    Saved,
    SubmissionFailed,
    Submitted,
    Submitting,
    Updated,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ._dispatcher import Events
    from ._request import ImageToVideo

logger = logging.getLogger("happyhorse_async")

REDRAW_SECONDS = 0.2
"""Between two pictures in a notebook; each is a message to the browser."""
MOST_ROWS = 12
"""Tasks that have a line of their own; the rest is counted. Rows are kept for those alone that have
not ended, and for the last few that have."""
MADE = 90
"""Percent of a bar that stand for making the video; the rest is its way here."""
LONGEST_NAME = 40


@attrs.define(eq=False)
class Line:
    """One task, as a line."""

    name: str
    state: str = "waiting"
    percent: float = 0.0
    kind: Literal["going on", "made", "saved", "failed"] = "going on"
    """What it counts as; "made" is a video that nobody has fetched yet."""
    task_id: str = ""


class Board:
    """What is known of all tasks: events in, lines out."""

    def __init__(self) -> None:
        self._rows: dict[str, Line] = {}
        self._keys: dict[str, str] = {}
        """Rows by task id, of those that are kept."""
        self._ended: dict[str, None] = {}
        """Keys of the rows that have ended, in that order. To look for them among ten thousand rows
        would hold up the event loop at each end."""
        self._hidden: Counter[str] = Counter()
        """Those that have no line any more, by kind."""
        self._begun = time.monotonic()

    def take(self, event: Event) -> None:
        """Note an event."""
        note = _NOTES.get(type(event))
        if note is not None:
            note(self, event)

    def _submitting(self, event: Submitting) -> None:
        self._row(event, event.request).state = "submitting"

    def _submitted(self, event: Submitted) -> None:
        row = self._row(event)
        self._keys[event.task_id] = event.idempotency_key
        row.task_id = event.task_id
        row.state, row.percent = str(event.task.status), _share(event.task.progress)

    def _refused(self, event: SubmissionFailed) -> None:
        self._end(event, _reason(event.error), "failed")

    def _failed(self, event: Failed) -> None:
        code = event.task.error.code if event.task.error is not None else ""
        self._end(event, code or str(event.task.status), "failed")

    def _updated(self, event: Updated) -> None:
        row = self._row(event)
        row.state = str(event.task.status)
        row.percent = max(row.percent, _share(event.task.progress))

    def _completed(self, event: Completed) -> None:
        self._end(event, "completed", "made")

    def _downloading(self, event: Downloading) -> None:
        row = self._row(event)
        row.state, row.kind = "downloading", "going on"
        self._ended.pop(self._key(event), None)
        share = event.received / (event.total or event.received or 1)
        row.percent = MADE + (100 - MADE) * share

    def _not_fetched(self, event: DownloadFailed) -> None:
        self._end(event, f"not fetched: {_reason(event.error)}", "made")

    def _saved(self, event: Saved) -> None:
        self._end(event, f"saved {event.video.path.name}", "saved")

    def _retrying(self, event: Retrying) -> None:
        row = self._rows.get(event.idempotency_key or "")
        if row is not None:
            row.state = f"again in {event.pause:.0f} s"

    def _row(self, event: Event, request: ImageToVideo | None = None) -> Line:
        key = self._key(event)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Line(_name(event, request))
        return row

    def _key(self, event: Event) -> str:
        known = self._keys.get(event.task_id or "")
        return known or event.idempotency_key or event.task_id or ""

    def _end(self, event: Event, state: str, kind: Literal["made", "saved", "failed"]) -> None:
        row = self._row(event)
        row.state, row.kind = state, kind
        if kind != "failed":
            row.percent = MADE if kind == "made" else 100.0
        key = self._key(event)
        self._ended.pop(key, None)
        if kind != "made":
            self._ended[key] = None
        if len(self._ended) > MOST_ROWS:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            hidden = self._rows.pop(oldest)
            self._hidden[hidden.kind] += 1
            self._keys.pop(hidden.task_id, None)

    @property
    def lines(self) -> list[Line]:
        """The lines that are shown: what goes on first, then what has ended last."""
        rows = list(self._rows.values())
        going = [row for row in rows if row.kind == "going on"]
        others = [row for row in rows if row.kind != "going on"]
        return [*going, *reversed(others)][:MOST_ROWS]

    @property
    def summary(self) -> str:
        """One line about all of it."""
        counts = self._hidden + Counter(row.kind for row in list(self._rows.values()))
        seconds = int(time.monotonic() - self._begun)
        kinds = ("saved", "made", "failed", "going on")
        words = [f"{counts[kind]:,} {kind}" for kind in kinds if counts[kind]]
        return f"{', '.join(words) or 'nothing yet'}, {seconds // 60}:{seconds % 60:02}"


_NOTES: dict[type[Event], Callable[[Board, Any], None]] = {
    Submitting: Board._submitting,
    Submitted: Board._submitted,
    SubmissionFailed: Board._refused,
    Updated: Board._updated,
    Completed: Board._completed,
    Failed: Board._failed,
    Downloading: Board._downloading,
    DownloadFailed: Board._not_fetched,
    Saved: Board._saved,
    Retrying: Board._retrying,
}


def _share(progress: int | None) -> float:
    return MADE * (progress or 0) / 100


def _name(event: Event, request: ImageToVideo | None) -> str:
    if isinstance(event.tag, str):
        name = event.tag
    elif request is not None:
        image = request.image
        shown = "an image" if isinstance(image, bytes) else os.path.basename(os.fspath(image))
        name = request.prompt or shown
    else:
        name = event.task_id or "a task"
    name = " ".join(name.split())
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _reason(error: BaseException) -> str:
    return str(getattr(error, "code", "") or type(error).__name__)


# --- Where it is shown.


class Screen(Protocol):
    """A place where lines are shown: a terminal, or a notebook."""

    def begin(self) -> None:
        """Show the first picture."""

    def changed(self) -> None:
        """Show what has changed, soon."""

    def end(self) -> None:
        """Show the last picture, and leave it there."""


class Progress:
    """Live bars of a session's tasks: a context manager, which shows them as long as it is open.

    Where they cannot be drawn, the log says so, and the work goes on.
    """

    def __init__(self, events: Events, console: Console | None) -> None:
        self._board = Board()
        self._events = events
        self._screen: Screen = (
            Notebook(self._board)
            if console is None and in_notebook()
            else Terminal(self._board, console)
        )
        self._unsubscribe: Callable[[], None] = lambda: None

    def __enter__(self) -> Progress:
        if _drawn(self._screen.begin):
            self._unsubscribe = self._events.subscribe(self._take)
        return self

    def __exit__(self, *error: object) -> None:
        self._unsubscribe()
        _drawn(self._screen.end)

    def _take(self, event: Event) -> None:
        self._board.take(event)
        self._screen.changed()


def _drawn(draw: Callable[[], None]) -> bool:
    """Draw, and return whether that was possible: a paid video must not be lost for a picture."""
    try:
        draw()
    except (Exception, SystemExit):  # the latter is rich's, when nobody reads a console any more
        logger.warning(
            "the bars cannot be drawn", exc_info=True, extra={"action": "progress_failed"}
        )
        return False
    return True


class _Patient:
    """A stream that takes all it is given, though it is closed or nobody reads it. At a broken pipe
    rich would end the program, and send its standard output to nowhere.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Return whether a person reads it."""
        return not self._stream.closed and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write a text, as far as that is possible."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, as far as that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def _stderr() -> IO[str] | None:
    stream = sys.stderr
    return None if stream is None else cast("IO[str]", _Patient(stream))  # None: as under pythonw


class Terminal:
    """A terminal, drawn by rich in a thread of its own. Elsewhere only the last picture appears."""

    def __init__(self, board: Board, console: Console | None) -> None:
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError as error:
            raise ConfigurationError(
                "live bars on a terminal need one more package",
                next_step="Install it: pip install 'happyhorse-async[cli]'.",
            ) from error
        if console is not None and not isinstance(console, Console):
            raise ConfigurationError(
                f"console: expected a rich.console.Console, got {console!r:.200}"
            )
        self._board = board
        self._live = Live(
            console=console or Console(file=_stderr(), stderr=True),
            get_renderable=self._picture,
            refresh_per_second=5,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def begin(self) -> None:
        """Show the first picture."""
        self._live.start()

    def changed(self) -> None:
        """Do nothing: the thread draws at its own pace."""

    def end(self) -> None:
        """Show the last picture, and leave it there."""
        self._live.stop()
        if not self._live.console.is_terminal:  # there rich ends the last line itself
            self._live.console.line()

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=LONGEST_NAME)
        table.add_column(width=24)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for row in self._board.lines:
            bar = ProgressBar(total=100, completed=row.percent, width=24)
            name, state = Text(printable(row.name)), Text(printable(row.state))
            table.add_row(name, bar, f"{row.percent:.0f} %", state)
        return Group(table, Text(self._board.summary, style="bold"))


class Notebook:
    """A notebook's cell, whose output is drawn anew. Needs nothing but the notebook."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._shown: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Show the first picture."""
        from IPython import display

        self._shown = display.display(display.HTML(page(self._board)), display_id=True)  # type: ignore[no-untyped-call]

    def changed(self) -> None:
        """Show what has changed, soon."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REDRAW_SECONDS, self._draw)

    def end(self) -> None:
        """Show the last picture, and leave it there."""
        if self._timer is not None:
            self._timer.cancel()
        self._draw()

    def _draw(self) -> None:
        from IPython import display

        self._timer = None
        self._shown.update(display.HTML(page(self._board)))  # type: ignore[no-untyped-call]


def page(board: Board) -> str:
    """Return the lines as HTML, with all text escaped."""
    rows = "".join(map(_row, board.lines))
    return f"<table>{rows}</table><b>{escape(board.summary)}</b>"


def _row(row: Line) -> str:
    name, state = escape(printable(row.name)), escape(printable(row.state))
    return (
        f"<tr><td style='text-align:left'>{name}</td>"
        f"<td><progress max='100' value='{row.percent:.0f}' aria-label='{name}'>"
        f"</progress></td><td>{row.percent:.0f} %</td>"
        f"<td style='text-align:left'>{state}</td></tr>"
    )


def in_notebook() -> bool:
    """Whether the code runs in a notebook's kernel."""
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None
