"""`happyhorse batch` as a process: exit codes, what is asked, and what is said."""

from __future__ import annotations

import asyncio
import csv
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.batch.support import ROOT, until, write_manifest
from tests.forks import Process, python

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A service that is quick; the commands look at tasks as seldom as real ones should be."""
    async with Sandbox(video="stub", speed=1000, task_seconds=1) as sandbox:
        yield sandbox


async def start(
    sandbox: Sandbox, *arguments: object, stdin: int = asyncio.subprocess.DEVNULL
) -> Process:
    """Start a command, with nobody to ask unless it is given a terminal."""
    return await python(
        *("tests.cli.quick", "batch", *arguments),
        cwd=ROOT,
        env={**os.environ, **sandbox.env(), "COLUMNS": "200"},
        stdin=stdin,
    )


async def happyhorse(
    sandbox: Sandbox, *arguments: object, answer: str = ""
) -> tuple[int, str, str]:
    """Run a command to its end, with an answer at a terminal: exit code, standard output, standard
    error.
    """
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, answer.encode())
        process = await start(
            sandbox, *arguments, stdin=terminal if answer else asyncio.subprocess.DEVNULL
        )
        out, err = await process.communicate()
    finally:
        os.close(keyboard)
        os.close(terminal)
    return process.returncode or 0, out.decode(), err.decode()


async def test_run_status_report(sandbox: Sandbox, tmp_path: Path) -> None:
    """A run makes the videos, the same line again costs nothing, `status` counts them, `report`
    writes them down with the own columns.
    """
    manifest, out = write_manifest(tmp_path / "in", links=3, files=1), tmp_path / "out"
    for _ in range(2):
        code, _, err = await happyhorse(sandbox, "run", manifest, "--out", out, "--yes")
        assert (code, "4 saved" in err) == (0, True), err
    assert sandbox.paid == 4
    code, said, _ = await happyhorse(sandbox, "status", "--out", out, "--json")
    assert (code, json.loads(said)["states"], json.loads(said)["run"]["ended"]) == (
        0,
        {"saved": 4},
        "done",
    )
    code, said, _ = await happyhorse(sandbox, "report", "--out", out)
    assert [Path(line).name for line in said.split()] == [
        "gallery.html",
        "results.jsonl",
        "results.csv",
    ]
    with (out / "results.csv").open(newline="") as file:
        assert [row["shelf"] for row in csv.DictReader(file)] == ["", "0", "1", "2"]


async def test_dry_run_and_question(sandbox: Sandbox, tmp_path: Path) -> None:
    """A dry run prints the price; without --yes it is asked about, and "no" spends nothing."""
    manifest = write_manifest(tmp_path / "in", links=2, files=0)
    code, _, err = await happyhorse(
        sandbox, "run", manifest, "--out", tmp_path / "out", "--dry-run"
    )
    assert (code, "about 45.7 credits" in err) == (0, True)
    code, _, err = await happyhorse(
        sandbox, "run", manifest, "--out", tmp_path / "out", answer="n\n"
    )
    assert (code, "Go on?" in err) == (3, True)
    assert (sandbox.paid, (tmp_path / "out").exists()) == (0, False)
    code, _, err = await happyhorse(sandbox, "run", manifest, "--out", tmp_path / "out")
    assert (code, "--yes" in err, "Aborted" in err, sandbox.paid) == (3, True, False, 0)


async def test_a_frame_that_the_service_cannot_reach_is_a_bad_row(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Also in a dry run: it says of every row whether it can work."""
    table = tmp_path / "in.csv"
    table.write_text("image\nhttps://nas.local/a.png\nhttps://example.com/b.png\n")
    line = ("run", table, "--out", tmp_path / "out")
    code, _, err = await happyhorse(sandbox, *line, "--dry-run")
    assert (code, "cannot reach private addresses, and 'nas.local'" in err) == (2, True)
    code, _, err = await happyhorse(sandbox, *line, "--skip-bad", "--yes")
    assert (code, sandbox.paid) == (0, 1)


