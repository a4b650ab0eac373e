"""Images of a Ray Data set into videos: a class for `Dataset.map_batches`.

    pip install 'ray[data]' happyhorse-async
    export EVOLINK_API_KEY=...            # or the three variables that `happyhorse sandbox` prints
    python examples/ray_data.py photos/ videos/ --most 20

For people whose images sit in a Ray Data set already. What it lacks, beside `happyhorse cluster`:

- Nothing durable knows what was paid. Ray runs a batch again when a node dies. Then each request
  has the same idempotency key, drawn from its content, and a service that keeps keys gives the same
  task back. One that has forgotten the key is paid again.
- A key stands for a body, and an upload's link is part of it. So each link is kept in a small file
  beside the videos, which all nodes must see.
- A batch that Ray runs again waits for all of its videos again. Keep batches small.
- No limit holds over the nodes: neither a budget nor the account's unfinished tasks. What one node
  may do is set by `--at-once`, and what all do is that times the nodes.
- A video whose link has died before the batch ran again is lost, though it was paid for.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from happyhorse_async import HappyHorseError, ImageToVideo, Limits, Session


class MakeVideos:
    """Makes a video of each row of a batch; rows have `bytes` or `image`, and perhaps `prompt`.

    The columns that come back: `video` (its path, or ""), `task_id`, `credits`, `error`, and
    `charged` ("no", "yes" or "unknown"), which says what a failure may have cost.
    """

    def __init__(self, folder: str, run: str = "", at_once: int = 4, **fields: Any) -> None:
        """`folder` is seen by all nodes; another `run` makes the same images anew, and pays
        anew.
        """
        self._folder = Path(folder)
        self._run = run
        self._at_once = at_once
        self._fields = fields

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Work on a batch, with an event loop and a session of its own."""
        count = len(next(iter(batch.values())))
        rows = [{name: column[n] for name, column in batch.items()} for n in range(count)]
        told = asyncio.run(self._make_all(rows))
        return {
            **{name: list(column) for name, column in batch.items() if name != "bytes"},
            **{name: [row[name] for row in told] for name in told[0]},
        }

    async def _make_all(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        limits = Limits(max_submissions=self._at_once, max_unfinished=self._at_once)
        async with Session(limits=limits) as session, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._make(session, row)) for row in rows]
        return [task.result() for task in tasks]

    async def _make(self, session: Session, row: Mapping[str, Any]) -> dict[str, Any]:
        key = self.key_of(row)
        path = self._folder / f"{key}.mp4"
        told = {"video": str(path), "task_id": "", "credits": 0.0, "error": "", "charged": "yes"}
        if path.exists():
            return told  # a video appears under its name only when it is whole
        try:
            image = await self._link(session, key, row)
            request = ImageToVideo(image, **self._request(row))
            video = await session.generate(request, save_to=path, idempotency_key=key)
        except HappyHorseError as error:
            facts = {"error": str(error), "charged": error.charged, "task_id": error.task_id or ""}
            return {**told, "video": "", **facts}
        return {**told, "task_id": video.task.id, "credits": float(video.credits or 0)}

    def key_of(self, row: Mapping[str, Any]) -> str:
        """Give a row's idempotency key: the same content, the same key, wherever Ray runs it."""
        image = row["bytes"] if "bytes" in row else str(row["image"]).encode()
        parts = [self._run, hashlib.sha256(image).hexdigest(), self._request(row)]
        return "ray-" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]

    def _request(self, row: Mapping[str, Any]) -> dict[str, Any]:
        own = {"prompt": str(row["prompt"])} if row.get("prompt") else {}
        return {**self._fields, **own}

    async def _link(self, session: Session, key: str, row: Mapping[str, Any]) -> str:
        """Give the image's link: that of the first upload, which the key stands for."""
        if "bytes" not in row:
            return str(row["image"])
        kept = self._folder / f"{key}.link"
        if kept.exists():
            return kept.read_text()
        uploaded = await session.upload(bytes(row["bytes"]))
        draft = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}")
        draft.write_text(uploaded.url)
        try:
            os.link(draft, kept)  # the first one stays: two nodes may have the same image
        except FileExistsError:
            return kept.read_text()
        finally:
            draft.unlink()
        return uploaded.url


def main() -> None:
    """Turn a folder of images into videos with Ray Data."""
    parser = argparse.ArgumentParser(description="Images of a Ray Data set into videos")
    parser.add_argument("images")
    parser.add_argument("videos")
    parser.add_argument("--prompt", default="The scene comes alive")
    parser.add_argument("--most", type=int, default=10, help="never more videos than this")
    parser.add_argument("--at-once", type=int, default=4, help="tasks of one node at once")
    options = parser.parse_args()

    import ray

    images = ray.data.read_binary_files(options.images, include_paths=True).limit(options.most)
    made = images.map_batches(
        MakeVideos,
        fn_constructor_args=[os.path.abspath(options.videos)],
        fn_constructor_kwargs={
            "at_once": options.at_once,
            "prompt": options.prompt,
            "duration": 3,
        },
        batch_size=options.at_once,
        concurrency=1,
    )
    for row in made.iter_rows():
        print(row["path"], "->", row["video"] or f"{row['error']} (charged: {row['charged']})")


if __name__ == "__main__":
    main()
