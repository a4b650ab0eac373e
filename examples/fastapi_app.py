"""A web app that turns an image into a video, with live progress: FastAPI and one page.

    export EVOLINK_API_KEY=...  # or the three variables that `happyhorse sandbox` prints
    python examples/fastapi_app.py  # then open http://127.0.0.1:8000
    python examples/fastapi_app.py --once cat.jpg  # serve, make one video over HTTP, and end

The session lives in the app's lifespan. Every job is a small file, written before anything is paid,
so that a restart goes on where it stopped: a job without a task is submitted again with the same
idempotency key, one with a task is waited for. The work belongs to the app and not to the browser
that asked for it: a page that is closed, or reloaded, loses nothing. Under another server command,
let open event streams be cut off at its end: `uvicorn --app-dir examples fastapi_app:app
--timeout-graceful-shutdown 1`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
import attrs
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, StreamingResponse

from happyhorse_async import (
    DownloadError,
    HappyHorseError,
    ImageToVideo,
    InvalidRequestError,
    LinkExpiredError,
    NotAVideoError,
    PermissionDeniedError,
    Session,
    TaskHandle,
    UnsafeLinkError,
)
from happyhorse_async.webhooks import OWN_MACHINE, foreign_page

logger = logging.getLogger(__name__)
PAGE = Path(__file__).with_name("fastapi_page.html")
FOLDER = Path(os.environ.get("VIDEOS", "videos"))
HOSTS = frozenset(os.environ.get("HOSTS", ",".join(OWN_MACHINE)).split(","))
"""The names that the app is served under: a video costs money, so pages of others are refused."""
LARGEST_IMAGE = 10 * 1024 * 1024
RETRY_SECONDS = 30.0

Quality = Literal["720p", "1080p"]


@attrs.define(eq=False, slots=False)
class Job:
    """One video that somebody asked for: a file beside the image and, in the end, the video."""

    id: str
    prompt: str
    duration: int = 5
    quality: Quality = "720p"
    link: str | None = None
    """Where the image was uploaded: the same key needs the same request."""
    task_id: str | None = None
    credits: str | None = None
    """What it has cost."""
    problem: str | None = None
    """Why it ended without a video, and for good: it is not taken up again."""

    def __attrs_post_init__(self) -> None:
        self.state: dict[str, Any] = {"status": "waiting", "progress": 0}
        """What the page shows."""

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
        part.write_text(json.dumps(attrs.asdict(self)))
        part.replace(FOLDER / f"{self.id}.json")

    def describe(self) -> dict[str, Any]:
        """What the page needs to know."""
        names = ("id", "prompt", "duration", "quality")
        return {name: getattr(self, name) for name in names}


class Studio:
    """All jobs, the session that works on them, and those who look on."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.jobs: dict[str, Job] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._stopping = False

    def resume(self) -> None:
        """Take up every job that is on disk."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path in sorted(FOLDER.glob("*.json"), key=lambda path: path.stat().st_mtime):
            try:
                job = Job(**json.loads(path.read_text()))
            except (OSError, TypeError, ValueError) as error:
                # One bad file, after a loss of power say, must not keep the others' videos.
                logger.error("%s is not taken up: %s", path, error)
            else:
                self.start(job)

    def start(self, job: Job) -> None:
        """Work on a job, whoever is looking."""
        self.jobs[job.id] = job
        work = asyncio.create_task(self._carry_out(job))
        self._work.add(work)
        work.add_done_callback(self._work.discard)

    async def stop(self) -> None:
        """Stop working, and send those who look on away; the jobs stay on disk."""
        self._stopping = True
        self._tell_all()
        for work in self._work:
            work.cancel()
        if self._work:
            await asyncio.wait(self._work)

    async def _carry_out(self, job: Job) -> None:
        while not job.problem:
            try:
                await self._make(job)
                video = f"/videos/{job.id}.mp4"
                self._tell(job, status="saved", progress=100, video=video, credits=job.credits)
                return
            except (LinkExpiredError, UnsafeLinkError, NotAVideoError) as error:
                job.problem = str(error)
            except PermissionDeniedError as error:  # Python's PermissionError too, an OSError
                job.problem = f"{error}. {error.next_step}"
            except (DownloadError, OSError) as error:
                # It is paid, and its link lives for a day: a full disk or a host that is down must
                # not cost the video.
                self._tell(job, status=f"trying again: {error}", progress=100)
                await asyncio.sleep(RETRY_SECONDS)
            except HappyHorseError as error:
                problem = f"{str(error).rstrip('.')}. {error.next_step or ''}".strip()
                if error.charged == "unknown":
                    # Not for good: when the app starts next, the same key tells what became of it.
                    self._tell(job, status="failed", progress=job.state["progress"], error=problem)
                    return
                job.problem = problem
        self._tell(job, status="failed", progress=job.state["progress"], error=job.problem)
        await asyncio.to_thread(job.write)

    async def _make(self, job: Job) -> None:
        if job.video.exists():
            return
        task = await self._task_of(job)
        async for update in task.updates():
            self._tell(job, status=str(update.status), progress=update.progress)
        video = await task.download(job.video, overwrite=True)
        if video.credits is not None:
            job.credits = f"{video.credits:f}"
            await asyncio.to_thread(job.write)

    async def _task_of(self, job: Job) -> TaskHandle:
        if job.task_id is not None:
            return self.session.task(job.task_id)
        if job.link is None:
            job.link = (await self.session.upload(job.image)).url
            await asyncio.to_thread(job.write)
        request = ImageToVideo(
            job.link, prompt=job.prompt or None, duration=job.duration, quality=job.quality
        )
        task = await self.session.submit(request, idempotency_key=job.id)
        job.task_id = task.id
        await asyncio.to_thread(job.write)
        return task

    # --- those who look on ------------------------------------------------------------------------

    def _tell(self, job: Job, **state: Any) -> None:
        job.state = state
        self._tell_all()

    def _tell_all(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def changes(self) -> AsyncIterator[tuple[Job, dict[str, Any]]]:
        """Follow all jobs: first how each stands, then what changes. Leaving this early leaves the
        jobs alone.
        """
        seen: dict[str, dict[str, Any]] = {}
        while not self._stopping:
            news = self._news
            for job in tuple(self.jobs.values()):
                if seen.get(job.id) is not job.state:
                    seen[job.id] = job.state
                    yield job, job.state
            await news.wait()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the session for as long as the app runs."""
    async with Session() as session:
        app.state.studio = studio = Studio(session)
        studio.resume()
        yield
        await studio.stop()


