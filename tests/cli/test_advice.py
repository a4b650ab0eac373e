"""What the command says after a mishap can be typed as it stands, and does not pay twice."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, errors
from happyhorse_async.cli._advice import LINE_BELOW, SAME_LINE, fetch_line, spelled, submit_line
from happyhorse_async.cli._signals import calling_on_signals, heard
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.cli.process import LINK, PHOTOS, ROOT, Ran, happyhorse, start

PYTHON = re.compile(r"\w\(|\w=|session\.|`candidates`|idempotency_key|await |Session")
KEY = "a-key-of-my-own-12345"


@pytest.fixture
async def world(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service in the test's process, for a command in another one."""
    async with Sandbox(video="stub", task_seconds=4, speed=20) as sandbox:
        yield sandbox


def steps() -> Iterator[str]:
    """Give every text in the package that becomes a `next_step`, read from its source."""
    for path in sorted((ROOT / "happyhorse_async").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "next_step":
                yield from texts(node.value)
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.HappyHorseError):
            yield kind.default_next_step


def texts(node: ast.expr) -> Iterator[str]:
    """Give the text of a literal; what is filled in stands as a word."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            part.value if isinstance(part, ast.Constant) else "it" for part in node.values
        )


# These are for programs alone: no command makes such an error.
FOR_PROGRAMS = (
    "public_url",
    "asyncio.run",
    "Make it with",
    "Call it in a coroutine",
    "aiohttp.ClientSession",
    "aclosing",
)


@pytest.mark.parametrize("line", [SAME_LINE, LINE_BELOW])
def test_no_advice_of_a_command_speaks_python(line: str) -> None:
    """Every next step of the package comes out without calls, keywords and names of the library."""
    found = [step for step in steps() if not any(words in step for words in FOR_PROGRAMS)]
    assert len(found) > 50
    spoken = [spelled(step, line) for step in found]
    assert [step for step in spoken if PYTHON.search(step)] == []


def test_a_line_keeps_what_was_asked_for() -> None:
    """The line for a second try has every option that was set, quoted for a shell."""
    request = ImageToVideo("my cat.jpg", prompt="it's alive", duration=9, seed=7, quality="1080p")
    line = submit_line(request, KEY, Path("out/my cat.mp4"), "https://files.example.com/1.png")
    assert shlex.split(line) == [
        *("happyhorse", "generate", "https://files.example.com/1.png", "--prompt", "it's alive"),
        *("--duration", "9", "--quality", "1080p", "--seed", "7"),
        *("--idempotency-key", KEY, "--out", "out/my cat.mp4"),
    ]
    assert "--duration" not in submit_line(ImageToVideo(LINK), KEY, Path("1.mp4"), None)
    line = fetch_line("task-1", Path("my cat.mp4"))
    assert line == "happyhorse tasks download task-1 --out 'my cat.mp4'"


def advised(ran: Ran) -> list[str]:
    """Give the arguments of the one line that an error says to run."""
    [line] = [line for line in ran.err.splitlines() if line.startswith("  run: ")]
    return shlex.split(line)[2:]


@pytest.mark.anyio
async def test_a_lost_answer_is_asked_for_again_by_the_line_that_is_printed(
    world: Sandbox, tmp_path: Path
) -> None:
    """After exit code 4 the printed line gives the video, under its own name, for one payment.

    The local image was uploaded: the line names the upload, so that the body is the same one.
    """
    world.fail(Fault("drop-after", path="/v1/videos", times=None))
    arguments = ("generate", PHOTOS / "cat.jpg", "--yes", "--out", "out")
    ran = await happyhorse(*arguments, cwd=tmp_path, world=world)
    assert (ran.code, world.paid) == (4, 1), ran.err
    assert "cannot be charged twice" in ran.err
    assert PYTHON.search(ran.err.partition("next: ")[2].partition("\n")[0]) is None
    world.clear_faults()
    again = await happyhorse(*advised(ran), "--yes", cwd=tmp_path, world=world)
    assert (again.code, again.out) == (0, "out/cat.mp4\n"), again.err
    assert world.paid == 1


@pytest.mark.anyio
async def test_a_key_of_ones_own_pays_once(world: Sandbox, tmp_path: Path) -> None:
    """The same line with the same --idempotency-key gives the same task; two images need two."""
    line = ("generate", LINK, "--yes", "--idempotency-key", KEY, "--overwrite", "--json")
    first = await happyhorse(*line, cwd=tmp_path, world=world)
    second = await happyhorse(*line, cwd=tmp_path, world=world)
    assert first.lines()[0]["task_id"] == second.lines()[0]["task_id"]
    assert world.paid == 1
    many = await happyhorse("generate", LINK, LINK, "-k", KEY, "-y", cwd=tmp_path, world=world)
    assert (many.code, "is for one image" in many.err, world.paid) == (2, True, 1)


@pytest.mark.anyio
async def test_a_download_that_failed_is_gone_on_with_by_the_line_that_is_printed(
    world: Sandbox, tmp_path: Path
) -> None:
    """The line names the task and the file that it was to have."""
    world.fail(Fault("truncate", fraction=0.5, times=None))
    ran = await happyhorse("generate", LINK, "-y", "-o", "my cat.mp4", cwd=tmp_path, world=world)
    assert ran.code == 1, ran.err
    world.clear_faults()
    fetched = await happyhorse(*advised(ran), cwd=tmp_path, world=world)
    assert (fetched.code, fetched.out, world.paid) == (0, "my cat.mp4\n", 1), fetched.err


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interruption_says_how_to_get_every_video(
    world: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C, a supervisor and a closed terminal: exit code 130, and a line for each paid task."""
    world.speed = 0
    process = await start(
        *("generate", LINK, PHOTOS / "cat.jpg", "-y", "-o", "of mine"), cwd=tmp_path, world=world
    )
    await followed(world, 2)
    process.send_signal(number)
    out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    said = err.decode()
    assert "would pay for all of them again" in said
    world.speed = 20
    lines = [line for line in said.splitlines() if line.startswith("  happyhorse tasks download")]
    assert len(lines) == 2
    for line in lines:
        fetched = await happyhorse(*shlex.split(line)[1:], cwd=tmp_path, world=world)
        assert fetched.code == 0, fetched.err
    names = sorted(path.name for path in (tmp_path / "of mine").glob("*.mp4"))
    assert (names, world.paid) == (["cat-2.mp4", "cat.mp4"], 2)


