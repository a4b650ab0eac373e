"""What asyncio lacks: owned background work, waiting to the end, threads for what blocks,
limits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

import anyio
import pytest

from happyhorse_async._concurrency import (
    Background,
    Deadline,
    Deadlines,
    Threads,
    hand_over,
    to_the_end,
)

pytestmark = pytest.mark.anyio


async def test_closing_ends_all_work_and_may_be_done_twice() -> None:
    """Work that would run for ever is cancelled and awaited, so that its cleanup has run when
    aclose returns.
    """
    background, cleaned = Background(), list[int]()

    async def forever(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    tasks = [background.start(forever(number), name="forever") for number in range(3)]
    await asyncio.sleep(0)
    assert len(background) == 3
    await background.aclose()
    await background.aclose()
    assert sorted(cleaned) == [0, 1, 2]
    assert all(task.cancelled() for task in tasks)
    assert len(background) == 0


async def test_nothing_starts_after_closing() -> None:
    """Work that comes too late is refused and leaves no coroutine behind."""
    background = Background()
    await background.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        background.start(asyncio.sleep(0), name="late")


async def test_an_error_in_the_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing fails silently."""
    background = Background()

    async def broken() -> None:
        raise ValueError("broken")

    with caplog.at_level(logging.ERROR):
        await asyncio.wait([background.start(broken(), name="broken")])
        await asyncio.sleep(0)
    ours = [record for record in caplog.records if record.name == "happyhorse_async"]
    assert [record.__dict__["action"] for record in ours] == ["background_failed"]


# --- Waiting to the end ---------------------------------------------------------------------------


async def test_what_is_waited_for_to_the_end_gives_its_result() -> None:
    """Without a cancellation it is an ordinary wait: the result, or the error, of the work."""
    loop = asyncio.get_running_loop()
    assert await to_the_end(loop.create_task(asyncio.sleep(0, "done"))) == "done"
    broken = loop.create_future()
    broken.set_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await to_the_end(broken)


async def test_every_cancellation_waits_for_the_work() -> None:
    """However often the caller is cancelled, it ends cancelled only once the work has ended."""
    work = asyncio.get_running_loop().create_future()
    caller = asyncio.create_task(to_the_end(work))
    for _ in range(5):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    work.set_result("done")
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.result() == "done"


async def test_an_error_of_the_work_is_seen_beside_the_cancellation() -> None:
    """A cancelled caller gets its cancellation, and the work's error as the cause of it."""
    work = asyncio.get_running_loop().create_future()
    caller = asyncio.create_task(to_the_end(work))
    await asyncio.sleep(0)
    caller.cancel()
    work.set_exception(ValueError("broken"))
    with pytest.raises(asyncio.CancelledError) as caught:
        await caller
    assert isinstance(caught.value.__cause__, ValueError)


async def test_a_cancelled_scope_of_anyio_does_not_spin() -> None:
    """Its scopes cancel every wait in a cancelled scope anew; waiting to the end takes no turn of
    the loop for it.
    """
    loop, caller = asyncio.get_running_loop(), asyncio.current_task()
    assert caller is not None
    work = loop.create_future()
    with anyio.CancelScope() as scope:
        scope.cancel()
        loop.call_later(0.01, work.set_result, None)
        with suppress(asyncio.CancelledError):
            await to_the_end(work)
        cancellations = caller.cancelling()
    assert cancellations <= 1


# --- Threads --------------------------------------------------------------------------------------


