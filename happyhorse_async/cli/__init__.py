"""The command `happyhorse`: arguments in, calls out, exit codes. Needs the extra `cli`."""

from __future__ import annotations

import os
import sys

from .._version import __version__
from . import _help


def main() -> None:
    """Run the command line; the entry point of the console script."""
    # A shell that completes the command calls it without arguments, too.
    if sys.argv[1:2] in ([], ["-h"], ["--help"]) and _help.completed_name() is None:
        _print(_help.page())
        sys.exit(0 if sys.argv[1:] else 2)
    if sys.argv[1:2] == ["--version"]:
        _print(f"happyhorse-async {__version__}")
        return
    try:
        from ._app import start
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit(
            "happyhorse: the command line needs two more packages: "
            "pip install 'happyhorse-async[cli]'"
        )
    start()


def _print(text: str) -> None:
    """Print a text, as far as anybody reads it. `PatientStream` would take a page longer to load
    than to print.
    """
    try:
        print(text, flush=True)  # noqa: T201
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own last word
        if not isinstance(error, BrokenPipeError):
            sys.exit(f"happyhorse: the output could not be written ({error.strerror})")
