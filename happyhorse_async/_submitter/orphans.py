"""Submissions that outlived their callers: kept for whoever asks, bounded, and without pictures."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime

import attrs

from .._dispatcher import Events
from .._formats.texts import printable
from .._request import FIELDS, ImageToVideo, quietly_made
from .._values import Value

logger = logging.getLogger("happyhorse_async")

MOST_ORPHANS = 1000
"""Orphans that a session keeps; the oldest are dropped first. Each was logged when it came."""


@attrs.frozen(kw_only=True)
class Orphan(Value):
    """A submission that was accepted, or may have been, after its caller was cancelled."""

    request: ImageToVideo
    """The request, without the picture. The link that bytes were uploaded to replaces them. So
    submitting it again with the same key sends the same body."""
    idempotency_key: str
    task_id: str | None
    """None: it is not known whether there is a task. Submitting again with the same key tells."""
    at: datetime
    image_sha256: str | None = None
    """The SHA-256 of the picture, in hexadecimal digits, when it was given as bytes."""


class Orphans:
    """The orphans of a session."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self.kept: list[Orphan] = []
        """The newest ones, oldest first."""

    def add(
        self, request: ImageToVideo, idempotency_key: str, task_id: str | None, link: str | None
    ) -> None:
        """Keep a submission that nobody waits for; `link` is where its image was uploaded."""
        digest = None
        if isinstance(request.image, bytes):
            digest = hashlib.sha256(request.image).hexdigest()
            # A service that lives for months must not keep the pictures of all who went away.
            fields = {name: getattr(request, name) for name in FIELDS}
            request = quietly_made(link or f"https://image.invalid/{digest}", fields)
        self.kept.append(
            Orphan(
                request=request,
                idempotency_key=idempotency_key,
                task_id=task_id,
                at=datetime.now(UTC),
                image_sha256=digest,
            )
        )
        if len(self.kept) > MOST_ORPHANS:
            del self.kept[0]
        logger.warning(
            "a submission outlived its caller: task %s, idempotency key %s",
            printable(task_id or "not known"),
            idempotency_key,
            extra={
                "action": "submission_orphaned",
                "task_id": task_id,
                "idempotency_key": idempotency_key,
            },
        )
        if self._events:
            from ..events import Orphaned

            self._events.emit(
                Orphaned(task_id=task_id, idempotency_key=idempotency_key, request=request)
            )
