"""What all commands share: running, errors, and exit codes."""

from __future__ import annotations

import os
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from enum import IntEnum
from pathlib import Path

import typer

from ..errors import (
    APIStatusError,
    BudgetExceededError,
    ConfigurationError,
    DestinationExistsError,
    DownloadError,
    HappyHorseError,
    InvalidRequestError,
    PriceUnavailableError,
    SubmissionOutcomeUnknownError,
    TransportError,
)
from ._advice import LINE_BELOW, SAME_LINE, spelled
from ._console import be_tolerant, put, say
from ._options import CHOSEN


class Exit(IntEnum):
    """The documented exit codes."""

    DONE = 0
    FAILED = 1
    WRONG_INPUT = 2
    NOT_WANTED = 3
    OUTCOME_UNKNOWN = 4
    SERVICE = 5
    INTERRUPTED = 130


_EXITS: tuple[tuple[type[HappyHorseError], Exit], ...] = (
    (SubmissionOutcomeUnknownError, Exit.OUTCOME_UNKNOWN),
    (BudgetExceededError, Exit.NOT_WANTED),
    (PriceUnavailableError, Exit.SERVICE),
    (InvalidRequestError, Exit.WRONG_INPUT),
    (ConfigurationError, Exit.WRONG_INPUT),
    (DestinationExistsError, Exit.WRONG_INPUT),
    (APIStatusError, Exit.SERVICE),
    (TransportError, Exit.SERVICE),
)


def exit_code(error: HappyHorseError) -> Exit:
    """Return the exit code that stands for an error."""
    return next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.FAILED)


def overall(codes: Iterable[Exit]) -> Exit:
    """Return the exit code of a command from those of its parts, the good ones too.

    Money whose fate is not known outranks the rest. Failures that are all alike give their code.
    All else is FAILED, also where WRONG_INPUT would deny that something else was sent.
    """
    found = set(codes)
    failures = found - {Exit.DONE}
    if Exit.OUTCOME_UNKNOWN in failures:
        return Exit.OUTCOME_UNKNOWN
    if len(failures) > 1 or found == {Exit.DONE, Exit.WRONG_INPUT}:
        return Exit.FAILED
    return next(iter(failures), Exit.DONE)


def need_folder(out: Path, step: str = "Choose another folder with --out.") -> None:
    """Raise `ConfigurationError` when --out is no folder and cannot become one: to be found out
    before anything is paid. `step` says what helps.
    """
    from .._downloader.destinations import is_bent_link, refuse_unwritable

    if is_bent_link(str(out)):
        raise ConfigurationError(
            f"--out: {out} is a link, and this command saves into folders",
            next_step="Use `happyhorse batch run --out s3://bucket/prefix --ledger FOLDER`, or a "
            "folder.",
        )
    try:
        refuse_unwritable(out, f"a video in {out}")
    except DownloadError as error:
        raise ConfigurationError(f"--out: {error}", next_step=step) from None


def takes_one(out: Path, count: int, things: str) -> bool:
    """Return whether --out is a file, for one video, and not a folder.

    Raises `ConfigurationError` when nothing can be saved there, or when it is a file and there are
    several `things`.
    """
    one = out.suffix.lower() == ".mp4" and not os.path.isdir(out)
    if one and count > 1:
        raise ConfigurationError(
            f"--out: {out} is one file, and there are {count} {things}",
            next_step="Give a folder with --out.",
        )
    need_folder(out.parent if one else out)
    return one


def run(
    work: Callable[[], Awaitable[int | None]],
    *,
    as_json: bool = False,
    hint: Callable[[], None] = lambda: None,
) -> None:
    """Run a command's coroutine and exit with its code. An error is printed with what it means for
    the user's money.

    Whatever else ends it, `hint` then says how to get what was paid. SIGTERM and SIGHUP are heard
    as Ctrl-C.
    """
    import asyncio  # late, as all that `--help` does not need

    be_tolerant()
    try:
        code = asyncio.run(_entered(work))
    except HappyHorseError as error:
        report(error, as_json=as_json)
        if CHOSEN.get("debug"):
            traceback.print_exc()
        raise typer.Exit(exit_code(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        # The latter: Ctrl-C once more, while it was coming to an end.
        hint()
        say("interrupted")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except typer.Exit:
        raise
    except BaseException:
        hint()
        raise
    raise typer.Exit(code or Exit.DONE)


async def _entered(work: Callable[[], Awaitable[int | None]]) -> int | None:
    from ._signals import heard_as_ctrl_c

    with heard_as_ctrl_c():
        return await work()


def report(
    error: HappyHorseError, *, as_json: bool = False, about: str = "", line: str = ""
) -> None:
    """Print an error: what happened, what it cost, what to do next.

    `line` is what the person may type for it; without one the same line is meant.
    """
    step = spelled(error.next_step, LINE_BELOW if line else SAME_LINE)
    if as_json:
        facts = {**error.to_dict(), "next_step": step, **({"run": line} if line else {})}
        put({"ok": False, **({"image": about} if about else {}), "error": facts})
    # What is set up wrongly is told in the words of Python, too.
    told = spelled(str(error)) if isinstance(error, ConfigurationError) else str(error)
    problems = error.problems if isinstance(error, InvalidRequestError) else (told,)
    for problem in problems:
        say(_flat(f"error: {about}: {problem}" if about else f"error: {problem}"))
    for label, value in _facts(error):
        say(_flat(f"  {label}: {value}"))
    say(_flat(f"  next: {step}"))
    if line:
        say(_flat(f"  run: {line}"))


def _facts(error: HappyHorseError) -> Iterator[tuple[str, str]]:
    """List what an error carries beside its message."""
    candidates = getattr(error, "candidates", ())
    for label, value in (
        ("task", error.task_id),
        ("idempotency key", error.idempotency_key),
        ("request id", error.request_id),
        ("money spent", error.charged if error.charged != "no" else None),
        ("could be", f"happyhorse tasks get {' '.join(candidates)}" if candidates else None),
    ):
        if value:
            yield label, value


def _flat(text: str) -> str:
    """Return a text of one line: a service's words must not look like a line of ours."""
    return text.replace("\r", "\\r").replace("\n", "\\n")
