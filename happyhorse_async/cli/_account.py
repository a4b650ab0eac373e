"""`happyhorse estimate`, `credits`, `models`, `upload` and `sandbox`."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidRequestError
from ._common import Exit, exit_code, overall, report, run
from ._connection import open_session
from ._console import money, put
from ._options import AsJson, Sandboxed

_BY = {
    "account": "by the account's own price",
    "catalog": "by the service's public pricing rule",
    "bundled": "by the public pricing rule that came with this package",
}


def estimate(
    count: Annotated[int, typer.Argument(help="How many videos.", min=1, max=1_000_000)] = 1,
    duration: Annotated[int, typer.Option("--duration", help="Seconds, 3 to 15.")] = 5,
    quality: Annotated[str, typer.Option("--quality", help="720p or 1080p.")] = "720p",
    sandbox: Sandboxed = False,
    as_json: AsJson = False,
) -> None:
    """Say what COUNT videos will cost; nothing is submitted, and no key is needed.

    Example: happyhorse estimate 10 --duration 8 --quality 1080p
    """

    async def work() -> None:
        from .._request import ImageToVideo

        # The price does not depend on the image, so any link will do.
        link = "https://example.com/first-frame.png"
        request = ImageToVideo(link, duration=duration, quality=quality)  # type: ignore[arg-type]
        async with open_session(sandbox=sandbox, public=True) as session:
            total = await session.estimate(repeat(request, count))
        if as_json:
            put(total.to_dict())
            return
        put(
            f"{money(total.credits)} credits ({float(total.usd):.2f} USD) for {count} x "
            f"{duration} s at {quality}"
        )
        put(f"{_BY[total.source]}{f', of {total.as_of}' if total.as_of else ''}")

    run(work, as_json=as_json)


def credits_command(sandbox: Sandboxed = False, as_json: AsJson = False) -> None:
    """Show what is left in the account and in the key.

    Example: happyhorse credits
    """

    async def work() -> None:
        async with open_session(sandbox=sandbox) as session:
            left = await session.credits()
        if as_json:
            put(left.to_dict())
            return
        put(f"account: {money(left.remaining)} credits left, {money(left.used)} used")
        if left.key_unlimited:
            put("this key: no limit of its own")
        elif left.key_remaining is not None:
            put(f"this key: {money(left.key_remaining)} credits left, {money(left.key_used)} used")

    run(work, as_json=as_json)


def upload(
    images: Annotated[list[Path], typer.Argument(help="Paths of first frames.", metavar="IMAGE")],
    sandbox: Sandboxed = False,
    as_json: AsJson = False,
) -> None:
    """Check first frames and put them on the service's file host, public for 72 hours.

    Example: happyhorse upload cat.jpg
    """

    async def work() -> int:
        codes: list[Exit] = []
        async with open_session(sandbox=sandbox) as session:
            for image in images:
                try:
                    file = await session.upload(image)
                except InvalidRequestError as error:  # the others may be well
                    report(error, as_json=as_json, about=str(image))
                    codes.append(exit_code(error))
                    continue
                put({"image": str(image), **file.to_dict()} if as_json else file.url)
                codes.append(Exit.DONE)
        return overall(codes)

    run(work, as_json=as_json)


def models(as_json: AsJson = False) -> None:
    """List the ids of the models that the key may use.

    Example: happyhorse models
    """

    async def work() -> None:
        async with open_session() as session:
            for model in await session.models():
                put({"id": model} if as_json else model)

    run(work, as_json=as_json)


# --- `happyhorse sandbox`.


def sandbox(
    port: Annotated[int, typer.Option("--port", help="0: a free one.", min=0, max=65535)] = 8787,
    files_port: Annotated[
        int, typer.Option("--files-port", help="0: a free one.", min=0, max=65535)
    ] = 8788,
    speed: Annotated[
        float,
        typer.Option(
            "--speed", help="How much faster than real time it runs; 0 stands still.", min=0
        ),
    ] = 1.0,
    video: Annotated[
        str, typer.Option("--video", help="real, stub, or auto: real when PyAV is installed.")
    ] = "auto",
    task_seconds: Annotated[
        float | None,
        typer.Option(
            "--task-seconds",
            help="How long every task takes, in its seconds; else a realistic time.",
            min=0,
        ),
    ] = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", help="A named set of faults, such as 429-storm.")
    ] = None,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            help='A fault, such as "late-link seconds=20"; may be repeated.',
            metavar="FAULT",
        ),
    ] = None,
    list_faults: Annotated[
        bool, typer.Option("--list-faults", help="Show every fault, and end.")
    ] = False,
) -> None:
    """Run the service on this machine, for trying things out; ends with Ctrl-C.

    Example: happyhorse sandbox --speed 20
    """
    from ..sandbox.__main__ import fault_list, serve

    if list_faults:
        put(fault_list())
        raise typer.Exit
    raise typer.Exit(
        serve(
            port=port,
            files_port=files_port,
            speed=speed,
            video=video,
            task_seconds=task_seconds,
            scenario=scenario,
            faults=faults or (),
        )
    )
