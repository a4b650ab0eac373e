"""The videos: real ones against their images, stubs against a real decoder, and both off the event
loop.
"""

from __future__ import annotations

import asyncio
import io
import math
import subprocess
import sys
from pathlib import Path

import aiohttp
import av
import pytest
from PIL import Image, ImageChops, ImageStat

from happyhorse_async.sandbox import Sandbox
from happyhorse_async.sandbox._render import render_video
from happyhorse_async.sandbox._stub_video import stub_video
from tests.sandbox.conftest import Wire, picture

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PHOTOS = Path(__file__).parents[2] / "happyhorse_async" / "sandbox" / "photos"


def decode(video: bytes) -> tuple[list[Image.Image], float]:
    """Decode a video to the end, and return its frames and its length in seconds."""
    with av.open(io.BytesIO(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
        return frames, (container.duration or 0) / av.time_base


def first_frame(video: bytes) -> Image.Image:
    """Decode the first frame of a video."""
    with av.open(io.BytesIO(video)) as container:
        return next(container.decode(video=0)).to_image()


def psnr(one: Image.Image, two: Image.Image) -> float:
    """Return the peak signal-to-noise ratio of two images in decibels."""
    statistics = ImageStat.Stat(ImageChops.difference(one, two))
    error = sum(statistics.sum2) / (3 * one.width * one.height)
    return 100.0 if error == 0 else 10 * math.log10(255**2 / error)


@pytest.mark.parametrize(
    ("photo", "quality", "seconds", "size"),
    [
        ("cat", "720p", 3, (1082, 720)),
        ("coffee", "720p", 4, (1080, 720)),
        ("rocket", "1080p", 3, (1618, 1080)),
    ],
)
def test_a_real_video_starts_with_its_image_and_moves(
    photo: str, quality: str, seconds: int, size: tuple[int, int]
) -> None:
    """H.264 of the asked size and length; the first frame is the scaled image, the last one shows
    motion.
    """
    image = (PHOTOS / f"{photo}.jpg").read_bytes()
    video = render_video(image, seconds=seconds, quality=quality, seed=7)
    frames, length = decode(video)
    with Image.open(io.BytesIO(image)) as source:
        scaled = source.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    assert frames[0].size == size
    assert abs(length - seconds) <= 0.1
    assert psnr(frames[0], scaled) >= 28
    assert psnr(frames[0], frames[-1]) < 24
    assert video.index(b"moov") < video.index(b"mdat")
    with av.open(io.BytesIO(video)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_the_same_request_and_seed_give_the_same_bytes() -> None:
    """Another seed moves elsewhere."""
    image = picture(300, 300)
    one, two, three = (
        render_video(image, seconds=3, quality="720p", seed=seed) for seed in (1, 1, 2)
    )
    assert one == two != three


@pytest.mark.parametrize(
    ("width", "height", "kind"), [(300, 400, "JPEG"), (501, 333, "PNG"), (300, 300, "WEBP")]
)
def test_the_short_side_is_the_quality_and_the_ratio_the_images_own(
    width: int, height: int, kind: str
) -> None:
    """Both sides are even, whatever the image's are."""
    frame = first_frame(
        render_video(picture(width, height, kind), seconds=3, quality="720p", seed=1)
    )
    assert min(frame.size) == 720
    assert all(side % 2 == 0 for side in frame.size)
    assert abs(frame.width / frame.height - width / height) < 0.01


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_images_of_every_colour_mode_are_rendered(mode: str) -> None:
    """Grey, palette, transparency and print colours all become a video."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(picture(300, 300))) as image:
        image.convert(mode).save(file, "JPEG" if mode == "CMYK" else "PNG")
        expected = image.convert(mode).convert("RGB").resize((720, 720))
    frame = first_frame(render_video(file.getvalue(), seconds=3, quality="720p", seed=1))
    assert psnr(frame, expected) >= 28


def test_a_rotated_photograph_is_shown_upright() -> None:
    """The orientation in the metadata decides the video's ratio."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(picture(400, 300))) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, "JPEG", exif=exif)
    frame = first_frame(render_video(file.getvalue(), seconds=3, quality="720p", seed=1))
    assert frame.width < frame.height


@pytest.mark.parametrize(
    ("width", "height", "seconds"),
    [(1280, 720, 15), (1920, 1080, 3), (720, 1280, 3), (1082, 720, 3), (720, 722, 3)],
)
def test_a_stub_is_a_true_video_of_one_colour(width: int, height: int, seconds: int) -> None:
    """A decoder reads it to the end without an error; size and length are as asked."""
    video = stub_video(width=width, height=height, seconds=seconds, seed=12_345_678)
    frames, length = decode(video)
    assert length == seconds
    assert frames[0].size == (width, height)
    assert frames[0].tobytes() == frames[-1].tobytes()
    assert all(low == high for low, high in frames[0].getextrema())
    assert len(video) < 20_000


def test_stubs_differ_by_seed_repeat_themselves_and_can_be_long() -> None:
    """Same arguments, same bytes; `size` is the least length, and the filling is ignored by
    decoders.
    """
    videos = {
        stub_video(width=1280, height=720, seconds=3, seed=seed)
        for seed in (1, 2, 3, 2_147_483_647)
    }
    assert len(videos) == 4
    assert stub_video(width=1280, height=720, seconds=3, seed=1) in videos
    long = stub_video(width=1280, height=720, seconds=3, seed=1, size=1_000_000)
    assert len(long) == 1_000_000
    assert len(decode(long)[0]) == 12


async def test_the_whole_way_of_a_real_video(http: aiohttp.ClientSession) -> None:
    """Uploaded, submitted, rendered, downloaded: the first frame is the image, and the bytes are
    those of the seed.
    """
    image = picture(400, 300)
    async with Sandbox(video="real", speed=0) as sandbox:
        wire = Wire(sandbox, http)
        url = (await wire.upload(image)).json["data"]["file_url"]
        link = await wire.completed(image_urls=[url], duration=3, seed=5)
        video = (await wire.download(link)).body
    assert video == render_video(image, seconds=3, quality="720p", seed=5)


async def test_an_image_elsewhere_is_fetched_over_http(http: aiohttp.ClientSession) -> None:
    """One sandbox serves the image, the other one fetches, checks and animates it."""
    async with Sandbox(video="stub") as host, Sandbox(video="real", task_seconds=0) as sandbox:
        elsewhere, wire = Wire(host, http), Wire(sandbox, http)
        good = (await elsewhere.upload(picture(400, 300))).json["data"]["file_url"]
        small = (await elsewhere.upload(picture(200, 300))).json["data"]["file_url"]
        ids = [
            await wire.accepted(image_urls=[url], duration=3)
            for url in (good, small, host.files_url + "/none")
        ]
        views = [await ended(wire, task_id) for task_id in ids]
        assert [view["status"] for view in views] == ["completed", "failed", "failed"]
        assert [view.get("error", {}).get("code") for view in views] == [
            None,
            "image_dimension_mismatch",
            "image_processing_error",
        ]
        assert (await wire.download(views[0]["results"][0])).status == 200


async def test_an_image_that_only_looks_like_one_fails_the_task(
    http: aiohttp.ClientSession,
) -> None:
    """The header is fine and the rest is missing: found when it is decoded, before the task
    completes.
    """
    async with Sandbox(video="real", task_seconds=0) as sandbox:
        wire = Wire(sandbox, http)
        url = (await wire.upload(picture()[:400])).json["data"]["file_url"]
        view = await ended(wire, await wire.accepted(image_urls=[url]))
    assert view["error"]["code"] == "image_processing_error"


async def test_a_broken_image_never_becomes_a_video(http: aiohttp.ClientSession) -> None:
    """A task that is finished by hand has failed or, if it was quicker than the check, has a link
    to nothing.
    """
    async with Sandbox(video="real", speed=0) as sandbox:
        wire = Wire(sandbox, http)
        url = (await wire.upload(picture()[:400])).json["data"]["file_url"]
        task_id = await wire.accepted(image_urls=[url])
        sandbox.finish()
        view = await wire.task(task_id)
        if view["status"] == "completed":
            assert (await wire.download(view["results"][0])).status == 410
        else:
            assert view["error"]["code"] == "image_processing_error"


async def ended(wire: Wire, task_id: str) -> dict[str, object]:
    """Query a task until it has ended."""
    async with asyncio.timeout(100):
        while True:
            view = await wire.task(task_id)
            if view["status"] in ("completed", "failed"):
                return view


async def test_rendering_does_not_hold_up_other_answers(http: aiohttp.ClientSession) -> None:
    """While a video is rendered, other requests are answered one after another."""
    async with Sandbox(video="real", speed=0) as sandbox:
        wire = Wire(sandbox, http)
        url = (await wire.upload(picture())).json["data"]["file_url"]
        link = await wire.completed(image_urls=[url], duration=3)
        rendering = asyncio.ensure_future(wire.download(link))
        answered = 0
        while not rendering.done():
            assert (await wire.get("/v1/credits")).status == 200
            answered += 1
        assert (await rendering).status == 200
    assert answered > 10


async def test_a_long_video_is_sent_in_pieces_and_arrives_whole(
    http: aiohttp.ClientSession,
) -> None:
    """Its length is announced, a range of it is exact, HEAD sends nothing, and it is the video and
    its filling.
    """
    async with Sandbox(video="stub", speed=0, stub_bytes=3_000_000) as sandbox:
        wire = Wire(sandbox, http)
        link = await wire.completed()
        whole = await wire.download(link)
        assert int(whole.headers["Content-Length"]) == len(whole.body) == 3_000_000
        assert whole.headers["Content-Type"] == "video/mp4"
        part = await wire.download(link, Range="bytes=100000-2900000")
        assert (part.status, part.body) == (206, whole.body[100_000:2_900_001])
        head = await wire.call("HEAD", link, key=None)
        assert (head.headers["Content-Length"], head.body) == ("3000000", b"")


async def test_a_video_is_rendered_once(http: aiohttp.ClientSession) -> None:
    """The second task with the same image, seed and quality gets the video that was kept."""
    async with Sandbox(video="real", speed=0) as sandbox:
        wire = Wire(sandbox, http)
        url = (await wire.upload(picture(300, 300))).json["data"]["file_url"]
        first = await wire.download(await wire.completed(image_urls=[url], duration=3, seed=9))
        second = await wire.download(await wire.completed(image_urls=[url], duration=3, seed=9))
    assert first.body == second.body
    assert first.headers["ETag"] == second.headers["ETag"]


def test_stub_mode_imports_neither_pyav_nor_pillow_nor_the_sdk() -> None:
    """A sandbox that submits and serves a stub has loaded nothing but aiohttp and attrs."""
    script = """
import asyncio, sys
from happyhorse_async.sandbox import Sandbox

async def main():
    async with Sandbox(video="stub") as sandbox:
        pass

asyncio.run(main())
loaded = {name.partition(".")[0] for name in sys.modules}
own = (name for name in sys.modules if name.startswith("happyhorse_async"))
ours = sorted(name for name in own if ".sandbox" not in name)
print(sorted(loaded & {"av", "PIL", "cattrs", "anyio"}), ours)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[] ['happyhorse_async', 'happyhorse_async._version']"
