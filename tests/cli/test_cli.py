"""The command line, run as a process: what it prints, where, and the exit code."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import typer

from happyhorse_async import IncompleteDownloadError, RetryPolicy
from happyhorse_async.cli._common import Exit, overall, run
from happyhorse_async.sandbox import Fault, Sandbox
from happyhorse_async.sandbox._scenarios import SCENARIOS, scenario_faults
from tests.cli.process import LINK, happyhorse, start
from tests.conftest import PHOTOS, open_session

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service in the test's process, for a command in another one."""
    async with Sandbox(video="stub", task_seconds=4, speed=20) as sandbox:
        yield sandbox


async def test_help_names_every_command_and_the_exit_codes(tmp_path: Path) -> None:
    """One page says what there is."""
    ran = await happyhorse("--help", cwd=tmp_path)
    assert ran.code == 0
    for command in (
        "demo",
        "generate",
        "batch",
        "tasks",
        "upload",
        "estimate",
        "credits",
        "sandbox",
        "doctor",
        "download",
    ):
        assert f" {command} " in ran.out
    assert "Exit codes" in ran.out


async def test_the_version_is_the_packages(tmp_path: Path) -> None:
    """--version prints it and ends."""
    ran = await happyhorse("--version", cwd=tmp_path)
    assert (ran.code, ran.out.startswith("happyhorse-async ")) == (0, True)


async def test_generate_makes_a_file_for_each_image(world: Sandbox, tmp_path: Path) -> None:
    """The videos are named after the images, the results are on stdout, and each task was paid
    once.
    """
    ran = await happyhorse(
        "generate",
        PHOTOS / "cat.jpg",
        LINK,
        "--yes",
        "--out",
        "out",
        "--json",
        cwd=tmp_path,
        world=world,
    )
    assert ran.code == 0, ran.err
    assert sorted(str(line["file"]) for line in ran.lines()) == ["out/cat-2.mp4", "out/cat.mp4"]
    assert all(line["ok"] and line["sha256"] for line in ran.lines())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cat-2.mp4", "cat.mp4"]
    assert world.paid == 2


async def test_images_of_one_name_get_a_file_and_a_row_each(world: Sandbox, tmp_path: Path) -> None:
    """The same link twice, and an image whose own name is the number that would be next."""
    images = (LINK, LINK, LINK.replace("cat", "cat-2"))
    ran = await happyhorse("generate", *images, "--yes", "--out", "out", cwd=tmp_path, world=world)
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cat-2-2.mp4",
        "cat-2.mp4",
        "cat.mp4",
    ]
    table = ran.err.partition("3 videos in")[2]
    assert all(name in table for name in (" cat.mp4", " cat-2.mp4", " cat-2-2.mp4"))


async def test_generate_for_people_ends_with_a_table_and_the_paths(
    world: Sandbox, tmp_path: Path
) -> None:
    """Without --json: plain lines and a table on stderr, the videos' paths alone on stdout."""
    ran = await happyhorse(
        "generate",
        LINK,
        "--yes",
        "--out",
        "out",
        "--prompt",
        "run",
        "--seed",
        "7",
        cwd=tmp_path,
        world=world,
    )
    assert ran.code == 0, ran.err
    assert ran.out == "out/cat.mp4\n"
    assert "accepted as task-unified-" in ran.err
    assert "cat.mp4" in ran.err


async def test_nothing_is_spent_without_a_yes(world: Sandbox, tmp_path: Path) -> None:
    """Where nobody can be asked, the price is shown and nothing is sent."""
    ran = await happyhorse("generate", LINK, "--duration", "10", cwd=tmp_path, world=world)
    assert ran.code == 3
    assert "76.16 credits (1.12 USD)" in ran.err
    assert "--yes" in ran.err
    assert world.paid == 0


async def test_ctrl_c_at_the_question_ends_it_at_once(world: Sandbox, tmp_path: Path) -> None:
    """On a terminal the price is asked about; one Ctrl-C there is exit code 130, and nothing was
    sent.
    """
    terminal, other_end = os.openpty()
    process = await start("generate", LINK, cwd=tmp_path, world=world, stdin=other_end)
    os.close(other_end)
    assert process.stderr is not None
    async with asyncio.timeout(100):
        await process.stderr.readuntil(b"[y/N]")
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    os.close(terminal)
    assert (process.returncode, out, err.endswith(b"interrupted\n"), world.paid) == (
        130,
        b"",
        True,
        0,
    )


