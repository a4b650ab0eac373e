"""`happyhorse demo` and `happyhorse generate`: what is wanted, checked, and asked about."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from ..errors import ConfigurationError, DestinationExistsError, DownloadError, InvalidRequestError
from ._common import Exit, need_folder, run, takes_one
from ._connection import open_session
from ._console import agreed, money, say
from ._making import Making, OneVideo, Paid
from ._options import AsJson, Duration, MaxCredits, ModelName, Quality, Sandboxed, Seed, Speed, Yes

if TYPE_CHECKING:
    from .._request import ImageToVideo
    from .._session import Session

DEMO_PROMPTS = {
    "cat.jpg": "The cat turns its head and looks into the camera",
    "coffee.jpg": "Steam rises from the cup as the camera comes closer",
    "rocket.jpg": "The rocket lifts off on a column of fire",
}


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the videos.")] = Path(
        "happyhorse-demo"
    ),
    speed: Speed = 20.0,
    as_json: AsJson = False,
) -> None:
    """Turn three photographs into videos on a sandbox of the service: no key, no cost.

    Example: happyhorse demo --out demo
    """

    async def work() -> int:
        from .. import sandbox

        _need_renderer()
        need_folder(out)
        say(
            f"This starts a sandbox of the service on this machine, {speed:g} times as fast. It "
            f"turns three photographs into videos in {out}. Nothing leaves this machine."
        )
        photos = Path(sandbox.__file__).parent / "photos"
        jobs = [
            _job(photos / name, out / f"{Path(name).stem}.mp4", prompt=prompt)
            for name, prompt in DEMO_PROMPTS.items()
        ]
        async with open_session(sandbox=True, speed=speed) as session:
            making = Making(session, jobs, Paid(), as_json=as_json, overwrite=True)
            return await making.run()

    run(work, as_json=as_json)


def _need_renderer() -> None:
    try:
        import av  # noqa: F401
        import PIL  # noqa: F401
    except ImportError:
        say(
            "error: the demo renders real videos, which needs two more packages: "
            "pip install 'happyhorse-async[sandbox]'"
        )
        raise typer.Exit(Exit.WRONG_INPUT) from None


def generate(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Paths or http(s) links of first frames: JPEG, PNG or WEBP.", metavar="IMAGE"
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="What should happen in the video.")
    ] = None,
    duration: Duration = 5,
    quality: Quality = "720p",
    seed: Seed = None,
    model: ModelName = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="A folder, where videos are named after images, or FILE.mp4 for one.",
        ),
    ] = Path("videos"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace videos that are there already.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            "-k",
            help="For one image: the key of an earlier try, so that it is not paid twice.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="--no-wait: print the tasks' ids, and end.")
    ] = True,
    open_videos: Annotated[
        bool, typer.Option("--open", help="Open the videos once they are saved.")
    ] = False,
    sandbox: Sandboxed = False,
    speed: Speed = 20.0,
    yes: Yes = False,
    max_credits: MaxCredits = None,
    as_json: AsJson = False,
) -> None:
    """Turn each IMAGE into a video; stdout gets the videos' paths, one a line.

    Example: happyhorse generate cat.jpg -p "The cat yawns" -o cat.mp4
    """
    fields = {"prompt": prompt, "duration": duration, "quality": quality, "seed": seed}
    fields |= {"model": model} if model is not None else {}
    paid = Paid()

    async def work() -> int:
        nonlocal paid
        paths = _paths(images, out)
        _refuse_one_key_for_many(images, idempotency_key)
        if sandbox and not wait:
            raise ConfigurationError("--no-wait: a sandbox, and its tasks, end with the command")
        async with open_session(sandbox=sandbox, speed=speed, max_credits=max_credits) as session:
            jobs = await _checked_jobs(session, images, paths, fields, overwrite=overwrite)
            if not (sandbox or yes or await _agreed(session, [job.request for job in jobs])):
                return Exit.NOT_WANTED
            # A sandbox ends with the command, and its tasks with it: there is nothing to promise.
            paid = Paid(() if sandbox else paths)
            making = Making(
                session, jobs, paid, as_json=as_json, overwrite=overwrite, key=idempotency_key
            )
            return await making.run(wait=wait, open_videos=open_videos)

    run(work, as_json=as_json, hint=lambda: paid.say())


def _paths(images: Sequence[str], out: Path) -> list[Path]:
    """Return where each video goes; raises `ConfigurationError` for what is for another command."""
    for image in images:
        # A path that cannot be looked at is no folder: the look at the image says what is wrong.
        is_folder = os.path.isdir(image)
        if is_folder or (not os.path.exists(image) and glob.has_magic(image) and glob.glob(image)):
            kind = "a folder" if is_folder else "a pattern"
            raise ConfigurationError(
                f"{image} is {kind}, and generate takes images",
                next_step=f"For a video of every image in it: happyhorse batch run {image!r}",
            )
    return [out] if takes_one(out, len(images), "images") else _named_after(images, out)


def _named_after(images: Iterable[str], out: Path) -> list[Path]:
    """Name each video after its image; equal names are numbered, past every name that is taken."""
    from .._formats.filenames import safe_name, stem_of

    paths: dict[str, Path] = {}
    for image in images:
        stem = unquote(stem_of(image)) if "://" in image else stem_of(image)
        names = chain([stem], (f"{stem}-{number}" for number in count(2)))
        path = next(
            path
            for path in (out / safe_name(f"{name}.mp4") for name in names)
            # Some file systems take no notice of case.
            if path.name.casefold() not in paths
        )
        paths[path.name.casefold()] = path
    return list(paths.values())


def _refuse_one_key_for_many(images: Sequence[str], key: str | None) -> None:
    if key is not None and len(images) > 1:
        raise ConfigurationError(
            f"--idempotency-key is for one image, and there are {len(images)}",
            next_step="Give one image, or leave the key out.",
        )


async def _checked_jobs(
    session: Session,
    images: Sequence[str],
    paths: Sequence[Path],
    fields: dict[str, Any],
    *,
    overwrite: bool,
) -> list[OneVideo]:
    """Make the jobs, and refuse all of them when one is wrong: nothing has been paid yet."""
    problems: list[str] = []
    jobs: list[OneVideo] = []
    for image, path in zip(images, paths, strict=True):
        found = await session.problems(image, **fields)
        problems += [f"{image}: {problem}" for problem in found]
        if not found:
            jobs.append(_job(image, path, **fields))
    if problems:
        raise InvalidRequestError(problems)
    _refuse_taken(paths, overwrite=overwrite)
    return jobs


def _refuse_taken(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Raise an error when a video cannot be saved at one of the paths."""
    from .._downloader.destinations import refuse_unusable

    taken = []
    for path in paths:
        try:
            refuse_unusable(str(path), known=True, overwrite=overwrite)
        except DestinationExistsError:
            taken.append(str(path))
        except DownloadError as error:
            raise ConfigurationError(
                f"--out: {error}", next_step="Choose another place with --out."
            ) from None
    if taken:
        raise DestinationExistsError(
            f"already there: {', '.join(taken)}",
            charged="no",
            next_step="Choose another place with --out"
            + ("." if overwrite else ", or pass --overwrite."),
        )


def _job(image: str | Path, path: Path, **fields: Any) -> OneVideo:
    from .._request import ImageToVideo

    name = image.name if isinstance(image, Path) else image
    return OneVideo(name, ImageToVideo(image, **fields), path)


async def _agreed(session: Session, requests: list[ImageToVideo]) -> bool:
    """Show the price and ask; without a terminal to ask on, the answer is no."""
    price = await session.estimate(requests)
    what = "1 video" if len(requests) == 1 else f"{len(requests)} videos"
    shown = f"{what}: about {money(price.credits)} credits ({float(price.usd):.2f} USD)"
    if price.source == "bundled":
        shown += f", by the price list of {price.as_of} that came with this package"
    if sys.stdin is None or not sys.stdin.isatty():
        say(f"{shown}. Nothing was sent: pass --yes to spend it.")
        return False
    say(shown)
    return agreed("Spend it?")
