"""The videos of a batch, in a folder or in an object store: whether each is there and whole.
Blocks.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .._edges.disk import open_regular
from .._edges.object_store import ObjectFolder
from .._edges.part_files import BLOCK, Tally
from .._edges.part_notes import clear_finished
from .._formats.mp4 import BrokenVideoError
from .._models import Task
from .._request import ImageToVideo
from .._rules import lifecycle
from .._video import Video
from ..errors import DownloadError, NotAVideoError
from ._jobs import JobRow


class VideoFolder:
    """The folder of a batch's videos. Names are those of the ledger."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def place(self, name: str) -> str | Path:
        """Return where a video lies, as downloads take it."""
        return self._folder / name

    def path(self, name: str) -> Path:
        """Return the path that a `Video` tells."""
        return self._folder / name

    def url(self, name: str) -> str | None:
        """Return the link that a `Video` tells; None outside of object stores."""
        return None

    def look(self) -> None:
        """Look at what is there, where that is not done for each video."""

    def names(self) -> list[str]:
        """List the videos that are there."""
        return [path.name for path in self._folder.glob("*.mp4")]

    def exists(self, name: str) -> bool:
        """Whether anything lies in a video's place, be it a link that leads nowhere."""
        return self._is_taken(name)

    def has_size(self, name: str, size: int | None) -> bool:
        """Whether a file lies in a video's place and has the size that the ledger knows."""
        return size is not None and self._size(name) == size

    def is_here(self, job: JobRow, *, digest: bool) -> bool:
        """Whether a saved job's video is in its place now, by its size; with `digest` by its
        content too.
        """
        if job.size is None or self._size(job.name) != job.size:
            return False
        return not digest or self._digest(job.name) == job.sha256

    def _size(self, name: str) -> int | None:
        try:
            facts = (self._folder / name).stat()
        except OSError:
            return None
        return facts.st_size if stat.S_ISREG(facts.st_mode) else None

    def _digest(self, name: str) -> str:
        """Return a video's digest; "" when it cannot be read to its end."""
        digest = hashlib.sha256()
        try:
            for piece in self._pieces(name):
                digest.update(piece)
        except OSError:
            return ""
        return digest.hexdigest()

    def _pieces(self, name: str) -> Iterator[bytes]:
        # What is no file may have no end, or wait for ever.
        with os.fdopen(open_regular(self._folder / name), "rb") as file:
            while data := file.read(BLOCK):
                yield data

    def put_aside(self, name: str) -> str | None:
        """Give another name to what lies in a video's place and is not that video; None when
        nothing does.
        """
        if not self._is_taken(name):
            return None
        for number in itertools.count(1):
            aside = f"{name}.changed{'' if number == 1 else f'-{number}'}"
            if not self._is_taken(aside):
                self._move(name, aside)
                return aside
        return None

    def put_back(self, aside: str, name: str) -> None:
        """Give a file its name back, unless another one has it by now."""
        if not self._is_taken(name):
            self._move(aside, name)

    def _clear(self, name: str) -> None:
        clear_finished(self._folder / name)

    def _is_taken(self, name: str) -> bool:
        return os.path.lexists(self._folder / name)

    def _move(self, name: str, to: str) -> None:
        place = self._folder / name
        try:
            place.rename(self._folder / to)
        except OSError as error:  # another user's, or open in a player on Windows
            raise _stays(place, error.strerror or str(error)) from error

    def verified(self, name: str, task: Task, request: ImageToVideo | None) -> Video | None:
        """Return the video in a place after reading and checking all of it; None when there is
        none.

        A crash may have come between the rename and the ledger's note of it. Raises
        `NotAVideoError` when something else lies there.
        """
        tally, place = Tally(), self.place(name)
        self._clear(name)
        try:
            for piece in self._pieces(name):
                tally.feed(piece)
            sha256, movie = tally.finish()
        except FileNotFoundError:
            return None
        except (BrokenVideoError, OSError) as error:
            what = "is no whole video" if isinstance(error, BrokenVideoError) else "cannot be read"
            raise NotAVideoError(
                f"{place}: this file lies where the video of task {task.id} should go, and "
                f"{what}: {getattr(error, 'strerror', None) or error}",
                path=str(place),
                task_id=task.id,
                next_step="Move the file away, then run the batch again.",
            ) from error
        return Video(
            path=self.path(name),
            url=self.url(name),
            size=tally.size,
            sha256=sha256,
            duration=movie.duration,
            width=movie.width,
            height=movie.height,
            task=task,
            request=request,
            credits=lifecycle.settled_charge(task),
        )


class StoreFolder(VideoFolder):
    """The same under a prefix of an object store. What is there is listed once for a run or a
    report. A question for each video would cost a request.
    """

    def __init__(self, link: str) -> None:
        """Raises `ConfigurationError` when the store cannot be opened."""
        self._objects = ObjectFolder(link)
        self._sizes: dict[str, int] = {}

    def __str__(self) -> str:
        return self._objects.link

    def place(self, name: str) -> str:
        """Return a video's link, as downloads take it."""
        return f"{self._objects.link}/{name}"

    def path(self, name: str) -> Path:
        """Return a video's key."""
        return Path(self._objects.key(name))

    def url(self, name: str) -> str:
        """Return a video's link."""
        return self.place(name)

    def look(self) -> None:
        """List what is there."""
        self._sizes = self._objects.sizes()

    def names(self) -> list[str]:
        """List the videos that are there."""
        self.look()
        return [name for name in self._sizes if name.endswith(".mp4")]

    def exists(self, name: str) -> bool:
        """Whether anything lay in a video's place when the store was listed."""
        return name in self._sizes

    def has_size(self, name: str, size: int | None) -> bool:
        """Whether an object of this size lay in a video's place when the store was listed."""
        return size is not None and self._sizes.get(name) == size

    def _size(self, name: str) -> int | None:
        return self._objects.size(name)

    def _pieces(self, name: str) -> Iterator[bytes]:
        return self._objects.pieces(name)

    def _clear(self, name: str) -> None:
        """Have nothing to clear: an object is put under its key with one request."""

    def _is_taken(self, name: str) -> bool:
        return self._size(name) is not None

    def _move(self, name: str, to: str) -> None:
        try:
            self._objects.move(name, to)
        except DownloadError as error:  # one that nobody may delete, for example
            raise _stays(self.place(name), str(error)) from error


def _stays(place: str | Path, reason: str) -> NotAVideoError:
    """Make the error for what lies in a video's place and stays there: one job's trouble."""
    return NotAVideoError(
        f"{place}: this file is not the video that was saved here, and cannot be put aside: "
        f"{reason}",
        path=str(place),
        next_step="Move the file away, then run the batch again.",
    )
