"""Whether bytes are a whole MP4 file, and what it says of itself: a walk over its boxes, without
any library.

Boxes as in ISO/IEC 14496-12. Pure: bytes go in as they come, in pieces of any size. May import
attrs only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import attrs

LARGEST_MOVIE_BOX = 8 * 1024 * 1024
"""A `moov` box is an index: even an hour of video needs only a few megabytes. A bigger one is not
read into memory."""
MOST_BOXES = 1000
"""Boxes on one level of the `moov` box; real files have a handful."""

_FIRST_TYPES = frozenset(
    {b"ftyp", b"styp", b"free", b"skip", b"wide", b"pdin", b"uuid", b"moov", b"mdat"}
)
_NEEDED = (b"ftyp", b"moov", b"mdat")
_UNKNOWN_LENGTH = {0: 0xFFFFFFFF, 1: 0xFFFFFFFFFFFFFFFF}


class BrokenVideoError(ValueError):
    """The bytes are not a whole MP4 file; the message says where it shows."""


@attrs.frozen(kw_only=True)
class Movie:
    """What an MP4 file says of itself; None where it says nothing."""

    duration: float | None = None
    """Seconds."""
    width: int | None = None
    """Pixels."""
    height: int | None = None
    """Pixels."""


def begins_like_video(head: bytes) -> bool:
    """Whether the first eight bytes of a file can be those of an MP4 file."""
    return head[4:8] in _FIRST_TYPES


class BoxWalk:
    """Follows the boxes of a file while it comes in; keeps nothing of it but the `moov` box."""

    def __init__(self) -> None:
        self.position = 0
        self._left = 0
        """Bytes of the present box that are still to come."""
        self._endless = False
        """The present box goes on to the end of the file."""
        self._kept = bytearray()
        """The beginning of a box's header, or the body of the `moov` box."""
        self._reading_movie = False
        self._seen: set[bytes] = set()
        self._movie: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Go on with the next bytes; raises `BrokenVideoError` as soon as they cannot belong to an
        MP4 file.
        """
        at, end = 0, len(data)
        while at < end:
            at = self._skip(data, at) if self._left or self._endless else self._header(data, at)
        self.position += end

    def _skip(self, data: bytes, at: int) -> int:
        if self._endless:
            return len(data)
        step = min(self._left, len(data) - at)
        if self._reading_movie:
            self._kept += data[at : at + step]
        self._left -= step
        if self._reading_movie and not self._left:
            self._movie, self._kept, self._reading_movie = bytes(self._kept), bytearray(), False
        return at + step

    def _header(self, data: bytes, at: int) -> int:
        """Collect a box's header; it may arrive byte by byte."""
        kept = self._kept
        while at < len(data):
            needed = 16 if len(kept) >= 8 and kept[:4] == b"\0\0\0\1" else 8
            if len(kept) < needed:
                step = min(needed - len(kept), len(data) - at)
                kept += data[at : at + step]
                at += step
                continue
            break
        needed = 16 if len(kept) >= 8 and kept[:4] == b"\0\0\0\1" else 8
        if len(kept) == needed:
            self._kept = bytearray()
            self._begin(bytes(kept), self.position + at - needed)
        return at

    def _begin(self, header: bytes, offset: int) -> None:
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        fits = (
            kind in _FIRST_TYPES
            if offset == 0
            else all(32 <= byte < 127 or byte == 0xA9 for byte in kind)
        )
        if not fits or (size != 0 and size < len(header)):
            raise BrokenVideoError(f"no box of an MP4 file at byte {offset}: {header[:16]!r}")
        self._seen.add(kind)
        self._endless = size == 0
        self._left = 0 if self._endless else size - len(header)
        if kind == b"moov" and self._movie is None:
            if self._endless or self._left > LARGEST_MOVIE_BOX:
                raise BrokenVideoError(f"the moov box at byte {offset} is too large: {size} bytes")
            self._reading_movie = self._left > 0

    def finish(self) -> Movie:
        """Say what the file is, now that it has ended; raises `BrokenVideoError` when it is not
        whole.
        """
        if self._left:
            raise BrokenVideoError(
                f"the file ends at byte {self.position}, {self._left} bytes before its last box does"
            )
        if self._kept:
            raise BrokenVideoError(
                f"the file ends at byte {self.position}, inside the header of a box"
            )
        missing = [kind.decode() for kind in _NEEDED if kind not in self._seen]
        if missing:
            raise BrokenVideoError(
                f"the file of {self.position} bytes has no {' and no '.join(missing)} box"
            )
        return read_movie(self._movie or b"")


def read_movie(moov: bytes) -> Movie:
    """Read duration and size out of a `moov` box's body; raises `BrokenVideoError` when its boxes
    do not fit into it.
    """
    duration, width, height = None, 0, 0
    for kind, body in _boxes(moov):
        if kind == b"mvhd":
            duration = _duration(body)
        elif kind == b"trak":
            sizes = [_track_size(inner) for name, inner in _boxes(body) if name == b"tkhd"]
            # The largest picture is the film; audio tracks have none.
            width, height = max([(width, height), *sizes], key=lambda size: size[0] * size[1])
    return Movie(duration=duration, width=width or None, height=height or None)


def _boxes(body: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    body, at, count = memoryview(body), 0, 0
    while at + 8 <= len(body):
        count += 1
        if count > MOST_BOXES:
            raise BrokenVideoError(f"more than {MOST_BOXES} boxes in one")
        size, kind = struct.unpack_from(">I4s", body, at)
        head = 8
        if size == 1 and at + 16 <= len(body):
            size, head = int.from_bytes(body[at + 8 : at + 16], "big"), 16
        size = size or len(body) - at
        if size < head or at + size > len(body):
            raise BrokenVideoError(f"the box {kind!r} does not fit into the one around it")
        yield kind, body[at + head : at + size]
        at += size


def _duration(mvhd: memoryview) -> float | None:
    version = mvhd[0] if mvhd else 0
    layout = ">4x16xIQ" if version == 1 else ">4x8xII"
    if version > 1 or len(mvhd) < struct.calcsize(layout):
        raise BrokenVideoError("the mvhd box is cut or of an unknown version")
    scale, length = struct.unpack_from(layout, mvhd)
    return length / scale if scale and length and length != _UNKNOWN_LENGTH[version] else None


def _track_size(tkhd: memoryview) -> tuple[int, int]:
    if len(tkhd) < 84:
        raise BrokenVideoError("the tkhd box is cut")
    # Width and height are the last eight bytes of the box in both versions, as 16.16 fixed-point
    # numbers.
    width, height = struct.unpack_from(">II", tkhd, 88 if tkhd[0] == 1 and len(tkhd) >= 96 else 76)
    return width >> 16, height >> 16
