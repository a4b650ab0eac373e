"""Videos into an object store: a real S3 server on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import mmap
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from yarl import URL

from happyhorse_async import (
    ConfigurationError,
    DestinationExistsError,
    DownloadError,
    IncompleteDownloadError,
    NotAVideoError,
    RetryPolicy,
    SessionClosedError,
)
from happyhorse_async._edges import part_files, sinks
from happyhorse_async._edges.object_store import PROBE
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import open_session
from tests.downloader.conftest import LINK, Kit, check

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BUCKET = "s3://videos-of-tests"
SIZE = 300_000
LONG_AGO = "Wed, 21 Oct 2015 07:28:00 GMT"


class Shelf:
    """What lies in the bucket."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def keys(self) -> list[str]:
        """List all keys."""
        found = self.client.list_objects_v2(Bucket="videos-of-tests")
        return [entry["Key"] for entry in found.get("Contents", [])]

    def clear(self) -> None:
        """Remove all objects."""
        for key in self.keys():
            self.client.delete_object(Bucket="videos-of-tests", Key=key)

    def get(self, key: str) -> tuple[bytes, str]:
        """Read an object and its content type."""
        found = self.client.get_object(Bucket="videos-of-tests", Key=key)
        return found["Body"].read(), found["ContentType"]

    def uploads(self) -> int:
        """Count uploads that were begun and not ended."""
        return len(self.client.list_multipart_uploads(Bucket="videos-of-tests").get("Uploads", []))

    def put(self, key: str, data: bytes) -> None:
        """Put an object."""
        self.client.put_object(Bucket="videos-of-tests", Key=key, Body=data)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server, for all tests here."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def shelf(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """An empty bucket, and the environment that leads to it."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
    client.create_bucket(Bucket="videos-of-tests")
    shelf = Shelf(client)
    yield shelf
    shelf.clear()
    client.delete_bucket(Bucket="videos-of-tests")
    client.close()


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where parts lie on this machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return sinks.spool_folder()


Answer = web.StreamResponse | None
Hook = Callable[[web.Request], Awaitable[Answer]]


class Gate:
    """Stands between us and the store: what passes is noted, and a test can answer in its place, or
    lose the store's answer.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.calls: list[tuple[str, str]] = []
        self.before: Hook | None = None
        self.lose: Callable[[web.Request], bool] = lambda _: False
        self.connections: set[Any] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on."""
        self.calls.append((request.method, request.path.removeprefix("/videos-of-tests/")))
        self.connections.add(request.transport)
        given = await self.before(request) if self.before is not None else None
        if given is not None:
            return given
        body = await request.content.read()
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            url = URL(self.server + request.raw_path, encoded=True)
            async with client.request(
                request.method, url, headers=request.headers, data=body
            ) as found:
                data, headers = await found.read(), found.headers.copy()
        if self.lose(request) and request.transport is not None:
            request.transport.abort()
        for name in ("Transfer-Encoding", "Connection", "Content-Encoding"):
            headers.pop(name, None)
        if request.method != "HEAD":
            headers.pop("Content-Length", None)
        return web.Response(status=found.status, body=data or None, headers=headers)

    def puts(self) -> list[str]:
        """List the keys that were put, but for the probe."""
        return [path for method, path in self.calls if method == "PUT" and PROBE not in path]


def refused(status: int, code: str) -> web.Response:
    """Answer as a store does that will not."""
    return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>")


