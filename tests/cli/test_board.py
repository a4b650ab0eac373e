"""What people see while `happyhorse batch run` works: a live board on a real pseudo terminal, plain
lines elsewhere.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import sys
import termios
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from happyhorse_async import InsufficientCreditsError, Session
from happyhorse_async._rules.lifecycle import JobState
from happyhorse_async.batch import Totals, WaitingForReset
from happyhorse_async.cli._board import BatchDisplay
from happyhorse_async.cli._standing import Standing
from happyhorse_async.sandbox import Sandbox
from tests.batch.support import ROOT, until, write_manifest

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SEQUENCES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)|\r")
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
WITH_A_TERMINAL = [
    *(sys.executable, "-c"),
    "import os, sys; os.login_tty(0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
]
"""Starts Python as a shell does: the terminal is where it reads and writes, and where a key becomes
a signal."""
RUN = ("-m", "tests.cli.quick", "batch", "run")


class Terminal:
    """A pseudo terminal: the end that programs are given, and what they have written on it."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.openpty()
        self.raw = b""
        self._news = asyncio.Event()
        termios.tcsetwinsize(self.theirs, (40, 160))
        asyncio.get_running_loop().add_reader(self.ours, self._read)

    def _read(self) -> None:
        self.raw += os.read(self.ours, 65_536)
        self._news.set()

    @property
    def said(self) -> str:
        """The text without what moves the cursor and gives colours."""
        return SEQUENCES.sub("", self.raw.decode(errors="replace"))

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.ours, keys)

    async def shows(self, *patterns: str) -> None:
        """Wait until each pattern has been seen since the last call, somewhere."""
        async with asyncio.timeout(100):
            while not all(re.search(pattern, self.said) for pattern in patterns):
                self._news.clear()
                await self._news.wait()

    def wipe(self) -> None:
        """Forget what was seen."""
        self.raw = b""

    def close(self) -> None:
        """Close both ends."""
        asyncio.get_running_loop().remove_reader(self.ours)
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
async def terminal(anyio_backend: str) -> AsyncIterator[Terminal]:
    """A terminal of 160 columns."""
    terminal = Terminal()
    yield terminal
    terminal.close()


def environment(sandbox: Sandbox) -> dict[str, str]:
    """Give the variables of a usual terminal, whatever those of the tests' own are."""
    forcing = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if name not in forcing}
    return {**kept, **sandbox.env(), "TERM": "xterm-256color"}


