"""Downloads that did not end, found by the notes beside their part files. Blocks, and runs in worker threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from ..rules import names
from .disk import read_note


@attrs.frozen
class Leftover:
    """A download that did not end: `download(task, path, index=index)` goes on with it."""

    task_id: str
    index: int
    path: Path
    """Where the video is to go."""
    received: int = 0
    """Bytes that are there."""
    total: int | None = None
    """Bytes of the whole file, when the host said it."""


def leftovers(folder: Path) -> Iterator[Leftover]:
    """Find the downloads into a folder, and the folders in it, that did not end."""
    for note in sorted(folder.rglob(f"*{names.NOTE_SUFFIX}")):
        facts = read_note(note)
        if facts is None or names.part_names(facts["name"])[1] != note.name:
            continue
        final, part = note.with_name(facts["name"]), note.with_name(names.part_names(facts["name"])[0])
        # Looked at once each: a download that is under way may give the name at any moment.
        begun, whole = _stat(part), _stat(final)
        if whole is not None and (begun is None or os.path.samestat(begun, whole)):
            # Killed after the video got its name, before all of this was cleared away.
            part.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
            continue
        yield Leftover(facts["task_id"], facts["index"], final, 0 if begun is None else begun.st_size, facts["length"])


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
