"""Which of the ledger's jobs a row of the input is, and what there is to do about it. Runs in the
ledger's thread, in one transaction.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Container, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs

from .._edges.disk import absolute
from .._edges.local_images import look_at
from .._formats.texts import shown
from .._request import ImageToVideo
from .._rules.lifecycle import JobState
from ..errors import DestinationExistsError, HappyHorseError, InvalidRequestError
from . import _identity
from ._database import Database
from ._identity import write_extra
from ._jobs import Job, JobRow, write_request
from ._ledger import Ledger


class Verdict(Enum):
    """What there is to do about a row."""

    WORK = "work"
    """It is to be submitted; or it was saved, and its video is not here any more."""
    TOLD = "told"
    """It ended in an earlier run: its outcome is told again."""
    IN_HAND = "in hand"
    """This run has it already."""
    REFUSED = "refused"
    """Nothing: the admission's error says why."""


@attrs.define
class Candidate:
    """A row of the input that satisfies the rules of requests."""

    request: ImageToVideo
    id: str
    own: bool
    """Whether the id is the caller's."""
    fingerprint: str
    text: str
    """The request as the ledger keeps it."""
    extra: str


@attrs.define
class Admission:
    """A row's place in the ledger."""

    verdict: Verdict
    job: JobRow | None = None
    old: JobRow | None = None
    """The job of another request that had the caller's id before, under its new id."""
    error: HappyHorseError | None = None
    """Why the row is refused. Without a job its id came before in this input. With one, a file that
    is not the batch's lies where its video would go."""


def candidate_of(job: Job, image_digest: str | None) -> Candidate:
    """Return a row with its identity."""
    digest = _identity.fingerprint(job.request, image_digest)
    return Candidate(
        job.request,
        job.id if job.id is not None else digest[: _identity.ID_LENGTH],
        job.id is not None,
        digest,
        write_request(job.request, image_digest),
        write_extra(job.extra) if job.extra else "{}",
    )


