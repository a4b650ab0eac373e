"""What type checkers know of the package, from a user's side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "api.py"


def checked(tool: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a checker of this environment in a folder of its own,
    away from this project's settings.
    """
    tools = Path(sys.prefix) / "bin"
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    }
    return subprocess.run(
        [tools / tool, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_mypy_strict_accepts_a_users_script_and_refuses_its_mistakes(tmp_path: Path) -> None:
    """Every line of the script is right, and each mistake in it needs its comment."""
    ran = checked("mypy", "--strict", "--config-file=", SCRIPT, cwd=tmp_path)
    assert ran.stdout.startswith("Success"), ran.stdout


def test_pyright_strict_accepts_a_users_script_and_refuses_its_mistakes(tmp_path: Path) -> None:
    """The same for pyright, which editors use."""
    settings = {
        "include": [str(SCRIPT.parent)],
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    ran = checked("pyright", SCRIPT, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout


def test_every_type_of_the_public_interface_is_known(tmp_path: Path) -> None:
    """`pyright --verifytypes` finds nothing that is unknown,
    or that checkers may see differently.
    """
    ran = checked(
        "pyright", "--verifytypes", "happyhorse_async", "--ignoreexternal", "--outputjson",
        cwd=tmp_path,
    )  # fmt: skip
    report = json.loads(ran.stdout)["typeCompleteness"]
    wrong = [
        f"{symbol['name']}: {told['message']}"
        for symbol in report["symbols"]
        for told in symbol["diagnostics"]
        if told["severity"] == "error"
    ]
    assert (wrong, report["completenessScore"]) == ([], 1)
