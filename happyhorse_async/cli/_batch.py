"""`happyhorse batch`: run, status, retry, report."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigurationError
from ._batch_run import Follow, Look
from ._common import Exit, need_folder, run
from ._connection import open_session
from ._console import agreed, put
from ._options import (
    AsJson,
    Encoding,
    FirstRows,
    IgnoreUnknown,
    Kinds,
    OneSource,
    RetryFailed,
    RowDuration,
    RowPrompt,
    RowQuality,
    RowSeed,
    Sandboxed,
    Speed,
    Title,
    Yes,
    group_of,
)

app = group_of("Turn many images into videos: durable, resumable, within a budget.")

Out = Annotated[
    str,
    typer.Option(
        "--out",
        help="The folder for the videos and the ledger; the same one again goes on. Or an object "
        "store, such as s3://bucket/prefix, with --ledger.",
    ),
]
LedgerFolder = Annotated[
    Path | None,
    typer.Option("--ledger", help="The folder for the ledger, when --out is an object store."),
]
Verify = Annotated[
    bool,
    typer.Option("--verify", help="Read every saved video, and do not only look at its size."),
]
Folder = Annotated[
    Path | None,
    typer.Argument(help='The batch\'s folder; "videos" when none is given.', show_default=False),
]
SameFolder = Annotated[
    Path | None, typer.Option("--out", help="The folder, as `run` takes it.", show_default=False)
]
InFlight = Annotated[
    int, typer.Option("--max-in-flight", help="Tasks that are being made at once.", min=1)
]
NoWait = Annotated[
    bool,
    typer.Option(
        "--no-wait",
        help="Stop when the key's daily limit is used up, and do not wait for its reset.",
    ),
]
MaxCredits = Annotated[
    float | None,
    typer.Option(
        "--max-credits",
        help="The most that all jobs of the folder may cost together, over all runs. Nothing is "
        "begun that could go beyond it; what was begun is finished.",
        min=0,
    ),
]


@app.command("run", cls=OneSource)
def run_command(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder or a glob of images, or a .csv, .tsv, .json, .jsonl or .parquet table "
            "of them. - reads a table from standard input.",
            metavar="SOURCE",
        ),
    ],
    out: Out = "videos",
    ledger: LedgerFolder = None,
    prompt: RowPrompt = None,
    duration: RowDuration = None,
    quality: RowQuality = None,
    seed: RowSeed = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            help="Try every combination for each row: seed=1..8, quality=720p,1080p, "
            "prompt=@prompts.txt (one a line); may be repeated.",
            metavar="NAME=VALUES",
        ),
    ] = None,
    limit: FirstRows = None,
    max_in_flight: InFlight = 200,
    max_credits: MaxCredits = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every row, print the price, and spend nothing.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Work on the good rows although there are bad ones.")
    ] = False,
    encoding: Encoding = None,
    ignore_unknown: IgnoreUnknown = False,
    retry_failed: RetryFailed = False,
    no_wait: NoWait = False,
    verify: Verify = False,
    sandbox: Sandboxed = False,
    speed: Speed = 20.0,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Work on every row until it is done. Run the same line again after whatever happened: it goes
    on where it stopped.

    Every row is checked, and the price shown, before anything is spent.

    Example: happyhorse batch run photos.csv --out videos --max-credits 500
    """

    async def work() -> int:
        from ..batch._manifest import Manifest, keep_left_out
        from ..batch._sweep import read_vary

        folder, store = _places(out, ledger)
        _need_folder(folder)
        defaults = {"prompt": prompt, "duration": duration, "quality": quality, "seed": seed}
        manifest = Manifest(
            source,
            defaults=defaults,
            limit=limit,
            encoding=encoding,
            ignore_unknown=ignore_unknown,
            vary=read_vary(vary or ()),
        )
        async with open_session(sandbox=sandbox, speed=speed) as session:
            looked = Look(skip_bad=skip_bad, quiet=dry_run or yes or sandbox, as_json=as_json)
            found, code = await looked.at(session, manifest, folder, retry=retry_failed)
            if code is not None or dry_run:
                return code or Exit.DONE
            options = _limits(max_in_flight, max_credits, no_wait=no_wait)
            async with session.batch(folder, out=store, verify=verify, **options) as batch:
                await asyncio.to_thread(keep_left_out, folder, found.left_out)
                outcomes = batch.run(manifest.jobs(), retry_failed=retry_failed)
                follow = Follow(session, batch, as_json=as_json, private=sandbox)
                return await follow.to_the_end(outcomes, expected=found.good)

    run(work, as_json=as_json)


