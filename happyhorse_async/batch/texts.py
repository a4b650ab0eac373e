"""What a job's texts must be for the ledger to keep them: SQLite's text is UTF-8, and ends for some of its functions at a NUL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..models import ImageToVideo


def job_problems(request: Any, job_id: Any, extra: Any) -> list[str]:
    """List what the ledger cannot keep of a row; what the service thinks of its request is not asked here."""
    texts: dict[str, Any] = {}
    if isinstance(request, ImageToVideo):
        image = None if isinstance(request.image, bytes) else str(request.image)
        texts = {"image": image, "prompt": request.prompt, "callback_url": request.callback_url}
    problems = [f"{name}: {problem}" for name, text in texts.items() if text and (problem := text_problem(text))]
    return [*_id_problems(job_id), *problems, *_extra_problems(extra)]


def text_problem(text: str) -> str | None:
    """Say what is wrong with a text; None when nothing is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"expected text that UTF-8 can hold, got a lone surrogate in {text!r:.200}"
    return f"expected text without a NUL character, got {text!r:.200}" if "\0" in text else None


def _id_problems(job_id: Any) -> list[str]:
    if job_id is None:
        return []
    problem = text_problem(job_id) if isinstance(job_id, str) else f"expected text or None, got {job_id!r:.200}"
    return [f"id: {problem}"] if problem else []


def _extra_problems(extra: Any) -> list[str]:
    if not isinstance(extra, Mapping):
        return [f"extra: expected a mapping of columns, got {extra!r:.200}"]
    try:
        problem = text_problem(write_extra(extra))
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"cannot be written as JSON: {error}"
    return [f"extra: {problem}"] if problem else []


def write_extra(extra: Mapping[str, Any]) -> str:
    """Write the caller's own columns as the ledger keeps them; JSON escapes a NUL in them."""
    return json.dumps(dict(extra), ensure_ascii=False, allow_nan=False, default=str)
