"""What goes wrong with reads delays a wait and never ends it; what the service itself denies ends
it, after a second look.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from happyhorse_async import (
    AuthenticationError,
    BadRequestError,
    Limits,
    Polling,
    Session,
    Task,
    TaskNotFoundError,
)
from happyhorse_async._concurrency import Background
from happyhorse_async._dispatcher import Events
from happyhorse_async._poller import Poller, Watchlist, scheduler
from happyhorse_async._poller.scheduler import MOST_FAILED
from happyhorse_async._recent import MOST_SEEN, Recent
from happyhorse_async._rules.pacing import Skew
from happyhorse_async.errors import HappyHorseError, InternalServerError
from happyhorse_async.events import ReadFailed
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.conftest import QUICK_POLLING, QUICK_RETRY, open_session
from tests.poller.test_waiting import LINK, UNKNOWN, reads, submitted, until

pytestmark = pytest.mark.anyio

BATCH = "/v1/tasks/batch"


def poller_of(service: Any, background: Background) -> Poller:
    """Make a poller of what stands for a service."""
    watchlist = Watchlist(
        service,
        polling=QUICK_POLLING,
        limits=Limits(),
        policy=QUICK_RETRY,
        events=Events(),
        background=background,
        skew=Skew(),
        seen=Recent(MOST_SEEN),
    )
    return Poller(service, watchlist)


TROUBLES = [
    Fault("drop-before", method="POST", path=BATCH, times=3),
    Fault(
        "refuse",
        method="POST",
        path=BATCH,
        status=500,
        body={"error": {"code": "internal_error"}},
        times=3,
    ),
    Fault(
        "refuse", method="POST", path=BATCH, status=502, body="<html>Bad gateway</html>", times=3
    ),
    Fault("refuse", method="POST", path=BATCH, status=200, body="<html>Welcome</html>", times=3),
    Fault("refuse", method="POST", path=BATCH, status=200, body="", times=3),
    Fault("refuse", method="POST", path=BATCH, status=200, body='{"data": "soon"}', times=3),
    Fault("refuse", method="POST", path=BATCH, status=200, body="[" * 100_000, times=3),
    Fault(
        "refuse",
        method="POST",
        path=BATCH,
        status=200,
        body={"data": [{"id": 7}, None, {}]},
        times=3,
    ),
    Fault(
        "refuse",
        method="POST",
        path=BATCH,
        status=400,
        body={"error": {"code": "invalid_request"}},
        times=3,
    ),
    Fault(
        "refuse",
        method="POST",
        path=BATCH,
        status=401,
        body={"error": {"code": "unauthorized"}},
        times=3,
    ),
    Fault(
        "refuse",
        method="POST",
        path=BATCH,
        status=429,
        body="",
        headers={"Retry-After": "0"},
        times=3,
    ),
    Fault("absent", times=3),
]


@pytest.mark.parametrize(
    "trouble",
    TROUBLES,
    ids=lambda fault: f"{fault.action} {fault.details.get('status', '')}".strip(),
)
async def test_failed_reads_delay_a_wait_and_never_end_it(
    sandbox: Sandbox, session: Session, trouble: Fault
) -> None:
    """Every task is seen to end, whatever three reads in a row came to."""
    tasks = await submitted(session, 60)
    sandbox.fail(trouble)
    sandbox.finish()
    done = await asyncio.gather(*(task.wait() for task in tasks))
    assert {task.id for task in done} == {task.id for task in tasks}


OWN = {"error": {"code": "not_found", "message": "Invalid URL", "type": "invalid_request_error"}}


@pytest.mark.parametrize(
    ("status", "body", "times"), [(404, OWN, 1), (405, "", 1), (404, "<html>Not found</html>", 3)]
)
async def test_a_service_without_batches_is_read_one_by_one_for_good(
    sandbox: Sandbox, session: Session, status: int, body: object, times: int
) -> None:
    """The endpoint is asked for once, or thrice where a page answers; from then on each task has
    its own request.
    """
    sandbox.fail(Fault("refuse", method="POST", path=BATCH, status=status, body=body, times=None))
    for _ in range(2):
        tasks = await submitted(session, 20)
        sandbox.finish()
        assert len(await asyncio.gather(*(task.wait() for task in tasks))) == 20
    assert sandbox.count("POST", BATCH) == times


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "forbidden": ("refuse", {"status": 403, "body": {"error": {"code": "permission_denied"}}}),
    "unauthorized": ("refuse", {"status": 401, "body": {"error": {"code": "unauthorized"}}}),
    "own trouble": ("refuse", {"status": 500, "body": {"error": {"code": "internal_error"}}}),
    "a page": ("refuse", {"status": 200, "body": "<html>Welcome</html>"}),
    "another shape": ("refuse", {"status": 200, "body": {"data": {"tasks": []}}}),
    "limited": ("refuse", {"status": 429, "body": "", "headers": {"Retry-After": "0"}}),
    "no answer": ("drop-before", {}),
    "no task": ("refuse", {"status": 200, "body": {"data": []}}),
    "other tasks": ("refuse", {"status": 200, "body": {"data": [{"id": "x", "status": "failed"}]}}),
    "malformed": ("refuse", {"status": 400, "body": {"error": {"code": "invalid_request"}}}),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_batches_that_fail_for_good_hold_up_nobody(
    sandbox: Sandbox, session: Session, name: str
) -> None:
    """When reads of many fail again and again, and reads of one do not, those are what is used."""
    tasks = await submitted(session, 20)
    action, details = BROKEN[name]
    sandbox.fail(Fault(action, method="POST", path=BATCH, times=None, **details))
    sandbox.finish()
    done = await asyncio.gather(*(task.wait() for task in tasks))
    assert {task.id for task in done} == {task.id for task in tasks}
    assert sandbox.count("POST", BATCH) <= 2 * MOST_FAILED


async def test_batches_are_tried_again_after_some_minutes(
    sandbox: Sandbox, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service whose reads of many work again is not read one by one for the rest of a night."""
    monkeypatch.setattr(scheduler, "ALONE_SECONDS", 0.0)
    tasks = await submitted(session, 20)
    sandbox.fail(Fault("refuse", method="POST", path=BATCH, status=500, body="", times=6))
    waiting = [asyncio.create_task(task.wait()) for task in tasks]
    await until(lambda: sandbox.count("POST", BATCH) > 6)
    sandbox.finish()
    await asyncio.gather(*waiting)


