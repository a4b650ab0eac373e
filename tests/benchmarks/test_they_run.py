"""The benchmarks work: else one that a change has broken is found when figures are wanted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import loopback, machine
from benchmarks.batch import MODES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", MODES)
def test_each_way_of_a_batch_is_measured(mode):
    """Each way in which a batch's cost is measured comes to its end and gives a figure."""
    script = str(machine.ROOT / "benchmarks" / "batch.py")
    with loopback.start() as server:
        printed = subprocess.check_output(
            [sys.executable, script, "--child", mode, server.url, "20"],
            env=machine.environment(),
            text=True,
            timeout=100,
        )
    assert json.loads(printed)["cpu"] > 0


@pytest.mark.parametrize("name", ["submit", "submit-distinct", "batch-read", "latency"])
def test_calls_are_measured(name, tmp_path):
    """The benchmarks of single calls, which reach into private parts, give their lines."""
    into = tmp_path / "figures.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", name, "--json", str(into)],
        env=machine.environment(),
        cwd=machine.ROOT,
        timeout=100,
        check=False,  # it says whether a goal was missed, which is no matter here
    )
    assert json.loads(into.read_text())["lines"]
