"""First frames as bytes: format and size from the header, and the service's rules for them. No
image library needed.
"""

from __future__ import annotations

import struct

import attrs

MAX_BYTES = 10 * 1024 * 1024
MIN_SIDE = 300
MAX_RATIO = 2.5
_ACCEPTED = ("image/jpeg", "image/png", "image/webp")


@attrs.frozen
class ImageFacts:
    """What an image's header says: media type, width and height in pixels."""

    mime_type: str
    width: int
    height: int


@attrs.frozen
class FrameProblem:
    """Why a task fails on its first frame: `error.code` and `error.message`."""

    code: str
    message: str


def read_header(data: bytes) -> ImageFacts | None:
    """Return the facts of a JPEG, PNG, WEBP or GIF; None when the bytes are none of them or end too
    early.
    """
    for magic, reader in _READERS:
        if data.startswith(magic):
            try:
                return reader(data)
            except (struct.error, IndexError):
                return None
    return None


def frame_problem(data: bytes) -> FrameProblem | None:
    """Return why the service would not animate this image, or None when it would (the service's
    reference).
    """
    if len(data) > MAX_BYTES:
        return FrameProblem(
            "image_processing_error", f"the image is larger than 10 MB ({len(data)} bytes)"
        )
    facts = read_header(data)
    if facts is None or facts.mime_type not in _ACCEPTED:
        return FrameProblem("image_processing_error", "the image is not a JPEG, PNG or WEBP")
    size = f"{facts.width} x {facts.height}"
    if min(facts.width, facts.height) < MIN_SIDE:
        return FrameProblem(
            "image_dimension_mismatch", f"width and height must be at least 300 px, not {size}"
        )
    if max(facts.width, facts.height) > MAX_RATIO * min(facts.width, facts.height):
        return FrameProblem(
            "image_dimension_mismatch", f"the ratio must be between 1:2.5 and 2.5:1, not {size}"
        )
    return None


def video_size(quality: str, frame: tuple[int, int] | None) -> tuple[int, int]:
    """Return the even size of a video: the quality on the short side, the frame's ratio or 16:9."""
    short = int(quality.removesuffix("p"))
    width, height = frame or (16, 9)
    longer = round(short * max(width, height) / min(width, height) / 2) * 2
    return (short, longer) if width <= height else (longer, short)


def _png(data: bytes) -> ImageFacts | None:
    width, height = struct.unpack_from(">II", data, 16)
    return ImageFacts("image/png", width, height) if data[12:16] == b"IHDR" else None


def _gif(data: bytes) -> ImageFacts | None:
    width, height = struct.unpack_from("<HH", data, 6)
    return ImageFacts("image/gif", width, height)


def _jpeg(data: bytes) -> ImageFacts | None:
    at = 2
    # What stands between two segments is passed over, as decoders do.
    while (at := data.find(b"\xff", at)) >= 0:
        marker = data[at + 1]
        # Fill bytes and markers without a segment.
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker <= 0x01:
            at += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return ImageFacts("image/jpeg", width, height)
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _webp(data: bytes) -> ImageFacts | None:
    if data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return ImageFacts("image/webp", width, height) if len(data) >= 30 else None
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageFacts("image/webp", (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageFacts("image/webp", width & 0x3FFF, height & 0x3FFF)
    return None


_READERS = ((b"\x89PNG\r\n\x1a\n", _png), (b"\xff\xd8", _jpeg), (b"RIFF", _webp), (b"GIF8", _gif))
