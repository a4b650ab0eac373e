"""Nights in simulated worlds keep the laws, and equal seeds give equal nights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="nights are played in children of one process"
)


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Play nights in a process of its own, as a developer does. Nobody counts branches there: it
    would take twice as long.
    """
    uncounted = {name: text for name, text in os.environ.items() if "COVERAGE" not in name}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**uncounted, "PYTHONHASHSEED": hash_seed},
    )


def test_the_laws_hold_in_a_few_nights() -> None:
    """Nights of kills, cuts, lies and full disks: no law is broken in a dozen of each kind."""
    done = simulate("--nights", "12", "--size", "5", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_laws_hold_in_every_night() -> None:
    """No law is broken in three hundred nights of a batch of fifty, and of a crowd.

    Every transition of the job table and of the submission table, and every fault, is visited.
    """
    nights = os.environ.get("HAPPYHORSE_NIGHTS", "300")
    done = simulate("--nights", nights, "--jobs", "2")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "never: none" in done.stdout


@pytest.mark.slow
def test_equal_seeds_give_equal_nights(tmp_path: Path) -> None:
    """Processes with other hashes and other addresses write the same traces, byte for byte.

    A night alone is the one among many, and another seed gives another.
    """
    digests = []
    for hash_seed in ("1", "2"):
        into = tmp_path / hash_seed
        done = simulate("--nights", "4", "--size", "6", "--into", str(into), hash_seed=hash_seed)
        assert done.returncode == 0, done.stdout + done.stderr
        nights = [json.loads(line) for line in into.read_text().splitlines()]
        digests.append({(night["kind"], night["seed"]): night["digest"] for night in nights})
    assert digests[0] == digests[1]
    assert len(set(digests[0].values())) == 8
    trace = tmp_path / "trace"
    simulate("--kind", "batch", "--seed", "3", "--size", "6", "--trace", str(trace))
    again = simulate("--kind", "batch", "--seed", "3", "--size", "6", hash_seed="3")
    last = trace.read_text().splitlines()[-100:]  # a short night has fewer
    assert last == again.stdout.splitlines()[: len(last)]
    assert len(last) > 50
