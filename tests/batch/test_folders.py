"""Folders that earlier versions left are opened and gone on with: nothing is paid a second time.

`folders/NAME/batch` is a folder byte for byte as version 0.1.0 left it, ended by itself, closed, or
killed. `folders/NAME/expect.json` has the tasks that the service knows, the input, and what going
on with the folder gave with the code that made it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async import ImageToVideo, Session
from happyhorse_async._submitter import in_flight
from happyhorse_async.batch import Job, Outcome
from tests.batch.folder_service import Service
from tests.conftest import QUICK_POLLING, QUICK_RETRY

pytestmark = pytest.mark.anyio

FOLDERS = Path(__file__).parent / "folders"
LEFT = ("saved", "running", "in-doubt", "failed", "no-wal", "killed", "local")
WAYS = ("resume", "run", "retry", "run-then-retry")


@pytest.fixture(autouse=True)
def _long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these folders sent left days ago: no minute has to pass until the list is believed."""
    monkeypatch.setattr(in_flight, "FRESH", 0.0)


def expected(name: str) -> dict[str, Any]:
    """Read what is known of a folder."""
    return dict(json.loads((FOLDERS / name / "expect.json").read_text("utf-8")))


def copy_of(name: str, tmp_path: Path) -> Path:
    """Copy a folder with its images: opening a ledger changes it."""
    return Path(shutil.copytree(FOLDERS / name, tmp_path / name))


def job_of(row: Mapping[str, Any], root: Path) -> Job:
    """Read a row of the input: its image is a link, a path in the copy, or bytes."""
    fields = dict(row["request"])
    image = fields.pop("image")
    if "link" in image:
        made: Any = image["link"]
    else:
        made = root / image["path"] if "path" in image else base64.b64decode(image["base64"])
    return Job(ImageToVideo(made, **fields), id=row.get("id"), extra=row.get("extra", {}))


def jobs_in(folder: Path) -> list[dict[str, Any]]:
    """Read the ledger's table of jobs with SQLite alone."""
    with closing(sqlite3.connect(folder / "happyhorse.sqlite")) as ledger:
        ledger.row_factory = sqlite3.Row
        return [dict(row) for row in ledger.execute("SELECT * FROM jobs")]


async def go_on(service: Service, root: Path, way: str, rows: list[Any]) -> list[Outcome]:
    """Go on with a copy in one way, and give the outcomes."""
    outcomes: list[Outcome] = []
    async with Session(
        service.key,
        base_url=service.url,
        files_url=service.url,
        polling=QUICK_POLLING,
        retry=QUICK_RETRY,
    ) as session:
        for step in way.split("-then-"):
            async with session.batch(root / "batch", retry=QUICK_RETRY) as batch:
                steps = {
                    "resume": batch.resume,
                    "retry": batch.retry,
                    "run": lambda batch=batch: batch.run([job_of(row, root) for row in rows]),
                }
                outcomes += [outcome async for outcome in steps[step]()]
    return outcomes


def told(outcomes: list[Outcome], known: set[str]) -> dict[str, dict[str, Any]]:
    """Write outcomes as `expect.json` has them; ids of new tasks are the service's own affair."""
    return {
        outcome.id: {
            "state": outcome.state.value,
            "resumed": outcome.resumed,
            "credits": str(outcome.credits),
            "attempts": outcome.attempts,
            "task_id": outcome.task_id if outcome.task_id in known else None,
            **(
                {"error": type(outcome.error).__name__, "charged": outcome.error.charged}
                if outcome.error
                else {}
            ),
        }
        for outcome in outcomes
    }


async def came_of(expect: dict[str, Any], root: Path, way: str) -> dict[str, Any]:
    """Go on with a copy, and say what came of it as `expect.json` does."""
    known = {task["id"] for task in expect["tasks"]}
    async with Service(expect) as service:
        outcomes = await go_on(service, root, way, expect["input"])
    folder = root / "batch"
    jobs = jobs_in(folder)
    by_key = {job["key"]: job["id"] for job in jobs}
    by_task = {job["task_id"]: job["id"] for job in jobs if job["task_id"]}
    old = {job["name"] for job in jobs if job["task_id"] in known}
    return {
        "told": told(outcomes, known),
        "paid": service.paid,
        "paid_jobs": sorted(by_key[key] for key in service.new),
        "replayed_jobs": sorted(by_key[key] for key in service.replayed),
        "conflicts": service.conflicts,
        "unknown_tasks": service.unknown,
        "fetched_jobs": {by_task[task]: times for task, times in service.fetched.items()},
        "uploads": len(service.uploaded),
        "states": {job["id"]: job["state"] for job in jobs},
        "videos": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.name in old else "new"
            for path in folder.glob("*.mp4")
        },
        "left_over": [path.name for path in folder.glob("*.part*")],
        "spent": sum(job["spent"] for job in jobs),
        "reserved": sum(job["reserved"] for job in jobs),
    }


def right(expect: dict[str, Any], way: str) -> dict[str, Any]:
    """Give what the version that left a folder made of it; which ranges it asked for is its own."""
    before = dict(expect["going_on"][way])
    totals = before.pop("totals")
    for name in ("stopped", "range_requests", "videos_before"):
        before.pop(name)
    money = {name: round(float(totals[name]) * 1_000_000) for name in ("spent", "reserved")}
    return {**before, **money}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LEFT)
async def test_goes_on(name: str, way: str, tmp_path: Path) -> None:
    """Each folder, gone on with in each way, gives what the version that left it made of it.

    Nothing that was accepted is paid again, no key meets another body, no video that is there is
    fetched, and each of the others is fetched once.
    """
    expect = expected(name)
    assert await came_of(expect, copy_of(name, tmp_path), way) == right(expect, way)


async def test_goes_on_without_its_log(tmp_path: Path) -> None:
    """A killed folder whose log is lost knows no job, and still pays for nothing twice."""
    expect, root = expected("killed"), copy_of("killed", tmp_path)
    for suffix in ("-wal", "-shm"):
        (root / "batch" / f"happyhorse.sqlite{suffix}").unlink()
    came = await came_of(expect, root, "run")
    assert came == right(expect, "run, the log lost")


async def test_goes_on_after_a_restart(tmp_path: Path) -> None:
    """A part file that another run of a machine wrote is fetched from its beginning, once."""
    expect, root = expected("killed"), copy_of("killed", tmp_path)
    for note in (root / "batch").glob("*.part.json"):
        note.write_text(json.dumps({**json.loads(note.read_text()), "boot": "another"}))
    came = await came_of(expect, root, "run")
    assert came == right(expect, "run, after a restart of the machine")
