"""`happyhorse tasks get|list|watch|download`, and `happyhorse download --resume`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from ..errors import ConfigurationError, HappyHorseError
from ._common import Exit, exit_code, overall, report, run, takes_one
from ._connection import open_session
from ._console import counted, money, put, put_path, say
from ._options import AsJson, group_of

if TYPE_CHECKING:
    from .._account import TaskSummary
    from .._downloader.destinations import Destination
    from .._models import Task
    from .._session import Session

app = group_of("Look at tasks, follow them, and fetch their videos.")

Ids = Annotated[list[str], typer.Argument(help="Ids of tasks: task-unified-...", metavar="TASK_ID")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="A folder, where videos are named after tasks, or FILE.mp4 for one."
    ),
]


def describe(task: Task) -> dict[str, Any]:
    """Return a task's facts for JSON."""
    error = task.error
    return {
        "id": task.id,
        "status": task.status,
        "progress": task.progress,
        "results": task.results,
        "error": {"code": error.code, "message": error.message} if error is not None else None,
        "created": task.created,
        "expires_at": task.expires_at,
        "credits": task.usage.credits_used,
        "seconds": task.seconds,
    }


def line_of(task: Task) -> str:
    """Write a task on one line."""
    line = f"{task.id}  {task.status:<10}  {task.progress:>3} %"
    if task.error is not None:
        line += f"  {task.error.code}: {task.error.message}"
    elif task.expires_at is not None:
        line += (
            f"  {money(task.usage.credits_used)} credits, links die at "
            f"{task.expires_at:%Y-%m-%d %H:%M} UTC or later"
        )
    return line


def _show(task: Task, *, as_json: bool) -> None:
    put(describe(task) if as_json else line_of(task))


@app.command()
def get(ids: Ids, as_json: AsJson = False) -> None:
    """Show the state of tasks.

    Example: happyhorse tasks get task-unified-1761313744-h1i2vcd9
    """

    async def work() -> int:
        async with open_session() as session:
            codes: list[Exit] = []
            for task_id in ids:
                try:
                    _show(await session.read(task_id), as_json=as_json)
                    codes.append(Exit.DONE)
                except HappyHorseError as error:
                    report(error, as_json=as_json, about=task_id)
                    codes.append(exit_code(error))
        return overall(codes)

    run(work, as_json=as_json)


