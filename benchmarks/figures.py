"""Figures and what can be said with them: medians, spreads, ratios round by round, and whether to
believe them. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

NOISY = 0.15
"""A run whose middle half spreads over more than this share of the median is not believed."""
BUSY = 0.9
"""From this utilisation on the server may have been what was measured."""


@dataclass(frozen=True)
class Spread:
    """The middle of some figures, and the borders of their middle half."""

    median: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """How wide the middle half is, as a share of the median."""
        return (self.high - self.low) / abs(self.median) if self.median else 0.0


def spread(figures: Sequence[float]) -> Spread:
    """Describe some figures."""
    if len(figures) < 2:
        return Spread(figures[0], figures[0], figures[0])
    low, median, high = statistics.quantiles(figures, n=4, method="inclusive")
    return Spread(median, low, high)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Compare round by round: what disturbed both sides of a round alike falls out."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    value: Spread
    unit: str = "x"
    bound: float | None = None
    """The most that it may be; None: only told for scale."""
    against: str = ""
    """What it is compared with, and both sides' own figures."""
    busy: float | None = None
    """The server's own utilisation meanwhile, 0 to 1."""
    doubts: tuple[str, ...] = field(default=())
    output: str = ""
    """What a script of its own has printed."""

    @property
    def noisy(self) -> bool:
        """Whether the rounds differ too much; never when every one of their middle half says the
        same about the bound.
        """
        if self.value.share <= NOISY:
            return False
        return self.bound is None or self.value.low <= self.bound < self.value.high

    @property
    def verdict(self) -> str:
        """Say how it stands with the bound."""
        doubts = [*(["too noisy to believe"] if self.noisy else []), *self.doubts]
        if self.busy is not None and self.busy > BUSY:
            doubts.append("the server was the bottleneck")
        word = (
            ""
            if self.bound is None
            else "holds"
            if self.value.median <= self.bound
            else "**missed**"
        )
        return "; ".join([*([word] if word else []), *doubts])

    @property
    def missed(self) -> bool:
        """Whether it is over its bound."""
        return self.bound is not None and self.value.median > self.bound

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain data."""
        return {**asdict(self), "missed": self.missed, "noisy": self.noisy, "verdict": self.verdict}


def number(value: float) -> str:
    """Write a figure with as many digits as it is worth."""
    size = abs(value)
    return (
        f"{value:,.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 0.1
        else f"{value:.3f}"
    )


def row(line: Line) -> str:
    """Write a line of the Markdown table."""
    bound = "" if line.bound is None else f"{number(line.bound)} {line.unit}"
    middle = f"{number(line.value.low)} to {number(line.value.high)}"
    busy = "" if line.busy is None else f"{line.busy:.0%}"
    cells = (
        line.what,
        bound,
        f"{number(line.value.median)} {line.unit}",
        middle,
        line.against,
        busy,
        line.verdict,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(lines: Sequence[Line]) -> str:
    """Write the Markdown table."""
    head = (
        "| what | at most | median | middle half of the rounds | measured against: "
        "ours to theirs | server busy | |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|", *map(row, lines)])


def document(facts: dict[str, str], lines: Sequence[Line], notes: Sequence[str]) -> str:
    """Write the page: where the figures come from, the table, and the notes."""
    parts = [
        "# Results",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        table(lines),
    ]
    for line in lines:
        if line.output:
            parts += ["", f"{line.what}:", "", "```text", line.output.strip(), "```"]
    for note in notes:
        parts += ["", note]
    return "\n".join(parts) + "\n"
