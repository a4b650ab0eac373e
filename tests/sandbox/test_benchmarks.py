"""The benchmarks judge what they measure by the bounds that were asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """Import a benchmark as it imports its neighbours: from its own directory."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def test_the_throughput_bounds_are_1500_submits_and_3000_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reaching a bound is enough, and each that is missed is named."""
    missed = load(monkeypatch, "sandbox_throughput").missed
    assert missed({"submits": 1_500, "reads": 3_000}) == []
    assert [line.split()[1] for line in missed({"submits": 1_499.0, "reads": 2_999.0})] == [
        "submits",
        "reads",
    ]


def test_the_rendering_bounds_are_2_5_s_of_cpu_and_50_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reaching a bound is allowed, and each that is missed is named."""
    missed = load(monkeypatch, "sandbox_rendering").missed
    assert missed(2.5, {"photograph": 0.05}) == []
    assert len(missed(2.51, {"photograph": 0.051, "17 MP": 0.04})) == 2


@pytest.mark.parametrize(("least", "code"), [(1, 0), (10**9, 1)])
def test_the_exit_code_says_whether_the_bounds_were_kept(
    monkeypatch: pytest.MonkeyPatch, least: int, code: int
) -> None:
    """A short run against a true sandbox process ends with 1 exactly when
    a bound is out of reach.
    """
    throughput = load(monkeypatch, "sandbox_throughput")
    monkeypatch.setattr(throughput, "LEAST", {"submits": least, "reads": least})
    # The tests' own process goes on after this.
    monkeypatch.setattr(throughput, "pin", lambda core: None)
    monkeypatch.setattr("sys.argv", ["sandbox_throughput.py", "--seconds", "0.1"])
    assert throughput.main() == code
