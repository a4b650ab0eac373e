"""`happyhorse sandbox` and `happyhorse doctor`."""

from __future__ import annotations

import os
import platform
from typing import Annotated

import typer

from .._version import __version__
from ..errors import ConfigurationError, HappyHorseError
from .common import AsJson, Exit, Sandboxed, money, open_session, put, run


def sandbox(
    port: Annotated[int, typer.Option("--port", help="0: a free one.")] = 8787,
    files_port: Annotated[int, typer.Option("--files-port", help="0: a free one.")] = 8788,
    speed: Annotated[float, typer.Option("--speed", help="How much faster than real time it runs; 0 stands still.", min=0)] = 1.0,
    video: Annotated[str, typer.Option("--video", help="real, stub, or auto: real when PyAV is installed.")] = "auto",
    task_seconds: Annotated[
        float | None,
        typer.Option("--task-seconds", help="How long every task takes, in its seconds; else a realistic time.", min=0),
    ] = None,
    scenario: Annotated[str | None, typer.Option("--scenario", help="A named set of faults, such as 429-storm.")] = None,
) -> None:
    """Run the service on this machine, for trying things out; ends with Ctrl-C."""
    from ..sandbox.serve import serve

    raise typer.Exit(
        serve(port=port, files_port=files_port, speed=speed, video=video, task_seconds=task_seconds, scenario=scenario)
    )


def doctor(sandboxed: Sandboxed = False, as_json: AsJson = False) -> None:
    """Check versions, settings, and whether the service takes the key; spends nothing."""

    async def work() -> int:
        facts = {"happyhorse-async": __version__, "python": platform.python_version(), **_versions(), **_settings()}
        code = Exit.DONE
        try:
            async with open_session(sandbox=sandboxed) as session:
                facts["credits"] = f"{money((await session.credits()).spendable)} to spend"
        except ConfigurationError as error:
            facts["credits"], code = f"not asked: {error}", Exit.WRONG_INPUT
        except HappyHorseError as error:
            facts["credits"], code = f"{type(error).__name__}: {error}", Exit.SERVICE
        if as_json:
            put(facts)
        else:
            for name, fact in facts.items():
                put(f"{name:<24} {fact}")
        return code

    run(work, as_json=as_json)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("aiohttp", "attrs", "cattrs", "anyio", "av", "pillow", "orjson", "uvloop", "obstore", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _settings() -> dict[str, str]:
    from ..settings import API_URL, API_VARIABLE, FILES_URL, FILES_VARIABLE, KEY_VARIABLE

    return {
        KEY_VARIABLE: "set" if os.environ.get(KEY_VARIABLE) else "not set",
        API_VARIABLE: os.environ.get(API_VARIABLE) or f"not set: {API_URL}",
        FILES_VARIABLE: os.environ.get(FILES_VARIABLE) or f"not set: {FILES_URL}",
    }
