"""Local first frames: checked, sent once for each content, and again when they are nearly dead."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import pytest

from happyhorse_async import (
    ImageToVideo,
    InvalidRequestError,
    Limits,
    PermissionDeniedError,
    Session,
)
from happyhorse_async._edges.api import Api
from happyhorse_async._uploader import SAFETY_MARGIN, Uploader
from happyhorse_async.events import Events, Uploaded
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import PHOTOS, open_session

pytestmark = pytest.mark.anyio

STREAM = "/api/v1/files/upload/stream"


def sent(sandbox: Sandbox) -> int:
    """Count the uploads that arrived."""
    return sandbox.count("POST", STREAM)


async def test_a_local_frame_is_uploaded_and_submitted_as_a_link(
    sandbox: Sandbox, session: Session, cat: Path
) -> None:
    """A path becomes a link of the file host, which serves the very same bytes, and that link is
    submitted.
    """
    events: list[Uploaded] = []
    session.subscribe(events.append, Uploaded)
    await session.submit(cat)
    assert sandbox.tasks[0].request["image_urls"] == [events[0].file.url]
    assert events[0].file.size == cat.stat().st_size
    assert events[0].file.mime_type == "image/jpeg"
    assert cat.read_bytes() in sandbox.requests[0].body


async def test_the_same_content_is_sent_once(sandbox: Sandbox, cat: Path, tmp_path: Path) -> None:
    """One content under several names and as bytes, wanted by many at once, is one upload."""
    copy = tmp_path / "another name.jpg"
    copy.write_bytes(cat.read_bytes())
    images: list[Any] = [cat, copy, cat.read_bytes(), str(cat)] * 5
    async with open_session(sandbox) as session:
        files = await asyncio.gather(*(session.upload(image) for image in images))
        async with session.submit_many([ImageToVideo(image) for image in images]) as submissions:
            assert all([submission.ok async for submission in submissions])
    assert sent(sandbox) == 1
    assert len({file.url for file in files}) == 1


async def test_another_content_under_the_same_name_is_another_upload(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A file that has changed since it was uploaded is sent again."""
    path = tmp_path / "frame.jpg"
    path.write_bytes((PHOTOS / "cat.jpg").read_bytes())
    first = await session.upload(path)
    path.write_bytes((PHOTOS / "cat.jpg").read_bytes() + b"\0")
    assert (await session.upload(path)).url != first.url
    assert sent(sandbox) == 2


