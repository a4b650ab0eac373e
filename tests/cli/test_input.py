"""What `batch run` says of its input before anything is paid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happyhorse_async.sandbox import Sandbox
from tests.cli.process import LINK, PHOTOS, happyhorse

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service in the test's process, for a command in another one."""
    async with Sandbox(video="stub", speed=100) as sandbox:
        yield sandbox


async def test_a_misspelt_column_stops_the_run_before_it_is_paid(
    world: Sandbox, tmp_path: Path
) -> None:
    """Exit code 2 and one line for all rows; --ignore-unknown keeps the column and goes on."""
    rows = "".join(f"{LINK},{number},{number}\n" for number in range(3))
    (tmp_path / "in.csv").write_text(f"image,seed,durration\n{rows}".replace(",0", ",9"))
    ran = await happyhorse("batch", "run", "in.csv", "--yes", cwd=tmp_path, world=world)
    assert (ran.code, world.paid) == (2, 0)
    [line] = [line for line in ran.err.splitlines() if "durration" in line]
    assert line.startswith("error: in.csv:2: ")
    assert "did you mean duration?" in line
    assert line.endswith("and the next 2 alike")
    dry = await happyhorse(
        "batch", "run", "in.csv", "--dry-run", "--ignore-unknown", cwd=tmp_path, world=world
    )
    assert (dry.code, "3 jobs, 0 bad rows" in dry.err) == (0, True), dry.err


async def test_a_folder_without_images_is_wrong_input(world: Sandbox, tmp_path: Path) -> None:
    """No job is exit code 2; what was skipped is counted and named, and bad images by their name."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    empty = await happyhorse("batch", "run", "in", "--yes", cwd=tmp_path, world=world)
    assert (empty.code, "there is no job in in" in empty.err) == (2, True), empty.err
    assert "skipped, as no JPEG, PNG or WEBP by name: 1 (notes.txt)" in empty.err
    (folder / "broken.jpg").write_bytes(b"no image either")
    bad = await happyhorse("batch", "run", "in", "--yes", cwd=tmp_path, world=world)
    assert bad.code == 2
    assert "error: in/broken.jpg: image: " in bad.err
    assert world.paid == 0


async def test_a_table_from_a_pipe(world: Sandbox, tmp_path: Path) -> None:
    """`-` reads the table from standard input; relative images are meant from here."""
    (tmp_path / "cat.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    piped = b"image,prompt\ncat.jpg,run\n"
    refused = await happyhorse("batch", "run", "-", cwd=tmp_path, world=world, stdin=piped)
    assert (refused.code, world.paid) == (3, 0), refused.err
    ran = await happyhorse("batch", "run", "-", "--yes", cwd=tmp_path, world=world, stdin=piped)
    assert (ran.code, world.paid) == (0, 1), ran.err
