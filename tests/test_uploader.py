"""Local first frames: checked, sent once for each content, and again when they are nearly dead."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import tracemalloc
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from happyhorse_async import (
    BadRequestError,
    ImageToVideo,
    InvalidRequestError,
    Limits,
    PermissionDeniedError,
    Session,
    SessionClosedError,
    UnreadableAnswerError,
    _uploader,
)
from happyhorse_async._dispatcher import Events
from happyhorse_async._edges.api import Api
from happyhorse_async._edges.local_images import file_problems
from happyhorse_async._uploader import SAFETY_MARGIN, Uploader
from happyhorse_async.events import Retrying, Uploaded
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import PHOTOS, open_session

pytestmark = pytest.mark.anyio

STREAM = "/api/v1/files/upload/stream"
RECEIPTS = "/api/v1/files/upload-receipts/"


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
        "~/missing.png": "only shells put a home for ~",
    }
    for name, problem in expected.items():
        with pytest.raises(InvalidRequestError, match=problem) as refused:
            await session.submit(name if name[0] == "~" else tmp_path / name)
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


def waiters(session: Session) -> int:
    """Count those who wait for an upload that somebody else sends."""
    promises = session._open().uploader._sending.values()
    return sum(len(promise._callbacks or ()) for promise in promises)  # type: ignore[attr-defined]


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
        host = session._open().uploader._host
        upload_once = host.upload_once

        async def once_all_wait(*arguments: Any) -> Any:
            while waiters(session) < 4:
                await anyio.lowlevel.checkpoint()
            host.upload_once = upload_once  # type: ignore[method-assign]
            return await upload_once(*arguments)

        host.upload_once = once_all_wait  # type: ignore[method-assign]
        errors = await asyncio.gather(
            *(session.submit(cat) for _ in range(5)), return_exceptions=True
        )
        assert len({id(error) for error in errors}) == 5
        assert len({error.idempotency_key for error in errors}) == 5
        assert sent(sandbox) == 1
        assert (await session.upload(cat)).url


async def test_lost_uploads_are_sent_again(sandbox: Sandbox, cat: Path) -> None:
    """An upload changes nothing that costs, so it is retried: after a 503, a lost connection, a
    page instead of an answer; but for those that a receipt proves.
    """
    sandbox.fail(Fault("refuse", path=STREAM, status=503))
    sandbox.fail(Fault("drop-after", path=STREAM, nth=2))
    sandbox.fail(Fault("answer-after", path=STREAM, status=200, body="<html>", nth=3))
    async with open_session(sandbox) as session:
        assert (await session.upload(cat)).url
    assert sent(sandbox) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 451])
async def test_a_gateways_page_is_no_last_word(sandbox: Sandbox, cat: Path, status: int) -> None:
    """What stands before the file host may refuse an upload for a moment: it is sent again."""
    sandbox.fail(Fault("gateway-page", path=STREAM, status=status, times=2))
    async with open_session(sandbox) as session:
        assert (await session.upload(cat)).url
    assert sent(sandbox) == 3


async def test_what_is_too_large_for_a_gateway_is_sent_once(sandbox: Sandbox, cat: Path) -> None:
    """A gateway's 413 comes again, however often the same bytes are sent."""
    sandbox.fail(Fault("gateway-page", path=STREAM, status=413))
    async with open_session(sandbox) as session:
        with pytest.raises(BadRequestError, match="413"):
            await session.upload(cat)
    assert sent(sandbox) == 1


async def test_whoever_sends_may_be_cancelled(sandbox: Sandbox, cat: Path) -> None:
    """When the caller whose upload others share is cancelled, one of the others takes over."""
    sandbox.fail(Fault("hang-before", path=STREAM))
    async with open_session(sandbox) as session:
        first = asyncio.create_task(session.upload(cat))
        while not sent(sandbox):
            await anyio.lowlevel.checkpoint()
        others = [asyncio.create_task(session.upload(cat)) for _ in range(3)]
        while not waiters(session):
            await anyio.lowlevel.checkpoint()
        first.cancel()
        files = await asyncio.gather(*others)
        assert first.cancelled()
    assert len({file.url for file in files}) == 1
    assert sent(sandbox) == 2


