"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

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
    typer.Option("--speed", help="How much faster than real time the sandbox runs.", min=0.001),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON, one object a line, for scripts.", show_default=False),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask before spending.", show_default=False)
]
MaxCredits = Annotated[
    float | None, typer.Option("--max-credits", help="Never spend more than this.", min=0)
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
