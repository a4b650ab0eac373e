"""Signals and `--limit` with real processes: what is submitted after a signal, what is finished,
and what the same line then does.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happyhorse_async.sandbox import Sandbox
from happyhorse_async.sandbox._service import RequestRecord
from tests.batch.support import ROOT, until, write_manifest
from tests.cli.test_batch import happyhorse, start

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROWS = 12
IN_FLIGHT = 3


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service whose time stands still until a test lets its tasks end."""
    async with Sandbox(video="stub", speed=0, task_seconds=1) as sandbox:
        yield sandbox


@pytest.fixture
def line(tmp_path: Path) -> tuple[object, ...]:
    """The command of most tests; its videos go to `out`."""
    manifest = write_manifest(tmp_path / "in", links=ROWS - 1, files=1)
    return ("run", manifest, "--out", tmp_path / "out", "--yes", "--max-in-flight", IN_FLIGHT)


def videos(out: Path) -> set[str]:
    """Give the names of the videos in a folder."""
    return {path.name for path in out.glob("*.mp4")}


async def made_by_the_same_line(sandbox: Sandbox, line: tuple[object, ...], out: Path) -> None:
    """Run the line again, to the end: a video for every row, each one paid once."""
    sandbox.speed = 1000
    code, _, err = await happyhorse(sandbox, *line)
    assert (code, sandbox.paid, len(videos(out))) == (0, ROWS, ROWS), err
    assert all(task.status == "completed" for task in sandbox.tasks)


async def heard(process: asyncio.subprocess.Process) -> None:
    """Wait until the command has said that it stops."""
    assert process.stderr is not None
    async with asyncio.timeout(100):
        await process.stderr.readuntil(b"stopping: nothing new is submitted")


async def ended(process: asyncio.subprocess.Process) -> str:
    """Wait for the end of a command and give what it said."""
    async with asyncio.timeout(100):
        _, err = await process.communicate()
    return err.decode()


async def test_limit(sandbox: Sandbox, tmp_path: Path, line: tuple[object, ...]) -> None:
    """--limit submits the first rows of the table only, in its order, and a larger one later only
    what is new.
    """
    sandbox.speed = 1000
    first = ["local 0", *[f"https://example.com/{n}.png" for n in range(ROWS)]]
    for limit in (4, 6):
        code, _, err = await happyhorse(sandbox, *line, "--limit", limit)
        assert (code, sandbox.paid, len(videos(tmp_path / "out"))) == (0, limit, limit), err
        assert {
            task.request.get("prompt") or task.request["image_urls"][0] for task in sandbox.tasks
        } == set(first[:limit])
    code, _, err = await happyhorse(sandbox, *line, "--limit", 0)
    assert (code, sandbox.paid, "--limit" in err) == (2, 6, True)
    await made_by_the_same_line(sandbox, line, tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_first_signal(
    sandbox: Sandbox, tmp_path: Path, line: tuple[object, ...], number: int
) -> None:
    """Nothing is submitted after it, what is paid is saved, the sentence that resumes is said, and
    that line makes the others.
    """
    process = await start(sandbox, *line)
    await until(lambda: sandbox.paid == IN_FLIGHT)
    process.send_signal(number)
    await heard(process)
    sandbox.finish()  # had it not been heard, each end would make room for a new submission
    err = await ended(process)
    assert (process.returncode, sandbox.paid) == (130, IN_FLIGHT), err
    assert len(videos(tmp_path / "out")) == IN_FLIGHT
    assert (
        f"To go on, run the same line again (happyhorse batch ... --out {tmp_path / 'out'})" in err
    )
    await made_by_the_same_line(sandbox, line, tmp_path / "out")


@pytest.mark.parametrize(
    "numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)]
)
async def test_the_second_signal(
    sandbox: Sandbox, tmp_path: Path, line: tuple[object, ...], numbers: tuple[int, int]
) -> None:
    """It ends the process at once, while tasks are being made; the same line again fetches them,
    and pays only for the other rows.
    """
    process = await start(sandbox, *line)
    await until(lambda: sandbox.paid == IN_FLIGHT)
    process.send_signal(numbers[0])
    await heard(process)
    process.send_signal(numbers[1])
    err = await ended(process)
    assert (process.returncode, sandbox.paid, videos(tmp_path / "out")) == (130, IN_FLIGHT, set())
    assert (
        "What is paid is not lost: run the same line again "
        f"(happyhorse batch ... --out {tmp_path / 'out'})" in err
    )
    await made_by_the_same_line(sandbox, line, tmp_path / "out")


async def test_two_signals_in_the_middle_of_everything(
    sandbox: Sandbox, tmp_path: Path, line: tuple[object, ...]
) -> None:
    """With videos saved, others on their way, and a submission that is just being answered: none is
    lost, none is paid twice.
    """
    for paid in (2, 5, 9):
        sandbox.speed = 1000
        process = await start(sandbox, *line)
        stop_at(sandbox, paid, process)
        await heard(process)
        process.send_signal(signal.SIGINT)
        err = await ended(process)
        assert (process.returncode, "Traceback" in err) == (130, False), err
        assert sandbox.paid < ROWS
    await made_by_the_same_line(sandbox, line, tmp_path / "out")


def stop_at(sandbox: Sandbox, paid: int, process: asyncio.subprocess.Process) -> None:
    """Send a signal before the n-th task's id is told; from then on time stands still, so that the
    process cannot come to its end.
    """

    def watch(record: RequestRecord) -> None:
        if record.method == "POST" and sandbox.paid >= paid:
            sandbox.watch_requests(None)
            sandbox.speed = 0
            process.send_signal(signal.SIGINT)

    sandbox.watch_requests(watch)


async def test_a_sandbox_of_its_own_ends_with_the_command(
    tmp_path: Path, line: tuple[object, ...]
) -> None:
    """With --sandbox the second signal ends the tasks too, so nothing is promised of them."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "tests.cli.quick",
            "batch",
            *map(str, line),
            "--sandbox",
            "--speed",
            "0.001",
            "--json",
        ),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(100):
        while json.loads(await process.stdout.readline()).get("state") != "running":
            pass
        process.send_signal(signal.SIGINT)
        said = await process.stderr.readuntil(b"Once more")
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, b"stopped at once" in err) == (130, True), err
    assert b"lost" not in said + err
    assert b"same line again" not in said + err
