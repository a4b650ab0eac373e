"""Play nights, or one night again.

python -m tests.simulation                            # 300 nights of each kind
python -m tests.simulation --nights 20000 --jobs 2
python -m tests.simulation --kind batch --seed 1234   # the same night again, with its last hundred events
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.simulation.crowd import Crowd
from tests.simulation.night import Night
from tests.simulation.overnight import Overnight

KINDS: dict[str, type[Night]] = {"batch": Overnight, "crowd": Crowd}
CHUNK = 25
"""Nights that one process plays: it keeps the killed processes' loops, and ends with them."""


def play(kind: str, seed: int, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Play one night and return what happened in it."""
    night = KINDS[kind](seed, without)
    started = time.perf_counter()
    failure = law = ""
    try:
        night.play()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the night's failure
        law = getattr(error, "law", type(error).__name__)
        failure = "".join(traceback.format_exception(error))
    return {
        "kind": kind,
        "seed": seed,
        "law": law,
        "failure": failure,
        "kills": night.kills,
        "faults": night.faults,
        "troubles": list(night.used),
        "visited": sorted(night.visited),
        "virtual": night.world.now - 1000.0,
        "real": time.perf_counter() - started,
        "trace": night.world.trace,
        "steps": sum(loop.steps for loop in night.world.loops),
    }


def _chunk(kind: str, first: int, count: int) -> list[dict[str, Any]]:
    """Play nights one after the other; only those that broke a law keep their last events."""
    played = []
    for seed in range(first, first + count):
        happened = play(kind, seed)
        happened["trace"] = happened["trace"][-100:] if happened["law"] else []
        played.append(happened)
    return played


def _in_a_process(chunk: tuple[str, int, int]) -> list[dict[str, Any]]:
    kind, first, count = chunk
    command = [
        sys.executable,
        "-m",
        "tests.simulation",
        "--chunk",
        "--kind",
        kind,
        "--first",
        str(first),
        "--nights",
        str(count),
    ]
    # Sets of texts are walked in the same order in every process.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{kind} {first}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    nights: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return nights


def play_many(kinds: list[str], first: int, nights: int, jobs: int) -> list[dict[str, Any]]:
    """Play nights in processes of their own, each of which ends after a few."""
    chunks = [
        (kind, at, min(CHUNK, first + nights - at))
        for at in range(first, first + nights, CHUNK)
        for kind in kinds
    ]
    with ThreadPoolExecutor(jobs) as pool:
        return [night for chunk in pool.map(_in_a_process, chunks) for night in chunk]


def shrink(kind: str, seed: int) -> frozenset[str]:
    """Take troubles out of a failing night for as long as the same law breaks; return what is left out."""
    happened, without = play(kind, seed), frozenset[str]()
    for trouble in happened["troubles"]:
        fewer = play(kind, seed, without | {trouble})
        if fewer["law"] == happened["law"]:
            without |= {trouble}
    return without


def report(played: list[dict[str, Any]]) -> int:
    """Print what happened; return how many nights broke a law."""
    broken = [night for night in played if night["law"]]
    faults = Counter(name for night in played for name in night["faults"])
    visited = Counter(name for night in played for name in night["visited"])
    print(
        f"{len(played):,} nights, {sum(night['kills'] for night in played):,} kills, "
        f"{sum(faults.values()):,} faults, {sum(night['virtual'] for night in played) / 3600:,.0f} virtual hours, "
        f"{sum(night['real'] for night in played):,.0f} s of work, {len(broken)} laws broken"
    )
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(faults.items())))
    print("visited: " + ", ".join(f"{name} {count}" for name, count in sorted(visited.items())))
    for law, count in Counter(night["law"] for night in broken).most_common():
        seeds = [f"{night['kind']} {night['seed']}" for night in broken if night["law"] == law]
        print(f"BROKEN {law}: {count} nights, {', '.join(seeds[:8])}")
    return len(broken)


def main(arguments: list[str]) -> int:
    """Play what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kind", choices=sorted(KINDS), action="append")
    parser.add_argument(
        "--seed", type=int, help="play this night alone, and show its last hundred events"
    )
    parser.add_argument(
        "--shrink",
        action="store_true",
        help="with --seed: leave out what the failure does not need",
    )
    parser.add_argument("--trace", help="with --seed: write all events to this file")
    parser.add_argument("--nights", type=int, default=300, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--chunk", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    kinds = asked.kind or sorted(KINDS)
    if asked.chunk:
        print(json.dumps(_chunk(kinds[0], asked.first, asked.nights)))
        return 0
    if asked.seed is not None:
        without = shrink(kinds[0], asked.seed) if asked.shrink else frozenset[str]()
        happened = play(kinds[0], asked.seed, without)
        if asked.trace:
            Path(asked.trace).write_text("\n".join(happened["trace"]))
        print("\n".join(happened["trace"][-100:]))
        print(happened["failure"] or "all laws hold")
        print(
            "troubles: "
            + (
                ", ".join(trouble for trouble in happened["troubles"] if trouble not in without)
                or "none"
            )
        )
        return report([happened])
    return min(report(play_many(kinds, asked.first, asked.nights, asked.jobs)), 1)


NO_RANDOM_ADDRESSES = 0x0040000
"""Linux's ADDR_NO_RANDOMIZE: sets of objects are walked in the order of their addresses."""


def steady() -> None:
    """Begin again in a process in which nothing depends on its luck: hashes of texts, and addresses."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    now = libc.personality(0xFFFFFFFF)
    if now & NO_RANDOM_ADDRESSES and os.environ.get("PYTHONHASHSEED") == "0":
        return
    if libc.personality(now | NO_RANDOM_ADDRESSES) == -1 or "SIMULATION_STEADY" in os.environ:
        return
    environment = {**os.environ, "PYTHONHASHSEED": "0", "SIMULATION_STEADY": "1"}
    os.execve(
        sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], environment
    )


if __name__ == "__main__":
    steady()
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # killed processes must not come back to life while the interpreter ends
