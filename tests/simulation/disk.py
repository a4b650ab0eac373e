"""A disk that is full, broken, or has no descriptors left, for the files of a night."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.night import Night

TROUBLES = {
    "full": (("write", "pwrite"), errno.ENOSPC),
    "descriptors": (("open",), errno.EMFILE),
    "broken": (("fsync",), errno.EIO),
}
"""What each trouble strikes, and what the system says."""
CHANCE = 0.05


@contextmanager
def bad_disk(night: Night, trouble: str) -> Iterator[None]:
    """Let some calls fail for files in the night's folder; "" is a good disk."""
    if not trouble or not night.may(f"disk:{trouble}"):
        yield
        return
    names, number = TROUBLES[trouble]
    night.visited.add(f"disk:{trouble}")
    before = {name: getattr(os, name) for name in names if hasattr(os, name)}
    for name, true in before.items():
        setattr(os, name, _failing(night, name, true, number))
    try:
        yield
    finally:
        for name, true in before.items():
            setattr(os, name, true)


def _failing(night: Night, name: str, true: Callable[..., Any], number: int) -> Callable[..., Any]:
    def call(first: Any, *rest: Any, **how: Any) -> Any:
        ours = _in_folder(night, first)
        if ours and night.world.chance.random() < CHANCE:
            night.world.note(f"{name} fails: {errno.errorcode[number]}")
            raise OSError(number, os.strerror(number))
        return true(first, *rest, **how)

    return call


def _in_folder(night: Night, what: Any) -> bool:
    if isinstance(what, int):
        try:
            what = os.readlink(f"/proc/self/fd/{what}")
        except OSError:
            return False
    return str(night.folder) in os.fspath(what) if isinstance(what, (str, os.PathLike)) else False
