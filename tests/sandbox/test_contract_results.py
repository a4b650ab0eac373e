"""The contract's lines on result links and callbacks, one test each."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.sandbox.conftest import Wire

pytestmark = pytest.mark.anyio


async def test_a_result_link_is_an_mp4(wire: Wire) -> None:
    """The answer has its type, its length and validators."""
    reply = await wire.download(await wire.completed())
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "video/mp4"
    assert int(reply.headers["Content-Length"]) == len(reply.body)
    assert reply.headers["Accept-Ranges"] == "bytes"
    assert reply.headers["ETag"]
    assert reply.headers["Last-Modified"]
    assert reply.body[4:8] == b"ftyp"


async def test_result_links_take_no_authorization(wire: Wire) -> None:
    """A client that sends its key there is told so."""
    link = await wire.completed()
    assert (await wire.get(link)).status == 400


@pytest.mark.parametrize(
    "agent", ["Python-urllib/3.11", "python-requests/2.32", "Python/3.11 aiohttp/3.12", ""]
)
async def test_the_file_host_refuses_some_default_user_agents(wire: Wire, agent: str) -> None:
    """They get 403, and a truthful product gets the video."""
    link = await wire.completed()
    assert (await wire.download(link, User_Agent=agent)).status == 403
    assert (await wire.download(link, User_Agent="my-product/2.0")).status == 200


async def test_a_file_host_without_that_filter_serves_everyone(http: aiohttp.ClientSession) -> None:
    """The filter is a feature that can be off."""
    async with Sandbox(video="stub", features=Features(user_agent_filter=False)) as sandbox:
        wire = Wire(sandbox, http)
        assert (
            await wire.download(await wire.completed(), User_Agent="Python-urllib/3.11")
        ).status == 200


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-99", 0, 99),
        ("bytes=100-", 100, None),
        ("bytes=-10", -10, None),
        ("bytes=5-5", 5, 5),
    ],
)
async def test_a_range_is_answered_with_206(
    wire: Wire, wanted: str, first: int, last: int | None
) -> None:
    """The bytes are those that were asked for, and `Content-Range` says which they are."""
    link = await wire.completed()
    whole = (await wire.download(link)).body
    reply = await wire.download(link, Range=wanted)
    start = first % len(whole)
    end = len(whole) - 1 if last is None else last
    assert reply.status == 206
    assert reply.body == whole[start : end + 1]
    assert reply.headers["Content-Range"] == f"bytes {start}-{end}/{len(whole)}"


async def test_a_range_beyond_the_end_is_416(wire: Wire) -> None:
    """The answer says how long the file is."""
    link = await wire.completed()
    size = len((await wire.download(link)).body)
    reply = await wire.download(link, Range=f"bytes={size}-")
    assert (reply.status, reply.headers["Content-Range"]) == (416, f"bytes */{size}")


@pytest.mark.parametrize("wanted", ["bytes=9-3", "bytes=-", "lines=1-2", "bytes=0-1,4-5"])
async def test_a_range_that_makes_no_sense_is_ignored(wire: Wire, wanted: str) -> None:
    """The whole file is the answer."""
    assert (await wire.download(await wire.completed(), Range=wanted)).status == 200


async def test_if_range_decides_between_the_rest_and_the_whole(wire: Wire) -> None:
    """The file's own ETag or date lets the range apply; another one gives the whole file."""
    link = await wire.completed()
    headers = (await wire.download(link)).headers
    ranged = {"Range": "bytes=10-19"}
    assert (await wire.download(link, **ranged, If_Range=headers["ETag"])).status == 206
    assert (await wire.download(link, **ranged, If_Range=headers["Last-Modified"])).status == 206
    for other in ('"another"', 'W/"weak"', "Sun, 06 Nov 1994 08:49:37 GMT", "nonsense"):
        assert (await wire.download(link, **ranged, If_Range=other)).status == 200


async def test_head_announces_without_sending(wire: Wire) -> None:
    """HEAD has the length and no body."""
    reply = await wire.call("HEAD", await wire.completed(), key=None)
    assert reply.status == 200
    assert int(reply.headers["Content-Length"]) > 1000
    assert reply.body == b""


async def test_redirects_happen(wire: Wire) -> None:
    """A fault sends the client on, to a place that serves the video."""
    link = await wire.completed()
    wire.sandbox.fail(Fault("redirect"))
    reply = await wire.download(link)
    assert reply.status == 302
    assert (await wire.download(wire.sandbox.files_url + reply.headers["Location"])).status == 200


@pytest.mark.parametrize("status", [403, 404, 410, 200])
async def test_an_expired_link_answers_an_error_or_a_page_with_status_200(
    http: aiohttp.ClientSession, status: int
) -> None:
    """Whatever the status, the body is a page and no video."""
    async with Sandbox(video="stub", speed=0, expired_link=status) as sandbox:
        wire = Wire(sandbox, http)
        link = await wire.completed()
        sandbox.advance(86_400)
        reply = await wire.download(link)
    assert reply.status == status
    assert reply.headers["Content-Type"].startswith("text/html")


async def test_a_link_that_was_never_given_is_404(wire: Wire) -> None:
    """Neither another token nor another task's path works."""
    link = await wire.completed()
    other = await wire.accepted()
    assert (await wire.download(link[:-8] + "zzzz.mp4")).status == 404
    assert (await wire.download(link.replace(wire.sandbox.tasks[0].id, other))).status == 404


