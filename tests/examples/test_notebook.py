"""The example notebook runs in a real kernel, from top to bottom."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async.sandbox import Sandbox
from tests.conftest import PHOTOS

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
DRIVER = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=120).execute()
nbformat.write(notebook, "executed.ipynb")
"""


def shown(notebook: Any) -> str:
    """Give all HTML that the cells show."""
    return "".join(
        "".join(output.data["text/html"])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    )


async def test_every_cell_runs_and_values_show_themselves(tmp_path: Path) -> None:
    """Cells await as they stand, live bars end with what was made, each value is a table or a
    video; seven tasks are paid for, and none twice. No cell writes to stderr.
    """
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "cat.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    async with Sandbox(video="stub", task_seconds=0.2) as sandbox:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "driver.py",
            str(NOTEBOOK),
            cwd=tmp_path,
            env={**os.environ, **sandbox.env(), "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()
        assert sandbox.paid == 7
    notebook = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    html = shown(notebook)
    for name in ("Estimate", "Credits", "TaskHandle", "Task", "SavedOutcome", "TaskPage"):
        assert f"<b>{name}</b>" in html
    assert "<video controls" in html
    assert "1 made, " in html
    assert "3 saved" in html
    streams = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream"
    ]
    assert streams == []


def test_the_notebook_is_kept_without_outputs() -> None:
    """What is committed has no output: those would age, and hold somebody's video."""
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
