"""First-frame and prompt rules of the service's reference. Of images only the headers are read, and
whether they end as they should.

Pure functions over bytes and text. May import nothing of the package.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

LARGEST_FILE = 10 * 1024 * 1024
SHORTEST_SIDE = 300
WIDEST_RATIO = 2.5
CHINESE_PROMPT = 2500
OTHER_PROMPT = 5000
HEADER_BYTES = 256 * 1024
"""As much of a file as is looked at first. Previews, colour profiles and proofs of origin stand
before a JPEG's size, and may be larger: see `needs_more`."""


# Patterns as text, compiled when they are first needed: the last one takes 2 ms.
_MARKER = rb"(?s)\xff[\x02-\xcf\xd9-\xfe]"
"""A JPEG marker with a segment (ITU-T T.81, table B.1). Any number of fill bytes 0xFF may stand
before it."""

MOST_SEGMENTS = 10_000
MOST_JUNK = 256 * 1024
"""Segments before a JPEG's size, and bytes between them, that are looked through. Photographs have
some dozens, and a few bytes. Ten megabytes of them would hold an event loop for seconds."""

_LAST = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}
"""What ends a picture; anything may follow it."""

_IDEOGRAPH = "[\u3400-\u9fff\U00020000-\U0003ffff]"


class Frame(NamedTuple):
    """What an image's header says."""

    format: str
    """"jpeg", "png" or "webp". Anything else is the name of a format that the service does not
    take, or "unknown"."""
    width: int
    height: int

    @property
    def mime_type(self) -> str:
        """The media type to upload it with."""
        return f"image/{self.format}"


def frame_problems(
    header: bytes, size: int, find: Callable[[bytes, int], bool] | None = None
) -> list[str]:
    """List what the service's reference forbids in a first frame, and whether it is cut short.

    `header` is the beginning of the file, long enough by `needs_more`; `size` is its length in
    bytes. `find` says whether bytes stand anywhere in the file, from an offset on; it is not needed
    where `header` is all of it.
    """
    if not size:
        return ["the file is empty"]
    problems = []
    if size > LARGEST_FILE:
        problems.append(f"expected at most 10 MB ({LARGEST_FILE} bytes), got {size} bytes")
    frame = read_frame(header)
    if frame.format not in ("jpeg", "png", "webp"):
        problems.append(
            "expected a JPEG, PNG or WEBP file, got "
            f"{frame.format if frame.format != 'unknown' else 'something else'}"
        )
    elif not frame.width or not frame.height:
        problems.append(f"the {frame.format.upper()} file is damaged: its header has no size")
    else:
        problems += _side_problems(frame)
        # A file of which a half was copied would be paid for as any other.
        if not problems and _is_cut(frame, header, size, find or _finder(header)):
            problems.append(
                f"the {frame.format.upper()} file is cut short: it ends before its picture does. "
                "Copy it again, or open it and save it anew"
            )
    return problems


def _is_cut(frame: Frame, header: bytes, size: int, find: Callable[[bytes, int], bool]) -> bool:
    if frame.format == "webp":
        # It says its length; some writers leave out the byte that makes it even.
        return int.from_bytes(header[4:8], "little") + 7 > size
    # The previews in a JPEG, which end as it does, stand before its size.
    start = _jpeg_frame(header) if frame.format == "jpeg" else 0
    return not find(_LAST[frame.format], start)


def _finder(data: bytes) -> Callable[[bytes, int], bool]:
    return lambda mark, start: data.rfind(mark, start) >= 0


def needs_more(header: bytes, size: int) -> bool:
    """Whether the beginning of a file does not reach to what says how large the picture is."""
    frame = read_frame(header)
    return len(header) < size <= LARGEST_FILE and frame.format == "jpeg" and not frame.width


def _side_problems(frame: Frame) -> list[str]:
    problems = []
    shown = f"{frame.width} x {frame.height} px"
    if min(frame.width, frame.height) < SHORTEST_SIDE:
        problems.append(f"expected at least {SHORTEST_SIDE} px on each side, got {shown}")
    if max(frame.width, frame.height) > WIDEST_RATIO * min(frame.width, frame.height):
        problems.append(f"expected sides between 1:2.5 and 2.5:1, got {shown}")
    return problems


