"""A look at every row of a manifest before anything is spent: what is wrong with which line, and what the good ones will cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from decimal import Decimal

import attrs

from ..models import Estimate, ImageToVideo
from ..rules import frames
from .manifest import CHUNK, BadLine, Manifest

MOST_KEPT = 1000


@attrs.define
class Checked:
    """What a look at a manifest found."""

    good: int = 0
    """Rows that can be submitted."""
    bad_rows: int = 0
    """Rows that cannot."""
    bad: list[BadLine] = attrs.field(factory=list)
    """The first thousand of those."""
    cut_prompts: int = 0
    """Prompts that are longer than the service reads."""
    credits: Decimal = Decimal(0)
    """What the good rows cost together, by the pricing rule."""
    usd: Decimal = Decimal(0)


async def check(manifest: Manifest, estimate: Callable[[Iterable[ImageToVideo]], Awaitable[Estimate]]) -> Checked:
    """Walk all rows once, opening local images, and add up the price."""
    found = Checked()
    chunk: list[ImageToVideo] = []
    async with aclosing(manifest.rows(look=True)) as rows:
        async for row in rows:
            if isinstance(row, BadLine):
                found.bad_rows += 1
                if len(found.bad) < MOST_KEPT:
                    found.bad.append(row)
                continue
            found.good += 1
            request = row.job.request
            found.cut_prompts += bool(request.prompt and frames.prompt_cut(request.prompt))
            chunk.append(request)
            if len(chunk) == CHUNK:
                await _add(found, chunk, estimate)
    await _add(found, chunk, estimate)
    return found


async def _add(
    found: Checked, chunk: list[ImageToVideo], estimate: Callable[[Iterable[ImageToVideo]], Awaitable[Estimate]]
) -> None:
    if chunk:
        price = await estimate(chunk)
        found.credits += price.credits
        found.usd += price.usd
        chunk.clear()
