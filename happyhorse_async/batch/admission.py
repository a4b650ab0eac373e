"""Which of the ledger's jobs a row of the input is, and what there is to do about it. Runs in the ledger's thread, in one transaction."""

from __future__ import annotations

from collections.abc import Container, Sequence
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
    old = _enter(store, known, run, candidates, ids)
    store.write_set("count-twins", [[base, n] for base, n in counts.items() if n > 1 or (base in known and known[base][2] != n)])
    wanted = list({job_id for job_id in ids if job_id is not None})
    records = {record.id: record for record in map(Record.of_row, store.set_of("by-id", wanted))}
    admissions = []
    for candidate, job_id in zip(candidates, ids, strict=True):
        record = records.get(job_id) if job_id is not None else None
        if record is None:
            admissions.append(Admission(Verdict.TWICE))
            continue
        record.asked = candidate.request
        # A job that pauses before its next attempt is new to the ledger, and in hand all the same.
        in_hand = record.seq in live or record.ended_run == run
        verdict = Verdict.IN_HAND if in_hand else _verdict(store, record, retry=retry)
        admissions.append(Admission(verdict, record, old.get(candidate.id) if candidate.own else None))
    return admissions


def _number(known: dict[str, Any], run: int, candidates: Sequence[Candidate]) -> tuple[list[str | None], dict[str, int]]:
    """Give each row its final id, and how often each id came: equal rows are counted; a caller's id that came before has none."""
    counts: dict[str, int] = {}
    ids: list[str | None] = []
    for candidate in candidates:
        base = candidate.id
        _, seen_run, twins = known.get(base, (None, 0, 1))
        ordinal = counts.get(base, twins if seen_run == run else 0) + 1
        if candidate.own and ordinal > 1:
            ids.append(None)
            continue
        counts[base] = ordinal
        ids.append(identity.twin_id(base, ordinal))
    return ids, counts


def _enter(
    store: Store, known: dict[str, Any], run: int, candidates: Sequence[Candidate], ids: Sequence[str | None]
) -> dict[str, Record]:
    """Write rows down; gives the jobs whose id another request has now, by that id."""
    rows = [(c, job_id) for c, job_id in zip(candidates, ids, strict=True) if job_id is not None]
    changed = [c for c, _ in rows if c.own and c.id in known and known[c.id][0] != c.fingerprint and known[c.id][1] != run]
    earlier = store.set_of("earlier", [[c.id, c.fingerprint] for c in changed]) or {} if changed else {}
    aside = _aside(store, [c.id for c in changed], {c.id for c in candidates}, run)
    store.write_set("supersede", list(aside.items()))
    names = _names(store, rows, run)
    store.write_set("revive", [[earlier[c.id], c.id, name] for (c, _), name in zip(rows, names, strict=True) if c.id in earlier])
    store.write_set(
        "admit",
        [[job_id, c.fingerprint, c.text, c.extra, name, int(c.own), run] for (c, job_id), name in zip(rows, names, strict=True)],
    )
    # A row that was not known has just been written as it is.
    store.write_set("renew", [[job_id, c.text, c.extra, run] for c, job_id in rows if c.id in known or job_id != c.id])
    old = {record.id: record for record in map(Record.of_row, store.set_of("by-id", list(aside.values())) if aside else ())}
    return {job_id: old[other] for job_id, other in aside.items()}


def _aside(store: Store, changed: Sequence[str], coming: set[str], run: int) -> dict[str, str]:
    """Choose new ids for the jobs whose own ones stand for other requests now: such as no job has, for callers' ids may end as these do."""
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
