"""What headers of HTTP say: dates in UTC, and bodies that are decoded within limits."""

from __future__ import annotations

import gzip
import time
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._formats.http_headers import (
    Decoder,
    TooLargeError,
    date_of,
    decoded,
    http_date,
)

MOMENT = 784111777.0


@pytest.mark.parametrize(
    "told",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 10:49:37 +0200",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process can be set on Unix")
def test_a_date_is_in_utc(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A date without a zone was this machine's time: a link seemed to be dead hours too early."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert date_of({"Date": told}) == MOMENT
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text() | st.text(alphabet="SunNov0123456789,:+-. GMT"))
def test_what_is_no_date_is_none(told: str) -> None:
    """Nothing that a host says is an error."""
    read = http_date(told)
    assert read is None or read.tzinfo is not None
    assert (date_of({"Date": told}) is None) is (read is None)
    assert http_date(None) is None is date_of({})


# --- Bodies.


BODY = b'{"id": "task-1"}'


def raw_deflate(body: bytes) -> bytes:
    """Return the deflate that some servers send: without the head of the standard."""
    machine = zlib.compressobj(wbits=-15)
    return machine.compress(body) + machine.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", BODY),
        ("identity", BODY),
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("GZip", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY, mtime=0)),
        ("gzip", gzip.compress(BODY[:5], mtime=0) + gzip.compress(BODY[5:], mtime=0)),
        ("gzip", gzip.compress(BODY, mtime=0) + b"\0" * 8),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("deflate, gzip", gzip.compress(zlib.compress(BODY), mtime=0)),
        ("identity, gzip", gzip.compress(BODY, mtime=0)),
    ],
)
def test_encodings_that_are_asked_for_are_read(encoding: str, body: bytes) -> None:
    """In every form that servers give them."""
    assert decoded(body, encoding, most=1000) == BODY


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"<html>"),
        ("gzip", gzip.compress(BODY, mtime=0)[:-9]),
        ("deflate", b"\xff\xff\xff"),
        ("br", b"\x0b\x02\x80ok\x03"),
        ("gzip, gzip, gzip, gzip", gzip.compress(BODY, mtime=0)),
    ],
)
def test_what_cannot_be_read_is_a_value_error(encoding: str, body: bytes) -> None:
    """Also what was cut off, which some libraries take for whole."""
    with pytest.raises(ValueError):
        decoded(body, encoding, most=1000)


@pytest.mark.parametrize("encoding", ["utf-8", "none", "aws-chunked", "gzip", "deflate", "br"])
@pytest.mark.parametrize("body", [BODY, b"\r\n" + BODY, b"[1]"])
def test_plain_json_is_read_whatever_its_label_says(encoding: str, body: bytes) -> None:
    """A task that was paid for is not lost because a server calls UTF-8 an encoding."""
    assert decoded(body, encoding, most=1000) == body


@given(st.binary(min_size=1, max_size=300))
def test_no_compressed_json_looks_like_plain_json(rest: bytes) -> None:
    """What is compressed is always read as such, in each form."""
    body = b"{" + rest
    for encoding, compressed in (
        ("gzip", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
        ("deflate", raw_deflate(body)),
    ):
        assert decoded(compressed, encoding, most=1000) == body


@pytest.mark.parametrize("layers", [1, 2])
def test_a_bomb_is_given_up_at_the_limit(layers: int) -> None:
    """However many bytes a few stand for, on whatever layer."""
    body, names = b" " * 50_000_000, ["gzip"] * layers
    for _ in names:
        body = gzip.compress(body)
    with pytest.raises(TooLargeError):
        decoded(body, ", ".join(names), most=100_000)


def test_a_body_of_exactly_the_limit_is_fine() -> None:
    """The limit is the largest size that is allowed."""
    assert len(decoded(gzip.compress(b" " * 1000), "gzip", most=1000)) == 1000
    with pytest.raises(TooLargeError):
        decoded(gzip.compress(b" " * 1001), "gzip", most=1000)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate", "gzip, deflate", "br", "x"]))
def test_any_bytes_are_a_body_or_a_value_error(body: bytes, encoding: str) -> None:
    """No other exception comes out of what a server sends."""
    with suppress(ValueError):
        assert len(decoded(body, encoding, most=1000)) <= 1000


# --- Bodies that come in pieces.


def encoded(data: bytes, name: str) -> bytes:
    """Encode bytes as a host would that was not asked to."""
    if name == "deflate":
        return zlib.compress(data)
    if name == "deflate without a header":
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return packer.compress(data) + packer.flush()
    if name == "gzip in two members":
        return gzip.compress(data[:100]) + gzip.compress(data[100:])
    return gzip.compress(data)


ENCODINGS = ("gzip", "gzip in two members", "deflate", "deflate without a header")


@pytest.mark.parametrize("name", ENCODINGS)
@given(data=st.binary(min_size=1, max_size=2000), size=st.integers(1, 300))
def test_encodings_are_undone(name: str, data: bytes, size: int) -> None:
    """Whatever pieces it comes in; it has ended when, and only when, nothing is missing."""
    sent = encoded(data, name)
    decoder, found = Decoder(name.split()[0]), b""
    for at in range(0, len(sent), size):
        assert not decoder.ended or name == "gzip in two members"
        decoder.feed(sent[at : at + size])
        while piece := decoder.read():
            found += piece
    assert (found, decoder.ended) == (data, True)


def test_decoded_pieces_are_bounded() -> None:
    """A few bytes that stand for very many do not fill the memory."""
    decoder, total = Decoder("gzip"), 0
    decoder.feed(gzip.compress(bytes(5_000_000)))
    while piece := decoder.read():
        assert len(piece) <= Decoder.PIECE
        total += len(piece)
    assert (total, decoder.ended) == (5_000_000, True)


@pytest.mark.parametrize("more", [0, 1, 5, 100, 257, 258, 259])
@pytest.mark.parametrize("name", ENCODINGS)
def test_what_follows_a_full_piece_is_not_lost(name: str, more: int) -> None:
    """The last encoded bytes may stand for more than fits into a piece; nothing follows them."""
    data = bytes(Decoder.PIECE + more)
    decoder, total = Decoder(name.split()[0]), 0
    decoder.feed(encoded(data, name))
    while piece := decoder.read():
        total += len(piece)
    assert (total, decoder.ended) == (len(data), True)


def test_broken_encodings_are_an_error() -> None:
    """What is not what its label says cannot be undone."""
    decoder = Decoder("gzip")
    decoder.feed(b"no gzip at all")
    with pytest.raises(ValueError, match="encoding is broken"):
        decoder.read()