@pytest.fixture
async def gate(
    server: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Gate]:
    """A gate before the store."""
    gate = Gate(server)
    runner = web.ServerRunner(web.Server(gate.answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield gate
    await runner.cleanup()


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service, with videos of 300 kB."""
    async with Sandbox(video="stub", speed=0, stub_bytes=SIZE) as sandbox:
        yield sandbox


async def test_a_video_takes_no_memory(
    kit: Kit, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large it is: it is put out of its part file, with one request."""
    import obstore

    kinds, true = [], obstore.put_async

    def note(store: Any, key: str, data: Any, **options: Any) -> Any:
        kinds.append((type(data), type(getattr(data, "obj", None)), options["use_multipart"]))
        return true(store, key, data, **options)

    monkeypatch.setattr(obstore, "put_async", note)
    await kit.downloader.download(await kit.task(), f"{BUCKET}/a.mp4")
    assert kinds == [(memoryview, mmap.mmap, False)]


async def test_a_video_lies_verified_in_the_bucket(kit: Kit, shelf: Shelf) -> None:
    """The object is the video, with its type; the value says where it is, how long, and its digest;
    nothing else is left.
    """
    task = await kit.task(duration=6)
    video = await kit.downloader.download(task, f"{BUCKET}/some/prefix/")
    key = f"some/prefix/{task.id}.mp4"
    data, kind = shelf.get(key)
    assert (video.url, video.path.as_posix(), video.size) == (f"{BUCKET}/{key}", key, len(data))
    assert (video.sha256, video.duration, kind) == (
        hashlib.sha256(data).hexdigest(),
        6.0,
        "video/mp4",
    )
    assert (shelf.keys(), shelf.uploads()) == ([key], 0)


async def test_what_takes_time_runs_in_threads(
    kit: Kit, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither hashing nor the look into the index, which a host can make as large as it likes,
    holds the event loop.
    """
    loop_thread, seen = threading.get_ident(), set()

    def watch(name: str) -> None:
        true = getattr(part_files.Tally, name)

        def watched(*args: Any) -> Any:
            assert threading.get_ident() != loop_thread, f"{name} ran in the loop's thread"
            seen.add(name)
            return true(*args)

        monkeypatch.setattr(part_files.Tally, name, watched)

    for name in ("feed_all", "finish"):
        watch(name)
    await kit.downloader.download(await kit.task(), f"{BUCKET}/")
    assert seen == {"feed_all", "finish"}


async def test_templates_and_keys_name_objects(kit: Kit, shelf: Shelf) -> None:
    """A template's fields are filled in, a whole key is taken as it is, and a bucket alone is a
    folder.
    """
    task = await kit.task()
    for to in ("", "/", "/as/it/is.mp4", "/{stem}/{index}.mp4"):
        await kit.downloader.download(task, BUCKET + to, overwrite=True)
    assert shelf.keys() == ["as/it/is.mp4", f"{task.id}.mp4", f"{task.id}/1.mp4"]


async def test_an_object_is_not_replaced_unless_asked(kit: Kit, shelf: Shelf) -> None:
    """An object that is there is found before anything is fetched; with overwrite=True it is
    replaced.
    """
    task = await kit.task()
    shelf.put("taken.mp4", b"mine")
    with pytest.raises(DestinationExistsError) as caught:
        await kit.downloader.download(task, f"{BUCKET}/taken.mp4")
    assert (caught.value.charged, caught.value.task_id) == ("yes", task.id)
    assert (kit.fetches(), shelf.get("taken.mp4")[0]) == ([], b"mine")
    video = await kit.downloader.download(task, f"{BUCKET}/taken.mp4", overwrite=True)
    assert len(shelf.get("taken.mp4")[0]) == video.size


async def test_an_object_that_appears_meanwhile_is_not_replaced(kit: Kit, shelf: Shelf) -> None:
    """The store itself refuses: an object that was put while the video came stays as it is."""
    from happyhorse_async.events import Downloading

    task = await kit.task()
    kit.events.subscribe(lambda _: shelf.put("same.mp4", b"mine"), Downloading)
    with pytest.raises(DestinationExistsError):
        await kit.downloader.download(task, f"{BUCKET}/same.mp4")
    assert shelf.get("same.mp4")[0] == b"mine"
    assert (shelf.keys(), shelf.uploads()) == (["same.mp4"], 0)


async def test_a_cut_goes_on_within_the_call(kit: Kit, shelf: Shelf) -> None:
    """The bytes that were handed over are not fetched again."""
    task = await kit.task()
    kit.sandbox.fail(Fault("truncate", fraction=0.5))
    video = await kit.downloader.download(task, f"{BUCKET}/")
    data = shelf.get(f"{task.id}.mp4")[0]
    assert (len(data), hashlib.sha256(data).hexdigest()) == (video.size, video.sha256)
    assert kit.fetches()[1].headers["Range"] == f"bytes={video.size // 2}-"
    assert (shelf.keys(), shelf.uploads()) == ([f"{task.id}.mp4"], 0)


@pytest.mark.parametrize(
    ("fault", "error", "kept"),
    [
        (Fault("html", times=None), NotAVideoError, True),
        (Fault("short", fraction=0.9, times=None), NotAVideoError, True),
        (Fault("truncate", fraction=0.9, times=None), IncompleteDownloadError, False),
    ],
)
async def test_what_is_not_whole_never_becomes_visible(
    sandbox: Sandbox, shelf: Shelf, fault: Fault, error: type[DownloadError], kept: bool
) -> None:
    """After a failure the bucket is as before, without begun uploads; what was not believed lies
    under a key of its own.
    """
    async with Kit(sandbox, policy=RetryPolicy(attempts=1)) as kit:
        task = await kit.task()
        sandbox.fail(fault)
        with pytest.raises(error) as caught:
            await kit.downloader.download(task, f"{BUCKET}/")
    rejected = f"{task.id}.mp4.rejected"
    assert (shelf.keys(), shelf.uploads()) == ([rejected] if kept else [], 0)
    assert caught.value.rejected_path == (f"{BUCKET}/{rejected}" if kept else None)


async def test_a_cancellation_leaves_nothing(kit: Kit, sandbox: Sandbox, shelf: Shelf) -> None:
    """Cancelled while bytes come, the bucket is as before."""
    from happyhorse_async.events import Downloading

    task = await kit.task()
    sandbox.fail(Fault("slow-bytes", chunk=int(SIZE * 0.45), interval=0.2))
    begun = asyncio.Event()
    kit.events.subscribe(lambda _: begun.set(), Downloading)
    work = asyncio.create_task(kit.downloader.download(task, f"{BUCKET}/"))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (shelf.keys(), shelf.uploads()) == ([], 0)


@pytest.mark.parametrize("native", [True, False])
async def test_a_caller_that_is_cancelled_while_the_video_is_put_leaves_nothing_half(
    kit: Kit, gate: Gate, shelf: Shelf, spool: Path, native: bool
) -> None:
    """The object is there or not, whole; the part stays,
    so that the next call only has to put it.
    """
    task, putting, scope = await kit.task(), asyncio.Event(), anyio.CancelScope()
    go_on = asyncio.Event()

    async def hold(request: web.Request) -> Answer:
        if request.method == "PUT":
            putting.set()
            await go_on.wait()
        return None

    async def download() -> None:
        with scope:
            await kit.downloader.download(task, f"{BUCKET}/")

    gate.before = hold
    work = asyncio.create_task(download())
    await putting.wait()
    if native:
        work.cancel()
    else:
        scope.cancel()
    await asyncio.wait([work])
    assert work.cancelled() is native
    assert (shelf.uploads(), len(list(spool.glob("*.part")))) == (0, 1)
    go_on.set()
    fetches = len(kit.fetches())
    video = await kit.downloader.download(task, f"{BUCKET}/")
    assert shelf.get(f"{task.id}.mp4")[0][:8] == video_start(video.size)
    assert (len(kit.fetches()), shelf.keys()) == (fetches, [f"{task.id}.mp4"])
    assert list(spool.iterdir()) == []


def video_start(size: int) -> bytes:
    """Give the first bytes of a video of the sandbox."""
    from happyhorse_async.sandbox._stub_video import stub_video

    return stub_video(width=1280, height=720, seconds=5, seed=1, size=size)[:8]


async def test_a_killed_download_is_resumed_by_the_next_process(
    sandbox: Sandbox, shelf: Shelf, spool: Path
) -> None:
    """The part lies on this machine, named after where its video goes; the store knows nothing of
    it.
    """
    async with Kit(sandbox, policy=RetryPolicy(attempts=1)) as kit:
        task = await kit.task()
        sandbox.fail(Fault("truncate", fraction=0.5))
        with pytest.raises(IncompleteDownloadError):
            await kit.downloader.download(task, f"{BUCKET}/")
    assert (shelf.keys(), shelf.uploads()) == ([], 0)
    assert len(list(spool.glob("*.part"))) == 1
    async with Kit(sandbox) as kit:
        video = await kit.downloader.download(task, f"{BUCKET}/")
        assert kit.fetches()[-1].headers["Range"] == f"bytes={video.size // 2}-"
    assert hashlib.sha256(shelf.get(f"{task.id}.mp4")[0]).hexdigest() == video.sha256
    assert list(spool.iterdir()) == []


async def test_parts_of_different_tasks_are_kept_apart(kit: Kit, shelf: Shelf) -> None:
    """Another process may fetch another video for the same key: neither is refused its part."""
    one, other = await kit.task(1), await kit.task(2)
    file = sinks.spooled(BUCKET, "a.mp4", task_id=one.id, index=0)
    file.open()
    try:
        video = await kit.downloader.download(other, f"{BUCKET}/a.mp4")
    finally:
        file.close()
    assert len(shelf.get("a.mp4")[0]) == video.size


# --- A store that does not answer as it should.


async def test_an_answer_that_is_lost_is_no_failure(kit: Kit, gate: Gate, shelf: Shelf) -> None:
    """The store has the object, and refuses the repeated put: it is looked at, and it is ours."""
    lost = iter([True])
    gate.lose = lambda request: request.method == "PUT" and next(lost, False)
    task = await kit.task()
    video = await kit.downloader.download(task, f"{BUCKET}/a.mp4")
    assert hashlib.sha256(shelf.get("a.mp4")[0]).hexdigest() == video.sha256
    assert gate.puts() == ["a.mp4", "a.mp4"]


async def test_the_last_of_all_answers_may_be_the_lost_one(
    sandbox: Sandbox, gate: Gate, shelf: Shelf
) -> None:
    """One attempt is allowed, and it worked: a look tells."""
    async with Kit(sandbox, policy=RetryPolicy(attempts=1)) as kit:
        gate.lose = lambda request: request.method == "PUT"
        video = await kit.downloader.download(await kit.task(), f"{BUCKET}/a.mp4")
    assert len(shelf.get("a.mp4")[0]) == video.size


async def test_a_last_look_that_the_store_refuses_is_an_error_of_ours(
    sandbox: Sandbox, gate: Gate, shelf: Shelf
) -> None:
    """The answer to the put was lost, and the object, whose ETag is no MD5, cannot be read just
    now.

    The caller hears of a download, with its task, and the next call finds the object.
    """

    async def unreadable(request: web.Request) -> Answer:
        if shelf.keys() != ["a.mp4"]:
            return None
        if request.method == "GET":
            return refused(503, "SlowDown")
        size = str(len(shelf.get("a.mp4")[0]))
        headers = {"ETag": '"f00-3"', "Content-Length": size, "Last-Modified": LONG_AGO}
        return web.Response(headers=headers) if request.method == "HEAD" else None

    gate.before = unreadable
    gate.lose = lambda request: request.method == "PUT" and PROBE not in request.path
    async with Kit(sandbox, policy=RetryPolicy(attempts=1)) as kit:
        task = await kit.task()
        with pytest.raises(DownloadError, match="cannot be written") as caught:
            await kit.downloader.download(task, f"{BUCKET}/a.mp4")
    assert caught.value.task_id == task.id


@pytest.mark.parametrize("same_size", [False, True])
async def test_a_foreign_object_is_not_taken_for_ours(
    kit: Kit, gate: Gate, shelf: Shelf, same_size: bool
) -> None:
    """Another one was put while our answer was lost: it is looked at, by its bytes."""
    size = SIZE
    mine = b"x" * (size if same_size else 7)

    async def put_first(request: web.Request) -> Answer:
        if request.method == "PUT":
            shelf.put("a.mp4", mine)
        return None

    gate.before = put_first
    with pytest.raises(DestinationExistsError):
        await kit.downloader.download(await kit.task(), f"{BUCKET}/a.mp4")
    assert shelf.get("a.mp4")[0] == mine


async def test_an_object_without_a_digest_is_read(kit: Kit, gate: Gate, shelf: Shelf) -> None:
    """Some stores' ETags are no MD5: then all of the object is compared."""

    async def unlabelled(request: web.Request) -> Answer:
        if request.method != "HEAD" or shelf.keys() != ["a.mp4"]:
            return None
        size = str(len(shelf.get("a.mp4")[0]))
        headers = {"ETag": '"f00-3"', "Content-Length": size, "Last-Modified": LONG_AGO}
        return web.Response(headers=headers)

    lost = iter([True])
    gate.before = unlabelled
    gate.lose = lambda request: request.method == "PUT" and next(lost, False)
    video = await kit.downloader.download(await kit.task(), f"{BUCKET}/a.mp4")
    assert len(shelf.get("a.mp4")[0]) == video.size
    assert ("GET", "a.mp4") in gate.calls


@pytest.mark.parametrize(
    ("status", "code", "helps"),
    [
        (503, "SlowDown", "the bucket or its rights"),
        (500, "InternalError", "the bucket or its rights"),
        (409, "ConditionalRequestConflict", "the bucket or its rights"),
        (400, "RequestTimeout", "the bucket or its rights"),
        (400, "BadDigest", "the bucket or its rights"),
        (403, "RequestTimeTooSkewed", "this machine's clock"),
        (400, "ExpiredToken", "credentials"),
    ],
)
async def test_a_busy_store_is_tried_as_often_as_the_policy_says(
    sandbox: Sandbox, gate: Gate, shelf: Shelf, status: int, code: str, helps: str
) -> None:
    """What passes is waited for; what does not ends with an error that says what would help, and
    the next call only has to put the video.
    """
    busy = 3

    async def refuse(request: web.Request) -> Answer:
        nonlocal busy
        if request.method == "PUT" and busy:
            busy -= 1
            return refused(status, code)
        return None

    gate.before = refuse
    async with Kit(sandbox, policy=RetryPolicy(attempts=4, first_pause=0.001)) as kit:
        task = await kit.task()
        await kit.downloader.download(task, f"{BUCKET}/a.mp4")
        assert len(gate.puts()) == 4
        busy = 4
        reason = code if status != 409 else "another request for this key"
        with pytest.raises(DownloadError, match=reason) as caught:
            await kit.downloader.download(task, f"{BUCKET}/b.mp4")
        assert (caught.value.charged, len(gate.puts())) == ("yes", 8)
        assert helps in caught.value.next_step
        fetches = len(kit.fetches())
        await kit.downloader.download(task, f"{BUCKET}/b.mp4")
        assert len(kit.fetches()) == fetches
    assert shelf.keys() == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
async def test_a_rival_request_is_waited_for(
    kit: Kit, gate: Gate, shelf: Shelf, method: str
) -> None:
    """Stores say 409 to any request while another one for its key is under way. It passes, at the
    look before anything is paid as well as at the put.
    """
    left = 2

    async def refuse(request: web.Request) -> Answer:
        nonlocal left
        if request.method != method or not left:
            return None
        left -= 1
        return refused(409, "OperationAborted")

    gate.before = refuse
    place = f"{BUCKET}/a.mp4"
    await check(kit, place, overwrite=False)
    await kit.downloader.download(await kit.task(), place)
    assert (shelf.keys(), left) == (["a.mp4"], 0)


async def test_what_cannot_work_is_not_tried_again(kit: Kit, gate: Gate) -> None:
    """No right to write is an error at once."""

    async def refuse(request: web.Request) -> Answer:
        return refused(403, "AccessDenied") if request.method == "PUT" else None

    gate.before = refuse
    with pytest.raises(DownloadError, match="AccessDenied"):
        await kit.downloader.download(await kit.task(), f"{BUCKET}/a.mp4")
    assert gate.puts() == ["a.mp4"]


async def test_a_store_that_takes_no_rejected_bytes_leaves_them_here(
    kit: Kit, gate: Gate, spool: Path
) -> None:
    """They are kept on this machine, and the error says where."""

    async def refuse(request: web.Request) -> Answer:
        return refused(403, "AccessDenied") if request.method == "PUT" else None

    gate.before = refuse
    task = await kit.task()
    kit.sandbox.fail(Fault("short", fraction=0.9, times=None))
    with pytest.raises(NotAVideoError) as caught:
        await kit.downloader.download(task, f"{BUCKET}/a.mp4")
    kept = Path(caught.value.rejected_path or "")
    assert kept.parent == spool
    assert kept.stat().st_size == int(SIZE * 0.9)


async def test_one_store_is_opened_for_a_place(kit: Kit, gate: Gate, shelf: Shelf) -> None:
    """Its connections serve all videos that go there."""
    tasks = [await kit.task(number) for number in range(6)]
    for task in tasks:
        await kit.downloader.download(task, f"{BUCKET}/v/")
    assert len(shelf.keys()) == 6
    assert len(gate.connections) == 1


# --- Before anything is paid.


async def test_a_destination_is_checked_before_anything_is_paid(kit: Kit, shelf: Shelf) -> None:
    """A taken key, a link without a bucket and a bad template are refused with charged="no"; a
    folder passes.
    """
    shelf.put("taken.mp4", b"mine")
    await check(kit, f"{BUCKET}/folder/", overwrite=False)
    await check(kit, f"{BUCKET}/taken.mp4", overwrite=True)
    with pytest.raises(DestinationExistsError) as caught:
        await check(kit, f"{BUCKET}/taken.mp4", overwrite=False)
    assert caught.value.charged == "no"
    for bad in ("s3:///key", f"{BUCKET}/{{nothing}}.mp4"):
        with pytest.raises(DownloadError) as refused:
            await check(kit, bad, overwrite=False)
        assert refused.value.charged == "no"


async def paying(kit: Kit, to: str, *, overwrite: bool = False) -> None:
    """Ask for a place as a caller does who is about to pay; the error says that nothing was."""
    with pytest.raises(DownloadError) as caught:
        await check(kit, to, overwrite=overwrite)
    assert caught.value.charged == "no"
    raise caught.value


@pytest.mark.parametrize(
    "key",
    ["a//{task_id}.mp4", "a//", "./", "a/../{task_id}.mp4", "a\nb/", "a//x.mp4", "x" * 1025, "//"],
)
async def test_a_key_that_no_object_can_have_is_refused(kit: Kit, shelf: Shelf, key: str) -> None:
    """The key that is looked at is the key that is written."""
    with pytest.raises(DownloadError, match="its key"):
        await paying(kit, f"{BUCKET}/{key}")
    with pytest.raises(DownloadError, match="its key"):
        await kit.downloader.download(await kit.task(), f"{BUCKET}/{key}")
    assert shelf.keys() == []


@pytest.mark.parametrize("key", ["x.mp4", "videos/{task_id}.mp4", ""])
async def test_a_missing_bucket_is_found_out(kit: Kit, shelf: Shelf, key: str) -> None:
    """A look at an object in it says only that there is no such object; a put says more."""
    with pytest.raises(DownloadError, match="there is no such bucket"):
        await paying(kit, f"s3://no-such-bucket-anywhere/{key}")


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
async def test_a_store_that_says_nothing_holds_up_no_closing(
    kit: Kit, gate: Gate, shelf: Shelf, method: str
) -> None:
    """Whoever waits for it, before or after paying, hears at once that the session was closed."""
    asked, never = asyncio.Event(), asyncio.Event()

    async def silent(request: web.Request) -> Answer:
        if request.method == method:
            asked.set()
            await never.wait()
        return None

    gate.before = silent
    work = {
        "HEAD": lambda: check(kit, f"{BUCKET}/x.mp4", overwrite=False),
        "PUT": lambda: kit.downloader.download(task, f"{BUCKET}/x.mp4"),
    }
    task = await kit.task()
    waiting = asyncio.ensure_future(work[method]())
    await asked.wait()
    kit.downloader.close()
    with pytest.raises(SessionClosedError):
        await waiting
    with pytest.raises(SessionClosedError):
        await kit.downloader.download(task, f"{BUCKET}/y.mp4")
    never.set()


async def test_two_callers_with_one_key_are_told_its_link(kit: Kit, shelf: Shelf) -> None:
    """Before either pays; a key alone would not say in which bucket."""
    async with kit.downloader.reserved(f"{BUCKET}/v/x.mp4"):
        with pytest.raises(DestinationExistsError, match=f"{BUCKET}/v/x.mp4: another call"):
            await paying(kit, f"{BUCKET}/v/x.mp4")


async def test_an_endpoint_that_is_no_url_is_named(
    kit: Kit, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library takes it, and panics over it at its first request."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(ConfigurationError, match=r"AWS_ENDPOINT_URL: .*'127\.0\.0\.1:9000'"):
        await check(kit, f"{BUCKET}/x.mp4", overwrite=False)


FORKS = """
import asyncio, os
from happyhorse_async import ConfigurationError
from happyhorse_async._edges.object_store import ObjectFolder

ObjectFolder("s3://videos-of-tests/v").sizes()
if os.fork():
    raise SystemExit(os.waitpid(-1, 0)[1])
try:
    ObjectFolder("s3://videos-of-tests/v").sizes()
except ConfigurationError as error:
    print(error, error.next_step, flush=True)
os._exit(0)
"""


async def test_a_forked_child_is_told_that_it_cannot_use_a_store(shelf: Shelf) -> None:
    """The library's threads are in its parent: it would wait without an end."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKS, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(100):
            said = (await program.communicate())[0].decode()
    finally:
        if program.returncode is None:
            program.kill()
    assert "forked from one that has used an object store" in said
    assert "'spawn'" in said


async def test_rights_are_asked_for_where_the_video_will_be(
    kit: Kit, gate: Gate, shelf: Shelf
) -> None:
    """A key that may write under one prefix is let in there, and nowhere else; nothing is left."""

    async def only_mine(request: web.Request) -> Answer:
        # Objects are deleted by a list of them, sent to the bucket.
        mine = request.path.startswith("/videos-of-tests/mine/") or request.method == "POST"
        return None if mine else refused(403, "AccessDenied")

    gate.before = only_mine
    for to in ("mine/", "mine/{stem}.mp4", "mine/{task_id}.mp4", "mine/a.mp4"):
        await check(kit, f"{BUCKET}/{to}", overwrite=False)
    for to in ("", "other/", "a.mp4", "minefield/{task_id}.mp4"):
        with pytest.raises(DownloadError, match="AccessDenied"):
            await paying(kit, f"{BUCKET}/{to}")
    assert shelf.keys() == []
    assert [path for method, path in gate.calls if method == "PUT"].count(f"mine/{PROBE}") == 1


async def test_a_right_to_write_alone_is_enough(kit: Kit, gate: Gate, shelf: Shelf) -> None:
    """Without the right to look and to delete, videos can be put all the same."""

    async def write_only(request: web.Request) -> Answer:
        return None if request.method == "PUT" else refused(403, "AccessDenied")

    gate.before = write_only
    for _ in range(2):  # the second time the object that could not be taken away is there
        await check(kit, f"{BUCKET}/v/a.mp4", overwrite=False)
        await kit.aclose()
        kit = Kit(kit.sandbox)
    await kit.downloader.download(await kit.task(), f"{BUCKET}/v/a.mp4")
    await kit.aclose()
    assert shelf.keys() == [f"v/{PROBE}", "v/a.mp4"]


async def test_a_store_without_conditional_puts_is_refused_in_words(
    kit: Kit, gate: Gate, shelf: Shelf
) -> None:
    """Nothing would keep an object from being replaced; with overwrite=True nothing has to."""

    async def unconditional(request: web.Request) -> Answer:
        conditional = request.method == "PUT" and "If-None-Match" in request.headers
        return refused(501, "NotImplemented") if conditional else None

    gate.before = unconditional
    with pytest.raises(DownloadError, match="no conditional puts") as caught:
        await paying(kit, f"{BUCKET}/a.mp4")
    assert "overwrite=True" in caught.value.next_step
    assert len([path for method, path in gate.calls if method == "PUT"]) == 2
    await check(kit, f"{BUCKET}/a.mp4", overwrite=True)
    assert shelf.keys() == []


async def test_a_folder_for_parts_that_is_not_ours_is_not_used(
    kit: Kit, shelf: Shelf, spool: Path
) -> None:
    """In a temporary folder that all may write to, somebody else may have made it first."""
    spool.rmdir()
    spool.symlink_to(spool.parent)
    with pytest.raises(DownloadError, match="cannot be used for parts"):
        await paying(kit, f"{BUCKET}/a.mp4")
    spool.unlink()
    spool.mkdir(mode=0o777)
    spool.chmod(0o777)
    with pytest.raises(DownloadError, match="cannot be used for parts"):
        await paying(kit, f"{BUCKET}/a.mp4")


async def test_parts_that_nobody_resumes_are_taken_away(
    kit: Kit, shelf: Shelf, spool: Path
) -> None:
    """Their links have died; what was rejected stays."""
    long_ago = time.time() - 3 * 24 * 3600
    for name in ("old.mp4.part", "old.mp4.part.json", "old.mp4.rejected", "young.mp4.part"):
        (spool / name).touch()
        if name.startswith("old"):
            os.utime(spool / name, (long_ago, long_ago))
    await kit.downloader.download(await kit.task(), f"{BUCKET}/a.mp4")
    assert sorted(path.name for path in spool.iterdir()) == ["old.mp4.rejected", "young.mp4.part"]


async def test_generate_saves_into_a_store(sandbox: Sandbox, shelf: Shelf) -> None:
    """From one image to one object; a second call for the same key pays nothing."""
    sandbox.speed = 1000.0
    async with open_session(sandbox) as session:
        video = await session.generate(LINK, save_to=f"{BUCKET}/v/{{stem}}.mp4")
        assert (video.url, shelf.keys()) == (f"{BUCKET}/v/cat.mp4", ["v/cat.mp4"])
        with pytest.raises(DestinationExistsError) as caught:
            await session.generate(LINK, save_to=f"{BUCKET}/v/{{stem}}.mp4")
    assert (caught.value.charged, sandbox.paid) == ("no", 1)


async def test_a_bucket_that_is_not_there_is_a_clear_error(kit: Kit, shelf: Shelf) -> None:
    """The error says which place could not be written, and that the task is paid."""
    task = await kit.task()
    with pytest.raises(DownloadError, match="s3://no-such-bucket") as caught:
        await kit.downloader.download(task, "s3://no-such-bucket/")
    assert caught.value.charged == "yes"
