"""Printing never ends paid work, and no text of others steers the terminal."""

from __future__ import annotations

import io
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async.cli import _console
from happyhorse_async.cli._display import Display
from happyhorse_async.errors import IncompleteDownloadError
from happyhorse_async.events import Event, Retrying
from happyhorse_async.sandbox import Fault, Sandbox
from tests.cli.process import LINK, PHOTOS, happyhorse, start
from tests.forks import stop_reading

IMAGE = (PHOTOS / "cat.jpg").read_bytes()
ESCAPES = ("\x1b]", "\x1b[1A", "\x07")


@pytest.fixture
async def world(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service in the test's process, for a command in another one."""
    async with Sandbox(video="stub", task_seconds=4, speed=20) as sandbox:
        yield sandbox


@given(st.text())
def test_what_is_printed_steers_nothing(text: str) -> None:
    """Whatever is said: no control character but the newlines of our own is left in it."""
    shown = _console.harmless(text)
    assert all(line.isprintable() or not line.isascii() for line in shown.split("\n"))
    assert not any(character in shown for character in "\x1b\r\x07\u202e\ud800")


def test_a_stream_without_a_reader_takes_everything() -> None:
    """Writing to a closed stream, to one that breaks and to none raises nothing."""
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        patient = _console.PatientStream(stream)
        assert patient.write("text") == 4
        patient.flush()
        assert patient.isatty() is False


@pytest.mark.anyio
@pytest.mark.parametrize("command", ["generate", "batch"])
async def test_a_reader_that_goes_away_ends_no_work(
    world: Sandbox, tmp_path: Path, command: str
) -> None:
    """`| head -1`: all videos are made and saved though nobody reads the results any more."""
    images = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, image in enumerate(images):
        image.write_bytes(IMAGE + bytes([number]))
    line = ["generate", *images] if command == "generate" else ["batch", "run", tmp_path]
    process = await start(*line, "--yes", "--json", "--out", "out", cwd=tmp_path, world=world)
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    stop_reading(process)
    err = await process.stderr.read()
    assert await process.wait() == 0, err
    assert (len(list((tmp_path / "out").glob("*.mp4"))), world.paid) == (3, 3)
    assert b"Broken" not in err


@pytest.mark.anyio
async def test_a_full_disk_behind_the_output_ends_no_work(world: Sandbox, tmp_path: Path) -> None:
    """Results that cannot be written are missed with a warning; the video is there."""
    if not os.path.exists("/dev/full"):
        pytest.skip("only Linux has a device that is always full")
    with open("/dev/full", "w") as full:
        process = await start("generate", LINK, "-y", cwd=tmp_path, world=world, stdout=full)
        assert process.stderr is not None
        err = (await process.stderr.read()).decode()
    assert (await process.wait(), world.paid) == (0, 1), err
    assert "the output could not be written" in err
    assert (tmp_path / "videos" / "cat.mp4").exists()


@pytest.mark.anyio
@pytest.mark.parametrize("word", ["--help", "--version"])
async def test_a_page_that_nobody_reads_ends_without_a_traceback(tmp_path: Path, word: str) -> None:
    """`| true` is no failure; a full disk is one, which is said in a sentence."""
    unread, end = os.pipe()
    os.close(unread)
    with open(end, "w") as nobody:
        process = await start(word, cwd=tmp_path, stdout=nobody)
        assert process.stderr is not None
        assert (await process.stderr.read(), await process.wait()) == (b"", 0)
    if not os.path.exists("/dev/full"):
        return
    with open("/dev/full", "w") as full:
        process = await start(word, cwd=tmp_path, stdout=full)
        assert process.stderr is not None
        said = (await process.stderr.read()).decode().splitlines()
    assert await process.wait() == 1
    assert [line.partition(" (")[0] for line in said] == [
        "happyhorse: the output could not be written"
    ]


@pytest.mark.anyio
async def test_a_narrow_encoding_ends_no_work(world: Sandbox, tmp_path: Path) -> None:
    """A code page without a name's characters: JSON stays JSON, and every result is told."""
    names = ["猫の写真.jpg", "two.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(IMAGE)
    ran = await happyhorse(
        *("generate", *names, "-y", "--json"),
        cwd=tmp_path,
        world=world,
        PYTHONIOENCODING="cp1252",
        PYTHONUTF8="0",
    )
    assert ran.code == 0, ran.err
    assert {line["image"] for line in ran.lines()} == set(names)
    shown = await happyhorse(
        *("generate", *names, "-y", "--overwrite"),
        cwd=tmp_path,
        world=world,
        PYTHONIOENCODING="cp1252",
        PYTHONUTF8="0",
    )
    assert (shown.code, len(shown.out.splitlines())) == (0, 2), shown.err


@pytest.mark.anyio
async def test_names_that_are_no_text(world: Sandbox, tmp_path: Path) -> None:
    """A first frame whose name is not UTF-8 becomes a video, and its path a line that holds."""
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes(IMAGE)
    ran = await happyhorse("generate", name, "-y", cwd=tmp_path, world=world)
    assert ran.code == 0, ran.err
    assert (tmp_path / ran.out.removesuffix("\n")).exists()
    folder = tmp_path / os.fsdecode(b"b\xe9")
    kept = await happyhorse("generate", LINK, "-y", "-o", folder, cwd=tmp_path, world=world)
    assert (kept.code, kept.out) == (0, f"{folder}/cat.mp4\n"), kept.err


@pytest.mark.anyio
async def test_texts_of_the_service_are_harmless(world: Sandbox, tmp_path: Path) -> None:
    """A failed task's message with escapes and newlines is spelled out, on one line each."""
    evil = "bad\x1b]0;pwned\x07\x1b[1A\x1b[2K\rmoney spent: no\n  money spent: no"
    world.fail(
        Fault("fail-task", code="content_policy_violation", message=evil, refund=False, times=None)
    )
    for how in ((), ("--json",)):
        ran = await happyhorse("generate", LINK, "-y", *how, cwd=tmp_path, world=world)
        assert ran.code == 1
        assert not any(escape in ran.err for escape in ESCAPES), ran.err
        assert "\n  money spent: no" not in ran.err
        assert not any(escape in ran.out for escape in ESCAPES)
    assert json.loads(ran.out)["error"]["charged"] == "yes"


@pytest.mark.anyio
async def test_a_long_link_names_a_file_that_fits(world: Sandbox, tmp_path: Path) -> None:
    """The last piece of a link may be longer than a name: it is shortened, and paid once."""
    link = "https://cdn.example.com/" + "a" * 300 + ".png"
    ran = await happyhorse("generate", link, "-y", cwd=tmp_path, world=world)
    assert (ran.code, world.paid) == (0, 1), ran.err
    [video] = (tmp_path / "videos").glob("*.mp4")
    assert len(os.fsencode(video.name)) <= 255


@pytest.mark.anyio
async def test_names_and_states_are_no_markup(world: Sandbox, tmp_path: Path) -> None:
    """Brackets in a file's name or in a word of the service's are shown, and end no work."""
    name = "[red][link=x] cat.jpg"
    (tmp_path / name).write_bytes(IMAGE)
    world.fail(Fault("newer-status", status="[/red]done", times=None))
    ran = await happyhorse("generate", name, "-y", cwd=tmp_path, world=world)
    assert "Traceback" not in ran.err
    assert world.paid == 1
    table = ran.err.partition("1 video in")[2]
    assert "[red][link=x] cat.mp4" in table


def test_a_live_display_shows_brackets_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal too: a name, a state and a reason with brackets in them are text."""
    drawn = io.StringIO()
    drawn.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", drawn)

    class Quiet:
        def subscribe(self, *_: object) -> object:
            return lambda: None

    with Display(Quiet()) as display:  # type: ignore[arg-type]
        display.add("[/bold]x.mp4")
        display.status("[/bold]x.mp4", "saved", 100)
        display.status("[/bold]x.mp4", "[/red]odd", 50)
        display.failed("[/bold]x.mp4", "[/]")
    assert "[/bold]x.mp4" in drawn.getvalue()


def test_what_fails_again_and_again_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A file host that is unwell is waited for, for minutes: nobody should have to guess why
    nothing moves. A failure that passes at the next try is not worth a word.
    """

    class Heard:
        def subscribe(self, listener: Callable[[Event], None], *_: object) -> Callable[[], None]:
            self.tell = listener
            return lambda: None

    session, said = Heard(), list[str]()
    with Display(session):  # type: ignore[arg-type]
        for attempt, reason in enumerate(("cut", "503", "503", "503", "503")):
            error = IncompleteDownloadError(reason)
            session.tell(Retrying(what="a video", error=error, pause=8.0, attempt=attempt))
            said.append(capsys.readouterr().err)
    assert said == ["", "", "", "3 times, next try in 8 s: 503\n", ""]