async def test_ctrl_c_says_how_to_fetch_what_is_paid(world: Sandbox, tmp_path: Path) -> None:
    """Exit code 130, and a line on stderr with the tasks that go on; with --json stdout stays free
    of it.
    """
    world.speed = 0
    process = await start("generate", LINK, "--yes", "--json", cwd=tmp_path, world=world)
    async with asyncio.timeout(100):
        # It reads the task that it has paid.
        while not world.count("GET") and not world.count("POST", "/v1/tasks/batch"):
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    line = f"happyhorse tasks download {world.tasks[0].id} --out videos/cat.mp4"
    assert line in err.decode()


async def test_a_cap_on_credits_holds(world: Sandbox, tmp_path: Path) -> None:
    """--max-credits refuses what does not fit, before it is paid."""
    ran = await happyhorse(
        "generate", LINK, LINK, "--yes", "--max-credits", "50", "--json", cwd=tmp_path, world=world
    )
    assert ran.code == 3
    assert [line["ok"] for line in ran.lines()].count(True) == 1
    assert world.paid == 1


async def test_all_problems_are_listed_before_anything_is_paid(
    world: Sandbox, tmp_path: Path
) -> None:
    """Every wrong image and field is named, and none of the good ones is submitted either."""
    (tmp_path / "bad.gif").write_bytes(b"GIF89a......")
    ran = await happyhorse(
        "generate",
        PHOTOS / "cat.jpg",
        "bad.gif",
        "none.png",
        "--duration",
        "2",
        "--yes",
        cwd=tmp_path,
        world=world,
    )
    assert ran.code == 2
    assert ran.err.count("duration: expected whole seconds from 3 to 15, got 2") == 3
    assert "bad.gif: image: expected a JPEG, PNG or WEBP file, got GIF" in ran.err
    assert "none.png: image:" in ran.err
    assert world.requests == []


async def test_a_file_that_is_there_is_kept(world: Sandbox, tmp_path: Path) -> None:
    """An existing video is not overwritten, and nothing is paid to find that out; --overwrite says
    otherwise.
    """
    (tmp_path / "cat.mp4").write_text("precious")
    ran = await happyhorse("generate", LINK, "--out", ".", "--yes", cwd=tmp_path, world=world)
    assert (ran.code, world.paid) == (2, 0)
    assert "--overwrite" in ran.err
    ran = await happyhorse(
        "generate", LINK, "--out", ".", "--yes", "--overwrite", cwd=tmp_path, world=world
    )
    assert ran.code == 0, ran.err
    assert (tmp_path / "cat.mp4").read_bytes()[4:8] == b"ftyp"


async def test_without_a_key_the_way_out_is_named(tmp_path: Path) -> None:
    """The variable, where to get a key, and --sandbox."""
    ran = await happyhorse("generate", LINK, cwd=tmp_path)
    assert ran.code == 2
    for text in ("EVOLINK_API_KEY", "evolink.ai", "--sandbox"):
        assert text in ran.err


async def test_a_refusal_has_its_exit_code_and_its_facts(world: Sandbox, tmp_path: Path) -> None:
    """A wrong key is exit code 5, with the request id for the support and the next step."""
    world.fail(
        Fault(
            "refuse",
            path="/v1/videos*",
            status=402,
            body={"error": {"code": "insufficient_quota", "message": "no credits"}},
        )
    )
    ran = await happyhorse("generate", LINK, "--yes", "--json", cwd=tmp_path, world=world)
    assert ran.code == 5
    (line,) = ran.lines()
    error = line["error"]
    assert isinstance(error, dict)
    assert (error["type"], error["charged"], error["code"]) == (
        "InsufficientCreditsError",
        "no",
        "insufficient_quota",
    )
    assert "next:" in ran.err