@pytest.mark.anyio
async def test_an_interruption_in_the_middle_of_a_submission_names_its_key(
    world: Sandbox, tmp_path: Path
) -> None:
    """What has left without an answer is asked for again by a line with its key."""
    world.fail(Fault("hang-after", path="/v1/videos", seconds=60, times=None))
    process = await start("generate", LINK, "-y", "-p", "run", cwd=tmp_path, world=world)
    async with asyncio.timeout(100):
        while not world.paid:
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(100):
        _, err = await process.communicate()
    world.clear_faults()
    [line] = [line for line in err.decode().splitlines() if "--idempotency-key" in line]
    again = await happyhorse(*shlex.split(line)[1:], "-y", cwd=tmp_path, world=world)
    assert (again.code, again.out, world.paid) == (0, "videos/cat.mp4\n", 1), again.err


@pytest.mark.anyio
async def test_no_wait_prints_ids_that_download_takes(world: Sandbox, tmp_path: Path) -> None:
    """--no-wait ends once the tasks are paid; stdout has their ids, stderr the lines to go on."""
    ran = await happyhorse("generate", LINK, "-y", "--no-wait", cwd=tmp_path, world=world)
    [task] = world.tasks
    assert (ran.code, ran.out) == (0, f"{task.id}\n")
    assert f"happyhorse tasks download {task.id} --out videos/cat.mp4" in ran.err
    refused = await happyhorse("generate", LINK, "--no-wait", "--sandbox", cwd=tmp_path)
    assert (refused.code, "end with the command" in refused.err) == (2, True)


