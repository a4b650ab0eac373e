"""Measuring: candidates in processes of their own take turns, round by round, and the rounds are
compared one by one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks import figures, machine
from benchmarks.figures import Line
from benchmarks.loopback import Loopback

OURS = "happyhorse_async"


@dataclass(frozen=True)
class Effort:
    """How much is done."""

    rounds: int = 11
    seconds: float = 0.5
    """Of one candidate's turn in a round, about."""
    quick: bool = False
    long: bool = False
    """Also what takes many minutes."""


class Worker:
    """A candidate in its process."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process
        said = self._line()
        self.absent: str | None = said.get("absent")

    def _line(self) -> dict[str, str]:
        assert self._process.stdout is not None
        said: dict[str, str] = json.loads(
            self._process.stdout.readline() or '{"absent": "it ended at once"}'
        )
        return said

    def run(self, operation: str, count: int, at_once: int) -> dict[str, float]:
        """Do operations; gives CPU and wall seconds of one."""
        assert self._process.stdin is not None
        self._process.stdin.write(
            json.dumps({"operation": operation, "count": count, "at_once": at_once}) + "\n"
        )
        self._process.stdin.flush()
        return {name: float(value) for name, value in self._line().items()}


@contextmanager
def workers(names: Sequence[str], url: str, *, uvloop: bool = False) -> Iterator[list[Worker]]:
    """Run candidates, each in a process; those that are not installed are left out."""
    with ExitStack() as stack:
        started = []
        for name in names:
            command = [sys.executable, "-m", "benchmarks.worker", name, url]
            command += ["--uvloop"] * uvloop
            process = subprocess.Popen(
                command,
                env=machine.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(end, process)
            started.append(Worker(name, process))
        yield [worker for worker in started if worker.absent is None]


def end(process: subprocess.Popen[str]) -> None:
    """End a worker."""
    process.communicate(timeout=30)


@dataclass
class Rounds:
    """What the rounds gave: CPU and wall seconds by candidate, and how busy the server was."""

    cpu: dict[str, list[float]]
    wall: dict[str, list[float]]
    busy: dict[str, list[float]]


def rounds(
    server: Loopback, candidates: Sequence[Worker], operation: str, at_once: int, effort: Effort
) -> Rounds:
    """Let the candidates take turns, each round in another order."""
    names = [worker.name for worker in candidates]
    found = Rounds(
        {name: [] for name in names}, {name: [] for name in names}, {name: [] for name in names}
    )
    counts = {worker.name: warm_up(worker, operation, at_once, effort) for worker in candidates}
    for number in range(effort.rounds):
        turn = number % len(candidates)
        for worker in (*candidates[turn:], *candidates[:turn]):
            before = server.work()
            cost = worker.run(operation, counts[worker.name], at_once)
            after = server.work()
            found.cpu[worker.name].append(cost["cpu"])
            found.wall[worker.name].append(cost["wall"])
            found.busy[worker.name].append(
                (after["cpu"] - before["cpu"]) / (after["wall"] - before["wall"])
            )
    return found


def warm_up(worker: Worker, operation: str, at_once: int, effort: Effort) -> int:
    """Fill pools and caches, and give how many operations fill a turn."""
    worker.run(operation, 2 * at_once + 10, at_once)
    cost = worker.run(operation, 2 * at_once + 100, at_once)
    return max(2 * at_once, int(effort.seconds / cost["wall"]))


def compare(
    what: str,
    found: Rounds,
    name: str,
    baseline: str,
    *,
    bound: float | None,
    wall: bool = False,
    per: int = 1,
    unit: str = "us",
) -> Line:
    """Make the line that compares two candidates; an operation handles `per` things."""
    costs = found.wall if wall else found.cpu
    scale = 1e6 / per
    ours, theirs = (figures.spread(costs[side]).median * scale for side in (name, baseline))
    return Line(
        what=what,
        value=figures.spread(figures.ratios(costs[name], costs[baseline])),
        bound=bound,
        against=f"{baseline}: {figures.number(ours)} to {figures.number(theirs)} {unit} "
        f"{'of time' if wall else 'of CPU'}",
        busy=figures.spread(found.busy[name]).median,
    )