async def test_one_page_of_a_gateway_does_not_end_batches(
    sandbox: Sandbox, session: Session
) -> None:
    """A hiccup is no word of the service: the next read is a batch again."""
    sandbox.fail(
        Fault("refuse", method="POST", path=BATCH, status=404, body="<html>Not found</html>")
    )
    for _ in range(2):
        tasks = await submitted(session, 20)
        sandbox.finish()
        assert len(await asyncio.gather(*(task.wait() for task in tasks))) == 20
    assert sandbox.count("GET", "/v1/tasks/") == 0


async def test_a_sandbox_without_batches_serves_every_wait_with_a_tenth_of_reads_failing() -> None:
    """Every task is seen, and none is announced twice."""
    async with (
        Sandbox(video="stub", speed=0, features=Features(batch=False)) as sandbox,
        open_session(sandbox) as session,
    ):
        tasks = await submitted(session, 100)
        ends: list[str] = []
        parts = session._parts
        assert parts is not None
        parts.poller.on_final(lambda task: ends.append(task.id))
        sandbox.fail(Fault("drop-before", method="GET", times=None, probability=0.1, seed=3))
        sandbox.finish()
        await asyncio.gather(*(task.wait() for task in tasks))
        assert sorted(ends) == sorted(task.id for task in tasks)


async def test_an_unknown_id_is_confirmed_before_its_waiters_are_told(
    sandbox: Sandbox, session: Session
) -> None:
    """One refusal is not enough, though nobody here has seen the id; three are."""
    with pytest.raises(TaskNotFoundError) as caught:
        await session.task(UNKNOWN).wait()
    assert caught.value.task_id == UNKNOWN
    assert reads(sandbox) == 3


async def test_a_task_that_was_denied_for_a_while_is_still_waited_for(
    sandbox: Sandbox, session: Session
) -> None:
    """Seven 404 in a row, as from a replica that lags behind, do no harm to a submitted task."""
    task = await session.submit(LINK)
    denial = {
        "error": {
            "code": "task_not_found",
            "message": "no such task",
            "type": "invalid_request_error",
        }
    }
    sandbox.fail(
        Fault("refuse", method="GET", path=f"/v1/tasks/{task.id}", status=404, body=denial, times=7)
    )
    sandbox.finish()
    assert (await task.wait()).status == "completed"


async def test_a_gateways_404_says_nothing_about_a_task(sandbox: Sandbox, session: Session) -> None:
    """Only the service's own error counts, however often something else answers 404."""
    task = await session.submit(LINK)
    sandbox.fail(
        Fault(
            "refuse", method="GET", path=f"/v1/tasks/{task.id}", status=404, body="<html>", times=4
        )
    )
    sandbox.finish()
    assert (await task.wait()).status == "completed"


async def test_a_malformed_id_does_not_hold_up_the_others(
    sandbox: Sandbox, session: Session
) -> None:
    """An id that the service calls malformed ends with that error, and the rest of its batch is
    served.
    """
    tasks = await submitted(session, 5)
    malformed = {"code": "invalid_task_id", "message": "no id", "type": "invalid_request_error"}
    sandbox.fail(
        Fault("refuse", path="/v1/tasks/cat", status=400, body={"error": malformed}, times=None)
    )
    sandbox.finish()
    wrong = asyncio.ensure_future(session.task("cat").wait())
    assert len(await asyncio.gather(*(task.wait() for task in tasks))) == 5
    with pytest.raises(BadRequestError):
        await wrong


