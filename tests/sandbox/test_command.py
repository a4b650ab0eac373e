"""The sandbox as a command: what it says, what it takes, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Sandbox
from happyhorse_async.sandbox.__main__ import main
from happyhorse_async.sandbox._faults import ACTIONS, fault_of, fault_of_line


@pytest.fixture
def served() -> Iterator[subprocess.Popen[str]]:
    """The sandbox as a command, on free ports."""
    command = [sys.executable, "-m", "happyhorse_async.sandbox", "--port", "0", "--files-port", "0"]
    command += ["--video", "stub", "--speed", "60", "--scenario", "429-storm"]
    command += ["--fault", "refuse status=418 path=/v1/credits after=1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        command, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes
    ) as process:
        yield process
        process.kill()


def test_the_command_says_what_to_export_and_logs_requests(served: subprocess.Popen[str]) -> None:
    """Three exports, then a line for each request, its faults strike,
    and SIGINT ends it cleanly.
    """
    assert served.stdout is not None
    exports = dict(
        served.stdout.readline().removeprefix("export ").strip().split("=") for _ in range(3)
    )
    assert set(exports) == {"EVOLINK_API_KEY", "EVOLINK_BASE_URL", "EVOLINK_FILES_BASE_URL"}
    assert "60 times real time" in served.stdout.readline()
    assert asyncio.run(read_credits(exports)) == [200, 418]
    assert served.stderr is not None
    line = served.stderr.readline()
    assert "GET" in line
    assert "/v1/credits  ->  200 OK" in line
    served.send_signal(signal.SIGINT)
    assert served.wait(100) == 0


async def read_credits(exports: dict[str, str]) -> list[int]:
    """Ask the served sandbox for the credits, twice, and return the statuses."""
    headers = {"Authorization": f"Bearer {exports['EVOLINK_API_KEY']}"}
    url, statuses = exports["EVOLINK_BASE_URL"] + "/v1/credits", []
    async with aiohttp.ClientSession() as http:
        for _ in range(2):
            async with http.get(url, headers=headers) as answer:
                statuses.append(answer.status)
    return statuses


def test_a_command_that_cannot_start_says_why() -> None:
    """The exit code is 2, and the message one line that names the port which is taken."""
    with Sandbox(video="stub") as sandbox:
        port = sandbox.url.rpartition(":")[2]
        command = [
            sys.executable,
            "-m",
            "happyhorse_async.sandbox",
            "--port",
            port,
            "--video",
            "stub",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("the sandbox cannot start: ")
    assert f"port {port} of 127.0.0.1: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("late-link", ("late-link", 1, {})),
        ("late-link seconds=20 times=null", ("late-link", None, {"seconds": 20})),
        ("late-link times=3 status=403", ("late-link", 3, {"status": 403})),
        ("refuse body='<h1>out of order</h1>'", ("refuse", 1, {"body": "<h1>out of order</h1>"})),
        ('{"action": "tail", "details": {"kind": "nuls"}}', ("tail", 1, {"kind": "nuls"})),
        ("odd-number value=NaN fields='[\"progress\"]'", ("odd-number", 1, None)),
    ],
)
def test_a_fault_is_one_line(line: str, expected: tuple[str, int | None, Any]) -> None:
    """Action, conditions and details as words; values are JSON or text."""
    fault = fault_of_line(line)
    action, times, details = expected
    assert (fault.action, fault.times) == (action, times)
    assert details is None or fault.details == details


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "no such fault: ''"),
        ("late-links", "no such fault: 'late-links'"),
        ("late-link 20", "'20' is not name=value"),
        ("late-link second=20", "late-link takes seconds, status, not second"),
        ("late-link seconds=soon", "must be a number of seconds"),
        ('{"action": "tail", "kind": "nuls"}', "a fault has no kind; details are in `details`"),
        ('{"action": "tail", "details": {"times": 1}}', "times stands beside `details`"),
        ('{"action": "tail", "details": []}', "details must be an object"),
    ],
)
def test_a_line_that_is_no_fault_says_what_is_wrong(line: str, reason: str) -> None:
    """A misspelt detail is never a fault without it."""
    with pytest.raises(ValueError) as caught:
        fault_of_line(line)
    assert reason in str(caught.value)


def test_the_command_shows_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """With its details and what it does, and then ends."""
    assert main(["--list-faults"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}" in shown and action.summary in shown for name, action in ACTIONS.items())
    assert "late-link seconds= status=" in shown


def test_the_command_refuses_a_wrong_fault_before_it_listens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code is 2, and the line says why."""
    assert main(["--port", "0", "--files-port", "0", "--fault", "explode"]) == 2
    assert "no such fault: 'explode'" in capsys.readouterr().err


def test_a_fault_of_json_is_the_same_fault() -> None:
    """The control path's object and the command's line mean the same."""
    told = {"action": "late-link", "probability": 0.5, "details": {"seconds": 3}}
    one, two = fault_of(told), fault_of_line("late-link probability=0.5 seconds=3")
    assert (one.probability, one.times, one.details) == (two.probability, two.times, two.details)