@attrs.frozen
class Entrance:
    """The way of rows into the ledger, in one transaction of one run."""

    _database: Database
    _run: int
    _live: Container[int] = attrs.field(kw_only=True)
    """The jobs that the run has in hand."""
    _retry: bool = attrs.field(kw_only=True)
    """Those that failed begin again."""
    _verify: bool = attrs.field(kw_only=True)
    """The contents of saved videos are to be looked at."""

    def admit(self, candidates: Sequence[Candidate]) -> list[Admission]:
        """Enter rows, and say of each what there is to do about it."""
        known = self._database.set_of("known", [candidate.id for candidate in candidates]) or {}
        ids, counts = self._number(candidates, known)
        old = self._enter(candidates, ids, known)
        self._database.write_set(
            "count-twins",
            [
                [base, n]
                for base, n in counts.items()
                if n > 1 or (base in known and known[base][2] != n)
            ],
        )
        wanted = list({job_id for job_id in ids if job_id is not None})
        records = {record.id: record for record in self._database.jobs(wanted)}
        return [
            self._admission(candidate, records.get(job_id) if job_id else None, old)
            for candidate, job_id in zip(candidates, ids, strict=True)
        ]

    def _admission(
        self, candidate: Candidate, record: JobRow | None, old: dict[str, JobRow]
    ) -> Admission:
        if record is None:
            twice = InvalidRequestError([f"id: {candidate.id!r} came before in this input"])
            return Admission(Verdict.REFUSED, error=twice)
        record.asked = candidate.request
        of_this_run = record.ended_run == self._run
        # A job that pauses before its next attempt is new to the ledger, and in hand all the same.
        if record.seq in self._live or (of_this_run and record.id not in old):
            verdict = Verdict.IN_HAND
        else:
            verdict = self._verdict(record, retry=self._retry and not of_this_run)
        admission = Admission(verdict, record, old.get(record.id))
        if verdict is Verdict.REFUSED:
            admission.error = _stranger(self._database.videos.place(record.name))
        return admission

    def _verdict(self, record: JobRow, *, retry: bool) -> Verdict:
        state, videos = record.state, self._database.videos
        if state is JobState.SAVED and (
            self._verify or not videos.has_size(record.name, record.size)
        ):
            return Verdict.WORK
        if state in (JobState.SUBMITTING, JobState.RUNNING, JobState.COMPLETED):
            return Verdict.IN_HAND
        if state is JobState.SAVED or (state in (JobState.FAILED, JobState.UNKNOWN) and not retry):
            return Verdict.TOLD
        if self._database.is_stranger(record.name) and videos.exists(record.name):
            return Verdict.REFUSED
        return Verdict.WORK

    def _number(
        self, candidates: Sequence[Candidate], known: dict[str, Any]
    ) -> tuple[list[str | None], dict[str, int]]:
        """Return the final id of each row, and how often each id came. Equal rows are counted. A
        caller's id that came before has none.
        """
        counts: dict[str, int] = {}
        ids: list[str | None] = []
        for candidate in candidates:
            base = candidate.id
            _, seen_run, twins, *_ = known.get(base, (None, 0, 1))
            ordinal = counts.get(base, twins if seen_run == self._run else 0) + 1
            if candidate.own and ordinal > 1:
                ids.append(None)
                continue
            counts[base] = ordinal
            ids.append(_identity.twin_id(base, ordinal))
        return ids, counts

    def _enter(
        self, candidates: Sequence[Candidate], ids: Sequence[str | None], known: dict[str, Any]
    ) -> dict[str, JobRow]:
        """Write rows down; gives the jobs whose id another request has now, by that id."""
        database, run = self._database, self._run
        rows = [
            (c, job_id) for c, job_id in zip(candidates, ids, strict=True) if job_id is not None
        ]
        twins = [job_id for c, job_id in rows if job_id != c.id]
        there = {**known, **(database.set_of("known", twins) or {})} if twins else known
        changed = {
            job_id: c.fingerprint
            for c, job_id in rows
            if job_id in there and _is_another(there[job_id], c, run)
        }
        aside = self._aside(changed, {job_id for _, job_id in rows})
        database.write_set(
            "supersede",
            [
                [job_id, other, int(there[job_id][4] in self._live)]
                for job_id, other in aside.items()
            ],
        )
        earlier = database.set_of("earlier", list(changed.items())) or {} if changed else {}
        names = self._names(rows)
        again = [
            (job_id, name)
            for (_, job_id), name in zip(rows, names, strict=True)
            if job_id in earlier
        ]
        database.write_set("revive", [[earlier[job_id], job_id, name] for job_id, name in again])
        database.write_set(
            "admit",
            [
                [job_id, c.fingerprint, c.text, c.extra, name, int(c.own), run]
                for (c, job_id), name in zip(rows, names, strict=True)
            ],
        )
        # A row that was not known has just been written as it is.
        database.write_set(
            "renew", [[job_id, c.text, c.extra, run] for c, job_id in rows if job_id in there]
        )
        old = {record.id: record for record in database.jobs(list(aside.values()))}
        # One of them may be another id's job again by now.
        return {job_id: old[other] for job_id, other in aside.items() if other in old}

    def _aside(self, changed: Iterable[str], coming: set[str]) -> dict[str, str]:
        """Choose new ids for the jobs whose ids stand for other requests now. No job may have them
        yet, for callers' ids may end as these do.
        """
        aside = {job_id: f"{job_id}~{self._run}" for job_id in changed}
        while aside and (
            taken := {
                *(self._database.set_of("known", list(aside.values())) or ()),
                *(coming & set(aside.values())),
            }
        ):
            aside = {
                job_id: f"{other}~" if other in taken else other for job_id, other in aside.items()
            }
        return aside

    def _names(self, rows: Sequence[tuple[Candidate, str]]) -> list[str]:
        """Choose the videos' names: the plainest one that no other job has. Some file systems take
        no notice of case.
        """
        choices = [_choices(candidate, job_id, self._run) for candidate, job_id in rows]
        wanted = sorted({name for names in choices if len(names) > 1 for name in names})
        found = self._database.set_of("taken-names", wanted) or () if wanted else ()
        taken = {_identity.folded(name) for name in found}
        chosen = []
        for names in choices:
            name = next((name for name in names if _identity.folded(name) not in taken), names[-1])
            taken.add(_identity.folded(name))
            chosen.append(name)
        return chosen


