"""`happyhorse cluster`: enqueue, work, status, report."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigurationError, HappyHorseError
from ._batch_run import MOST_SHOWN, Look, code_of
from ._common import Exit, exit_code, overall, run
from ._connection import open_session
from ._console import money, put, say, stream_for_people
from ._options import (
    AsJson,
    Encoding,
    FirstRows,
    IgnoreUnknown,
    Kinds,
    MaxCredits,
    OneSource,
    RetryFailed,
    RowDuration,
    RowPrompt,
    RowQuality,
    RowSeed,
    Title,
    Yes,
    group_of,
)
from ._signals import calling_on_signals
from ._standing import span

if TYPE_CHECKING:
    from ..batch import Outcome
    from ..integrations.dbos import Cluster, ClusterOverview, Enqueued

app = group_of("Work on one batch with several machines, over PostgreSQL (the extra `dbos`).")

Link = Annotated[
    str,
    typer.Option(
        "--database",
        envvar="HAPPYHORSE_DATABASE",
        help="The database, like postgresql://user@host/name; one for each batch. "
        "For a quick try on one machine, sqlite:///file.db.",
    ),
]
SomeOut = Annotated[
    str | None,
    typer.Option(
        "--out",
        help="Where the videos go: a folder that all workers see, or s3://bucket/prefix.",
        show_default=False,
    ),
]
Unfinished = Annotated[
    int | None,
    typer.Option(
        "--max-unfinished",
        help="Tasks of all workers that have not ended, at most.",
        min=1,
        show_default=False,
    ),
]
PerSecond = Annotated[
    float | None,
    typer.Option(
        "--max-per-second",
        help="Submissions of all workers a second, at most.",
        min=0.01,
        show_default=False,
    ),
]


@app.command(cls=OneSource)
def enqueue(
    source: Annotated[
        str | None,
        typer.Argument(help="As `batch run` takes it.", metavar="SOURCE", show_default=False),
    ] = None,
    database: Link = "",
    out: SomeOut = None,
    from_folder: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Go on with the batch of this folder: what it has paid for is found.",
            show_default=False,
        ),
    ] = None,
    prompt: RowPrompt = None,
    duration: RowDuration = None,
    quality: RowQuality = None,
    seed: RowSeed = None,
    limit: FirstRows = None,
    max_credits: MaxCredits = None,
    max_unfinished: Unfinished = None,
    max_per_second: PerSecond = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Enter the good rows although there are bad ones.")
    ] = False,
    encoding: Encoding = None,
    ignore_unknown: IgnoreUnknown = False,
    retry_failed: RetryFailed = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Enter every row as a job. The same rows again add nothing, and a longer table what is new.

    Limits hold over all workers together, and stay until they are said anew.

    Example: happyhorse cluster enqueue photos.csv --out /shared/videos
    """
    if (source is None) == (from_folder is None):
        raise typer.BadParameter("give a SOURCE, or a folder with --from")
    if from_folder is not None and out is not None:
        raise typer.BadParameter("--from: its videos stay where they are; leave --out away")

    async def work() -> int:
        from ..batch._manifest import Manifest

        cluster = _cluster(database)
        if out is not None:
            cluster.refuse_place(out)
        limits: dict[str, Any] = {
            "unfinished": max_unfinished,
            "rate": max_per_second,
            "credits": max_credits,
        }
        if from_folder is not None:
            told = await cluster.take_over(from_folder)
            await cluster.set_limits(**limits)
        else:
            defaults = {"prompt": prompt, "duration": duration, "quality": quality, "seed": seed}
            manifest = Manifest(
                source or "",
                defaults=defaults,
                limit=limit,
                encoding=encoding,
                ignore_unknown=ignore_unknown,
            )
            async with open_session() as session:
                look = Look(skip_bad=skip_bad, quiet=yes, as_json=as_json)
                _, code = await look.at(session, manifest)
            if code is not None:
                return code
            await cluster.set_limits(**limits)
            told = await cluster.enqueue(manifest.jobs(), out=out, retry_failed=retry_failed)
        _tell(told, as_json=as_json)
        return overall(exit_code(refused.error) for refused in told.refused)

    run(work, as_json=as_json)


@app.command("work")
def work_command(
    database: Link = "",
    out: SomeOut = None,
    max_in_flight: Annotated[
        int,
        typer.Option(
            "--max-in-flight", help="Jobs in each worker; the last one started says.", min=1
        ),
    ] = 300,
    max_credits: MaxCredits = None,
    max_unfinished: Unfinished = None,
    max_per_second: PerSecond = None,
    drain: Annotated[
        float,
        typer.Option("--drain", help="Seconds after SIGTERM in which paid jobs may end.", min=0),
    ] = 25.0,
    until_done: Annotated[
        bool, typer.Option("--until-done", help="End when no job is left.", show_default=False)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Work on the jobs of the database, until SIGTERM or Ctrl-C. Start as many as you like.

    A worker that dies is noticed within seconds, and the others go on with its jobs.

    Example: happyhorse cluster work
    """

    async def work() -> int:
        from ..integrations.dbos import WorkerOptions

        cluster = _cluster(database)
        await cluster.set_limits(
            unfinished=max_unfinished, rate=max_per_second, credits=max_credits
        )
        place = await cluster.place(out)
        codes: set[Exit] = set()

        def told(outcome: Outcome) -> None:
            codes.add(code_of(outcome))
            _show(outcome, as_json=as_json)

        options = WorkerOptions(in_flight=max_in_flight, drain=drain, until_done=until_done)
        async with open_session() as session:
            worker = cluster.worker(session, out=place, options=options, told=told)
            with calling_on_signals(worker.stop):
                await worker.run()
        return overall(codes)

    run(work, as_json=as_json)


@app.command()
def status(
    database: Link = "",
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every second.", show_default=False)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how the jobs, the money and the workers stand, also while they work.

    Example: happyhorse cluster status --watch
    """

    async def work() -> int:
        cluster = _cluster(database, begun=True)
        if watch and not as_json:
            await _watch(cluster)
            return Exit.DONE
        facts = await cluster.overview()
        lines = lines_of(facts)
        if facts.missing is None:
            lines.append(f"{facts.out} cannot be seen from here: saved videos may be missing")
        put(facts.to_dict() if as_json else "\n".join(lines))
        return Exit.DONE

    run(work, as_json=as_json)


@app.command()
def report(
    database: Link = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="The folder for the reports; beside the videos.", show_default=False
        ),
    ] = None,
    kind: Kinds = "html,jsonl,csv",
    title: Title = None,
    as_json: AsJson = False,
) -> None:
    """Write what became of every job beside the videos, as `batch report` does.

    Example: happyhorse cluster report --kind html
    """

    async def work() -> int:
        kinds = tuple(word.strip() for word in kind.split(",") if word.strip())
        cluster = _cluster(database, begun=True)
        for path in await cluster.write_reports(kinds, out=out, title=title):
            put({"path": str(path)} if as_json else str(path))
        return Exit.DONE

    run(work, as_json=as_json)


