"""A client of the wire for the sandbox's own tests: plain HTTP, nothing of the SDK."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import attrs
import pytest
from PIL import Image

from happyhorse_async.sandbox import Sandbox

MODEL = "happyhorse-1.0-image-to-video"
IMAGE_URL = "https://cdn.example.com/cat.png"
AGENT = "happyhorse-tests/1.0"


@attrs.frozen
class Reply:
    """An answer that was read completely."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class Wire:
    """Calls a sandbox as a client of the service would."""

    def __init__(self, sandbox: Sandbox, http: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self._http = http

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None = "",
        headers: Mapping[str, str] | None = None,
        **body: Any,
    ) -> Reply:
        """Call a path of the API, or a whole URL; `key=None` sends none."""
        url = path if path.startswith("http") else self.sandbox.url + path
        sent = {"User-Agent": AGENT, **(headers or {})}
        if key is not None:
            sent["Authorization"] = f"Bearer {key or self.sandbox.key}"
        async with self._http.request(
            method, url, headers=sent, allow_redirects=False, **body
        ) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.call("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> Reply:
        return await self.call("POST", path, json=json, **options)

    async def files(self, method: str, path: str, **options: Any) -> Reply:
        """Call a path of the file service."""
        return await self.call(method, self.sandbox.files_url + path, **options)

    async def submit(
        self, *, key: str = "", idempotency_key: str | None = None, **fields: Any
    ) -> Reply:
        """Submit a request; a field that is `...` is left out."""
        body = {"model": MODEL, "image_urls": [IMAGE_URL], **fields}
        body = {name: value for name, value in body.items() if value is not ...}
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return await self.post("/v1/videos/generations", body, key=key, headers=headers)

    async def accepted(self, **fields: Any) -> str:
        """Submit a request that must be accepted, and return the task's id."""
        reply = await self.submit(**fields)
        assert reply.status == 200, reply.body
        return str(reply.json["id"])

    async def task(self, task_id: str) -> dict[str, Any]:
        """Query a task that must exist."""
        reply = await self.get(f"/v1/tasks/{task_id}")
        assert reply.status == 200, reply.body
        return dict(reply.json)

    async def completed(self, **fields: Any) -> str:
        """Submit a request, complete it, and return its result link."""
        task_id = await self.accepted(**fields)
        self.sandbox.finish(task_id)
        return str((await self.task(task_id))["results"][0])

    async def download(self, link: str, **headers: str) -> Reply:
        """Get a result link, without a key."""
        return await self.get(
            link,
            key=None,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    async def upload(self, data: bytes, *, filename: str = "cat.png", **fields: str) -> Reply:
        """Upload a file as a form."""
        form = aiohttp.FormData(fields)
        form.add_field("file", io.BytesIO(data), filename=filename)
        return await self.files("POST", "/api/v1/files/upload/stream", data=form)


@pytest.fixture
async def http(anyio_backend: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client session that opens a connection per call, so that a dropped one is seen and not
    tried again.
    """
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        yield http


@pytest.fixture
def wire(sandbox: Sandbox, http: aiohttp.ClientSession) -> Wire:
    """The wire of the standing sandbox."""
    return Wire(sandbox, http)


def picture(width: int = 640, height: int = 480, kind: str = "PNG") -> bytes:
    """Return a real image of this size."""
    file = io.BytesIO()
    gradient = Image.linear_gradient("L").resize((width, height))
    Image.merge("RGB", (gradient, gradient.rotate(180), gradient)).save(file, kind)
    return file.getvalue()
