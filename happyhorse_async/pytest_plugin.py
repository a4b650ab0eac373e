"""Fixtures for users' own tests: a sandbox of the service, and a session that speaks to it.

    @pytest.mark.anyio
    async def test_my_code(happyhorse_sandbox, happyhorse_session, tmp_path):
        await happyhorse_session.generate("https://cdn.example.com/cat.png", save_to=tmp_path / "cat.mp4")
        assert happyhorse_sandbox.paid == 1

Mark a test with `happyhorse_sandbox(...)` to pass arguments to its `Sandbox`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ._session import Session
    from .sandbox import Sandbox

__all__ = ["happyhorse_sandbox", "happyhorse_session", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "happyhorse_sandbox(**arguments): arguments for the test's Sandbox"
    )


@pytest.fixture
def happyhorse_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Run a sandbox in a thread of its own for one test: stub videos, and tasks that complete at
    once.

    It works with tests of every kind, async or not. Nothing that it charges is real.
    """
    from .sandbox import Sandbox

    arguments: dict[str, Any] = {"video": "stub", "task_seconds": 0}
    for marker in reversed(list(request.node.iter_markers("happyhorse_sandbox"))):
        arguments.update(marker.kwargs)
    with Sandbox(**arguments) as sandbox:
        yield sandbox


@pytest.fixture
def _asyncio_alone(anyio_backend: Any) -> None:
    """Skip the runs on other event loops, which anyio adds wherever trio is installed. Before the
    loop starts, so no `async`.
    """
    name = anyio_backend if isinstance(anyio_backend, str) else anyio_backend[0]
    if name != "asyncio":
        pytest.skip(f"a happyhorse session is for asyncio and cannot run on {name}")


@pytest.fixture
async def happyhorse_session(
    anyio_backend: Any, _asyncio_alone: None, happyhorse_sandbox: Sandbox
) -> AsyncIterator[Session]:
    """Open a session to the test's sandbox, for tests marked `anyio`; it looks at tasks more
    eagerly than usual.

    On another event loop than asyncio's the test is skipped.
    """
    from . import Polling, Session

    eager = Polling(
        target_delay=0.01, min_interval=0.01, max_interval=0.1, max_reads_per_minute=60_000
    )
    async with Session(
        api_key=happyhorse_sandbox.key,
        base_url=happyhorse_sandbox.url,
        files_url=happyhorse_sandbox.files_url,
        polling=eager,
    ) as session:
        yield session
