"""The life of a session: loops, tasks, leaks, and the whole way from an image to a file."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import pickle
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web

from happyhorse_async import (
    ConfigurationError,
    HappyHorseError,
    ImageToVideo,
    InsufficientCreditsError,
    InvalidRequestError,
    NotFoundError,
    Session,
    SessionClosedError,
    TaskCancelledError,
    TaskFailedError,
    TaskNotFoundError,
    UnreadableAnswerError,
    WaitTimeoutError,
    WrongEventLoopError,
)
from happyhorse_async.events import Event, Retrying, Submitted
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import PHOTOS, QUICK_RETRY, open_session
from tests.downloader.conftest import host_of

pytestmark = pytest.mark.anyio

LINK = "https://cdn.example.com/cat.png"
UNKNOWN = "task-unified-1-nothing"
SUBMIT = "/v1/videos/generations"


@pytest.fixture
async def running() -> AsyncIterator[Sandbox]:
    """The service on a clock that runs a thousand times as fast."""
    async with Sandbox(video="stub", speed=1000, task_seconds=60) as sandbox:
        yield sandbox


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Whatever a test does, it leaves no socket open."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def client_tasks() -> set[asyncio.Task[Any]]:
    """Give the loop's tasks without those of the sandbox's own connections, which end when it hears
    of it.
    """
    return {task for task in asyncio.all_tasks() if "RequestHandler" not in repr(task.get_coro())}


async def test_one_image_becomes_one_video(running: Sandbox, tmp_path: Path, cat: Path) -> None:
    """generate() uploads, submits, waits and saves; what comes back describes the file on disk, and
    one task was paid.
    """
    async with open_session(running) as session:
        video = await session.generate(cat, prompt="The cat runs", save_to=tmp_path / "cat.mp4")
    assert video.path == tmp_path / "cat.mp4"
    assert video.size == video.path.stat().st_size
    assert video.duration == pytest.approx(5, abs=0.1)
    assert video.task is not None
    assert video.task.status == "completed"
    assert running.paid == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cat.mp4"]


async def test_the_steps_can_be_taken_one_by_one(running: Sandbox, tmp_path: Path) -> None:
    """submit, updates, wait and download are the same way in pieces; updates end with the final
    state.
    """
    async with open_session(running) as session:
        task = await session.submit(ImageToVideo(LINK, duration=8, quality="1080p", seed=7))
        states = [update.status async for update in task.updates()]
        assert states[-1] == "completed"
        assert (await task.wait()).results
        video = await task.download(f"{tmp_path}/")
    assert video.path == tmp_path / f"{task.id}.mp4"
    body = json.loads(next(record.body for record in running.requests if record.path == SUBMIT))
    assert (body["duration"], body["quality"], body["seed"], body["image_urls"]) == (
        8,
        "1080p",
        7,
        [LINK],
    )


async def test_a_task_is_found_again_by_its_id(running: Sandbox, tmp_path: Path) -> None:
    """Another session, as after a crash, needs nothing but the id."""
    async with open_session(running) as first:
        task_id = (await first.submit(LINK)).id
    async with open_session(running) as second:
        video = await second.task(task_id).download(tmp_path / "again.mp4")
    assert video.task_id == task_id
    assert running.paid == 1


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_a_replay_of_an_ended_task_is_read_to_the_end(sandbox: Sandbox, status: str) -> None:
    """The answer to a replayed submission has neither links nor reasons, so that the task is read
    before anyone is told of its end.
    """
    key = "the-same-key-0123456789"
    async with open_session(sandbox) as first:
        task_id = (await first.submit(LINK, idempotency_key=key)).id
    sandbox.end(
        task_id, status, error_code="service_error", message="no luck"
    ) if status == "failed" else sandbox.finish()
    async with open_session(sandbox) as second:
        task = await second.submit(LINK, idempotency_key=key)
        assert task.id == task_id
        last = [update async for update in task.updates()][-1]
        assert last.results if status == "completed" else last.error is not None
    assert sandbox.paid == 1


async def test_many_are_submitted_and_watched(running: Sandbox) -> None:
    """submit_many gives each request its submission, watch ends when all have ended."""
    requests = [ImageToVideo(LINK, seed=seed) for seed in range(1, 21)]
    async with open_session(running) as session:
        async with session.submit_many(requests) as submissions:
            tasks = {
                submission.index: submission.task
                async for submission in submissions
                if submission.task is not None
            }
        assert sorted(tasks) == list(range(20))
        ended = set[str]()
        async with session.watch(tasks.values()) as updates:
            async for task in updates:
                if task.status == "completed":
                    ended.add(task.id)
    assert ended == {task.id for task in tasks.values()}
    assert running.paid == 20


async def test_a_bad_request_leaves_nothing_behind(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A request that breaks rules, a local file's included, is refused with all its problems before
    anything is sent.
    """
    gif = tmp_path / "a.gif"
    gif.write_bytes(b"GIF89a" + b"\0" * 100)
    with pytest.raises(InvalidRequestError) as caught:
        await session.generate(gif, duration=2, seed=0, save_to=tmp_path / "a.mp4")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "duration",
        "seed",
        "image",
    ]
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("request_", "fields", "problem"),
    [
        (LINK, {"aspect_ratio": "16:9"}, "aspect_ratio: the service has no such field"),
        (ImageToVideo(LINK), {"duration": 8}, "duration: give it to ImageToVideo"),
        ("no-such-file.png", {}, "image: "),
    ],
)
async def test_misused_fields_are_explained(
    sandbox: Sandbox, session: Session, request_: Any, fields: dict[str, Any], problem: str
) -> None:
    """Unknown fields, fields beside a ready request, and files that are not there are named."""
    with pytest.raises(InvalidRequestError, match=problem):
        await session.submit(request_, **fields)
    assert any(text.startswith(problem) for text in await session.problems(request_, **fields))
    assert sandbox.count("POST", SUBMIT) == 0


