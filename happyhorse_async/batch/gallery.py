"""The gallery: one HTML file beside the videos that needs no server, no network and no other file but them.

What comes from outside (prompts, error messages, names) goes into the page as data, and is only ever put in as text. A content security
policy in the page allows its own script alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from array import array
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, TextIO
from urllib.parse import quote

from .charts import chart

MOST_SHOWN = 5000
"""Jobs that get a card; a page with more is no use to anyone, and the tables have them all."""


class _Sums:
    """What is said about all jobs, also about those without a card."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        """The first message of each code: they differ by ids and numbers, and one stands for all."""
        self.credits, self.seconds = array("d"), array("d")
        self.spent = 0.0

    def add(self, result: dict[str, Any]) -> None:
        """Count one job's result."""
        self.states[result["state"]] += 1
        self.spent += result["credits"]
        if result["state"] == "saved":
            self.credits.append(result["credits"])
            if result["seconds"] is not None:
                self.seconds.append(result["seconds"])
        elif result["error_code"]:
            self.failures[result["error_code"]] += 1
            self.examples.setdefault(result["error_code"], result["error"] or "")


def write(folder: Path, results: Iterable[dict[str, Any]], file: TextIO) -> None:
    """Write the gallery of a folder's results."""
    sums = _Sums()
    cards: list[dict[str, Any]] = []
    for result in results:
        sums.add(result)
        if len(cards) < MOST_SHOWN:
            cards.append(_card(folder, result))
    script, style = _asset("gallery.js"), _asset("gallery.css")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    jobs = sum(sums.states.values())
    file.write(
        Template(_asset("gallery.html")).substitute(
            script_digest=digest,
            style=style,
            script=script,
            title=escape(folder.resolve().name or "batch"),
            made=time.strftime("%Y-%m-%d %H:%M"),
            summary=escape(_summary(sums, jobs)),
            charts=chart("Credits for each video", "credits", sums.credits, name="credits")
            + chart("Seconds until each video was made", "seconds", sums.seconds, name="seconds"),
            failures=_failures(sums),
            note=f"The first {MOST_SHOWN:,} of {jobs:,} jobs are shown." if jobs > MOST_SHOWN else "",
            # "<" would let a text end the script element that it stands in.
            data=json.dumps(cards, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        )
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text("utf-8")


def _card(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    names = (
        "id",
        "state",
        "prompt",
        "seed",
        "quality",
        "duration",
        "credits",
        "seconds",
        "attempts",
        "task_id",
        "error_code",
        "error",
    )
    card = {name: result[name] for name in names if result[name] is not None}
    if result["video"] is not None:
        card["video"] = quote(result["video"])
    frame = _frame(folder, result["image"])
    if frame is not None:
        card["frame"] = frame
    if result["extra"]:
        card["extra"] = {
            str(name): value if isinstance(value, str) else json.dumps(value) for name, value in result["extra"].items()
        }
    return card


def _frame(folder: Path, image: str) -> str | None:
    """Where the page finds a first frame: its link, or its path as seen from the page."""
    if image.startswith("sha256:"):
        return None
    if image.startswith(("http://", "https://")):
        return image
    try:
        return quote(Path(os.path.relpath(image, folder.resolve())).as_posix())
    except ValueError:  # on another drive
        return Path(image).as_uri()


def _summary(sums: _Sums, jobs: int) -> str:
    words = ", ".join(f"{count:,} {state}" for state, count in sums.states.most_common())
    return f"{jobs:,} jobs: {words or 'none'}; {sums.spent:,.2f} credits spent"


def _failures(sums: _Sums) -> str:
    if not sums.failures:
        return "<p>None.</p>"
    rows = "".join(
        f'<tr><th scope="row">{escape(code)}</th><td>{count:,}</td><td>{escape(sums.examples[code][:300])}</td></tr>'
        for code, count in sums.failures.most_common()
    )
    head = '<tr><th scope="col">Code</th><th scope="col">Jobs</th><th scope="col">For example</th></tr>'
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Failures by code">{table}</div>'
