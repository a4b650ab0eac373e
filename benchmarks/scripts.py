"""The benchmarks that are scripts of their own, with bounds of their own; and what a job of a batch
costs at any number of jobs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import figures, machine
from benchmarks.figures import Line
from benchmarks.harness import Effort

FOLDER = machine.ROOT / "benchmarks"


class Script(NamedTuple):
    """A script, and its arguments for each effort; `long` None: the usual ones."""

    file: str
    usual: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    long: tuple[str, ...] | None = None


SCRIPTS = {
    "downloads": Script("downloads.py", quick=("--rounds", "1", "--size", "100")),
    "batch": Script(
        "batch.py",
        usual=("--jobs", "5000", "--rounds", "3", "--memory", "100000"),
        quick=("--jobs", "500", "--memory", "0"),
        long=("--jobs", "100000", "--memory", "1000000"),
    ),
    "polling": Script("polling.py", quick=("memory",)),
    "sandbox-throughput": Script("sandbox_throughput.py", quick=("--seconds", "1")),
    "sandbox-rendering": Script("sandbox_rendering.py"),
}
"""By name."""


def script(name: str) -> Callable[[Effort], list[Line]]:
    """Make the benchmark that runs a script."""

    def run(effort: Effort) -> list[Line]:
        script = SCRIPTS[name]
        arguments = (
            script.quick
            if effort.quick
            else script.long
            if effort.long and script.long
            else script.usual
        )
        command = [sys.executable, str(FOLDER / script.file), *arguments]
        done = subprocess.run(
            command, env=machine.environment(), stdout=subprocess.PIPE, text=True, check=False
        )
        shown = " ".join(["python", f"benchmarks/{script.file}", *arguments])
        value = figures.spread([float(done.returncode)])
        against = "its own figures, below"
        return [
            Line(
                what=f"`{shown}`, exit code",
                value=value,
                unit="",
                bound=0,
                against=against,
                output=done.stdout,
            )
        ]

    return run


def jobs(effort: Effort) -> list[Line]:
    """The cost of a job in a batch, with the service's answers made on the spot, at ever more jobs.

    In units of a fixed piece of work that is done again and again meanwhile: the speed of a shared
    machine changes by more, in the minutes that a long run takes, than what is looked for.
    """
    counts = (
        [1_000, 10_000]
        if effort.quick
        else [1_000, 10_000, 100_000, *([1_000_000] if effort.long else [])]
    )
    runs: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    # In turns, so that a slow spell of the machine meets all counts and not one.
    for turn in range(3):
        for count in counts:
            if turn and count > 100_000:
                continue
            command = [
                sys.executable,
                str(FOLDER / "batch.py"),
                "--child",
                "stubbed",
                "",
                str(count),
            ]
            for _ in range(3 if count < 100_000 else 1):
                runs[count].append(
                    json.loads(
                        subprocess.check_output(command, env=machine.environment(), text=True)
                    )
                )
    costs = {
        count: figures.spread([said["cpu"] / count / said["yard"] for said in each]).median
        for count, each in runs.items()
    }
    times = {
        count: figures.spread([said["cpu"] / count * 1e6 for said in each]).median
        for count, each in runs.items()
    }
    each = ", ".join(
        f"{count:,}: {time:.0f} us = {costs[count]:.3f}" for count, time in times.items()
    )
    value = figures.spread([max(costs.values()) / min(costs.values())])
    what = f"cost per job of a batch at {counts[0]:,} to {counts[-1]:,} jobs, dearest over cheapest"
    against = f"CPU a job, also in pieces of work of a fixed size, at {each}"
    return [Line(what=what, value=value, bound=1.15, against=against)]