async def test_a_refused_request_has_the_callers_key(session: Session) -> None:
    """A caller that gave a key finds it on the error about the request, as on every other error."""
    with pytest.raises(InvalidRequestError) as caught:
        await session.submit(LINK, duration=2, idempotency_key="a-key-of-my-own-0001")
    assert caught.value.idempotency_key == "a-key-of-my-own-0001"


async def test_what_fails_after_the_submission_names_the_task_and_the_key(
    session: Session, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Whoever paid with generate() can find the video again by the error alone: it has the task's
    id and the key.
    """
    for ends in (None, "failed"):
        key = f"a-key-of-my-own-{ends}"
        if ends is not None:
            session.subscribe(
                lambda event: sandbox.end(event.task.id, "failed", error_code="service_error"),
                Submitted,
            )
        with pytest.raises(HappyHorseError) as caught:
            await session.generate(
                LINK,
                save_to=tmp_path / "a.mp4",
                timeout=0.01 if ends is None else None,
                idempotency_key=key,
            )
        assert (caught.value.task_id, caught.value.idempotency_key) == (sandbox.tasks[-1].id, key)


@pytest.mark.parametrize(
    "task_id", ["", " ", "task-unified-1\n", "task-unified-\ud83d", "a/b", "é", "x" * 129]
)
async def test_a_task_id_must_be_one(session: Session, task_id: str) -> None:
    """An empty id, or one that the service cannot have given, is a mistake of the caller, found
    before it is sent.
    """
    with pytest.raises(InvalidRequestError, match="task_id"):
        session.task(task_id)


@pytest.mark.parametrize("task_id", ["t", "x" * 128, "task-unified-1761313744-h1i2vcd9", "a.b_c:D"])
async def test_a_task_id_need_not_begin_as_in_the_reference(session: Session, task_id: str) -> None:
    """The vendor's client takes any of these, and so does a session."""
    assert session.task(task_id).id == task_id


async def test_a_member_of_an_enum_is_the_text_that_it_stands_for(
    sandbox: Sandbox, session: Session
) -> None:
    """Python writes its name into a text; the service is asked for its value."""
    made = await session.submit(LINK)
    kept = Enum("kept", {"FIRST": made.id}, type=str)
    task = await session.task(kept.FIRST).read()  # type: ignore[attr-defined]
    assert task.id == made.id


async def test_what_lives_in_one_process_says_so_when_it_is_pickled(session: Session) -> None:
    """Queues and pools pickle what they are given. The error says what to give them instead."""
    with pytest.raises(TypeError, match=r"pass on its `id`.* session\.task\(id\)"):
        pickle.dumps(session.task(UNKNOWN))
    with pytest.raises(TypeError, match="one in each process"):
        pickle.dumps(session)


async def refused(sandbox: Sandbox, session: Session, folder: Path) -> None:
    """A submission that the service refuses."""
    sandbox.fail(Fault("refuse", path=SUBMIT, status=400))
    await session.submit(ImageToVideo(LINK))


async def in_doubt(sandbox: Sandbox, session: Session, folder: Path) -> None:
    """A submission whose answers are lost."""
    sandbox.fail(Fault("drop-after", path=SUBMIT, times=None))
    await session.submit(ImageToVideo(LINK))


async def in_the_way(sandbox: Sandbox, session: Session, folder: Path) -> None:
    """A file lies where the video should go."""
    (folder / "cat.mp4").touch()
    await session.generate(ImageToVideo(LINK), save_to=folder / "cat.mp4")


async def not_waited(sandbox: Sandbox, session: Session, folder: Path) -> None:
    """A wait whose time is over."""
    await session.task(UNKNOWN).wait(timeout=0.001)


async def not_updated(sandbox: Sandbox, session: Session, folder: Path) -> None:
    """Updates whose time is over."""
    async for _ in session.task(UNKNOWN).updates(timeout=0.001):
        pass


async def not_watched(sandbox: Sandbox, session: Session, folder: Path) -> None:
    """A watch whose time is over."""
    async with session.watch([UNKNOWN], timeout=0.001) as watch:
        async for _ in watch:
            pass


@pytest.mark.parametrize(
    "fail", [refused, in_doubt, in_the_way, not_waited, not_updated, not_watched]
)
async def test_an_error_goes_when_nobody_holds_it(
    sandbox: Sandbox,
    session: Session,
    tmp_path: Path,
    fail: Callable[[Sandbox, Session, Path], Coroutine[None, None, None]],
) -> None:
    """Its frames hold what was asked for, the image's bytes included. In a ring it would stay until
    Python looks for rings: hundreds of megabytes, where many are refused.
    """
    gc.collect()
    gc.disable()
    try:
        try:
            await fail(sandbox, session, tmp_path)
        except HappyHorseError as error:
            left = weakref.ref(error)
        async with asyncio.timeout(100):
            while left() is not None:  # a thread may be about to let go of it
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_an_input_that_was_left_goes_too(session: Session) -> None:
    """Whoever leaves `submit_many` early keeps no image of those that were not reached."""
    requests = [ImageToVideo(LINK, seed=seed) for seed in range(1, 1000)]
    left = weakref.ref(requests[-1])
    gc.collect()
    gc.disable()
    try:
        async with session.submit_many(requests) as submissions:
            async for _ in submissions:
                break
        del requests, submissions, _
        async with asyncio.timeout(100):
            while left() is not None:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_an_error_that_was_retried_goes_too(sandbox: Sandbox, session: Session) -> None:
    """What went well in the end holds nothing of the failures before."""
    task = await session.submit(LINK)
    failures: list[weakref.ref[HappyHorseError]] = []
    session.subscribe(lambda event: failures.append(weakref.ref(event.error)), Retrying)
    sandbox.fail(Fault("refuse", path="/v1/tasks", status=500))
    gc.disable()
    try:
        await task.read()
        assert [failure() for failure in failures] == [None]
    finally:
        gc.enable()


async def test_an_unknown_task_is_said_to_be_unknown(session: Session) -> None:
    """An id that the service does not know ends a wait with the error for it."""
    with pytest.raises(TaskNotFoundError):
        await session.task(UNKNOWN).wait()


async def test_a_denied_read_tells_which_task_and_does_not_say_unpaid(session: Session) -> None:
    """The service may deny a paid task for a while. Whoever took the denial for a proof would buy
    the video again.
    """
    for read in (session.read(UNKNOWN), session.task(UNKNOWN).read()):
        with pytest.raises(TaskNotFoundError) as caught:
            await read
        assert (caught.value.task_id, caught.value.charged) == (UNKNOWN, "unknown")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        ("failed", "service_error", TaskFailedError),
        ("failed", "request_cancelled", TaskCancelledError),
        ("cancelled", "", TaskCancelledError),
    ],
)
async def test_a_failed_task_raises_with_its_reason(
    sandbox: Sandbox, session: Session, status: str, code: str, kind: type[TaskFailedError]
) -> None:
    """Failure and both forms of cancellation raise their error, with the task and the key."""
    task = await session.submit(LINK)
    sandbox.end(task.id, status, error_code=code or None, message="no luck")
    with pytest.raises(kind) as caught:
        await task.wait()
    assert type(caught.value) is kind
    assert (caught.value.task_id, caught.value.idempotency_key) == (task.id, task.idempotency_key)
    assert caught.value.retryable is (code == "service_error")


