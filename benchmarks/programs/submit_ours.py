"""Submit once with the session."""

import asyncio

from happyhorse_async import ImageToVideo, Session


async def main() -> None:
    """Submit, and print the task's id."""
    async with Session() as session:
        task = await session.submit(
            ImageToVideo("https://cdn.example.com/cat.png", prompt="The cat runs")
        )
        print(task.id, flush=True)


asyncio.run(main())
