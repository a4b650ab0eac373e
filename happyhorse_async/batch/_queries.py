"""Reads `ledger.sql`: SQL lives there, named and commented, and nowhere else."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from ._jobs import CHANGES, COLUMNS

_NAME = re.compile(r"^-- name: (\S+)$", re.MULTILINE)


@cache
def queries() -> dict[str, str]:
    """Return all queries by name, without their comments; "{columns}" stands for the columns of a
    job, or for those that a change writes.
    """
    text = files(__package__).joinpath("ledger.sql").read_text("utf-8")
    return {
        name: sql.replace("{columns}", _columns_of(name))
        for name, sql in named_queries(text).items()
    }


def named_queries(text: str) -> dict[str, str]:
    """Return the queries of a file by their names, without comments."""
    _, *pieces = _NAME.split(text)
    return {
        name: "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()
        for name, body in zip(pieces[::2], pieces[1::2], strict=True)
    }


def _columns_of(query: str) -> str:
    """Write the columns that a query gives, or that a change sets."""
    if query not in CHANGES:
        return ", ".join(f"j.{column}" for column in COLUMNS)
    return ", ".join(
        f"{column} = json_extract(v.value, '$[{place}]')"
        for place, column in enumerate(CHANGES[query], 1)
    )