@app.command("retry")
def retry_command(
    folder: Folder = None,
    out: SameFolder = None,
    max_in_flight: InFlight = 200,
    max_credits: MaxCredits = None,
    no_wait: NoWait = False,
    verify: Verify = False,
    sandbox: Sandboxed = False,
    speed: Speed = 20.0,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Begin the failed jobs of a folder again. Ask for those whose fate is not known with the same
    key.

    Example: happyhorse batch retry videos
    """
    where = _folder_of(folder, out)

    async def work() -> int:
        _refuse_strange(where)
        async with (
            open_session(sandbox=sandbox, speed=speed) as session,
            session.batch(
                where, verify=verify, **_limits(max_in_flight, max_credits, no_wait=no_wait)
            ) as batch,
        ):
            jobs = sum((await batch.totals()).failures.values())
            if (
                jobs
                and not (yes or sandbox)
                and not agreed(f"Begin {jobs} jobs again? Each is charged again.")
            ):
                return Exit.NOT_WANTED
            follow = Follow(session, batch, as_json=as_json, private=sandbox)
            return await follow.to_the_end(batch.retry())

    run(work, as_json=as_json)


@app.command()
def status(
    folder: Folder = None,
    out: SameFolder = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it until the run has ended.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how a folder's batch stands, also while it runs.

    Example: happyhorse batch status videos --watch
    """
    where = _folder_of(folder, out)

    async def work() -> int:
        from ._standing import show, watched

        _refuse_strange(where)
        await (watched if watch else show)(where, as_json=as_json)
        return Exit.DONE

    run(work, as_json=as_json)


@app.command()
def report(
    folder: Folder = None,
    out: SameFolder = None,
    kind: Kinds = "html,jsonl,csv",
    verify: Verify = False,
    title: Title = None,
    as_json: AsJson = False,
) -> None:
    """Write what became of every job: results.jsonl, results.csv, and gallery.html, which works
    without a server.

    Example: happyhorse batch report videos --title "Spring campaign"
    """
    where = _folder_of(folder, out)

    async def work() -> int:
        from ..batch.report import write_reports

        _refuse_strange(where)
        kinds = tuple(word.strip() for word in kind.split(",") if word.strip())
        paths = await asyncio.to_thread(write_reports, where, kinds, verify=verify, title=title)
        for path in paths:
            put({"path": str(path)} if as_json else str(path))
        return Exit.DONE

    run(work, as_json=as_json)


def _folder_of(folder: Path | None, out: Path | None) -> Path:
    """Return the folder, which may be said in either way."""
    if folder is not None and out is not None and folder != out:
        raise typer.BadParameter(f"two folders were given: {folder} and {out}", param_hint="--out")
    return folder or out or Path("videos")


def _places(out: str, ledger: Path | None) -> tuple[Path, str | None]:
    """Return the folder for the ledger, and the object store for the videos if it is one."""
    from .._downloader.destinations import is_object_link

    if not is_object_link(out):
        if ledger is not None and ledger != Path(out):
            raise ConfigurationError(
                f"--ledger is for videos in an object store, and --out is the folder {out}",
                next_step="Leave --ledger away: the ledger lies beside the videos.",
            )
        return Path(out), None
    if ledger is None:
        raise ConfigurationError(
            f"--out: {out} is an object store, and the ledger needs a folder on this machine",
            next_step="Say where with --ledger FOLDER; the same one again goes on.",
        )
    return ledger, out


def _need_folder(folder: Path) -> None:
    """Raise `ConfigurationError` for what is no folder. Where a batch lies, no other is advised:
    there everything would be paid for again.
    """
    from ..batch._database import LEDGER_NAME
    from ..batch._ledger_file import is_there

    if not is_there(folder / LEDGER_NAME):
        need_folder(folder)
    else:
        need_folder(
            folder,
            "Put that right, then run the same line again. Another folder would pay for all that "
            "is paid in this one.",
        )


def _refuse_strange(folder: Path) -> None:
    """Raise `ConfigurationError` for a folder without a ledger.

    A name that was mistyped is wrong input, and must not become a new batch.
    """
    from ..batch._database import LEDGER_NAME
    from ..batch._ledger_file import is_there

    if not is_there(folder / LEDGER_NAME):
        raise ConfigurationError(
            f"there is no ledger in {folder}",
            next_step="Give the folder that `batch run` was given with --out.",
        )


def _limits(max_in_flight: int, max_credits: float | None, *, no_wait: bool) -> dict[str, Any]:
    from .._config import Budget

    return {
        "max_in_flight": max_in_flight,
        "budget": Budget(credits=str(max_credits)) if max_credits is not None else None,
        "wait_for_reset": not no_wait,
    }
