"""What a command has paid for, or may have, so that its videos can be had whatever ends it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ._advice import fetch_line, submit_line
from ._console import say
from ._options import repeated

if TYPE_CHECKING:
    from .._request import ImageToVideo
    from .._session import Session
    from ..events import Orphaned, Submitted, Submitting, Uploaded


@attrs.define
class _Fate:
    """What is known of the submission for one video."""

    request: ImageToVideo | None = None
    key: str | None = None
    link: str | None = None
    task_id: str | None = None


class Paid:
    """Listens to a session; each submission has the path of its video as `tag`."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._fates = {path: _Fate() for path in paths}

    def listen(self, session: Session) -> None:
        """Listen until the session is closed, which may tell more of what has left."""
        # Late, here and below: making the events takes longer than the rest of a help page's code.
        from ..events import Orphaned, Submitted, Submitting, Uploaded

        session.subscribe(self._heard, Uploaded, Submitting, Submitted, Orphaned)

    def _heard(self, event: Uploaded | Submitting | Submitted | Orphaned) -> None:
        from ..events import Orphaned, Submitting, Uploaded

        fate = self._fates.get(event.tag)
        if fate is None:
            return
        if isinstance(event, Uploaded):
            fate.link = event.file.url
            return
        fate.key, fate.task_id = event.idempotency_key, event.task_id
        if isinstance(event, (Submitting, Orphaned)):
            fate.request = event.request

    def settled(self, path: Path) -> None:
        """Note that there is nothing left to fetch or to find out for a video."""
        self._fates.pop(path, None)

    def line(self, path: Path) -> str:
        """Return the line that goes on with a video; "" when nothing of it has left."""
        fate = self._fates.get(path)
        if fate is None or fate.key is None:
            return ""
        line = ""
        if fate.task_id is not None:
            line = fetch_line(fate.task_id, path)
        elif fate.request is not None:
            line = submit_line(fate.request, fate.key, path, fate.link)
        return shlex.join([*shlex.split(line), *repeated()])

    def say(self) -> None:
        """Say how to get what is paid; nothing when all is saved."""
        paid = [path for path, fate in self._fates.items() if fate.task_id is not None]
        doubts = [path for path in self._fates if path not in paid and self.line(path)]
        if paid:
            say("These tasks are paid and go on. Their videos can be fetched for 24 hours:")
        for path in paid:
            say(f"  {self.line(path)}")
        if doubts:
            say("It is not known whether these were accepted. These lines do not pay twice:")
        for path in doubts:
            say(f"  {self.line(path)}")
        if paid or doubts:
            say("The line that was interrupted would pay for all of them again.")