class Receiver:
    """A receiver of callbacks that answers as it is told, and says when one has come."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int] = []
        self.arrived: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answer: asyncio.Event | None = None

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Take one callback."""
        body = json.loads(await request.read())
        status = self.statuses.pop(0) if self.statuses else 204
        self.arrived.put_nowait(body)
        if self.answer is not None:
            await self.answer.wait()
        return web.Response(status=status)

    async def next(self) -> dict[str, Any]:
        """Wait for the next callback's body."""
        return await asyncio.wait_for(self.arrived.get(), 5)


@pytest.fixture
async def receiver(anyio_backend: str) -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/hook"
    yield receiver
    await runner.cleanup()


async def tries(sandbox: Sandbox, count: int) -> list[tuple[int, int | None]]:
    """Wait until so many tries have an outcome, and return their numbers and statuses."""
    async with asyncio.timeout(100):
        while len(sandbox.callbacks) < count:
            await asyncio.sleep(0)
    return [(record.attempt, record.status) for record in sandbox.callbacks]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_a_callback_brings_the_querys_json_once_the_task_has_ended(
    wire: Wire, receiver: Receiver, status: str
) -> None:
    """It is the same JSON as the query's, after billing is settled."""
    task_id = await wire.accepted(callback_url=receiver.url)
    wire.sandbox.end(task_id, status)
    body = await receiver.next()
    assert body == await wire.task(task_id)
    assert body["status"] == status
    assert body["billing"]["charge_status"] in ("charged", "released")


async def test_any_2xx_ends_the_callbacks(wire: Wire, receiver: Receiver) -> None:
    """After a 204 there is no second try, however much time passes."""
    await wire.accepted(callback_url=receiver.url)
    wire.sandbox.finish()
    assert await tries(wire.sandbox, 1) == [(1, 204)]
    wire.sandbox.advance(60)
    await wire.get("/v1/credits")
    assert receiver.arrived.qsize() == 1


async def test_a_failed_callback_is_tried_three_times_more_after_1_2_and_4_seconds(
    wire: Wire, receiver: Receiver
) -> None:
    """Each try comes when its pause is over and not before, and the fourth is the last."""
    receiver.statuses = [500, 302, 404, 503]
    await wire.accepted(callback_url=receiver.url)
    wire.sandbox.finish()
    for count, pause in ((1, 1), (2, 2), (3, 4)):
        await tries(wire.sandbox, count)
        wire.sandbox.advance(pause - 0.01)
        assert len(wire.sandbox.callbacks) == count
        wire.sandbox.advance(0.01)
    assert await tries(wire.sandbox, 4) == [(1, 500), (2, 302), (3, 404), (4, 503)]
    moments = [record.at for record in wire.sandbox.callbacks]
    assert [round(later - earlier) for earlier, later in itertools.pairwise(moments)] == [1, 2, 4]
    wire.sandbox.advance(100)
    await wire.get("/v1/credits")
    assert receiver.arrived.qsize() == 4


async def test_a_receiver_that_does_not_answer_in_time_counts_as_failed(
    http: aiohttp.ClientSession, receiver: Receiver
) -> None:
    """The time-out is 10 s unless a test shortens it; after it comes the next try."""
    receiver.answer = asyncio.Event()
    async with Sandbox(video="stub", speed=0, callback_timeout=0.5) as sandbox:
        await Wire(sandbox, http).accepted(callback_url=receiver.url)
        sandbox.finish()
        assert await tries(sandbox, 1) == [(1, None)]
        receiver.answer.set()
        sandbox.advance(1)
        await receiver.next()
        await receiver.next()


async def test_callbacks_go_out_on_the_running_clock_by_themselves(
    http: aiohttp.ClientSession, receiver: Receiver
) -> None:
    """Nobody has to ask: the task ends and is called back while the sandbox is left alone."""
    async with Sandbox(video="stub", speed=600, task_seconds=60) as sandbox:
        task_id = await Wire(sandbox, http).accepted(callback_url=receiver.url)
        body = await receiver.next()
    assert (body["id"], body["status"]) == (task_id, "completed")


async def test_a_late_callback_goes_out_by_itself_after_an_end_by_hand(
    http: aiohttp.ClientSession, receiver: Receiver
) -> None:
    """Nobody asks for anything after `end`: the running clock alone brings the callback."""
    async with Sandbox(video="stub", speed=600) as sandbox:
        task_id = await Wire(sandbox, http).accepted(callback_url=receiver.url)
        sandbox.fail(Fault("late-callback", seconds=30))
        sandbox.end(task_id, "failed")
        assert (await receiver.next())["id"] == task_id


async def test_callbacks_can_be_missing_doubled_late_and_out_of_order(
    wire: Wire, receiver: Receiver
) -> None:
    """Each fault befalls the callbacks that it names."""
    sandbox = wire.sandbox
    ids = [await wire.accepted(callback_url=receiver.url) for _ in range(5)]
    sandbox.fail(Fault("no-callback", nth=1))
    sandbox.fail(Fault("duplicate-callback", nth=2))
    sandbox.fail(Fault("reorder-callbacks", nth=3))
    sandbox.fail(Fault("late-callback", nth=5, seconds=30))
    for task_id in ids:
        sandbox.finish(task_id)
    await tries(sandbox, 4)
    arrived = [(await receiver.next())["id"] for _ in range(4)]
    assert sorted(arrived) == sorted([ids[1], ids[1], ids[2], ids[3]])
    sandbox.advance(30)
    assert (await receiver.next())["id"] == ids[4]
