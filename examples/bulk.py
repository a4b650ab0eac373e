"""Many images into many videos, with a budget, in one go; run it again after an interruption and it
goes on.

    export EVOLINK_API_KEY=...            # or the three variables that `happyhorse sandbox` prints
    python examples/bulk.py photos/ videos/ --credits 500

Nothing is paid twice and nothing that is there is fetched again, wherever the last run ended.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from happyhorse_async import Budget, ImageToVideo, Session

KINDS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"}


def requests_for(folder: Path, prompt: str) -> Iterator[ImageToVideo]:
    """Make one request for each image; a generator, so that a million images cost no memory."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in KINDS:
            yield ImageToVideo(path, prompt=prompt, duration=3)


async def main() -> int:
    """Turn a folder into videos; the exit code says whether all of them are there."""
    parser = argparse.ArgumentParser(description="Turn a folder of images into videos")
    parser.add_argument("images", type=Path)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--prompt", default="The scene comes alive")
    parser.add_argument("--credits", type=float, default=500, help="never spend more than this")
    options = parser.parse_args()

    failed = 0
    async with Session(budget=Budget(credits=options.credits)) as session:
        estimate = await session.estimate(requests_for(options.images, options.prompt))
        print(f"{estimate.requests} videos, about {estimate.credits} credits ({estimate.usd} USD)")
        async with session.batch(options.videos) as batch:
            async for outcome in batch.run(requests_for(options.images, options.prompt)):
                print(outcome.video.path if outcome.video else f"failed: {outcome.error}")
                failed += not outcome.ok
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
