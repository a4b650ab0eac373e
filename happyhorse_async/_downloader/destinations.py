"""Where a video is to go: a file's path, a folder, a template, or an object store's link."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from .._edges import disk
from .._edges.object_store import split_link
from .._formats import filenames
from ..errors import DestinationExistsError, DownloadError

if TYPE_CHECKING:
    from .._request import ImageToVideo

OBJECT_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl", "azure")
_OTHER_SCHEMES = (
    "http",
    "https",
    "file",
    "ftp",
    "ftps",
    "sftp",
    "gcs",
    "r2",
    "oss",
    "wasb",
    "wasbs",
)
_BENT_LINK = re.compile(rf"({'|'.join((*OBJECT_SCHEMES, *_OTHER_SCHEMES))}):/(?!/)", re.IGNORECASE)
_LINK = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_A_TASK = "task-unified-1700000000-abcdefgh"
"""Stands for a task's id as long as there is none."""


@attrs.frozen
class Destination:
    """A place for videos as a caller gave it, looked at once. The same place is asked about before
    anything is paid and written to afterwards.
    """

    text: str
    """The path, or the key in an object store; both may be a folder or a template."""
    folder: bool = False
    """It is a folder, which gets files named after their tasks."""
    exact: bool = False
    """Braces in it are no template."""
    bucket: str = ""
    """The link of the bucket; "" for a path."""
    base: str = ""
    """Where a relative path begins: the program may change its folder while it waits."""

    def __fspath__(self) -> str:
        return self.text

    @property
    def in_store(self) -> bool:
        """Whether it is in an object store."""
        return bool(self.bucket)

    def name(
        self, task_id: str, request: ImageToVideo | None, index: int = 0, *, several: bool = False
    ) -> str:
        """Return the path or key of one video; `several`: all results of the task go here.

        Raises `DownloadError` for a template that cannot be used.
        """
        return os.path.join(self.base, self._name(task_id, request, index, several=several))

    def _name(
        self, task_id: str, request: ImageToVideo | None, index: int, *, several: bool
    ) -> str:
        filled, fields = self.text, frozenset[str]()
        if not self.exact and filenames.is_template(self.text):
            fields = template_fields(self.text)
            filled = filenames.fill(self.text, _values(task_id, request, index))
        if self.folder:
            slash = "" if not filled or filled.endswith(("/", os.sep)) else "/"
            return f"{filled}{slash}{filenames.default_name(task_id, index)}"
        numbered = several and "index" not in fields
        return filenames.numbered(filled, index) if numbered else filled

    def planned(self, request: ImageToVideo | None) -> tuple[str, bool]:
        """Return what the name will be like, and whether it will be just that. It may depend on the
        task, which is not there yet.
        """
        likely, other = self.name(_A_TASK, request), self.name(f"{_A_TASK}-2", request)
        return likely, likely == other and (request is not None or not self._names_image())

    def _names_image(self) -> bool:
        return not self.exact and bool({"stem", "seed"} & template_fields(self.text))


def look_at(to: str | os.PathLike[str], *, exact: bool = False, base: str = "") -> Destination:
    """Look at a destination, which begins at `base` when it is relative; this looks at the disk.

    Raises `DownloadError` for what is neither a path nor a link. With `exact` no braces and no
    folders are meant.
    """
    text = os.fspath(to)
    if not isinstance(text, str):
        raise _refusal(repr(text), "a path as bytes is not taken; os.fsdecode() makes it text")
    if is_bent_link(text):
        raise _refusal(text, "pass an object store's link as text, with two slashes, not as a Path")
    problem = disk.name_problem(text) or disk.home_problem(text)
    if problem:
        raise _refusal(text, problem)
    if isinstance(to, str) and is_object_link(text):
        bucket, key = split_link(text)
        folder = not exact and (not key or key.endswith("/"))
        return Destination(key, folder=folder, exact=exact, bucket=bucket)
    if is_foreign_link(text):
        raise _refusal(text, "it is a link, and no object store's: s3://, gs:// and az:// are")
    folder = not exact and _is_folder(text, base)
    return Destination(text, folder=folder, exact=exact, base=base)


def as_named(path: Path, base: str) -> Path:
    """Return a path as its caller named it, unless the program has changed its folder meanwhile."""
    try:
        leads_there = bool(base) and os.getcwd() == base and path.is_relative_to(base)
    except OSError:  # the working folder is gone
        leads_there = False
    return path.relative_to(base) if leads_there else path


