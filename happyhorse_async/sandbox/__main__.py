"""`python -m happyhorse_async.sandbox`: the sandbox without the command line's dependencies."""

from __future__ import annotations

import argparse
import sys

from ._scenarios import SCENARIOS
from ._serve import fault_list, serve


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


if __name__ == "__main__":
    sys.exit(main())
