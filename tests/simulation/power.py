"""What a loss of power takes from a disk: bytes and names that were not synced."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path

Inode = tuple[int, int]


class Unsynced:
    """What has been synced in a night's folder, and which names have been given since."""

    def __init__(self) -> None:
        self.synced: set[Inode] = set()
        """Files whose bytes are on the disk."""
        self._names: list[tuple[Path, Path]] = []
        """Where files had their names before, and the names that their folders may yet lose."""

    def wrote(self, file: int) -> None:
        """Note that a file has bytes that are not on the disk."""
        self.synced.discard(inode_of(os.fstat(file)))

    def sync(self, file: int) -> None:
        """Note that a file's bytes are on the disk, or all names in a folder."""
        found = os.fstat(file)
        self.synced.add(inode_of(found))
        if stat.S_ISDIR(found.st_mode):
            self._names = [
                names
                for names in self._names
                if inode_of(os.stat(names[1].parent)) != inode_of(found)
            ]

    def named(self, source: Path, target: Path) -> None:
        """Note that a file has another name, or one more."""
        self._names.append((source, target))

    def lose(self, folder: Path, grave: Path, chance: random.Random) -> list[str]:
        """Take from a folder what is lost; it is a copy of the one that was written. Return the
        names that are gone.
        """
        for path in sorted(folder.rglob("*.part*")):
            if inode_of((grave / path.relative_to(folder)).stat()) not in self.synced:
                _lose_bytes(path, chance)
        for note in sorted(folder.rglob("*.part.json")):
            _boot_anew(note)
        gone = []
        while self._names and chance.random() < 0.7:
            source, target = self._names.pop()
            gone.append(str(target))
            if target.exists() and source.exists():
                target.unlink()
            elif target.exists():
                target.rename(source)
        self._names.clear()
        return gone


def inode_of(found: os.stat_result) -> Inode:
    """Return what a file is, whatever its names are."""
    return found.st_dev, found.st_ino


def _lose_bytes(path: Path, chance: random.Random) -> None:
    how, data = chance.choice(["kept", "zeros", "short", "gone"]), path.read_bytes()
    at = chance.randrange(len(data) + 1)
    if how == "gone":
        path.unlink()
    elif how != "kept":
        path.write_bytes(data[:at] + bytes(len(data) - at if how == "zeros" else 0))


def _boot_anew(note: Path) -> None:
    """Let a note be of an earlier run of the machine."""
    try:
        told = json.loads(note.read_bytes())
    except ValueError:
        return
    note.write_text(json.dumps({**told, "boot": "before the power failed"}))
