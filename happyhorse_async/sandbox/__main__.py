"""`python -m happyhorse_async.sandbox`: the sandbox without the command line's dependencies."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, TextIO

from ._faults import ACTIONS, fault_of_line
from ._sandbox import Sandbox
from ._scenarios import SCENARIOS, scenario_faults

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._faults import Fault
    from ._service import RequestRecord


def main(arguments: list[str] | None = None) -> int:
    """Read the arguments, run the sandbox, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m happyhorse_async.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=8787, help="port of the API; 0: a free one")
    parser.add_argument(
        "--files-port", type=int, default=8788, help="port of the file service; 0: a free one"
    )
    parser.add_argument("--speed", type=float, default=1.0, help="sandbox seconds per real second")
    parser.add_argument(
        "--video", choices=("auto", "real", "stub"), default="auto", help="which videos to make"
    )
    parser.add_argument(
        "--task-seconds",
        type=float,
        help="the life of every task in sandbox seconds; else a realistic one",
    )
    parser.add_argument("--scenario", choices=tuple(SCENARIOS), help="a named set of faults")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        dest="faults",
        metavar="LINE",
        help='a fault, such as "late-link seconds=20 probability=0.5"; may be repeated',
    )
    parser.add_argument("--list-faults", action="store_true", help="show every fault and end")
    given = vars(parser.parse_args(arguments))
    if given.pop("list_faults"):
        print(fault_list())  # noqa: T201  # a command speaks
        return 0
    return serve(**given)


def serve(
    *,
    port: int = 8787,
    files_port: int = 8788,
    speed: float = 1.0,
    video: str = "auto",
    task_seconds: float | None = None,
    scenario: str | None = None,
    faults: Sequence[str] = (),
    out: TextIO | None = None,
) -> int:
    """Run a sandbox until Ctrl-C or SIGTERM, and return the exit code: 0, or 2 when it cannot
    start.

    `faults` are lines such as `late-link seconds=20 probability=0.5`. What to export goes to
    standard output, or `out`; the requests go to standard error.
    """
    try:
        sandbox = Sandbox(
            port=port, files_port=files_port, speed=speed, video=video, task_seconds=task_seconds
        )
        bad_day = scenario_faults(scenario) if scenario is not None else []
        bad_day += map(fault_of_line, faults)
        asyncio.run(_serve(sandbox, bad_day, out or sys.stdout))
    except (ImportError, OSError, ValueError) as error:
        # a command speaks
        print(f"the sandbox cannot start: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def fault_list() -> str:
    """Return every fault with its details and what it does, for people at a terminal."""
    lines = []
    for _, action in sorted(ACTIONS.items()):
        details = " ".join(f"{name}=" for name in action.details)
        lines.append(f"{action.name} {details}".rstrip())
        lines.append(f"    {action.summary}")
    return "\n".join(lines)


async def _serve(sandbox: Sandbox, bad_day: list[Fault], out: TextIO) -> None:
    async with sandbox:
        for fault in bad_day:
            sandbox.fail(fault)
        sandbox.watch_requests(lambda record: print(line(record), file=sys.stderr, flush=True))  # noqa: T201
        stop = _stop_on_signals()
        print(_welcome(sandbox), file=out, flush=True)
        # Where the loop has no signal handlers, Ctrl-C cancels the wait instead.
        with contextlib.suppress(asyncio.CancelledError):
            await stop.wait()


def _welcome(sandbox: Sandbox) -> str:
    exports = [f"export {name}={value}" for name, value in sandbox.env().items()]
    return "\n".join(
        [
            *exports,
            f"# The sandbox runs at {sandbox.speed:g} times real time. Watch it at {sandbox.url}/",
            "# Nothing costs money here. Stop it with Ctrl-C.",
        ]
    )


def line(record: RequestRecord) -> str:
    """Return a request as one readable line."""
    moment = datetime.fromtimestamp(record.at).astimezone().strftime("%H:%M:%S")
    path = f"{record.path}?{record.query}" if record.query else record.path
    size = f"  {len(record.body):,} bytes in" if record.body else ""
    asked = f"{record.host:<7}  {record.method:<6} {path}"
    return f"{moment}  {asked}  ->  {_in_words(record.status)}{size}"


def _in_words(status: int | None) -> str:
    if status is None:
        return "no answer"
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _stop_on_signals() -> asyncio.Event:
    """Return what SIGINT and SIGTERM set; they do so before anybody is told how to stop the
    sandbox.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, stop.set)
    return stop


if __name__ == "__main__":
    sys.exit(main())
