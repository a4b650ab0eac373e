"""What became of a batch, written down: results.jsonl, results.csv, _gallery.html. Reads the ledger
alone, a page of it at a time.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import attrs

from .._rules.lifecycle import JobState
from .._rules.prices import to_credits
from ..errors import ConfigurationError
from . import _gallery
from ._database import LEDGER_NAME, Database
from ._jobs import JobRow, Totals

COLUMNS = (
    *(
        "id",
        "state",
        "image",
        "prompt",
        "quality",
        "duration",
        "seed",
        "video",
        "size",
        "sha256",
        "length",
        "width",
        "height",
    ),
    *("credits", "attempts", "task_id", "seconds", "error_code", "error", "charged"),
)
"""The columns of a result, in order; the caller's own come after them."""


def result_of(job: JobRow) -> dict[str, Any]:
    """Give a job as one flat result; the caller's own columns are under "extra"."""
    request, fault = json.loads(job.request), job.fault
    image, saved = request["image"], job.state is JobState.SAVED
    values = (
        *(
            job.id,
            job.state.value,
            image.get("link") or image.get("path") or f"sha256:{image.get('sha256')}",
        ),
        *(request.get(name) for name in ("prompt", "quality", "duration", "seed")),
        *(
            (job.name, job.size, job.sha256, job.length, job.width, job.height)
            if saved
            else (None,) * 6
        ),
        *(float(to_credits(job.spent)), job.attempt, job.task_id, job.seconds),
        *(fault.get("code"), fault.get("message"), fault.get("charged")),
    )
    return {**dict(zip(COLUMNS, values, strict=True)), "extra": job.columns}


def write_reports(folder: Path, kinds: Sequence[str] = ("html", "jsonl", "csv")) -> list[Path]:
    """Write reports of a folder's batch into it, also while the batch runs; raises `LedgerError`
    when there is none. Blocks.
    """
    writers: dict[str, tuple[str, Callable[[Database, TextIO], None]]] = {
        "jsonl": ("results.jsonl", _write_jsonl),
        "csv": ("results.csv", _write_csv),
        "html": (
            "gallery.html",
            lambda database, file: _gallery.write(folder, _results(database), file),
        ),
    }
    unknown = [kind for kind in kinds if kind not in writers]
    if unknown or not kinds:
        raise ConfigurationError(
            f"reports: expected some of {', '.join(writers)}, got {', '.join(unknown) or 'none'}"
        )
    database = Database(folder / LEDGER_NAME, read_only=True)
    try:
        paths = []
        for kind in kinds:
            name, write = writers[kind]
            with _replacing(folder / name) as file:
                write(database, file)
            paths.append(folder / name)
        return paths
    finally:
        database.close(fold=False)


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Write a file that is seen only when it is whole."""
    draft = path.with_name(f"{path.name}.part")
    with draft.open("w", encoding="utf-8", newline="") as file:
        yield file
    draft.replace(path)


def _results(database: Database) -> Iterator[dict[str, Any]]:
    return map(result_of, database.pages("shown"))


def _write_jsonl(database: Database, file: TextIO) -> None:
    file.writelines(json.dumps(result, ensure_ascii=False) + "\n" for result in _results(database))


def _write_csv(database: Database, file: TextIO) -> None:
    own = sorted({name for job in database.pages("shown") for name in job.columns})
    # A caller's column that is named like one of ours keeps its values, under a longer name.
    heads = [f"extra.{name}" if name in COLUMNS else name for name in own]
    writer = csv.writer(file)
    writer.writerow([*COLUMNS, *heads])
    for result in _results(database):
        extra = result["extra"]
        writer.writerow(
            [*(result[name] for name in COLUMNS), *(_cell(extra.get(name)) for name in own)]
        )


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


# --- How a batch stands, read from its ledger alone, also while another process writes it.


PACE_SECONDS = 900.0
"""The rate is that of the last quarter of an hour."""


@attrs.frozen(kw_only=True)
class Overview:
    """What `happyhorse batch status` shows."""

    folder: str
    totals: Totals
    per_hour: float
    """Jobs that ended, by the pace of the last quarter of an hour."""
    run: int
    """The last run's number; 0 when there was none."""
    pid: int
    started: float
    """Unix seconds."""
    how: str | None
    """How the last run ended: "done", "stopped", "failed", "cancelled"; None while it goes on, or
    when it was killed."""

    def as_json(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        totals = self.totals
        return {
            "folder": self.folder,
            "states": {state.value: count for state, count in totals.states.items()},
            "jobs": totals.jobs,
            "credits_spent": totals.spent,
            "credits_reserved": totals.reserved,
            "failures": dict(totals.failures),
            "links_about_to_die": totals.dying,
            "first_death": totals.first_death,
            "per_hour": round(self.per_hour, 1),
            "run": {
                "number": self.run,
                "pid": self.pid,
                "started": self.started,
                "ended": self.how,
            },
        }


def overview(folder: Path) -> Overview:
    """Read a folder's ledger without touching it; raises `LedgerError` when there is none."""
    database = Database(folder / LEDGER_NAME, read_only=True)
    try:
        now = time.time()
        number, pid, started, _, how = database.last_run() or (0, 0, now, None, None)
        span = max(1.0, min(PACE_SECONDS, now - started))
        ended = database.ended_since(now - span)
        return Overview(
            folder=str(folder),
            totals=database.totals(),
            per_hour=3600 * ended / span,
            run=number,
            pid=pid,
            started=started,
            how=how,
        )
    finally:
        database.close(fold=False)
