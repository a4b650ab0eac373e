"""First frames are judged by their header, prompts by their length."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._edges.local_images import file_problems
from happyhorse_async._formats import images
from happyhorse_async._formats.images import Frame, frame_problems, read_frame

PHOTOS = Path(__file__).parent.parent.parent / "happyhorse_async" / "sandbox" / "photos"


def png(width: int, height: int) -> bytes:
    """Make the beginning and the end of a PNG file."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + struct.pack(">II", width, height)
        + bytes(13)
        + b"IEND\xaeB`\x82"
    )


def jpeg(width: int, height: int, *, marker: int = 0xC0, before: bytes = b"") -> bytes:
    """Make the beginning of a JPEG file, with other segments before its size."""
    size = struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return (
        b"\xff\xd8"
        + segment(0xE0, b"JFIF\0" + bytes(9))
        + before
        + b"\xff"
        + bytes([marker])
        + size
    )


def segment(marker: int, content: bytes) -> bytes:
    """Make a segment of a JPEG file."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def webp(kind: bytes, content: bytes) -> bytes:
    """Make the beginning of a WEBP file."""
    return b"RIFF" + bytes(4) + b"WEBP" + kind + struct.pack("<I", len(content)) + content


def webp_lossy(width: int, height: int) -> bytes:
    """Make the beginning of a lossy WEBP file."""
    return webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height))


def webp_lossless(width: int, height: int) -> bytes:
    """Make the beginning of a lossless WEBP file."""
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14))


def webp_extended(width: int, height: int) -> bytes:
    """Make the beginning of a WEBP file with features."""
    return webp(
        b"VP8X", bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    )


@pytest.mark.parametrize("path", sorted(PHOTOS.glob("*.jpg")), ids=lambda path: path.name)
def test_real_photographs_are_read_as_pillow_reads_them(path: Path) -> None:
    """Format and size of real files are those that Pillow finds."""
    image = pytest.importorskip("PIL.Image")
    with image.open(path) as opened:
        assert (opened.format.lower(), *opened.size) == read_frame(
            path.read_bytes()[: images.HEADER_BYTES]
        )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True, "exif": b"Exif\0\0" + bytes(60_000)}, {"lossless": True}]
)
def test_what_pillow_writes_is_read(form: str, options: dict[str, object]) -> None:
    """Files written by Pillow in each format, plain, progressive with a long Exif block, and
    lossless, are read.
    """
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("RGB", (640, 321)).save(file, form, **options)
    assert (form.lower(), 640, 321) == read_frame(file.getvalue())


@given(width=st.integers(1, 16383), height=st.integers(1, 16383))
def test_every_size_is_read_from_every_format(width: int, height: int) -> None:
    """Width and height come out as they were written."""
    for header in (png, jpeg, webp_lossy, webp_lossless, webp_extended):
        assert (width, height) == read_frame(header(width, height))[1:]


def test_a_jpeg_with_much_before_its_size_is_read() -> None:
    """Exif, colour profiles, Huffman tables and fill bytes stand before the size, whose marker
    varies.
    """
    before = (
        segment(0xE1, bytes(60_000))
        + segment(0xE2, bytes(60_000))
        + segment(0xC4, bytes(400))
        + b"\xff\xff"
    )
    for marker in (0xC0, 0xC1, 0xC2, 0xC9):
        assert read_frame(jpeg(800, 600, marker=marker, before=before)) == ("jpeg", 800, 600)


PLAIN = (PHOTOS / "cat.jpg").read_bytes()
METADATA = {
    "a proof of origin": segment(0xEB, b"JP\2\x11" + bytes(64_000)) * 20,
    "a colour profile": segment(0xE2, b"ICC_PROFILE\0" + bytes(65_000)) * 18,
    "depth maps": segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 20,
    "junk": segment(0xFE, b"c") + b"??" + segment(0xFE, b"c") + bytes(2),
    "junk that looks like markers": b"\xff\0\xff\xd9"[:2] + b"\xff\xd0" + b"\xff\xff\xff",
}


@pytest.mark.parametrize("name", METADATA)
def test_what_stands_before_the_size_of_a_jpeg_is_no_reason(name: str) -> None:
    """Phones and generators write megabytes there, some programs write junk; decoders read on for
    the size, and so does this.
    """
    pillow = pytest.importorskip("PIL.Image")
    data = PLAIN[:2] + METADATA[name] + PLAIN[2:]
    with pillow.open(io.BytesIO(data)) as image:
        truth = image.size
    header = data[: images.HEADER_BYTES]
    assert images.needs_more(header, len(data)) is (len(METADATA[name]) > 1_000_000)
    assert read_frame(data) == Frame("jpeg", *truth)
    assert frame_problems(data, len(data)) == []


@given(junk=st.binary(max_size=60), number=st.integers(0, 2))
def test_junk_never_shows_another_size_than_pillow(junk: bytes, number: int) -> None:
    """Where Pillow opens a damaged file too, both see the same picture."""
    pillow = pytest.importorskip("PIL.Image")
    before = [b"", segment(0xFE, b"c"), segment(0xE0, b"JFXX\0")][number]
    data = PLAIN[:2] + before + junk + PLAIN[2:]
    try:
        with pillow.open(io.BytesIO(data)) as image:
            truth = image.size
    except (OSError, SyntaxError, ValueError, IndexError, struct.error):
        return
    assert read_frame(data) in (Frame("jpeg", *truth), Frame("jpeg", 0, 0))


@pytest.mark.parametrize(
    "data",
    [PLAIN[:60], PLAIN[:2] + b"\xff??" * 500, b"\xff\xd8" + b"\xff" * 9_000_000],
    ids=["cut", "junk alone", "fill bytes alone"],
)
def test_a_jpeg_without_a_size_stays_refused(data: bytes) -> None:
    """There is no picture in it, and looking for one takes no time to speak of."""
    assert ["its header has no size" in problem for problem in frame_problems(data, len(data))] == [
        True
    ]


@pytest.mark.parametrize("piece", [segment(0xFE, b""), b"\xff\xd0"], ids=["segments", "junk"])
def test_a_jpeg_is_not_looked_through_without_end(piece: bytes) -> None:
    """What is far more than any program writes is passed; ten megabytes of it hold nobody up."""
    many = piece * images.MOST_SEGMENTS
    assert read_frame(PLAIN[:2] + many[: len(many) // 2] + PLAIN[2:]) == read_frame(PLAIN)
    endless = PLAIN[:2] + many * 20 + PLAIN[2:]
    assert ["its header has no size" in problem for problem in frame_problems(endless, 1)] == [True]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"GIF89a" + bytes(20), "GIF"),
        (b"BM" + bytes(20), "BMP"),
        (b"II*\0" + bytes(20), "TIFF"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns=", "SVG"),
        (b"<!DOCTYPE html>", "HTML"),
        (bytes(4) + b"ftypavif", "AVIF"),
        (bytes(4) + b"ftypheic", "HEIC"),
        (bytes(4) + b"ftypheix", "HEIC"),
        (bytes(4) + b"ftyphevc", "HEIC"),
        (bytes(4) + b"ftypmsf1", "HEIC"),
        (bytes(4) + b"ftypavis", "AVIF"),
        (bytes(4) + b"ftypisom", "a video"),
        (b"plain text", "something else"),
    ],
)
def test_other_formats_are_refused_by_name(header: bytes, name: str) -> None:
    """A file of another kind is refused, and named when it is known."""
    assert frame_problems(header, 1000) == [f"expected a JPEG, PNG or WEBP file, got {name}"]


@pytest.mark.parametrize(
    ("width", "height", "problems"),
    [
        (300, 300, []),
        (300, 750, []),
        (750, 300, []),
        (299, 300, ["expected at least 300 px on each side, got 299 x 300 px"]),
        (300, 751, ["expected sides between 1:2.5 and 2.5:1, got 300 x 751 px"]),
        (751, 300, ["expected sides between 1:2.5 and 2.5:1, got 751 x 300 px"]),
        (
            100,
            1000,
            [
                "expected at least 300 px on each side, got 100 x 1000 px",
                "expected sides between 1:2.5 and 2.5:1, got 100 x 1000 px",
            ],
        ),
        (0, 0, ["the PNG file is damaged: its header has no size"]),
    ],
)
def test_the_rules_of_sides(width: int, height: int, problems: list[str]) -> None:
    """At least 300 px on each side, and sides between 1:2.5 and 2.5:1, limits included; every
    problem is named.
    """
    assert problems == frame_problems(png(width, height), 1000)


@pytest.fixture(params=["JPEG", "PNG", "WEBP"])
def picture(request: pytest.FixtureRequest) -> bytes:
    """Return a whole picture as an encoder writes it, with a preview before its size."""
    pillow = pytest.importorskip("PIL.Image")
    noise = random.Random(1).randbytes(400 * 300)
    file = io.BytesIO()
    pillow.frombytes("L", (400, 300), noise).save(file, request.param)
    data = file.getvalue()
    preview = segment(0xE1, b"Exif\0\0" + PLAIN[-5_000:])
    return data[:2] + preview + data[2:] if request.param == "JPEG" else data


def test_a_picture_that_is_cut_short_is_refused(picture: bytes, tmp_path: Path) -> None:
    """Half a file, and one whose rest was never written, are no first frame: they would be paid
    for. A file is judged as its bytes are.
    """
    half = picture[: len(picture) // 2]
    zeros = [] if picture.startswith(b"RIFF") else [half + bytes(len(half) + 300_000)]
    for cut in (half, picture[:-12], *zeros):
        path = tmp_path / "cut"
        path.write_bytes(cut)
        assert file_problems(path) == frame_problems(cut, len(cut))
        assert ["is cut short" in problem for problem in file_problems(path)] == [True]


@pytest.mark.parametrize("tail", [b"", b"\0", bytes(600_000)], ids=len)
def test_what_follows_a_whole_picture_is_no_reason(
    picture: bytes, tail: bytes, tmp_path: Path
) -> None:
    """Phones put films behind their photographs, and some programs zeros."""
    path = tmp_path / "whole"
    path.write_bytes(picture + tail)
    assert file_problems(path) == frame_problems(picture + tail, len(picture + tail)) == []


def test_the_rules_of_size() -> None:
    """10 MB are allowed, one byte more is not, and an empty file is named as such."""
    good = png(500, 500)
    assert frame_problems(good, images.LARGEST_FILE) == []
    assert frame_problems(good, images.LARGEST_FILE + 1) == [
        "expected at most 10 MB (10485760 bytes), got 10485761 bytes"
    ]
    assert frame_problems(b"", 0) == ["the file is empty"]


@pytest.mark.parametrize(
    "whole",
    [
        png(640, 480),
        jpeg(640, 480),
        webp_lossy(640, 480),
        webp_lossless(640, 480),
        webp_extended(640, 480),
    ],
)
def test_a_header_that_is_cut_off_is_damaged_or_whole(whole: bytes) -> None:
    """However early a file ends, reading it never fails; it has its whole size or none, or is no
    image.
    """
    for end in range(len(whole) + 1):
        frame = read_frame(whole[:end])
        assert frame[1:] in ((640, 480), (0, 0))


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(content: bytes) -> None:
    """Arbitrary bytes, also behind the marks of real formats, are read without an error."""
    for mark in (
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPVP8 ",
    ):
        assert isinstance(read_frame(mark + content), Frame)


def test_no_damage_breaks_the_reader() -> None:
    """A real header with random bytes changed is read without an error."""
    chance = random.Random(0)
    original = (PHOTOS / "cat.jpg").read_bytes()[:4096]
    for _ in range(500):
        damaged = bytearray(original)
        for _ in range(5):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        assert isinstance(read_frame(bytes(damaged)), Frame)


def test_the_media_type_goes_with_the_format() -> None:
    """The media type for the upload follows from the format found."""
    assert [read_frame(header(400, 400)).mime_type for header in (png, jpeg, webp_lossy)] == [
        "image/png",
        "image/jpeg",
        "image/webp",
    ]


@pytest.mark.parametrize(
    ("prompt", "cut"),
    [
        ("", None),
        ("x" * 5000, None),
        ("猫" * 2500, None),
        ("x" * 5001, "5001 characters; the service cuts prompts after 5000"),
        ("猫" * 2501, "2501 characters; the service cuts Chinese prompts after 2500"),
        ("x" * 2500 + "猫", "2501 characters; the service cuts Chinese prompts after 2500"),
        ("é" * 5000, None),
        ("é" * 5001, "5001 characters; the service cuts prompts after 5000"),
        ("\U0002a6d6" * 2501, "2501 characters; the service cuts Chinese prompts after 2500"),
    ],
)
def test_where_prompts_are_cut(prompt: str, cut: str | None) -> None:
    """2,500 characters with Chinese in them, 5,000 without; one more is reported with the place of
    the cut.
    """
    said = images.prompt_cut(prompt)
    assert said is None if cut is None else said is not None and said.startswith(cut)


def test_the_place_of_the_cut_is_shown() -> None:
    """The warning shows the last characters that are kept, and how many are dropped."""
    said = images.prompt_cut("x" * 4990 + "0123456789" + "dropped")
    assert said is not None
    assert "after 'xxxxxxxxxx0123456789'" in said
    assert said.endswith("and drops 7")
