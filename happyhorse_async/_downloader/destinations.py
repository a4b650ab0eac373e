"""Where a video is to go: a file's path, a folder, a template, or an object store's link."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .._formats import filenames
from ..errors import DestinationExistsError, DownloadError

if TYPE_CHECKING:
    from .._models import Task
    from .._request import ImageToVideo

OBJECT_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl", "azure")


def is_object_link(to: str) -> bool:
    """Whether a destination is in an object store."""
    scheme, mark, _ = to.partition("://")
    return bool(mark) and scheme.lower() in OBJECT_SCHEMES


def template_fields(template: str) -> frozenset[str]:
    """Return the fields that a template names; raises `DownloadError` when it cannot be used."""
    try:
        return filenames.template_fields(template)
    except ValueError as error:
        raise DownloadError(
            str(error), path=template, charged="no", next_step="Correct the template."
        ) from None


def _fill(template: str, values: Mapping[str, object]) -> str:
    template_fields(template)
    return filenames.fill(template, values)


def is_folder(to: str) -> bool:
    """Whether a destination is a folder, which gets a file named after its task; this looks at the
    disk.
    """
    return (
        to in ("", ".", "..")
        or to.endswith(("/", os.sep))
        or (not filenames.is_template(to) and os.path.isdir(to))
    )


def file_path(
    to: str, task: Task, request: ImageToVideo | None, index: int, *, several: bool = False
) -> Path:
    """Give the path of a video; `several`: the destination is shared by all results of the task.
    This looks at the disk.

    Raises `DownloadError` for a template that cannot be used.
    """
    return Path(file_name(to, task, request, index, several=several, folder=is_folder(to)))


def file_name(
    to: str, task: Task, request: ImageToVideo | None, index: int, *, several: bool, folder: bool
) -> str:
    """Give the path or key of a video as text, without looking at any disk."""
    if folder:
        base = _fill(to, _values(task, request, index)) if filenames.is_template(to) else to
        slash = "" if not base or base.endswith(("/", os.sep)) else "/"
        return f"{base}{slash}{filenames.default_name(task.id, index)}"
    if filenames.is_template(to):
        fields = template_fields(to)
        filled = _fill(to, _values(task, request, index))
        return filenames.numbered(filled, index) if several and "index" not in fields else filled
    return filenames.numbered(to, index) if several else to


def known_key(key: str) -> str | None:
    """Return an object's key if it is known before there is a task; raises `DownloadError` for a
    template that cannot be used.
    """
    if filenames.is_template(key):
        template_fields(key)
        return None
    return None if not key or key.endswith("/") else key


def _values(task: Task, request: ImageToVideo | None, index: int) -> dict[str, object]:
    seed = request.seed if request is not None else None
    return {
        "task_id": task.id,
        "index": index + 1,
        "stem": (filenames.stem_of(request.image) if request is not None else "") or task.id,
        "seed": seed if seed is not None else "random",
    }


def refuse_unusable(to: str, *, overwrite: bool) -> None:
    """Raise `DownloadError` when nothing can be saved there, as far as that is known before there
    is a task. This looks at the disk.
    """
    if filenames.is_template(to):
        template_fields(to)
        folder = Path(to[: min(at for at in (to.find("{"), to.find("}")) if at >= 0)]).parent
    elif is_folder(to):
        folder = Path(to)
    else:
        folder = Path(to).parent
        if not overwrite and os.path.lexists(to):
            raise DestinationExistsError(f"{to} exists already", path=to, charged="no")
    refuse_unwritable(folder, to)


def refuse_unwritable(folder: Path, to: str) -> None:
    """Raise `DownloadError` when a folder is none and cannot become one, or may not be written to.
    This looks at the disk.
    """
    existing = next(
        place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)
    )
    if not existing.is_dir():
        problem = f"{existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        problem = f"{existing} may not be written to"
    else:
        return
    raise DownloadError(
        f"{to or '.'} cannot be saved: {problem}",
        path=to,
        charged="no",
        next_step="Choose another path.",
    )
