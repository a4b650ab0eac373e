"""File names that are safe everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import DownloadError
from happyhorse_async._downloader import destinations
from happyhorse_async._formats import filenames


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task-unified-1-abc.mp4", "task-unified-1-abc.mp4"),
        ("a cat, running.mp4", "a cat, running.mp4"),
        ("猫.mp4", "猫.mp4"),
        ("../../etc/passwd", "_._.._etc_passwd"),
        ("a/b\\c:d.mp4", "a_b_c_d.mp4"),
        (".hidden", "_hidden"),
        ("-rf.mp4", "_rf.mp4"),
        ("CON.mp4", "_CON.mp4"),
        ("nul", "_nul"),
        ("com1.tar.mp4", "_com1.tar.mp4"),
        ("LPT¹.mp4", "_LPT¹.mp4"),
        ("console.mp4", "console.mp4"),
        ("trailing. . ", "trailing"),
        ("a\x00b\nc\u202ed.mp4", "a_b_c_d.mp4"),
        ("", "video"),
        ("...", "video"),
        ("///", "video"),
    ],
)
def test_names_are_made_safe(text: str, expected: str) -> None:
    """No separators, nothing invisible, nothing that Windows reserves;
    what is safe stays as it is.
    """
    assert filenames.safe_name(text) == expected


@given(st.text())
def test_any_text_becomes_one_safe_name(text: str) -> None:
    """Whatever comes, the name is one name, fits with its part and note beside it, and making it
    safe again changes nothing.
    """
    name = filenames.safe_name(text)
    assert name not in ("", ".", "..")
    assert not set(name) & set('/\\:*?"<>|\0')
    assert (
        max(len(beside.encode()) for beside in (name, *filenames.part_names(name)))
        <= filenames.LONGEST_NAME
    )
    assert filenames.safe_name(name) == name


@given(st.text(min_size=200), st.text(min_size=200))
def test_long_names_stay_apart(one: str, other: str) -> None:
    """Cutting keeps names distinct that differ in what is cut off."""
    long, longer = (
        "x" * 250 + one.encode("utf-8", "ignore").hex(),
        "x" * 250 + other.encode("utf-8", "ignore").hex(),
    )
    assert (filenames.safe_name(long) == filenames.safe_name(longer)) is (long == longer)


@pytest.mark.parametrize("name", ["caf\udce9.mp4", "\udce9" * 300 + ".mp4", "\ud800" * 100])
def test_names_that_are_not_utf_8_have_parts_too(name: str) -> None:
    """A path from an old archive holds bytes that no text is made of; measuring it is no error."""
    part, note = filenames.part_names(name)
    assert part + ".json" == note
    assert len(note.encode("utf-8", "surrogatepass")) <= 255


def test_part_names_fit_beside_the_longest_name() -> None:
    """A name that the file system just takes has a part and a note that it takes too."""
    longest = "x" * 251 + ".mp4"
    assert filenames.part_names("cat.mp4") == ("cat.mp4.part", "cat.mp4.part.json")
    assert all(len(name) <= 255 for name in filenames.part_names(longest))
    assert filenames.part_names(longest) != filenames.part_names("y" + longest[1:])


VALUES = {"task_id": "task-unified-1", "index": 2, "stem": "cat", "seed": 7}


@pytest.mark.parametrize(
    ("template", "changes", "expected"),
    [
        ("{task_id}.mp4", {}, "task-unified-1.mp4"),
        ("out/{stem}/{index:03}-{seed}.mp4", {}, "out/cat/002-7.mp4"),
        ("/abs/../{stem}.mp4", {}, "/abs/../cat.mp4"),
        ("{stem}/", {}, "cat/"),
        ("{{{stem}}}.mp4", {}, "{cat}.mp4"),
        ("{stem}.mp4", {"stem": "../../etc/passwd"}, "_._.._etc_passwd.mp4"),
        ("{stem}/x.mp4", {"stem": ".."}, "_/x.mp4"),
        ("{stem}/x.mp4", {"stem": ""}, "_/x.mp4"),
        (".{stem}/x.mp4", {"stem": "."}, "_/x.mp4"),
        ("{stem}.mp4", {"stem": "con"}, "_con.mp4"),
        ("{stem}", {"stem": "{task_id}"}, "{task_id}"),
    ],
)
def test_templates_are_filled(template: str, changes: dict[str, object], expected: str) -> None:
    """Slashes in the template make folders, those in values do not; no value leads out of the
    folder.
    """
    assert filenames.fill(template, {**VALUES, **changes}) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{nothing}",
        "{}",
        "{0}",
        "{task_id",
        "task_id}",
        "{task_id.upper}",
        "{task_id[0]}",
        "{index!r}",
        "{stem:d}",
        "{seed:999999999}",
        "{index:{seed}}",
    ],
)
def test_templates_that_cannot_be_used_say_why(template: str) -> None:
    """Unknown fields, parts of fields, conversions, widths that no name has, and unmatched braces;
    nothing was charged for it.
    """
    with pytest.raises(ValueError, match=r"it may name \{task_id\}"):
        filenames.template_fields(template)
    with pytest.raises(DownloadError, match=r"it may name \{task_id\}") as caught:
        destinations.template_fields(template)
    assert caught.value.charged == "no"
    assert filenames.is_template(template)


def test_further_results_get_numbers() -> None:
    """The first one has none; the number goes before the suffix."""
    assert [filenames.default_name("t", index) for index in range(3)] == [
        "t.mp4",
        "t-2.mp4",
        "t-3.mp4",
    ]
    assert [filenames.numbered("a.b/cat.mp4", index) for index in range(2)] == [
        "a.b/cat.mp4",
        "a.b/cat-2.mp4",
    ]
    assert filenames.numbered("a.b/cat", 1) == "a.b/cat-2"
    assert filenames.numbered(".mp4", 1) == ".mp4-2"


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        ("https://cdn.example.com/a/cat.one.png?token=1#x", "cat.one"),
        ("https://cdn.example.com/", "cdn.example"),
        ("/photos/cat.png", "cat"),
        ("C:\\photos\\cat.png", "cat"),
        ("cat", "cat"),
        ("what?.png", "what?"),
        (b"bytes", ""),
        (None, ""),
    ],
)
def test_first_frames_have_stems(image: object, stem: str) -> None:
    """The last piece of a path or link, without its suffix."""
    assert filenames.stem_of(image) == stem
