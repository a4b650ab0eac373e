"""The blocks of the guide to hosts run in the real frameworks, each in a process of its own.

The group `test` installs the frameworks. One that is missing is a failure, and no test is skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from happyhorse_async.sandbox import Sandbox
from tests.examples.test_guides import BLOCKS, ROOT

pytestmark = pytest.mark.slow

LINK = "https://cdn.example.com/cat.png"
KEY = "order-0123456789"

FASTAPI = f"""
from fastapi.testclient import TestClient

with TestClient(app) as client:
    for _ in range(2):
        done = client.post("/videos", params={{"image": {LINK!r}, "order": {KEY!r}}})
        assert done.status_code == 200, done.text
"""

DJANGO = f"""
import asyncio
import django
from django.conf import settings
from django.test import AsyncClient, Client
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"], SECRET_KEY="x")
django.setup()
urlpatterns = [path("make", make)]
order = {{"image": {LINK!r}, "order": {KEY!r}}}
assert Client().get("/make", order).status_code == 200
assert asyncio.run(AsyncClient().get("/make", order)).status_code == 200
"""

CELERY = f"""
app.conf.task_always_eager = True
first, second = (make.delay({LINK!r}, {KEY!r}).get() for _ in range(2))
assert first == second
"""

LAMBDA = f"""
first = handler({{"image": {LINK!r}, "order": {KEY!r}}}, None)
assert first == handler({{"image": {LINK!r}, "order": {KEY!r}}}, None)
assert handler({{"task": first["task"]}}, None)["status"] == "completed"
"""

THREAD = f"""
assert make({LINK!r}, {KEY!r}) == make({LINK!r}, {KEY!r})
stop()
"""

JUPYTER = """
import nbformat
from nbclient import NotebookClient
from pathlib import Path

cell = nbformat.v4.new_code_cell(Path("block.txt").read_text())
notebook = nbformat.v4.new_notebook(cells=[cell])
NotebookClient(notebook, timeout=60).execute()
assert "completed" in notebook.cells[0].outputs[0]["text"]
"""


def block(host: str) -> str:
    """Return the guide's block for a host."""
    return next(found.text for found in BLOCKS if found.mark == f"hosts: {host}")


def run(sandbox: Sandbox, folder: Path, *command: str, **extra: str) -> None:
    """Run Python in a folder, in the environment of a sandbox; what it says is shown on failure."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **sandbox.env(), "PYTHONPATH": str(ROOT), **extra},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("host", "driver"),
    [
        ("fastapi", FASTAPI),
        ("django", DJANGO),
        ("celery", CELERY),
        ("lambda", LAMBDA),
        ("thread", THREAD),
    ],
)
def test_a_host_pays_once(tmp_path: Path, host: str, driver: str) -> None:
    """The block works in its framework, and an order that comes twice is paid once."""
    with Sandbox(video="stub", task_seconds=0) as sandbox:
        (tmp_path / "block.py").write_text(block(host) + driver)
        run(sandbox, tmp_path, "block.py")
        assert sandbox.paid == 1


def test_the_notebook(tmp_path: Path) -> None:
    """The cell runs in a real kernel."""
    (tmp_path / "block.txt").write_text(block("jupyter"))
    with Sandbox(video="stub", task_seconds=0) as sandbox:
        (tmp_path / "driver.py").write_text(JUPYTER)
        run(sandbox, tmp_path, "driver.py")
        assert sandbox.paid == 1


def test_the_users_test(tmp_path: Path) -> None:
    """The test passes under pytest-asyncio, in its strict mode."""
    (tmp_path / "test_block.py").write_text(block("pytest"))
    with Sandbox(video="stub", task_seconds=0) as sandbox:
        plugins = ["-p", "happyhorse_async.pytest_plugin", "-p", "pytest_asyncio.plugin"]
        options = ["-p", "no:cacheprovider", "-q", "test_block.py"]
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        run(sandbox, tmp_path, "-m", "pytest", *plugins, *options, **alone)
