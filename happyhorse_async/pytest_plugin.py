"""Fixtures for users' own tests: a sandbox of the service, and a session that speaks to it.

    @pytest.mark.anyio  # or pytest.mark.asyncio, or neither in pytest-asyncio's auto mode
    async def test_my_code(happyhorse_sandbox, happyhorse_session, tmp_path):
        cat = "https://cdn.example.com/cat.png"
        await happyhorse_session.generate(cat, save_to=tmp_path / "cat.mp4")
        assert happyhorse_sandbox.paid == 1

Mark a test with `happyhorse_sandbox(...)` to pass arguments to its `Sandbox`. Each test has a
sandbox of its own, unless the setting `happyhorse_sandbox_scope` is "module" or "session", say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._session import Session
    from .sandbox import Sandbox

__all__ = [
    "happyhorse_sandbox",
    "happyhorse_session",
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_setup",
]

MARKER = "happyhorse_sandbox"
SCOPE = "happyhorse_sandbox_scope"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Make the setting known."""
    parser.addini(
        SCOPE,
        "which tests share a sandbox: function (none, the default), class, module, package, "
        "session",
        default="function",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{MARKER}(**arguments): arguments for the test's Sandbox")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse arguments that a shared sandbox could not take any more."""
    scope = item.config.getini(SCOPE)
    if scope != "function" and any(mark.name == MARKER for mark in item.own_markers):
        pytest.fail(f"its sandbox is shared ({SCOPE} = {scope}): mark the module instead", False)


def _scope(fixture_name: str, config: pytest.Config) -> Any:
    return config.getini(SCOPE)


@pytest.fixture(scope=_scope)
def happyhorse_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Run a sandbox in a thread of its own: stub videos, and tasks that complete at once.

    It works with tests of every kind, async or not. Nothing that it charges is real.
    """
    from .sandbox import Sandbox

    arguments: dict[str, Any] = {"video": "stub", "task_seconds": 0}
    for marker in reversed(list(request.node.iter_markers(MARKER))):
        if marker.args:
            pytest.fail(f"{MARKER} takes arguments by name, got {marker.args!r:.200}", False)
        arguments.update(marker.kwargs)
    with Sandbox(**arguments) as sandbox:
        yield sandbox


@pytest.fixture
def happyhorse_session(
    request: pytest.FixtureRequest, happyhorse_sandbox: Sandbox
) -> Iterator[Session]:
    """Make a session to the sandbox; it looks at tasks more eagerly than usual.

    It opens in the event loop in which the test first uses it, and is closed there. So it works
    with anyio's plugin, with pytest-asyncio in both modes, and with `asyncio.run` in a plain test.
    Where anyio runs a test on another event loop than asyncio's, the test is skipped.
    """
    from . import Network, Polling, Session

    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")
        name = backend if isinstance(backend, str) else backend[0]
        if name != "asyncio":
            pytest.skip(f"a happyhorse session is for asyncio and cannot run on {name}")
    eager = Polling(
        target_delay=0.01, min_interval=0.01, max_interval=0.1, max_reads_per_minute=60_000
    )
    session = Session(
        api_key=happyhorse_sandbox.key,
        base_url=happyhorse_sandbox.url,
        files_url=happyhorse_sandbox.files_url,
        polling=eager,
        network=Network(trust_env=False),
    )
    yield session
    _close(session)


def _close(session: Session) -> None:
    """Close a session between two runs of its event loop, after the last one, or while it runs in
    another thread, as that of a `TestClient` does.
    """
    import asyncio  # late: every run of pytest loads this module

    from ._concurrency import without_loop

    parts = session._parts
    closing = session.aclose()
    if parts is None or parts.loop.is_closed():
        without_loop(closing)
    elif parts.loop.is_running():
        here = asyncio.new_event_loop()
        try:
            here.run_until_complete(closing)
        finally:
            here.close()
    else:
        parts.loop.run_until_complete(closing)