async def test_the_sandbox_option_needs_no_key(tmp_path: Path) -> None:
    """With --sandbox, generate starts the service itself and asks nothing."""
    ran = await happyhorse(
        "generate",
        PHOTOS / "cat.jpg",
        "--sandbox",
        "--speed",
        "2000",
        "--duration",
        "3",
        "--json",
        cwd=tmp_path,
    )
    assert ran.code == 0, ran.err
    assert (tmp_path / "videos" / "cat.mp4").exists()


async def test_tasks_are_shown_listed_watched_and_downloaded(
    world: Sandbox, tmp_path: Path
) -> None:
    """Everything that one can do with the id of a task that another process submitted."""
    async with open_session(world) as session:
        task_id = (await session.submit(LINK)).id
        await session.task(task_id).wait()
    got = await happyhorse("tasks", "get", task_id, cwd=tmp_path, world=world)
    assert (got.code, got.out.split()[:2]) == (0, [task_id, "completed"])
    listed = await happyhorse("tasks", "list", "--json", cwd=tmp_path, world=world)
    assert [line["id"] for line in listed.lines()] == [task_id]
    watched = await happyhorse("tasks", "watch", task_id, "--json", cwd=tmp_path, world=world)
    assert (watched.code, watched.lines()[-1]["status"]) == (0, "completed")
    saved = await happyhorse(
        "tasks", "download", task_id, "--out", "got", cwd=tmp_path, world=world
    )
    assert (saved.code, saved.out.strip()) == (0, f"got/{task_id}.mp4")
    assert (tmp_path / "got" / f"{task_id}.mp4").exists()
    unknown = await happyhorse(
        "tasks", "get", "task-unified-1-x", "--json", cwd=tmp_path, world=world
    )
    assert unknown.code == 5


async def test_every_video_of_a_task_is_saved(world: Sandbox, tmp_path: Path) -> None:
    """A task with two results gives two files and lines, from generate and tasks download."""
    async with open_session(world) as session:
        task_id = (await session.submit(LINK)).id
        [link] = (await session.task(task_id).wait()).results
        links = [link, f"{link}#2"]
    world.fail(
        Fault(
            "unknown-fields",
            path="/v1/tasks",
            times=None,
            fields={"results": links, "result_data": []},
        )
    )
    saved = await happyhorse(
        "tasks", "download", task_id, "--out", "got", cwd=tmp_path, world=world
    )
    assert (saved.code, saved.out.split()) == (0, [f"got/{task_id}.mp4", f"got/{task_id}-2.mp4"]), (
        saved.err
    )
    made = await happyhorse("generate", LINK, "--yes", "--json", cwd=tmp_path, world=world)
    assert (made.code, [line["file"] for line in made.lines()]) == (
        0,
        ["videos/cat.mp4", "videos/cat-2.mp4"],
    ), made.err
    shown = await happyhorse("generate", LINK, "--yes", "--overwrite", cwd=tmp_path, world=world)
    assert "2 videos in" in shown.err
    assert "cat-2.mp4" in shown.err


async def test_what_was_cut_off_is_finished(world: Sandbox, tmp_path: Path) -> None:
    """`download --resume` finds the part file of an interrupted download and fetches what is
    missing.
    """
    async with open_session(world) as session:
        task_id = (await session.submit(LINK)).id
        await session.task(task_id).wait()
    world.fail(Fault("truncate", fraction=0.5, times=None))
    cut = await happyhorse("tasks", "download", task_id, "--out", "got", cwd=tmp_path, world=world)
    assert cut.code == 1
    assert not list((tmp_path / "got").glob("*.mp4"))
    world.clear_faults()
    resumed = await happyhorse("download", "got", "--resume", "--json", cwd=tmp_path, world=world)
    assert resumed.code == 0, resumed.err
    assert (tmp_path / "got" / f"{task_id}.mp4").exists()
    nothing = await happyhorse("download", "got", "--resume", cwd=tmp_path, world=world)
    assert (nothing.code, "nothing is left" in nothing.err) == (0, True)
    assert (await happyhorse("download", "got", cwd=tmp_path, world=world)).code == 2


