"""The package in a notebook: run the cells one by one in an editor that knows `# %%`, or all of
them with `python examples/notebook.py`.

Needs EVOLINK_API_KEY, or the three variables that `happyhorse sandbox` prints. IMAGE is the path or
the link of a first frame.
"""

# %% A notebook has an event loop of its own, so that `await` works in every cell. Here one function
# stands for the cells.
from __future__ import annotations

import asyncio
import os
from pathlib import Path

from happyhorse_async import ImageToVideo, Session, Task, Video

IMAGE = os.environ.get("IMAGE", "cat.jpg")
FOLDER = Path(os.environ.get("VIDEOS", "videos"))


# %% What will it cost, and is there enough left?
async def look(session: Session, request: ImageToVideo) -> None:
    """Show the price and the balance."""
    estimate, balance = await asyncio.gather(session.estimate(request), session.credits())
    print(f"about {estimate.credits} credits; {balance.spendable} left")


# %% Submit, and watch it grow. Interrupting the kernel here loses nothing: `session.task(task_id)`
# takes it up again.
async def follow(session: Session, request: ImageToVideo) -> str:
    """Submit a request and print its states; gives the id to keep."""
    task = await session.submit(request)
    print(task.id)
    async for update in task.updates():
        print(f"{update.status} {'█' * (update.progress // 5):20} {update.progress:3} %")
    return task.id


# %% Several at once: the same frame with different seeds.
async def vary(session: Session, count: int) -> list[Task]:
    """Make variations and give them as they end."""
    async with session.submit_many(
        ImageToVideo(IMAGE, seed=seed, duration=3) for seed in range(1, count + 1)
    ) as submissions:
        tasks = [submission.task async for submission in submissions if submission.task is not None]
    async with session.watch(tasks) as watch:
        return [task async for task in watch if task.results]


# %% Save one. In a notebook the last expression of a cell, `video`, shows itself.
async def save(session: Session, task_id: str) -> Video:
    """Download a task's video."""
    return await session.task(task_id).download(FOLDER / "first.mp4", overwrite=True)


# %% All cells.
async def main() -> None:
    """Run everything from top to bottom."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    async with Session() as session:
        request = ImageToVideo(IMAGE, prompt="It looks around", duration=3)
        await look(session, request)
        video = await save(session, await follow(session, request))
        print(f"{video.path}: {video.size} bytes")
        print(f"{len(await vary(session, 3))} variations")


if __name__ == "__main__":
    asyncio.run(main())