async def test_a_cancelled_call_in_a_thread_is_waited_for() -> None:
    """The thread may use a file that is closed next, so that the caller stays until it is done."""
    threads, begun, go = _threads(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(100)

    caller = asyncio.create_task(threads.run(work))
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    threads.close()


async def test_after_closing_only_last_calls_are_made() -> None:
    """Files can still be closed, at once; anything else is refused."""
    threads = _threads()
    threads.close()
    assert await threads.run(lambda: "closed", last=True) == "closed"
    with pytest.raises(LookupError):
        await threads.run(lambda: "never")


def test_a_loop_of_a_simulation_runs_calls_inline() -> None:
    """A loop that overrides `run_in_executor` has every call for itself, and no thread starts."""

    class Inline(asyncio.SelectorEventLoop):
        calls = 0

        def run_in_executor(  # type: ignore[override]
            self, executor: Executor | None, func: Callable[..., Any], *args: Any
        ) -> asyncio.Future[Any]:
            self.calls += 1
            future = self.create_future()
            future.set_result(func(*args))
            return future

    async def main() -> int:
        threads = _threads()
        where = await threads.run(threading.get_ident)
        threads.close()
        return where

    before = threading.active_count()
    with asyncio.Runner(loop_factory=Inline) as runner:
        assert runner.run(main()) == threading.get_ident()
        assert runner.get_loop().calls == 1  # type: ignore[attr-defined]
    assert threading.active_count() == before


async def test_where_no_more_threads_are_to_be_had_those_that_there_are_do_it_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Containers bound the threads of their processes. Without any, a call fails and stays
    undone.
    """
    threads = Threads(4, name="a test", refusal=lambda: LookupError("closed"))
    done: list[str] = []
    free, start = [0], threading.Thread.start

    def bounded(thread: threading.Thread) -> None:
        if not free[0]:
            raise RuntimeError("can't start new thread")
        free[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", bounded)
    with pytest.raises(RuntimeError, match="new thread"):
        await threads.run(lambda: done.append("without"))
    free[0] = 1
    await asyncio.gather(*(threads.run(lambda: done.append("with one")) for _ in range(3)))
    threads.close()
    assert done == ["with one"] * 3


def _threads() -> Threads:
    return Threads(1, name="a test", refusal=lambda: LookupError("closed"))


# --- Time limits ----------------------------------------------------------------------------------


async def test_a_call_that_takes_too_long_is_a_timeout() -> None:
    """It ends with TimeoutError, and its task is not left cancelled."""
    deadlines = Deadlines(0.01)
    with pytest.raises(TimeoutError), deadlines.begin():
        await asyncio.Event().wait()
    assert asyncio.current_task().cancelling() == 0
    deadlines.close()


async def test_a_call_in_time_is_not_touched() -> None:
    """What it gives is given, also when others run out of time meanwhile."""
    deadlines = Deadlines(0.01)
    with deadlines.begin():
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError), deadlines.begin():
        await asyncio.Event().wait()
    await asyncio.sleep(0)
    deadlines.close()


async def test_calls_end_each_in_its_time() -> None:
    """One alarm serves all, in the order in which they began."""
    deadlines, ended = Deadlines(0.01), list[int]()

    async def call(number: int) -> None:
        try:
            with deadlines.begin():
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(call(number))
    assert ended == [0, 1, 2]
    deadlines.close()


async def test_a_cancellation_stays_a_cancellation() -> None:
    """Only the time limit becomes a TimeoutError."""
    deadlines = Deadlines(60)
    began = asyncio.Event()

    async def call() -> None:
        with deadlines.begin():
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()


async def test_both_at_once_are_a_cancellation() -> None:
    """Who was cancelled from outside must end as cancelled, whatever the clock says."""
    deadlines = Deadlines(60)
    began = asyncio.Event()
    limits = list[Deadline]()

    async def call() -> None:
        limits.append(deadlines.begin())
        with limits[0]:
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await began.wait()
    limits[0].expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()


async def test_calls_that_have_ended_are_forgotten() -> None:
    """A thousand short calls hold no more than one."""
    deadlines = Deadlines(60)
    for _ in range(1000):
        with deadlines.begin():
            pass
    assert len(deadlines._open) == 1
    deadlines.close()


async def test_a_limit_needs_a_task() -> None:
    """Without one there is nothing to end."""
    loop, raised = asyncio.get_running_loop(), asyncio.Event()
    deadlines = Deadlines(60)

    def outside() -> None:
        with pytest.raises(RuntimeError, match="within an asyncio task"):
            deadlines.begin()
        raised.set()

    loop.call_soon(outside)
    await raised.wait()


class Refusing(Executor):
    """A pool that takes no work."""

    def __init__(self, why: str) -> None:
        self._why = why

    def submit(self, *call: Any, **given: Any) -> Any:
        """Refuse, as Python's own pools do."""
        raise RuntimeError(self._why)


async def test_a_call_is_made_at_once_when_python_shuts_its_pools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Right before the main thread ends, when it counts as alive, pools take no work any more: the
    call is made here. A lack of threads is told instead, since it passes.
    """
    with pytest.raises(RuntimeError, match="new thread"):
        await hand_over(Refusing("can't start new thread"), max, 1, 2)
    monkeypatch.setattr(concurrent.futures.thread, "_shutdown", True)
    ending = Refusing("cannot schedule new futures after shutdown")
    assert await hand_over(ending, max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await hand_over(ending, divmod, 1, 0)