async def test_an_unknown_status_is_passed_on_and_waited_through(
    sandbox: Sandbox, session: Session
) -> None:
    """A status that is newer than the package shows up in updates,
    and the wait goes on to the end.
    """
    task = await session.submit(LINK)
    sandbox.fail(Fault("unknown-status", path="/v1/tasks*", status="moonwalking", times=3))
    seen = []
    async for update in task.updates():
        seen.append(str(update.status))
        if seen[-1] == "moonwalking":
            sandbox.finish(task.id)
    assert "moonwalking" in seen
    assert seen[-1] == "completed"


async def test_a_wait_that_is_over_says_how_to_go_on(session: Session) -> None:
    """The time limit ends the wait, not the task."""
    task = await session.submit(LINK)
    with pytest.raises(WaitTimeoutError) as caught:
        await task.wait(timeout=0.01)
    assert caught.value.task_id == task.id
    assert task.id in (caught.value.next_step or "")


async def test_an_account_without_tasks_may_list_null() -> None:
    """Its page is empty. A look for a lost submission does not take that for an answer."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"data": None, "total": 0, "page": "1", "page_size": 50})

    async with host_of(answer) as url, Session("key", base_url=url, retry=QUICK_RETRY) as session:
        page = await session.find_tasks()
        assert (page.items, page.total, page.is_last) == ((), 0, True)
        assert [item async for item in session.find_tasks()] == []
        with pytest.raises(UnreadableAnswerError):
            await session._open().api.recent_tasks(1)


async def test_all_tasks_can_be_iterated_over_page_by_page(
    sandbox: Sandbox, session: Session
) -> None:
    """`async for` reads as many pages as it needs, newest first, and tells each task once, although
    a task that is submitted meanwhile moves all others on.
    """
    tasks = [await session.submit(LINK, seed=seed) for seed in range(1, 8)]
    found = []
    async for item in session.find_tasks(page_size=3):
        if not found:
            await session.submit(LINK, seed=99)
        found.append(item.id)
    assert found == [task.id for task in reversed(tasks)]
    assert sandbox.count("GET", "/v1/tasks") == 3
    assert [item.id async for item in session.find_tasks(page=3, page_size=3)] == [
        task.id for task in tasks[1::-1]
    ]
    (early,) = [item async for item in session.find_tasks(page_size=1, page=8)]
    assert early.id == tasks[0].id


async def test_one_page_is_awaited_wherever_a_coroutine_is_taken(session: Session) -> None:
    """A page can be awaited, gathered, and made an asyncio task, as before."""
    await session.submit(LINK)
    first, second = await asyncio.gather(
        asyncio.create_task(session.find_tasks()), session.find_tasks()
    )
    assert first == second == await session.find_tasks()
    assert (await session.find_tasks(status="completed")).items == ()


async def test_a_short_page_is_not_the_end_when_there_are_more(
    sandbox: Sandbox, session: Session
) -> None:
    """An entry without an id, or a page that moved, hides none of the tasks on later pages."""
    tasks = [await session.submit(LINK, seed=seed) for seed in range(1, 5)]
    short = {"data": [{"id": tasks[3].id, "status": "pending"}, {"status": "pending"}], "total": 4}
    sandbox.fail(Fault("refuse", method="GET", path="/v1/tasks", status=200, body=short, times=1))
    found = [item.id async for item in session.find_tasks(page_size=2)]
    assert found == [tasks[3].id, tasks[1].id, tasks[0].id]


async def test_pages_that_repeat_for_ever_are_the_end(sandbox: Sandbox, session: Session) -> None:
    """A server that knows no pages, and gives the same tasks to each question, is asked twice."""
    task = await session.submit(LINK)
    body = {"data": [{"id": task.id, "status": "pending"}], "total": 999}
    sandbox.fail(Fault("refuse", method="GET", path="/v1/tasks", status=200, body=body, times=None))
    assert [item.id async for item in session.find_tasks(page_size=1)] == [task.id]
    assert sandbox.count("GET", "/v1/tasks") == 2


async def test_the_list_endpoint_is_open_to_callers(sandbox: Sandbox, session: Session) -> None:
    """find_tasks gives a page; on a server without it, the documented error."""
    task = await session.submit(LINK)
    page = await session.find_tasks()
    assert [item.id for item in page.items] == [task.id]
    sandbox.fail(
        Fault(
            "refuse",
            method="GET",
            path="/v1/tasks",
            status=404,
            body={"error": {"code": "not_found", "message": "no"}},
        )
    )
    with pytest.raises(NotFoundError):
        await session.find_tasks()


async def test_money_and_files_have_their_verbs(
    sandbox: Sandbox, session: Session, cat: Path
) -> None:
    """credits, estimate, upload and read speak to the service."""
    assert (await session.credits()).remaining > 0
    assert (await session.estimate(ImageToVideo(LINK))).credits > 0
    file = await session.upload(cat)
    assert file.size == cat.stat().st_size
    task = await session.submit(LINK)
    assert (await session.read(task.id)).id == task.id
    assert (await task.read()).id == task.id
    assert repr(task) == f"TaskHandle({task.id!r})"


# --- life -----------------------------------------------------------------------------------------


async def test_a_session_may_be_closed_by_another_task(sandbox: Sandbox) -> None:
    """Fixtures and lifespans open in one task and close in another."""
    session = open_session(sandbox)
    await asyncio.create_task(session.__aenter__())
    task = await session.submit(LINK)
    waiting = asyncio.create_task(task.wait())
    await asyncio.sleep(0)
    await asyncio.create_task(session.aclose())
    with pytest.raises(SessionClosedError):
        await waiting
    await session.aclose()


async def test_a_closed_session_says_so(sandbox: Sandbox) -> None:
    """Every verb of a closed session raises the error for it."""
    session = open_session(sandbox)
    async with session:
        assert "open" in repr(session)
    assert "closed" in repr(session)
    with pytest.raises(SessionClosedError, match="make a new one"):
        await session.submit(LINK)
    assert session.orphans == []


async def test_closing_ends_the_pause_before_another_try(sandbox: Sandbox) -> None:
    """A caller that waits to try a read again is told at once when the session closes, however long
    the service wants it to wait.
    """
    sandbox.fail(
        Fault("refuse", path="/v1/credits", status=503, headers={"Retry-After": "3600"}, times=None)
    )
    session = open_session(sandbox)
    paused = asyncio.Event()
    session.subscribe(lambda _: paused.set(), Retrying)
    caller = asyncio.create_task(session.credits())
    await paused.wait()
    await session.aclose()
    async with asyncio.timeout(100):
        with pytest.raises(SessionClosedError):
            await caller
    assert sandbox.count("GET", "/v1/credits") == 1


async def test_a_closed_session_uses_a_borrowed_client_no_more(sandbox: Sandbox) -> None:
    """What was made with a session ends with it, also when the pool lives on."""
    async with aiohttp.ClientSession() as client:
        session = open_session(sandbox, http=client)
        task = await session.submit(LINK)
        await session.aclose()
        before = len(sandbox.requests)
        with pytest.raises(SessionClosedError):
            await task.read()
    assert len(sandbox.requests) == before


async def test_a_client_of_another_library_is_refused_by_name(sandbox: Sandbox) -> None:
    """It has a `request` too, which takes other arguments: the submission looked cut off."""
    async with httpx.AsyncClient() as client:
        session = open_session(sandbox, http=client)
        with pytest.raises(ConfigurationError, match=r"aiohttp.ClientSession, got <httpx"):
            await session.submit(LINK)
    assert sandbox.requests == []


async def test_a_session_opens_itself_on_first_use(sandbox: Sandbox) -> None:
    """Without `async with`, the first call opens it and aclose ends it."""
    session = open_session(sandbox)
    assert "not opened" in repr(session)
    assert (await session.credits()).remaining > 0
    await session.aclose()


async def test_a_forgotten_session_warns(sandbox: Sandbox) -> None:
    """Not closing is a ResourceWarning that says what to do."""
    session = open_session(sandbox)
    await session.credits()
    parts = session._parts
    holder = [session]
    del session
    with pytest.warns(ResourceWarning, match="never closed"):
        holder.clear()
    assert parts is not None
    await parts.aclose()


async def test_a_borrowed_client_is_used_and_left_open(sandbox: Sandbox) -> None:
    """Session(http=...) speaks through the caller's pool and does not close it."""
    async with aiohttp.ClientSession(headers={"X-Mine": "yes"}) as client:
        async with open_session(sandbox, http=client) as session:
            await session.credits()
        assert not client.closed
    assert sandbox.requests[-1].headers["X-Mine"] == "yes"


