"""Reads `ledger.sql`: SQL lives there, named and commented, and nowhere else."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\S+)$", re.MULTILINE)


@cache
def queries() -> dict[str, str]:
    """Give all queries by name, without their comments."""
    text = files(__package__).joinpath("ledger.sql").read_text("utf-8")
    _, *pieces = _NAME.split(text)
    return {name: _without_comments(body) for name, body in zip(pieces[::2], pieces[1::2], strict=True)}


def _without_comments(body: str) -> str:
    return "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()