async def test_a_folder_may_have_a_dot_and_a_file_none(world: Sandbox, tmp_path: Path) -> None:
    """--out is always a folder, and what is left is finished under its own name, also without a
    suffix or with braces.
    """
    async with open_session(world, retry=RetryPolicy(attempts=1)) as session:
        ids = [(await session.submit(LINK, prompt=prompt)).id for prompt in ("one", "two")]
        for task_id in ids:
            await session.task(task_id).wait()
        world.fail(Fault("truncate", fraction=0.5, times=None))
        for name in ("cat", "{{cat}}.mp4"):
            with pytest.raises(IncompleteDownloadError):
                await session.task(ids[0]).download(f"{tmp_path}/left/{name}")
        world.clear_faults()
    saved = await happyhorse(
        "tasks", "download", *ids, "--out", "of.may", cwd=tmp_path, world=world
    )
    assert saved.code == 0, saved.err
    assert sorted(path.name for path in (tmp_path / "of.may").iterdir()) == sorted(
        f"{task_id}.mp4" for task_id in ids
    )
    resumed = await happyhorse("download", "left", "--resume", cwd=tmp_path, world=world)
    assert resumed.code == 0, resumed.err
    assert sorted(path.name for path in (tmp_path / "left").iterdir() if path.is_file()) == [
        "cat",
        "{cat}.mp4",
    ]


async def test_braces_of_folders_and_images_are_no_template(world: Sandbox, tmp_path: Path) -> None:
    """`generate` and `tasks download` save where they were told, also where a folder or an image
    has braces in its name, and what else a name may hold.
    """
    image = tmp_path / "{id}.jpg"
    shutil.copy(PHOTOS / "cat.jpg", image)
    out = Path("{night}: a")
    made = await happyhorse(
        "generate", image.name, "--out", out, "--yes", "--json", cwd=tmp_path, world=world
    )
    assert (made.code, made.err) == (0, "")
    [line] = made.lines()
    assert (tmp_path / out / "{id}.mp4").is_file()
    got = await happyhorse(
        "tasks", "download", line["task_id"], "-o", out, cwd=tmp_path, world=world
    )
    assert (got.code, got.out.strip()) == (0, f"{out}/{line['task_id']}.mp4"), got.err
    assert [path.name for path in tmp_path.iterdir() if "night" in path.name] == [str(out)]


async def test_a_price_needs_no_key(tmp_path: Path, world: Sandbox) -> None:
    """`estimate` works without a key, and says by which price."""
    urls = {name: url for name, url in world.env().items() if "URL" in name}
    ran = await happyhorse("estimate", cwd=tmp_path, **urls)
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "38.08 credits (0.56 USD) for 1 x 5 s at 720p",
        "by the service's public pricing rule, of 2026-10-10",
    ]


async def test_money_and_files(world: Sandbox, tmp_path: Path) -> None:
    """estimate, credits and upload print for people and for scripts."""
    price = await happyhorse(
        "estimate", "100", "--duration", "10", "--quality", "1080p", cwd=tmp_path, world=world
    )
    assert (price.code, price.out.splitlines()[0]) == (
        0,
        "13,099.52 credits (192.64 USD) for 100 x 10 s at 1080p",
    )
    assert (await happyhorse("estimate", "--json", cwd=tmp_path, world=world)).lines()[0][
        "credits"
    ] == "38.08"
    left = await happyhorse("credits", cwd=tmp_path, world=world)
    assert left.out.startswith("account: 1,000,000 credits left")
    told = (await happyhorse("credits", "--json", cwd=tmp_path, world=world)).lines()[0]
    assert (type(told["spendable"]), float(told["spendable"])) == (str, 1_000_000)
    file = await happyhorse("upload", PHOTOS / "cat.jpg", cwd=tmp_path, world=world)
    assert (file.code, file.out.startswith(world.files_url)) == (0, True)
    mixed = await happyhorse("upload", "none.png", PHOTOS / "cat.jpg", cwd=tmp_path, world=world)
    assert (mixed.code, mixed.out.startswith("http"), "none.png: image" in mixed.err) == (
        1,
        True,
        True,
    )
    wrong = await happyhorse("upload", "none.png", cwd=tmp_path, world=world)
    assert wrong.code == 2


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_sandbox_command_runs_every_scenario_until_ctrl_c(
    tmp_path: Path, name: str
) -> None:
    """Its faults are there, stdout has what to export, and Ctrl-C is a clean end."""
    process = await start(
        "sandbox", "--port", "0", "--files-port", "0", "--scenario", name, cwd=tmp_path
    )
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode().strip() for _ in range(5)]
    exports = dict(line.removeprefix("export ").split("=") for line in lines[:3])
    async with (
        aiohttp.ClientSession() as http,
        http.get(exports["EVOLINK_BASE_URL"] + "/sandbox/state") as answer,
    ):
        faults = (await answer.json())["faults"]
    assert [fault["action"] for fault in faults] == [
        fault.action for fault in scenario_faults(name)
    ]
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert all(line.startswith("#") for line in lines[3:])


