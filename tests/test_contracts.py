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


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("_rules/retry.py", "from .._edges import http", "Arrows point down"),
        ("_rules/pacing.py", "import time", "do no I/O"),
        ("_models.py", "import asyncio", "do no I/O"),
        ("sandbox/_world.py", "from .._models import Task", "The sandbox imports nothing of ours"),
        ("_poller/poller.py", "import aiohttp", "Only the edges speak HTTP"),
        ("_tasks.py", "import anyio", "loads nothing heavy"),
        ("_poller/poller.py", "from .._downloader import Downloader", "Arrows point down"),
    ],
)
def test_a_broken_rule_is_found(copy: Path, module: str, line: str, contract: str) -> None:
    """Each contract fails when its rule is broken: a check that cannot fail would be no check."""
    path = copy / "happyhorse_async" / module
    path.write_text(path.read_text() + f"\n{line}\n")
    result = lint(copy)
    assert result.returncode != 0
    broken = [text for text in result.stdout.splitlines() if "BROKEN" in text]
    assert any(contract in text for text in broken), broken
