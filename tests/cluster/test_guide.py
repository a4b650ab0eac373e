"""The guide's commands run as they stand there, and the files beside it are what they say."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import sys
from asyncio import create_subprocess_exec, subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from happyhorse_async.cli._app import app
from happyhorse_async.sandbox import Sandbox
from tests.cluster.support import ROOT, Postgres
from tests.conftest import PHOTOS

GUIDE = ROOT / "examples" / "guides" / "several-machines.md"
EXAMPLES = ROOT / "examples" / "cluster"
BLOCK = re.compile(r"<!-- (cluster(?:: folder)?) -->\n```sh\n(.*?)```", re.DOTALL)


def blocks(mark: str) -> list[str]:
    """Return the guide's commands of one kind."""
    return [text for found, text in BLOCK.findall(GUIDE.read_text("utf-8")) if found == mark]


async def run(text: str, place: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run commands in a folder, with the installed command on the PATH; wait for all of them."""
    scripts = Path(sys.executable).parent
    process = await create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", f"{text}\nwait"),
        cwd=place,
        env={
            **os.environ,
            **environment,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{scripts}:{os.environ['PATH']}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.anyio
@pytest.mark.slow
async def test_the_guide_runs(
    anyio_backend: str, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    """Two workers on this machine make every video; status, report, limits and a folder follow."""
    (tmp_path / "photos").mkdir()
    photos = sorted(PHOTOS.glob("*.jpg"))
    for photo in photos:
        shutil.copy(photo, tmp_path / "photos")
    table = "".join(f"photos/{photo.name},{photo.stem}\n" for photo in photos)
    (tmp_path / "photos.csv").write_text(f"image,prompt\n{table}")
    async with Sandbox(video="stub", task_seconds=0.5, speed=1) as sandbox:
        environment = {**sandbox.env(), "HAPPYHORSE_DATABASE": database}
        for text in blocks("cluster"):
            code, said = await run(text, tmp_path, environment)
            assert code == 0, said
        assert len(photos) == sandbox.paid == len(list((tmp_path / "videos").glob("*.mp4")))
        assert (tmp_path / "videos" / "results.jsonl").exists()

        (tmp_path / "begun").mkdir()
        shutil.copytree(tmp_path / "photos", tmp_path / "begun" / "photos")
        environment["HAPPYHORSE_DATABASE"] = postgres.database()
        begin = "happyhorse batch run photos --out videos --yes --limit 2"
        for text in (begin, *blocks("cluster: folder")):
            code, said = await run(text, tmp_path / "begun", environment)
            assert code == 0, said


def words_of_a_worker(words: list[str]) -> None:
    """Check that words are a command line that `cluster work` takes."""
    assert words[1:3] == ["cluster", "work"]
    told = CliRunner().invoke(app, [*words[1:], "--help"])
    assert told.exit_code == 0, told.output


def test_the_systemd_unit_starts_a_worker_and_lets_it_drain() -> None:
    """Its command is one of this package, and it waits longer for the end than the worker
    drains.
    """
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(EXAMPLES / "happyhorse-worker@.service")
    service = unit["Service"]
    words = service["ExecStart"].split()
    words_of_a_worker(words)
    assert int(service["TimeoutStopSec"]) > float(words[words.index("--drain") + 1])


def test_the_kubernetes_manifest_starts_workers_and_lets_them_drain() -> None:
    """Its two documents are a deployment of workers and the volume that they share."""
    deployment, claim = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    words_of_a_worker(container["args"])
    drain = float(container["args"][container["args"].index("--drain") + 1])
    assert pod["terminationGracePeriodSeconds"] > drain
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_compose_file_starts_workers_and_lets_them_drain() -> None:
    """Its workers wait for their database, and are given more time to end than they drain."""
    services = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]
    words = services["worker"]["command"].split()
    words_of_a_worker(words)
    grace = services["worker"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > float(words[words.index("--drain") + 1])
    assert {"postgres"} == set(services["worker"]["depends_on"])
