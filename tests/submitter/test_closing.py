"""A session that closes or is cancelled while money is on its way: whoever paid is told, and
nothing stays open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from happyhorse_async import AuthenticationError, Session, SessionClosedError
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import QUICK_POLLING, QUICK_RETRY, open_session

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
LINK = "https://cdn.example.com/cat.png"


async def arrived(sandbox: Sandbox) -> None:
    """Wait until a submission is at the service."""
    while not sandbox.count("POST", SUBMIT):
        await asyncio.sleep(0)


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A sandbox in which submissions take a moment, and tasks do not end."""
    async with Sandbox(video="stub", speed=0) as sandbox:
        sandbox.fail(Fault("slow", path=SUBMIT, seconds=0.2))
        yield sandbox


async def test_generate_while_the_session_closes_says_what_was_paid(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The submission is finished under the shield; its caller gets the id and the key, and the task
    is among the orphans.
    """
    session = Session(
        sandbox.key,
        base_url=sandbox.url,
        files_url=sandbox.files_url,
        retry=QUICK_RETRY,
        polling=QUICK_POLLING,
    )
    work = asyncio.create_task(session.generate(LINK, save_to=tmp_path / "cat.mp4"))
    await arrived(sandbox)
    await session.aclose()
    with pytest.raises(SessionClosedError) as caught:
        await work
    (paid,) = sandbox.tasks
    assert (caught.value.charged, caught.value.task_id) == ("yes", paid.id)
    assert [(orphan.task_id, orphan.idempotency_key) for orphan in session.orphans] == [
        (paid.id, caught.value.idempotency_key)
    ]


async def test_submit_with_callbacks_while_the_session_closes_gives_the_task(
    sandbox: Sandbox,
) -> None:
    """Nothing that comes after the acceptance can take the task from whoever paid for it."""
    session = Session(
        sandbox.key,
        base_url=sandbox.url,
        files_url=sandbox.files_url,
        public_url="http://127.0.0.1:9/hooks",
    )
    work = asyncio.create_task(session.submit(LINK))
    await arrived(sandbox)
    await session.aclose()
    assert (await work).id == sandbox.tasks[0].id


async def test_a_wait_that_is_refused_says_that_the_task_is_paid(anyio_backend: str) -> None:
    """A key that stops working after the payment does not make the payment undone."""
    async with Sandbox(video="stub", speed=0) as sandbox, open_session(sandbox) as session:
        task = await session.submit(LINK)
        sandbox.fail(
            Fault(
                "refuse",
                path="/v1/tasks",
                status=401,
                body={"error": {"code": "unauthorized"}},
                times=None,
            )
        )
        with pytest.raises(AuthenticationError) as caught:
            await task.wait()
        assert (caught.value.charged, caught.value.task_id) == ("yes", task.id)
        assert caught.value.idempotency_key == task.idempotency_key


async def test_a_cancelled_close_still_closes_all(sandbox: Sandbox) -> None:
    """Leaving a session in a cancelled scope, or giving up on its close, leaves neither connections
    nor background work.
    """
    with anyio.CancelScope() as scope:
        async with open_session(sandbox) as session:
            task = await session.submit(LINK)
            waiting = asyncio.create_task(task.wait())
            await asyncio.sleep(0)
            parts = session._open()
            scope.cancel()
    assert scope.cancelled_caught or scope.cancel_called
    assert parts.http._client.closed
    assert len(parts.background) == 0
    with pytest.raises(SessionClosedError):
        await waiting