async def test_an_unknown_scenario_is_exit_code_2(tmp_path: Path) -> None:
    """The message names those that there are."""
    ran = await happyhorse(
        "sandbox", "--port", "0", "--files-port", "0", "--scenario", "earthquake", cwd=tmp_path
    )
    assert (ran.code, ran.out, "there are 429-storm, " in ran.err) == (2, "", True)


async def test_wrong_usage_is_exit_code_2(tmp_path: Path) -> None:
    """An unknown option is explained."""
    assert (await happyhorse("generate", "--colour", cwd=tmp_path)).code == 2


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        (Exit.DONE, []),
        (Exit.DONE, [Exit.DONE, Exit.DONE]),
        (Exit.SERVICE, [Exit.DONE, Exit.SERVICE, Exit.SERVICE]),
        (Exit.NOT_WANTED, [Exit.NOT_WANTED, Exit.DONE]),
        (Exit.WRONG_INPUT, [Exit.WRONG_INPUT, Exit.WRONG_INPUT]),
        (Exit.FAILED, [Exit.WRONG_INPUT, Exit.DONE]),
        (Exit.FAILED, [Exit.SERVICE, Exit.NOT_WANTED]),
        (Exit.OUTCOME_UNKNOWN, [Exit.SERVICE, Exit.OUTCOME_UNKNOWN, Exit.DONE]),
    ],
)
def test_the_exit_code_of_several(code: Exit, parts: list[Exit]) -> None:
    """Doubt about money comes first, failures of one kind give their code, and a mixture, or wrong
    input beside what was sent, is 1.
    """
    assert overall(parts) == code
    assert overall(reversed(parts)) == code


async def test_images_that_fail_in_several_ways(world: Sandbox, tmp_path: Path) -> None:
    """Refused for credits and for the key: 1; the same refusals with one submission of unknown
    fate: 4.
    """
    broke = {"error": {"code": "insufficient_quota", "message": "no credits"}}
    world.fail(Fault("refuse", path="/v1/videos*", status=402, body=broke))
    world.fail(Fault("fail-task", times=None))
    ran = await happyhorse("generate", LINK, LINK, "--yes", "--json", cwd=tmp_path, world=world)
    errors = [line["error"] for line in ran.lines()]
    assert sorted(error["type"] for error in errors if isinstance(error, dict)) == [
        "InsufficientCreditsError",
        "TaskFailedError",
    ]
    assert ran.code == 1
    world.fail(Fault("answer-after", path="/v1/videos*", status=200, body={}, times=None, after=1))
    world.fail(Fault("refuse", path="/v1/videos*", status=402, body=broke))
    world.fail(Fault("refuse", method="GET", path="/v1/tasks*", status=404, times=None))
    ran = await happyhorse("generate", LINK, LINK, "--yes", "--json", cwd=tmp_path, world=world)
    errors = [line["error"] for line in ran.lines()]
    kinds = {error["type"] for error in errors if isinstance(error, dict)}
    assert kinds == {"InsufficientCreditsError", "SubmissionOutcomeUnknownError"}
    assert ran.code == 4


