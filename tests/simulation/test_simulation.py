"""Nights in simulated worlds keep the laws, and equal seeds give equal nights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Play nights in a process of its own, as a developer does."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batch", "crowd"])
def test_the_laws_hold_in_every_night(kind: str) -> None:
    """Nights of kills, cuts, lies and full disks: no law is broken."""
    nights = os.environ.get("HAPPYHORSE_NIGHTS", "50")
    done = simulate("--kind", kind, "--nights", nights, "--jobs", "2")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["batch", "crowd"])
def test_equal_seeds_give_equal_nights(kind: str, tmp_path: Path) -> None:
    """Two processes that play the same night write the same trace, byte for byte; another seed writes another."""
    traces = []
    for number, seed in enumerate(("3", "3", "4")):
        target = tmp_path / str(number)
        done = simulate("--kind", kind, "--seed", seed, "--trace", str(target))
        assert done.returncode == 0, done.stdout + done.stderr
        traces.append(target.read_bytes())
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]
