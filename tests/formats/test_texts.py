"""Texts from outside: harmless wherever they are shown, and otherwise as they came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._formats import texts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a cat, 猫　🐈", "a cat, 猫　🐈"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x9b2J", r"\x9b2J"),
        ("one\r\ntwo", r"one\r\ntwo"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("line\u2028break", r"line\u2028break"),
        ("half \ud800", r"half \ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("C:\\new", "C:\\new"),
    ],
)
def test_what_steers_a_terminal_or_forges_a_line_is_spelled_out(text: str, shown: str) -> None:
    """Escapes, newlines and marks of direction become visible; letters of any script stay."""
    assert texts.printable(text) == shown


def test_an_endless_text_is_cut() -> None:
    """A server cannot fill a log with one message."""
    assert texts.printable("x" * 50, most=10) == "x" * 10 + "…"
    assert texts.printable("x" * 10, most=10) == "x" * 10


@given(st.text(st.characters(exclude_categories=())))
def test_a_printable_text_has_one_line_and_stays_as_it_is(text: str) -> None:
    """Whatever comes, one line leaves, which every encoding of Unicode takes; twice is as once."""
    shown = texts.printable(text)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    shown.encode()
    assert texts.printable(shown) == shown
    assert len(texts.printable(text, most=5)) <= 6
    assert texts.printable(texts.printable(text, most=5), most=5) == texts.printable(text, most=5)


@given(st.text(st.characters(exclude_categories=())))
def test_a_text_without_surrogates_can_be_written(text: str) -> None:
    """Only halves of pairs are replaced, one sign for one."""
    clean = texts.without_surrogates(text)
    clean.encode()
    assert len(clean) == len(text)
    assert texts.has_surrogate(text) == (clean != text)


def test_escapes_that_can_hide_no_secret_are_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes of line breaks or of Chinese cost next to nothing, and the body stays as it is."""
    monkeypatch.setattr(texts, "_unescaped", None)
    redactor = texts.Redactor(["sk-secret-0123456789"])
    for unit in (rb"\n", rb"\u4e2d", rb"\ud83d", b"\\\\", rb"\""):
        assert redactor.body(b'"' + unit * 3 + b'"') == b'"' + unit * 3 + b'"'
    monkeypatch.undo()
    assert redactor.body(rb'"\u0073k-secret-0123456789"') == b'"***"'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("720p ", "'720p '"),
        (b"\xff" * 3, r"b'\xff\xff\xff'"),
        (None, "None"),
        (4.5, "4.5"),
        (["x"], "['x']"),
        (10**5000, "a number of 16610 bits"),
        (b"x" * 10**7, f"b'{'x' * 100}'... (10,000,000 bytes)"),
    ],
    ids=["text", "bytes", "None", "number", "list", "long number", "long bytes"],
)
def test_what_was_passed_by_mistake_is_shown(value: object, shown: str) -> None:
    """As Python shows it, as long as it is short."""
    assert texts.shown(value) == shown


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**7,
        bytearray(10**7),
        [b"x" * 10**7] * 100,
        {"image": ("x" * 10**7, 10**5000)},
        [[[[["x" * 100] * 9] * 9] * 9] * 9] * 9,
    ],
    ids=["text", "bytes", "list", "dict", "nested lists"],
)
def test_no_value_makes_a_long_message(value: object) -> None:
    """A message is read by people, and made in the event loop."""
    assert len(texts.shown(value)) < 1500