async def test_no_answer_is_a_no(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where the input ends at once, as in a script without --yes, nothing is spent and the exit
    code says so.
    """
    manifest = write_manifest(tmp_path / "in", links=1, files=0)
    code, said, err = await happyhorse(sandbox, "run", manifest, "--out", tmp_path / "out")
    assert (code, said, "Aborted" in err, sandbox.paid) == (3, "", False, 0)


async def test_bad_rows(sandbox: Sandbox, tmp_path: Path) -> None:
    """Bad rows are named with file and line, nothing is sent; --skip-bad does the others."""
    table = tmp_path / "rows.jsonl"
    table.write_text(
        '{"image": "https://e.com/a.png"}\n{"image": "https://e.com/a.png", "duration": 1}\n'
    )
    code, _, err = await happyhorse(sandbox, "run", table, "--out", tmp_path / "out", "--yes")
    assert (code, sandbox.paid, f"{table}:2: duration" in err) == (2, 0, True)
    code, _, _ = await happyhorse(
        sandbox, "run", table, "--out", tmp_path / "out", "--yes", "--skip-bad"
    )
    assert (code, sandbox.paid) == (0, 1)


async def test_failures_and_retry(sandbox: Sandbox, tmp_path: Path) -> None:
    """A failed job gives exit code 1 and is shown with its code; `retry` makes it."""
    manifest, out = write_manifest(tmp_path / "in", links=1, files=0), tmp_path / "out"
    sandbox.speed = 0
    process = await start(sandbox, "run", manifest, "--out", out, "--json", "--yes")
    await until(lambda: sandbox.paid == 1)
    sandbox.end(sandbox.tasks[0].id, "failed", error_code="content_policy_violation")
    said, _ = await process.communicate()
    lines = [json.loads(line) for line in said.decode().splitlines()]
    assert process.returncode == 1
    assert [line.get("state", line["event"]) for line in lines] == [
        "checked",
        "submitting",
        "running",
        "failed",
        "failed",
        "end",
    ]
    assert lines[-1]["failures"] == {"content_policy_violation": 1}
    sandbox.speed = 1000
    code, _, err = await happyhorse(sandbox, "retry", "--out", out)
    assert (code, "--yes" in err, sandbox.paid) == (3, True, 1)
    code, _, err = await happyhorse(sandbox, "retry", "--out", out, answer="y\n")
    assert (code, "Begin 1 jobs again" in err) == (0, True)


async def test_folders_as_the_readme_says_them(sandbox: Sandbox, tmp_path: Path) -> None:
    """`status`, `retry` and `report` take the folder as an argument or as --out; a mistyped one is
    refused and not made.
    """
    manifest, out = write_manifest(tmp_path / "in", links=1, files=0), tmp_path / "out"
    assert (await happyhorse(sandbox, "run", manifest, "--out", out, "--yes"))[0] == 0
    for command in ("status", "retry", "report"):
        code, _, err = await happyhorse(sandbox, command, out)
        assert (code, sandbox.paid) == (0, 1), err
        typo = tmp_path / f"typo-{command}"
        code, _, err = await happyhorse(sandbox, command, typo)
        assert (code, "no ledger" in err, typo.exists()) == (2, True, False)
    assert (await happyhorse(sandbox, "status", out, "--out", out))[0] == 0
    assert (await happyhorse(sandbox, "status", out, "--out", tmp_path))[0] == 2


async def test_max_credits(sandbox: Sandbox, tmp_path: Path) -> None:
    """--max-credits ends the batch with its own exit code after what fits was made."""
    manifest = write_manifest(tmp_path / "in", links=3, files=0)
    code, _, err = await happyhorse(
        sandbox, "run", manifest, "--out", tmp_path / "out", "--yes", "--max-credits", "50"
    )
    assert (code, sandbox.paid, "run the same line again" in err.lower()) == (3, 2, True)


async def test_money_in_doubt_outranks_what_else_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of unknown fate is exit code 4, also where the budget stopped the batch and when it is
    only told again; `retry` solves it.
    """
    manifest, out = write_manifest(tmp_path / "in", links=2, files=0), tmp_path / "out"
    monkeypatch.setenv("BATCH_REPLAYS", "0")
    async with Sandbox(
        video="stub", speed=1000, task_seconds=1, features=Features(listing=False)
    ) as sandbox:
        sandbox.fail(Fault("drop-after", path="/v1/videos/generations"))
        code, _, err = await happyhorse(
            sandbox,
            "run",
            manifest,
            "--out",
            out,
            "--yes",
            "--max-credits",
            30,
            "--max-in-flight",
            1,
        )
        assert (code, "in doubt" in err, "the batch stopped" in err, sandbox.paid) == (
            4,
            True,
            True,
            1,
        ), err
        assert (await happyhorse(sandbox, "run", manifest, "--out", out, "--yes"))[0] == 4
        assert (await happyhorse(sandbox, "retry", "--out", out, "--yes"))[0] == 0
        assert sandbox.paid == 2


async def test_two_processes_on_one_folder(sandbox: Sandbox, tmp_path: Path) -> None:
    """The second process is refused with the first one's id; `status` is not."""
    manifest, out = write_manifest(tmp_path / "in", links=1, files=0), tmp_path / "out"
    sandbox.speed = 0
    process = await start(sandbox, "run", manifest, "--out", out, "--yes")
    await until(lambda: sandbox.paid == 1)
    code, _, err = await happyhorse(sandbox, "run", manifest, "--out", out, "--yes")
    assert (code, f"process {process.pid} on" in err) == (1, True)
    code, said, _ = await happyhorse(sandbox, "status", "--out", out)
    assert (code, "going on" in said) == (0, True)
    sandbox.finish()
    await process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--out", "s3://bucket/prefix"), "--ledger FOLDER"),
        (("--out", "videos", "--ledger", "elsewhere"), "Leave --ledger away"),
    ],
)
async def test_where_the_ledger_goes(
    sandbox: Sandbox, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    """An object store needs a folder for the ledger, and a folder needs none: both are said before
    anything is paid.
    """
    manifest = write_manifest(tmp_path, links=1, files=0)
    code, _, err = await happyhorse(sandbox, "run", manifest, *options, "--yes")
    assert (code, sandbox.paid) == (2, 0), err
    assert said in " ".join(err.split())
