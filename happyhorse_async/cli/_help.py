"""The page of `happyhorse --help`, which module has which command, and what the command is called.

Imports nothing heavy: the page is there before typer could be loaded.
"""

from __future__ import annotations

import os

NAMES = ("happyhorse", "happyhorse-async")
"""What the command may be called."""

COMMANDS = {
    "demo": ("_generate:demo", "Turn three photographs into videos on a sandbox; costs nothing."),
    "generate": ("_generate:generate", "Turn each IMAGE into a video."),
    "batch": ("_batch:app", "Turn many images into videos: run, status, retry, report."),
    "tasks": ("_tasks:app", "Look at tasks, follow them, and fetch their videos."),
    "download": ("_tasks:download", "Finish the downloads that were interrupted in FOLDER."),
    "upload": ("_account:upload", "Put first frames on the service's file host for 72 hours."),
    "estimate": ("_account:estimate", "Say what COUNT videos will cost; needs no key."),
    "credits": ("_account:credits_command", "Show what is left in the account and in the key."),
    "models": ("_account:models", "List the models that the key may use."),
    "profile": ("_profiles:app", "Keep keys and hosts under names."),
    "doctor": ("_doctor:doctor", "Check what would keep it from working here; spends nothing."),
    "cluster": ("_cluster:app", "Work on one batch with several machines."),
    "sandbox": ("_account:sandbox", "Run the service on this machine, for trying things out."),
    "completion": ("_app:completion", "Print what makes a shell complete the command."),
}
"""By name: where the command is, and what it does in one sentence."""

EXITS = """\
Exit codes: 0 all is done; 1 a task or a download failed; 2 wrong usage,
settings or input, nothing was sent; 3 not wanted at this price; 4 it is not
known whether money was spent, see what is printed; 5 the service refused or
cannot be reached; 130 interrupted. Of several failures: 4 when one of them is
that, the code that all share, otherwise 1."""

VARIABLES = """\
Variables: EVOLINK_API_KEY, EVOLINK_BASE_URL, EVOLINK_FILES_BASE_URL,
HAPPYHORSE_PROFILE, HTTPS_PROXY, NO_PROXY."""


def completion_variable(name: str) -> str:
    """Return the variable by which a shell asks the command of a name for what it completes."""
    return f"_{name}_COMPLETE".replace("-", "_").upper()


def completed_name() -> str | None:
    """Return the name under which a shell asks for what it completes; None when none does."""
    return next((name for name in NAMES if completion_variable(name) in os.environ), None)


def page() -> str:
    """Return the page."""
    lines = "\n".join(f"  {name:<12}{sentence}" for name, (_, sentence) in COMMANDS.items())
    return f"""\
Usage: happyhorse [OPTIONS] COMMAND [ARGS]...

Turn images into videos with HappyHorse.

  happyhorse demo                                   try it: no key, no cost
  happyhorse generate cat.jpg -p "The cat yawns"    the price is asked about
  happyhorse batch run photos.csv --out videos      the same line again goes on

Options:
  --version   Show the version and exit.
  -h, --help  Show this message and exit; COMMAND --help shows a command's.

Commands:
{lines}

{VARIABLES}

{EXITS}"""
