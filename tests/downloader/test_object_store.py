"""Videos into an object store: a real S3 server on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from happyhorse_async import (
    DestinationExistsError,
    DownloadError,
    IncompleteDownloadError,
    NotAVideoError,
    RetryPolicy,
)
from happyhorse_async._edges import part_files
from happyhorse_async._edges.object_store import ObjectSink
from happyhorse_async.sandbox import Fault, Sandbox
from tests.downloader.conftest import Kit, check

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BUCKET = "s3://videos-of-tests"
SIZES = {"small": 300_000, "large": 20_000_000}


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


@pytest.fixture(params=SIZES)
async def sandbox(anyio_backend: str, request: pytest.FixtureRequest) -> Any:
    """The service, with small videos that are put at once, and large ones that are uploaded in
    parts.
    """
    async with Sandbox(video="stub", speed=0, stub_bytes=SIZES[request.param]) as sandbox:
        yield sandbox


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
    sandbox.fail(Fault("slow-bytes", chunk=sandbox_share(sandbox), interval=0.2))
    begun = asyncio.Event()
    kit.events.subscribe(lambda _: begun.set(), Downloading)
    work = asyncio.create_task(kit.downloader.download(task, f"{BUCKET}/"))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (shelf.keys(), shelf.uploads()) == ([], 0)


async def test_a_cancellation_while_the_upload_is_completed_leaves_nothing(
    kit: Kit, sandbox: Sandbox, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload is brought to its end under its temporary name, which is then removed."""
    if sandbox._options.stub_bytes != SIZES["large"]:
        return  # a small video is put with one request
    task = await kit.task()
    completing, true = asyncio.Event(), ObjectSink._close_writer

    async def noted(sink: ObjectSink) -> None:
        if sink._writer is not None:
            asyncio.get_running_loop().call_soon(completing.set)
        await true(sink)

    monkeypatch.setattr(ObjectSink, "_close_writer", noted)
    work = asyncio.create_task(kit.downloader.download(task, f"{BUCKET}/"))
    await completing.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (shelf.keys(), shelf.uploads()) == ([], 0)


@pytest.mark.parametrize("native", [True, False])
async def test_a_caller_that_is_cancelled_again_and_again_leaves_nothing(
    kit: Kit, shelf: Shelf, native: bool
) -> None:
    """Neither a cancelled scope of anyio, which cancels each wait anew, nor a second cancellation
    interrupts the cleaning up.
    """
    from happyhorse_async.events import Downloading

    task, begun = await kit.task(), asyncio.Event()
    scope = anyio.CancelScope()

    def look(event: Downloading) -> None:
        # Late enough that an upload in parts has begun.
        if event.received > 9_000_000 or event.received == event.total:
            begun.set()
            if not native:
                scope.cancel()

    async def download() -> None:
        with scope:
            await kit.downloader.download(task, f"{BUCKET}/")

    kit.events.subscribe(look, Downloading)
    work = asyncio.create_task(download())
    await begun.wait()
    if native:
        while not work.done():
            work.cancel()
            await asyncio.sleep(0)
    await asyncio.wait([work])
    assert work.cancelled() is native
    assert scope.cancelled_caught is not native
    assert (shelf.keys(), shelf.uploads()) == ([], 0)


async def test_an_upload_whose_end_got_no_answer_is_removed(
    kit: Kit, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store finished the temporary object, and its answer was lost: it is taken away all the
    same.
    """
    import obstore

    true = obstore.open_writer_async

    class Deaf:
        """A writer that hears no answer to its end."""

        def __init__(self, *args: Any, **facts: Any) -> None:
            self._writer = true(*args, **facts)
            self._closed = False

        async def write(self, data: bytes) -> None:
            """Write."""
            await self._writer.write(data)

        async def close(self) -> None:
            """End the upload, as the store sees it."""
            if not self._closed:
                self._closed = True
                await self._writer.close()
            raise OSError("no answer")

    monkeypatch.setattr(obstore, "open_writer_async", Deaf)
    task = await kit.task()
    if kit.sandbox._options.stub_bytes == SIZES["large"]:
        with pytest.raises(DownloadError, match="no answer"):
            await kit.downloader.download(task, f"{BUCKET}/")
        assert (shelf.keys(), shelf.uploads()) == ([], 0)
    else:
        await kit.downloader.download(task, f"{BUCKET}/")
        assert shelf.keys() == [f"{task.id}.mp4"]


def sandbox_share(sandbox: Sandbox) -> int:
    """Give a piece of a video that takes several of them."""
    return int(sandbox._options.stub_bytes * 0.45)


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


async def test_a_bucket_that_is_not_there_is_a_clear_error(kit: Kit, shelf: Shelf) -> None:
    """The error says which place could not be written, and that the task is paid."""
    task = await kit.task()
    with pytest.raises(DownloadError, match="s3://no-such-bucket") as caught:
        await kit.downloader.download(task, "s3://no-such-bucket/")
    assert caught.value.charged == "yes"
