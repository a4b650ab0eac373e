"""Which rows of an input a folder's ledger has dealt with already: what is left is what costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .._edges.local_images import examined
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
        self._sizes: set[str] | None = None
        """Of the images that the ledger knows; asked for once."""

    def settled(self, jobs: Sequence[Job]) -> list[bool]:
        """Return of each row whether a run over it would buy nothing for it.

        Rows must come in the input's order, for equal rows are counted. A local image that has
        changed, or was never read, makes a new job; one that only lies elsewhere does not.
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
        known = [one for one in wanted if one]
        # A row that was changed and changed back is its first job again.
        earlier = self._database.set_of("earlier", known) or {} if known else {}
        ids = [job_id for job_id, _ in known]
        found = self._database.jobs([*ids, *earlier.values()])
        settled = {(row.id, row.fingerprint) for row in found if self._is_settled(row.state)}
        return [
            one is not None and (one in settled or (earlier.get(one[0], one[0]), one[1]) in settled)
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
        if not stamps:
            return {}
        digests: dict[str, str] = database.set_of("digests", list(stamps.items())) or {}
        if self._sizes is None:
            self._sizes = database.image_sizes()
        # A folder that was copied or moved has other times and paths, and the same images. Only
        # what may be one of them is read.
        for image in images:
            path = path_key(image)
            if path not in digests and stamps.get(path, "").partition(":")[0] in self._sizes:
                looked = examined(image)
                if not looked.problems:
                    digests[path] = looked.sha256
        return digests

    def close(self) -> None:
        """Close the ledger."""
        if self._database is not None:
            self._database.close(fold=False)
