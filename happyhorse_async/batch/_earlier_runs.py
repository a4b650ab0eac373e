"""Which rows of an input a folder's ledger has dealt with already: what is left is what costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .._rules.lifecycle import AT_STAKE, JobState
from ._admission import candidate_of, path_key, stamps_of
from ._database import LEDGER_NAME, Database
from ._identity import twin_id
from ._jobs import Job
from ._ledger_file import is_there

PAID = (JobState.RUNNING, JobState.COMPLETED, JobState.SAVED)
"""States of jobs that cost nothing more."""


class EarlierRuns:
    """What earlier runs in a folder have dealt with; read-only, also while a batch runs there.

    Use it in one thread at a time, and close it. Raises `LedgerError` for a ledger of no use.
    """

    def __init__(self, folder: Path, *, retry: bool) -> None:
        path = folder / LEDGER_NAME
        self._database = Database(path, read_only=True) if is_there(path) else None
        self._retry = retry
        self._seen: dict[str, int] = {}

    def settled(self, jobs: Sequence[Job]) -> list[bool]:
        """Return of each row whether a run over it would buy nothing for it.

        Rows must come in the input's order, for equal rows are counted. A local image that has
        changed, or was never read, makes a new job.
        """
        if self._database is None:
            return [False] * len(jobs)
        digests = self._digests(self._database, jobs)
        wanted: list[tuple[str, str] | None] = []
        for job in jobs:
            digest = None
            image = job.request.image
            if isinstance(image, Path):
                digest = digests.get(path_key(image))
                if digest is None:
                    wanted.append(None)
                    continue
            candidate = candidate_of(job, digest)
            self._seen[candidate.id] = ordinal = self._seen.get(candidate.id, 0) + 1
            wanted.append((twin_id(candidate.id, ordinal), candidate.fingerprint))
        rows = {row.id: row for row in self._database.jobs([one[0] for one in wanted if one])}
        return [
            one is not None
            and one[0] in rows
            and rows[one[0]].fingerprint == one[1]
            and self._is_settled(rows[one[0]].state)
            for one in wanted
        ]

    def begun(self) -> int:
        """Count the jobs that may be paid and are not saved yet."""
        states = self._database.totals().states if self._database is not None else {}
        return sum(states.get(state, 0) for state in AT_STAKE)

    def _is_settled(self, state: JobState) -> bool:
        """Failed jobs, and those in doubt, are begun again only when that is asked for."""
        ended = (JobState.FAILED, JobState.UNKNOWN)
        return state in PAID or (state in ended and not self._retry)

    def _digests(self, database: Database, jobs: Sequence[Job]) -> dict[str, str]:
        """Look the contents of local images up by their size and times, as the ledger has them."""
        images = [job.request.image for job in jobs if isinstance(job.request.image, Path)]
        stamps = stamps_of(images)
        return database.set_of("digests", list(stamps.items())) or {} if stamps else {}

    def close(self) -> None:
        """Close the ledger."""
        if self._database is not None:
            self._database.close(fold=False)
