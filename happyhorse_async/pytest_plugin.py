"""Fixtures for users' own tests: a sandbox of the service, and a session that speaks to it.

    @pytest.mark.anyio
    async def test_my_code(happyhorse_sandbox, happyhorse_session):
        await happyhorse_session.generate("cat.png", save_to=tmp_path)
        assert happyhorse_sandbox.paid == 1

Mark a test with `happyhorse_sandbox(...)` to pass arguments to its `Sandbox`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from happyhorse_async.sandbox import Sandbox
    from happyhorse_async.session import Session

__all__ = ["happyhorse_sandbox", "happyhorse_session", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "happyhorse_sandbox(**arguments): arguments for the test's Sandbox")


@pytest.fixture
def happyhorse_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Run a sandbox in a thread of its own for one test: stub videos, and tasks that complete at once.

    It works with tests of every kind, async or not. Nothing that it charges is real.
    """
    from happyhorse_async.sandbox import Sandbox

    arguments: dict[str, Any] = {"video": "stub", "task_seconds": 0}
    for marker in reversed(list(request.node.iter_markers("happyhorse_sandbox"))):
        arguments.update(marker.kwargs)
    with Sandbox(**arguments) as sandbox:
        yield sandbox


@pytest.fixture
async def happyhorse_session(anyio_backend: Any, happyhorse_sandbox: Sandbox) -> AsyncIterator[Session]:
    """Open a session to the test's sandbox, for tests marked `anyio`; it looks at tasks more eagerly than usual."""
    from happyhorse_async import Polling, Session

    eager = Polling(target_delay=0.01, min_interval=0.01, max_interval=0.1, max_reads_per_minute=60_000)
    async with Session(
        api_key=happyhorse_sandbox.key,
        base_url=happyhorse_sandbox.url,
        files_url=happyhorse_sandbox.files_url,
        polling=eager,
    ) as session:
        yield session
