"""Play nights, or one night again.

python -m tests.simulation                            # 300 nights of each kind
python -m tests.simulation --nights 20000 --jobs 2
python -m tests.simulation --kind batch --seed 1234   # the same night again, with its last hundred
events
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.simulation.faults import KINDS as FAULTS
from tests.simulation.night import Night
from tests.simulation.runner import KINDS, alone, play_many
from tests.simulation.watch import TRANSITIONS


def shrink(kind: str, seed: int) -> frozenset[str]:
    """Take troubles out of a failing night for as long as the same law breaks; return what is left
    out.
    """
    happened, without = alone(kind, seed), frozenset[str]()
    for trouble in happened["troubles"]:
        fewer = alone(kind, seed, without | {trouble})
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
        f"{sum(faults.values()):,} faults, "
        f"{sum(night['virtual'] for night in played) / 3600:,.0f} virtual hours, "
        f"{sum(night['real'] for night in played):,.0f} s of work, {len(broken)} laws broken"
    )
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(faults.items())))
    print("visited: " + ", ".join(f"{name} {count}" for name, count in sorted(visited.items())))
    states = [name for name in TRANSITIONS if name not in visited]
    spared = [name for name in FAULTS if f"fault:{name}" not in visited]
    print(
        f"coverage: {len(TRANSITIONS) - len(states)} of {len(TRANSITIONS)} transitions, "
        f"{len(FAULTS) - len(spared)} of {len(FAULTS)} faults; never: "
        + (", ".join([*states, *spared]) or "none")
    )
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
    parser.add_argument("--size", type=int, default=50, help="jobs of a batch, and most callers")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--until-broken", action="store_true", help="stop at the first broken law, and tell it"
    )
    parser.add_argument(
        "--into", help="add each night to this file as a line of JSON; do not play it again"
    )
    asked = parser.parse_args(arguments)
    kinds = asked.kind or sorted(KINDS)
    Night.size = asked.size
    if asked.seed is not None:
        without = shrink(kinds[0], asked.seed) if asked.shrink else frozenset[str]()
        happened = alone(kinds[0], asked.seed, without)
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
    nights = [
        (kind, seed) for seed in range(asked.first, asked.first + asked.nights) for kind in kinds
    ]
    if asked.until_broken:
        return until_broken(nights, asked.jobs)
    played = (
        kept(nights, asked.jobs, Path(asked.into)) if asked.into else play_many(nights, asked.jobs)
    )
    return min(report(list(played)), 1)


def until_broken(nights: list[tuple[str, int]], jobs: int) -> int:
    """Play nights until a law breaks; print it, and how many seeds it took, as JSON."""
    seeds, law = 0, ""
    for played in play_many(nights, jobs):
        seeds, law = played["seed"] + 1, played["law"]
        if law:
            break
    print(json.dumps({"law": law, "seeds": seeds}))
    return 0


def kept(nights: list[tuple[str, int]], jobs: int, into: Path) -> Iterator[dict[str, Any]]:
    """Play the nights that a file does not have yet, and add them to it; yield those and the
    others.
    """
    before = [json.loads(line) for line in into.read_text().splitlines()] if into.exists() else []
    yield from before
    known = {(night["kind"], night["seed"]) for night in before}
    with into.open("a") as file:
        for played in play_many((night for night in nights if night not in known), jobs):
            print(json.dumps(played), file=file, flush=True)
            yield played


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # killed processes of the first nights must not come back to life
