"""Single calls: submitting, reading one, reading fifty with one request, and the way through when
there is nothing else to do.
"""

from __future__ import annotations

from benchmarks import harness, loopback
from benchmarks.candidates import BARE, HAND, LEAN, OURS, PEERS
from benchmarks.figures import Line
from benchmarks.harness import Effort, compare, rounds


def submit(effort: Effort) -> list[Line]:
    """Submissions, 100 at once; the peers for scale."""
    with (
        loopback.start() as server,
        harness.workers((OURS, BARE, LEAN, *PEERS), server.url) as workers,
    ):
        found = rounds(server, workers, "submit", 100, effort)
    title = "submit, CPU per operation, 100 at once"
    lines = [
        compare(title, found, OURS, BARE, bound=1.2),
        compare(f"{title}, against encoding nothing", found, OURS, LEAN, bound=1.2),
    ]
    return lines + [
        compare(f"{title}: {worker.name}", found, worker.name, BARE, bound=None)
        for worker in workers
        if worker.name in PEERS
    ]


def submit_distinct(effort: Effort) -> list[Line]:
    """Submissions that are all different, made in the timed part, on asyncio and on uvloop."""
    lines = []
    for uvloop in (False, True):
        title = f"submit, all distinct, CPU, 100 at once, {'uvloop' if uvloop else 'asyncio'}"
        names = (OURS, BARE, LEAN, HAND)
        with (
            loopback.start() as server,
            harness.workers(names, server.url, uvloop=uvloop) as workers,
        ):
            if not workers:
                continue  # uvloop is not installed
            found = rounds(server, workers, "submit_distinct", 100, effort)
        lines += [
            compare(f"{title}, stdlib json", found, OURS, BARE, bound=1.15),
            compare(f"{title}, orjson", found, OURS, LEAN, bound=None),
            compare(f"{title}, by hand", found, OURS, HAND, bound=1.0),
        ]
    return lines


def read(effort: Effort) -> list[Line]:
    """Reads of one task, 8 at once; the peers for scale."""
    with (
        loopback.start() as server,
        harness.workers((OURS, BARE, LEAN, *PEERS), server.url) as workers,
    ):
        found = rounds(server, workers, "read", 8, effort)
    title = "one read, CPU per operation"
    lines = [
        compare(title, found, OURS, BARE, bound=1.15),
        compare(f"{title}, with orjson on both sides", found, OURS, LEAN, bound=1.15),
    ]
    return lines + [
        compare(f"{title}: {worker.name}", found, worker.name, BARE, bound=None)
        for worker in workers
        if worker.name in PEERS
    ]


def read_many(effort: Effort) -> list[Line]:
    """Reads of fifty tasks with one request."""
    title = "batch read of 50, CPU per task"
    with loopback.start() as server, harness.workers((OURS, LEAN), server.url) as workers:
        found = rounds(server, workers, "read_many", 8, effort)
        lean = found.cpu[LEAN]
        lines = [compare(title, found, OURS, LEAN, bound=1.6, per=50)]
        values = rounds(
            server,
            [worker for worker in workers if worker.name == OURS],
            "read_many_values",
            8,
            effort,
        )
        values.cpu[LEAN], values.wall[LEAN] = lean, found.wall[LEAN]
        lines.append(compare(f"{title}, with 50 values", values, OURS, LEAN, bound=None, per=50))
    return lines


def latency(effort: Effort) -> list[Line]:
    """One call at a time."""
    with loopback.start() as server, harness.workers((OURS, BARE), server.url) as workers:
        submits = rounds(server, workers, "submit", 1, effort)
        reads = rounds(server, workers, "read", 1, effort)
    return [
        compare("one submit at a time, CPU", submits, OURS, BARE, bound=1.15),
        compare(
            "one submit at a time, time until the answer",
            submits,
            OURS,
            BARE,
            bound=1.15,
            wall=True,
        ),
        compare("one read at a time, CPU", reads, OURS, BARE, bound=1.15),
        compare(
            "one read at a time, time until the answer", reads, OURS, BARE, bound=1.15, wall=True
        ),
    ]