def read_frame(header: bytes) -> Frame:
    """Read format and size from the beginning of an image file; 0 x 0 when the header does not hold
    its size.
    """
    if header.startswith(b"\xff\xd8\xff"):
        return Frame("jpeg", *_jpeg_size(header))
    if header.startswith(b"\x89PNG\r\n\x1a\n"):
        return Frame("png", *_unpack(">II", header, 16, header[12:16] == b"IHDR"))
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return Frame("webp", *_webp_size(header))
    return Frame(_other_format(header), 0, 0)


def _other_format(header: bytes) -> str:
    marks = {
        b"GIF8": "GIF",
        b"BM": "BMP",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"%PDF": "PDF",
        b"<svg": "SVG",
        b"<!DO": "HTML",
        b"<htm": "HTML",
    }
    if header[4:8] == b"ftyp":
        brands = {b"avif": "AVIF", b"avis": "AVIF", b"mif1": "HEIC", b"msf1": "HEIC"}
        heic = header[8:11] in (b"hei", b"hev")  # heic, heix, hevc and so on, by its camera
        return brands.get(header[8:12], "HEIC" if heic else "a video")
    return next((name for mark, name in marks.items() if header.startswith(mark)), "unknown")


def _unpack(layout: str, header: bytes, offset: int, valid: bool = True) -> tuple[int, int]:
    if not valid or len(header) < offset + struct.calcsize(layout):
        return 0, 0
    first, second = struct.unpack_from(layout, header, offset)
    return first, second


def _jpeg_segments(header: bytes) -> Iterator[tuple[int, int]]:
    """Walk the segments before the picture data: (marker, offset of the segment's content).

    Some writers leave bytes between segments; decoders look on for the next marker, and so does
    this.
    """
    offset, junk = 2, 0
    marker_from = re.compile(_MARKER).search
    for _ in range(MOST_SEGMENTS):
        found = marker_from(header, offset, offset + MOST_JUNK - junk)
        if found is None or found[0][1] == 0xDA:
            return
        junk += found.start() - offset
        marker, offset = found[0][1], found.end()
        yield marker, offset + 2
        offset += int.from_bytes(header[offset : offset + 2], "big")


def _jpeg_frame(header: bytes) -> int:
    """Find the content of the segment that says a JPEG's size; 0 when it is not there."""
    for marker, content in _jpeg_segments(header):
        # SOF0 to SOF15 but DHT, JPG and DAC, which share the range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return content
    return 0


def _jpeg_size(header: bytes) -> tuple[int, int]:
    content = _jpeg_frame(header)
    height, width = _unpack(">HH", header, content + 1, content > 0)
    return width, height


def _webp_size(header: bytes) -> tuple[int, int]:
    kind = header[12:16]
    if kind == b"VP8 ":
        width, height = _unpack("<HH", header, 26, header[23:26] == b"\x9d\x01\x2a")
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(header) >= 25:
        bits = int.from_bytes(header[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(header) >= 30:
        return int.from_bytes(header[24:27], "little") + 1, int.from_bytes(
            header[27:30], "little"
        ) + 1
    return 0, 0


def is_chinese(text: str) -> bool:
    """Whether the service is likely to count a prompt as Chinese: at least one CJK ideograph in it.

    The reference does not say how it decides, so the stricter limit is taken as soon as it can
    apply.
    """
    return not text.isascii() and re.search(_IDEOGRAPH, text) is not None


def prompt_cut(prompt: str) -> str | None:
    """Say where the service will silently cut a prompt, or None when it fits."""
    if len(prompt) <= CHINESE_PROMPT:
        return None
    chinese = is_chinese(prompt)
    limit = CHINESE_PROMPT if chinese else OTHER_PROMPT
    if len(prompt) <= limit:
        return None
    kind = "Chinese prompts" if chinese else "prompts"
    return (
        f"{len(prompt)} characters; the service cuts {kind} after {limit}, "
        f"here after {prompt[limit - 20 : limit]!r}, "
        f"and drops {len(prompt) - limit}"
    )
