"""Notes beside part files: of which video the bytes are. And the downloads that they tell of that
did not end.

Others may write into the same folder. A note is never followed as a link and never waited for. It
is believed only when every word makes sense. Blocks, and runs in worker threads.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from .._formats import filenames
from .._models import TASK_ID
from .._values import Value
from . import disk

LARGEST = 64 * 1024
"""Bytes of a note; one of ours has some hundred."""
_VERSION = 1


@functools.cache
def _boot() -> str:
    """Identify this run of the machine, where the system tells; "" elsewhere."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


@attrs.frozen(kw_only=True)
class Note:
    """What a note says."""

    task_id: str
    index: int
    name: str
    """The final name of the video."""
    validator: str | None = None
    """Identifies the very version of the file at its host; None: it cannot be resumed."""
    length: int | None = None
    """Bytes of the whole file, when the host said it."""
    boot: str = attrs.field(factory=_boot)
    """The run of the machine in which the bytes were written."""
    version: int = _VERSION


def write(path: Path, note: Note) -> None:
    """Write a note in one step; a link that lies where it is drafted is not followed."""
    draft = path.with_name(path.name + "~")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(draft, flags, 0o666)
    try:
        os.write(descriptor, json.dumps(attrs.asdict(note)).encode())
    finally:
        os.close(descriptor)
    draft.replace(path)


def read(path: Path) -> Note | None:
    """Read a note; None when there is none, or something else."""
    try:
        descriptor = disk.open_regular(path, follow=False)
    except (OSError, ValueError):
        return None
    try:
        text = os.read(descriptor, LARGEST)
    finally:
        os.close(descriptor)
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return Note(**facts) if isinstance(facts, dict) and _makes_sense(facts) else None


def _makes_sense(facts: dict[str, Any]) -> bool:
    kinds: dict[str, tuple[type, ...]] = {
        "version": (int,),
        "task_id": (str,),
        "index": (int,),
        "name": (str,),
        "validator": (str, type(None)),
        "length": (int, type(None)),
        "boot": (str,),
    }
    return (
        facts.keys() == kinds.keys()
        and all(type(facts[name]) in kind for name, kind in kinds.items())
        and facts["version"] == _VERSION
        and TASK_ID.fullmatch(facts["task_id"]) is not None
        and facts["index"] >= 0
        and 0 <= (facts["length"] or 0) < 2**63
        and _is_one_name(facts["name"])
    )


def _is_one_name(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & {"\0", "/", "\\", os.sep}


@attrs.frozen
class Leftover(Value):
    """A download that did not end: `download(task, path, index=index)` resumes it."""

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
    for path in sorted(_notes_in(folder)):
        note = read(path)
        if note is None or filenames.part_names(note.name)[1] != path.name:
            continue
        final = path.with_name(note.name)
        # Looked at first: a download that is under way may give the name at any moment.
        begun = _stat(path.with_name(path.name.removesuffix(".json")))
        if clear_finished(final):
            continue
        received = 0 if begun is None else begun.st_size
        yield Leftover(note.task_id, note.index, final, received, note.length)


def clear_finished(final: Path) -> bool:
    """Clear away what a kill left beside a video that had just got its name; return whether it has
    its name.
    """
    part, note = (final.with_name(name) for name in filenames.part_names(final.name))
    begun, whole = _stat(part), _stat(final)
    if whole is None or (begun is not None and not os.path.samestat(begun, whole)):
        return False
    # In a folder that may only be read it stays, and tells of nothing.
    with suppress(OSError):
        part.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
    return True


def _notes_in(folder: Path) -> Iterator[Path]:
    """Walk a folder of any depth; what may not be looked at is passed over."""
    waiting = [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.name.endswith(filenames.NOTE_SUFFIX):
                        yield Path(entry.path)
        except (OSError, ValueError):  # the latter for what no path can be
            continue


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (OSError, ValueError):
        return None
