"""The house: the import contracts hold, and fail when a rule of the layout is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINTER = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts on a copy of the project."""
    command = [str(LINTER), "--config", str(folder / "pyproject.toml"), "--no-cache"]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project that a test may spoil."""
    shutil.copytree(
        ROOT / "happyhorse_async",
        tmp_path / "happyhorse_async",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(copy: Path) -> None:
    """The code is what the picture shows."""
    result = lint(copy)
    assert result.returncode == 0, result.stdout


BROKEN = [
    ("_rules.retry", "_edges.http", "Arrows point down"),
    ("_rules.pacing", "time", "do no I/O"),
    ("_models", "asyncio", "do no I/O"),
    ("sandbox._world", "_models", "The sandbox imports nothing of ours"),
    ("_poller.poller", "aiohttp", "Only the edges speak HTTP"),
    ("_tasks", "anyio", "loads nothing heavy"),
    ("_poller.poller", "_downloader", "Arrows point down"),
]
"""Who imports whom, and the contract that forbids it."""


def test_each_broken_rule_is_found(copy: Path) -> None:
    """Each contract fails when its rule is broken: a check that cannot fail would be no check."""
    package = copy / "happyhorse_async"
    for module, target, _ in BROKEN:
        name = f"happyhorse_async.{target}" if target.startswith("_") else target
        with (package / f"{module.replace('.', '/')}.py").open("a") as file:
            file.write(f"\nimport {name}\n")
    result = lint(copy)
    assert result.returncode != 0
    held = [text for text in result.stdout.splitlines() if text.endswith(" KEPT")]
    for module, target, contract in BROKEN:
        assert f"happyhorse_async.{module} -> " in result.stdout
        assert f"{target} (l." in result.stdout
        assert not any(contract in text for text in held)
