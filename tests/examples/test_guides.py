"""The README and the guides run, as they stand there.

Of each page in `PAGES`, the blocks of Python and shell are taken:

- a Python block that calls `asyncio.run(` is a program. It runs in a folder of its own with a
  `cat.jpg`, three photographs in `photos/` and a table `photos.csv`, with the environment of a
  sandbox, and with warnings as errors;
- a Python block with `def test_` is a test of a user's project. It runs under pytest with nothing
  but the package;
- a shell block below a line `<!-- runs -->` runs in such a folder too, with the installed command
  on the PATH;
- any other Python block must compile.

A block below `<!-- hosts: NAME -->` belongs to the tests of that framework
(tests/examples/test_hosts.py).
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from importlib.metadata import entry_points
from pathlib import Path

import attrs
import pytest

from happyhorse_async.sandbox import Sandbox
from tests.conftest import PHOTOS, open_session

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / ".github" / "llms.txt",
    *sorted((ROOT / "examples" / "guides").glob("*.md")),
]
PLUGIN = "happyhorse_async.pytest_plugin"
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<language>python|sh)\n(?P<text>.*?)```", re.DOTALL
)


@attrs.frozen
class Block:
    """A piece of code of a page."""

    page: str
    number: int
    language: str
    mark: str
    text: str

    @property
    def kind(self) -> str:
        """Return how it is run."""
        if self.mark.startswith("hosts:"):
            return "host"
        if self.language == "sh":
            return "command" if self.mark == "runs" else "shown"
        if "def test_" in self.text:
            return "test"
        return "program" if "asyncio.run(" in self.text else "piece"

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


BLOCKS = [
    Block(page.name, number, found["language"], found["mark"] or "", found["text"])
    for page in PAGES
    for number, found in enumerate(BLOCK.finditer(page.read_text("utf-8")), 1)
]


def blocks(kind: str) -> list[Block]:
    """Return the blocks that are run in one way."""
    return [block for block in BLOCKS if block.kind == kind]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what the pages speak of."""
    shutil.copy(PHOTOS / "cat.jpg", tmp_path)
    (tmp_path / "photos").mkdir()
    for photo in PHOTOS.glob("*.jpg"):
        shutil.copy(photo, tmp_path / "photos")
    rows = "".join(
        f"photos/{photo.name},{photo.stem} in the wind\n" for photo in sorted(PHOTOS.glob("*.jpg"))
    )
    (tmp_path / "photos.csv").write_text(f"image,prompt\n{rows}")
    return tmp_path


async def run(*command: str, place: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a command in a folder; return its exit code and what it said."""
    scripts = str(Path(sys.executable).parent)
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{scripts}:{os.environ['PATH']}",
            **environment,
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize("block", blocks("program"), ids=str)
async def test_a_program_runs_and_runs_again(block: Block, place: Path) -> None:
    """Each program runs to its end against the sandbox, without a warning,
    and so it does the second time.
    """
    (place / "block.py").write_text(block.text)
    async with Sandbox(video="stub", task_seconds=0.2) as sandbox:
        arguments = []
        if "sys.argv" in block.text:
            async with open_session(sandbox) as session:
                arguments = [(await session.submit("https://cdn.example.com/a.png")).id]
        for _ in range(2):
            code, said = await run(
                sys.executable,
                "-W",
                "error",
                "block.py",
                *arguments,
                place=place,
                environment=sandbox.env(),
            )
            assert code == 0, said


async def test_the_first_block_of_the_readme_needs_nothing(tmp_path: Path) -> None:
    """Who copies it into an empty folder, without a key, gets a real video; and again the second
    time, beside the first.
    """
    first = next(block for block in BLOCKS if block.page == "README.md" and block.kind == "program")
    (tmp_path / "first.py").write_text(first.text)
    bare = {name: "" for name in os.environ if name.startswith("EVOLINK_")}
    for count in (1, 2):
        code, said = await run(
            sys.executable, "-W", "error", "first.py", place=tmp_path, environment=bare
        )
        assert code == 0, said
        assert "seconds" in said
        assert len(list((tmp_path / "videos").glob("*.mp4"))) == count


@pytest.mark.parametrize("block", blocks("command"), ids=str)
async def test_commands_run(block: Block, place: Path) -> None:
    """Each command of a marked block succeeds against the sandbox."""
    async with Sandbox(video="stub", task_seconds=0.2) as sandbox:
        code, said = await run(
            "bash", "-euo", "pipefail", "-c", block.text, place=place, environment=sandbox.env()
        )
    assert code == 0, said


async def test_the_tests_pass_in_a_users_project(tmp_path: Path) -> None:
    """The tests that the pages show run with the fixtures that installing the package gives."""
    shown = blocks("test")
    for block in shown:
        (
            tmp_path / f"test_{block.page.partition('.')[0].replace('-', '_')}_{block.number}.py"
        ).write_text(block.text)
    installed = any(entry.value == PLUGIN for entry in entry_points(group="pytest11"))
    code, said = await run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *(() if installed else ("-p", PLUGIN)),
        place=tmp_path,
        environment={},
    )
    assert code == 0, said
    assert " passed" in said
    assert "failed" not in said


@pytest.mark.parametrize("block", blocks("piece"), ids=str)
def test_pieces_compile(block: Block) -> None:
    """What is not run is Python at least."""
    compile(block.text, str(block), "exec", flags=0x2000)  # top-level await is fine in a notebook


def test_the_search_finds_blocks() -> None:
    """The search for code finds programs, commands and tests."""
    assert len(blocks("program")) >= 4
    assert blocks("test")


def test_the_table_of_faults_is_the_measured_one() -> None:
    """The guide shows what the tests of faults found."""
    page = (ROOT / "examples" / "guides" / "money-and-failures.md").read_text("utf-8")
    shown = page.partition("<!-- faults:begin -->")[2].partition("<!-- faults:end -->")[0]
    assert shown.strip() == (ROOT / "tests" / "submitter" / "faults_table.md").read_text().strip()
