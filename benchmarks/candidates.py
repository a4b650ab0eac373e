"""Who is measured: ours, bare aiohttp doing the same HTTP work, and the peers that a user would
compare with.

Each is used as its documentation shows it. Its modules are imported when it is made: one that is
not installed raises `ImportError`.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from benchmarks.answers import NEVER, dumps, loads

KEY = "sk-benchmark-0123456789abcdef"
IMAGE = "https://cdn.example.com/images/cat-0123456789.png"
PROMPT = "The cat runs through tall grass towards the camera, low sun, shallow depth of field"
BODY = {
    "model": "happyhorse-1.0-image-to-video",
    "image_urls": [IMAGE],
    "prompt": PROMPT,
    "quality": "720p",
    "duration": 5,
}
IDS = [f"{NEVER}{number}" for number in range(50)]


def distinct(number: int) -> dict[str, Any]:
    """Make what a submission asks for, different from all others: so that no cache helps."""
    return {
        "image": f"https://cdn.example.com/images/cat-{number:012}.png",
        "prompt": f"{PROMPT}, take {number}",
        "duration": 3 + number % 13,
    }


def body_of(number: int) -> dict[str, Any]:
    """Make the body of such a submission."""
    wanted = distinct(number)
    return {
        "model": "happyhorse-1.0-image-to-video",
        "image_urls": [wanted["image"]],
        "prompt": wanted["prompt"],
        "quality": "720p",
        "duration": wanted["duration"],
    }


class Candidate(Protocol):
    """Someone who can be asked to do an operation; which ones, differs."""

    async def aclose(self) -> None:
        """Let go of connections."""


class Ours:
    """The session with its defaults."""

    def __init__(self, url: str) -> None:
        from happyhorse_async import ImageToVideo, Session

        self._request = ImageToVideo(IMAGE, prompt=PROMPT)
        self._session = Session(KEY, base_url=url)
        self._parts = self._session._open()
        self._values: dict[str, Any] = {}
        self._count = 0

    async def submit(self) -> None:
        """Submit."""
        await self._session.submit(self._request)

    async def submit_distinct(self) -> None:
        """Make a request that is different from all others, which checks itself, and submit it."""
        self._count += 1
        wanted = distinct(self._count)
        image = wanted.pop("image")
        await self._session.submit(image, **wanted)

    async def read(self) -> None:
        """Read one task."""
        await self._session.read(IDS[0])

    async def read_many(self) -> None:
        """Read fifty tasks as the poller does, which looks whether anything has changed."""
        from happyhorse_async._poller.watched import Watched

        poller = self._parts.poller
        asked = asyncio.get_running_loop().time()
        if not self._values:
            group = self._values["group"] = [Watched(task_id, asked, asked) for task_id in IDS]
            for watched in group:
                watched.add(asyncio.get_running_loop().create_future())
        watchlist = poller._watchlist
        watchlist._plan._reads.take(asked + 3600, len(IDS))  # as whoever begins a read does
        watchlist.take_in(
            self._values["group"], await watchlist._scheduler._reader.read(IDS), asked
        )

    async def read_many_values(self) -> None:
        """Read fifty tasks as fifty values."""
        from happyhorse_async._rules.wire import task_of

        for value in (await self._parts.api.read_raw_tasks_once(IDS)).values():
            task_of(value)

    async def aclose(self) -> None:
        """Close."""
        await self._session.aclose()


class Bare:
    """Bare aiohttp: one session with the key, the same bodies and headers, the answer as aiohttp
    reads it.
    """

    def __init__(self, url: str) -> None:
        import aiohttp

        self._url = url
        self._count = 0
        self._client = aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"})

    async def submit(self) -> None:
        """Submit."""
        url, headers = (
            f"{self._url}/v1/videos/generations",
            {"Idempotency-Key": secrets.token_hex(16)},
        )
        async with self._client.post(url, json=BODY, headers=headers) as response:
            response.raise_for_status()
            await response.json()

    async def submit_distinct(self) -> None:
        """Submit what is different from all others."""
        self._count += 1
        url, headers = (
            f"{self._url}/v1/videos/generations",
            {"Idempotency-Key": secrets.token_hex(16)},
        )
        async with self._client.post(url, json=body_of(self._count), headers=headers) as response:
            response.raise_for_status()
            await response.json()

    async def read(self) -> None:
        """Read one task."""
        async with self._client.get(f"{self._url}/v1/tasks/{IDS[0]}") as response:
            response.raise_for_status()
            await response.json()

    async def aclose(self) -> None:
        """Close."""
        await self._client.close()


class Lean:
    """Bare aiohttp in the hands of someone who counts microseconds: the body as bytes made once,
    orjson where it is installed.
    """

    def __init__(self, url: str) -> None:
        import aiohttp

        self._url = url
        self._body = json.dumps(BODY, separators=(",", ":")).encode()
        self._count = 0
        self._ids = json.dumps({"task_ids": IDS}, separators=(",", ":")).encode()
        self._client = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        )

    async def submit(self) -> None:
        """Submit."""
        url, headers = (
            f"{self._url}/v1/videos/generations",
            {"Idempotency-Key": secrets.token_hex(16)},
        )
        async with self._client.post(url, data=self._body, headers=headers) as response:
            loads(await response.read())

    async def submit_distinct(self) -> None:
        """Submit what is different from all others."""
        self._count += 1
        url, headers = (
            f"{self._url}/v1/videos/generations",
            {"Idempotency-Key": secrets.token_hex(16)},
        )
        body = dumps(body_of(self._count))
        async with self._client.post(url, data=body, headers=headers) as response:
            response.raise_for_status()
            loads(await response.read())

    async def read(self) -> None:
        """Read one task."""
        async with self._client.get(f"{self._url}/v1/tasks/{IDS[0]}") as response:
            loads(await response.read())

    async def read_many(self) -> None:
        """Read fifty tasks, and build nothing of them."""
        async with self._client.post(f"{self._url}/v1/tasks/batch", data=self._ids) as response:
            loads(await response.read())

    async def aclose(self) -> None:
        """Close."""
        await self._client.close()


class Hand:
    """aiohttp as a careful user writes it: a key, a time-out, a look at the status, values."""

    def __init__(self, url: str) -> None:
        import aiohttp

        self._url = f"{url}/v1/videos/generations"
        self._count = 0
        self._client = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {KEY}"}, timeout=aiohttp.ClientTimeout(total=60)
        )

    async def submit_distinct(self) -> None:
        """Submit what is different from all others, and make a value of the answer."""
        self._count += 1
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        body = body_of(self._count)
        async with self._client.post(self._url, json=body, headers=headers) as response:
            said = await response.json()
            if response.status != 200:
                raise RuntimeError(said["error"]["message"])
        Accepted(
            id=str(said["id"]),
            status=str(said["status"]),
            progress=int(said["progress"]),
            created=datetime.fromtimestamp(said["created"], UTC),
            model=str(said["model"]),
            estimated_seconds=float(said["task_info"]["estimated_time"]),
            credits_reserved=Decimal(str(said["usage"]["credits_reserved"])),
        )

    async def aclose(self) -> None:
        """Close."""
        await self._client.close()


@dataclass(frozen=True)
class Accepted:
    """What a careful user keeps of the answer."""

    id: str
    status: str
    progress: int
    created: datetime
    model: str
    estimated_seconds: float
    credits_reserved: Decimal


class Fal:
    """fal-client, on fal's queue routes."""

    def __init__(self, url: str) -> None:
        import fal_client
        import fal_client.client

        # Its hosts are constants, and https: there is no other way to a server of one's own.
        vars(fal_client.client)["QUEUE_URL_FORMAT"] = f"{url}/fal/"
        self._client = fal_client.AsyncClient(key="benchmark:0123456789abcdef")
        self._handle: Any = None

    async def submit(self) -> None:
        """Submit."""
        arguments = {"image_url": IMAGE, "prompt": PROMPT, "resolution": "720p", "duration": 5}
        self._handle = await self._client.submit("happyhorse/image-to-video", arguments)

    async def read(self) -> None:
        """Read one request's status."""
        if self._handle is None:
            await self.submit()
        await self._handle.status()

    async def aclose(self) -> None:
        """Nothing can be closed."""


