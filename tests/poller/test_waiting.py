"""Waiting for tasks of the sandbox: wait, updates and watch, their limits of time, and what they
cost.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from happyhorse_async import (
    Session,
    SessionClosedError,
    Task,
    TaskCancelledError,
    TaskFailedError,
    TaskHandle,
    TaskNotFoundError,
    WaitTimeoutError,
)
from happyhorse_async.events import Completed, Failed, Updated
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://images.example.com/cat.png"
UNKNOWN = "task-unified-1761313744-h1i2vcd9"


async def submitted(session: Session, count: int) -> list[TaskHandle]:
    """Submit some requests."""
    return list(
        await asyncio.gather(*(session.submit(LINK, seed=number + 1) for number in range(count)))
    )


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something has come true."""
    while not condition():
        await asyncio.sleep(0)


def reads(sandbox: Sandbox) -> int:
    """Count the requests that read tasks."""
    return len([request for request in sandbox.requests if request.path.startswith("/v1/tasks")])


async def test_wait_gives_the_finished_task(sandbox: Sandbox, session: Session) -> None:
    """A wait ends with the task's last state, with its links."""
    task = await session.submit(LINK)
    waiting = asyncio.ensure_future(task.wait())
    await until(lambda: reads(sandbox))
    sandbox.finish()
    done = await waiting
    assert (done.id, done.status, done.progress, len(done.results)) == (
        task.id,
        "completed",
        100,
        1,
    )


async def test_a_failed_task_raises_with_all_that_is_known(
    sandbox: Sandbox, session: Session
) -> None:
    """The error carries the task, the service's code, whether it was charged and whether to try
    again.
    """
    task = await session.submit(LINK)
    sandbox.end(task.id, "failed", error_code="resource_exhausted")
    with pytest.raises(TaskFailedError) as caught:
        await task.wait()
    error = caught.value
    assert (error.code, error.retryable, error.charged, error.task_id) == (
        "resource_exhausted",
        True,
        "no",
        task.id,
    )
    assert error.idempotency_key == task.idempotency_key
    assert error.next_step


async def test_a_cancelled_task_raises_its_own_error(sandbox: Sandbox, session: Session) -> None:
    """Cancellation on the service's side is told apart from failure, and not worth the same input
    again.
    """
    task = await session.submit(LINK)
    sandbox.end(task.id, "cancelled")
    with pytest.raises(TaskCancelledError) as caught:
        await task.wait()
    assert not caught.value.retryable


async def test_updates_begin_with_what_is_known_and_end_with_the_last_state(
    sandbox: Sandbox, session: Session
) -> None:
    """An iteration yields states that differ, in the order of a task's life, and the last one is
    final.
    """
    task = await session.submit(LINK)
    seen: list[Task] = []
    async for update in task.updates():
        seen.append(update)
        sandbox.advance(60)
    assert seen[0].status == "pending"
    assert seen[-1].status == "completed"
    states = [(update.status, update.progress) for update in seen]
    assert len(set(states)) == len(states)
    assert [progress for _, progress in states] == sorted(progress for _, progress in states)


async def test_updates_of_a_failed_task_end_with_it_instead_of_raising(
    sandbox: Sandbox, session: Session
) -> None:
    """Failure is a state as good as any to those who iterate."""
    task = await session.submit(LINK)
    sandbox.end(task.id, "failed", error_code="unknown_error")
    assert [update.status async for update in task.updates()][-1] == "failed"


async def test_a_slow_consumer_gets_the_last_state_and_skips_others(
    sandbox: Sandbox, session: Session
) -> None:
    """While nobody fetches, only the newest state is kept, and the last one is never lost."""
    task = await session.submit(LINK)
    updates = task.updates()
    first = await anext(updates)
    completed = asyncio.get_running_loop().create_future()
    session.subscribe(lambda event: completed.set_result(event.task), Completed)
    sandbox.advance(30)
    sandbox.finish()
    last = await completed
    assert first.status == "pending"
    assert [update async for update in updates] == [last]


async def test_many_waiters_on_one_task_cost_one_read(sandbox: Sandbox, session: Session) -> None:
    """A hundred waits, iterations and a watch on one finished task are served by one request."""
    task = await session.submit(LINK)
    sandbox.finish()
    waits = [asyncio.ensure_future(task.wait()) for _ in range(100)]
    last = [[update async for update in task.updates()][-1] for _ in range(10)]
    assert {done.id for done in [*await asyncio.gather(*waits), *last]} == {task.id}
    assert reads(sandbox) == 1


async def test_a_finished_task_is_remembered(sandbox: Sandbox, session: Session) -> None:
    """Waiting again for a task that was seen to end asks nobody."""
    task = await session.submit(LINK)
    sandbox.finish()
    done = await task.wait()
    before = reads(sandbox)
    assert await task.wait() == done
    assert [update async for update in session.task(task.id).updates()] == [done]
    async with session.watch([task]) as watch:
        assert [update async for update in watch] == [done]
    assert reads(sandbox) == before


