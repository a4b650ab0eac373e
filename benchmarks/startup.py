"""The front door: importing, the first answered submission of a fresh process, and the command
line's help.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import figures, loopback, machine
from benchmarks.candidates import KEY
from benchmarks.figures import Line
from benchmarks.harness import Effort

PROGRAMS = Path(__file__).parent / "programs"
TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def timed_inside(statement: str) -> float:
    """Give how long a statement takes in a fresh process, without the process's own start."""
    return float(
        subprocess.check_output(
            [sys.executable, "-c", TIMED.format(statement)], env=machine.environment(), text=True
        )
    )


def timed_until_said(command: Sequence[str], more: Mapping[str, str]) -> tuple[float, float]:
    """Give the time from a process's start until it prints its first line, and the CPU time that it
    takes in all.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        command, env={**machine.environment(), **more}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        wall = time.perf_counter() - began
        process.stdout.read()
        if not hasattr(os, "wait4"):
            return wall, wall
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not said:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime


def imports(effort: Effort) -> list[Line]:
    """Import the front door, and aiohttp, each in fresh processes."""
    statements = ("from happyhorse_async import Session, ImageToVideo", "import aiohttp")
    seen: dict[str, list[float]] = {statement: [] for statement in statements}
    for number in range(-1, effort.rounds * 2):
        for statement in statements[:: 1 if number % 2 else -1]:
            took = timed_inside(statement)
            if number >= 0:  # the first one writes the bytecode
                seen[statement].append(took)
    ours, theirs = (figures.spread(seen[statement]).median * 1000 for statement in statements)
    against = f"import aiohttp: {figures.number(ours)} to {figures.number(theirs)} ms of time"
    return [
        Line(
            what=f"`{statements[0]}`, time without the interpreter's start",
            value=figures.spread(figures.ratios(*seen.values())),
            bound=0.5,
            against=against,
        )
    ]


def first_submit(effort: Effort) -> list[Line]:
    """Start a process that submits once, with the session and with bare aiohttp + cattrs."""
    programs = ("submit_ours.py", "submit_bare.py")
    walls: dict[str, list[float]] = {name: [] for name in programs}
    cpus: dict[str, list[float]] = {name: [] for name in programs}
    with loopback.start() as server:
        more = {"EVOLINK_API_KEY": KEY, "EVOLINK_BASE_URL": server.url}
        for number in range(-1, effort.rounds * 2):
            for name in programs[:: 1 if number % 2 else -1]:
                wall, cpu = timed_until_said([sys.executable, str(PROGRAMS / name)], more)
                if number >= 0:
                    walls[name].append(wall)
                    cpus[name].append(cpu)
    return [
        Line(
            what=f"process start to first answered submit, {name}",
            value=figures.spread(figures.ratios(*seen.values())),
            bound=1.1,
            against="bare aiohttp + cattrs: "
            + " to ".join(
                figures.number(figures.spread(times).median * 1000) for times in seen.values()
            )
            + " ms",
        )
        for name, seen in (("time", walls), ("CPU until its end", cpus))
    ]


def cli_help(effort: Effort) -> list[Line]:
    """Ask the command line for help, and Python for nothing."""
    commands = (
        [sys.executable, "-m", "happyhorse_async", "--help"],
        [sys.executable, "-c", "print()"],
    )
    seen: list[list[float]] = [[], []]
    for number in range(-1, effort.rounds * 2):
        for index in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter()
            subprocess.run(
                commands[index], env=machine.environment(), check=True, stdout=subprocess.DEVNULL
            )
            if number >= 0:
                seen[index].append((time.perf_counter() - began) * 1000)
    ours, theirs = (figures.spread(times).median for times in seen)
    extra = [mine - other for mine, other in zip(*seen, strict=True)]
    against = f"python -c 'print()': {figures.number(ours)} to {figures.number(theirs)} ms of time"
    return [
        Line(
            what="`happyhorse --help`, more than Python itself",
            value=figures.spread(extra),
            unit="ms",
            bound=60,
            against=against,
        )
    ]
