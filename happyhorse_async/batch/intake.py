"""From the caller's input to candidates for the ledger: groups are formed, local images are looked at, bad rows are sorted out."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs

from ..edges.images import look_at
from ..errors import InvalidRequestError
from ..models import ImageToVideo
from .admission import Candidate, candidate_of
from .jobs import Job
from .ledger import Ledger

GROUP = 256
"""Rows that are entered into the ledger together, at most."""

Input = Iterable[ImageToVideo | Job] | AsyncIterable[ImageToVideo | Job]


@attrs.frozen
class BadRow:
    """A row that cannot become a job."""

    id: str
    error: InvalidRequestError
    request: ImageToVideo | None = None
    extra: dict[str, Any] = attrs.field(factory=dict)


async def rows_of(requests: Input) -> AsyncGenerator[ImageToVideo | Job, None]:
    """Walk the input, synchronous or not; a long synchronous one lets others run in between."""
    if isinstance(requests, AsyncIterable):
        async for row in requests:
            yield row
        return
    for count, row in enumerate(requests, 1):
        yield row
        if not count % GROUP:
            await anyio.lowlevel.checkpoint()


class Intake:
    """Turns rows into candidates, in order."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._number = 0

    async def look(self, rows: Sequence[ImageToVideo | Job]) -> list[Candidate | BadRow]:
        """Give each row its identity, for which the content of local images is read once and remembered."""
        jobs = [self._job(row) for row in rows]
        local = [job.request.image for job in jobs if isinstance(job, Job) and job.request.is_local]
        paths = [image for image in local if isinstance(image, Path)]
        stamps = await anyio.to_thread.run_sync(_stamps, paths) if paths else {}
        known = await self._remembered(stamps)
        fresh: dict[str, str] = {}
        found = [job if isinstance(job, BadRow) else await self._look_at(job, known, fresh) for job in jobs]
        # What changed while it was read has another stamp next time, and is read again.
        kept = [[path, stamps[path], digest] for path, digest in fresh.items() if path in stamps]
        if kept:
            await self._ledger.call(lambda store: store.write_set("keep-digests", kept))
        return found

    def _job(self, row: Any) -> Job | BadRow:
        self._number += 1
        if isinstance(row, ImageToVideo):
            try:
                return Job(row)
            except InvalidRequestError as error:
                return BadRow(f"row {self._number}", error, row)
        if isinstance(row, Job) and isinstance(row.request, ImageToVideo) and (row.id is None or row.id.strip()):
            return row
        problem = f"row {self._number}: expected an ImageToVideo or a Job with one, got {row!r:.200}"
        return BadRow(f"row {self._number}", InvalidRequestError([problem]))

    async def _remembered(self, stamps: dict[str, str]) -> dict[str, str]:
        if not stamps:
            return {}
        pairs = list(stamps.items())
        return await self._ledger.call(lambda store: store.set_of("digests", pairs)) or {}

    async def _look_at(self, job: Job, known: dict[str, str], fresh: dict[str, str]) -> Candidate | BadRow:
        image = job.request.image
        if isinstance(image, str):
            return candidate_of(job, None)
        path = _key(image) if isinstance(image, Path) else None
        digest = known.get(path) or fresh.get(path) if path is not None else None
        if digest is None:
            looked = await look_at(image)
            if looked.problems:
                shown = job.id if job.id is not None else str(image) if path is not None else f"row {self._number}"
                return BadRow(shown, InvalidRequestError(looked.problems), job.request, dict(job.extra))
            digest = looked.sha256
            if path is not None:
                fresh[path] = digest
        return candidate_of(job, digest)


def _key(path: Path) -> str:
    return os.path.abspath(path)


def _stamps(paths: Sequence[Path]) -> dict[str, str]:
    """Give what changes whenever a file does: size and both times, of which the second cannot be set by hand."""
    stamps = {}
    for path in paths:
        try:
            facts = path.stat()
        except OSError:
            continue
        stamps[_key(path)] = f"{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}"
    return stamps
