"""A true video from a first frame: H.264 in an MP4 that starts with exactly that image and then
moves slowly closer.

Runs in a worker thread. Scaling and encoding release the GIL, and each frame holds it only for
copies of its planes.
"""

from __future__ import annotations

import io
import tempfile
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs
import av
from av.video.frame import VideoFrame
from PIL import Image, ImageOps

from ._images import video_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


FRAMES_PER_SECOND = 24
_CLOSER = 0.18
"""The share of width and height that the camera has cut away at the end."""

# One thread: with several, x264's decisions and so its bytes depend on timing.
_ENCODER = {
    "preset": "ultrafast",
    "crf": "20",
    "threads": "1",
    "x264-params": "keyint=48:threads=1:lookahead-threads=1",
}


def render_video(image: bytes, *, seconds: int, quality: str, seed: int) -> bytes:
    """Return the MP4; the same arguments give the same bytes.

    The short side is `quality`'s, the ratio the image's own; the seed decides where the camera
    goes.
    """
    planes = _planes(image, quality)
    frames = _frames(planes, _Camera.drawn(seed), seconds * FRAMES_PER_SECOND)
    # The muxer moves the index to the front by reading its own output again, which takes a file on
    # disk.
    with tempfile.TemporaryDirectory(prefix="happyhorse-sandbox-") as directory:
        path = Path(directory, "video.mp4")
        _encode(path, planes[0].size, frames)
        return path.read_bytes()


def decoding_problem(image: bytes) -> str | None:
    """Return why an image whose header is in order cannot be decoded; None when it can."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"the image could not be decoded: {error}"
    return None


def _encode(path: Path, size: tuple[int, int], frames: Iterator[VideoFrame]) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=dict(_ENCODER))
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@attrs.frozen
class _Camera:
    """Where the camera looks at the end: the share of the cut on the left and on the top."""

    left: float
    top: float

    @classmethod
    def drawn(cls, seed: int) -> _Camera:
        """Return the camera of a seed."""
        chance = Random(seed)
        return cls(chance.uniform(0.15, 0.85), chance.uniform(0.15, 0.85))

    def box(self, size: tuple[int, int], progress: float) -> tuple[float, float, float, float]:
        """Return what the camera sees of a plane: everything at 0, its final cut at 1, gently
        between.
        """
        cut = _CLOSER * progress * progress * (3 - 2 * progress)
        width, height = size
        left, top = width * cut * self.left, height * cut * self.top
        return left, top, left + width * (1 - cut), top + height * (1 - cut)


def _planes(image: bytes, quality: str) -> tuple[Image.Image, ...]:
    """Return the scaled image's luma and its two chroma planes of half the size."""
    with Image.open(io.BytesIO(image)) as opened:
        ImageOps.exif_transpose(opened, in_place=True)
        # A conversion of a large image holds the GIL for long, so it comes after scaling where that
        # loses nothing.
        upright = opened if opened.mode in ("RGB", "L") else opened.convert("RGB")
        size = video_size(quality, upright.size)
        scaled = upright.resize(size, Image.Resampling.BICUBIC).convert("RGB")
    # PyAV leaves it without types.
    to_frame: Callable[[Image.Image], VideoFrame] = VideoFrame.from_image
    frame = to_frame(scaled).reformat(format="yuv420p")
    return tuple(_plane_image(frame, index) for index in range(3))


def _plane_image(frame: VideoFrame, index: int) -> Image.Image:
    plane = frame.planes[index]
    rows = Image.frombytes("L", (plane.line_size, plane.height), bytes(plane))
    return rows.crop((0, 0, plane.width, plane.height))


def _frames(planes: tuple[Image.Image, ...], camera: _Camera, count: int) -> Iterator[VideoFrame]:
    width, height = planes[0].size
    for number in range(count):
        frame = VideoFrame(width, height, "yuv420p")
        for source, target in zip(planes, frame.planes, strict=True):
            seen = source
            if number:
                seen = source.resize(
                    source.size,
                    Image.Resampling.BILINEAR,
                    camera.box(source.size, number / (count - 1)),
                )
            if target.line_size != target.width:
                seen = seen.crop((0, 0, target.line_size, target.height))
            target.update(seen.tobytes())
        frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
        yield frame
