"""A web app that turns an image into a video, with live progress: FastAPI and one page.

    export EVOLINK_API_KEY=...                      # or the three variables that `happyhorse sandbox` prints
    python examples/fastapi_app.py                  # then open http://127.0.0.1:8000
    python examples/fastapi_app.py --once cat.jpg   # serve, make one video through the app's own HTTP interface, and end

The session lives in the app's lifespan. Every job is a small file, written before anything is paid, so that a restart goes on where it
stopped: a job without a task is submitted again with the same idempotency key, one with a task is waited for. The work belongs to the app
and not to the browser that asked for it: a page that is closed, or reloaded, loses nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, StreamingResponse

from happyhorse_async import HappyHorseError, ImageToVideo, InvalidRequestError, Session, TaskHandle

PAGE = Path(__file__).with_name("fastapi_page.html")
FOLDER = Path(os.environ.get("VIDEOS", "videos"))
LARGEST_IMAGE = 10 * 1024 * 1024


class Job:
    """One video that somebody asked for: a file beside the image and, in the end, the video."""

    def __init__(self, job_id: str, prompt: str, link: str | None = None, task_id: str | None = None) -> None:
        self.id = job_id
        self.prompt = prompt
        self.link = link
        """Where the image was uploaded: the same key needs the same request."""
        self.task_id = task_id
        self.task: asyncio.Future[TaskHandle] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        """Gives None when the video is there, else what went wrong."""

    @property
    def image(self) -> Path:
        """The first frame."""
        return FOLDER / f"{self.id}.image"

    @property
    def video(self) -> Path:
        """Where the video will be."""
        return FOLDER / f"{self.id}.mp4"

    def write(self) -> None:
        """Put the job on disk, whole or not at all."""
        part = FOLDER / f"{self.id}.part"
        part.write_text(json.dumps({"id": self.id, "prompt": self.prompt, "link": self.link, "task_id": self.task_id}))
        part.replace(FOLDER / f"{self.id}.json")

    def describe(self) -> dict[str, Any]:
        """What the page needs to know."""
        return {"id": self.id, "prompt": self.prompt}


class Studio:
    """All jobs, and the session that works on them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.jobs: dict[str, Job] = {}
        self._work: set[asyncio.Task[None]] = set()

    def resume(self) -> None:
        """Take up every job that is on disk."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path in sorted(FOLDER.glob("*.json"), key=lambda path: path.stat().st_mtime):
            job = json.loads(path.read_text())
            self.start(Job(job["id"], job["prompt"], job["link"], job["task_id"]))

    def start(self, job: Job) -> None:
        """Work on a job, whoever is looking."""
        self.jobs[job.id] = job
        work = asyncio.create_task(self._carry_out(job))
        self._work.add(work)
        work.add_done_callback(self._work.discard)

    async def stop(self) -> None:
        """Stop working; the jobs stay on disk."""
        for work in self._work:
            work.cancel()
        if self._work:
            await asyncio.wait(self._work)

    async def _carry_out(self, job: Job) -> None:
        try:
            if not job.video.exists():
                task = await self._task_of(job)
                job.task.set_result(task)
                await task.download(job.video, overwrite=True)
            job.ended.set_result(None)
        except HappyHorseError as error:
            job.ended.set_result(f"{error} {error.next_step or ''}".strip())
        finally:
            # Whoever still looks is sent away when the app stops.
            job.task.cancel()
            job.ended.cancel()

    async def _task_of(self, job: Job) -> TaskHandle:
        if job.task_id is not None:
            return self.session.task(job.task_id)
        if job.link is None:
            job.link = (await self.session.upload(job.image)).url
            job.write()
        request = ImageToVideo(job.link, prompt=job.prompt or None, duration=3)
        task = await self.session.submit(request, idempotency_key=job.id)
        job.task_id = task.id
        job.write()
        return task


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the session for as long as the app runs."""
    async with Session() as session:
        app.state.studio = studio = Studio(session)
        studio.resume()
        yield
        await studio.stop()


