"""Wrong words and folders are exit code 2; the list of tasks reads well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from happyhorse_async import Session
from happyhorse_async.cli._board import warning_of
from happyhorse_async.events import LinkExpiring
from happyhorse_async.sandbox import Sandbox
from tests.cli.process import LINK, happyhorse

pytestmark = pytest.mark.anyio

TOO_LONG = "a" * 300
"""No file can have this name, so none can be looked at, as in a folder that may not be entered."""


@pytest.fixture
async def world(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service in the test's process, for a command in another one."""
    async with Sandbox(video="stub", task_seconds=4, speed=20) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("batch status nowhere", "there is no ledger in nowhere"),
        ("batch report nowhere", "there is no ledger in nowhere"),
        ("batch retry nowhere", "there is no ledger in nowhere"),
        ("batch run nowhere.csv", "there is nothing at 'nowhere.csv'"),
        ("download nowhere --resume", "nowhere is no folder"),
        ("tasks list --status done", "expected one of processing, completed"),
        ("estimate --quality 4k", "quality"),
        ("generate cat.jpg --duration 99", "duration"),
        ("batch run - --vary sed=1", "did you mean seed?"),
        ("completion tcsh", "bash"),
        ("credits --api-key=", "expected a value"),  # the environment's may be another account's
        (f"generate {LINK} --yes --profile=", "expected a value"),
        ("sandbox --task-seconds inf", "finite"),
        ("sandbox --port 99999", "--port"),
        ("generate cat.jpg --max-credits inf --yes", "credits"),
        ("generate cat.jpg --out file:///tmp/videos --yes", "is a link"),
        ("batch run a.jpg b.jpg c.jpg --yes", "got 'b.jpg' beside it: put a pattern in quotation"),
        ("cluster enqueue a.jpg b.jpg --yes", "got 'b.jpg' beside it: put a pattern in quotation"),
        (f"generate {LINK} --out=~/videos --yes", "only shells put a home for ~"),
        ("batch run . --out=~/videos --yes", "only shells put a home for ~"),
        (f"estimate {10**20}", "1000000"),
        (f"batch run . --limit {10**20}", "--limit"),
        (f"batch run . --vary seed={10**20}..{10**30}", "at most 100,000 are tried"),
        (f"generate {TOO_LONG}.png --yes", "File name too long"),
        (f"generate {LINK} --out {TOO_LONG}.mp4 --yes", "File name too long"),
        (f"download {TOO_LONG} --resume", "is no folder"),
        (f"batch run {TOO_LONG}.csv --out videos --yes", "File name too long"),
        (f"batch run {TOO_LONG} --out videos --yes", "File name too long"),
        (f"batch status {TOO_LONG}", "no ledger in"),
    ],
)
async def test_wrong_words_and_folders(
    world: Sandbox, tmp_path: Path, line: str, said: str
) -> None:
    """Each is exit code 2 with what would be right; nothing is sent that costs."""
    ran = await happyhorse(*line.split(), cwd=tmp_path, world=world)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert "Traceback" not in ran.err
    assert world.paid == 0


async def test_the_list_of_tasks(world: Sandbox, tmp_path: Path) -> None:
    """A header for people alone, pages that name the next one, and dates that look through all."""
    async with Session(world.key, base_url=world.url, files_url=world.files_url) as session:
        ids = [(await session.submit(LINK, seed=seed)).id for seed in range(1, 4)]
    first = await happyhorse("tasks", "list", "--page-size", "2", cwd=tmp_path, world=world)
    assert first.err.startswith("TASK ")
    assert "2 of 3 tasks, page 1 of 2; the next: --page 2" in first.err
    every = await happyhorse("tasks", "list", "--all", cwd=tmp_path, world=world)
    assert {line.split()[0] for line in every.out.splitlines()} == set(ids)
    now = datetime.now(UTC)
    soon, past = (f"{now + timedelta(days=days):%Y-%m-%d}" for days in (2, -2))
    none = await happyhorse("tasks", "list", "--since", soon, cwd=tmp_path, world=world)
    assert (none.out, "0 tasks" in none.err) == ("", True)
    dated = await happyhorse(
        *("tasks", "list", "--since", past, "--before", soon, "--json"), cwd=tmp_path, world=world
    )
    assert {line["id"] for line in dated.lines()} == set(ids)


async def test_a_missing_key_is_told_in_the_commands_words(tmp_path: Path) -> None:
    """Who types a command has no Session to pass anything to."""
    ran = await happyhorse("credits", cwd=tmp_path, EVOLINK_API_KEY="")
    assert (ran.code, "or pass --api-key or --profile" in ran.err) == (2, True), ran.err
    assert "Session(" not in ran.err


@pytest.mark.parametrize(
    ("left", "said"), [(600.0, "dies in 10 minutes"), (-86_460.0, "may be dead already")]
)
def test_the_warning_of_a_link(left: float, said: str) -> None:
    """A service whose clock is wrong by a day made a board say "dies in -1441 minutes"."""
    event = LinkExpiring(task_id="task-unified-1", expires_at=datetime.now(UTC), seconds_left=left)
    assert warning_of(event) == (
        f"warning: the link of task-unified-1 {said}, and its video is not here"
    )
