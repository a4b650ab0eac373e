"""What became of a batch, written down: results.jsonl, results.csv, _gallery.html. Reads the ledger
alone, a page of it at a time.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import attrs

from .._models import MODEL
from .._request import made_path
from .._rules.lifecycle import JobState
from .._rules.numbers import to_credits
from ..errors import ConfigurationError, HappyHorseError, LedgerError
from . import _gallery
from ._database import LEDGER_NAME, STORE, Database, reading
from ._jobs import JobRow
from ._manifest import left_out, replacing
from ._outcome import Totals
from ._videos import StoreFolder, VideoFolder

COLUMNS = (
    *("id", "state", "image", "prompt", "quality", "duration", "seed"),
    *("video", "size", "sha256", "length", "width", "height"),
    *("credits", "attempts", "task_id", "seconds", "error_code", "error", "charged", "model"),
)
"""The columns of a result, in order; the caller's own come after them."""


MISSING = "missing"
"""The state in a result of a saved job whose video is not in the folder as it was."""
LEFT_OUT = "left out"
"""The state in a result of a row of the input that could not become a job."""
GONE = {"code": "video_missing", "message": "the saved video is not in its place any more"}


def result_of(job: JobRow, *, here: bool, videos: VideoFolder) -> dict[str, Any]:
    """Return a job as one flat result; the caller's own columns are under "extra".

    `here`: whether the video of a saved job lies in its place.
    """
    request = json.loads(job.request)
    kept = request["image"]
    image = kept.get("link") or kept.get("path") or f"sha256:{kept.get('sha256')}"
    place = videos.url(job.name) or job.name
    video = (place, job.size, job.sha256, job.length, job.width, job.height)
    fault = job.fault if here else {**GONE, "charged": "yes"}
    values = (
        *(job.id, job.state.value if here else MISSING, image),
        *(request.get(name) for name in ("prompt", "quality", "duration", "seed")),
        *(video if job.state is JobState.SAVED and here else (None,) * 6),
        *(float(to_credits(job.spent)), job.attempt, job.task_id, job.seconds),
        *(fault.get("code"), fault.get("message"), fault.get("charged")),
        request.get("model", MODEL),
    )
    return {**dict(zip(COLUMNS, values, strict=True)), "extra": job.columns}


