"""Which of the ledger's jobs a row of the input is, and what there is to do about it. Runs in the ledger's thread, in one transaction."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from enum import Enum
from typing import Any

import attrs

from ..models import ImageToVideo
from ..rules import identity
from ..rules.lifecycle import JobState
from .jobs import Job, Record, write_request
from .store import Store
from .texts import write_extra


class Verdict(Enum):
    """What there is to do about a row."""

    WORK = "work"
    """It is to be submitted."""
    TOLD = "told"
    """It ended in an earlier run: its outcome is told again."""
    IN_HAND = "in hand"
    """This run has it already."""
    TWICE = "twice"
    """The caller's id came before in this input."""
    STRANGER = "stranger"
    """A file that is not the batch's lies where its video would go."""


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
    record: Record | None = None
    old: Record | None = None
    """The job of another request that had the caller's id before, under its new id."""


def candidate_of(job: Job, image_digest: str | None) -> Candidate:
    """Give a row its identity."""
    digest = identity.fingerprint(job.request, image_digest)
    return Candidate(
        job.request,
        job.id if job.id is not None else digest[: identity.ID_LENGTH],
        job.id is not None,
        digest,
        write_request(job.request, image_digest),
        write_extra(job.extra) if job.extra else "{}",
    )


def admit(store: Store, run: int, candidates: Sequence[Candidate], *, live: Container[int], retry: bool) -> list[Admission]:
    """Enter rows into the ledger; with `retry` those that failed begin again. `live` are the jobs that the run has in hand."""
    known = store.set_of("known", [candidate.id for candidate in candidates]) or {}
    ids, counts = _number(known, run, candidates)
    old = _enter(store, known, run, candidates, ids, live)
    store.write_set("count-twins", [[base, n] for base, n in counts.items() if n > 1 or (base in known and known[base][2] != n)])
    wanted = list({job_id for job_id in ids if job_id is not None})
    records = {record.id: record for record in map(Record.of_row, store.set_of("by-id", wanted))}
    admissions = []
    for candidate, job_id in zip(candidates, ids, strict=True):
        record = records.get(job_id) if job_id is not None else None
        if record is None or job_id is None:
            admissions.append(Admission(Verdict.TWICE))
            continue
        record.asked = candidate.request
        # A job that pauses before its next attempt is new to the ledger, and in hand all the same.
        if record.seq in live or (record.ended_run == run and job_id not in old):
            verdict = Verdict.IN_HAND
        else:
            verdict = _verdict(store, record, retry=retry and record.ended_run != run)
        admissions.append(Admission(verdict, record, old.get(job_id)))
    return admissions


def _number(known: dict[str, Any], run: int, candidates: Sequence[Candidate]) -> tuple[list[str | None], dict[str, int]]:
    """Give each row its final id, and how often each id came: equal rows are counted; a caller's id that came before has none."""
    counts: dict[str, int] = {}
    ids: list[str | None] = []
    for candidate in candidates:
        base = candidate.id
        _, seen_run, twins, *_ = known.get(base, (None, 0, 1))
        ordinal = counts.get(base, twins if seen_run == run else 0) + 1
        if candidate.own and ordinal > 1:
            ids.append(None)
            continue
        counts[base] = ordinal
        ids.append(identity.twin_id(base, ordinal))
    return ids, counts


def _enter(
    store: Store,
    known: dict[str, Any],
    run: int,
    candidates: Sequence[Candidate],
    ids: Sequence[str | None],
    live: Container[int],
) -> dict[str, Record]:
    """Write rows down; gives the jobs whose id another request has now, by that id."""
    rows = [(c, job_id) for c, job_id in zip(candidates, ids, strict=True) if job_id is not None]
    twins = [job_id for c, job_id in rows if job_id != c.id]
    there = {**known, **(store.set_of("known", twins) or {})} if twins else known
    changed = {job_id: c.fingerprint for c, job_id in rows if job_id in there and _is_another(there[job_id], c, run)}
    aside = _aside(store, changed, {job_id for _, job_id in rows}, run)
    store.write_set("supersede", [[job_id, other, int(there[job_id][4] in live)] for job_id, other in aside.items()])
    earlier = store.set_of("earlier", list(changed.items())) or {} if changed else {}
    names = _names(store, rows, run)
    again = [(job_id, name) for (_, job_id), name in zip(rows, names, strict=True) if job_id in earlier]
    store.write_set("revive", [[earlier[job_id], job_id, name] for job_id, name in again])
    store.write_set(
        "admit",
        [[job_id, c.fingerprint, c.text, c.extra, name, int(c.own), run] for (c, job_id), name in zip(rows, names, strict=True)],
    )
    # A row that was not known has just been written as it is.
    store.write_set("renew", [[job_id, c.text, c.extra, run] for c, job_id in rows if job_id in there])
    old = {record.id: record for record in map(Record.of_row, store.set_of("by-id", list(aside.values())) if aside else ())}
    # One of them may be another id's job again by now.
    return {job_id: old[other] for job_id, other in aside.items() if other in old}


def _is_another(there: Sequence[Any], candidate: Candidate, run: int) -> bool:
    """Whether the job that has a row's id is not the row's: it was asked for with another request, or was replaced under another id."""
    digest, seen_run, _, superseded, _ = there
    return bool((digest != candidate.fingerprint or superseded) and seen_run != run)


def _aside(store: Store, changed: Iterable[str], coming: set[str], run: int) -> dict[str, str]:
    """Choose new ids for the jobs whose ids stand for other requests now: such as no job has, for callers' ids may end as these do."""
    aside = {job_id: f"{job_id}~{run}" for job_id in changed}
    while aside and (taken := {*(store.set_of("known", list(aside.values())) or ()), *(coming & set(aside.values()))}):
        aside = {job_id: f"{other}~" if other in taken else other for job_id, other in aside.items()}
    return aside


def _names(store: Store, rows: Sequence[tuple[Candidate, str]], run: int) -> list[str]:
    """Choose the videos' names: the plainest one that no other job has, also where file systems take no notice of case."""
    choices = [_choices(candidate, job_id, run) for candidate, job_id in rows]
    wanted = sorted({name for names in choices if len(names) > 1 for name in names})
    taken = {identity.folded(name) for name in store.set_of("taken-names", wanted) or ()} if wanted else set[str]()
    chosen = []
    for names in choices:
        name = next((name for name in names if identity.folded(name) not in taken), names[-1])
        taken.add(identity.folded(name))
        chosen.append(name)
    return chosen


def _choices(candidate: Candidate, job_id: str, run: int) -> list[str]:
    plain = identity.video_name(candidate.request, job_id, own=candidate.own)
    if not candidate.own:
        return [plain]
    stem = identity.hashed_stem(job_id, candidate.fingerprint)
    return [plain, f"{stem}.mp4", f"{stem}-{run}.mp4"]


def _verdict(store: Store, record: Record, *, retry: bool) -> Verdict:
    state = record.state
    if state in (JobState.SUBMITTING, JobState.RUNNING, JobState.COMPLETED):
        return Verdict.IN_HAND
    if state is JobState.SAVED or (state in (JobState.FAILED, JobState.UNKNOWN) and not retry):
        return Verdict.TOLD
    if store.is_stranger(record.name) and (store.path.parent / record.name).exists():
        return Verdict.STRANGER
    return Verdict.WORK
