"""What two workers over one PostgreSQL carry, and what a job costs there beside `batch run`.

    python benchmarks/cluster.py                 # 2,000 jobs, two workers
    python benchmarks/cluster.py --jobs 500 --workers 1

The service answers at once, from a process of its own. All is counted from the first submission to
the last video: jobs a second, CPU of the workers and of the database by job, and the most memory of
a worker. The bound is 60 jobs a second. The load of the machine is said beside, since it is what
the rate depends on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import attrs

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import loopback  # noqa: E402
from tests.cluster.support import Postgres, rows  # noqa: E402

BOUND = 60.0
TICK = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Cost:
    """What a process has used."""

    cpu: float
    memory: float
    """Megabytes, at most."""


async def run(command: list[str], environment: dict[str, str]) -> tuple[Cost, list[float]]:
    """Run a command to its end; return its cost, and when it printed each line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "happyhorse_async", *command),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 22,
    )
    moments: list[float] = []
    first, busy, memory = 0.0, 0.0, 0.0
    assert process.stdout is not None
    async for line in process.stdout:
        if json.loads(line).get("event") == "outcome":
            moments.append(time.monotonic())
            if len(moments) % 20 == 1:
                busy, memory = used(process.pid)
                # What is loaded at the start is not the cost of a job.
                first = first or busy
    code = await process.wait()
    assert code == 0, (command, code)
    return Cost(busy - first, memory), moments


def used(pid: int) -> tuple[float, float]:
    """Return a process's seconds of CPU so far, and its most memory in megabytes."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    peak = next(line for line in lines if line.startswith("VmHWM")).split()[1]
    return (int(fields[11]) + int(fields[12])) / TICK, int(peak) / 1024


def database_cpu(postmaster: int) -> float:
    """Return the seconds of CPU of a database's processes, the ended ones too."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(entry.name) == postmaster:
            total += sum(map(int, fields[11:15])) / TICK
        elif int(fields[1]) == postmaster:
            total += sum(map(int, fields[11:13])) / TICK
    return total


async def clustered(count: int, workers: int, url: str, folder: Path) -> dict[str, float]:
    """Measure a cluster."""
    server = Postgres()
    try:
        database = server.database()
        environment = {
            **os.environ,
            "HAPPYHORSE_DATABASE": database,
            "EVOLINK_API_KEY": "sk-bench",
            "EVOLINK_BASE_URL": url,
            "EVOLINK_FILES_BASE_URL": url,
        }
        table = rows(folder / "rows.jsonl", count)
        began = time.monotonic()
        out = str(folder / "videos")
        await run(["cluster", "enqueue", str(table), "--out", out, "--yes", "--json"], environment)
        entered = time.monotonic() - began
        before = database_cpu(server.pid)
        command = ["cluster", "work", "--until-done", "--json"]
        told = await asyncio.gather(*(run(command, environment) for _ in range(workers)))
        moments = sorted(moment for _, each in told for moment in each)
        # The first tenth is the workers' own start, one after the other.
        steady = moments[len(moments) // 10 :]
        return {
            "jobs/s": (len(steady) - 1) / (steady[-1] - steady[0]),
            "workers' CPU, ms a job": 1e3 * sum(cost.cpu for cost, _ in told) / count,
            "database's CPU, ms a job": 1e3 * (database_cpu(server.pid) - before) / count,
            "a worker's memory, MB": max(cost.memory for cost, _ in told),
            "entering, jobs/s": count / entered,
        }
    finally:
        server.close()


async def batched(count: int, url: str, folder: Path) -> dict[str, float]:
    """Measure `batch run` of the same jobs."""
    table = rows(folder / "rows.jsonl", count)
    environment = {
        **os.environ,
        "EVOLINK_API_KEY": "sk-bench",
        "EVOLINK_BASE_URL": url,
        "EVOLINK_FILES_BASE_URL": url,
    }
    command = ["batch", "run", str(table), "--out", str(folder / "videos"), "--yes", "--json"]
    cost, moments = await run([*command, "--max-in-flight", "300"], environment)
    steady = moments[len(moments) // 10 :]
    return {
        "jobs/s": (len(steady) - 1) / (steady[-1] - steady[0]),
        "CPU, ms a job": 1e3 * cost.cpu / count,
        "memory, MB": cost.memory,
    }


def show(name: str, facts: dict[str, float]) -> None:
    """Print one measurement."""
    print(f"{name}: " + ", ".join(f"{key} {value:,.1f}" for key, value in facts.items()))


def main() -> int:
    """Measure; 1 when the bound is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    folder = Path(tempfile.mkdtemp(prefix="happyhorse-bench-"))
    try:
        with loopback.start(life=0.5) as service:
            (folder / "batch").mkdir()
            (folder / "cluster").mkdir()
            print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
            show("batch run", asyncio.run(batched(given.jobs, service.url, folder / "batch")))
            facts = asyncio.run(
                clustered(given.jobs, given.workers, service.url, folder / "cluster")
            )
            show(f"cluster of {given.workers}", facts)
            print(f"load after: {os.getloadavg()[0]:.1f}")
    finally:
        shutil.rmtree(folder)
    return int(facts["jobs/s"] < BOUND)


if __name__ == "__main__":
    sys.exit(main())
