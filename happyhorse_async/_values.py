"""What all values have in common: they write themselves as JSON, and as tables in notebooks.

Imports nothing of ours. By hand and not by cattrs: a value is written by what its fields hold. Many
of their types are only imported for checkers. From and to the wire is `_rules/wire`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any

import attrs


class Value:
    """The base of the frozen values."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON has it: text, numbers, booleans, None, lists and objects.

        Decimals are exact, as text; times are ISO 8601; paths are text; the bytes of an image are
        their SHA-256. The service's whole answer, `raw`, is left out.
        """
        return dict(fields_of(self))

    def _repr_html_(self) -> str:
        """Show the value in a notebook."""
        return table(type(self).__name__, self.to_dict())


def fields_of(value: Any) -> dict[str, Any]:
    """Return an attrs value's public fields as JSON has them."""
    return {
        field.name: plain(getattr(value, field.name))
        for field in attrs.fields(type(value))
        if field.name != "raw" and not field.name.startswith("_")
    }


def plain(value: Any) -> Any:
    """Return anything as JSON has it; what JSON has nothing like is its text."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, Value):
        return value.to_dict()
    if callable(getattr(type(value), "to_dict", None)):
        return _by_itself(value)
    return fields_of(value) if attrs.has(type(value)) else _scalar(value)


def _by_itself(value: Any) -> Any:
    """Return what a value says of itself; a tag may be anything of the caller's."""
    try:
        return plain(value.to_dict())
    except Exception:  # noqa: BLE001 whatever the caller's code raises
        return str(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        import hashlib  # late: few images are given as bytes

        return f"sha256:{hashlib.sha256(value).hexdigest()}"
    return str(value)


def table(title: str, content: Any) -> str:
    """Return a piece of HTML that shows JSON, with all text escaped; empty fields are left out."""
    from html import escape  # needed in notebooks only

    return f"<div><b>{escape(title)}</b>{_shown(content, 0)}</div>"


_DEEPEST = 2
"""Levels of values that a table shows inside of one another."""


def _shown(content: Any, depth: int) -> str:
    from html import escape

    if isinstance(content, dict):
        rows = [
            f"<tr><th style='text-align:left'>{escape(str(name))}</th>"
            f"<td style='text-align:left'>{_shown(item, depth + 1)}</td></tr>"
            for name, item in content.items()
            if item not in (None, "", [], {}) and (depth < _DEEPEST or not isinstance(item, dict))
        ]
        return f"<table>{''.join(rows)}</table>"
    if isinstance(content, list):
        return _listed(content, depth) if content else ""
    return escape(str(content))


def _listed(items: list[Any], depth: int) -> str:
    from html import escape

    if not all(isinstance(item, dict) for item in items):
        return "<br>".join(_shown(item, depth) for item in items)
    names = list(dict.fromkeys(name for item in items for name in item))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return f"<table><tr>{head}</tr>{''.join(_row(item, names, depth) for item in items)}</table>"


def _row(item: Mapping[str, Any], names: Iterable[str], depth: int) -> str:
    cells = (item.get(name) for name in names)
    shown = ("" if cell is None else _shown(cell, depth + 1) for cell in cells)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in shown)}</tr>"
