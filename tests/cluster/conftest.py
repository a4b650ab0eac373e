"""A database server for the tests of clusters, one a test process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from happyhorse_async.sandbox import Sandbox
from tests.cluster.support import Postgres, binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; where none is installed its tests are skipped, but not in CI."""
    if binaries() is None and "HAPPYHORSE_NEED_POSTGRES" not in os.environ:
        pytest.skip("PostgreSQL is not installed")
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The link to a new database."""
    return postgres.database()


@pytest.fixture
async def service(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service in this process, in real time, for workers in others."""
    async with Sandbox(video="stub", task_seconds=0.5, speed=1) as sandbox:
        yield sandbox


@pytest.fixture
async def quick(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service whose tasks take an instant, for workers in this process."""
    async with Sandbox(video="stub", task_seconds=0.05, speed=1) as sandbox:
        yield sandbox
