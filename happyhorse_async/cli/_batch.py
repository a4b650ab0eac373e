"""`happyhorse batch`: run, status, retry, report."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, HappyHorseError, LedgerError
from ._common import Exit, exit_code, need_folder, overall, run
from ._connection import open_session
from ._console import agreed, money, put, say
from ._options import AsJson, MaxCredits, Sandboxed, Speed, Yes
from ._signals import stopping_on_signals

if TYPE_CHECKING:
    from .._session import Session
    from ..batch import Batch, Outcome, Outcomes
    from ..batch._manifest import BadLine, Manifest
    from ._display import BatchDisplay

app = typer.Typer(
    help="Turn many images into videos: durable, resumable, within a budget.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
MOST_SHOWN = 50
"""Bad rows that are printed one by one."""


@app.command("run")
def run_command(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder or a glob of images; or a .csv, .tsv, .json, .jsonl or .parquet table of "
            "them; or - for a table from standard input.",
            metavar="SOURCE",
        ),
    ],
    out: Out = "videos",
    ledger: LedgerFolder = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="For rows that have none.")] = None,
    duration: Annotated[
        int | None, typer.Option("--duration", help="Seconds, 3 to 15, for rows that have none.")
    ] = None,
    quality: Annotated[
        str | None, typer.Option("--quality", help="720p or 1080p, for rows that have none.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="1 to 2147483647, for rows that have none.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Only the first rows.", min=1)
    ] = None,
    max_in_flight: InFlight = 200,
    max_credits: MaxCredits = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every row, print the price, and spend nothing.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Work on the good rows although there are bad ones.")
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option("--encoding", help="Of a table that is not Unicode: gbk, cp1252, ..."),
    ] = None,
    ignore_unknown: Annotated[
        bool,
        typer.Option(
            "--ignore-unknown", help="Keep columns that look like misspelt fields as your own."
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Begin failed jobs of this input again.")
    ] = False,
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
        from ..batch._manifest import Manifest

        folder, store = _places(out, ledger)
        need_folder(folder)
        defaults = {"prompt": prompt, "duration": duration, "quality": quality, "seed": seed}
        manifest = Manifest(
            source,
            defaults=defaults,
            limit=limit,
            encoding=encoding,
            ignore_unknown=ignore_unknown,
        )
        async with open_session(sandbox=sandbox, speed=speed) as session:
            code = await _checked(
                session,
                manifest,
                skip_bad=skip_bad,
                quiet=dry_run or yes or sandbox,
                as_json=as_json,
            )
            if code is not None or dry_run:
                return code or Exit.DONE
            options = _limits(max_in_flight, max_credits, no_wait=no_wait)
            async with session.batch(folder, out=store, verify=verify, **options) as batch:
                outcomes = batch.run(manifest.jobs(), retry_failed=retry_failed)
                return await _follow(session, batch, outcomes, as_json=as_json, private=sandbox)

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
    """Begin the failed jobs of a folder again, and ask for those whose fate is not known with the
    same key.

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
            return await _follow(session, batch, batch.retry(), as_json=as_json, private=sandbox)

    run(work, as_json=as_json)


@app.command()
def status(folder: Folder = None, out: SameFolder = None, as_json: AsJson = False) -> None:
    """Say how a folder's batch stands, also while it runs.

    Example: happyhorse batch status videos
    """
    where = _folder_of(folder, out)

    async def work() -> int:

        from ..batch.report import overview
        from ._display import lines_of

        facts = await asyncio.to_thread(overview, where)
        if as_json:
            put(facts.as_json())
        else:
            put("\n".join(lines_of(facts)))
        return Exit.DONE

    run(work, as_json=as_json)


