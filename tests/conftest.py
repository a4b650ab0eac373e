"""Fixtures that every test may use: the sandbox on a clock moved by hand, and a session wired to
it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from happyhorse_async import Polling, RetryPolicy, Session
from happyhorse_async._submitter.shared import _SESSIONS
from happyhorse_async.sandbox import Sandbox

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Whoever starts the tests in the background of a script has them, and all processes that they
    # start, be deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if os.name == "posix" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the same for `nohup`

ALL_SLOW = re.compile(
    r"^pytestmark = (\[\s*)?(pytest\.mark\.anyio,\s*)?pytest\.mark\.slow\b", re.MULTILINE
)

if os.name != "posix":  # terminals, signals to processes, and limits of files as POSIX has them
    collect_ignore_glob = ["cli/*", "cluster/*", "batch/test_ledger_file.py"]
    collect_ignore_glob += ["downloader/test_links.py", "downloader/test_ends.py"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of slow tests are not even imported when nobody wants these: what they need may not be
    installed.
    """
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return ALL_SLOW.search(collection_path.read_text()) is not None or None


# No test depends on how fast the machine is, or on what else it does meanwhile. Where `.ci/run`
# counts branches, each property is tried with many more examples: `--hypothesis-profile thorough`.
UNHURRIED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("quick", max_examples=40, **UNHURRIED)
hypothesis.settings.register_profile("thorough", max_examples=300, **UNHURRIED)
hypothesis.settings.load_profile("quick")

PHOTOS = Path(__file__).parent.parent / "happyhorse_async" / "sandbox" / "photos"

QUICK_POLLING = Polling(
    target_delay=0.01, min_interval=0.01, max_interval=0.05, max_reads_per_minute=1_000_000
)
QUICK_RETRY = RetryPolicy(first_pause=0.01, longest_pause=0.05)


@pytest.fixture
def anyio_backend() -> str:
    """The package is for asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def nobody_else() -> None:
    """Forget the sessions of earlier tests: their sandbox may have had the same port, and what they
    left in doubt a moment ago could still become a task there.
    """
    _SESSIONS.clear()


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service on loopback; its time stands still until a test moves it."""
    async with Sandbox(video="stub", speed=0) as sandbox:
        yield sandbox


def open_session(sandbox: Sandbox, **settings: object) -> Session:
    """Make a session wired to a sandbox, quick to poll and to retry unless
    a test says otherwise.
    """
    defaults: dict[str, object] = {
        "base_url": sandbox.url,
        "files_url": sandbox.files_url,
        "polling": QUICK_POLLING,
        "retry": QUICK_RETRY,
    }
    return Session(sandbox.key, **{**defaults, **settings})  # type: ignore[arg-type]


@pytest.fixture
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    """A session wired to the sandbox."""
    async with open_session(sandbox) as session:
        yield session


@pytest.fixture
def cat() -> Path:
    """A photograph that satisfies the service's rules."""
    return PHOTOS / "cat.jpg"


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
