"""Notes beside part files, in folders that others write into too."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async._edges import part_notes
from happyhorse_async._edges.part_files import PartFile
from happyhorse_async._edges.part_notes import Leftover, Note, leftovers
from happyhorse_async._formats import filenames
from happyhorse_async._formats.http_ranges import Held

NOTE = Note(task_id="task-unified-1", index=0, name="a.mp4", validator='"one"', length=300)


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Nothing is left of its draft, and one note takes the place of another."""
    for note in (NOTE, attrs.evolve(NOTE, validator=None, length=None)):
        part_notes.write(tmp_path / "a.mp4.part.json", note)
        assert part_notes.read(tmp_path / "a.mp4.part.json") == note
    assert os.listdir(tmp_path) == ["a.mp4.part.json"]


def test_a_note_of_the_first_version_is_understood(tmp_path: Path) -> None:
    """The words are those that version 0.1.0 wrote."""
    text = (
        '{"version": 1, "task_id": "task-unified-1", "index": 0, "name": "a.mp4", '
        f'"validator": "\\"one\\"", "length": 300, "boot": "{NOTE.boot}"}}'
    )
    (tmp_path / "note").write_text(text)
    assert part_notes.read(tmp_path / "note") == NOTE


@pytest.mark.parametrize("name", ["a.mp4.part.json~", "a.mp4.part.json"])
def test_a_link_in_the_way_is_not_followed(tmp_path: Path, name: str) -> None:
    """Somebody else's file stays as it is, and is not taken for a note."""
    victim = tmp_path / "victim"
    victim.write_text(json.dumps(attrs.asdict(NOTE)))
    before = victim.read_bytes()
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).symlink_to(victim)
    assert part_notes.read(folder / name) is None
    file = PartFile(folder / "a.mp4", task_id="task-unified-2", index=0, overwrite=False)
    assert file.open() == Held()
    file.restart(Held(0, '"two"', 400))
    file.write([b"begun"])
    file.close()
    assert victim.read_bytes() == before
    assert [left.task_id for left in leftovers(folder)] == ["task-unified-2"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../a.mp4"},
        {"name": "/etc/passwd"},
        {"name": ".."},
        {"name": "a\0.mp4"},
        {"task_id": "../x"},
        {"task_id": "\x1b[31mred"},
        {"task_id": ""},
        {"index": -1},
        {"index": True},
        {"length": -5},
        {"length": 2**64},
        {"length": "300"},
        {"boot": None},
        {"version": 2},
        {"more": 1},
    ],
)
def test_a_note_that_makes_no_sense_is_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Names that lead elsewhere, ids that no service gives, numbers that cannot be."""
    facts = {**attrs.asdict(NOTE), **changes}
    path = tmp_path / filenames.part_names(NOTE.name)[1]
    path.write_text(json.dumps(facts))
    assert part_notes.read(path) is None
    assert list(leftovers(tmp_path)) == []


@given(data=st.one_of(st.binary(max_size=300), st.just(b"[" * 50_000), st.just(b"9" * 60_000)))
def test_no_bytes_break_the_reading(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever somebody writes there, it is no note of ours."""
    path = tmp_path_factory.mktemp("notes") / "a.mp4.part.json"
    path.write_bytes(data)
    assert part_notes.read(path) is None


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe nobody writes to, a socket, a folder: none of them is a note, and none holds us up."""
    os.mkfifo(tmp_path / "pipe.part.json")
    (tmp_path / "folder.part.json").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "socket.part.json"))
        assert [part_notes.read(path) for path in tmp_path.iterdir()] == [None] * 3
        assert list(leftovers(tmp_path)) == []


def test_a_folder_of_any_depth_is_looked_through(tmp_path: Path) -> None:
    """Deeper than a function may call itself; loops of links are not entered."""
    folder, here = tmp_path, os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1_200):
            os.mkdir("d")
            os.chdir("d")
        os.symlink(tmp_path, "loop")
        Path("a.mp4.part.json").write_text(json.dumps(attrs.asdict(NOTE)))
        found = list(leftovers(folder))
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # too deep for pytest's own
    assert [(left.task_id, left.received) for left in found] == [("task-unified-1", 0)]
    assert found[0] == Leftover("task-unified-1", 0, found[0].path, 0, 300)


def test_names_that_are_not_utf_8_are_kept(tmp_path: Path) -> None:
    """A note tells of such a name too, and finds its part again."""
    name = os.fsdecode(b"caf\xe9.mp4")
    file = PartFile(tmp_path / name, task_id="task-unified-1", index=0, overwrite=False)
    file.restart(Held(0, '"one"', 300))
    file.write([b"begun"])
    file.close()
    assert [(left.path.name, left.received) for left in leftovers(tmp_path)] == [(name, 5)]


def test_notes_do_not_depend_on_the_encoding_of_the_system() -> None:
    """Under `-X warn_default_encoding` and `-W error` a paid video was not fetched."""
    code = (
        "from happyhorse_async._edges.part_notes import Note; Note(task_id='t', index=0, name='n')"
    )
    strict = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    subprocess.run([sys.executable, *strict, "-c", code], check=True)
