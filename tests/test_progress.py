"""Live bars: what they show, on a terminal and in a notebook, and what they cost."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
from rich.console import Console

from happyhorse_async import ImageToVideo, Session, Task, TaskFailedError, _progress
from happyhorse_async._progress import MOST_ROWS, Board, page
from happyhorse_async.errors import (
    ConfigurationError,
    IncompleteDownloadError,
    InvalidRequestError,
)
from happyhorse_async.events import (
    DownloadFailed,
    Downloading,
    Failed,
    Retrying,
    SubmissionFailed,
    Submitted,
    Submitting,
)
from happyhorse_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.anyio

LINK = "https://cdn.example.com/cat.png"


def screen(width: int = 100) -> Console:
    """A terminal that keeps what it shows."""
    return Console(file=io.StringIO(), force_terminal=True, width=width)


def shown(console: Console) -> str:
    """What a terminal has been sent, with all its codes."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_a_terminal_shows_each_task_and_the_sum(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """At the end there is a line for each video, under its tag or its prompt, and a sum below."""
    sandbox.speed = 1000
    console = screen()
    with session.progress(console=console):
        await session.generate(LINK, prompt="a cat [bold]looks[/] up", save_to=tmp_path / "a.mp4")
        await session.generate(LINK, tag="row 7", save_to=tmp_path / "b.mp4")
    picture = shown(console)
    for words in ("a cat [bold]looks[/] up", "row 7", "saved a.mp4", "saved b.mp4", "2 saved, 0:"):
        assert words in picture
    assert "100 %" in picture


async def test_failures_show_the_services_code(sandbox: Sandbox, session: Session) -> None:
    """A task that ends without a video says why, and counts as failed."""
    console = screen()
    with session.progress(console=console):
        task = await session.submit(LINK, prompt="a dog")
        sandbox.end(task.id, "failed", error_code="content_policy_violation")
        with pytest.raises(TaskFailedError):
            await task.wait()
    assert "content_policy_violation" in shown(console)
    assert "1 failed" in shown(console)


@pytest.mark.parametrize("end", ["it cannot be had", "cancelled"])
async def test_a_download_that_ends_without_its_video_does_not_go_on(
    sandbox: Sandbox, session: Session, tmp_path: Path, end: str
) -> None:
    """Its video is made, and not fetched yet; the line says why."""
    sandbox.speed = 1000
    sandbox.fail(Fault("refuse", path="/results/", status=503, times=None))
    failures: list[DownloadFailed] = []
    session.subscribe(failures.append, DownloadFailed)
    console, asked = screen(), asyncio.Event()
    session.subscribe(lambda _: asked.set(), Retrying)
    with session.progress(console=console):
        task = await session.submit(LINK, tag="row 7")
        limit = 0.0 if end == "it cannot be had" else None
        await task.wait()
        work = asyncio.create_task(task.download(tmp_path / "a.mp4", timeout=limit))
        if end == "cancelled":
            await asked.wait()
            work.cancel()
        with pytest.raises((IncompleteDownloadError, asyncio.CancelledError)) as caught:
            await work
    assert f"not fetched: {type(caught.value).__name__}" in shown(console)
    assert "1 made, 0:" in shown(console)
    [failure] = failures
    assert (failure.task_id, failure.tag) == (task.id, "row 7")
    assert type(failure.error) is type(caught.value)


async def test_no_text_steers_the_terminal(sandbox: Sandbox, session: Session) -> None:
    """Neither a prompt nor the service's code: escapes and turned writing are spelled out."""
    console = screen(200)
    with session.progress(console=console):
        task = await session.submit(LINK, prompt="a\x1b]0;title\x07 cat \u202e")
        sandbox.end(task.id, "failed", error_code="no\x1b[2Jmore")
        with pytest.raises(TaskFailedError):
            await task.wait()
    picture = shown(console)
    assert r"a\x1b]0;title\x07 cat \u202e" in picture
    assert r"no\x1b[2Jmore" in picture
    assert not [
        steering for steering in ("\x1b]", "\x1b[2J", "\x07", "\u202e") if steering in picture
    ]


async def test_a_file_gets_whole_lines(sandbox: Sandbox, session: Session) -> None:
    """Where only the last picture appears, what is written after it begins a line of its own."""
    console = Console(file=io.StringIO(), width=100)
    with session.progress(console=console):
        await session.submit(LINK, prompt="a dog")
    lines = shown(console).split("\n")
    assert lines[0].startswith("a dog ")
    assert lines[1].startswith("1 going on, ")
    assert lines[2:] == [""]


async def test_what_is_no_console_is_refused(session: Session) -> None:
    """Nothing could be drawn there, which only the log would tell."""
    with pytest.raises(ConfigurationError, match=r"console: expected a rich\.console\.Console"):
        session.progress(console=sys.stderr)  # type: ignore[arg-type]