@app.command()
def report(
    folder: Folder = None,
    out: SameFolder = None,
    kind: Annotated[
        str,
        typer.Option("--kind", help="Which: html (a gallery), jsonl, csv; several with commas."),
    ] = "html,jsonl,csv",
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Write what became of every job: results.jsonl, results.csv, and gallery.html, which works
    without a server.

    Example: happyhorse batch report videos --kind html
    """
    where = _folder_of(folder, out)

    async def work() -> int:

        from ..batch.report import write_reports

        kinds = tuple(word.strip() for word in kind.split(",") if word.strip())
        paths = await asyncio.to_thread(write_reports, where, kinds, verify=verify)
        for path in paths:
            put({"path": str(path)} if as_json else str(path))
        return Exit.DONE

    run(work, as_json=as_json)


def _folder_of(folder: Path | None, out: Path | None) -> Path:
    """Give the folder, which may be said in either way."""
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


def _refuse_strange(folder: Path) -> None:
    """Raise `LedgerError` for a folder without a ledger: a name that was mistyped must not become a
    new batch.
    """
    from ..batch._database import LEDGER_NAME

    if not (folder / LEDGER_NAME).exists():
        raise LedgerError(
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


# --- before ---------------------------------------------------------------------------------------


async def _checked(
    session: Session, manifest: Manifest, *, skip_bad: bool, quiet: bool, as_json: bool
) -> int | None:
    """Look at every row and say the price; gives an exit code when this is the end."""
    from ..batch._manifest import check

    found = await check(manifest, session.estimate)
    _show_bad(found.bad, found.bad_rows, as_json=as_json)
    _show_skipped(*manifest.skipped, as_json=as_json)
    if found.cut_prompts:
        say(
            f"warning: {found.cut_prompts} prompts are longer than the service reads, and will be cut"
        )
    price = {
        "event": "checked",
        "jobs": found.good,
        "bad_rows": found.bad_rows,
        "credits": found.credits,
        "usd": found.usd,
    }
    if as_json:
        put(price)
    else:
        cost = f"about {money(found.credits)} credits (${found.usd:,.2f})"
        say(f"{found.good:,} jobs, {found.bad_rows:,} bad rows: {cost} if none is done yet")
    if found.bad_rows and not skip_bad:
        say("nothing was sent: mend the bad rows, or leave them out with --skip-bad")
        return Exit.WRONG_INPUT
    if not found.good:
        say(f"nothing was sent: there is no job in {manifest.source}")
        return Exit.WRONG_INPUT
    if not quiet and not agreed("Go on?"):
        return Exit.NOT_WANTED
    return None


def _show_bad(bad: Sequence[BadLine], count: int, *, as_json: bool) -> None:
    """Name the bad rows; those that follow each other with the same problem share a line."""
    groups = [list(group) for _, group in itertools.groupby(bad, key=lambda row: row.problems)]
    for group in groups[:MOST_SHOWN]:
        for row in group if as_json else ():
            put(
                {"event": "bad_row", "place": row.place, "line": row.line, "problems": row.problems}
            )
        more = f", and the next {len(group) - 1:,} alike" if len(group) > 1 else ""
        say(f"error: {group[0]}{more}")
    left = count - sum(map(len, groups[:MOST_SHOWN]))
    if left:
        say(f"... and {left:,} more bad rows")


def _show_skipped(count: int, names: Sequence[str], *, as_json: bool) -> None:
    if as_json and count:
        put({"event": "skipped", "files": count, "names": list(names)})
    if count:
        named = ", ".join(names) + (", ..." if count > len(names) else "")
        say(f"skipped, as no JPEG, PNG or WEBP by name: {count:,} ({named})")


# --- while it runs --------------------------------------------------------------------------------


async def _follow(
    session: Session, batch: Batch, outcomes: Outcomes, *, as_json: bool, private: bool
) -> int:
    """Take the outcomes to the end; `private`: the service is a sandbox that ends with this
    process, and its tasks with it.
    """
    from ._display import BatchDisplay

    command = f"happyhorse batch ... --out {batch.place}"
    counts = {True: 0, False: 0}
    codes: set[Exit] = set()

    def take(outcome: Outcome) -> None:
        counts[outcome.ok] += 1
        codes.add(_code_of(outcome))
        _show(outcome, display, as_json=as_json)

    display = BatchDisplay(session, batch, as_json=as_json, private=private)
    with display, stopping_on_signals(batch, display.signalled):
        try:
            error = await _take_all(outcomes, display, take)
            totals = await batch.totals()
        except asyncio.CancelledError:
            kept = f"What is paid is not lost: run the same line again ({command})"
            say(
                f"stopped at once. {kept if not private else 'What was being made has ended with the sandbox.'}"
            )
            raise typer.Exit(Exit.INTERRUPTED) from None
    display.final(totals, counts)
    if error is not None:
        say(f"the batch stopped: {error}")
        say(
            f"  next: {error.next_step or 'Run the same line again.'} Run the same line again to go on."
        )
        if as_json:
            put({"event": "stopped", "error": error.to_dict()})
        # What stopped the batch says more than the jobs that failed before, unless their money is
        # in doubt.
        return overall({exit_code(error)} | (codes & {Exit.OUTCOME_UNKNOWN}))
    if display.signals:
        say(f"stopped after what was paid. To go on, run the same line again ({command})")
        return Exit.INTERRUPTED
    return overall(codes)


async def _take_all(
    outcomes: Outcomes, display: BatchDisplay, take: Callable[[Outcome], None]
) -> HappyHorseError | None:
    """Take every outcome; gives what stopped the batch before its end."""
    try:
        async with display.refreshing():
            async for outcome in outcomes:
                take(outcome)
    except HappyHorseError as stopped:
        return stopped
    return None


def _code_of(outcome: Outcome) -> Exit:
    """Give a job's code from its state, which the next run tells again, rather than from its error,
    which keeps no class in the ledger.
    """
    from .._rules.lifecycle import JobState

    if outcome.ok:
        return Exit.DONE
    return Exit.OUTCOME_UNKNOWN if outcome.state is JobState.UNKNOWN else Exit.FAILED


def _show(outcome: Outcome, display: Any, *, as_json: bool) -> None:
    if as_json:
        video, error = outcome.video, outcome.error
        put(
            {
                "event": "outcome",
                "id": outcome.id,
                "state": outcome.state.value,
                "path": str(video.path) if video is not None else None,
                "sha256": video.sha256 if video is not None else None,
                "task_id": outcome.task_id,
                "credits": outcome.credits,
                "attempts": outcome.attempts,
                "resumed": outcome.resumed,
                **({"error": error.to_dict()} if error is not None else {}),
                **({"extra": dict(outcome.extra)} if outcome.extra else {}),
            }
        )
    elif not outcome.resumed:
        display.outcome(outcome)