def own_pages_only(request: Request) -> None:
    """Answer 403 to what a page of somebody else makes a browser send."""
    problem = foreign_page(request.headers, hosts=HOSTS, method=request.method)
    if problem is not None:
        raise HTTPException(403, problem)


app = FastAPI(title="Image to video", lifespan=lifespan, dependencies=[Depends(own_pages_only)])


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


@app.get("/price")
async def price(request: Request, duration: int = 5, quality: Quality = "720p") -> dict[str, Any]:
    """What a video will cost, in credits; null when nobody can say."""
    try:
        # The price does not hang on the image, so any link will do.
        wanted = ImageToVideo("https://example.com/", duration=duration, quality=quality)
        estimate = await studio_of(request).session.estimate(wanted)
    except InvalidRequestError as error:
        raise HTTPException(422, "; ".join(error.problems)) from None
    except HappyHorseError:
        return {"credits": None}
    return {"credits": f"{estimate.credits:f}"}


@app.post("/videos", status_code=202)
async def make(
    request: Request, prompt: str = "", duration: int = 5, quality: Quality = "720p"
) -> dict[str, Any]:
    """Start a video: the body is the image."""
    image = bytearray()
    async for chunk in request.stream():
        image += chunk
        if len(image) > LARGEST_IMAGE:
            raise HTTPException(413, "the image must not be larger than 10 MB")
    try:
        ImageToVideo(bytes(image), prompt=prompt or None, duration=duration, quality=quality)
    except InvalidRequestError as error:
        raise HTTPException(422, "; ".join(error.problems)) from None
    job = Job(secrets.token_hex(16), prompt, duration, quality)
    await asyncio.to_thread(job.image.write_bytes, image)
    await asyncio.to_thread(job.write)
    studio_of(request).start(job)
    return job.describe()


@app.get("/videos/{job_id}.image")
async def first_frame(request: Request, job_id: str) -> FileResponse:
    """The image that a video is made from."""
    image = job_of(request, job_id).image
    with image.open("rb") as file:
        start = file.read(4)
    kinds = {b"\x89PNG": "image/png", b"RIFF": "image/webp"}
    kind = kinds.get(start, "image/jpeg")  # a request takes no others
    return FileResponse(image, media_type=kind, headers={"X-Content-Type-Options": "nosniff"})


@app.get("/events")
async def events(request: Request) -> StreamingResponse:
    """The states of all jobs as server-sent events, in one stream: browsers open six connections to
    a server, not more.
    """
    return StreamingResponse(
        states(studio_of(request)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def states(studio: Studio) -> AsyncIterator[str]:
    """Write what changes as server-sent events."""
    async for job, state in studio.changes():
        yield f"data: {json.dumps({'id': job.id, **state})}\n\n"


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
        async with client.post(
            "/videos", params={"prompt": "It comes alive"}, data=image.read_bytes()
        ) as answer:
            job = await answer.json()
        if not answer.ok:
            raise SystemExit(job["detail"])
        async with client.get("/events") as stream:
            async for line in stream.content:
                state = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if state.get("id") == job["id"]:
                    print(state["status"], state["progress"])
                    if "video" in state or "error" in state:
                        break
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
    config = uvicorn.Config(
        app, port=options.port, log_level="warning", timeout_graceful_shutdown=1
    )
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