async def test_nothing_listens_after_the_bars_have_closed(session: Session) -> None:
    """What happens later is not noted, and nothing of it is drawn."""
    console = screen()
    with session.progress(console=console):
        assert session._open().events
    before = shown(console)
    await session.submit(LINK)
    assert not session._open().events
    assert shown(console) == before


@pytest.mark.parametrize("ending", ["nobody reads it", "it is closed"])
async def test_bars_that_cannot_be_drawn_end_no_paid_work(
    sandbox: Sandbox, session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str
) -> None:
    """As in `python mine.py 2>&1 | head`: the caller gets the video, and the program's standard
    output still leads where it led.
    """
    sandbox.speed = 1000
    reader, writer = os.pipe()
    os.close(reader)
    before = os.fstat(1)
    with os.fdopen(writer, "w", buffering=1) as stream:
        if ending == "it is closed":
            stream.close()
        monkeypatch.setattr(sys, "stderr", stream)
        try:
            with session.progress():
                video = await session.generate(LINK, save_to=tmp_path / "a.mp4")
        finally:
            monkeypatch.undo()
            with suppress(OSError):
                stream.close()
    assert video.path.exists()
    assert os.path.samestat(before, os.fstat(1))


async def test_a_console_that_fails_ends_no_paid_work(
    sandbox: Sandbox, session: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also a console of the caller's own; the log says that nothing could be drawn."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    sandbox.speed = 1000
    console = Console(file=Broken(), force_terminal=True)
    with session.progress(console=console):
        video = await session.generate(LINK, save_to=tmp_path / "a.mp4")
    assert video.path.exists()
    assert "progress_failed" in {record.__dict__.get("action") for record in caplog.records}


def test_what_has_ended_is_forgotten() -> None:
    """A board of a process that runs for months holds nothing of a task but the sum."""
    board, request = Board(), ImageToVideo(image=LINK)
    for number in range(100):
        key, task = f"key-{number:016}", Task(id=f"task-{number}", status="pending")
        board.take(Submitting(idempotency_key=key, request=request))
        board.take(Submitted(idempotency_key=key, task=task))
        board.take(Failed(task=attrs.evolve(task, status="failed")))
    assert board.summary.startswith("100 failed, ")
    assert len(board._rows) == len(board._keys) == MOST_ROWS


def test_a_video_that_is_fetched_again_goes_on_again() -> None:
    """Its line is not hidden meanwhile, however many others end, and it is counted once."""
    board, request = Board(), ImageToVideo(image=LINK)

    def failed(number: int) -> None:
        key = f"key-{number:016}"
        board.take(Submitting(idempotency_key=key, request=request))
        error = InvalidRequestError(["no"])
        board.take(SubmissionFailed(idempotency_key=key, error=error))

    failed(0)
    again = Downloading(
        idempotency_key=f"key-{0:016}", task_id=None, path="a.mp4", received=1, total=2
    )
    board.take(again)
    for number in range(1, 3 * MOST_ROWS):
        failed(number)
    assert "downloading" in {line.state for line in board.lines}
    assert board.summary.startswith(f"{3 * MOST_ROWS - 1} failed, 1 going on")


def test_thousands_of_tasks_are_few_lines() -> None:
    """Only the last to end and the first that go on have a line, and the sum knows all of them."""
    board, request = Board(), ImageToVideo(image=LINK)
    for number in range(5000):
        key = f"key-{number:016}"
        board.take(Submitting(idempotency_key=key, request=request))
        if number % 2:
            error = InvalidRequestError(["no"])
            board.take(SubmissionFailed(idempotency_key=key, error=error))
    assert len(board.lines) == MOST_ROWS
    assert board.summary.startswith("2,500 failed, 2,500 going on, ")
    assert len(board._rows) == 2500 + MOST_ROWS


def test_a_notebooks_page_escapes_texts() -> None:
    """Prompts are your users' text: nothing of them is markup."""
    board = Board()
    request = ImageToVideo(image=LINK, prompt="<img src=x onerror=alert(1)>")
    board.take(Submitting(idempotency_key="k" * 16, request=request))
    assert "<img" not in page(board)
    assert "&lt;img src=x" in page(board)
    assert "<progress max='100' value='0'" in page(board)


@pytest.mark.slow
async def test_a_notebook_is_drawn_a_few_times_a_second_however_much_happens(
    sandbox: Sandbox, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred changes at once are one message to the browser, and the last one is never lost."""
    drawn: list[str] = []

    class Shown:
        def update(self, html: object) -> None:
            drawn.append(html.data)  # type: ignore[attr-defined]

    monkeypatch.setattr(_progress, "in_notebook", lambda: True)
    monkeypatch.setattr(_progress, "REDRAW_SECONDS", 60.0)
    monkeypatch.setattr("IPython.display.display", lambda *args, **how: Shown())
    with session.progress():
        await asyncio.gather(*(session.submit(LINK, seed=seed) for seed in range(1, 101)))
        assert drawn == []
    assert len(drawn) == 1
    assert "100 going on" in drawn[0]
