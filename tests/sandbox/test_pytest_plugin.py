"""The fixtures for users' tests, used as a user's project uses them: in a pytest run of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

PLUGIN = "happyhorse_async.pytest_plugin"
ROOT = Path(__file__).parents[2]

USERS_TESTS = '''
import urllib.request

import pytest


def test_a_plain_test(happyhorse_sandbox):
    """Not async at all."""
    request = urllib.request.Request(
        happyhorse_sandbox.url + "/v1/credits", headers={"Authorization": "Bearer " + happyhorse_sandbox.key}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    assert happyhorse_sandbox.count("GET", "/v1/credits") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_session(happyhorse_sandbox, happyhorse_session, tmp_path):
    """From an image to a saved video, with the money counted."""
    video = await happyhorse_session.generate("https://cdn.example.com/cat.png", save_to=tmp_path / "cat.mp4")
    assert (tmp_path / "cat.mp4").read_bytes()[4:8] == b"ftyp"
    assert happyhorse_sandbox.paid == 1


@pytest.mark.happyhorse_sandbox(credits=0, task_seconds=60)
def test_a_marked_one(happyhorse_sandbox):
    """The marker's arguments are the sandbox's."""
    request = urllib.request.Request(
        happyhorse_sandbox.url + "/v1/credits", headers={"Authorization": "Bearer " + happyhorse_sandbox.key}
    )
    with urllib.request.urlopen(request) as answer:
        assert b'"remaining_credits":0.0' in answer.read()
'''


def test_the_plugin_loads_nothing_heavy() -> None:
    """Every pytest run of whoever installed the package imports the plugin, so it brings three
    small modules and no more.
    """
    script = f"""
import pytest, sys
before = set(sys.modules)
import {PLUGIN}
print(sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(["happyhorse_async", "happyhorse_async._version", PLUGIN])


def test_a_users_project_can_use_the_fixtures(tmp_path: Path) -> None:
    """A plain test, an async one with a session, and a marked one pass in a project that has
    nothing but pytest.
    """
    (tmp_path / "test_users.py").write_text(USERS_TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--strict-markers",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
    ]
    # Installing the package registers the plugin; without that it has to be named.
    installed = any(entry.value == PLUGIN for entry in entry_points(group="pytest11"))
    command += ["test_users.py"] if installed else ["-p", PLUGIN, "test_users.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


OTHER_LOOPS = '''
import pytest


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio", ("trio", {}), "asyncio"])
async def test_a_session(happyhorse_session):
    """Only asyncio can run it."""
'''


def test_a_session_is_skipped_on_other_event_loops(tmp_path: Path) -> None:
    """Where anyio also runs tests on trio, those are skipped with the reason, and nothing fails."""
    (tmp_path / "test_loops.py").write_text(OTHER_LOOPS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "test_loops.py",
    ]
    if not any(entry.value == PLUGIN for entry in entry_points(group="pytest11")):
        command += ["-p", PLUGIN]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 2 skipped" in done.stdout
    assert "a happyhorse session is for asyncio and cannot run on trio" in done.stdout