@pytest.mark.anyio
async def test_a_line_leads_to_the_same_account(world: Sandbox, tmp_path: Path) -> None:
    """The profile and hosts that a command was given stand in the line that goes on; no key
    does.
    """
    made = await happyhorse(
        *("profile", "set", "mine", "--base-url", world.url, "--files-url", world.files_url),
        cwd=tmp_path,
        stdin=f"{world.key}\n".encode(),
    )
    assert made.code == 0, made.err
    line = ("generate", LINK, "-y", "--no-wait", "--profile", "mine", "--proxy", "-")
    ran = await happyhorse(*line, cwd=tmp_path)
    [said] = [it for it in ran.err.splitlines() if it.startswith("  happyhorse tasks download")]
    assert said.endswith("--profile mine --proxy -")
    assert world.key not in ran.err
    fetched = await happyhorse(*shlex.split(said)[1:], cwd=tmp_path)
    assert (fetched.code, fetched.out, world.paid) == (0, "videos/cat.mp4\n", 1), fetched.err


def test_a_signal_that_is_ignored_stays_so() -> None:
    """`nohup` has SIGHUP ignored: the command does not hear it, and hears the others."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert (signal.SIGHUP in heard(), signal.SIGTERM in heard()) == (False, True)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in heard()


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_every_ending_signal_reaches_the_event_loop(number: signal.Signals) -> None:
    """Each of them makes the call that ends a command in its own way."""
    called = asyncio.Event()
    with calling_on_signals(called.set):
        signal.raise_signal(number)
        async with asyncio.timeout(100):
            await called.wait()


@pytest.mark.anyio
async def test_open_shows_what_was_saved(world: Sandbox, tmp_path: Path) -> None:
    """--open hands each saved video to the platform's own opener."""
    if sys.platform != "linux":
        pytest.skip("the opener of Linux is stood in for")
    opener, told = tmp_path / "bin" / "xdg-open", tmp_path / "told"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\necho "$1" > {told}.new && mv {told}.new {told}\n')
    opener.chmod(0o755)
    path = f"{opener.parent}{os.pathsep}{os.environ['PATH']}"
    ran = await happyhorse("generate", LINK, "-y", "--open", cwd=tmp_path, world=world, PATH=path)
    assert ran.code == 0, ran.err
    async with asyncio.timeout(100):
        while not told.exists():
            await asyncio.sleep(0.01)
    assert told.read_text() == ran.out


@pytest.mark.anyio
async def test_what_is_for_a_batch_is_sent_there(world: Sandbox, tmp_path: Path) -> None:
    """A folder or a quoted pattern is refused before anything is paid, and the way is named."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cat.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    for source in ("in", "in/*.jpg"):
        ran = await happyhorse("generate", source, "-y", cwd=tmp_path, world=world)
        assert (ran.code, f"happyhorse batch run '{source}'" in ran.err) == (2, True), ran.err
    two = await happyhorse("generate", LINK, LINK, "-y", "-o", "a.mp4", cwd=tmp_path, world=world)
    assert (two.code, "one file" in two.err, world.paid) == (2, True, 0)


@pytest.mark.anyio
async def test_without_keys_at_the_service_nothing_is_promised(
    world: Sandbox, tmp_path: Path
) -> None:
    """The advice after a lost answer says on what it depends."""
    world.features = Features(idempotency=False)
    world.fail(Fault("drop-after", path="/v1/videos", times=None))
    ran = await happyhorse("generate", LINK, "--yes", cwd=tmp_path, world=world)
    assert ran.code == 4
    assert "where the service keeps keys" in ran.err


async def followed(world: Sandbox, tasks: int) -> None:
    """Wait until the command has read so many tasks that it has paid."""
    async with asyncio.timeout(100):
        while world.paid < tasks or not (
            world.count("GET", "/v1/tasks") or world.count("POST", "/v1/tasks/batch")
        ):
            await asyncio.sleep(0.01)
