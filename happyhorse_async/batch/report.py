"""What became of a batch, written down: results.jsonl, results.csv, gallery.html. Reads the ledger alone, a page of it at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..errors import ConfigurationError
from ..rules.lifecycle import JobState
from . import gallery
from .jobs import Record, to_credits
from .store import LEDGER_NAME, Store

COLUMNS = (
    *("id", "state", "image", "prompt", "quality", "duration", "seed", "video", "size", "sha256", "length", "width", "height"),
    *("credits", "attempts", "task_id", "seconds", "error_code", "error", "charged"),
)
"""The columns of a result, in order; the caller's own come after them."""


def result_of(record: Record) -> dict[str, Any]:
    """Give a job as one flat result; the caller's own columns are under "extra"."""
    request, fault = json.loads(record.request), record.fault
    image, saved = request["image"], record.state is JobState.SAVED
    values = (
        *(record.id, record.state.value, image.get("link") or image.get("path") or f"sha256:{image.get('sha256')}"),
        *(request.get(name) for name in ("prompt", "quality", "duration", "seed")),
        *((record.name, record.size, record.sha256, record.length, record.width, record.height) if saved else (None,) * 6),
        *(float(to_credits(record.spent)), record.attempt, record.task_id, record.seconds),
        *(fault.get("code"), fault.get("message"), fault.get("charged")),
    )
    return {**dict(zip(COLUMNS, values, strict=True)), "extra": record.columns}


def write_reports(folder: Path, kinds: Sequence[str] = ("html", "jsonl", "csv")) -> list[Path]:
    """Write reports of a folder's batch into it, also while the batch runs; raises `LedgerError` when there is none. Blocks."""
    writers: dict[str, tuple[str, Callable[[Store, TextIO], None]]] = {
        "jsonl": ("results.jsonl", _write_jsonl),
        "csv": ("results.csv", _write_csv),
        "html": ("gallery.html", lambda store, file: gallery.write(folder, _results(store), file)),
    }
    unknown = [kind for kind in kinds if kind not in writers]
    if unknown or not kinds:
        raise ConfigurationError(f"reports: expected some of {', '.join(writers)}, got {', '.join(unknown) or 'none'}")
    store = Store(folder / LEDGER_NAME, read_only=True)
    try:
        paths = []
        for kind in kinds:
            name, write = writers[kind]
            with _replacing(folder / name) as file:
                write(store, file)
            paths.append(folder / name)
        return paths
    finally:
        store.close(fold=False)


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Write a file that is seen only when it is whole."""
    draft = path.with_name(f"{path.name}.part")
    with draft.open("w", encoding="utf-8", newline="") as file:
        yield file
    draft.replace(path)


def _results(store: Store) -> Iterator[dict[str, Any]]:
    return map(result_of, store.pages("shown"))


def _write_jsonl(store: Store, file: TextIO) -> None:
    file.writelines(json.dumps(result, ensure_ascii=False) + "\n" for result in _results(store))


def _write_csv(store: Store, file: TextIO) -> None:
    own = sorted({name for record in store.pages("shown") for name in record.columns})
    # A caller's column that is named like one of ours keeps its values, under a longer name.
    heads = [f"extra.{name}" if name in COLUMNS else name for name in own]
    writer = csv.writer(file)
    writer.writerow([*COLUMNS, *heads])
    for result in _results(store):
        extra = result["extra"]
        writer.writerow([*(result[name] for name in COLUMNS), *(_cell(extra.get(name)) for name in own)])


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
