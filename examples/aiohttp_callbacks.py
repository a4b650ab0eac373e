"""An aiohttp service that is called back when a video is done, and answers its own clients with the
saved file.

    export EVOLINK_API_KEY=... PUBLIC_URL=https://app.example.com/hooks python
    examples/aiohttp_callbacks.py                  # POST an image to http://127.0.0.1:8080/videos
    python examples/aiohttp_callbacks.py --once cat.jpg   # serve, ask it for one video, and end

The code that waits is the same as without callbacks: they only make it wake up sooner, with fewer
reads. If they do not come, the slow heartbeat of reads finds the end. Against a sandbox on this
machine PUBLIC_URL may be left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiohttp import web

from happyhorse_async import HappyHorseError, Session
from happyhorse_async.integrations.aiohttp import webhook_route
from happyhorse_async.webhooks import OWN_MACHINE, Webhooks, foreign_page

FOLDER = Path(os.environ.get("VIDEOS", "videos"))
HOSTS = frozenset(os.environ.get("HOSTS", ",".join(OWN_MACHINE)).split(","))
"""The names that the app is served under: a video costs money, so pages of others are refused."""
SESSION = web.AppKey("session", Session)
WEBHOOKS = web.AppKey("webhooks", Webhooks)


async def make(request: web.Request) -> web.StreamResponse:
    """Turn the image in the body into a video, and send it once it is there."""
    problem = foreign_page(request.headers, hosts=HOSTS, method=request.method)
    if problem is not None:
        return web.json_response({"error": problem}, status=403)
    session = request.app[SESSION]
    try:
        video = await session.generate(
            await request.read(),
            prompt=request.query.get("prompt"),
            duration=3,
            save_to=FOLDER / "{task_id}.mp4",
        )
    except HappyHorseError as error:
        return web.json_response(
            {"error": str(error), "charged": error.charged, "next_step": error.next_step},
            status=502,
        )
    return web.FileResponse(video.path)


def application(public_url: str) -> web.Application:
    """Make the app; its session lives as long as it does."""

    async def session_of(app: web.Application) -> AsyncIterator[None]:
        FOLDER.mkdir(parents=True, exist_ok=True)
        async with Session(public_url=public_url) as session:
            app[SESSION], app[WEBHOOKS] = session, Webhooks(session)
            yield

    app = web.Application(client_max_size=10 * 1024 * 1024)
    app.cleanup_ctx.append(session_of)
    app.add_routes(
        [web.post("/videos", make), webhook_route("/hooks", lambda request: request.app[WEBHOOKS])]
    )
    return app


async def main() -> None:
    """Serve the app, for ever or for one video."""
    parser = argparse.ArgumentParser(description="Image to video, with callbacks")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--once", type=Path, metavar="IMAGE", help="make one video and end")
    options = parser.parse_args()
    url = f"http://127.0.0.1:{options.port}"
    runner = web.AppRunner(application(os.environ.get("PUBLIC_URL", f"{url}/hooks")))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port).start()
    try:
        if options.once is None:
            print(f"POST an image to {url}/videos")
            await asyncio.Event().wait()
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{url}/videos", data=options.once.read_bytes()) as answer,
        ):
            print(answer.status, answer.content_type, f"{len(await answer.read())} bytes")
            if not answer.ok:
                raise SystemExit(1)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
