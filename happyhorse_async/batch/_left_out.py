"""Rows of an input that cannot become jobs and were left out, kept beside the ledger.

Status and results tell them, so that nobody takes a report for the whole input.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FILE_NAME = "left-out.jsonl"


def write(folder: Path, rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Keep the rows that the newest run left out, each as its place and its problems. Blocks."""
    path = folder / FILE_NAME
    if not rows:
        path.unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with draft.open("x", encoding="utf-8", errors="backslashreplace") as file:
            for place, problems in rows:
                file.write(json.dumps({"place": place, "problems": list(problems)}) + "\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Give the rows that were left out; none when there is no such file, or it is not ours."""
    try:
        file = (folder / FILE_NAME).open(encoding="utf-8")
    except OSError:
        return
    with file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if isinstance(row, dict) and isinstance(row.get("problems"), list):
                yield {"place": str(row.get("place")), "problems": list(map(str, row["problems"]))}