async def test_tasks_get_of_one_that_is_there_and_one_that_is_not(
    world: Sandbox, tmp_path: Path
) -> None:
    """The failure counts, wherever it stands in the line."""
    async with open_session(world) as session:
        task_id = (await session.submit(LINK)).id
    for ids in ((task_id, "task-unified-1-x"), ("task-unified-1-x", task_id)):
        assert (await happyhorse("tasks", "get", *ids, cwd=tmp_path, world=world)).code == 5


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_watching_a_task_that_ends_without_a_video_and_without_a_reason(
    world: Sandbox, tmp_path: Path, status: str
) -> None:
    """Its status alone says that it failed: exit code 1, also beside a task that was completed."""
    async with open_session(world) as session:
        done = (await session.submit(LINK)).id
        await session.task(done).wait()
        world.speed = 0
        ended = (await session.submit(LINK)).id
    world.end(ended, status)
    world.fail(Fault("unknown-fields", path="/v1/tasks", times=None, fields={"error": None}))
    ran = await happyhorse("tasks", "watch", ended, done, "--json", cwd=tmp_path, world=world)
    assert {(line["id"], line["status"], line["error"]) for line in ran.lines()} == {
        (ended, status, None),
        (done, "completed", None),
    }
    assert ran.code == 1


async def test_watching_goes_on_beside_tasks_that_are_unknown(
    world: Sandbox, tmp_path: Path
) -> None:
    """Each id that the service does not know, or that is none, is told as soon as that is certain.
    The others are followed to their ends, and the exit code says that not all was well.
    """
    world.speed = 0
    async with open_session(world) as session:
        task_id = (await session.submit(LINK)).id
    strangers = ["task-unified-1-x", "no id", "task-unified-2-x"]
    command = await start("tasks", "watch", *strangers, task_id, cwd=tmp_path, world=world)
    assert command.stderr is not None
    told = b""
    while not all(name.encode() in told for name in strangers):
        told += await command.stderr.readline()
    assert command.returncode is None
    world.finish(task_id)
    out, _ = await command.communicate()
    assert (command.returncode, b"completed" in out) == (1, True)


@pytest.mark.parametrize("out", ["taken", "taken/videos"])
@pytest.mark.parametrize(
    "command",
    [
        ("generate", LINK, "--yes"),
        ("batch", "run", "photos", "--yes"),
        ("demo",),
        ("tasks", "download", "task-unified-1-x"),
    ],
    ids=" ".join,
)
async def test_a_file_in_the_place_of_the_folder(
    world: Sandbox, tmp_path: Path, command: tuple[str, ...], out: str
) -> None:
    """--out that is a file, or in one, is wrong input in one sentence: the file is kept, and
    nothing has been sent.
    """
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes((PHOTOS / "cat.jpg").read_bytes())
    (tmp_path / "taken").write_text("precious")
    ran = await happyhorse(*command, "--out", out, cwd=tmp_path, world=world)
    assert (ran.code, ran.out, world.requests) == (2, "", []), ran.err
    first, *others = ran.err.splitlines()
    assert first.startswith(f"error: --out: a video in {out} cannot be saved: ")
    assert first.endswith("taken is not a folder")
    assert others == ["  next: Choose another folder with --out."]
    assert (tmp_path / "taken").read_text() == "precious"


async def test_ctrl_c_promises_nothing_of_a_sandbox_that_ends_with_it(tmp_path: Path) -> None:
    """The tasks of --sandbox are gone with the process, so there is no word of fetching their
    videos.
    """
    process = await start("generate", LINK, "--sandbox", "--speed", "0.001", cwd=tmp_path)
    assert process.stderr is not None
    async with asyncio.timeout(100):
        await process.stderr.readuntil(b"accepted as task-unified-")
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out, err.endswith(b"interrupted\n")) == (130, b"", True), err
    assert b"download" not in err
    assert b"paid" not in err


def test_ctrl_c_while_a_command_that_was_stopped_comes_to_its_end() -> None:
    """A command that is being cancelled already ends with exit code 130 and without a traceback
    too.
    """

    async def work() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.Event().wait()
        finally:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        return Exit.DONE

    with pytest.raises(typer.Exit) as ended:
        run(work)
    assert ended.value.exit_code == 130
