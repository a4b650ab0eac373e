"""The laws: what holds in every night, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.night import Night


class BrokenLawError(AssertionError):
    """A law that did not hold."""

    def __init__(self, law: str, why: str) -> None:
        super().__init__(f"{law}: {why}")
        self.law = law


def require(holds: object, law: str, why: object = "") -> None:
    """Raise when a law does not hold."""
    if not holds:
        raise BrokenLawError(law, str(why))


def never_free_when_paid(night: Night) -> None:
    """`charged: "no"` is never said of a key that was paid for at that moment."""
    for error, paid in night.errors:
        key = error.idempotency_key
        require(
            not (error.charged == "no" and key in paid and error.task_id is None),
            "charged says no of a paid key",
            f"{type(error).__name__}: {error} (key {key})",
        )


def key_nowhere(night: Night, folder: Path) -> None:
    """The key stands in no file, no log line and no error."""
    key = night.sandbox.key
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            require(key.encode() not in path.read_bytes(), "the key is written down", path)
    for line in night.logged:
        require(key not in line, "the key is logged", line)
    for error, _ in night.errors:
        require(key not in f"{error} {error!r}", "the key is in an error", repr(error))


def whole_videos(night: Night, paths: Iterable[Path]) -> None:
    """Every video that is said to be saved is there, and is one."""
    for path in paths:
        require(path.is_file(), "a saved video is not there", path)
        data = path.read_bytes()
        require(data[4:8] == b"ftyp" and b"mdat" in data, "a saved video is none", path)


def true_videos(night: Night, saved: Iterable[tuple[Path, str]]) -> None:
    """Every saved video is the one that the service made, byte for byte.

    No client can tell bytes that a host has falsified within a box.
    """
    if "corrupt" in night.faults:
        return
    for path, task_id in saved:
        require(path.read_bytes() in night.truths(task_id), "a saved video is another", path)


def named_once(night: Night) -> None:
    """No video is fetched again after it got its name."""
    twice = [name for name, times in Counter(night.named).items() if times > 1]
    require(not twice, "a video is fetched again after it was saved", twice)


def nothing_left(things: list[str], whose: str) -> None:
    """No task, connection or unheard error of a closed process is left."""
    require(not things, "something is left over", f"{whose}: {things[:5]}")


def no_scraps(folder: Path) -> None:
    """No part file, note or draft is left after a quiet end."""
    scraps = [
        path.name
        for path in folder.rglob("*")
        if path.name.endswith((".part", ".part.json", ".tmp"))
    ]
    require(not scraps, "scraps are left", scraps)