@app.command("list")
def list_tasks(
    status: Annotated[
        str | None, typer.Option("--status", help="processing, completed, failed or cancelled.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", help="Only tasks made at this UTC time or later.", formats=DATES),
    ] = None,
    before: Annotated[
        datetime | None,
        typer.Option("--before", help="Only tasks made before this UTC time.", formats=DATES),
    ] = None,
    page: Annotated[int, typer.Option("--page", help="From 1, newest first.", min=1)] = 1,
    page_size: Annotated[int, typer.Option("--page-size", min=1, max=50)] = 20,
    every: Annotated[
        bool, typer.Option("--all", help="Every page, from --page on.", show_default=False)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the account's tasks, newest first, a page or all of them.

    Example: happyhorse tasks list --status completed --since 2026-11-01 --all
    """
    if status is not None and status not in STATUSES:
        raise typer.BadParameter(f"expected one of {', '.join(STATUSES)}", param_hint="--status")

    async def work() -> None:
        shown = _Shown(since=_utc(since), before=_utc(before), as_json=as_json)
        async with open_session() as session:
            find = session.find_tasks
            # By dates, what is looked for may be on any page.
            if every or since is not None or before is not None:
                async for item in find(status=status, page=page, page_size=50):
                    if shown.is_over(item):
                        break
                    shown.show(item)
                say(counted(shown.count, "task"))
                return
            found = await find(status=status, page=page, page_size=page_size)
        for item in found.items:
            shown.show(item)
        pages = max(1, -(-found.total // found.page_size))
        more = f"; the next: --page {page + 1}" if page < pages else ""
        say(f"{shown.count} of {found.total} tasks, page {page} of {pages}{more}")

    run(work, as_json=as_json)


STATUSES = ("processing", "completed", "failed", "cancelled")
DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None else None


@attrs.define(kw_only=True)
class _Shown:
    """Prints tasks of the list, as far as they lie between two moments."""

    since: datetime | None
    before: datetime | None
    as_json: bool
    count: int = 0

    def is_over(self, item: TaskSummary) -> bool:
        """Return whether this one, and so all that follow, are too old."""
        return self.since is not None and item.created is not None and item.created < self.since

    def show(self, item: TaskSummary) -> None:
        """Print a task under a header, which goes where no program reads it."""
        if self.before is not None and item.created is not None and item.created >= self.before:
            return
        if not self.count and not self.as_json:
            say(f"{'TASK':<37} {'STATUS':<11} {'MADE (UTC)':<17} {'CREDITS':>9}  PROMPT OR MODEL")
        self.count += 1
        put(_summary(item) if self.as_json else _summary_line(item))


def _summary(item: TaskSummary) -> dict[str, Any]:
    return {
        "id": item.id,
        "status": item.status,
        "model": item.model,
        "created": item.created,
        "has_results": item.has_results,
        "credits": item.credits_used,
        "prompt": _prompt(item),
    }


def _prompt(item: TaskSummary) -> str | None:
    """Return the prompt where the service tells it, which it does not promise."""
    said = item.raw.get("prompt")
    return said if isinstance(said, str) and said else None


def _summary_line(item: TaskSummary) -> str:
    created = f"{item.created:%Y-%m-%d %H:%M}" if item.created is not None else "?"
    what = " ".join((_prompt(item) or item.model).split())
    shown = what if len(what) <= LONGEST_PROMPT else what[: LONGEST_PROMPT - 1] + "…"
    cost = money(item.credits_used)
    return f"{item.id:<37} {item.status:<11} {created:<17} {cost:>9}  {shown}".rstrip()


LONGEST_PROMPT = 50


@app.command()
def watch(ids: Ids, as_json: AsJson = False) -> None:
    """Follow tasks until all have ended, a line for each change.

    Example: happyhorse tasks watch task-unified-1761313744-h1i2vcd9
    """

    async def work() -> int:
        import anyio

        from .._rules.lifecycle import is_completed

        codes: list[Exit] = []

        async def follow(session: Session, task_id: str) -> None:
            code = Exit.FAILED
            try:
                async for task in session.task(task_id).updates():
                    _show(task, as_json=as_json)
                    code = Exit.DONE if is_completed(task) else Exit.FAILED
            except HappyHorseError as error:
                report(error, as_json=as_json, about=task_id)
                code = exit_code(error)
            codes.append(code)

        async with open_session() as session, anyio.create_task_group() as group:
            for task_id in dict.fromkeys(ids):
                group.start_soon(follow, session, task_id)
        return overall(codes)

    run(work, as_json=as_json)


@app.command("download")
def download_tasks(
    ids: Ids,
    out: Out = Path("videos"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there already.")
    ] = False,
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", help="Refuse larger videos.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Wait for tasks and save their videos; resumes what was fetched before.

    Example: happyhorse tasks download task-unified-1761313744-h1i2vcd9 -o cat.mp4
    """
    from .._config import Limits

    async def work() -> int:
        from .._downloader.destinations import Destination

        one = takes_one(out, len(ids), "tasks")
        place = Destination(str(out), exact=True, folder=not one)
        limits = Limits(max_video_bytes=max_bytes) if max_bytes is not None else Limits()
        async with open_session(limits=limits) as session:
            return await _download_all(
                session,
                [(task_id, place, None) for task_id in ids],
                overwrite=overwrite,
                as_json=as_json,
            )

    run(work, as_json=as_json, hint=_resumes)


def download(
    folder: Annotated[
        Path, typer.Argument(help="The folder with the unfinished downloads.")
    ] = Path("videos"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish everything left as .part.", show_default=False)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Finish the downloads that were interrupted in FOLDER (with --resume).

    Example: happyhorse download videos --resume
    """
    if not resume:
        say(
            "error: say --resume to finish what is left as .part; for single tasks use "
            "`happyhorse tasks download TASK_ID`"
        )
        raise typer.Exit(Exit.WRONG_INPUT)

    async def work() -> int:
        from .._downloader.destinations import Destination

        if not os.path.isdir(folder):
            raise ConfigurationError(
                f"{folder} is no folder", next_step="Give the folder with the .part files."
            )
        async with open_session() as session:
            leftovers = await session.leftovers(folder)
            if not leftovers:
                say(f"nothing is left to finish in {folder}")
            return await _download_all(
                session,
                [
                    (left.task_id, Destination(str(left.path), exact=True), left.index)
                    for left in leftovers
                ],
                overwrite=False,
                as_json=as_json,
            )

    run(work, as_json=as_json, hint=_resumes)


def _resumes() -> None:
    say("What came is kept: the same line goes on with it.")


async def _download_all(
    session: Session,
    jobs: Sequence[tuple[str, Destination, int | None]],
    *,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Save one video of each task, or, where no index is given, every one that it has."""
    import anyio

    from ._making import describe as describe_video

    codes: list[Exit] = []

    async def one(task_id: str, to: Destination, index: int | None) -> None:
        try:
            task = session.task(task_id)
            if index is None:
                videos = await task.download_all(to, overwrite=overwrite)
            else:
                videos = [await task.download(to, overwrite=overwrite, index=index)]
            for video in videos:
                put({"ok": True, **describe_video(video)}) if as_json else put_path(video.path)
            codes.append(Exit.DONE)
        except HappyHorseError as error:
            report(error, as_json=as_json, about=task_id)
            codes.append(exit_code(error))

    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(one, *job)
    return overall(codes)