async def test_a_key_that_is_refused_again_and_again_ends_the_wait(
    sandbox: Sandbox, session: Session
) -> None:
    """A revoked key is told to those who wait, instead of letting them wait for ever."""
    task = await session.submit(LINK)
    async with open_session(sandbox) as other:
        refusal = {
            "error": {"code": "unauthorized", "message": "revoked", "type": "authentication_error"}
        }
        sandbox.fail(Fault("refuse", method="GET", status=401, body=refusal, times=None))
        with pytest.raises(AuthenticationError):
            await other.task(task.id).wait()


async def test_failed_reads_are_events(sandbox: Sandbox, session: Session) -> None:
    """A listener sees how many tasks a failed read concerned."""
    task = await session.submit(LINK)
    failures: list[ReadFailed] = []
    session.subscribe(failures.append, ReadFailed)
    sandbox.fail(Fault("refuse", method="GET", status=500, body="", times=2))
    sandbox.finish()
    await task.wait()
    assert [(failure.tasks, type(failure.error)) for failure in failures] == [
        (1, InternalServerError)
    ] * 2


async def test_an_answer_that_comes_late_changes_nothing(
    sandbox: Sandbox, session: Session
) -> None:
    """A state from before the last known one is not published."""
    task = await session.submit(LINK)
    accepted = task.accepted
    assert accepted is not None
    updates = task.updates()
    await anext(updates)
    sandbox.finish()
    waiting = asyncio.ensure_future(anext(updates))
    assert (await waiting).status == "completed"
    parts = session._parts
    assert parts is not None
    parts.poller.learn(accepted)
    assert (await task.wait()).status == "completed"


EAGER = pytest.param(
    getattr(asyncio, "eager_task_factory", None),
    id="eager",
    marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="none before Python 3.12"),
)
"""What has asyncio's tasks begin in the call that makes them, up to their first pause."""


@pytest.mark.parametrize("factory", [pytest.param(None, id="lazy"), EAGER])
@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (ZeroDivisionError(), "this is a bug"),
        (BadRequestError("malformed", status=400, code="invalid_task_id"), "malformed"),
    ],
)
def test_a_read_that_fails_in_the_call_that_began_it_wakes_those_who_wait(
    factory: Any, trouble: Exception, told: str
) -> None:
    """When reading itself breaks, or is refused at once, nobody is left waiting for ever."""

    class Broken:
        async def read_raw_task_once(self, task_id: str) -> dict[str, object]:
            raise trouble

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        background = Background()
        poller = poller_of(Broken(), background)
        for _ in range(2):
            with pytest.raises(HappyHorseError, match=told):
                await asyncio.wait_for(poller.wait(UNKNOWN), 100)
        await background.aclose()

    asyncio.run(main())


def test_an_interrupt_of_the_program_ends_no_wait() -> None:
    """A notebook's loop goes on after Ctrl-C, wherever in it that came."""
    asked = 0

    class Interrupted:
        async def read_raw_task_once(self, task_id: str) -> dict[str, object]:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise KeyboardInterrupt
            return {"id": task_id, "status": "completed", "results": [LINK]}

    async def watch() -> asyncio.Task[Task]:
        poller = poller_of(Interrupted(), Background())
        return asyncio.create_task(poller.wait(UNKNOWN))

    with asyncio.Runner() as runner:
        loop, waiting = runner.get_loop(), runner.run(watch())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait([waiting], timeout=100))
        loop.run_until_complete(asyncio.wait([waiting], timeout=100))
        assert (waiting.done() and waiting.result().status, asked) == ("completed", 2)


@pytest.mark.parametrize("factory", [pytest.param(None, id="lazy"), EAGER])
async def test_many_wait_in_a_program_whose_tasks_are_eager(
    sandbox: Sandbox, session: Session, factory: Any
) -> None:
    """Each task is submitted once and seen to end, whenever its asyncio task begins."""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    try:
        tasks = await submitted(session, 60)
        sandbox.finish()
        done = await asyncio.gather(*(task.wait() for task in tasks))
    finally:
        loop.set_task_factory(before)
    assert {task.id for task in done} == {task.id for task in sandbox.tasks}
    assert len(sandbox.tasks) == 60


async def test_a_hint_reads_at_once_and_a_flood_of_hints_reads_once(sandbox: Sandbox) -> None:
    """Hints shorten the wait for a task, and cannot be used to make the
    session flood the service.
    """
    async with open_session(
        sandbox, polling=Polling(min_interval=0.01, max_interval=3600.0, target_delay=3600.0)
    ) as session:
        task = await session.submit(LINK)
        waiting = asyncio.ensure_future(task.wait())
        parts = session._parts
        assert parts is not None
        await until(lambda: parts.poller.waiting)
        sandbox.finish()
        for _ in range(1000):
            session.hint(task.id)
            session.hint(UNKNOWN)
        assert (await waiting).status == "completed"
        assert reads(sandbox) == 1
