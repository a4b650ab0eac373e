"""A video that goes well."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from happyhorse_async.events import Saved
from tests.downloader.conftest import Kit, names_in

pytestmark = pytest.mark.anyio


async def test_a_video_is_saved_whole_and_described(kit: Kit, folder: Path) -> None:
    """The file holds what the host sent; digest, length, duration and size are those of the file;
    nothing else is left.
    """
    task = await kit.task(duration=7)
    video = await kit.downloader.download(task, f"{folder}/")
    data = video.path.read_bytes()
    assert video.path == folder / f"{task.id}.mp4"
    assert [video.path.name] == names_in(folder)
    assert video.sha256 == hashlib.sha256(data).hexdigest()
    assert (video.size, video.duration, video.content_type) == (len(data), 7.0, "video/mp4")
    assert (video.width, video.height) == (1280, 720)
    assert (video.task_id, video.credits) == (task.id, task.usage.credits_used)
    assert [event.video for event in kit.heard if isinstance(event, Saved)] == [video]
