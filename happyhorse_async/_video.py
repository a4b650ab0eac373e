"""A saved and verified video, as a frozen value."""

from __future__ import annotations

import base64
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ._values import Value

if TYPE_CHECKING:
    from ._models import Task
    from ._request import ImageToVideo


EMBEDDED_BYTES = 16 * 1024 * 1024
"""Videos up to this size are shown in notebooks by their bytes, larger ones by their path."""


@attrs.frozen(kw_only=True)
class Video(Value):
    """A saved and verified video."""

    path: Path
    """Where it lies; in an object store its key."""
    url: str | None = None
    """Where it lies in an object store, as s3://bucket/key."""
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal digest of the whole file, calculated while it was written."""
    content_type: str = "video/mp4"
    duration: float | None = None
    """Seconds, read from the file."""
    width: int | None = None
    """Pixels, read from the file."""
    height: int | None = None
    """Pixels, read from the file."""
    task: Task | None = attrs.field(default=None, repr=False)
    """The finished task."""
    request: ImageToVideo | None = attrs.field(default=None, repr=False)
    """The request, when this process made it."""
    credits: Decimal | None = None
    """The settled charge, when the service reported it."""

    @property
    def task_id(self) -> str | None:
        """The id of the task that made it."""
        return self.task.id if self.task is not None else None

    def _repr_html_(self) -> str:
        """Play it in a notebook; a small one is put into the page, which can be sent on."""
        import html  # needed in notebooks only

        where = html.escape(self.url or str(self.path))
        facts = f"<small>{where}, {self.size:,} bytes, SHA-256 {html.escape(self.sha256)}</small>"
        if self.url is not None or not self.path.is_file():
            return f"<div>{facts}</div>"
        source = html.escape(self.path.as_posix())
        if self.size <= EMBEDDED_BYTES:
            source = f"data:video/mp4;base64,{base64.b64encode(self.path.read_bytes()).decode()}"
        return f'<div><video controls loop width="480" src="{source}"></video><br>{facts}</div>'