async def test_a_borrowed_client_of_another_loop_is_refused(sandbox: Sandbox) -> None:
    """A client that was made in another asyncio.run is named at once; nothing is sent."""

    async def made() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    client = await asyncio.to_thread(asyncio.run, made())
    session = open_session(sandbox, http=client)
    with pytest.raises(WrongEventLoopError, match="http=") as refused:
        await session.submit(LINK)
    assert "in the event loop of the Session" in str(refused.value.next_step)
    assert refused.value.charged == "no"
    assert sandbox.requests == []
    await client.close()


async def test_a_borrowed_client_that_was_closed_is_named(sandbox: Sandbox) -> None:
    """Its owner has closed it: the error says so, and does not blame the session alone."""
    async with aiohttp.ClientSession() as client:
        session = open_session(sandbox, http=client)
    with pytest.raises(SessionClosedError, match="the client given as http="):
        await session.credits()
    await session.aclose()


async def test_a_borrowed_client_that_is_closed_ends_what_waits(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Nothing can be read with it any more: waits, updates and batches say so, and do not wait for
    ever. What is paid is found by the next session.
    """
    sandbox.speed = 0
    closed = pytest.raises(SessionClosedError, match="the client given as http=")
    async with aiohttp.ClientSession() as client, open_session(sandbox, http=client) as session:
        task = await session.submit(LINK)
        async with session.batch(tmp_path) as batch:
            outcomes = batch.run([ImageToVideo(LINK, seed=1)])
            waiting = asyncio.ensure_future(anext(outcomes))
            while len(sandbox.tasks) < 2:
                await asyncio.sleep(0)
            await client.close()
            async with asyncio.timeout(100):
                with closed:
                    await task.wait()
                with closed:
                    [_ async for _ in task.updates()]
                with closed:
                    await waiting
    sandbox.speed = 1000.0
    async with open_session(sandbox) as session, session.batch(tmp_path) as batch:
        [outcome] = [outcome async for outcome in batch.resume()]
    assert (outcome.ok, sandbox.paid) == (True, 2)


async def test_headers_of_a_borrowed_client_change_no_body(sandbox: Sandbox) -> None:
    """It may name one kind for all bodies, and ask for encodings that only other libraries read. An
    answer that cannot be read leaves what is paid in doubt.
    """
    headers = {"Content-Type": "text/plain", "Accept-Encoding": "gzip, deflate, br, zstd"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        open_session(sandbox, http=client) as session,
    ):
        await session.submit((PHOTOS / "cat.jpg").read_bytes())
    kinds = [
        (request.path.rpartition("/")[2], request.headers["Content-Type"].partition(";")[0])
        for request in sandbox.requests
        if request.method == "POST"
    ]
    assert kinds == [("stream", "multipart/form-data"), ("generations", "application/json")]
    asked = {request.headers["Accept-Encoding"] for request in sandbox.requests}
    assert asked == {"gzip, deflate"}


async def test_a_borrowed_client_that_raises_for_errors_changes_nothing(sandbox: Sandbox) -> None:
    """A refusal stays the service's refusal, sent once, also through a pool that is set to raise
    for error statuses.
    """
    sandbox.fail(Fault("refuse", method="POST", path=SUBMIT, status=402))
    async with (
        aiohttp.ClientSession(raise_for_status=True) as client,
        open_session(sandbox, http=client) as session,
    ):
        with pytest.raises(InsufficientCreditsError) as refused:
            await session.submit(LINK)
    assert refused.value.charged == "no"
    assert sandbox.count("POST", SUBMIT) == 1


async def test_leaving_updates_early_leaves_nothing_running(
    sandbox: Sandbox, no_leaks: None
) -> None:
    """A break out of the loop owns nothing, so there is nothing to clean up,
    and no task is left.
    """
    before = client_tasks()
    async with open_session(sandbox) as session:
        task = await session.submit(LINK)
        async for update in task.updates():
            assert update.status == "pending"
            break
    assert client_tasks() == before


@pytest.mark.parametrize("steps", range(0, 60, 2))
async def test_generate_may_be_cancelled_at_every_await(
    sandbox: Sandbox, tmp_path: Path, cat: Path, steps: int
) -> None:
    """Wherever the caller is cancelled: no warning, no task left, no half file, and what was paid
    is known.
    """
    before = client_tasks()
    async with open_session(sandbox) as session:
        known: list[str] = []
        work = asyncio.create_task(session.generate(cat, save_to=tmp_path / "cat.mp4"))
        for _ in range(steps):
            await asyncio.sleep(0)
            if sandbox.tasks:
                sandbox.finish()
        work.cancel()
        try:
            known.append((await work).task_id or "")
        except asyncio.CancelledError:
            known += [orphan.task_id or "" for orphan in session.orphans]
        assert sandbox.paid <= 1
    assert client_tasks() == before
    assert not (tmp_path / "cat.mp4").exists() or known


def test_ten_sessions_in_ten_loops(tmp_path: Path, no_leaks: None) -> None:
    """Loops come and go; each has its session, and none leaves a warning or a socket."""

    async def one() -> None:
        async with (
            Sandbox(video="stub", speed=1000, task_seconds=10) as sandbox,
            open_session(sandbox) as session,
        ):
            await (await session.submit(LINK)).wait()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            asyncio.run(one())


def test_a_session_does_not_move_to_another_loop() -> None:
    """Using a session in a second loop is a clear error, not "event loop is closed"."""
    session = Session("sk-key", base_url="http://127.0.0.1:1", files_url="http://127.0.0.1:1")

    async def enter() -> None:
        await session.__aenter__()

    async def use() -> None:
        with pytest.raises(SessionClosedError, match="another event loop"):
            await session.credits()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(enter())
        second.run(use())
        first.run(session.aclose())


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"<html>oops</html>", "html"),
        (b"", "empty"),
        (b'{"id": "task', "broken"),
    ],
)
async def test_unreadable_answers_to_reads_delay_a_wait(
    sandbox: Sandbox, session: Session, body: bytes, outcome: str
) -> None:
    """HTML, nothing and broken JSON on reads are waited through, however many come."""
    task = await session.submit(LINK)
    sandbox.fail(Fault("refuse", path="/v1/tasks*", status=200, body=body, times=5))
    sandbox.finish(task.id)
    assert (await task.wait()).status == "completed", outcome


async def test_an_integer_error_code_is_passed_on(sandbox: Sandbox, session: Session) -> None:
    """The service once sent a number as code: it arrives as text in an error of the package."""
    sandbox.fail(
        Fault("refuse", path=SUBMIT, status=400, body={"error": {"code": 40012, "message": "no"}})
    )
    with pytest.raises(HappyHorseError) as caught:
        await session.submit(LINK)
    assert getattr(caught.value, "code", None) == "40012"
    assert caught.value.charged == "no"


@pytest.mark.parametrize("timeout", ["5", math.nan, -1, [], Decimal(3)], ids=repr)
async def test_what_is_no_time_limit_is_refused_before_paying(
    sandbox: Sandbox, session: Session, tmp_path: Path, timeout: Any
) -> None:
    """A time limit that is no number, or is over already, is refused before money is spent."""
    with pytest.raises(ConfigurationError, match="timeout"):
        await session.generate(LINK, save_to=tmp_path / "a.mp4", timeout=timeout)
    with pytest.raises(ConfigurationError, match="timeout"):
        session.batch(tmp_path / "videos", timeout=timeout)
    assert sandbox.paid == 0


@pytest.mark.parametrize("timeout", [1e308, 10**400, math.inf], ids=["float", "int", "infinity"])
async def test_a_limit_beyond_all_times_is_none(
    running: Sandbox, tmp_path: Path, timeout: float
) -> None:
    """A time limit that no clock can hold limits nothing: the video comes."""
    async with open_session(running) as session:
        await session.generate(LINK, save_to=tmp_path / "a.mp4", timeout=timeout)
    assert (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("given", ["https://cdn.example.com/cat.png", ImageToVideo(LINK), 5, None])
async def test_one_where_several_are_expected_is_refused(
    sandbox: Sandbox, session: Session, tmp_path: Path, given: Any
) -> None:
    """One request or one text is no list of requests: it is refused and costs nothing."""
    with pytest.raises(InvalidRequestError, match="requests: expected several"):
        session.submit_many(given)
    async with session.batch(tmp_path / "videos") as batch:
        with pytest.raises(InvalidRequestError, match="requests: expected several"):
            batch.run(given)
    assert sandbox.paid == 0


@pytest.mark.parametrize("given", ["task-unified-1", None, 5, [None], [".."], ["a task"]], ids=repr)
async def test_only_handles_and_ids_are_watched(session: Session, given: Any) -> None:
    """A text is not watched character by character, and what is no id is asked for nowhere."""
    with pytest.raises(InvalidRequestError, match="expected"):
        session.watch(given)


async def _ids() -> AsyncIterator[str]:
    yield "task-unified-1"


async def test_ids_to_watch_come_from_no_async_for(session: Session) -> None:
    """All are known at once, so an asynchronous iterator is refused by name."""
    with pytest.raises(InvalidRequestError, match="tasks: expected several"):
        session.watch(_ids())  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [None, 5, b"videos/", ["videos/"]], ids=repr)
async def test_what_is_no_path_is_refused_before_anything_is_paid(
    sandbox: Sandbox, session: Session, path: Any
) -> None:
    """Where a video or a batch goes is a text or a path object; all else says so by name."""
    with pytest.raises(InvalidRequestError, match="save_to: expected a path"):
        await session.generate(LINK, save_to=path)
    with pytest.raises(InvalidRequestError, match="folder: expected a path"):
        session.batch(path)
    task = session.task("task-unified-1700000000-abcdefgh")
    with pytest.raises(InvalidRequestError, match="to: expected a path"):
        await task.download(path)
    with pytest.raises(InvalidRequestError, match="to: expected a path"):
        await task.download_all(path)
    assert not sandbox.requests


@pytest.mark.parametrize("number", [-1, "0", 0.0, True, None], ids=repr)
async def test_what_is_no_whole_number_is_sent_nowhere(
    sandbox: Sandbox, session: Session, number: Any
) -> None:
    """Pages begin with 1 and hold up to 50 tasks; results are counted from 0."""
    with pytest.raises(InvalidRequestError, match="page: expected a whole number of at least 1"):
        await session.find_tasks(page=number)
    with pytest.raises(InvalidRequestError, match=r"page_size: .* from 1 to 50"):
        await session.find_tasks(page_size=number)
    with pytest.raises(InvalidRequestError, match="index: expected a whole number of at least 0"):
        await session.task("task-unified-1700000000-abcdefgh").download(index=number)
    assert not sandbox.requests


@pytest.mark.parametrize("word", [5, b"completed", ["completed"], "\ud800"])
async def test_a_list_is_asked_for_by_texts(session: Session, word: Any) -> None:
    """What is no text would make a list of everything, or an error of the HTTP library."""
    with pytest.raises(InvalidRequestError, match="status: expected a text"):
        session.find_tasks(status=word)
    with pytest.raises(InvalidRequestError, match="model: expected a text"):
        session.find_tasks(model=word)


@pytest.mark.parametrize("given", [None, 5, "a task", ".."], ids=repr)
async def test_what_is_no_task_id_is_read_nowhere(
    sandbox: Sandbox, session: Session, given: Any
) -> None:
    """The id becomes a part of the link, so it is looked at first."""
    with pytest.raises(InvalidRequestError, match="task_id: expected the id of a task"):
        await session.read(given)
    assert not sandbox.requests


@pytest.mark.parametrize(
    "given",
    [(5,), (None,), (print, "Submitted"), (print, None), (print, int), (print, Event, Session)],
    ids=repr,
)
async def test_only_functions_hear_of_only_classes(session: Session, given: Any) -> None:
    """A listener that can't be called would fail at each event, long after it was given. One of
    what is no event would never hear of anything.
    """
    with pytest.raises(ConfigurationError, match="subscribe: expected a function"):
        session.subscribe(*given)


@pytest.mark.parametrize("folder", [None, 5, b"videos"], ids=repr)
async def test_leftovers_of_what_is_no_folder(session: Session, folder: Any) -> None:
    """What is no path is named."""
    with pytest.raises(InvalidRequestError, match="folder: expected a path"):
        await session.leftovers(folder)


class Waits:
    """A listener that is an object, and asynchronous."""

    async def __call__(self, event: object) -> None:
        """Take an event, were it awaited."""


@pytest.mark.parametrize("listener", [Waits(), Waits().__call__, partial(Waits.__call__, Waits())])
async def test_a_listener_that_nobody_awaits_is_refused(session: Session, listener: Any) -> None:
    """An asynchronous one would never run, and only a warning of Python's would tell."""
    with pytest.raises(ConfigurationError, match="nobody has to await") as refused:
        session.subscribe(listener)
    assert "a task of its own" in str(refused.value.next_step)


@pytest.mark.parametrize(
    "options", [{"retry": 3}, {"retry": "x"}, {"max_in_flight": True}], ids=repr
)
async def test_a_batch_checks_its_options_before_it_pays(
    session: Session, tmp_path: Path, options: dict[str, Any]
) -> None:
    """What is no policy and no number is refused when the batch is made."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        session.batch(tmp_path / "videos", **options)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("", "empty text or the working folder; look where"),
        (b"", "is empty"),
        (b"GIF89a" + bytes(20), "got GIF"),
    ],
)
async def test_what_is_wrong_with_an_image_is_said_once(
    session: Session, image: str | bytes, said: str
) -> None:
    """One problem says what was wrong, what is expected and where to look; no other file is."""
    with pytest.raises(InvalidRequestError, match=said) as caught:
        await session.generate(image)
    assert len(caught.value.problems) == 1
    assert await session.problems(image) == list(caught.value.problems)


@pytest.mark.parametrize("path", ["/v1/tasks", "/results/"])
async def test_a_library_that_breaks_ends_no_paid_work(
    sandbox: Sandbox, session: Session, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is lost at a bad moment breaks some loops. Other waits, and videos, do not
    end with it.
    """
    true, left = aiohttp.TCPConnector.connect, 2

    async def broken(pool: Any, request: Any, *args: Any) -> Any:
        nonlocal left
        if path in str(request.url) and left:
            left -= 1
            raise RuntimeError("unable to perform operation on <UVPoll>; the handler is closed")
        return await true(pool, request, *args)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", broken)
    making = [
        asyncio.create_task(session.generate(LINK, seed=seed, save_to=tmp_path / f"{seed}.mp4"))
        for seed in (1, 2, 3)
    ]
    while sandbox.paid < len(making):
        await asyncio.sleep(0.001)
    for task in sandbox.tasks:
        sandbox.finish(task.id)
    videos = await asyncio.gather(*making)
    assert [video.path.exists() for video in videos] == [True] * 3
    assert (left, sandbox.paid) == (0, 3)
