"""The command `happyhorse`: arguments in, calls out, exit codes. Needs the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the entry point of the console script."""
    try:
        import typer  # noqa: F401 only to see whether the extra is there
    except ImportError:
        sys.exit(
            "happyhorse: the command line needs two more packages: pip install 'happyhorse-async[cli]'"
        )
    from ._app import app

    app()
