"""Saved videos that are not in the folder any more: runs and reports look, and say so."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from happyhorse_async import DownloadError, LinkExpiredError, Session
from happyhorse_async._edges import disk
from happyhorse_async.batch import Job, JobState, Outcome, _videos
from happyhorse_async.batch._database import LEDGER_NAME
from happyhorse_async.batch._manifest import Manifest
from happyhorse_async.batch.report import overview, write_reports
from happyhorse_async.sandbox import Fault, Sandbox
from tests.batch.support import Worker, results, write_manifest
from tests.batch.test_resume import QUICK, rows, run
from tests.conftest import open_session

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service whose tasks take a moment."""
    async with Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox:
        yield sandbox


def jobs(count: int) -> list[Job]:
    """Make jobs with ids of their own, so that their videos' names are known."""
    return [Job(request, id=f"job{n}") for n, request in enumerate(rows(count))]


async def saved(session: Session, folder: Path, count: int) -> dict[str, bytes]:
    """Save some videos; give their contents by their names."""
    assert all(outcome.ok for outcome in await run(session, folder, jobs(count)))
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


def spoil(folder: Path) -> None:
    """Take one video away, cut another, and put something else in the place of a third."""
    (folder / "job0.mp4").unlink()
    with (folder / "job1.mp4").open("r+b") as file:
        file.truncate(100)
    (folder / "job2.mp4").write_text("holiday")


async def gone_on(session: Session, folder: Path, way: str, **options: object) -> list[Outcome]:
    """Go on with a folder in one of the three ways."""
    async with session.batch(folder, retry=QUICK, **options) as batch:  # type: ignore[arg-type]
        ways = {"run": lambda: batch.run(jobs(4)), "resume": batch.resume, "retry": batch.retry}
        return [outcome async for outcome in ways[way]()]


@pytest.mark.parametrize("way", ["run", "resume", "retry"])
async def test_what_is_missing_is_fetched_again(
    sandbox: Sandbox, session: Session, tmp_path: Path, way: str
) -> None:
    """A saved video that was deleted, cut or replaced is fetched again for nothing, in every way of
    going on; what lay in its place is kept beside.
    """
    before = await saved(session, tmp_path, 4)
    spoil(tmp_path)
    outcomes = await gone_on(session, tmp_path, way)
    fetched = [outcome.id for outcome in outcomes if not outcome.resumed]
    assert sorted(fetched) == ["job0", "job1", "job2"]
    assert {outcome.state for outcome in outcomes} == {JobState.SAVED}
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.mp4")} == before
    assert (tmp_path / "job2.mp4.changed").read_text() == "holiday"
    async with session.batch(tmp_path) as batch:
        assert (await batch.totals()).spent == sum(
            outcome.credits for outcome in outcomes[:3]
        ) / 3 * 4
    assert sandbox.paid == 4
    assert await gone_on(session, tmp_path, "resume") == []


