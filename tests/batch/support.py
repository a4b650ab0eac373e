"""What the tests of batches share: inputs, and processes that are killed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from happyhorse_async import Session
from happyhorse_async.batch.report import write_reports
from happyhorse_async.sandbox import Sandbox
from tests.conftest import PHOTOS, QUICK_POLLING, QUICK_RETRY
from tests.forks import Process, python

ROOT = Path(__file__).parent.parent.parent


def write_manifest(folder: Path, *, links: int, files: int) -> Path:
    """Write a table of rows, each unlike the others, some with local images and some with a column
    of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photo = (PHOTOS / "cat.jpg").read_bytes()
    rows: list[dict[str, object]] = []
    for n in range(files):
        # Bytes behind the picture's end make each file another content, and harm no reader.
        (folder / f"frame{n}.jpg").write_bytes(photo + b"%d" % n)
        rows.append({"image": f"frame{n}.jpg", "seed": n + 1, "prompt": f"local {n}"})
    rows += [
        {"image": f"https://example.com/{n}.png", "seed": 10_000 + n, "duration": 3, "shelf": n % 7}
        for n in range(links)
    ]
    manifest = folder / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


class Worker:
    """One process that works on a batch."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, sandbox: Sandbox, folder: Path, manifest: Path, **environment: str
    ) -> Worker:
        """Start a process; give it back once its ledger is open."""
        process = await python(
            *("tests.batch.worker", folder, manifest),
            cwd=ROOT,
            env={**os.environ, **sandbox.env(), **environment},
            stderr=None,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"open\n"
        return cls(process)

    def kill(self) -> None:
        """Kill -9."""
        if self._process.returncode is None:
            self._process.kill()

    async def ended(self) -> str:
        """Wait for the end and give what it said."""
        assert self._process.stdout is not None
        said = (await self._process.stdout.read()).decode()
        await self._process.wait()
        return said


async def killed_after(
    worker: Worker, sandbox: Sandbox, *, method: str, path: str, count: int, delay: float
) -> bool:
    """Kill a worker shortly after its n-th request of a kind was decided; gives whether it was
    still alive.
    """
    loop, seen = asyncio.get_running_loop(), 0

    def watch(record: object) -> None:
        nonlocal seen
        if getattr(record, "method") == method and getattr(record, "path").startswith(path):  # noqa: B009
            seen += 1
            if seen == count:
                loop.call_later(delay, worker.kill) if delay else worker.kill()

    sandbox.watch_requests(watch)
    try:
        return not (await worker.ended()).endswith("done\n")
    finally:
        sandbox.watch_requests(None)


def results(
    folder: Path, *, leave_out: tuple[str, ...] = ("task_id", "seconds")
) -> list[dict[str, object]]:
    """Read a folder's report, without what cannot be equal in two runs.

    A task takes longer where the sandbox, in fast time, comes late to the look at its first frame.
    """
    write_reports(folder, ("jsonl",))
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in leave_out} for line in lines
    ]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so; between two looks the worker threads get their turn,
    which a bare spin takes from them.
    """
    while not condition():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def firewall(behind: str, refused: str) -> AsyncIterator[str]:
    """Run a server in front of another one, which refuses bodies with some text; give its URL."""
    page = web.Response
    async with aiohttp.ClientSession(auto_decompress=False) as client:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            if refused.encode() in body:
                return page(status=403, text="<html>Attention Required!</html>")
            headers = {
                name: value
                for name, value in request.headers.items()
                if name in ("Authorization", "Content-Type", "Idempotency-Key")
            }
            async with client.request(
                request.method, behind + request.path_qs, data=body, headers=headers
            ) as answer:
                return page(
                    status=answer.status,
                    body=await answer.read(),
                    headers={"Content-Type": answer.headers["Content-Type"]},
                )

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", pass_on)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


OWN, OTHER = "sk-one-aaaaaaaa", "sk-two-bbbbbbbb"
"""The keys of two customers of one service."""


def session_of(sandbox: Sandbox, key: str) -> Session:
    """Make a session of one of them."""
    return Session(
        key,
        base_url=sandbox.url,
        files_url=sandbox.files_url,
        polling=QUICK_POLLING,
        retry=QUICK_RETRY,
    )
