"""JSON from outside is read if it can be read at all, and is harmless afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._formats import json_text

READERS = ["orjson", "the standard library"]


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without orjson, which otherwise reads large texts only."""
    if request.param == "orjson":
        monkeypatch.setattr(json_text, "SMALL", 0)
    else:
        monkeypatch.setattr(json_text, "_fast", None)
    return str(request.param)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "猫"}'.encode("utf-16"), {"a": "猫"}),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"half \\ud83d"', "half \ufffd"),
        (b'"half \\uDE00\\ud83d!"', "half \ufffd\ufffd!"),
        (b'"\\ud83d\\ud83d\\ude00"', "\ufffd😀"),
        (b'"no escape: \\\\ud83d"', "no escape: \\ud83d"),
        (b'"\\\\\\ud83d"', "\\\ufffd"),
        (b'{"\\ud800": 1}', {"\ufffd": 1}),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        (b'"caf\xe9"', "caf\ufffd"),
        (b'"a\nb"', "a\nb"),
        (b"[NaN, Infinity, -Infinity, 1e999]", [None] * 4),
        (b"[" + b"9" * 400 + b"]", [None]),
        (b"[12345678901234567890]", [12345678901234567890]),
        (b"[-99999999999999999999]", [-1e20]),
    ],
)
def test_what_others_refuse_is_read(reader: str, body: bytes, value: Any) -> None:
    """One odd sign in one task's message must not hide fifty others; no number is endless."""
    assert json_text.loads(body) == value


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{", b"[1,]", b'{"a": 1} x', b"\xff\xfe", b"9" * 5000 + b"x"]
)
def test_what_is_no_json_is_a_value_error(reader: str, body: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError):
        json_text.loads(body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_what_is_nested_too_deeply_is_a_value_error(reader: str, opening: bytes) -> None:
    """Whoever writes such a value again, into a ledger for example, would fail."""
    closing = opening.replace(b'"a":', b"")[::-1].translate(bytes.maketrans(b"[{", b"]}"))
    for levels in (101, 900, 100_000):
        with pytest.raises(ValueError):
            json_text.loads(opening * levels + b"1" + closing * levels)
    assert json_text.loads(opening * 50 + b"1" + closing * 50)


def test_more_brackets_than_any_answer_has_are_refused(reader: str) -> None:
    """Looking for their depth would hold the event loop for seconds, and no answer is like that."""
    pairs = json_text.MOST_BRACKETS // 2 - 1
    assert len(json_text.loads(b"[" + b"[]," * (pairs - 1) + b"[]]")) == pairs
    with pytest.raises(ValueError, match="brackets"):
        json_text.loads(b"[" + b"[]," * pairs + b"[]]")


def test_brackets_in_a_text_are_no_levels(reader: str) -> None:
    """A prompt may be full of them."""
    text = "[{" * 5000
    assert json_text.loads(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize("digits", [18, 19, 20, 25])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_long_integer_is_what_orjson_makes_of_it(digits: int, encoding: str) -> None:
    """Exact as far as 64 bits go, and else a number with a point, in any encoding."""
    number = int("7" * digits)
    read = json_text.loads(json.dumps([number]).encode(encoding))[0]
    assert read == (number if number < 2**64 else float(number))
    assert type(read) is (int if number < 2**64 else float)


def test_orjson_reads_large_answers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On some processors all that follows a call of it takes longer than it has saved."""
    asked = list[int]()
    monkeypatch.setattr(json_text, "_fast", lambda body: asked.append(len(body)))
    for size in (json_text.SMALL, json_text.SMALL + 1):
        json_text.loads(b"1" + b" " * (size - 1))
    assert asked == [json_text.SMALL + 1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from(READERS))
def test_any_json_can_be_written_again(value: Any, reader: str) -> None:
    """Whatever is read has texts that are Unicode and numbers that are finite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, *(("SMALL", 0) if reader == "orjson" else ("_fast", None)))
        read = json_text.loads(json.dumps(value).encode())
    json.dumps(read, ensure_ascii=False, allow_nan=False).encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_a_value_error(body: bytes) -> None:
    """No other exception comes out of what a server sends."""
    try:
        json_text.loads(body)
    except ValueError:
        return
