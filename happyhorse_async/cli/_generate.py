"""`happyhorse demo` and `happyhorse generate`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..errors import DestinationExistsError, HappyHorseError, InvalidRequestError
from ._common import (
    AsJson,
    Exit,
    MaxCredits,
    Sandboxed,
    Speed,
    Yes,
    agreed,
    exit_code,
    money,
    need_folder,
    open_session,
    overall,
    put,
    report,
    run,
    say,
)

if TYPE_CHECKING:
    from .._request import ImageToVideo
    from .._session import Session
    from .._video import Video
    from ._display import Display

DEMO_PROMPTS = {
    "cat.jpg": "The cat turns its head and looks into the camera",
    "coffee.jpg": "Steam rises from the cup as the camera comes closer",
    "rocket.jpg": "The rocket lifts off on a column of fire",
}


class Job(NamedTuple):
    """One image of the command line, and where its video goes."""

    name: str
    request: ImageToVideo
    path: Path


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder for the videos.")] = Path(
        "happyhorse-demo"
    ),
    speed: Speed = 20.0,
    as_json: AsJson = False,
) -> None:
    """Turn three photographs into videos on a sandbox of the service: no key, no cost."""

    async def work() -> int:
        from .. import sandbox

        _need_renderer()
        need_folder(out)
        photos = Path(sandbox.__file__).parent / "photos"
        jobs = [
            _job(photos / name, out / f"{Path(name).stem}.mp4", prompt=prompt)
            for name, prompt in DEMO_PROMPTS.items()
        ]
        async with open_session(sandbox=True, speed=speed) as session:
            return await _run_all(session, jobs, out, as_json=as_json, overwrite=True, private=True)

    run(work, as_json=as_json)


def _need_renderer() -> None:
    try:
        import av  # noqa: F401
        import PIL  # noqa: F401
    except ImportError:
        say(
            "error: the demo renders real videos, which needs two more packages: pip install 'happyhorse-async[sandbox]'"
        )
        raise typer.Exit(Exit.WRONG_INPUT) from None


def generate(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Paths or http(s) links of first frames: JPEG, PNG or WEBP.", metavar="IMAGE..."
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="What should happen in the video.")
    ] = None,
    duration: Annotated[
        int, typer.Option("--duration", help="Seconds, 3 to 15; changes the price.")
    ] = 5,
    quality: Annotated[
        str, typer.Option("--quality", help="720p or 1080p; changes the price.")
    ] = "720p",
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="1 to 2147483647; drawn by the service when left out."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="The folder for the videos, named after the images.")
    ] = Path("videos"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace videos that are there already.")
    ] = False,
    sandbox: Sandboxed = False,
    speed: Speed = 20.0,
    yes: Yes = False,
    max_credits: MaxCredits = None,
    as_json: AsJson = False,
) -> None:
    """Turn each IMAGE into a video."""
    fields = {"prompt": prompt, "duration": duration, "quality": quality, "seed": seed}

    async def work() -> int:
        need_folder(out)
        async with open_session(sandbox=sandbox, speed=speed, max_credits=max_credits) as session:
            jobs = await _checked_jobs(session, images, out, fields, overwrite=overwrite)
            if not (sandbox or yes or await _agreed(session, [job.request for job in jobs])):
                return Exit.NOT_WANTED
            return await _run_all(
                session, jobs, out, as_json=as_json, overwrite=overwrite, private=sandbox
            )

    run(work, as_json=as_json)


async def _checked_jobs(
    session: Session, images: Sequence[str], out: Path, fields: dict[str, Any], *, overwrite: bool
) -> list[Job]:
    """Make the jobs, and refuse all of them when one is wrong: nothing has been paid yet."""
    problems: list[str] = []
    jobs: list[Job] = []
    for image, path in zip(images, _paths(images, out), strict=True):
        found = await session.problems(image, **fields)
        problems += [f"{image}: {problem}" for problem in found]
        if not found:
            jobs.append(_job(image, path, **fields))
    if problems:
        raise InvalidRequestError(problems)
    taken = [str(job.path) for job in jobs if job.path.exists()]
    if taken and not overwrite:
        raise DestinationExistsError(
            f"already there: {', '.join(taken)}",
            charged="no",
            next_step="Choose another folder with --out, or pass --overwrite.",
        )
    return jobs


def _paths(images: Iterable[str], out: Path) -> list[Path]:
    """Name each video after its image; equal names are numbered, past every name that is taken."""
    paths: dict[Path, None] = {}
    for image in images:
        stem = Path(image.partition("?")[0].rstrip("/")).stem or "video"
        numbered = (f"{stem}-{number}.mp4" for number in count(2))
        names = (out / name for name in chain([f"{stem}.mp4"], numbered))
        paths[next(path for path in names if path not in paths)] = None
    return list(paths)


def _job(image: str | Path, path: Path, **fields: Any) -> Job:
    from .._request import ImageToVideo

    return Job(
        Path(image).name if isinstance(image, Path) else image, ImageToVideo(image, **fields), path
    )


async def _agreed(session: Session, requests: list[ImageToVideo]) -> bool:
    """Show the price and ask; without a terminal to ask on, the answer is no."""
    price = await session.estimate(requests)
    what = "1 video" if len(requests) == 1 else f"{len(requests)} videos"
    shown = f"{what}: about {money(price.credits)} credits ({float(price.usd):.2f} USD)"
    if price.source == "bundled":
        shown += f", by the price list of {price.as_of} that came with this package"
    if not sys.stdin.isatty():
        say(f"{shown}. Nothing was sent: pass --yes to spend it.")
        return False
    say(shown)
    return agreed("Spend it?")


async def _run_all(
    session: Session,
    jobs: Sequence[Job],
    out: Path,
    *,
    as_json: bool,
    overwrite: bool,
    private: bool,
) -> int:
    """Make and save the videos; `private`: the service is a sandbox that ends with this process,
    and its tasks with it.
    """
    import anyio

    from ._display import Display

    out.mkdir(parents=True, exist_ok=True)
    videos: dict[Path, list[Video]] = {}
    codes: list[Exit] = []
    with Display(session, quiet=as_json) as display:

        async def one(job: Job) -> None:
            try:
                videos[job.path] = await _make(session, job, display, overwrite=overwrite)
            except HappyHorseError as error:
                display.failed(job.path.name, type(error).__name__)
                report(error, as_json=as_json, about=job.name)
                codes.append(exit_code(error))
            else:
                codes.append(Exit.DONE)
                for video in videos[job.path] if as_json else ():
                    put({"ok": True, "image": job.name, **describe(video)})

        try:
            async with anyio.create_task_group() as group:
                for job in jobs:
                    display.add(job.path.name)
                    group.start_soon(one, job)
        except BaseException:
            if not private:
                display.say_how_to_resume()
            raise
    if not as_json:
        display.table([video for job in jobs for video in videos.get(job.path, ())])
        put(str(out.resolve()))
    return overall(codes)


async def _make(session: Session, job: Job, display: Display, *, overwrite: bool) -> list[Video]:
    """Submit and follow one job, and save every video that it gives: their links die, so none is
    left behind.
    """
    display.status(job.path.name, "submitting")
    task = await session.submit(job.request)
    display.submitted(job.path.name, task.id)
    async for update in task.updates():
        display.status(job.path.name, update.status, update.progress)
    display.status(job.path.name, "downloading", 100)
    videos = await task.download_all(job.path, overwrite=overwrite)
    display.saved(job.path.name)
    return videos


def describe(video: Video) -> dict[str, Any]:
    """Give a video's facts for JSON."""
    return {
        "file": str(video.path),
        "task_id": video.task_id,
        "duration": video.duration,
        "width": video.width,
        "height": video.height,
        "bytes": video.size,
        "sha256": video.sha256,
        "credits": video.credits,
        "seconds": video.task.seconds if video.task is not None else None,
    }
