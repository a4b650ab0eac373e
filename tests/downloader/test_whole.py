"""What is believed to be the video: its bytes decide, and bytes that are not believed are kept."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import struct
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
from aiohttp import web

from happyhorse_async import Limits, NotAVideoError, Task, Video
from happyhorse_async.sandbox import Sandbox
from happyhorse_async.sandbox._stub_video import stub_video
from tests.downloader.conftest import QUICK, Kit, host_of, names_in

pytestmark = pytest.mark.anyio

VIDEO = stub_video(width=640, height=480, seconds=3, seed=1)
PART = len(VIDEO) // 8
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def plainly(body: bytes, **headers: str) -> Answer:
    """Answer every request with these bytes and headers."""

    async def answer(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, headers={"Content-Type": "video/mp4", **named})

    return answer


async def fetched(kit: Kit, folder: Path, answer: Answer) -> Video:
    """Download the video of a task whose link leads to a host that answers so."""
    task = await kit.task()
    async with host_of(answer) as url:
        task = attrs.evolve(task, results=(f"{url}/v.mp4",))

        async def read_task(_: str) -> Task:
            return task

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kit.api, "read_task", read_task)
            return await kit.downloader.download(task, folder / "v.mp4")


@pytest.mark.parametrize(
    "tail",
    [b"\n", bytes(4), bytes(512), b"TAG" + bytes(125), b"<!-- cdn -->", b"PK\3\4" + bytes(60)],
    ids=["newline", "four zeros", "a sector", "an ID3 tag", "text", "an archive"],
)
async def test_bytes_after_the_last_box_are_saved_too(kit: Kit, folder: Path, tail: bytes) -> None:
    """The file is as the host has it, since every player plays it."""
    video = await fetched(kit, folder, plainly(VIDEO + tail))
    assert video.path.read_bytes() == VIDEO + tail
    assert (video.duration, names_in(folder)) == (3.0, ["v.mp4"])


@pytest.mark.parametrize("label", ["text/html", "application/json", "text/plain", ""])
async def test_a_label_is_no_reason(kit: Kit, folder: Path, label: str) -> None:
    """A whole video is one, whatever its Content-Type says."""
    video = await fetched(kit, folder, plainly(VIDEO, Content_Type=label))
    assert (video.sha256, video.content_type) == (hashlib.sha256(VIDEO).hexdigest(), "video/mp4")


@pytest.mark.parametrize("count", [1, 3, 7])
async def test_first_bytes_may_drip(kit: Kit, folder: Path, count: int) -> None:
    """Nothing is decided until enough bytes are there to see what the file is."""
    taken = asyncio.Event()
    kit.events.subscribe(lambda _: taken.set())

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "video/mp4"})
        response.content_length = len(VIDEO)
        await response.prepare(request)
        for at in range(count):
            await response.write(VIDEO[at : at + 1])
            await asyncio.sleep(0.02)  # apart on the wire, so that they are read one by one
        await response.write(VIDEO[count:])
        return response

    kit.fetcher.timeouts = attrs.evolve(kit.timeouts, download_window=0.001, download_rate=0.0)
    video = await fetched(kit, folder, answer)
    assert video.path.read_bytes() == VIDEO


ENCODED = {
    "gzip": gzip.compress(VIDEO),
    "deflate": zlib.compress(VIDEO),
    "x-gzip": gzip.compress(VIDEO),
}


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_encoding_that_was_not_asked_for_is_undone(
    kit: Kit, folder: Path, name: str, chunked: bool
) -> None:
    """The file is the video, not its encoded form; size and digest are those of the file."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "identity"
        response = web.StreamResponse(headers={"Content-Encoding": name, "ETag": '"one"'})
        if not chunked:
            response.content_length = len(ENCODED[name])
        await response.prepare(request)
        for at in range(0, len(ENCODED[name]), 300):
            await response.write(ENCODED[name][at : at + 300])
        return response

    video = await fetched(kit, folder, answer)
    assert video.path.read_bytes() == VIDEO
    assert (video.size, video.sha256) == (len(VIDEO), hashlib.sha256(VIDEO).hexdigest())


async def test_a_label_of_an_encoding_that_is_not_there(kit: Kit, folder: Path) -> None:
    """Bytes that are a video's already are not decoded."""
    video = await fetched(kit, folder, plainly(VIDEO, Content_Encoding="gzip"))
    assert video.path.read_bytes() == VIDEO