async def test_many_tasks_are_read_together(sandbox: Sandbox, session: Session) -> None:
    """120 finished tasks are seen with a few requests of up to 50 ids."""
    tasks = await submitted(session, 120)
    sandbox.finish()
    await asyncio.gather(*(task.wait() for task in tasks))
    assert sandbox.count("POST", "/v1/tasks/batch") <= 6
    assert reads(sandbox) <= 8


async def test_a_time_limit_ends_the_wait_not_the_task(sandbox: Sandbox, session: Session) -> None:
    """The error says how to go on, and going on works from a handle made of the id alone."""
    task = await session.submit(LINK)
    with pytest.raises(WaitTimeoutError) as caught:
        await task.wait(timeout=0.01)
    assert isinstance(caught.value, TimeoutError)
    assert f"session.task({task.id!r})" in (caught.value.next_step or "")
    assert caught.value.task is not None
    assert caught.value.task.status == "pending"
    assert caught.value.charged == "yes"
    sandbox.finish()
    assert (await session.task(task.id).wait()).status == "completed"


async def test_a_time_limit_proves_no_payment(sandbox: Sandbox, session: Session) -> None:
    """Of an id that the service has said nothing about nobody knows whether there is a task."""
    sandbox.fail(Fault("hang-before", path="/v1/tasks", times=100))
    with pytest.raises(WaitTimeoutError, match="has not said anything") as caught:
        await session.task("task-unified-1-from-a-note").wait(timeout=0.01)
    assert caught.value.charged == "unknown"


async def test_updates_and_watches_have_limits_of_time(sandbox: Sandbox, session: Session) -> None:
    """Iterations end with the same error when the time is over."""
    one, other = await submitted(session, 2)
    with pytest.raises(WaitTimeoutError):
        async for _ in one.updates(timeout=0.01):
            pass
    async with session.watch([one, other], timeout=0.01) as watch:
        with pytest.raises(WaitTimeoutError):
            async for _ in watch:
                pass


async def test_a_task_of_another_process_is_waited_for_by_its_id(
    sandbox: Sandbox, session: Session
) -> None:
    """Another session needs nothing but the id."""
    task = await session.submit(LINK)
    async with open_session(sandbox) as other:
        updates = other.task(task.id).updates()
        assert (await anext(updates)).status == "pending"
        sandbox.finish()
        assert [update.status async for update in updates] == ["completed"]


async def test_a_late_comer_gets_the_present_state(sandbox: Sandbox, session: Session) -> None:
    """Whoever begins to iterate while others have long been waiting does not have to wait for the
    next change.
    """
    task = await session.submit(LINK)
    waiting = asyncio.ensure_future(task.wait())
    await until(lambda: reads(sandbox))
    assert (await anext(session.task(task.id).updates())).status == "pending"
    sandbox.finish()
    await waiting


async def test_watch_merges_and_ends_with_the_last_task(sandbox: Sandbox, session: Session) -> None:
    """Every task of a watch ends in it once."""
    tasks = await submitted(session, 5)
    sandbox.end(tasks[0].id, "failed", error_code="unknown_error")
    sandbox.finish()
    async with session.watch([*tasks, tasks[0]]) as watch:
        ends = [
            (update.id, update.status)
            async for update in watch
            if update.status in ("completed", "failed")
        ]
    assert sorted(ends) == sorted(
        [(tasks[0].id, "failed"), *((task.id, "completed") for task in tasks[1:])]
    )


async def test_one_lost_task_does_not_keep_a_watch_from_the_others(
    sandbox: Sandbox, session: Session
) -> None:
    """What is wrong with one id is raised after the others have ended."""
    (task,) = await submitted(session, 1)
    sandbox.finish()
    seen = []
    with pytest.raises(TaskNotFoundError) as caught:
        async with session.watch([UNKNOWN, task]) as watch:
            seen += [update.id async for update in watch]
    assert caught.value.task_id == UNKNOWN
    assert seen or not watch._waiting


async def test_an_empty_watch_ends_at_once(session: Session) -> None:
    """There is nothing to wait for."""
    async with session.watch([]) as watch:
        assert [update async for update in watch] == []


async def test_a_wait_that_is_thrown_away_is_forgotten(sandbox: Sandbox, session: Session) -> None:
    """A wait whose coroutine is closed in the middle, without any cancellation, leaves no task
    behind that is read for nobody.
    """
    [task] = await submitted(session, 1)
    waiting = task.wait()
    waiting.send(None)
    poller = session._open().poller
    assert poller.waiting == 1
    waiting.close()
    assert poller.waiting == 0


