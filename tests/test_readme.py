"""The README's code runs, as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from happyhorse_async.sandbox import Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

PLUGIN = "happyhorse_async.pytest_plugin"
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = [
    block
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if "asyncio.run" in block
]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
async def test_a_block_of_the_readme_runs(block: str, tmp_path: Path, cat: Path) -> None:
    """Each Python program of the README runs to its end against the sandbox, with warnings as
    errors.
    """
    (tmp_path / "cat.jpg").write_bytes(cat.read_bytes())
    (tmp_path / "block.py").write_text(block)
    async with Sandbox(video="stub", task_seconds=0.2) as sandbox:
        environment = {**os.environ, **sandbox.env(), "PYTHONPATH": str(ROOT)}
        arguments = [task.id for task in sandbox.tasks[:1]]
        if "sys.argv" in block:
            async with open_session(sandbox) as session:
                arguments = [(await session.submit("https://cdn.example.com/a.png")).id]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            "block.py",
            *arguments,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


def test_there_are_blocks() -> None:
    """The search for programs finds them."""
    assert len(BLOCKS) >= 4


async def test_the_readmes_tests_pass_in_a_users_project(tmp_path: Path) -> None:
    """The tests that the README shows run as they stand there, with the fixtures that installing
    the package gives.
    """
    blocks = [
        block
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "def test_" in block
    ]
    for number, block in enumerate(blocks):
        (tmp_path / f"test_mine_{number}.py").write_text(block)
    plugin = (
        ()
        if any(entry.value == PLUGIN for entry in entry_points(group="pytest11"))
        else ("-p", PLUGIN)
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *plugin,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert f"{len(blocks)} passed".encode() in output


def test_the_table_of_faults_is_the_measured_one() -> None:
    """The README shows what the tests of faults found."""
    shown = README.partition("<!-- faults:begin -->")[2].partition("<!-- faults:end -->")[0]
    assert shown.strip() == (ROOT / "tests" / "submitter" / "faults_table.md").read_text().strip()