async def start(
    sandbox: Sandbox,
    *line: object,
    stdin: int = asyncio.subprocess.DEVNULL,
    stderr: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Start a run of a batch whose standard output is a pipe."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *RUN, *map(str, line)),
        cwd=ROOT,
        env=environment(sandbox),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def log_in(sandbox: Sandbox, terminal: Terminal, *line: object) -> asyncio.subprocess.Process:
    """Start a run of a batch that has nothing but the terminal, which is its own."""
    return await asyncio.create_subprocess_exec(
        *(*WITH_A_TERMINAL, *RUN, *map(str, line)),
        cwd=ROOT,
        env=environment(sandbox),
        stdin=terminal.theirs,
    )


@pytest.mark.parametrize(
    "everywhere", [True, False], ids=["all on the terminal", "only stderr on the terminal"]
)
async def test_the_live_board(
    sandbox: Sandbox, terminal: Terminal, tmp_path: Path, *, everywhere: bool
) -> None:
    """It counts the jobs in each state, says pace and credits, counts failures by code, follows
    what happens, and goes away at the end.
    """
    line = (
        write_manifest(tmp_path / "in", links=3, files=0),
        "--out",
        tmp_path / "out",
        "--max-in-flight",
        2,
    )
    if everywhere:
        process = await log_in(sandbox, terminal, *line)
        await terminal.shows(r"Go on\? \[y/N\]")
        assert HIDE not in terminal.raw
        terminal.type(b"y\n")
    else:
        process = await start(sandbox, *line, "--yes", stderr=terminal.theirs)
    await terminal.shows(
        r"waiting +1\b",
        r"being made +2\b",
        r"0/3  0 %  \? to go",
        r"rate +0\.0 a minute",
        r"credits +0 spent, 45\.7 reserved",
    )
    assert HIDE in terminal.raw
    assert "content_policy_violation" not in terminal.said

    first, second = sandbox.tasks
    sandbox.end(first.id, "failed", error_code="content_policy_violation")
    sandbox.finish(second.id)
    await until(lambda: sandbox.paid == 3)
    terminal.wipe()
    await terminal.shows(
        r"being made +1\b",
        r"saved +1\b",
        r"failed +1\b",
        r"content_policy_violation 1\b",
        r"2/3  66 %  about [\d.]+ (s|min|h) to go",
        r"rate +\d+\.\d a minute",
        r"credits +22\.85 spent, 22\.85 reserved",
    )
    sandbox.finish()
    async with asyncio.timeout(100):
        out, _ = await process.communicate()
    await terminal.shows(r"2 videos, 1 without; the folder as a whole: ")
    assert (process.returncode, out or b"") == (1, b"")
    assert terminal.raw.rfind(SHOW) > terminal.raw.rfind(HIDE), "the cursor is there again"
    assert "being made" not in terminal.said.rpartition("2 videos")[2]


async def test_ctrl_c_on_the_board(sandbox: Sandbox, terminal: Terminal, tmp_path: Path) -> None:
    """The key that stops leaves the board there with a word above it; the cursor is back at the
    end, and the way on is said.
    """
    manifest = write_manifest(tmp_path / "in", links=3, files=0)
    process = await log_in(
        sandbox, terminal, manifest, "--out", tmp_path / "out", "--max-in-flight", 2, "--yes"
    )
    await terminal.shows(r"being made +2\b")
    terminal.type(b"\x03")
    await terminal.shows("stopping: nothing new is submitted, what is paid is finished")
    terminal.wipe()
    await terminal.shows(r"being made +2\b")
    sandbox.finish()
    async with asyncio.timeout(100):
        await process.wait()
    await terminal.shows("2 videos, 0 without", "To go on, run the same line again")
    assert (process.returncode, sandbox.paid) == (130, 2)
    assert terminal.raw.rfind(SHOW) > terminal.raw.rfind(HIDE)


async def test_plain_lines_without_a_terminal(sandbox: Sandbox, tmp_path: Path) -> None:
    """Standard error that is no terminal gets whole lines of text: no colours, no cursor, nothing
    drawn twice.
    """
    manifest = write_manifest(tmp_path / "in", links=2, files=0)
    process = await start(sandbox, manifest, "--out", tmp_path / "out", "--yes")
    assert process.stderr is not None
    async with asyncio.timeout(100):
        begun = await process.stderr.readuntil(b" reserved\n")
        sandbox.speed = 1000
        out, err = await process.communicate()
    assert (process.returncode, out) == (0, b"")
    text = (begun + err).decode()
    assert all(character.isprintable() or character == "\n" for character in text), text
    lines = text.splitlines()
    assert lines[0] == "2 jobs; 0 bad rows: about 45.7 credits ($0.67)"
    assert re.fullmatch(
        r".*; 0 %; 0\.0 a minute, \? to go; 0 credits spent, [\d.]+ reserved", lines[1]
    )
    *others, end = lines[2:]
    # Every half a minute there is another line like the second one.
    assert [line.partition(": ")[2] for line in others if " a minute, " not in line] == [
        "saved",
        "saved",
    ]
    assert end.startswith("2 videos, 0 without; the folder as a whole: 2 saved; ")
    assert end.endswith("; 45.7 credits spent, 0 reserved")


async def test_json_on_a_terminal(sandbox: Sandbox, terminal: Terminal, tmp_path: Path) -> None:
    """With --json a terminal gets no board either, and standard output lines of JSON alone."""
    sandbox.speed = 1000
    manifest = write_manifest(tmp_path / "in", links=1, files=0)
    process = await start(
        sandbox, manifest, "--out", tmp_path / "out", "--yes", "--json", stderr=terminal.theirs
    )
    async with asyncio.timeout(100):
        out, _ = await process.communicate()
    os.write(terminal.theirs, b"end")
    await terminal.shows("end")
    assert (process.returncode, terminal.raw) == (0, b"end")
    assert all(line.startswith(b'{"event": ') for line in out.splitlines())


@pytest.fixture
async def display(session: Session, tmp_path: Path) -> AsyncIterator[BatchDisplay]:
    """The display of a batch that does nothing."""
    with BatchDisplay(session, session.batch(tmp_path), as_json=False) as display:
        yield display


@pytest.mark.parametrize("dying", [0, 1, 1234])
async def test_links_about_to_die(display: BatchDisplay, dying: int) -> None:
    """The board warns of videos that are not here while their links are about to die, and only of
    those.
    """
    totals = Totals(
        states={JobState.COMPLETED: 2000, JobState.SAVED: 7},
        spent=Decimal(5),
        dying=dying,
        first_death=1.0,
    )
    drawn = io.StringIO()
    Console(file=drawn, width=120).print(display.board(totals))
    warned = re.findall(r"links about to die +([0-9,]+)", drawn.getvalue())
    assert warned == ([f"{dying:,}"] if dying else [])
    assert re.search(r"to be fetched +2,000\b", drawn.getvalue())


def test_a_line_tells_of_rows_that_were_not_read_yet() -> None:
    """A batch enters rows as it gets to them: else 1,900 of 2,000 would seem to be gone."""
    totals = Totals(states={JobState.NEW: 60, JobState.SAVED: 40})
    standing = Standing(totals=totals, expected=2000, a_minute=0)
    assert standing.line().startswith("1,900 not entered yet, 60 waiting, 40 saved; 2 %;")


async def test_a_wait_for_the_daily_limit(
    session: Session, display: BatchDisplay, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line says until when nothing is submitted and where that can be mended, and the board says
    so until then.
    """
    error = InsufficientCreditsError("no", status=402, next_step="See https://example.com/limits.")
    for hours, shown in ((-1, False), (1, True)):
        until = datetime.now(UTC) + timedelta(hours=hours)
        session._open().events.emit(WaitingForReset(until=until, error=error))
        drawn = io.StringIO()
        Console(file=drawn, width=120).print(display.board(Totals(states={JobState.NEW: 5})))
        assert (f"waiting until {until:%Y-%m-%d %H:%M} UTC" in drawn.getvalue()) is shown
        said = " ".join(capsys.readouterr().err.split())
        assert "https://example.com/limits" in said
        assert (f"waiting until {until:%Y-%m-%d %H:%M} UTC" in said) is shown
