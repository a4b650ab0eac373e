"""Every example runs against the sandbox as a user would run it, and uses the public API only."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import PHOTOS

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
PUBLIC = {
    "happyhorse_async",
    "happyhorse_async.webhooks",
    "happyhorse_async.integrations.aiohttp",
    "happyhorse_async.sandbox",
}
CAT = str(PHOTOS / "cat.jpg")


@pytest.fixture
async def lively(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """A sandbox whose tasks take about a second."""
    async with Sandbox(video="stub", task_seconds=60, speed=60) as sandbox:
        yield sandbox


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def run(sandbox: Sandbox, folder: Path, script: str, *arguments: str) -> tuple[int, str]:
    """Run an example and give its exit code and output."""
    env = {
        **os.environ,
        **sandbox.env(),
        "PYTHONPATH": str(ROOT),
        "VIDEOS": str(folder / "out"),
        "IMAGE": CAT,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error::ResourceWarning",
        str(EXAMPLES / script),
        *arguments,
        cwd=folder,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_notebook_runs_from_top_to_bottom(lively: Sandbox, tmp_path: Path) -> None:
    """Four tasks are paid for, one video is saved."""
    code, output = await run(lively, tmp_path, "notebook.py")
    assert code == 0, output
    assert "3 variations" in output
    assert (tmp_path / "out" / "first.mp4").exists()
    assert lively.paid == 4


async def test_the_bulk_script_goes_on_where_it_stopped(lively: Sandbox, tmp_path: Path) -> None:
    """The second run of the same line pays nothing and says the same."""
    images = tmp_path / "images"
    images.mkdir()
    photos = [path for path in sorted(PHOTOS.iterdir()) if path.suffix == ".jpg"][:3]
    for path in photos:
        (images / path.name).write_bytes(path.read_bytes())
    first = await run(lively, tmp_path, "bulk.py", "images", "videos")
    paid = lively.paid
    second = await run(lively, tmp_path, "bulk.py", "images", "videos")
    assert (first[0], second[0]) == (0, 0), first[1] + second[1]
    assert paid == lively.paid == len(photos)
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == len(photos)


async def test_the_aiohttp_service_is_called_back(lively: Sandbox, tmp_path: Path) -> None:
    """The service answers with the video, and the sandbox's callback was taken."""
    code, output = await run(
        lively, tmp_path, "aiohttp_callbacks.py", "--port", str(free_port()), "--once", CAT
    )
    assert code == 0, output
    assert "200 video/mp4" in output


async def test_the_fastapi_app_makes_a_video_through_its_own_interface(
    lively: Sandbox, tmp_path: Path
) -> None:
    """Posting, following the events and fetching the video work over HTTP, whatever else lies
    among the jobs.
    """
    broken = {"empty": "", "newer": '{"id": "a", "prompt": "", "more": 1}', "none": "[]"}
    (tmp_path / "out").mkdir()
    for name, text in broken.items():
        (tmp_path / "out" / f"{name}.json").write_text(text)
    code, output = await run(lively, tmp_path, "fastapi_app.py", "--port", "0", "--once", CAT)
    assert code == 0, output
    assert "saved 100" in output
    assert "bytes of video" in output


async def test_the_fastapi_app_gives_a_refused_key_up(lively: Sandbox, tmp_path: Path) -> None:
    """A key that may not use the model is no disk that was full: trying again would never end."""
    body = {"error": {"code": "model_access_denied", "message": "not yours"}}
    lively.fail(Fault("refuse", path="/v1/videos/generations", status=403, body=body))
    code, output = await run(lively, tmp_path, "fastapi_app.py", "--port", "0", "--once", CAT)
    assert code == 1, output
    assert "not yours" in output
    assert "trying again" not in output
    assert lively.paid == 0


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_use_the_public_api_only(path: Path) -> None:
    """What users copy must not reach into the package."""
    tree = ast.parse(path.read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module for module in modules if module.startswith("happyhorse_async")} <= PUBLIC
    private = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_")
    ]
    assert [
        node.attr
        for node in private
        if not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ] == []


async def test_a_foreign_page_buys_nothing_from_the_fastapi_app() -> None:
    """A page that a user merely looks at, and a name that is pointed at this machine, get 403."""
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLES / "fastapi_app.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    transport = httpx.ASGITransport(app=example.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        evil = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert (await client.post("/videos", headers=evil, content=b"x")).status_code == 403
        rebound = {"Host": "evil.example:8000"}
        assert (await client.get("/videos", headers=rebound)).status_code == 403
        assert (await client.get("/")).status_code == 200
