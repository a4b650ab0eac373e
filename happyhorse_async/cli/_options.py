"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class OneSource(TyperCommand):
    """A command with one SOURCE: of several it says what a shell has done, and what helps."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; more than one are wrong usage."""
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:  # not while a shell completes
            ctx.fail(
                f"expected one SOURCE, and got {ctx.args[0]!r} beside it: put a pattern in "
                "quotation marks, as in 'photos/*.jpg', so that the shell leaves it to this command"
            )
        return rest


Sandboxed = Annotated[
    bool,
    typer.Option(
        "--sandbox",
        help="Speak to the service's sandbox, started on this machine: no key, no cost.",
        show_default=False,
    ),
]
Speed = Annotated[
    float,
    typer.Option(
        "--speed", help="How much faster than real time the sandbox runs.", min=0.001, max=1e6
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON, one object a line, for scripts.", show_default=False),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask before spending.", show_default=False)
]
MaxCredits = Annotated[
    float | None,
    typer.Option(
        "--max-credits", help="Send nothing whose estimate goes beyond this in all.", min=0
    ),
]
Duration = Annotated[
    int, typer.Option("--duration", "-d", help="Seconds, 3 to 15; changes the price.")
]
Quality = Annotated[str, typer.Option("--quality", "-q", help="720p or 1080p; changes the price.")]
Seed = Annotated[
    int | None,
    typer.Option("--seed", "-s", help="1 to 2147483647; drawn by the service when left out."),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="Another model; `happyhorse models` lists them.", metavar="ID"),
]

RowPrompt = Annotated[str | None, typer.Option("--prompt", help="For rows that have none.")]
RowDuration = Annotated[
    int | None, typer.Option("--duration", help="Seconds, 3 to 15, for rows that have none.")
]
RowQuality = Annotated[
    str | None, typer.Option("--quality", help="720p or 1080p, for rows that have none.")
]
RowSeed = Annotated[
    int | None, typer.Option("--seed", help="1 to 2147483647, for rows that have none.")
]
FirstRows = Annotated[
    int | None, typer.Option("--limit", help="Only the first rows.", min=1, max=10**9)
]
Encoding = Annotated[
    str | None,
    typer.Option("--encoding", help="Of a table that is not Unicode: gbk, cp1252, ..."),
]
IgnoreUnknown = Annotated[
    bool,
    typer.Option(
        "--ignore-unknown", help="Keep columns that look like misspelt fields as your own."
    ),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Begin failed jobs of this input again.")
]
Kinds = Annotated[
    str, typer.Option("--kind", help="Which: html (a gallery), jsonl, csv; several with commas.")
]
Title = Annotated[
    str | None, typer.Option("--title", help="The gallery's title; by default the folder's.")
]


def group_of(told: str) -> typer.Typer:
    """Make a command with commands of its own; `told` is the help of all."""
    return typer.Typer(help=told, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def _chosen(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Keep a shared option for the session that the command opens."""
    if value == "" and param.name in _WHOSE:
        raise typer.BadParameter("expected a value, got none; leave the option out for the usual")
    if value:
        CHOSEN[param.name or ""] = value
    return value


_WHOSE = ("api_key", "profile", "base_url", "files_url")
"""Options that say whose account pays: `--api-key "$CLIENT"` must not pay from another one when
nothing has set CLIENT."""

CHOSEN: dict[str, Any] = {}
"""What was chosen of the shared options; a process runs one command."""


REPEATED = ("profile", "base_url", "files_url", "proxy", "ca_file", "allow")
"""Options that a line to type next must have as well. Not the key, which is nobody's to read."""


def repeated() -> list[str]:
    """Return the chosen options that lead to the same service and account, as words of a line."""
    words: list[str] = []
    for name in REPEATED:
        values = CHOSEN.get(name, ())
        for value in values if isinstance(values, (list, tuple)) else [values]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _kept(told: str, *names: str, metavar: str | None = None) -> Any:
    """Make a shared option, whose help is `told`."""
    return typer.Option(*names, help=told, metavar=metavar, callback=_chosen, expose_value=False)


_KEY = "The key; others on this machine can read it here: see `happyhorse profile`."
_PROXY = "An http or https proxy, also for downloads; - for none at all."
_CERTIFICATES = "Certificates to trust beside the system's, as a PEM file."
_ADDRESSES = (
    "Addresses off the public internet that result links may lead to, such as 198.18.0.0/15; may "
    "be repeated."
)


def shared(
    api_key: Annotated[str | None, _kept(_KEY, "--api-key")] = None,
    profile: Annotated[
        str | None, _kept("A key and hosts kept by `happyhorse profile`.", "--profile")
    ] = None,
    base_url: Annotated[str | None, _kept("Another service's host.", "--base-url")] = None,
    files_url: Annotated[str | None, _kept("Its file host.", "--files-url")] = None,
    proxy: Annotated[str | None, _kept(_PROXY, "--proxy")] = None,
    ca_file: Annotated[Path | None, _kept(_CERTIFICATES, "--ca-file")] = None,
    allow: Annotated[list[str] | None, _kept(_ADDRESSES, "--allow", metavar="RANGE")] = None,
    verbose: Annotated[bool, _kept("Say everything that happens.", "--verbose", "-v")] = False,
    debug: Annotated[bool, _kept("Also log, and show where errors come from.", "--debug")] = False,
) -> None:
    """Hold the options that every command has."""
