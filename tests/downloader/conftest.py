"""What the tests of downloads share: finished tasks in the sandbox, and a downloader without the
rest of a session.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from happyhorse_async import ImageToVideo, Limits, RetryPolicy, Task, Timeouts
from happyhorse_async._dispatcher import Events
from happyhorse_async._downloader import Downloader
from happyhorse_async._edges.api import Api
from happyhorse_async._edges.fetch import Fetcher
from happyhorse_async._edges.http import Http, TrackedBody
from happyhorse_async._rules import wire
from happyhorse_async.events import Event
from happyhorse_async.sandbox import Sandbox

QUICK = RetryPolicy(first_pause=0.001, longest_pause=0.002)
LINK = "https://cdn.example.com/cat.png"


class Kit:
    """A downloader wired to a sandbox, and what it needs."""

    def __init__(self, sandbox: Sandbox, **settings: Any) -> None:
        self.sandbox = sandbox
        self.limits = settings.pop("limits", Limits())
        self.timeouts = settings.pop("timeouts", Timeouts())
        self.policy = settings.pop("policy", QUICK)
        self.patience = settings.pop("patience", 0.01)
        self.unfinished = settings.pop("unfinished", lambda _: None)
        self.events = Events()
        self.heard: list[Event] = []
        self.events.subscribe(self.heard.append)
        self.http = Http(
            key=sandbox.key,
            base_url=sandbox.url,
            files_url=sandbox.files_url,
            connect_timeout=10.0,
            max_connections=20,
        )
        self.api = Api(self.http, timeouts=self.timeouts, policy=self.policy, events=self.events)
        self.fetcher = Fetcher(timeouts=self.timeouts, allow_loopback=True, **settings)
        self.downloader = Downloader(
            self.api,
            self.fetcher,
            limits=self.limits,
            policy=self.policy,
            patience=self.patience,
            events=self.events,
            unfinished=self.unfinished,
        )

    async def task(self, number: int = 0, **fields: Any) -> Task:
        """Submit a task, let it end, and read it."""
        request = ImageToVideo(LINK, prompt=f"number {number}", **fields)
        body = TrackedBody(wire.encode_submission(request, LINK), content_type="application/json")
        answer = await self.api.submit_once(body, f"key-for-a-test-{number:06}")
        task_id = wire.decode_task(answer).id
        self.sandbox.finish(task_id)
        return await self.api.read_task(task_id)

    def fetches(self) -> list[Any]:
        """The requests for result links so far."""
        return [
            request for request in self.sandbox.requests if request.path.startswith("/results/")
        ]

    async def aclose(self) -> None:
        """Close all."""
        self.downloader.close()
        await self.fetcher.aclose()
        await self.http.aclose()

    async def __aenter__(self) -> Kit:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def check(kit: Kit, to: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Ask for a place as a caller does who is about to pay, and let it go again."""
    async with kit.downloader.reserved(to, ImageToVideo(LINK), overwrite=overwrite):
        pass


@asynccontextmanager
async def host_of(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    """Run a file host of a test's own; give its address."""
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service, with videos of 300 kB or so, and time standing still."""
    async with Sandbox(video="stub", speed=0, stub_bytes=300_000) as sandbox:
        yield sandbox


@pytest.fixture
async def kit(sandbox: Sandbox) -> AsyncIterator[Kit]:
    """A downloader wired to the sandbox."""
    async with Kit(sandbox) as kit:
        yield kit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where videos go."""
    return tmp_path / "videos"


def names_in(folder: Path) -> list[str]:
    """List what lies in a folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