async def test_an_encoded_video_that_is_cut_is_fetched_anew(kit: Kit, folder: Path) -> None:
    """Half of the encoded bytes make half a file; the length of the whole says nothing."""
    asked: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        body = ENCODED["gzip"] if len(asked) > 1 else ENCODED["gzip"][:200]
        return web.Response(body=body, headers={"Content-Encoding": "gzip", "ETag": '"one"'})

    video = await fetched(kit, folder, answer)
    assert video.path.read_bytes() == VIDEO
    assert asked == [None, None]


async def test_encoded_bytes_count_decoded_against_the_cap(sandbox: Sandbox, folder: Path) -> None:
    """A small answer that stands for a huge file is refused."""
    bomb = gzip.compress(VIDEO + bytes(5_000_000))
    async with Kit(sandbox, limits=Limits(max_video_bytes=1_000_000)) as kit:
        with pytest.raises(Exception, match="at most 1,000,000"):
            await fetched(kit, folder, plainly(bomb, Content_Encoding="gzip"))
    assert all((folder / name).stat().st_size <= 1_000_000 for name in names_in(folder))


async def test_an_encoded_page_is_a_page(kit: Kit, folder: Path) -> None:
    """It is asked about again, as one that is sent plainly, and kept decoded."""
    page = b"<!doctype html><title>Soon</title>"
    with pytest.raises(NotAVideoError, match="an HTML page") as caught:
        await fetched(kit, folder, plainly(gzip.compress(page), Content_Encoding="gzip"))
    assert Path(caught.value.rejected_path or "").read_bytes() == page


OTHERS = {
    "a WebM or Matroska video": b"\x1a\x45\xdf\xa3" + bytes(9000),
    "an AVI video": b"RIFF\0\0\1\0AVI LIST" + bytes(9000),
    "a GIF image": b"GIF89a" + bytes(9000),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_other_films_are_kept_and_named(kit: Kit, folder: Path, name: str) -> None:
    """They are paid for: all of the bytes lie beside, and the error says what they are."""
    asked = 0

    async def answer(_: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.Response(body=OTHERS[name])

    with pytest.raises(NotAVideoError, match=f"it is {name}") as caught:
        await fetched(kit, folder, answer)
    assert (folder / "v.mp4.rejected").read_bytes() == OTHERS[name]
    assert (caught.value.rejected_path, asked) == (str(folder / "v.mp4.rejected"), 1)
    assert (caught.value.charged, names_in(folder)) == ("yes", ["v.mp4.rejected"])


async def test_a_cut_body_without_a_length_is_asked_for_again(kit: Kit, folder: Path) -> None:
    """The connection may have ended too early, as often as the policy has it asked."""
    half, whole = len(VIDEO) // 2, len(VIDEO)
    for ends, expected in (([half, half, whole], None), ([half] * QUICK.attempts + [whole], half)):
        left = list(ends)

        async def answer(request: web.Request, left: list[int] = left) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "video/mp4"})
            response.force_close()
            await response.prepare(request)
            await response.write(VIDEO[: left.pop(0)])
            return response

        if expected is None:
            assert (await fetched(kit, folder, answer)).path.read_bytes() == VIDEO
            (folder / "v.mp4").unlink()
        else:
            with pytest.raises(NotAVideoError):
                await fetched(kit, folder, answer)
            assert (folder / "v.mp4.rejected").read_bytes() == VIDEO[:expected]
            assert left == [whole]


async def test_sizes_are_those_that_a_player_shows(kit: Kit, folder: Path) -> None:
    """A film that its header turns by a quarter is higher than wide."""
    at = VIDEO.index(b"tkhd") + 4 + 40
    turned = bytearray(VIDEO)
    struct.pack_into(">9i", turned, at, 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    video = await fetched(kit, folder, plainly(bytes(turned)))
    assert (video.width, video.height) == (480, 640)


@pytest.mark.parametrize("status", [206, 200])
async def test_a_host_that_sends_a_part_at_a_time_gives_the_whole_video(
    kit: Kit, folder: Path, status: int
) -> None:
    """Some hosts send at most so many bytes for one request, and some of these call a part all. The
    next request asks for what is still missing, also under a label that is no compression.
    """
    asked: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        start = int((asked[-1] or "bytes=0-")[6:-1])
        part = VIDEO[start : start + PART]
        headers = {
            "Content-Type": "video/mp4",
            "Content-Encoding": "aws-chunked",
            "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(VIDEO)}",
            "ETag": '"one"',
        }
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(part)
        await response.prepare(request)
        await response.write(part)
        return response

    assert (await fetched(kit, folder, answer)).path.read_bytes() == VIDEO
    starts = range(PART, len(VIDEO), PART)
    assert asked == [None, *(f"bytes={start}-" for start in starts)]
    assert names_in(folder) == ["v.mp4"]
