"""What `batch run` says of its input before anything is paid."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happyhorse_async import ConfigurationError
from happyhorse_async.batch._database import LEDGER_NAME
from happyhorse_async.batch._manifest import keep_left_out, left_out
from happyhorse_async.cli._batch import _need_folder
from happyhorse_async.sandbox import Sandbox
from tests.cli.process import LINK, PHOTOS, happyhorse, start
from tests.conftest import open_session

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
    assert (dry.code, "3 jobs; 0 bad rows" in dry.err) == (0, True), dry.err


async def test_a_folder_without_images_is_wrong_input(world: Sandbox, tmp_path: Path) -> None:
    """No job is exit code 2; skipped files are counted and named, bad images by name."""
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


async def test_a_run_that_goes_on_is_priced_by_what_is_left(world: Sandbox, tmp_path: Path) -> None:
    """Rows that are paid cost nothing more, also equal ones and local images; changed ones do."""
    (tmp_path / "cat.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    table = tmp_path / "in.csv"
    table.write_text(f"image,prompt\n{LINK},run\n{LINK},run\ncat.jpg,\n")
    line = ("batch", "run", "in.csv", "--yes")
    first = await happyhorse(*line, cwd=tmp_path, world=world)
    assert (first.code, world.paid) == (0, 3), first.err
    assert "3 jobs; 0 bad rows: about 114.24 credits" in first.err
    table.write_text(f"image,prompt\n{LINK},run\n{LINK},run\ncat.jpg,\n{LINK},jump\n")
    dry = await happyhorse(*line, "--dry-run", cwd=tmp_path, world=world)
    one = await happyhorse("estimate", "--json", cwd=tmp_path, world=world)
    price = f"{float(str(one.lines()[0]['credits'])):.2f}"
    assert "4 jobs, 3 of them paid or ended before, 1 left" in dry.err
    assert f"about {price} credits" in dry.err
    again = await happyhorse(*line, "--json", cwd=tmp_path, world=world)
    checked = next(line for line in again.lines() if line["event"] == "checked")
    assert (checked["settled"], world.paid) == (3, 4)


async def test_a_folder_that_was_moved_is_priced_by_what_is_left(
    world: Sandbox, tmp_path: Path
) -> None:
    """Its images have other paths and times and the same content, so nothing is left to pay; one
    that is another image of the same size is.
    """
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    content = (PHOTOS / "cat.jpg").read_bytes()
    for name in ("a.jpg", "b.jpg"):
        (here / name).write_bytes(content + name.encode())
    (here / "in.csv").write_text("image,id\na.jpg,\nb.jpg,own\n")
    line = ("batch", "run", "in.csv", "--yes")
    first = await happyhorse(*line, cwd=here, world=world)
    assert (first.code, world.paid) == (0, 2), first.err
    shutil.copytree(here, there)
    moved = await happyhorse(*line, "--dry-run", cwd=there, world=world)
    assert "2 jobs, 2 of them paid or ended before, 0 left" in moved.err
    (there / "a.jpg").write_bytes(content + b"A.jpg")
    changed = await happyhorse(*line, "--dry-run", cwd=there, world=world)
    assert "2 jobs, 1 of them paid or ended before, 1 left" in changed.err


async def test_a_row_that_is_changed_back_is_priced_as_paid(world: Sandbox, tmp_path: Path) -> None:
    """It is its first job again, whose video is here."""
    table = tmp_path / "in.csv"
    line = ("batch", "run", "in.csv", "--yes")
    for prompt in ("run", "jump"):
        table.write_text(f"image,prompt,id\n{LINK},{prompt},a\n")
        ran = await happyhorse(*line, cwd=tmp_path, world=world)
        assert ran.code == 0, ran.err
    table.write_text(f"image,prompt,id\n{LINK},run,a\n")
    again = await happyhorse(*line, "--json", cwd=tmp_path, world=world)
    checked = next(line for line in again.lines() if line["event"] == "checked")
    assert (checked["settled"], world.paid) == (1, 2)


async def test_what_stops_a_batch_says_once_what_to_do(world: Sandbox, tmp_path: Path) -> None:
    """The line and the option that lets it go on, and no second advice that would stop it again."""
    (tmp_path / "in.csv").write_text(f"image\n{LINK}\n{LINK}?2\n")
    line = ("batch", "run", "in.csv", "--yes", "--max-credits", "50")
    ran = await happyhorse(*line, cwd=tmp_path, world=world)
    assert (ran.code, world.paid) == (3, 1), ran.err
    step = "Run the same line again with a higher --max-credits: it goes on where it stopped."
    assert f"  next: {step}\n" in ran.err


async def test_a_workbook_is_to_be_saved_as_a_table(world: Sandbox, tmp_path: Path) -> None:
    """Many have their rows in Excel; the error says how they come here."""
    (tmp_path / "in.xlsx").write_bytes(b"PK")
    ran = await happyhorse("batch", "run", "in.xlsx", cwd=tmp_path, world=world)
    assert (ran.code, "next: Save a workbook of Excel as CSV" in ran.err) == (2, True), ran.err


async def test_rows_that_were_left_out_are_told(world: Sandbox, tmp_path: Path) -> None:
    """With --skip-bad the bad rows stand in status and results, until an input has none."""
    table = tmp_path / "in.csv"
    table.write_text(f"image,duration\n{LINK},5\n{LINK},99\n")
    line = ("batch", "run", "in.csv", "--yes", "--skip-bad")
    ran = await happyhorse(*line, cwd=tmp_path, world=world)
    assert (ran.code, world.paid) == (0, 1), ran.err
    shown = await happyhorse("batch", "status", cwd=tmp_path)
    assert "1  rows left out" in shown.out
    status = await happyhorse("batch", "status", "--json", cwd=tmp_path)
    assert status.lines()[0]["left_out"] == 1
    written = await happyhorse("batch", "report", cwd=tmp_path)
    assert written.code == 0, written.err
    results = [
        json.loads(it) for it in (tmp_path / "videos/results.jsonl").read_text().splitlines()
    ]
    left = [result for result in results if result["state"] == "left out"]
    assert [(result["id"], result["charged"]) for result in left] == [("in.csv:3", "no")]
    assert "duration" in left[0]["error"]
    table.write_text(f"image,duration\n{LINK},5\n")
    await happyhorse(*line, cwd=tmp_path, world=world)
    assert not (tmp_path / "videos" / "left-out.jsonl").exists()


async def test_watching_a_folder_ends_with_its_run(world: Sandbox, tmp_path: Path) -> None:
    """`status --watch` shows the batch until its run has ended."""
    ran = await happyhorse(
        "batch", "run", LINK_TABLE, "--yes", cwd=tmp_path, world=world, stdin=ROW
    )
    assert ran.code == 0, ran.err
    watched = await happyhorse("batch", "status", "--watch", cwd=tmp_path)
    assert (watched.code, "1 of 1 jobs have ended" in watched.out) == (0, True), watched.err


LINK_TABLE, ROW = "-", f"image\n{LINK}\n".encode()


async def test_what_earlier_runs_have_paid_is_finished_without_its_rows(
    world: Sandbox, tmp_path: Path
) -> None:
    """Where no row is good any more, since their images are gone, the run says that jobs may be
    paid, and with --skip-bad it saves their videos. The row itself has failed.
    """
    image, table = tmp_path / "cat.jpg", tmp_path / "cats.csv"
    shutil.copy(PHOTOS / "cat.jpg", image)
    table.write_text("image\ncat.jpg\n")
    words = ("batch", "run", table.name, "--out", "out", "--yes")
    world.speed = 0
    followed = asyncio.Event()
    world.watch_requests(lambda one: followed.set() if "/v1/tasks" in one.path else None)
    run = await start(*words, cwd=tmp_path, world=world)
    async with asyncio.timeout(100):
        await followed.wait()
    run.kill()
    await run.wait()
    world.finish()
    image.unlink()
    refused = await happyhorse(*words, cwd=tmp_path, world=world)
    assert (refused.code, "1 job of earlier runs may be paid" in refused.err) == (2, True), (
        refused.err
    )
    saved = await happyhorse(*words, "--skip-bad", cwd=tmp_path, world=world)
    assert (saved.code, world.paid) == (1, 1), saved.err
    assert len([*(tmp_path / "out").glob("*.mp4")]) == 1


def test_no_other_folder_is_advised_where_a_batch_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk a batch is to be gone on with in its folder: another would pay for all of it
    again.
    """
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
    with pytest.raises(ConfigurationError, match="the disk is full") as begun:
        _need_folder(tmp_path)
    assert begun.value.next_step == "Choose another folder with --out."
    (tmp_path / LEDGER_NAME).touch()
    with pytest.raises(ConfigurationError, match="the disk is full") as going_on:
        _need_folder(tmp_path)
    assert "run the same line again" in going_on.value.next_step