async def test_reports_say_what_is_missing(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """Reports and the overview look at the folder: what is not there, or has another size, is not
    called saved.
    """
    await saved(session, tmp_path, 4)
    spoil(tmp_path)
    states = {str(result["id"]): result for result in results(tmp_path)}
    assert {name: result["state"] for name, result in states.items()} == {
        **dict.fromkeys(("job0", "job1", "job2"), "missing"),
        "job3": "saved",
    }
    assert (states["job0"]["video"], states["job0"]["error_code"]) == (None, "video_missing")
    seen = overview(tmp_path)
    assert (seen.missing, seen.as_json()["missing"]) == (3, 3)


async def test_a_digest_tells_what_a_size_does_not(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """A video whose content has changed, but not its size, is seen where videos are to be read."""
    before = await saved(session, tmp_path, 4)
    (tmp_path / "job3.mp4").write_bytes(bytes(len(before["job3.mp4"])))
    assert {result["state"] for result in results(tmp_path)} == {"saved"}
    write_reports(tmp_path, ("jsonl",), verify=True)
    lines = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert [line["id"] for line in lines if line["state"] == "missing"] == ["job3"]
    for way, resumed in (("resume", 0), ("run", 3)):
        (tmp_path / "job3.mp4").write_bytes(bytes(len(before["job3.mp4"])))
        assert len(await gone_on(session, tmp_path, way)) == (4 if way == "run" else 0)
        outcomes = await gone_on(session, tmp_path, way, verify=True)
        assert sum(outcome.resumed for outcome in outcomes) == resumed
        assert [outcome.id for outcome in outcomes if not outcome.resumed] == ["job3"]
        assert (tmp_path / "job3.mp4").read_bytes() == before["job3.mp4"]
    assert sandbox.paid == 4


async def test_a_video_that_the_disk_does_not_give_is_fetched_again(
    sandbox: Sandbox, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad block in a saved video ends no run that reads all of them: it counts as not there."""
    before = await saved(session, tmp_path, 3)

    def broken(path: Path) -> int:
        if path.name == "job1.mp4":
            raise OSError(errno.EIO, "Input/output error")
        return disk.open_regular(path)

    monkeypatch.setattr(_videos, "open_regular", broken)
    async with session.batch(tmp_path, verify=True) as batch:
        outcomes = [outcome async for outcome in batch.run(jobs(3))]
    assert [outcome.id for outcome in outcomes if not outcome.resumed] == ["job1"]
    assert all(outcome.ok for outcome in outcomes)
    assert (tmp_path / "job1.mp4").read_bytes() == before["job1.mp4"]
    assert (tmp_path / "job1.mp4.changed").exists()
    assert sandbox.paid == 3


async def test_what_cannot_be_put_aside_ends_one_job(
    sandbox: Sandbox, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's file in a video's place, or one that is open in a player on Windows, is named;
    the others get their videos back.
    """
    before = await saved(session, tmp_path, 3)
    for name in ("job1.mp4", "job2.mp4"):
        (tmp_path / name).write_text("holiday")
    rename = Path.rename

    def refused(path: Path, to: Path) -> Path:
        if path.name == "job1.mp4":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refused)
    outcomes = {outcome.id: outcome for outcome in await run(session, tmp_path, jobs(3))}
    assert [outcomes[f"job{n}"].ok for n in range(3)] == [True, False, True]
    assert outcomes["job1"].state is JobState.COMPLETED
    assert "cannot be put aside: Operation not permitted" in str(outcomes["job1"].error)
    assert (tmp_path / "job2.mp4").read_bytes() == before["job2.mp4"]
    monkeypatch.undo()
    assert all(outcome.ok for outcome in await run(session, tmp_path, jobs(3)))
    assert sandbox.paid == 3


@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")],
    ids=["folder", "pipe", "device"],
)
@pytest.mark.parametrize(("name", "told"), [("", "this is not a file"), (".part", "in the way")])
async def test_what_is_no_file_in_a_paid_videos_place_ends_one_job(
    sandbox: Sandbox,
    session: Session,
    tmp_path: Path,
    make: Callable[[Path], None],
    name: str,
    told: str,
) -> None:
    """The job stays completed and says what lies there; the others get their videos. Once the place
    is free, it gets its own. The place of its part file is one too.
    """
    sandbox.fail(Fault("truncate", bytes=0, times=None))
    assert [outcome.ok for outcome in await run(session, tmp_path, jobs(3))] == [False] * 3
    sandbox.clear_faults()
    place = tmp_path / f"job1.mp4{name}"
    for begun in tmp_path.glob("*.part*"):
        begun.unlink()
    make(place)
    outcomes = {outcome.id: outcome for outcome in await run(session, tmp_path, jobs(3))}
    assert [outcomes[f"job{n}"].ok for n in range(3)] == [True, False, True]
    assert outcomes["job1"].state is JobState.COMPLETED
    assert told in str(outcomes["job1"].error)
    place.rename(tmp_path / "aside")
    assert all(outcome.ok for outcome in await run(session, tmp_path, jobs(3)))
    assert sandbox.paid == 3


@pytest.mark.parametrize("target", ["nowhere", "job0.mp4"])
async def test_a_link_that_leads_nowhere_is_in_the_way_before_anything_is_paid(
    sandbox: Sandbox, tmp_path: Path, target: str
) -> None:
    """No video would be written through it, or over it: its job is refused as any stranger's is."""
    (tmp_path / "job0.mp4").symlink_to(target)
    async with open_session(sandbox) as session:
        outcomes = {each.id: each for each in await run(session, tmp_path, jobs(2))}
        assert str(outcomes["job0"].error).endswith("exists already, and is not this batch's")
        assert (outcomes["job1"].ok, sandbox.paid) == (True, 1)


@pytest.mark.parametrize("name", ["job1.mp4.part.json", "job1.mp4.part.json~"])
async def test_a_folder_in_the_place_of_a_note_ends_one_job(
    sandbox: Sandbox, session: Session, tmp_path: Path, name: str
) -> None:
    """A download's note of what it has, and its draft, may find something in their way too."""
    (tmp_path / name / "mine").mkdir(parents=True)
    outcomes = {outcome.id: outcome for outcome in await run(session, tmp_path, jobs(3))}
    assert [outcomes[f"job{n}"].ok for n in range(3)] == [True, False, True]
    assert "in the way" in str(outcomes["job1"].error)
    (tmp_path / name).rename(tmp_path / "aside")
    assert all(outcome.ok for outcome in await run(session, tmp_path, jobs(3)))
    assert sandbox.paid == 3


async def test_what_cannot_be_fetched_now_is_told(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    """While the service does not give the video, the job is told as completed with the reason, what
    lies in its place stays there, and the ledger keeps the job as saved.
    """
    await saved(session, tmp_path, 1)
    (tmp_path / "job0.mp4").write_text("holiday")
    sandbox.fail(Fault("truncate", bytes=0, times=None))
    [outcome] = await run(session, tmp_path, jobs(1))
    assert (outcome.state, outcome.video) == (JobState.COMPLETED, None)
    assert isinstance(outcome.error, DownloadError)
    assert (tmp_path / "job0.mp4").read_text() == "holiday"
    async with session.batch(tmp_path) as batch:
        assert (await batch.totals()).states == {JobState.SAVED: 1}
    sandbox.clear_faults()
    assert [again.ok for again in await run(session, tmp_path, jobs(1))] == [True]


async def test_what_is_gone_for_good_is_said_and_never_bought(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A video that was moved away long after it was saved is told with a row of the input, and said
    in the log otherwise. Neither asks the service, and neither begins a new task.
    """
    folder = tmp_path / "videos"
    async with open_session(sandbox) as session:
        await saved(session, folder, 2)
    with closing(sqlite3.connect(folder / LEDGER_NAME)) as ledger:
        ledger.execute("UPDATE jobs SET completed = completed - 30 * 86400")
        ledger.commit()
    for path in folder.glob("*.mp4"):
        shutil.move(path, tmp_path)
    asked = len(sandbox.requests)
    async with open_session(sandbox) as session:
        [told] = await run(session, folder, jobs(1))
        assert (told.state, type(told.error), told.resumed) == (
            JobState.FAILED,
            LinkExpiredError,
            True,
        )
        assert [record.action for record in caplog.records if hasattr(record, "action")] == [
            "videos_missing"
        ]
        assert await gone_on(session, folder, "retry") == []
    assert len(sandbox.requests) == asked


@pytest.mark.parametrize("phase", ["with both names", "with the note left"])
async def test_a_kill_while_a_video_gets_its_name_leaves_nothing_behind(
    sandbox: Sandbox, session: Session, tmp_path: Path, phase: str
) -> None:
    """The next run finds the video in its place, and clears away what was left beside it."""
    folder, manifest = tmp_path / "videos", write_manifest(tmp_path / "in", links=1, files=0)
    worker = await Worker.start(sandbox, folder, manifest, BATCH_DIES=phase)
    assert await worker.ended() == ""
    assert len([path for path in folder.iterdir() if ".mp4" in path.name]) > 1
    [outcome] = await run(session, folder, Manifest(manifest).jobs())
    assert outcome.ok
    assert [path for path in folder.iterdir() if ".mp4" in path.name] == [outcome.video.path]
    assert sandbox.paid == 1
