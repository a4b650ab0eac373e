"""A project that was moved: its images are known by their content, and where they lie now."""

from __future__ import annotations

from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo
from happyhorse_async.batch import Job, JobState
from happyhorse_async.batch.report import write_reports
from happyhorse_async.sandbox import Fault, Sandbox
from tests.batch.test_resume import QUICK, SUBMIT, rows
from tests.conftest import PHOTOS, open_session

pytestmark = pytest.mark.anyio


async def test_a_project_that_was_moved(tmp_path: Path) -> None:
    """Jobs that failed, or that are saved, know where their image lies after a run at the new
    place: `retry` sends it, and the gallery shows it.
    """
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    for name in ("bad", "good"):
        (home / f"{name}.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes() + name.encode())

    def jobs(folder: Path) -> list[Job]:
        return [
            Job(ImageToVideo(folder / f"{name}.jpg", prompt=name), id=name)
            for name in ("bad", "good")
        ]

    async with (
        Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
    ):
        sandbox.fail(Fault("refuse", path=SUBMIT, status=400))
        async with session.batch(home / "out", retry=QUICK, max_in_flight=1) as batch:
            outcomes = [outcome async for outcome in batch.run(jobs(home))]
        assert {outcome.state for outcome in outcomes} == {JobState.FAILED, JobState.SAVED}
        home.rename(elsewhere)
        async with session.batch(elsewhere / "out", retry=QUICK) as batch:
            told = [outcome async for outcome in batch.run(jobs(elsewhere))]
            assert sorted(outcome.ok for outcome in told) == [False, True]
            assert [outcome.ok async for outcome in batch.retry()] == [True]
        write_reports(elsewhere / "out", ("html",))
        page = (elsewhere / "out" / "gallery.html").read_text()
        assert all(f"../{name}.jpg" in page for name in ("bad", "good"))
        assert sandbox.paid == 2


async def test_a_program_that_changes_its_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch stays in its folder, also when that was named from a working folder left since."""
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "before")
    async with (
        Sandbox(video="stub", speed=1000, task_seconds=5) as sandbox,
        open_session(sandbox) as session,
        session.batch("out", retry=QUICK, max_in_flight=1) as batch,
    ):
        states = []
        async for outcome in batch.run(rows(3)):
            monkeypatch.chdir(tmp_path / "after")
            states.append(outcome.state)
    assert states == [JobState.SAVED] * 3
    assert len(list((tmp_path / "before" / "out").glob("*.mp4"))) == 3
    assert not list((tmp_path / "after").iterdir())
