"""A large answer to a submission is looked at in a thread. Whatever happens in that moment, the
task is paid for once and known afterwards.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest

from happyhorse_async import Budget, Session, TaskHandle, Timeouts
from happyhorse_async._edges import http
from happyhorse_async._formats.texts import Redactor
from happyhorse_async.sandbox import Sandbox
from tests.conftest import open_session
from tests.submitter import virtual

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
LINK = "https://example.com/frame.png"


class Held:
    """Holds the first look at a task's answer until it is released. All answers count as large."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self._released = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._look = http._harmless
        self._first = True
        monkeypatch.setattr(http, "LARGE", -1)
        monkeypatch.setattr(http, "_harmless", self._held)

    def _held(self, body: bytes, redactor: Redactor) -> bytes:
        if self._first and b"task-unified-" in body:
            self._first = False
            self._loop.call_soon_threadsafe(self.reached.set)
            assert self._released.wait(100)
        return self._look(body, redactor)

    def release(self) -> None:
        """Let the thread go on."""
        self._released.set()


@pytest.fixture
async def held(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Held]:
    """The look at the first answer, which waits."""
    held = Held(monkeypatch)
    yield held
    held.release()


async def cancelled(session: Session, held: Held) -> None:
    """Cancel the caller, twice."""
    caller = asyncio.ensure_future(session.submit(LINK))
    await held.reached.wait()
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
    held.release()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def cancelled_by_a_scope(session: Session, held: Held) -> None:
    """Cancel the caller's scope, which cancels it at every turn."""
    with anyio.CancelScope() as scope:

        async def end() -> None:
            await held.reached.wait()
            scope.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            held.release()

        ending = asyncio.ensure_future(end())
        await session.submit(LINK)
    assert scope.cancelled_caught
    await ending


async def timed_out(session: Session, held: Held) -> None:
    """Let the caller's own time limit strike."""
    limit, loop = asyncio.timeout(None), asyncio.get_running_loop()

    async def submit() -> None:
        async with limit:
            await session.submit(LINK)

    caller = asyncio.ensure_future(submit())
    await held.reached.wait()
    limit.reschedule(loop.time())
    loop.call_later(0.01, held.release)
    with pytest.raises(TimeoutError):
        await caller


WAYS: list[Callable[[Session, Held], Awaitable[None]]] = [
    cancelled,
    cancelled_by_a_scope,
    timed_out,
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_that_goes_away_leaves_an_orphan_with_its_task(
    sandbox: Sandbox, held: Held, way: Callable[[Session, Held], Awaitable[None]]
) -> None:
    """The look is brought to its end, nothing is sent again, and the money stays reserved."""
    async with open_session(sandbox, budget=Budget(credits=1000)) as session:
        await way(session, held)
        [orphan] = session.orphans
        assert orphan.task_id == sandbox.tasks[0].id
        assert session._open().budget.reserved > 0
        assert (await session.submit(LINK, idempotency_key=orphan.idempotency_key)).id == (
            orphan.task_id
        )
        assert (sandbox.count("POST", SUBMIT), sandbox.paid) == (1, 1)


async def test_a_session_that_closes_gives_the_task_to_its_caller(
    sandbox: Sandbox, held: Held
) -> None:
    """Closing waits for the look, as for any answer."""
    session = open_session(sandbox)
    async with session:
        caller = asyncio.ensure_future(session.submit(LINK))
        await held.reached.wait()
        closing = asyncio.ensure_future(session.aclose())
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done()
        held.release()
        await closing
        assert (await caller).id == sandbox.tasks[0].id
    assert (session.orphans, sandbox.count("POST", SUBMIT), sandbox.paid) == ([], 1, 1)


async def test_a_look_that_outlasts_the_shield_is_asked_for_again(
    sandbox: Sandbox, held: Held
) -> None:
    """The same key finds the task while the first look still hangs."""
    async with open_session(sandbox, timeouts=Timeouts(shield=1)) as session:
        caller = asyncio.ensure_future(session.submit(LINK))
        await held.reached.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert [orphan.task_id for orphan in session.orphans] == [sandbox.tasks[0].id]
        assert (sandbox.count("POST", SUBMIT), sandbox.paid) == (2, 1)


def test_an_answer_that_is_whole_is_never_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that comes late, because the program's threads are busy, is waited for.

    A time limit counts until the answer is whole. Sent again, this one would be paid twice where
    the service keeps no keys.
    """

    async def wait() -> None:
        held = Held(monkeypatch)
        async with Sandbox(video="stub") as sandbox, open_session(sandbox) as session:
            caller = asyncio.ensure_future(session.submit(LINK))
            await held.reached.wait()
            asyncio.get_running_loop().call_later(3600, held.release)
            handle: TaskHandle = await caller
            assert (handle.id, sandbox.count("POST", SUBMIT)) == (sandbox.tasks[0].id, 1)

    virtual.run(wait(), monkeypatch)
