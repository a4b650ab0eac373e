"""Bar charts as inline SVG: numbers in, text out. They scale with the page, take its colours, and say in words what they show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import attrs

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
    words = (
        f"{len(values):,} jobs, from {_number(ordered[0])} to {_number(ordered[-1])} {unit}, half of them up to {_number(middle)}."
    )
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