class Replicate:
    """replicate, on its prediction routes."""

    def __init__(self, url: str) -> None:
        from replicate.client import Client

        self._client = Client(api_token="r8_benchmark0123456789abcdef", base_url=f"{url}/replicate")

    async def submit(self) -> None:
        """Submit."""
        fields = {"image": IMAGE, "prompt": PROMPT, "resolution": "720p", "duration": 5}
        await self._client.models.predictions.async_create(
            ("happyhorse", "image-to-video"), input=fields
        )

    async def read(self) -> None:
        """Read one prediction."""
        await self._client.predictions.async_get("ufawqhfynnddngldkgtslldrkq")

    async def aclose(self) -> None:
        """Nothing can be closed."""


class OpenAI:
    """openai, on its video routes."""

    def __init__(self, url: str) -> None:
        import openai

        self._client = openai.AsyncOpenAI(api_key=KEY, base_url=f"{url}/openai/v1")

    async def submit(self) -> None:
        """Submit."""
        await self._client.videos.create(
            prompt=PROMPT, model="sora-2", seconds="4", size="1280x720"
        )

    async def read(self) -> None:
        """Read one video's status."""
        await self._client.videos.retrieve("video_68e688512950819084ed5a9f2e9e4a5b")

    async def aclose(self) -> None:
        """Close."""
        await self._client.close()


OURS, BARE, LEAN = "happyhorse_async", "bare aiohttp", "bare aiohttp + bytes + orjson"
HAND = "aiohttp by hand: key, time-out, typed values"
PEERS = ("fal-client", "replicate", "openai")
CANDIDATES: dict[str, Callable[[str], Candidate]] = {
    OURS: Ours,
    BARE: Bare,
    LEAN: Lean,
    HAND: Hand,
    "fal-client": Fal,
    "replicate": Replicate,
    "openai": OpenAI,
}

# The peers read these; a benchmark must not depend on what the user has set up for the real
# services.
for variable in ("FAL_KEY", "REPLICATE_API_TOKEN", "REPLICATE_BASE_URL", "OPENAI_BASE_URL"):
    os.environ.pop(variable, None)