@pytest.mark.parametrize("length", [600, 5000])
async def test_a_folder_whose_path_is_too_long(world: Sandbox, tmp_path: Path, length: int) -> None:
    """It is told as that before anything is paid, also where each of its names is short enough:
    SQLite takes less than the file system.
    """
    out = "/".join(["long" * 25] * (length // 100))
    ran = await happyhorse(
        "batch", "run", "-", "--out", out, "--yes", cwd=tmp_path, world=world, stdin=ROW
    )
    assert (ran.code in (1, 2), world.paid) == (True, 0)
    assert ("File name too long" if length > 4096 else "SQLite opens no path of") in ran.err
    assert "Traceback" not in ran.err


async def test_a_run_that_is_refused_leaves_the_rows_of_the_other_ones_run(
    world: Sandbox, tmp_path: Path
) -> None:
    """What a run has left out stays told while it works, though another one with other rows is
    refused meanwhile.
    """
    folder = tmp_path / "videos"
    async with open_session(world) as session, session.batch(folder):
        keep_left_out(folder, [("in.csv:2", ("it is bad",))])
        ran = await happyhorse("batch", "run", "-", "--yes", cwd=tmp_path, world=world, stdin=ROW)
    assert (ran.code, "is being worked on by process" in ran.err) == (1, True), ran.err
    assert [row["place"] for row in left_out(folder)] == ["in.csv:2"]
