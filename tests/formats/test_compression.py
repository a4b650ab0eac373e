"""Compressed bodies are read with a limit, and what cannot be read is one kind of error."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._formats.compression import TooLargeError, decoded

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