def _left_out_result(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that could not become a job as a result; nothing was sent for it."""
    known = {
        "id": row["place"],
        "state": LEFT_OUT,
        "error_code": "left_out",
        "error": "; ".join(row["problems"]),
        "charged": "no",
    }
    return {**dict.fromkeys(COLUMNS), **known, "credits": 0.0, "attempts": 0, "extra": {}}


Results = Callable[[], Iterator[dict[str, Any]]]
"""Walks the results, from the first one at each call."""


def write_reports(
    folder: str | os.PathLike[str],
    kinds: Sequence[str] = ("html", "jsonl", "csv"),
    *,
    verify: bool = False,
    title: str | None = None,
) -> list[Path]:
    """Write reports of a folder's batch into it, also while the batch runs; return their paths.

    A saved video that does not lie in the folder with its size is reported as missing. With
    `verify` every video is read, and its digest counts too. The gallery's `title` is the folder's
    name by default. Blocks. Raises `LedgerError` when there is no ledger.
    """
    where = made_path("folder", folder)
    with reading(where / LEDGER_NAME) as database:
        return write_reports_of(database, where, kinds, verify=verify, title=title)


def write_reports_of(
    database: Database,
    folder: Path,
    kinds: Sequence[str],
    *,
    verify: bool,
    title: str | None,
) -> list[Path]:
    """Write reports of an open ledger's jobs, whose videos lie in a folder, into it."""

    def gallery(results: Results, file: TextIO) -> None:
        """Write the page, which alone has a title, and links that begin in the folder."""
        _gallery.write(folder, results(), file, title=title)

    writers: dict[str, tuple[str, Callable[[Results, TextIO], None]]] = {
        "jsonl": ("results.jsonl", _write_jsonl),
        "csv": ("results.csv", _write_csv),
        "html": ("gallery.html", gallery),
    }
    kinds = [kinds] if isinstance(kinds, str) else kinds
    unknown = [kind for kind in kinds if kind not in writers]
    if unknown or not kinds:
        raise ConfigurationError(
            f"reports: expected some of {', '.join(writers)}, got {', '.join(unknown) or 'none'}"
        )

    videos = _videos_of(database)

    def results() -> Iterator[dict[str, Any]]:
        """Walk over all jobs anew, once for each report: they do not fit into memory."""
        for job in database.pages("shown"):
            yield result_of(job, here=_is_here(videos, job, verify=verify), videos=videos)
        yield from map(_left_out_result, left_out(folder))

    paths = []
    for kind in kinds:
        name, write = writers[kind]
        try:
            with replacing(folder / name) as file:
                write(results, file)
        except OSError as error:
            raise LedgerError(
                f"nothing can be written in {folder}: {error.strerror or error}",
                next_step="Make room or get the right to write there, or copy the folder elsewhere "
                "and report there.",
            ) from error
        paths.append(folder / name)
    return paths


def _videos_of(database: Database) -> VideoFolder:
    """Return where a ledger's videos lie, after a look at an object store."""
    link = database.fact(STORE)
    if link is not None:
        database.videos = StoreFolder(link)
        database.videos.look()
    return database.videos


def _is_here(videos: VideoFolder, job: JobRow, *, verify: bool) -> bool:
    if job.state is not JobState.SAVED:
        return True
    # Of a store its list is enough, unless each video is to be read.
    return videos.is_here(job, digest=True) if verify else videos.has_size(job.name, job.size)


def _write_jsonl(results: Results, file: TextIO) -> None:
    file.writelines(json.dumps(result, ensure_ascii=False) + "\n" for result in results())


def _write_csv(results: Results, file: TextIO) -> None:
    own = sorted({name for result in results() for name in result["extra"]})
    # A caller's column that is named like one of ours keeps its values, under a longer name.
    heads = [f"extra.{name}" if name in COLUMNS else name for name in own]
    # Without the mark Excel takes the file for another encoding than UTF-8.
    file.write("\ufeff")
    writer = csv.writer(file)
    writer.writerow([*COLUMNS, *map(_cell, heads)])
    for result in results():
        extra = result["extra"]
        cells = [*(result[name] for name in COLUMNS), *(extra.get(name) for name in own)]
        writer.writerow(map(_cell, cells))


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes a cell for a formula by, or skips before one; wide forms of the signs,
as Chinese and Japanese ones do.
"""


def _cell(value: Any) -> Any:
    """Make a value a cell that no spreadsheet takes for a formula; numbers stay as they are."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


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
    missing: int | None
    """Saved videos that are not in their place any more, or not with their size; None: their object
    store could not be looked at."""
    left_out: int = 0
    """Rows that the last run's input had and that could not become jobs."""
    how: str | None
    """How the last run ended: "done", "stopped", "failed", "cancelled"; None while it goes on, or
    when it was killed."""

    def as_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
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
            "missing": self.missing,
            "left_out": self.left_out,
            "per_hour": round(self.per_hour, 1),
            "run": {
                "number": self.run,
                "pid": self.pid,
                "started": self.started,
                "ended": self.how,
            },
        }


def overview(folder: str | os.PathLike[str]) -> Overview:
    """Read a folder's ledger without touching it, and look whether the saved videos are there.

    Blocks. Raises `LedgerError` when there is no ledger.
    """
    where = made_path("folder", folder)
    with reading(where / LEDGER_NAME) as database:
        now = time.time()
        number, pid, started, _, how = database.last_run() or (0, 0, now, None, None)
        span = max(1.0, min(PACE_SECONDS, now - started))
        ended = database.ended_since(now - span)
        return Overview(
            folder=str(where),
            totals=database.totals(),
            missing=_count_missing(database),
            left_out=sum(1 for _ in left_out(where)),
            per_hour=3600 * ended / span,
            run=number,
            pid=pid,
            started=started,
            how=how,
        )


def _count_missing(database: Database) -> int | None:
    try:
        _videos_of(database)
    except HappyHorseError:
        return None
    return database.count_missing()
