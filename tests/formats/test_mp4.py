"""Whether bytes are a whole MP4 file: boxes by hand, and files that a real encoder and the sandbox
made.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._formats.mp4 import (
    BoxWalk,
    BrokenVideoError,
    Movie,
    begins_like_video,
    read_movie,
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
        with pytest.raises(BrokenVideoError, match="no ftyp and no moov and no mdat"):
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
        WHOLE + b"x" * 20,
        WHOLE + b"tail",
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
    """Pages, other formats, missing boxes, sizes that do not fit, headers that are cut, and
    anything after the last box.
    """
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
    assert read_movie(moov) == movie


@pytest.mark.parametrize(
    "moov", [box(b"free") * 1001, box(b"trak", box(b"free") * 1001)], ids=["moov", "trak"]
)
def test_a_crowd_of_boxes_is_refused(moov: bytes) -> None:
    """An index that is made to eat memory is no video."""
    with pytest.raises(BrokenVideoError, match="more than 1000 boxes"):
        read_movie(moov)


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
    from pathlib import Path

    from happyhorse_async.sandbox._render import render_video

    photo = Path(__file__).parents[2] / "happyhorse_async" / "sandbox" / "photos" / "cat.jpg"
    movie = walk(render_video(photo.read_bytes(), seconds=3, quality="720p", seed=1))
    assert movie.duration == pytest.approx(3.0, abs=0.2)
    assert min(movie.width or 0, movie.height or 0) >= 300
