"""The gallery: one HTML file beside the videos that needs no server, no network and no other file
but them.

What comes from outside (prompts, error messages, names) goes into the page as data. It is only ever
put in as text. A content security policy in the page allows its own script alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
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


def write(
    folder: Path, results: Iterable[dict[str, Any]], file: TextIO, *, title: str | None = None
) -> None:
    """Write the gallery of a folder's results; `title` is the folder's name by default."""
    sums = _Sums()
    cards: list[dict[str, Any]] = []
    for result in results:
        sums.add(result)
        if len(cards) < MOST_SHOWN:
            cards.append(_card(folder, result))
    script, style = _asset("gallery.js"), _asset("gallery.css")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    jobs = sum(sums.states.values())
    # "<" would let a text end the script element that it stands in.
    data = json.dumps(cards, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    file.write(
        Template(_asset("gallery.html")).substitute(
            script_digest=digest,
            style=style,
            script=script,
            title=escape(title or _title(folder)),
            videos=_count(sums.states["saved"], "video"),
            made=_today() + time.strftime(", %H:%M"),
            tiles=_tiles(sums, jobs),
            numbers=_numbers(sums),
            failures=_failures(sums),
            note=_note(jobs),
            data=data,
        )
    )


def _title(folder: Path) -> str:
    """Return a folder's name as people write titles: "spring_campaign" is "Spring campaign"."""
    words = re.sub(r"[_\-\s]+", " ", folder.resolve().name).strip()
    if words.lower() in _NO_TITLES:
        return f"Videos of {_today()}"
    return words[0].upper() + words[1:]


_NO_TITLES = ("", "batch", "out", "output", "results", "tmp", "videos")
"""Names of folders that say nothing."""


def _today() -> str:
    return time.strftime("%d %B %Y").lstrip("0")


def _note(jobs: int) -> str:
    if jobs <= MOST_SHOWN:
        return ""
    return f"<p>The first {MOST_SHOWN:,} of {jobs:,} jobs are shown.</p>"


def _asset(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text("utf-8")


_SHOWN = (
    "id",
    "state",
    "prompt",
    "seed",
    "quality",
    "duration",
    "model",
    "credits",
    "seconds",
    "attempts",
    "task_id",
    "error_code",
    "error",
)


def _card(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    card = {name: result[name] for name in _SHOWN if result.get(name) is not None}
    if result["video"] is not None:
        card["video"] = quote(result["video"])
    width, height = result.get("width"), result.get("height")
    if width and height:
        card["ratio"] = round(width / height, 4)
    card["image"] = _image_name(result["image"] or result["id"])
    frame = _frame(folder, result["image"])
    if frame is not None:
        card["frame"] = frame
    if result["extra"]:
        card["extra"] = {
            str(name): value if isinstance(value, str) else json.dumps(value)
            for name, value in result["extra"].items()
        }
    return card


def _image_name(image: str) -> str:
    """Return how people call a first frame. Where its folder is on this machine is nobody's concern
    who is sent the page.
    """
    if image.startswith("sha256:"):
        return f"image {image[7:15]}"
    return image.rstrip("/").replace("\\", "/").rpartition("/")[2] or image


def _frame(folder: Path, image: str | None) -> str | None:
    """Where the page finds a first frame: its link, or its path as seen from the page."""
    if not image or image.startswith("sha256:"):
        return None
    if image.startswith(("http://", "https://")):
        return image
    try:
        return quote(Path(os.path.relpath(image, folder.resolve())).as_posix())
    except ValueError:  # on another drive
        return Path(image).as_uri()


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _tiles(sums: _Sums, jobs: int) -> str:
    """Say the most important numbers, each with its word."""
    saved = sums.states["saved"]
    tiles = [(f"{saved:,}", "video" if saved == 1 else "videos", "")]
    for state, number in sums.states.most_common():
        if state != "saved":
            tiles.append((f"{number:,}", state, "bad" if state in _BAD else ""))
    if len(tiles) > 1:
        tiles.append((f"{jobs:,}", "jobs in all", ""))
    tiles.append((f"{sums.spent:,.2f}", "credits spent", ""))
    if saved > 1:
        if _differ(sums.credits):
            low, high = _number(min(sums.credits)), _number(max(sums.credits))
            tiles.append((_number(_middle(sums.credits)), f"credits each ({low} to {high})", ""))
        else:
            each = _number(min(sums.credits))
            tiles[-1] = (tiles[-1][0], f"credits spent, {each} each", "")
    if sums.seconds:
        tiles.append((_span(_middle(sums.seconds)), "to make one", ""))
    return "".join(
        f'<li class="{kind}"><b>{escape(number)}</b><span>{escape(word)}</span></li>'
        for number, word, kind in tiles
    )


_BAD = ("failed", "unknown", "missing")


def _differ(values: Sequence[float]) -> bool:
    return len(values) > 1 and max(values) > min(values)


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _numbers(sums: _Sums) -> str:
    """Draw what differs; a chart of values that are all the same would say nothing."""
    drawn = ""
    if _differ(sums.credits):
        drawn += chart("Credits for each video", "credits", sums.credits, name="credits")
    if _differ(sums.seconds):
        title = "Seconds until each video was made"
        drawn += chart(title, "seconds", sums.seconds, name="seconds")
    return _panel("Cost and time", f'<div class="charts">{drawn}</div>') if drawn else ""


def _panel(title: str, content: str) -> str:
    return (
        f'<details class="panel"><summary>{escape(title)}</summary><div>{content}</div></details>'
    )


def _failures(sums: _Sums) -> str:
    if not sums.failures:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(code)}</th><td>{count:,}</td>'
        f"<td>{escape(sums.examples[code][:300])}</td></tr>"
        for code, count in sums.failures.most_common()
    )
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Code", "Jobs", "For example"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    title = f"Why {_count(sums.failures.total(), 'job')} failed"
    where = 'class="scroll" tabindex="0" role="region" aria-label="Failures by code"'
    return _panel(title, f"<div {where}>{table}</div>")


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
    """Sort values, not all of them the same, into at most twelve bins with round edges."""
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
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def chart(title: str, unit: str, values: Sequence[float], *, name: str) -> str:
    """Draw the distribution of values that differ; `name` makes the ids in the page unique."""
    bars, low, high = histogram(values), _number(min(values)), _number(max(values))
    middle = _number(_middle(values))
    words = f"{len(values):,} jobs, from {low} to {high} {unit}, half of them up to {middle}."
    return (
        f'<figure class="chart"><figcaption id="{name}-title">{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{name}-title {name}-words">'
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
            f'<rect x="{LEFT + n * width + 1:.1f}" y="{TOP + height - tall:.1f}" '
            f'width="{max(1.0, width - 2):.1f}" height="{tall:.1f}">'
            f"<title>{escape(label)}</title></rect>"
        )
    return "".join(parts)


def _axis(bars: Bars) -> str:
    floor, most = HEIGHT - BOTTOM, max(bars.counts)
    width = (WIDTH - LEFT - 8) / len(bars.counts)
    every = max(1, math.ceil(len(bars.edges) / 6))
    anchors = {len(bars.counts): "end"}  # the last label would stick out of the picture
    marks = "".join(
        f'<text x="{LEFT + n * width:.1f}" y="{HEIGHT - 6}" '
        f'text-anchor="{anchors.get(n, "middle")}">{_number(edge)}</text>'
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
