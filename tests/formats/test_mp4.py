"""Whether bytes are a whole MP4 file: boxes by hand, and files that a real encoder and the sandbox
made.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._formats.mp4 import (
    KEPT_BYTES,
    BoxWalk,
    BrokenVideoError,
    Movie,
    begins_like_text,
    begins_like_video,
    format_of,
    read_index,
)
from happyhorse_async.sandbox._stub_video import stub_video


def box(kind: bytes, body: bytes = b"") -> bytes:
    """Make a box."""
    return struct.pack(">I4s", len(body) + 8, kind) + body


def big_box(kind: bytes, body: bytes = b"") -> bytes:
    """Make a box whose size takes 64 bits."""
    return struct.pack(">I4sQ", 1, kind, len(body) + 16) + body


def mvhd(version: int, scale: int, duration: int) -> bytes:
    """Make a movie header."""
    times = (
        bytes(16) + struct.pack(">IQ", scale, duration)
        if version
        else bytes(8) + struct.pack(">II", scale, duration)
    )
    return box(b"mvhd", struct.pack(">I", version << 24) + times + bytes(80))


def tkhd(version: int, width: int, height: int) -> bytes:
    """Make a track header."""
    before = 84 if version else 72
    return box(
        b"tkhd",
        struct.pack(">I", version << 24)
        + bytes(before)
        + struct.pack(">II", width << 16, height << 16),
    )


FTYP = box(b"ftyp", b"isom\0\0\2\0")
MOOV = box(
    b"moov", mvhd(0, 1000, 5500) + box(b"trak", tkhd(0, 1280, 720)) + box(b"trak", tkhd(0, 0, 0))
)
MDAT = box(b"mdat", b"x" * 100)
WHOLE = FTYP + MOOV + MDAT
MOVIE = Movie(duration=5.5, width=1280, height=720)


def walk(data: bytes, cuts: list[int] | None = None) -> Movie:
    """Feed data in the pieces that the cuts make."""
    boxes = BoxWalk()
    for start, end in pairwise([0, *sorted(cuts or []), len(data)]):
        boxes.feed(data[start:end])
    assert boxes.position == len(data)
    return boxes.finish()


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        FTYP + MDAT + MOOV,
        FTYP + box(b"free") + MOOV + box(b"uuid", bytes(16)) + MDAT + box(b"free", bytes(9)),
        FTYP + MOOV + big_box(b"mdat", b"x" * 100),
        big_box(b"ftyp", b"isom\0\0\2\0") + MOOV + MDAT,
        FTYP + MOOV + struct.pack(">I4s", 0, b"mdat") + b"until the end",
        FTYP + MOOV + box(b"mdat") + box(b"moof", b"") + MDAT,
    ],
)
def test_whole_files_are_described(data: bytes) -> None:
    """Boxes in any order, with sizes in both forms, with others between them, or going on to the
    end.
    """
    assert walk(data) == MOVIE


@given(st.lists(st.integers(0, len(WHOLE)), max_size=20))
def test_pieces_may_be_cut_anywhere(cuts: list[int]) -> None:
    """The network's pieces do not matter, down to single bytes."""
    assert walk(WHOLE, cuts) == walk(WHOLE, list(range(len(WHOLE)))) == MOVIE


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_no_beginning_of_a_file_is_whole(length: int) -> None:
    """Wherever a file is cut, it shows."""
    if length == 0:
        with pytest.raises(BrokenVideoError, match="it is nothing"):
            walk(b"")
    else:
        with pytest.raises(BrokenVideoError):
            walk(WHOLE[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"<!doctype html><title>Link expired</title>",
        b'{"error": {"code": "expired"}}',
        b"GIF89a" + bytes(100),
        bytes(100),
        bytes(8) + WHOLE,
        MOOV + MDAT,
        FTYP + MDAT,
        FTYP + MOOV,
        FTYP + struct.pack(">I4s", 7, b"free") + MOOV + MDAT,
        FTYP + struct.pack(">I4sQ", 1, b"free", 15) + MOOV + MDAT,
        FTYP + box(b"\0\1\2\3") + MOOV + MDAT,
        FTYP + struct.pack(">I4s", 0, b"moov"),
        FTYP + struct.pack(">I4s", 0x7FFFFFFF, b"moov"),
        FTYP + box(b"moov", mvhd(0, 1000, 1)[:50]) + MDAT,
        FTYP + box(b"moov", box(b"mvhd", b"\2" + bytes(200))) + MDAT,
        FTYP + box(b"moov", box(b"mvhd")) + MDAT,
        FTYP + box(b"moov", box(b"trak", box(b"tkhd", bytes(20)))) + MDAT,
        FTYP + box(b"moov", struct.pack(">I4s", 100, b"trak")) + MDAT,
    ],
)
def test_what_is_no_whole_video_is_refused(data: bytes) -> None:
    """Pages, other formats, missing boxes, sizes that do not fit, headers that are cut."""
    with pytest.raises(BrokenVideoError):
        walk(data)


