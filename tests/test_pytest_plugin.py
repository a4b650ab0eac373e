"""The fixtures for users' tests, used as a user's project uses them:
in a pytest run of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = "happyhorse_async.pytest_plugin"
ROOT = Path(__file__).parents[1]

USERS_TESTS = '''
import urllib.request

import pytest


def test_a_plain_test(happyhorse_sandbox):
    """Not async at all."""
    request = urllib.request.Request(
        happyhorse_sandbox.url + "/v1/credits",
        headers={"Authorization": "Bearer " + happyhorse_sandbox.key},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    assert happyhorse_sandbox.count("GET", "/v1/credits") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_session(happyhorse_sandbox, happyhorse_session, tmp_path):
    """From an image to a saved video, with the money counted."""
    cat = "https://cdn.example.com/cat.png"
    video = await happyhorse_session.generate(cat, save_to=tmp_path / "cat.mp4")
    assert (tmp_path / "cat.mp4").read_bytes()[4:8] == b"ftyp"
    assert happyhorse_sandbox.paid == 1


@pytest.mark.happyhorse_sandbox(credits=0, task_seconds=60)
def test_a_marked_one(happyhorse_sandbox):
    """The marker's arguments are the sandbox's."""
    request = urllib.request.Request(
        happyhorse_sandbox.url + "/v1/credits",
        headers={"Authorization": "Bearer " + happyhorse_sandbox.key},
    )
    with urllib.request.urlopen(request) as answer:
        assert b'"remaining_credits":0.0' in answer.read()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio", ("trio", {}), "asyncio"])
async def test_another_loop(happyhorse_session):
    """Only asyncio can run it."""
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


def pytest_of(folder: Path, tests: str, *options: str) -> str:
    """Run a user's tests in a project that has nothing else; return what pytest says of them."""
    (folder / "test_users.py").write_text(tests)
    # Only the plugins that matter: others take seconds to load.
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "--strict-markers", "-W", "error"]
    command += ["-p", "no:cacheprovider", "-p", "anyio", "-p", PLUGIN]
    done = subprocess.run(
        [*command, *options, "test_users.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_users_project_can_use_the_fixtures(tmp_path: Path) -> None:
    """A plain test, an async one with a session, and a marked one pass in a project that has
    nothing but pytest. Where anyio also runs tests on trio, those are skipped with the reason.
    """
    said = pytest_of(tmp_path, USERS_TESTS, *NO_ASYNCIO)
    assert "4 passed, 2 skipped" in said
    assert "a happyhorse session is for asyncio and cannot run on trio" in said


NO_ASYNCIO: list[str] = []
WITH_ASYNCIO = ["-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"]
STRICT = ["-o", "asyncio_mode=strict", *WITH_ASYNCIO]
AUTO = ["-o", "asyncio_mode=auto", *WITH_ASYNCIO]

ASYNC_TESTS = '''
MARK
async def test_a_video_NUMBER(happyhorse_sandbox, happyhorse_session, tmp_path):
    """From an image to a saved video, with the money counted."""
    await happyhorse_session.generate(LINK, save_to=tmp_path / "cat.mp4")
    assert happyhorse_sandbox.paid == 1
    await happyhorse_session.submit(LINK)  # there may be work in the background when the test ends

MARK
async def test_another_NUMBER(happyhorse_session):
    """Nothing of the test before is left in a loop that is shared."""
    mine = [task for task in asyncio.all_tasks() if "happyhorse" in task.get_name()]
    assert mine == []
    assert (await happyhorse_session.credits()).remaining > 0
'''

PLAIN_TESTS = '''
import asyncio

import pytest

LINK = "https://cdn.example.com/cat.png"


def test_a_plain_one(happyhorse_session):
    """A test may bring its own loop."""
    assert asyncio.run(happyhorse_session.credits()).remaining > 0


def test_one_that_does_not_use_its_session(happyhorse_session):
    """A session that never opened is no trouble."""


class TestALoopThatStays:
    """The session is closed in a loop that stands still."""

    def test_it_is_open(self, happyhorse_session):
        """Its loop is still there when the test ends."""
        self.__class__.runner = asyncio.Runner()
        assert self.runner.run(happyhorse_session.credits()).remaining > 0

    def test_it_was_closed(self):
        """Nothing of the session is left in it."""
        loop = self.runner.get_loop()
        assert not [task for task in asyncio.all_tasks(loop) if "happyhorse" in task.get_name()]
        self.runner.close()
'''

ANYIO = '@pytest.mark.anyio\n@pytest.mark.parametrize("anyio_backend", ["asyncio"])'
ASYNCIO = "@pytest.mark.asyncio"
SHARED_LOOP = '@pytest.mark.asyncio(loop_scope="module")'


@pytest.mark.parametrize(
    ("options", "marks"),
    [
        pytest.param(STRICT, [ASYNCIO, SHARED_LOOP, ANYIO], id="strict"),
        pytest.param(AUTO, ["", ASYNCIO], id="auto", marks=pytest.mark.slow),
        pytest.param(NO_ASYNCIO, [ANYIO], id="anyio", marks=pytest.mark.slow),
    ],
)
def test_a_session_works_with_every_runner_of_async_tests(
    tmp_path: Path, options: list[str], marks: list[str]
) -> None:
    """Whatever runs a test, a session opens in the test's loop and is closed in it: pytest-asyncio
    in both modes and with a shared loop, anyio's plugin, and a plain test with its own loop.
    """
    if options is not NO_ASYNCIO:
        pytest.importorskip("pytest_asyncio")
    tests = PLAIN_TESTS
    for number, mark in enumerate(marks):
        tests += ASYNC_TESTS.replace("MARK", mark).replace("NUMBER", str(number))
    assert f"{4 + 2 * len(marks)} passed" in pytest_of(tmp_path, tests, *options)


SHARED = '''
import pytest

LINK = "https://cdn.example.com/cat.png"
pytestmark = [pytest.mark.asyncio, pytest.mark.happyhorse_sandbox(credits=500)]


@pytest.mark.parametrize("number", [1, 2])
async def test_the_same_account(happyhorse_sandbox, happyhorse_session, number):
    """Each test has its own session, and pays into the same ledger."""
    await happyhorse_session.submit(LINK, seed=number)
    assert happyhorse_sandbox.paid == number
'''


@pytest.mark.parametrize("scope", ["module", pytest.param("session", marks=pytest.mark.slow)])
def test_a_sandbox_can_be_shared(tmp_path: Path, scope: str) -> None:
    """One setting makes the sandbox that of a module or of the whole run."""
    pytest.importorskip("pytest_asyncio")
    options = ("-o", f"happyhorse_sandbox_scope={scope}", *STRICT)
    assert "2 passed" in pytest_of(tmp_path, SHARED, *options)


OVERRIDDEN = (
    """
import pytest
from happyhorse_async.sandbox import Sandbox


@pytest.fixture(scope="module")
def happyhorse_sandbox():
    with Sandbox(video="stub", task_seconds=0) as sandbox:
        yield sandbox
"""
    + SHARED
)


@pytest.mark.slow
def test_a_sandbox_can_be_replaced(tmp_path: Path) -> None:
    """A project's own fixture of that name is used, whatever its scope."""
    pytest.importorskip("pytest_asyncio")
    assert "2 passed" in pytest_of(tmp_path, OVERRIDDEN, *STRICT)


REFUSED = '''
import pytest


@pytest.mark.happyhorse_sandbox(credits=0)
def test_it(happyhorse_sandbox):
    """Its arguments come too late."""
'''


def test_a_shared_sandbox_takes_no_arguments_from_one_test(tmp_path: Path) -> None:
    """They would be ignored, or be everybody's: the test fails and says so."""
    said = pytest_of(tmp_path, REFUSED, *NO_ASYNCIO, "-o", "happyhorse_sandbox_scope=session")
    assert "its sandbox is shared" in said
    assert "1 error" in said


THREADS = '''
import asyncio
import threading

import pytest


@pytest.fixture
def app():
    """An event loop in a thread, as a `TestClient` has it: it ends after the session."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(100)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_an_app(app, happyhorse_sandbox, happyhorse_session):
    """The app submits in its own loop."""
    app(happyhorse_session.submit("https://cdn.example.com/cat.png"))
    assert happyhorse_sandbox.paid == 1


@pytest.mark.happyhorse_sandbox({"credits": 0})
def test_arguments_without_names(happyhorse_sandbox):
    """It must not run with all its credits."""
'''


def test_a_session_whose_loop_runs_in_a_thread_is_closed(tmp_path: Path) -> None:
    """An app that is under test runs in a loop of its own, which may end after the session. And
    arguments of the marker that would be passed over are refused.
    """
    said = pytest_of(tmp_path, THREADS, *NO_ASYNCIO)
    assert "1 passed, 1 error" in said, said
    assert "takes arguments by name" in said