async def test_closing_wakes_everybody(sandbox: Sandbox) -> None:
    """Waits, iterations and watches end with an error when the session closes, none hangs."""
    session = open_session(sandbox)
    (task,) = await submitted(session, 1)

    async def iterate() -> None:
        async for _ in task.updates():
            pass

    async def watch() -> None:
        async with session.watch([task]) as states:
            async for _ in states:
                pass

    waits = [asyncio.ensure_future(work) for work in (task.wait(), iterate(), watch())]
    await until(lambda: reads(sandbox))
    await session.aclose()
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SessionClosedError] * 3
    with pytest.raises(SessionClosedError):
        await task.wait()


async def test_cancelling_a_wait_leaves_the_others(sandbox: Sandbox, session: Session) -> None:
    """One waiter less is nothing to the rest."""
    task = await session.submit(LINK)
    one, other = asyncio.ensure_future(task.wait()), asyncio.ensure_future(task.wait())
    await until(lambda: reads(sandbox))
    one.cancel()
    await asyncio.wait([one])
    sandbox.finish()
    assert (await other).status == "completed"
    assert one.cancelled()


async def test_nobody_waiting_means_nothing_runs(sandbox: Sandbox, session: Session) -> None:
    """When the last waiter has gone, the scheduler ends and no more is read."""
    task = await session.submit(LINK)
    waiting = asyncio.ensure_future(task.wait())
    await until(lambda: reads(sandbox))
    waiting.cancel()
    parts = session._parts
    assert parts is not None
    await until(lambda: not len(parts.background))


async def test_an_iterator_that_is_dropped_stops_the_reading(
    sandbox: Sandbox, session: Session
) -> None:
    """Leaving an `async for` early needs no clean-up: the dropped iterator is enough."""
    task = await session.submit(LINK)
    async for _ in task.updates():
        break
    gc.collect()
    parts = session._parts
    assert parts is not None
    await until(lambda: not len(parts.background))


async def test_closing_an_iterator_ends_it(sandbox: Sandbox, session: Session) -> None:
    """An iterator that was closed is over, and closing it again is harmless."""
    task = await session.submit(LINK)
    updates = task.updates()
    await anext(updates)
    await updates.aclose()
    await updates.aclose()
    assert [update async for update in updates] == []


async def test_two_consumers_of_one_iterator_are_told_apart(
    sandbox: Sandbox, session: Session
) -> None:
    """A second consumer of the same iterator is a mistake that is named."""
    task = await session.submit(LINK)
    updates = task.updates()
    await anext(updates)
    first = asyncio.ensure_future(anext(updates))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task"):
        await anext(updates)
    sandbox.finish()
    assert (await first).status == "completed"


async def test_the_end_of_a_task_is_announced_once(sandbox: Sandbox, session: Session) -> None:
    """However often and by however many ways an end is read, listeners hear of it once."""
    tasks = await submitted(session, 3)
    heard: list[object] = []
    session.subscribe(heard.append, Completed, Failed)
    parts = session._parts
    assert parts is not None
    ends: list[str] = []
    parts.poller.on_final(lambda task: ends.append(task.id))
    sandbox.finish()
    await asyncio.gather(
        *(task.wait() for task in tasks), *(session.read(task.id) for task in tasks)
    )
    for task in tasks:
        await task.read()
    assert len(heard) == 3
    assert sorted(ends) == sorted(task.id for task in tasks)


async def test_changes_are_events_even_when_only_waits_are_waiting(
    sandbox: Sandbox, session: Session
) -> None:
    """A progress bar listens to events and sees what the waiters do not ask for."""
    task = await session.submit(LINK)
    changed = asyncio.get_running_loop().create_future()
    session.subscribe(lambda event: changed.done() or changed.set_result(event.task), Updated)
    waiting = asyncio.ensure_future(task.wait())
    await until(lambda: reads(sandbox))
    sandbox.fail(Fault("unknown-status", status="polishing", times=None))
    assert (await changed).status == "polishing"
    sandbox.clear_faults()
    sandbox.finish()
    await waiting


async def test_a_listener_that_fails_does_not_stop_the_waiting(
    sandbox: Sandbox, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """What one listener makes of an end does not concern those who wait."""
    task = await session.submit(LINK)
    parts = session._parts
    assert parts is not None
    parts.poller.on_final(lambda _: [][0])
    sandbox.finish()
    assert (await task.wait()).status == "completed"
    assert [
        record for record in caplog.records if getattr(record, "action", "") == "listener_failed"
    ]


async def test_an_unknown_status_is_waited_through(sandbox: Sandbox, session: Session) -> None:
    """A word that is newer than this package is passed on, and counts as unfinished."""
    task = await session.submit(LINK)
    sandbox.fail(Fault("unknown-status", status="polishing", times=3))
    seen = []
    async for update in task.updates():
        seen.append(str(update.status))
        if update.status == "polishing":
            sandbox.clear_faults()
            sandbox.finish()
    assert seen == ["pending", "polishing", "completed"]
