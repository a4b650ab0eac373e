"""The example for Ray Data: its mapper alone, and under Ray where that is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from examples.ray_data import MakeVideos
from happyhorse_async.sandbox import Sandbox
from tests.conftest import PHOTOS

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent


async def test_a_batch_that_ray_runs_again_pays_for_nothing(
    anyio_backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same batch in another process has the same keys and the same uploads: no task is new.

    That holds also when the videos were lost with the node, and when rows are links.
    """
    photos = sorted(PHOTOS.glob("*.jpg"))
    async with Sandbox(video="stub", task_seconds=0.2) as sandbox:
        for name, value in sandbox.env().items():
            monkeypatch.setenv(name, value)
        batches = (
            {"bytes": [photo.read_bytes() for photo in photos], "prompt": ["a"] * len(photos)},
            {"image": ["https://example.com/a.png"]},
        )
        for _ in range(2):
            for batch in batches:
                told = await asyncio.to_thread(MakeVideos(str(tmp_path), duration=3), batch)
                assert told["error"] == [""] * len(told["video"])
            for video in tmp_path.glob("*.mp4"):
                video.unlink()
        assert len(photos) + 1 == sandbox.paid
        again = await asyncio.to_thread(MakeVideos(str(tmp_path), "another run"), batches[1])
        assert again["charged"] == ["yes"]
        assert len(photos) + 2 == sandbox.paid


async def test_a_failure_is_a_row_that_says_what_it_cost(
    anyio_backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that cannot be a request fails alone, and says that nothing was charged."""
    async with Sandbox(video="stub", task_seconds=0.2) as sandbox:
        for name, value in sandbox.env().items():
            monkeypatch.setenv(name, value)
        batch = {"image": ["https://example.com/a.png", "no link"], "prompt": ["a", "b"]}
        told = await asyncio.to_thread(MakeVideos(str(tmp_path)), batch)
    assert told["charged"] == ["yes", "no"]
    assert sandbox.paid == 1


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
async def test_it_runs_under_ray(anyio_backend: str, tmp_path: Path) -> None:
    """The example as a command: Ray reads a folder, and a video of each image is there."""
    photos = sorted(PHOTOS.glob("*.jpg"))
    async with Sandbox(video="stub", task_seconds=0.2) as sandbox:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "examples/ray_data.py", str(PHOTOS), str(tmp_path / "videos")),
            cwd=ROOT,
            env={**os.environ, **sandbox.env(), "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert len(photos) <= out.decode().count(".mp4")
    assert len(photos) == len(list((tmp_path / "videos").glob("*.mp4")))