def _cluster(database: str, *, begun: bool = False) -> Cluster:
    """Return the cluster of a database; with `begun` a file of SQLite has to be there: a name that
    was mistyped must not become a new cluster.
    """
    try:
        from ..integrations.dbos import Cluster
        from ..integrations.dbos._sqlite import is_sqlite, path_of
    except ImportError as error:
        raise ConfigurationError(
            f"a cluster needs the extra `dbos` ({error})",
            next_step="pip install 'happyhorse-async[cli,dbos]'",
        ) from error
    if not database:
        raise ConfigurationError(
            "no database was given",
            next_step="Say --database postgresql://user@host/name, or set HAPPYHORSE_DATABASE.",
        )
    cluster = Cluster(database)
    if is_sqlite(database):
        _refuse_missing(path_of(database), begun=begun)
    if cluster.caveat:
        say(f"note: {cluster.caveat}")
    return cluster


def _refuse_missing(path: Path, *, begun: bool) -> None:
    if begun and not os.path.lexists(path):
        raise ConfigurationError(
            f"there is no database at {path}",
            next_step="Give the one that `happyhorse cluster enqueue` was given.",
        )
    if os.path.isdir(path) or not os.path.isdir(path.parent):
        problem = f"{path} is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ConfigurationError(
            f"--database: {problem}",
            next_step="Give a file in a folder that is there, as sqlite:///folder/file.db.",
        )


def _tell(told: Enqueued, *, as_json: bool) -> None:
    for refused in told.refused[:MOST_SHOWN]:
        if as_json:
            put({"event": "refused", "id": refused.id, "error": refused.error.to_dict()})
        else:
            say(f"error: {refused.id}: {refused.error}")
    facts: dict[str, Any] = {
        "added": told.added,
        "known": told.known,
        "taken_over": told.taken_over,
        "saved": told.saved,
        "refused": len(told.refused),
    }
    if as_json:
        put({"event": "enqueued", **facts})
    else:
        say(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in facts.items()))


def _show(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        put({"event": "outcome", "pid": os.getpid(), **outcome.to_dict()})
    elif outcome.ok:
        say(f"{outcome.id}: {outcome.video.path}")
    else:
        error: HappyHorseError = outcome.error
        say(f"{outcome.id}: {outcome.state.value}: {error}")


async def _watch(cluster: Cluster) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(file=stream_for_people()), auto_refresh=False) as live:
        while True:
            facts = await cluster.overview(look=False)
            live.update(Text("\n".join(lines_of(facts))), refresh=True)
            if not facts.left:
                return
            await asyncio.sleep(1.0)


def lines_of(facts: ClusterOverview) -> list[str]:
    """Write how a cluster stands, for people."""
    totals, limits = facts.totals, facts.limits
    lines = [
        f"videos in {facts.out or '?'}: {totals.ended:,} of {totals.jobs:,} jobs have ended",
        "  " + ", ".join(f"{count:,} {state.value}" for state, count in totals.states.items()),
        f"  credits: {money(totals.spent)} spent, {money(totals.reserved)} reserved"
        + (f", of {money(limits.budget / 1e6)}" if limits.budget is not None else ""),
        f"  {facts.per_hour:,.0f} jobs an hour",
    ]
    told = ((limits.unfinished, "unfinished tasks"), (limits.rate, "submissions a second"))
    if held := [f"{most:,} {what}" for most, what in told if most is not None]:
        lines.append("  limits: " + ", ".join(held))
    lines += [f"  {count:,} x {code}" for code, count in totals.failures.items()]
    if totals.dying and totals.first_death is not None:
        first = span(totals.first_death - time.time())
        lines.append(f"  links about to die: {totals.dying:,}, the first in {first}")
    if facts.missing:
        lines.append(f"  not in their place any more, or not whole: {facts.missing:,} saved videos")
    if facts.left and not facts.workers:
        lines.append("no worker: start one with `happyhorse cluster work`")
    for worker in facts.workers:
        word = "works on" if worker.alive else "is dead, and had"
        lines.append(
            f"worker {worker.id} ({worker.host}, process {worker.pid}) {word} "
            f"{worker.in_hand:,} jobs" + (f"; {worker.word}" if worker.word else "")
        )
    return lines
