"""Whether bytes are a whole MP4 file, and what it says of itself: a walk over its boxes.

Boxes as in ISO/IEC 14496-12. Pure: bytes go in as they come, in pieces of any size.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import attrs

KEPT_BYTES = 8 * 1024 * 1024
"""Bytes that are kept of a `moov` box. It is an index, and what is read of it stands in front. Even
an hour of video needs only a few megabytes."""
MOST_BOXES = 10_000
"""Boxes that are read on one level of the `moov` box; real files have a handful."""
MOST_SAMPLES = 2_000_000
"""Entries of a track's tables that are read; 15 seconds of video have some hundred."""
SNIFFED = 16
"""Bytes that tell a video from an error page."""

_FIRST_TYPES = frozenset(b"ftyp styp free skip wide pdin uuid moov mdat".split())
_NEEDED = (b"ftyp", b"moov", b"mdat")
_UNKNOWN_LENGTH = {0: 0xFFFFFFFF, 1: 0xFFFFFFFFFFFFFFFF}

_OTHER_FORMATS = (
    (0, b"\x1a\x45\xdf\xa3", "a WebM or Matroska video"),
    (8, b"AVI ", "an AVI video"),
    (0, b"FLV\x01", "a Flash video"),
    (0, b"OggS", "an Ogg file"),
    (0, b"\x00\x00\x01\xba", "an MPEG program stream"),
    (0, b"G@", "an MPEG transport stream"),
    (0, b"0&\xb2u", "a Windows Media video"),
    (8, b"WEBP", "a WEBP image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip data"),
)


class BrokenVideoError(ValueError):
    """The bytes are not a whole MP4 file; the message says where it shows.

    `cut` says that the file makes sense as far as it goes, and just ends too early.
    """

    def __init__(self, message: str, *, cut: bool = False) -> None:
        super().__init__(message)
        self.cut = cut


@attrs.frozen(kw_only=True)
class Movie:
    """What an MP4 file says of itself; None where it says nothing."""

    duration: float | None = None
    """Seconds."""
    width: int | None = None
    """Pixels, as a player shows them: a film that is turned by a quarter has its sides changed."""
    height: int | None = None
    """Pixels, as a player shows them."""


def beginning(pieces: Iterable[bytes], size: int = SNIFFED) -> bytes:
    """Return the first bytes of pieces, without a copy of all of them."""
    start = b""
    for piece in pieces:
        start += piece[: size - len(start)]
        if len(start) == size:
            break
    return start


def begins_like_video(head: bytes) -> bool:
    """Whether the first eight bytes of a file can be those of an MP4 file."""
    return head[4:8] in _FIRST_TYPES