def is_object_link(to: str) -> bool:
    """Whether a destination is in an object store."""
    scheme, mark, _ = to.partition("://")
    return bool(mark) and scheme.lower() in OBJECT_SCHEMES


def is_bent_link(to: str) -> bool:
    """Whether this was an object store's link before it was made a path."""
    return bool(_BENT_LINK.match(to))


def is_foreign_link(to: str) -> bool:
    """Whether a destination is a link that nothing can be saved to: no folder is meant by it."""
    return bool(_LINK.match(to)) and not is_object_link(to)


def template_fields(template: str) -> frozenset[str]:
    """Return the fields that a template names; raises `DownloadError` when it cannot be used."""
    try:
        return filenames.template_fields(template)
    except ValueError as error:
        raise DownloadError(
            str(error), path=template, charged="no", next_step="Correct the template."
        ) from None


def _is_folder(to: str, base: str) -> bool:
    return (
        to in ("", ".", "..")
        or to.endswith(("/", os.sep))
        or (not filenames.is_template(to) and os.path.isdir(os.path.join(base, to)))
    )


def _values(task_id: str, request: ImageToVideo | None, index: int) -> dict[str, object]:
    seed = request.seed if request is not None else None
    return {
        "task_id": task_id,
        "index": index + 1,
        "stem": (filenames.stem_of(request.image) if request is not None else "") or task_id,
        "seed": seed if seed is not None else "random",
    }


def one_name_of(place: Destination, path: str) -> str:
    """Return one spelling for all spellings of a path; this looks at the disk."""
    if place.in_store:
        return f"{place.bucket}/{path}"
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def _is_one_file(image: Path, path: str) -> bool:
    try:
        return os.path.samefile(image, path)
    except OSError:  # one of them is not there, or cannot be looked at
        return False


def refuse_unusable(path: str, *, known: bool, overwrite: bool, image: object = None) -> None:
    """Raise `DownloadError` when nothing can be saved at a path, in all that the file system can
    say. This looks at the disk.

    With `known=False` it is only a path like the one that will be. `image` is the first frame,
    which its own video never replaces.
    """
    if known and os.path.lexists(path):
        problem = disk.replacing_problem(path)
        if isinstance(image, Path) and _is_one_file(image, path):
            problem = "is the first frame itself"
        if problem:
            raise DestinationExistsError(
                f"{path} {problem}", path=path, charged="no", next_step="Choose another path."
            )
        if not overwrite:
            raise DestinationExistsError(f"{path} exists already", path=path, charged="no")
    final = Path(path)
    refuse_unwritable(final.parent, path)
    problem = disk.file_problem(final)
    if problem:
        raise _refusal(path, problem)


def refuse_unwritable(folder: Path, to: str) -> None:
    """Raise `DownloadError` when a folder is none and cannot become one, or may not be written to.
    This looks at the disk.
    """
    problem = disk.folder_problem(folder)
    if problem:
        raise _refusal(to, problem)


def _refusal(to: str, problem: str) -> DownloadError:
    return DownloadError(
        f"{to or '.'} cannot be saved: {problem}",
        path=to,
        charged="no",
        next_step="Choose another path.",
    )


# --- Whose each place is.


class Reservations:
    """The places that callers of this process have paid for, or are about to. For all sessions, in
    whichever threads they live.
    """

    def __init__(self) -> None:
        self.clear()

    def __bool__(self) -> bool:
        return bool(self._places)

    def __contains__(self, place: str) -> bool:
        return place in self._places

    def add(self, place: str) -> bool:
        """Reserve a place; return False when it is somebody's already."""
        with self._lock:
            is_free = place not in self._places
            self._places.add(place)
        return is_free

    def clear(self) -> None:
        """Forget all places, and whoever holds the lock."""
        self._places: set[str] = set()
        self._lock = threading.Lock()

    def discard(self, place: str) -> None:
        """Give a place back."""
        with self._lock:
            self._places.discard(place)


RESERVED = Reservations()
if hasattr(os, "register_at_fork"):
    # A child has none of its parent's callers, and perhaps a lock that nobody opens any more.
    os.register_at_fork(after_in_child=RESERVED.clear)
