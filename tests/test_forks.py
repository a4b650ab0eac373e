"""The processes of the tests: a fork is like a Python of its own, but for the time it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import ROOT, python

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("words", [["--version"], ["estimate", "--duration", "99"], ["no-such"]])
async def test_a_fork_ends_as_a_process_does(words: list[str], tmp_path: Path) -> None:
    """It has the same code and prints the same."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-m", "happyhorse_async", *words]
    alone = subprocess.run(
        command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    fork = await python("happyhorse_async", *words, cwd=tmp_path, env=env)
    out, err = await fork.communicate()
    assert (fork.returncode, out, err) == (alone.returncode, alone.stdout, alone.stderr)


async def test_a_fork_has_a_folder_and_a_death_of_its_own(tmp_path: Path) -> None:
    """It works in its folder, and kill -9 ends it alone."""
    fork = await python(
        *("happyhorse_async", "sandbox", "--port", "0", "--files-port", "0"),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
    )
    await fork.stdout.readline()
    process = Path(f"/proc/{fork.pid}")
    if process.exists():
        assert (process / "cwd").readlink() == tmp_path
    fork.kill()
    await fork.communicate()
    assert fork.returncode == -9
    assert fork.pid != os.getpid()
