"""The gallery: one HTML file beside the videos that needs no server, no network and no other file
but them.

What comes from outside (prompts, error messages, names) goes into the page as data, and is only
ever put in as text. A content security policy in the page allows its own script alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from array import array
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, TextIO
from urllib.parse import quote

import attrs

MOST_SHOWN = 5000
"""Jobs that get a card; a page with more is no use to anyone, and the tables have them all."""


class _Sums:
    """What is said about all jobs, also about those without a card."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        """The first message of each code: they differ by ids and numbers, and one stands for all.
        """
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
            note=f"The first {MOST_SHOWN:,} of {jobs:,} jobs are shown."
            if jobs > MOST_SHOWN
            else "",
            # "<" would let a text end the script element that it stands in.
            data=json.dumps(cards, ensure_ascii=False, separators=(",", ":")).replace(
                "<", "\\u003c"
            ),
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
            str(name): value if isinstance(value, str) else json.dumps(value)
            for name, value in result["extra"].items()
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


# --- Bar charts as inline SVG: numbers in, text out. They scale with the page, take its colours,
# and say in words what they show.


WIDTH, HEIGHT = 360, 180
LEFT, BOTTOM, TOP = 34, 24, 16
MOST_BARS = 12


@attrs.frozen
class Bars:
    """A histogram: so many values from each edge to the next."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def histogram(values: Sequence[float]) -> Bars:
    """Sort values into at most twelve bins with round edges."""
    if not values:
        return Bars((), ())
    low, high = min(values), max(values)
    step = _round_step((high - low) / MOST_BARS)
    first = math.floor(low / step)
    bins = math.floor(high / step) - first + 1
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, math.floor(value / step) - first)] += 1
    return Bars(tuple((first + n) * step for n in range(bins + 1)), tuple(counts))


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10, ... that is not smaller."""
    if step <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def chart(title: str, unit: str, values: Sequence[float], *, name: str) -> str:
    """Draw the distribution of values; `name` makes the ids in the page unique."""
    bars = histogram(values)
    if not bars.counts:
        return f'<figure class="chart"><figcaption>{escape(title)}</figcaption><p>Nothing to show yet.</p></figure>'
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    words = f"{len(values):,} jobs, from {_number(ordered[0])} to {_number(ordered[-1])} {unit}, half of them up to {_number(middle)}."
    return (
        f'<figure class="chart"><figcaption id="{name}-title">{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-words">'
        f"{_bars(bars, unit)}{_axis(bars)}</svg>"
        f'<p id="{name}-words">{escape(words)}</p></figure>'
    )


def _bars(bars: Bars, unit: str) -> str:
    room, height, most = WIDTH - LEFT - 8, HEIGHT - BOTTOM - TOP, max(bars.counts)
    width = room / len(bars.counts)
    parts = []
    for n, count in enumerate(bars.counts):
        tall = height * count / most
        label = f"{_number(bars.edges[n])} to {_number(bars.edges[n + 1])} {unit}: {count:,}"
        parts.append(
            f'<rect x="{LEFT + n * width + 1:.1f}" y="{TOP + height - tall:.1f}" width="{max(1.0, width - 2):.1f}" '
            f'height="{tall:.1f}"><title>{escape(label)}</title></rect>'
        )
    return "".join(parts)


def _axis(bars: Bars) -> str:
    floor, most = HEIGHT - BOTTOM, max(bars.counts)
    width = (WIDTH - LEFT - 8) / len(bars.counts)
    every = max(1, math.ceil(len(bars.edges) / 6))
    anchors = {len(bars.counts): "end"}  # the last label would stick out of the picture
    marks = "".join(
        f'<text x="{LEFT + n * width:.1f}" y="{HEIGHT - 6}" text-anchor="{anchors.get(n, "middle")}">{_number(edge)}</text>'
        for n, edge in enumerate(bars.edges)
        if n % every == 0
    )
    return (
        f'<line x1="{LEFT}" y1="{floor}" x2="{WIDTH - 8}" y2="{floor}"/>{marks}'
        f'<text x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{most:,}</text>'
        f'<text x="{LEFT - 6}" y="{floor}" text-anchor="end">0</text>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.4g}"
