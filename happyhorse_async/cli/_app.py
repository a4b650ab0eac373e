"""All commands of `happyhorse`, put together; a command's module is loaded when it is used."""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import completion as shells
from typer.core import TyperGroup

from ._console import put
from ._help import (
    COMMANDS,
    EXITS,
    NAMES,
    VARIABLES,
    completed_name,
    completion_variable,
    page,
)
from ._options import shared

NEEDS_NO_KEY = ("demo", "sandbox", "completion", "profile")
"""Commands that speak to no service of the user's: they get no options for one."""


class _Commands(TyperGroup):
    """The commands, each loaded by its name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found = getattr(import_module(f".{module}", __package__), attribute)
        command = _made(found, cmd_name)
        if cmd_name not in NEEDS_NO_KEY:
            _share(command)
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page() + "\n")


def _made(found: Any, name: str) -> Any:
    """Return the command of a function, or of a group of functions."""
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name, context_settings=HELP)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
    return command


def _share(command: Any) -> None:
    """Give a command, or each one of a group, the options that all have, and say the variables."""
    for inner in getattr(command, "commands", {}).values():
        _share(inner)
    if not hasattr(command, "commands"):
        command.params.extend(typer.main.get_command(_SHARED).params)
        command.epilog = " ".join(f"{VARIABLES} {EXITS}".split())


HELP = {"help_option_names": ["-h", "--help"]}
_SHARED = typer.Typer(add_completion=False)
_SHARED.command()(shared)

app = typer.Typer(
    name="happyhorse",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_help_option=False,
    context_settings=HELP,
)


@app.callback()
def _options() -> None:
    # No option here: `main` answers `--version` and `--help`. To read an option here would load
    # typer's checks of values, which takes longer than all the rest of a command's help.
    pass


class Shell(StrEnum):
    """The shells that can complete the command."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print a script that makes a shell complete the command.

    Example: happyhorse completion bash >> ~/.bashrc
    """
    # Typer's own options for this would stand on the page of every command.
    name = Path(sys.argv[0]).name
    name = name if name in NAMES else NAMES[0]
    script = shells.get_completion_script(  # type: ignore[attr-defined]
        prog_name=name, complete_var=completion_variable(name), shell=shell.value
    )
    put(script)


def start() -> None:
    """Run the command that the arguments name; a shell that completes it asks here as well."""
    name = completed_name()
    if name is not None:
        shells.completion_init()  # type: ignore[attr-defined]
    app(prog_name=name)