app = FastAPI(title="Image to video", lifespan=lifespan)


def studio_of(request: Request) -> Studio:
    """Find the studio of a request's app."""
    studio: Studio = request.app.state.studio
    return studio


def job_of(request: Request, job_id: str) -> Job:
    """Find a job, or answer 404."""
    job = studio_of(request).jobs.get(job_id)
    if job is None:
        raise HTTPException(404, "there is no such video")
    return job


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The page."""
    return FileResponse(PAGE, media_type="text/html")


@app.get("/videos")
async def videos(request: Request) -> list[dict[str, Any]]:
    """All jobs, oldest first."""
    return [job.describe() for job in studio_of(request).jobs.values()]


@app.post("/videos", status_code=202)
async def make(request: Request, prompt: str = "") -> dict[str, Any]:
    """Start a video: the body is the image."""
    image = bytearray()
    async for chunk in request.stream():
        image += chunk
        if len(image) > LARGEST_IMAGE:
            raise HTTPException(413, "the image must not be larger than 10 MB")
    try:
        ImageToVideo(bytes(image), prompt=prompt or None)
    except InvalidRequestError as error:
        raise HTTPException(422, "; ".join(error.problems)) from None
    job = Job(secrets.token_hex(16), prompt)
    job.image.write_bytes(image)
    job.write()
    studio_of(request).start(job)
    return job.describe()


@app.get("/videos/{job_id}/events")
async def events(request: Request, job_id: str) -> StreamingResponse:
    """The states of a job as server-sent events: first the present one, last the video or what went wrong."""
    return StreamingResponse(states(job_of(request, job_id)), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def states(job: Job) -> AsyncIterator[str]:
    """Follow a job; leaving this early leaves the job alone."""
    first: list[asyncio.Future[Any]] = [job.task, job.ended]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    progress = 0
    if job.task.done() and not job.task.cancelled():
        # What goes wrong here goes wrong in the job as well, which reports it.
        with suppress(HappyHorseError):
            async for task in job.task.result().updates():
                progress = task.progress
                yield message(status=str(task.status), progress=progress)
    problem = await asyncio.shield(job.ended)
    if problem is None:
        yield message(status="saved", progress=100, video=f"/videos/{job.id}.mp4")
    else:
        yield message(status="failed", progress=progress, error=problem)


def message(**fields: Any) -> str:
    """Write one server-sent event."""
    return f"data: {json.dumps(fields)}\n\n"


@app.get("/videos/{job_id}.mp4")
async def video(request: Request, job_id: str) -> FileResponse:
    """The finished video; ranges work, so players can seek."""
    job = job_of(request, job_id)
    if not job.video.exists():
        raise HTTPException(404, "the video is not there yet")
    return FileResponse(job.video, media_type="video/mp4")


async def try_it(image: Path, url: str) -> None:
    """Use the app as a browser would: post an image, follow the events, fetch the video."""
    async with aiohttp.ClientSession(url) as client:
        async with client.post("/videos", params={"prompt": "It comes alive"}, data=image.read_bytes()) as answer:
            job = await answer.json()
        if not answer.ok:
            raise SystemExit(job["detail"])
        async with client.get(f"/videos/{job['id']}/events") as stream:
            async for line in stream.content:
                if line.startswith(b"data: "):
                    state = json.loads(line[6:])
                    print(state["status"], state["progress"])
        if "error" in state:
            raise SystemExit(state["error"])
        async with client.get(state["video"]) as answer:
            print(f"{len(await answer.read())} bytes of video")


async def main() -> None:
    """Serve the app, for ever or for one video."""
    parser = argparse.ArgumentParser(description="Image to video as a web app")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--once", type=Path, metavar="IMAGE", help="make one video and end")
    options = parser.parse_args()
    config = uvicorn.Config(app, port=options.port, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    if options.once is None:
        print(f"http://127.0.0.1:{options.port}")
        await server.serve()
        return
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    try:
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        await try_it(options.once, f"http://{host}:{port}")
    finally:
        server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(main())
