"""The command `happyhorse`: arguments in, calls out, exit codes. Needs the extra `cli`."""

from __future__ import annotations

import sys

from .._version import __version__
from . import _help


def main() -> None:
    """Run the command line; the entry point of the console script."""
    if sys.argv[1:2] in ([], ["-h"], ["--help"]):
        print(_help.page())  # noqa: T201
        sys.exit(0 if sys.argv[1:] else 2)
    if sys.argv[1:2] == ["--version"]:
        print(f"happyhorse-async {__version__}")  # noqa: T201
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
