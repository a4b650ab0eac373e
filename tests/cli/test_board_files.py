"""The board as a terminal shows it, at three widths, compared with files that people have read.

To renew them: delete the files, run the tests twice, and read the difference.
"""

from __future__ import annotations

import asyncio
import os
import termios
from pathlib import Path

import pyte
import pytest

from happyhorse_async.cli._standing import Trouble, span
from happyhorse_async.errors import APIConnectionError
from happyhorse_async.events import Retrying
from tests.batch.support import ROOT
from tests.forks import python

BOARDS = Path(__file__).parent / "boards"
ROWS = 40
FORCING = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES")


async def captured(width: int, moment: str) -> str:
    """Give what stands on a terminal of a width once the board is drawn."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (ROWS, width))
    # Test runners say how wide their own terminal is.
    plain = {name: value for name, value in os.environ.items() if name not in FORCING}
    raw, end = b"", asyncio.Event()
    loop = asyncio.get_running_loop()
    process = await python(
        *("tests.cli.draw_board", moment),
        cwd=ROOT,
        env={**plain, "TERM": "xterm-256color"},
        stdin=asyncio.subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    assert process.stdout is not None

    def read() -> None:
        nonlocal raw
        try:
            raw += os.read(ours, 65_536)
        except OSError:
            end.set()

    async with asyncio.timeout(100):
        await process.stdout.readline()
        # Once it is drawn all its bytes are in the terminal; reading ends where nothing is left.
        os.set_blocking(ours, False)
        try:
            while True:
                raw += os.read(ours, 65_536)
        except BlockingIOError:
            pass
        os.set_blocking(ours, True)
        loop.add_reader(ours, read)
        await process.communicate(b"\n")
        loop.remove_reader(ours)
    os.close(ours)
    screen = pyte.Screen(width, ROWS)
    stream = pyte.ByteStream(screen)
    # What follows the last drawing takes it away again.
    stream.feed(raw[: raw.rfind(b"\x1b[?25h")] if b"\x1b[?25h" in raw else raw)
    return "\n".join(line.rstrip() for line in screen.display).rstrip() + "\n"


@pytest.mark.anyio
@pytest.mark.parametrize("moment", ["busy", "calm"])
@pytest.mark.parametrize("width", [60, 100, 160])
async def test_the_board_is_as_in_the_file(width: int, moment: str) -> None:
    """No row is glued to another, none is wider than the terminal, and none stays from before."""
    path = BOARDS / f"{moment}-{width}.txt"
    shown = await captured(width, moment)
    if not path.exists():
        path.write_text(shown)
        pytest.fail(f"{path.name} was not there; it is now: read it")
    assert shown == path.read_text()
    assert max(map(len, shown.splitlines())) <= width


def test_trouble_is_counted_until_it_ends() -> None:
    """The same failure is counted, another one begins anew, and the next try comes nearer."""
    trouble = Trouble()
    for _ in range(14):
        trouble.heard(
            Retrying(what="submission", error=APIConnectionError("refused"), pause=20.0, attempt=1),
            100.0,
        )
    assert trouble.text(105.0) == "14 times, next try in 15 s: refused"
    trouble.heard(
        Retrying(what="submission", error=APIConnectionError("reset"), pause=1.0, attempt=1), 200.0
    )
    assert trouble.text(200.0) == "once, next try in 1 s: reset"
    assert [span(seconds) for seconds in (-1, 29, 90, 7200)] == ["0 s", "29 s", "2 min", "2.0 h"]