async def test_bad_files_are_refused_before_anything_is_sent(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """What the service would refuse is found in the header, with every problem named, and nothing
    is sent or paid.
    """
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "big.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes() + bytes(11 * 1024 * 1024))
    expected = {
        "text.jpg": "expected a JPEG, PNG or WEBP",
        "empty.png": "the file is empty",
        "big.jpg": "at most 10 MB",
        "missing.png": "there is no such file",
        ".": "this is not a file",
    }
    for name, problem in expected.items():
        with pytest.raises(InvalidRequestError, match=problem) as refused:
            await session.submit(tmp_path / name)
        assert refused.value.charged == "no"
    assert sandbox.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read_says_so(session: Session, tmp_path: Path) -> None:
    """A file without the right to read it is an InvalidRequestError with the system's reason."""
    path = tmp_path / "frame.png"
    path.touch(mode=0)
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        await session.upload(path)


async def test_only_local_images_can_be_uploaded(session: Session) -> None:
    """A link or a number is no image to upload."""
    for image in ("https://example.com/a.png", "data:image/png;base64,AAAA", 7):
        with pytest.raises(InvalidRequestError, match="expected a path or the bytes"):
            await session.upload(image)  # type: ignore[arg-type]


async def test_files_near_their_end_are_sent_again(
    sandbox: Sandbox, session: Session, cat: Path
) -> None:
    """A link is reused while it lives long enough for a task to start, then the content is uploaded
    again.
    """
    now = 0.0
    parts = session._open()
    uploader = Uploader(
        parts.http,
        parts.api,
        limits=Limits(),
        timeouts=session._settings.timeouts,
        events=Events(),
        clock=lambda: now,
    )
    first = await uploader.url_of(cat)
    now = 72 * 3600 - SAFETY_MARGIN - 1
    assert await uploader.url_of(cat) == first
    now += 2
    assert await uploader.url_of(cat) != first
    assert sent(sandbox) == 2


async def test_the_quota_says_what_to_do(cat: Path) -> None:
    """The service's quota error is passed on as it is, with what to do about it; nothing was
    charged.
    """
    async with (
        Sandbox(video="stub", speed=0, file_quota=0) as sandbox,
        open_session(sandbox) as session,
    ):
        with pytest.raises(PermissionDeniedError, match="quota") as full:
            await session.submit(cat)
        assert full.value.charged == "no"
        assert "Delete files" in str(full.value.next_step)
        assert full.value.idempotency_key is not None
        assert sandbox.paid == 0


async def test_an_error_is_shared_by_all_who_wait_but_not_for_ever(
    sandbox: Sandbox, cat: Path
) -> None:
    """When the one upload of a content fails, all who wait for it get an error of their own; the
    next one tries again.
    """
    sandbox.fail(
        Fault("refuse", path=STREAM, status=400, body={"success": False, "code": 400, "msg": "no"})
    )
    async with open_session(sandbox) as session:
        errors = await asyncio.gather(
            *(session.submit(cat) for _ in range(5)), return_exceptions=True
        )
        assert len({id(error) for error in errors}) == 5
        assert len({error.idempotency_key for error in errors}) == 5
        assert sent(sandbox) == 1
        assert (await session.upload(cat)).url


async def test_lost_uploads_are_sent_again(sandbox: Sandbox, cat: Path) -> None:
    """An upload changes nothing that costs, so it is retried: after a 503, a lost connection, a
    page instead of an answer.
    """
    sandbox.fail(Fault("refuse", path=STREAM, status=503))
    sandbox.fail(Fault("drop-after", path=STREAM, nth=2))
    sandbox.fail(Fault("answer-after", path=STREAM, status=200, body="<html>", nth=3))
    async with open_session(sandbox) as session:
        assert (await session.upload(cat)).url
    assert sent(sandbox) == 4


async def test_whoever_sends_may_be_cancelled(sandbox: Sandbox, cat: Path) -> None:
    """When the caller whose upload others share is cancelled, one of the others takes over."""
    sandbox.fail(Fault("hang-before", path=STREAM))
    async with open_session(sandbox) as session:
        first = asyncio.create_task(session.upload(cat))
        while not sent(sandbox):
            await anyio.lowlevel.checkpoint()
        others = [asyncio.create_task(session.upload(cat)) for _ in range(3)]
        waiting = session._open().uploader._sending
        while not any(promise._callbacks for promise in waiting.values()):  # type: ignore[attr-defined]
            await anyio.lowlevel.checkpoint()
        first.cancel()
        files = await asyncio.gather(*others)
        assert first.cancelled()
    assert len({file.url for file in files}) == 1
    assert sent(sandbox) == 2


async def test_a_file_that_changes_while_it_is_sent_is_not_submitted(
    sandbox: Sandbox, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When what arrived is not as long as what was checked, nothing is paid for it."""
    path = tmp_path / "frame.jpg"
    path.write_bytes((PHOTOS / "cat.jpg").read_bytes())
    retrying = Api.retrying

    async def change_first(self: Api, *arguments: Any) -> Any:
        path.write_bytes(path.read_bytes()[:-100])
        return await retrying(self, *arguments)

    monkeypatch.setattr(Api, "retrying", change_first)
    with pytest.raises(InvalidRequestError, match="changed while it was sent"):
        await session.submit(path)
    assert sandbox.paid == 0


async def test_no_more_uploads_at_once_than_the_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    """Limits(max_uploads=2) holds for different contents."""
    sandbox.fail(Fault("slow", path=STREAM, seconds=0.01, times=None))
    at_once, most = 0, 0
    async with open_session(sandbox, limits=Limits(max_uploads=2)) as session:
        host = session._open().uploader._host
        upload_once = host.upload_once

        async def counted(image: Any) -> Any:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return await upload_once(image)
            finally:
                at_once -= 1

        host.upload_once = counted  # type: ignore[method-assign]
        photo = (PHOTOS / "cat.jpg").read_bytes()
        await asyncio.gather(*(session.upload(photo + bytes([number])) for number in range(10)))
    assert most == 2


async def test_a_file_is_streamed(tmp_path: Path) -> None:
    """While a file of nearly 10 MB is sent, only pieces of it are in memory."""
    path = tmp_path / "frame.jpg"
    path.write_bytes((PHOTOS / "cat.jpg").read_bytes() + bytes(9_000_000))
    # In a thread of its own, the server's copy of the file would be counted as well: this one
    # throws the bytes away.
    received = 0

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while received < length:
            received += len(await reader.read(65536))
        body = b'{"success": true, "data": {"file_url": "https://files.example.com/a.jpg"}}'
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with (
        server,
        Session("a-key", base_url="http://127.0.0.1:1", files_url=address(server)) as session,
    ):
        session._open()
        tracemalloc.start()
        file = await session.upload(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert file.url == "https://files.example.com/a.jpg"
    assert received > 9_000_000
    assert peak < 4_000_000


def address(server: asyncio.Server) -> str:
    """Give a server's URL."""
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
