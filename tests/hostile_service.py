"""A service whose every word about money a test decides: one that lies, errs, and settles late."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

MODEL = "happyhorse-1.0-image-to-video"


class HostileService:
    """Accepts submissions and tells of tasks; `view` says what a task shows of itself.

    `name` gives a task's id by its number. `view` takes a task's number, from 1, and how often the
    task was read since it ended; it returns the fields that are laid over the task. A task ends
    with its first read. `accepted` is laid over the answers to submissions.
    """

    def __init__(
        self,
        view: Callable[[int, int], dict[str, Any]],
        *,
        replayed: Callable[[int], bool] = lambda _: False,
        accepted: Mapping[str, Any] | None = None,
        name: Callable[[int], str | int] = "task-unified-{}".format,
    ) -> None:
        self._view = view
        self._replayed = replayed
        self._accepted = accepted or {}
        self._name = name
        self.reads: dict[str, int] = {}
        """How often each task was read."""
        self.url = ""
        app = web.Application()
        app.router.add_post("/v1/videos/generations", self._submit)
        app.router.add_post("/v1/tasks/batch", self._many)
        app.router.add_get("/v1/tasks/{task_id}", self._one)
        self._runner = web.AppRunner(app)

    @property
    def paid(self) -> int:
        """Tasks that were accepted."""
        return len(self.reads)

    @property
    def unfinished(self) -> int:
        """Tasks that nobody has read yet."""
        return sum(not reads for reads in self.reads.values())

    async def __aenter__(self) -> HostileService:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _submit(self, request: web.Request) -> web.Response:
        number = self.paid + 1
        task_id = self._name(number)
        self.reads[str(task_id)] = 0
        headers = {"idempotency-replayed": "true"} if self._replayed(number) else {}
        task = {"id": task_id, "model": MODEL, "status": "pending", "progress": 0}
        return web.json_response({**task, **self._accepted}, headers=headers)

    def _read(self, task_id: str) -> dict[str, Any]:
        self.reads[task_id] += 1
        number = int(task_id.rpartition("-")[2])
        return {
            "id": self._name(number),
            "model": MODEL,
            "status": "completed",
            "progress": 100,
            "results": [f"{self.url}/{number}.mp4"],
            **self._view(number, self.reads[task_id]),
        }

    async def _one(self, request: web.Request) -> web.Response:
        return web.json_response(self._read(request.match_info["task_id"]))

    async def _many(self, request: web.Request) -> web.Response:
        asked = json.loads(await request.read())["task_ids"]
        return web.json_response({"data": [self._read(task_id) for task_id in asked]})
