"""The command: `python -m benchmarks [NAMES...] [--json FILE] [--markdown FILE] [--quick]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import calls, crowd, figures, in_flight, machine, scripts, startup, waiting
from benchmarks.figures import Line
from benchmarks.harness import Effort

BENCHMARKS: dict[str, Callable[[Effort], list[Line]]] = {
    "submit": calls.submit,
    "submit-distinct": calls.submit_distinct,
    "read": calls.read,
    "batch-read": calls.read_many,
    "latency": calls.latency,
    "waiting": waiting.waiting,
    "in-flight": in_flight.in_flight,
    "import": startup.imports,
    "first-submit": startup.first_submit,
    "help": startup.cli_help,
    "generate": crowd.generate,
    "jobs": scripts.jobs,
    **{name: scripts.script(name) for name in scripts.SCRIPTS},
}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure what the README claims, against named baselines.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"what to measure; all by default: {', '.join(BENCHMARKS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page as Markdown")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few and short rounds: to see that it works, not what the figures are",
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help="also what takes many minutes: a batch of a million jobs",
    )
    given = parser.parse_args()
    strangers = [name for name in given.names if name not in BENCHMARKS]
    if strangers:
        parser.error(
            f"no benchmark is called {', '.join(strangers)}; there are {', '.join(BENCHMARKS)}"
        )
    return given


def main() -> int:
    """Measure, and print the page; 1 when a bound is missed."""
    given = arguments()
    facts = machine.facts()
    effort = Effort(rounds=3, seconds=0.1, quick=True) if given.quick else Effort(long=given.long)
    lines: list[Line] = []
    for name in given.names or BENCHMARKS:
        began = time.perf_counter()
        found = BENCHMARKS[name](effort)
        lines += found
        print(
            f"{name} ({time.perf_counter() - began:.0f} s)",
            *map(figures.row, found),
            sep="\n",
            file=sys.stderr,
            flush=True,
        )
    notes = ["A quick run: the figures say little."] if given.quick else []
    page = figures.document(facts, lines, notes)
    print(page)
    if given.markdown:
        given.markdown.write_text(page)
    if given.json:
        given.json.write_text(
            json.dumps({"facts": facts, "lines": [line.as_dict() for line in lines]}, indent=2)
            + "\n"
        )
    return 1 if any(line.missed for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