def _stranger(place: str | Path) -> DestinationExistsError:
    return DestinationExistsError(
        f"{place} exists already, and is not this batch's", path=str(place), charged="no"
    )


def _is_another(there: Sequence[Any], candidate: Candidate, run: int) -> bool:
    """Whether the job that has a row's id is not the row's. It was asked for with another request,
    or was replaced under another id.
    """
    digest, seen_run, _, superseded, _ = there
    return bool((digest != candidate.fingerprint or superseded) and seen_run != run)


def _choices(candidate: Candidate, job_id: str, run: int) -> list[str]:
    plain = _identity.video_name(candidate.request, job_id, own=candidate.own)
    if not candidate.own:
        return [plain]
    stem = _identity.hashed_stem(job_id, candidate.fingerprint)
    return [plain, f"{stem}.mp4", f"{stem}-{run}.mp4"]


# --- From the caller's input to candidates for the ledger: form groups, look at local images, sort
# bad rows out.


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
        """Return each row with its identity. Local images are read once, and remembered."""
        jobs = [self._job(row) for row in rows]
        images = [job.request.image for job in jobs if isinstance(job, Job)]
        paths = [image for image in images if isinstance(image, Path)]
        stamps = await anyio.to_thread.run_sync(stamps_of, paths) if paths else {}
        known = await self._remembered(stamps)
        fresh: dict[str, str] = {}
        found = [
            job if isinstance(job, BadRow) else await self._look_at(job, known, fresh)
            for job in jobs
        ]
        # What changed while it was read has another stamp next time, and is read again.
        kept = [[path, stamps[path], digest] for path, digest in fresh.items() if path in stamps]
        if kept:
            await self._ledger.call(lambda database: database.write_set("keep-digests", kept))
        return found

    def _job(self, row: Any) -> Job | BadRow:
        self._number += 1
        if isinstance(row, ImageToVideo):
            try:
                return Job(row)
            except InvalidRequestError as error:
                return BadRow(f"row {self._number}", error, row)
        expected = "expected an ImageToVideo or a Job with one"
        if isinstance(row, Job) and isinstance(row.request, ImageToVideo):
            if row.id is None or row.id.strip():
                return row
            row, expected = row.id, "id: expected text that is not blank, or None"
        problem = f"row {self._number}: {expected}, got {shown(row)}"
        return BadRow(f"row {self._number}", InvalidRequestError([problem]))

    async def _remembered(self, stamps: dict[str, str]) -> dict[str, str]:
        if not stamps:
            return {}
        pairs = list(stamps.items())
        return await self._ledger.call(lambda database: database.set_of("digests", pairs)) or {}

    async def _look_at(
        self, job: Job, known: dict[str, str], fresh: dict[str, str]
    ) -> Candidate | BadRow:
        image = job.request.image
        if isinstance(image, str):
            return candidate_of(job, None)
        path = path_key(image) if isinstance(image, Path) else None
        digest = known.get(path) or fresh.get(path) if path is not None else None
        if digest is None:
            looked = await look_at(image)
            if looked.problems:
                name = (
                    job.id
                    if job.id is not None
                    else str(image)
                    if path is not None
                    else f"row {self._number}"
                )
                return BadRow(
                    name, InvalidRequestError(looked.problems), job.request, dict(job.extra)
                )
            digest = looked.sha256
            if path is not None:
                fresh[path] = digest
        return candidate_of(job, digest)


def path_key(path: Path) -> str:
    """Return the name under which the ledger knows a local image."""
    return os.path.normpath(absolute(path))


def stamps_of(paths: Sequence[Path]) -> dict[str, str]:
    """Return what changes whenever a file does: size and both times, of which the second cannot be
    set by hand.
    """
    stamps = {}
    for path in paths:
        try:
            facts = path.stat()
        except OSError:
            continue
        stamps[path_key(path)] = f"{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}"
    return stamps
