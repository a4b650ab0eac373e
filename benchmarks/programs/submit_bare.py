"""Submit once with bare aiohttp and cattrs."""

import asyncio
import os
import secrets

import aiohttp
import attrs
import cattrs


@attrs.frozen
class Request:
    """What is submitted."""

    model: str
    image_urls: list[str]
    prompt: str
    quality: str = "720p"
    duration: int = 5


@attrs.frozen
class Task:
    """What is answered."""

    id: str
    status: str
    progress: int
    created: int
    model: str


async def main() -> None:
    """Submit, and print the task's id."""
    converter = cattrs.Converter()
    request = Request(
        "happyhorse-1.0-image-to-video", ["https://cdn.example.com/cat.png"], "The cat runs"
    )
    headers = {
        "Authorization": f"Bearer {os.environ['EVOLINK_API_KEY']}",
        "Idempotency-Key": secrets.token_hex(16),
    }
    async with (
        aiohttp.ClientSession(os.environ["EVOLINK_BASE_URL"], headers=headers) as client,
        client.post("/v1/videos/generations", json=converter.unstructure(request)) as response,
    ):
        response.raise_for_status()
        print(converter.structure(await response.json(), Task).id, flush=True)


asyncio.run(main())