def frame_in(folder: Path) -> Path:
    """Put a photograph into a folder."""
    path = folder / "frame.jpg"
    path.write_bytes((PHOTOS / "cat.jpg").read_bytes())
    return path


def shorter(path: Path) -> None:
    """Cut a file."""
    path.write_bytes(path.read_bytes()[:-100])


def longer(path: Path) -> None:
    """Add to a file."""
    path.write_bytes(path.read_bytes() + b"more")


def other(path: Path) -> None:
    """Replace a file by other bytes of the same length."""
    path.write_bytes(b"<html>" + bytes(path.stat().st_size - 6))


def piped(path: Path) -> None:
    """Put a pipe in the place of a file."""
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change", [shorter, longer, other, piped, Path.unlink])
async def test_a_file_that_changes_after_it_was_checked_is_not_submitted(
    sandbox: Sandbox, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    """Nothing is sent whole that nobody has checked, not even of the same length;
    nothing is paid.
    """
    path, retrying = frame_in(tmp_path), Api.retrying

    async def change_first(self: Api, *arguments: Any, **more: Any) -> Any:
        change(path)
        return await retrying(self, *arguments, **more)

    monkeypatch.setattr(Api, "retrying", change_first)
    with pytest.raises(InvalidRequestError, match=r"has changed since|cannot be read|no such file"):
        await session.submit(path)
    assert sandbox.paid == 0
    assert not any(request.status == 200 for request in sandbox.requests)


async def test_a_file_that_changes_between_two_tries_is_refused(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """The second try looks at the bytes again."""
    path = frame_in(tmp_path)
    sandbox.fail(Fault("refuse", path=STREAM, status=503))
    session.subscribe(lambda _: other(path), Retrying)
    with pytest.raises(InvalidRequestError, match="has changed since"):
        await session.upload(path)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
async def test_what_is_no_file_is_refused_at_once(
    sandbox: Sandbox, session: Session, tmp_path: Path, kind: str
) -> None:
    """A pipe that nobody writes to is not waited for, in no path that looks at images."""
    path = tmp_path / "frame.png"
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            listener.bind(os.fspath(path))
        else:
            path = Path("/dev/zero")
        for call in (session.upload, session.submit):
            with pytest.raises(InvalidRequestError, match="this is not a file"):
                await call(path)
        assert "this is not a file" in (await session.problems(path))[0]
        assert "this is not a file" in file_problems(path)[0]
    assert sandbox.requests == []


@pytest.mark.parametrize("image", ["", b"", Path(""), bytearray(), "."])
def test_an_empty_image_is_refused_when_the_request_is_made(image: Any) -> None:
    """Nothing has to be opened or looked at for that."""
    with pytest.raises(InvalidRequestError, match=r"image: .*empty"):
        ImageToVideo(image)


@pytest.mark.parametrize("name", ["frame.jfif", "frame.jpe", os.fsdecode(b"caf\xe9.jpg")])
async def test_a_file_of_any_name_is_uploaded(
    sandbox: Sandbox, session: Session, tmp_path: Path, name: str
) -> None:
    """What is in it counts; a name that is not UTF-8 does not travel."""
    path = tmp_path / name
    path.write_bytes((PHOTOS / "cat.jpg").read_bytes())
    file = await session.upload(path)
    assert file.name.endswith(".jpg")
    assert file.name.isascii()


# --- Lost answers.


async def test_an_upload_that_arrived_is_not_sent_again(sandbox: Sandbox, cat: Path) -> None:
    """Its answer was lost; the receipt says that the service has it."""
    sandbox.fail(Fault("drop-after", path=STREAM))
    async with open_session(sandbox) as session:
        file = await session.upload(cat)
    assert (sent(sandbox), file.size) == (1, cat.stat().st_size)
    upload_id = sandbox.requests[0].headers["X-Evo-Upload-Id"]
    assert sandbox.count("GET", f"{RECEIPTS}{upload_id}") == 1


@pytest.mark.parametrize(
    "receipt",
    [
        Fault("unknown-receipt", times=None),
        Fault("refuse", path=RECEIPTS, status=405, times=None),
        Fault("refuse", path=RECEIPTS, status=404, times=None),
        Fault("drop-before", path=RECEIPTS, times=None),
    ],
    ids=["not decided", "no such call", "no receipt", "no answer"],
)
async def test_without_a_receipt_it_is_sent_again(
    sandbox: Sandbox, cat: Path, receipt: Fault
) -> None:
    """The same upload id goes with it, so that the service can tell."""
    sandbox.fail(Fault("drop-after", path=STREAM))
    sandbox.fail(receipt)
    async with open_session(sandbox) as session:
        assert (await session.upload(cat)).size == cat.stat().st_size
    ids = [
        request.headers["X-Evo-Upload-Id"] for request in sandbox.requests if request.path == STREAM
    ]
    assert (len(ids), len(set(ids))) == (2, 1)


def told(size: int, **where: Any) -> Fault:
    """Say another size of what was uploaded than it has."""
    file = {"file_id": f"f{size}", "file_url": f"https://files.example.com/{size}.jpg"}
    body = {"success": True, "code": 200, "data": {**file, "file_size": size}}
    return Fault("answer-after", path=STREAM, status=200, body=body, **where)


async def test_an_upload_of_another_size_is_sent_again(sandbox: Sandbox, cat: Path) -> None:
    """It may be torn. It goes out with another id, so that the service repeats no answer."""
    sandbox.fail(told(1000))
    async with open_session(sandbox) as session:
        assert (await session.upload(cat)).size == cat.stat().st_size
    ids = {request.headers["X-Evo-Upload-Id"] for request in sandbox.requests}
    assert (sent(sandbox), len(ids)) == (2, 2)


async def test_a_host_that_tells_many_sizes_of_an_image_has_none_of_them(
    sandbox: Sandbox, cat: Path
) -> None:
    """Nothing is paid for a first frame that may be torn."""
    for nth in range(1, 9):
        sandbox.fail(told(1000 + nth, nth=nth))
    async with open_session(sandbox) as session:
        with pytest.raises(UnreadableAnswerError, match="were sent") as caught:
            await session.submit(cat)
    assert caught.value.charged == "no"
    assert sandbox.paid == 0


async def test_a_host_that_stores_images_in_its_own_way_is_taken_at_its_word(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same other size twice is a habit. The next images are sent once."""
    photo = (PHOTOS / "cat.jpg").read_bytes()
    sandbox.fail(told(1000, times=None))
    async with open_session(sandbox) as session:
        for number in range(3):
            await session.submit(photo + bytes([number]))
    assert (sent(sandbox), sandbox.paid) == (4, 3)
    assert sandbox.tasks[0].request["image_urls"] == ["https://files.example.com/1000.jpg"]
    assert caplog.text.count("sizes are not looked at now") == 1


async def test_each_upload_has_an_id_of_its_own(sandbox: Sandbox, tmp_path: Path) -> None:
    """16 to 128 characters of A-Za-z0-9_-."""
    photo = (PHOTOS / "cat.jpg").read_bytes()
    async with open_session(sandbox) as session:
        for number in range(3):
            await session.upload(photo + bytes([number]))
    ids = {request.headers["X-Evo-Upload-Id"] for request in sandbox.requests}
    assert len(ids) == 3
    assert all(re.fullmatch("[A-Za-z0-9_-]{16,128}", upload_id) for upload_id in ids)


async def test_uploads_are_remembered_up_to_a_limit(
    sandbox: Sandbox, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endless input does not fill the memory: the oldest are forgotten, and sent again."""
    monkeypatch.setattr(_uploader, "MOST_REMEMBERED", 3)
    photo = (PHOTOS / "cat.jpg").read_bytes()
    for number in range(10):
        await session.upload(photo + bytes([number]))
    uploader = session._open().uploader
    assert [len(kept) for kept in (uploader._files, uploader._contents, uploader._kept)] == [3] * 3
    await session.upload(photo + bytes([9]))
    await session.upload(photo + bytes([0]))
    assert sent(sandbox) == 11


async def test_a_file_that_is_sent_again_is_remembered_once(
    sandbox: Sandbox, session: Session, cat: Path
) -> None:
    """A logo that lives through years of submissions leaves nothing of its older links behind."""
    now = 0.0
    uploader = session._open().uploader
    uploader._clock = lambda: now
    for _ in range(5):
        link = (await session.upload(cat)).url
        now += 73 * 3600
    assert sent(sandbox) == 5
    assert list(uploader._contents) == [link]


async def test_uploads_that_fail_leave_nothing_behind(sandbox: Sandbox, session: Session) -> None:
    """A file host that is down for a month does not fill the memory with what was wanted."""
    photo = (PHOTOS / "cat.jpg").read_bytes()
    sandbox.fail(Fault("refuse", path=STREAM, status=403, times=None))
    for number in range(3):
        with pytest.raises(PermissionDeniedError):
            await session.upload(photo + bytes([number]))
    uploader = session._open().uploader
    assert not uploader._kept
    assert not uploader._asking


async def test_what_was_borrowed_and_given_back_leaves_nothing_behind(
    sandbox: Sandbox, session: Session
) -> None:
    """Each submission of bytes borrows a file; after its end nothing of it is remembered."""
    photo = (PHOTOS / "cat.jpg").read_bytes()
    uploader = session._open().uploader
    for number in range(3):
        link = await uploader.borrow(photo + bytes([number]), number)
        await uploader.give_back(link, number)
    remembered = (uploader._files, uploader._contents, uploader._borrowers, uploader._asking)
    assert not any(remembered)


@pytest.mark.parametrize("years", [-3, 4000])
async def test_no_life_of_a_file_is_believed_beyond_the_promise(
    sandbox: Sandbox, session: Session, cat: Path, years: int
) -> None:
    """A service that says that its file lives for ever, or died long ago,
    is not taken at its word.
    """
    uploader = session._open().uploader
    file = await session.upload(cat)
    assert file.expires_at is not None
    odd = attrs.evolve(file, expires_at=file.expires_at.replace(year=2026 + years))
    life = uploader._end_of(odd) - uploader._clock() + SAFETY_MARGIN
    assert life == pytest.approx(0 if years < 0 else 72 * 3600, abs=60)


async def test_no_more_uploads_at_once_than_the_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    """Limits(max_uploads=2) holds for different contents."""
    at_once, most = 0, 0
    async with open_session(sandbox, limits=Limits(max_uploads=2)) as session:
        host = session._open().uploader._host
        upload_once = host.upload_once

        async def counted(*arguments: Any) -> Any:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return await upload_once(*arguments)
            finally:
                at_once -= 1

        host.upload_once = counted  # type: ignore[method-assign]
        photo = (PHOTOS / "cat.jpg").read_bytes()
        await asyncio.gather(*(session.upload(photo + bytes([number])) for number in range(10)))
    assert most == 2


async def test_a_refused_upload_holds_the_others(sandbox: Sandbox, tmp_path: Path) -> None:
    """After a 429 that asks for half a second, no upload leaves before that, and all arrive."""
    photo = (PHOTOS / "cat.jpg").read_bytes()
    sandbox.fail(Fault("refuse", path=STREAM, status=429, headers={"Retry-After": "0.5"}))
    clock = asyncio.get_running_loop().time
    async with open_session(sandbox) as session:
        refused = asyncio.get_running_loop().create_future()
        session.subscribe(lambda event: refused.set_result(clock()), Retrying)
        first = asyncio.create_task(session.upload(photo))
        began = await refused
        await session.upload(photo + b"2")
        assert clock() - began >= 0.49
        await first
    assert sent(sandbox) == 3


async def test_a_closed_session_ends_an_upload_that_is_held(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """An upload that waits for another one's pause ends with the session."""
    photo = (PHOTOS / "cat.jpg").read_bytes()
    sandbox.fail(
        Fault("refuse", path=STREAM, status=429, headers={"Retry-After": "50"}, times=None)
    )
    session = await open_session(sandbox).__aenter__()
    refused = asyncio.Event()
    session.subscribe(lambda event: refused.set(), Retrying)
    uploads = [asyncio.create_task(session.upload(photo))]
    await refused.wait()
    uploads.append(asyncio.create_task(session.upload(photo + b"2")))
    await anyio.wait_all_tasks_blocked()
    await session.aclose()
    ended = await asyncio.gather(*uploads, return_exceptions=True)
    assert [type(each) for each in ended] == [SessionClosedError, SessionClosedError]
    assert sent(sandbox) == 1


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
