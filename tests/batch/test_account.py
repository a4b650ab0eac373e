"""A ledger belongs to an account: another one's key finds none of its tasks, and must not pay for
them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, LedgerError
from happyhorse_async.batch import JobState, Outcome
from happyhorse_async.batch._database import LEDGER_NAME, Database
from happyhorse_async.sandbox import Account, Sandbox
from tests.batch.support import OTHER, OWN, session_of, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service with two customers, whose time stands still."""
    async with Sandbox(
        video="stub", speed=0, task_seconds=5, accounts=[Account(key=OWN), Account(key=OTHER)]
    ) as sandbox:
        yield sandbox


def rows() -> list[ImageToVideo]:
    """Make three requests."""
    return [ImageToVideo(f"https://example.com/{n}.png", duration=3) for n in range(3)]


async def left_running(sandbox: Sandbox, folder: Path) -> None:
    """Begin a batch and leave it with three running tasks."""
    async with session_of(sandbox, OWN) as session, session.batch(folder) as batch:
        first = asyncio.create_task(anext(batch.run(rows())))
        await until(lambda: sandbox.paid == 3)
        while (await batch.totals()).states.get(JobState.RUNNING) != 3:
            await asyncio.sleep(0)
        first.cancel()


async def run(sandbox: Sandbox, folder: Path, key: str) -> list[Outcome]:
    """Run the same input with a key."""
    async with session_of(sandbox, key) as session, session.batch(folder) as batch:
        return [outcome async for outcome in batch.run(rows())]


async def test_another_account(sandbox: Sandbox, tmp_path: Path) -> None:
    """Running tasks are not given up because the wrong key does not know them: the folder is
    refused, and the right key saves them.
    """
    await left_running(sandbox, tmp_path)
    sandbox.finish()
    with pytest.raises(LedgerError, match="another API key") as refused:
        await run(sandbox, tmp_path, OTHER)
    assert refused.value.next_step is not None
    assert [outcome.ok for outcome in await run(sandbox, tmp_path, OWN)] == [True] * 3
    assert sandbox.paid == 3


async def test_finished_folders_are_anybodys(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where nothing is unfinished another account's key costs nothing, and its folder is still
    bound to it afterwards.
    """
    await left_running(sandbox, tmp_path)
    sandbox.finish()
    await run(sandbox, tmp_path, OWN)
    assert [outcome.resumed for outcome in await run(sandbox, tmp_path, OTHER)] == [True] * 3
    assert sandbox.paid == 3


async def test_a_rotated_key(sandbox: Sandbox, tmp_path: Path) -> None:
    """A new key of the same account, which knows the tasks, goes on."""
    await left_running(sandbox, tmp_path)
    ledger = Database(tmp_path / LEDGER_NAME)
    # As a key that was replaced since leaves it.
    ledger.apply([], [lambda database: database.set_fact("account", "the digest of an older key")])
    ledger.close()
    sandbox.finish()
    assert [outcome.ok for outcome in await run(sandbox, tmp_path, OWN)] == [True] * 3
    assert sandbox.paid == 3


async def test_the_key_itself_is_not_kept(sandbox: Sandbox, tmp_path: Path) -> None:
    """The folder can be given away: no file in it holds the key."""
    await left_running(sandbox, tmp_path)
    assert not [path for path in tmp_path.iterdir() if OWN.encode() in path.read_bytes()]