@given(st.binary(max_size=400))
def test_no_bytes_break_the_walk(data: bytes) -> None:
    """Whatever comes, it is a movie or a `BrokenVideoError`, also inside the moov box."""
    for candidate in (data, FTYP + box(b"moov", data) + MDAT):
        try:
            assert isinstance(walk(candidate), Movie)
        except BrokenVideoError:
            continue


@pytest.mark.parametrize(
    ("moov", "movie"),
    [
        (mvhd(1, 90000, 90000 * 3), Movie(duration=3.0)),
        (mvhd(0, 0, 5), Movie()),
        (mvhd(0, 1000, 0xFFFFFFFF), Movie()),
        (mvhd(1, 1000, 0xFFFFFFFFFFFFFFFF), Movie()),
        (box(b"trak", tkhd(1, 640, 480)), Movie(width=640, height=480)),
        (
            box(b"trak", tkhd(0, 16, 16)) + box(b"trak", tkhd(0, 1920, 1080)),
            Movie(width=1920, height=1080),
        ),
        (b"", Movie()),
        (b"\0\0", Movie()),
    ],
)
def test_movies_are_read(moov: bytes, movie: Movie) -> None:
    """Both versions of the headers; what a file does not say is None; the largest picture is the
    film.
    """
    assert read_index(moov).movie == movie


@pytest.mark.parametrize("inside", [False, True], ids=["moov", "trak"])
def test_a_crowd_of_boxes_is_no_reason(inside: bool) -> None:
    """Some files have thousands of boxes in their index; what stands in front of them is read."""
    crowd = mvhd(0, 1000, 5500) + box(b"free") * 20_000
    moov = box(b"trak", crowd) if inside else crowd
    assert walk(FTYP + box(b"moov", moov) + MDAT) == Movie(duration=None if inside else 5.5)


def test_the_first_bytes_tell_pages_from_videos() -> None:
    """Eight bytes are enough to keep what is there from being given up for an error page."""
    assert begins_like_video(WHOLE[:8])
    assert not begins_like_video(WHOLE[:7])
    assert not begins_like_video(b"<!doctype html>")


def test_the_sandboxes_videos_are_whole() -> None:
    """Made by hand there, read by hand here, by code that shares nothing."""
    movie = walk(stub_video(width=1280, height=720, seconds=4, seed=3, size=100_000))
    assert movie == Movie(duration=4.0, width=1280, height=720)


def test_an_encoders_videos_are_whole() -> None:
    """Rendered by a real encoder."""
    pytest.importorskip("av")
    from happyhorse_async.sandbox._render import render_video

    photo = Path(__file__).parents[2] / "happyhorse_async" / "sandbox" / "photos" / "cat.jpg"
    movie = walk(render_video(photo.read_bytes(), seconds=3, quality="720p", seed=1))
    assert movie.duration == pytest.approx(3.0, abs=0.2)
    assert min(movie.width or 0, movie.height or 0) >= 300