def begins_like_text(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a page or another message, not of a film."""
    return bool(head) and all(byte >= 32 or byte in b"\t\r\n" for byte in head)


def format_of(head: bytes) -> str:
    """Name what a file is that does not begin like an MP4 file, from its first 16 bytes."""
    if not head:
        return "nothing"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if start.startswith(b"<"):
        return "an XML document"
    if start.startswith((b"{", b"[")):
        return "a JSON document"
    found = (name for at, mark, name in _OTHER_FORMATS if head.startswith(mark, at))
    return next(found, f"something that begins with {head[:SNIFFED]!r}")


class BoxWalk:
    """Follows the boxes of a file while it comes in; keeps nothing of it but the `moov` box.

    No byte stops it: where the boxes make no sense, it only counts. `finish` decides.
    """

    def __init__(self) -> None:
        self.position = 0
        """Bytes so far."""
        self._head = b""
        self._kind = b""
        """The present box, or the one before."""
        self._left = 0
        """Bytes of the present box that are still to come."""
        self._endless = False
        """The present box goes on to the end of the file."""
        self._header = bytearray()
        """The beginning of a box's header."""
        self._movie: bytearray | None = None
        """The body of the `moov` box, as far as it is kept."""
        self._reading_movie = False
        self._whole: set[bytes] = set()
        """The types of the boxes that have ended."""
        self._begun: set[bytes] = set()
        self._problem = ""
        """Where the boxes stop making sense; empty as long as they do."""

    @property
    def makes_sense(self) -> bool:
        """Whether all bytes so far are boxes of an MP4 file."""
        return not self._problem

    def feed(self, data: bytes) -> None:
        """Go on with the next bytes."""
        if len(self._head) < SNIFFED:
            self._head += data[: SNIFFED - len(self._head)]
        at, end = 0, len(data)
        while at < end and not self._problem:
            at = self._skip(data, at) if self._left or self._endless else self._collect(data, at)
        self.position += end

    def _skip(self, data: bytes, at: int) -> int:
        rest = len(data) - at
        step = rest if self._endless else min(self._left, rest)
        if self._reading_movie and self._movie is not None:
            self._movie += data[at : at + min(step, KEPT_BYTES - len(self._movie))]
        if not self._endless:
            self._left -= step
            if not self._left:
                self._end_box()
        return at + step

    def _collect(self, data: bytes, at: int) -> int:
        """Collect a box's header; it may arrive byte by byte."""
        header = self._header
        for needed in (8, 16):
            step = max(0, min(needed - len(header), len(data) - at))
            header += data[at : at + step]
            at += step
            if len(header) < needed:
                return at
            if header[:4] != b"\0\0\0\1":
                break
        self._header = bytearray()
        self._begin(bytes(header), self.position + at - len(header))
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
            self._problem = f"no box of an MP4 file at byte {offset}: {header[:SNIFFED]!r}"
            return
        self._kind, self._endless = kind, size == 0
        self._begun.add(kind)
        self._left = 0 if self._endless else size - len(header)
        if kind == b"moov" and self._movie is None:
            self._movie, self._reading_movie = bytearray(), True
        if not self._left and not self._endless:
            self._end_box()

    def _end_box(self) -> None:
        self._whole.add(self._kind)
        self._reading_movie = False

    def finish(self) -> Movie:
        """Say what the file is, now that it has ended; raises `BrokenVideoError` when it is not
        whole.

        A file whose `ftyp`, `moov` and `mdat` boxes are complete is whole, whatever follows them:
        every player plays it. That does not hold for a fragmented file, since what follows may be
        half of its film, unless the table of all its fragments (`mfra`) stands before that.
        """
        if not self._begun:
            raise BrokenVideoError(
                f"it is {format_of(self._head)}", cut=0 < self.position < 8 and not self._problem
            )
        index = self._index()
        if index is None:
            self._require_all_boxes()
            raise self._cut("and its index says nothing")
        if index.fragmented or b"moof" in self._begun:
            if not {*_NEEDED, b"mfra"} <= self._whole:
                self._require_all_boxes()
            if self._kind == b"moof":
                raise self._cut("where the pictures of its last fragment should follow")
        elif not self._has_all_pictures(index):
            self._require_all_boxes()
            raise self._cut(f"inside its last box, {self._kind!r}")
        return index.movie

    def _index(self) -> Index | None:
        """Read the `moov` box; None when it is not there or not complete."""
        if self._movie is None or (self._reading_movie and not self._endless):
            return None
        kept = bytes(self._movie)
        index = read_index(kept, whole=len(kept) < KEPT_BYTES)
        if self._reading_movie:
            # It goes on to the end of the file: what is in it has to show that nothing is missing.
            if not index.tracks or index.rest or len(index.tracks) < index.numbered:
                return None
            self._whole.add(b"moov")
        return index

    def _has_all_pictures(self, index: Index) -> bool:
        """Whether nothing is missing of a file that is not fragmented."""
        if not {b"ftyp", b"moov"} <= self._whole or b"mdat" not in self._begun:
            return False
        unfinished = self._kind == b"mdat" and (self._left > 0 or self._endless)
        if not unfinished and b"mdat" in self._whole:
            return True
        # The box is open, or says a wrong size: then the tables tell where the last picture ends.
        end = index.end_of_samples()
        return self._endless if end is None else end <= self.position

    def _require_all_boxes(self) -> None:
        """Raise what is wrong with a file all of whose boxes must be whole."""
        if self._problem:
            raise BrokenVideoError(self._problem)
        if self._left:
            raise self._cut(f"{self._left} bytes before its last box does")
        if self._header:
            raise self._cut("inside the header of a box")
        whole = self._whole | ({self._kind} if self._endless else set())
        missing = [kind.decode() for kind in _NEEDED if kind not in whole]
        if missing:
            raise BrokenVideoError(
                f"the file of {self.position} bytes has no {' and no '.join(missing)} box", cut=True
            )

    def _cut(self, where: str) -> BrokenVideoError:
        return BrokenVideoError(f"the file ends at byte {self.position}, {where}", cut=True)


# --- What the moov box says.


@attrs.frozen
class Index:
    """A `moov` box, read."""

    movie: Movie
    fragmented: bool
    """Whether pieces of the film follow that this box does not know."""
    tracks: tuple[bytes, ...]
    """The bodies of the `trak` boxes."""
    numbered: int
    """Tracks that numbers were given to so far."""
    rest: int
    """Bytes after its last box."""

    def end_of_samples(self) -> int | None:
        """Return the byte of the file after the last picture or sound; None when the tables do not
        tell.
        """
        try:
            return max((_end_of_track(track) for track in self.tracks), default=None)
        except (BrokenVideoError, struct.error, KeyError, IndexError):
            return None


def read_index(moov: bytes, *, whole: bool = True) -> Index:
    """Read a `moov` box's body; raises `BrokenVideoError` when its boxes do not fit into it.

    With `whole=False` it is only the beginning of a body.
    """
    duration, fragment_duration, fragmented = None, None, False
    scale, width, height, tracks, numbered, end = 0, 0, 0, list[bytes](), 0, 0
    for kind, start, end in _spans(moov, whole=whole):
        body = memoryview(moov)[start:end]
        if kind == b"mvhd":
            scale, duration = _duration(body)
            numbered = int.from_bytes(body[-4:], "big") - 1  # the number of the next track
        elif kind == b"mvex":
            fragmented = True
            fragment_duration = _fragment_duration(body)
        elif kind == b"trak":
            tracks.append(bytes(body))
            sizes = [_track_size(inner) for name, inner in _boxes(body) if name == b"tkhd"]
            # The largest picture is the film; audio tracks have none.
            width, height = max([(width, height), *sizes], key=lambda size: size[0] * size[1])
    # The header of a fragmented film knows only of the pieces in the index.
    length = fragment_duration if fragmented else duration
    seconds = length / scale if scale and length else None
    movie = Movie(duration=seconds, width=width or None, height=height or None)
    return Index(movie, fragmented, tuple(tracks), numbered, len(moov) - end)


def _boxes(body: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    body = memoryview(body)
    for kind, start, end in _spans(body):
        yield kind, body[start:end]


def _spans(body: bytes | memoryview, *, whole: bool = True) -> Iterator[tuple[bytes, int, int]]:
    """Walk the boxes in a box: their types, and where their bodies begin and end."""
    at = 0
    for _ in range(MOST_BOXES):
        if at + 8 > len(body):
            return
        size, kind = struct.unpack_from(">I4s", body, at)
        head = 8
        if size == 1 and at + 16 <= len(body):
            size, head = int.from_bytes(body[at + 8 : at + 16], "big"), 16
        size = size or len(body) - at
        if size < head or at + size > len(body):
            if not whole and size >= head:
                return
            raise BrokenVideoError(f"the box {kind!r} does not fit into the one around it")
        yield kind, at + head, at + size
        at += size


def _duration(mvhd: memoryview) -> tuple[int, int | None]:
    """Return the parts of a second that times are counted in, and the length in them."""
    version = mvhd[0] if mvhd else 0
    layout = ">4x16xIQ" if version == 1 else ">4x8xII"
    if version > 1 or len(mvhd) < struct.calcsize(layout):
        raise BrokenVideoError("the mvhd box is cut or of an unknown version")
    scale, length = struct.unpack_from(layout, mvhd)
    return scale, None if length == _UNKNOWN_LENGTH[version] else length


def _fragment_duration(mvex: memoryview) -> int | None:
    for kind, body in _boxes(mvex):
        if kind == b"mehd" and len(body) >= 8:
            layout = ">4xQ" if body[0] == 1 and len(body) >= 12 else ">4xI"
            return int(struct.unpack_from(layout, body)[0])
    return None


def _track_size(tkhd: memoryview) -> tuple[int, int]:
    if len(tkhd) < 84:
        raise BrokenVideoError("the tkhd box is cut")
    # The last bytes of the box in both versions: a matrix of nine numbers, then width and height.
    at = 88 if tkhd[0] == 1 and len(tkhd) >= 96 else 76
    across, along = struct.unpack_from(">ii", tkhd, at - 36)
    width, height = struct.unpack_from(">II", tkhd, at)
    turned = abs(along) > abs(across)
    return (height >> 16, width >> 16) if turned else (width >> 16, height >> 16)


# --- Where the samples of a track lie: their sizes, the chunks that hold them, how many are in
# each.


def _end_of_track(track: bytes) -> int:
    """Return the byte after the last sample of a track; raises when its tables are odd."""
    body = memoryview(track)
    for name in (b"mdia", b"minf", b"stbl"):
        body = dict(_boxes(body))[name]
    tables = dict(_boxes(body))
    sizes = _sample_sizes(tables)
    offsets = _chunk_offsets(tables)
    end = first = 0
    for offset, count in zip(offsets, _chunk_counts(tables[b"stsc"], len(offsets)), strict=False):
        end = max(end, offset + sum(sizes[first : first + count]))
        first += count
    return end


def _sample_sizes(tables: dict[bytes, memoryview]) -> list[int]:
    table = tables[b"stsz"]
    same, count = struct.unpack_from(">4xII", table)
    if count > MOST_SAMPLES:
        raise BrokenVideoError("too many samples")
    return [same] * count if same else list(struct.unpack_from(f">{count}I", table, 12))


def _chunk_offsets(tables: dict[bytes, memoryview]) -> tuple[int, ...]:
    table, width = (tables[b"stco"], "I") if b"stco" in tables else (tables[b"co64"], "Q")
    (count,) = struct.unpack_from(">4xI", table)
    return struct.unpack_from(f">{count}{width}", table, 8)


def _chunk_counts(stsc: memoryview, chunks: int) -> Iterator[int]:
    """Yield how many samples each chunk has; an entry of the table holds until the next one."""
    (count,) = struct.unpack_from(">4xI", stsc)
    runs = list(struct.iter_unpack(">III", stsc[8 : 8 + 12 * count]))
    for number, (first, samples, _) in enumerate(runs):
        following = runs[number + 1][0] if number + 1 < len(runs) else chunks + 1
        for _ in range(min(following, chunks + 1) - first):
            yield samples
