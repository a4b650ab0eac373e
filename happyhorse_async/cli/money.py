"""`happyhorse estimate`, `credits` and `upload`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import AsJson, Sandboxed, money, open_session, put, run


def estimate(
    count: Annotated[int, typer.Argument(help="How many videos.", min=1)] = 1,
    duration: Annotated[int, typer.Option("--duration", help="Seconds, 3 to 15.")] = 5,
    quality: Annotated[str, typer.Option("--quality", help="720p or 1080p.")] = "720p",
    sandbox: Sandboxed = False,
    as_json: AsJson = False,
) -> None:
    """Say what COUNT videos will cost; nothing is submitted."""

    async def work() -> None:
        import attrs

        from ..models import ImageToVideo

        # The price does not depend on the image, so any link will do.
        request = ImageToVideo("https://example.com/first-frame.png", duration=duration, quality=quality)  # type: ignore[arg-type]
        async with open_session(sandbox=sandbox) as session:
            one = await session.estimate(request)
        total = attrs.evolve(one, credits=one.credits * count, usd=one.usd * count, requests=count)
        if as_json:
            put(attrs.asdict(total))
            return
        put(f"{money(total.credits)} credits ({float(total.usd):.2f} USD) for {count} x {duration} s at {quality}")
        put(f"by the service's pricing rule ({total.source}{f', {total.as_of}' if total.as_of else ''})")

    run(work, as_json=as_json)


def credits_command(sandbox: Sandboxed = False, as_json: AsJson = False) -> None:
    """Show what is left in the account and in the key."""

    async def work() -> None:
        import attrs

        async with open_session(sandbox=sandbox) as session:
            left = await session.credits()
        if as_json:
            put({**attrs.asdict(left), "spendable": left.spendable})
            return
        put(f"account: {money(left.remaining)} credits left, {money(left.used)} used")
        if left.key_unlimited:
            put("this key: no limit of its own")
        elif left.key_remaining is not None:
            put(f"this key: {money(left.key_remaining)} credits left, {money(left.key_used)} used")

    run(work, as_json=as_json)


def upload(
    images: Annotated[list[Path], typer.Argument(help="Paths of first frames.", metavar="IMAGE...")],
    sandbox: Sandboxed = False,
    as_json: AsJson = False,
) -> None:
    """Check first frames and put them on the service's file host, public for 72 hours."""

    async def work() -> None:
        import attrs

        async with open_session(sandbox=sandbox) as session:
            for image in images:
                file = await session.upload(image)
                put({"image": str(image), **attrs.asdict(file)} if as_json else file.url)

    run(work, as_json=as_json)
