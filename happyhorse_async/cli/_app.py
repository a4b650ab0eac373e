"""All commands of `happyhorse`, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from ._account import credits_command, doctor, estimate, sandbox, upload
from ._batch import app as batch
from ._cluster import app as cluster
from ._generate import demo, generate
from ._tasks import app as tasks
from ._tasks import download

EXITS = """
Exit codes: 0 all is done; 1 a task or a download failed; 2 wrong usage, settings or input, nothing was sent; 3 not wanted at this price;
4 it is not known whether money was spent, see what is printed; 5 the service refused or cannot be reached; 130 interrupted.
Of several failures: 4 when one of them is that, the code that all share, otherwise 1.
"""

app = typer.Typer(
    name="happyhorse",
    help="Turn images into videos with HappyHorse 1.0.",
    epilog=EXITS,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"happyhorse-async {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Turn images into videos with HappyHorse 1.0."""


app.command()(demo)
app.command()(generate)
app.add_typer(batch, name="batch")
app.add_typer(cluster, name="cluster")
app.add_typer(tasks, name="tasks")
app.command()(download)
app.command()(upload)
app.command()(estimate)
app.command("credits")(credits_command)
app.command()(sandbox)
app.command()(doctor)