TAILS = {
    "a newline": b"\n",
    "four zeros": bytes(4),
    "a sector of zeros": bytes(512),
    "an ID3v1 tag": b"TAG" + bytes(125),
    "text": b"<!-- served by a cache -->",
    "an archive": b"PK\3\4" + bytes(60),
    "the beginning of a box": struct.pack(">I4s", 500, b"free") + b"xyz",
    "half a header": b"\0\0\2",
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize("data", [WHOLE, FTYP + MDAT + MOOV], ids=["moov first", "moov last"])
def test_what_follows_a_whole_video_is_no_reason(data: bytes, tail: bytes) -> None:
    """Every player plays a file whose boxes are complete, whatever comes after the last one."""
    assert walk(data + tail) == walk(data + tail, list(range(len(data + tail)))) == MOVIE


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_what_follows_half_a_film_is_not_looked_over(tail: bytes) -> None:
    """A further box of pictures that is cut, and anything after a fragmented file, is a reason."""
    more = box(b"mdat", b"y" * 50)
    for data in (WHOLE + more[:-1], fragmented(mehd=None) + box(b"moof")):
        with pytest.raises(BrokenVideoError):
            walk(data)
    with pytest.raises(BrokenVideoError):
        walk(fragmented(mehd=None) + tail)


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_what_follows_the_table_of_all_fragments_is_no_reason(tail: bytes) -> None:
    """No fragment comes after it, so a fragmented film that ends with it is whole."""
    data = fragmented(mehd=2000) + box(b"mfra", bytes(40))
    assert walk(data + tail) == Movie(duration=2.0, width=64, height=48)
    with pytest.raises(BrokenVideoError):
        walk(data[:-1])


def fragmented(*, mehd: int | None) -> bytes:
    """Make a fragmented file of 2 s, whose index knows of the first half second."""
    extends = b"" if mehd is None else box(b"mehd", struct.pack(">II", 0, mehd))
    moov = mvhd(0, 1000, 500) + box(b"trak", tkhd(0, 64, 48)) + box(b"mvex", extends)
    return FTYP + box(b"moov", moov) + MDAT + box(b"moof") + MDAT


@pytest.mark.parametrize(("mehd", "seconds"), [(None, None), (2000, 2.0)])
def test_the_length_of_a_fragmented_film_is_right_or_unknown(
    mehd: int | None, seconds: float | None
) -> None:
    """The header of the whole knows only the pieces in the index; `mehd` knows all, or nobody."""
    assert walk(fragmented(mehd=mehd)) == Movie(duration=seconds, width=64, height=48)


def test_an_index_of_any_size_is_read_from_its_beginning() -> None:
    """Nine megabytes of captions in the index are no reason; memory for it is bounded."""
    data = FTYP + box(b"moov", MOOV[8:] + box(b"udta", bytes(9_000_000))) + MDAT
    boxes = BoxWalk()
    for at in range(0, len(data), 1_000_000):
        boxes.feed(data[at : at + 1_000_000])
    assert boxes.finish() == MOVIE
    assert len(boxes._movie or b"") == KEPT_BYTES


def endless(kind: bytes, body: bytes) -> bytes:
    """Make a box that goes on to the end of the file."""
    return struct.pack(">I4s", 0, kind) + body


def numbered(moov: bytes, tracks: int) -> bytes:
    """Write into a movie header how many tracks there are."""
    return moov[:104] + struct.pack(">I", tracks + 1) + moov[108:]


def test_an_index_that_goes_on_to_the_end_is_whole_when_its_boxes_are() -> None:
    """Nothing says how long it is; so every box in it must end, and no track may be missing."""
    moov = numbered(MOOV[8:], 2)
    start = FTYP + MDAT + endless(b"moov", b"")
    assert walk(start + moov) == MOVIE
    for length in range(len(moov)):
        with pytest.raises(BrokenVideoError):
            walk(start + moov[:length])


@pytest.mark.parametrize(
    ("matrix", "size"),
    [
        ((0x10000, 0, 0, 0x10000), (1280, 720)),
        ((0, 0x10000, -0x10000, 0), (720, 1280)),
        ((0, -0x10000, 0x10000, 0), (720, 1280)),
        ((-0x10000, 0, 0, -0x10000), (1280, 720)),
    ],
    ids=["as it is", "a quarter right", "a quarter left", "upside down"],
)
@pytest.mark.parametrize("version", [0, 1])
def test_sizes_are_as_a_player_shows_them(
    version: int, matrix: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    """A film that was turned by a quarter has its sides changed (ISO/IEC 14496-12, 8.3.2)."""
    a, b, c, d = matrix
    turned = bytearray(tkhd(version, 1280, 720))
    struct.pack_into(">iiiiiiiii", turned, len(turned) - 44, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    found = read_index(box(b"trak", bytes(turned))).movie
    assert (found.width, found.height) == size


def pictures_at(start: int, sizes: list[int], *, wide: bool = False) -> bytes:
    """Make a track whose samples lie in chunks of two, one behind the other."""
    starts = [start + sum(sizes[:first]) for first in range(0, len(sizes), 2)]
    count = len(starts)
    width = "Q" if wide else "I"
    tables = box(b"stsz", struct.pack(f">III{len(sizes)}I", 0, 0, len(sizes), *sizes))
    tables += box(b"stsc", struct.pack(">IIIII", 0, 1, 1, 2, 1))
    tables += box(
        b"co64" if wide else b"stco", struct.pack(f">II{count}{width}", 0, count, *starts)
    )
    return box(b"trak", tkhd(0, 64, 48) + box(b"mdia", box(b"minf", box(b"stbl", tables))))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("claimed", [0, 1, 8, None])
def test_a_wrong_size_of_the_pictures_is_no_reason_when_all_are_there(
    claimed: int | None, wide: bool
) -> None:
    """Some encoders write a size that is too large, or none; the tables tell where the last
    picture ends.
    """
    sizes = [40, 30, 20]
    shape = len(FTYP) + len(box(b"moov", pictures_at(0, sizes, wide=wide))) + 8
    head = FTYP + box(b"moov", pictures_at(shape, sizes, wide=wide))
    size = 0 if claimed is None else 8 + sum(sizes) + claimed
    data = head + struct.pack(">I4s", size, b"mdat") + bytes(sum(sizes))
    assert walk(data) == Movie(width=64, height=48)
    for length in range(len(data)):
        with pytest.raises(BrokenVideoError):
            walk(data[:length])


REAL = {
    "stub": lambda: stub_video(width=1280, height=720, seconds=4, seed=3),
    "filled up": lambda: stub_video(width=1280, height=720, seconds=4, seed=3, size=60_000),
}


@pytest.mark.parametrize("name", REAL)
@given(data=st.data())
def test_no_cut_of_a_sandbox_video_is_whole(name: str, data: st.DataObject) -> None:
    """Wherever the host stopped, it shows, and it shows as a cut."""
    video = REAL[name]()
    length = data.draw(st.integers(1, len(video) - 1))
    with pytest.raises(BrokenVideoError):
        walk(video[:length])


def test_no_cut_of_an_encoders_video_is_whole() -> None:
    """The same of a film from a real encoder, cut at its boxes and at 500 other places."""
    pytest.importorskip("av")
    from happyhorse_async.sandbox._render import render_video

    photo = Path(__file__).parents[2] / "happyhorse_async" / "sandbox" / "photos" / "cat.jpg"
    video = render_video(photo.read_bytes(), seconds=3, quality="720p", seed=1)
    near = {mark + step for mark in marks(video) for step in range(-9, 10)}
    for length in sorted({*range(1, len(video), len(video) // 500), *near}):
        if 0 < length < len(video):
            with pytest.raises(BrokenVideoError):
                walk(video[:length])


def marks(video: bytes) -> list[int]:
    """List where the boxes of a file begin and end."""
    found = [0]
    while found[-1] < len(video):
        found.append(found[-1] + struct.unpack_from(">I", video, found[-1])[0])
    return found


@pytest.mark.parametrize(
    ("head", "name", "text"),
    [
        (b"", "nothing", False),
        (b"<!DOCTYPE html><h", "an HTML page", True),
        (b"\xef\xbb\xbf\n<html>", "an HTML page", True),
        (b"<Error><Code>NoSu", "an XML document", True),
        (b'{"error": {"code"', "a JSON document", True),
        (b"\x1a\x45\xdf\xa3" + bytes(12), "a WebM or Matroska video", False),
        (b"RIFF\0\0\0\0AVI LIST", "an AVI video", False),
        (b"\x1f\x8b\x08\x00", "gzip data", False),
        (b"link expired", "something that begins with b'link expired'", True),
    ],
)
def test_other_files_are_named_for_what_they_are(head: bytes, name: str, text: bool) -> None:
    """An error can say what the link gave; a page is told from a film in another format."""
    assert (format_of(head), begins_like_text(head)) == (name, text)
