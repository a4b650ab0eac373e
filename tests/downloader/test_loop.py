"""The caller's event loop is never held by a download, whatever the disk does."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async import Limits, SessionClosedError
from happyhorse_async._concurrency import Threads
from happyhorse_async._edges import disk, part_files, part_notes
from happyhorse_async.sandbox import Sandbox
from tests.downloader.conftest import Kit, names_in

pytestmark = pytest.mark.anyio

BLOCKING = (
    (part_files, "_open_alone"),
    (part_files, "_write_all"),
    (disk, "sync_folder"),
    (part_notes, "read"),
    (part_files.PartFile, "is_new"),
    (part_files.PartFile, "rehash"),
    (part_files.PartFile, "publish"),
    (part_files.Tally, "feed"),
    (os, "fsync"),
    (os, "link"),
    (os, "read"),
    (os, "writev"),
)


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service, with videos that take several writes."""
    async with Sandbox(video="stub", speed=0, stub_bytes=3_000_000) as sandbox:
        yield sandbox


async def test_everything_that_blocks_runs_in_threads(
    kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening, reading, writing, hashing, syncing and naming, also of a download that is gone on
    with.
    """
    task = await kit.task()
    loop_thread, seen = threading.get_ident(), set()

    def watch(owner: Any, name: str) -> None:
        true = getattr(owner, name)

        def watched(*args: Any, **facts: Any) -> Any:
            assert threading.get_ident() != loop_thread, f"{name} ran in the loop's thread"
            seen.add(name)
            return true(*args, **facts)

        monkeypatch.setattr(owner, name, watched)

    from happyhorse_async.sandbox import Fault

    for owner, name in BLOCKING:
        watch(owner, name)
    kit.sandbox.fail(Fault("truncate", bytes=1_500_000))
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.size == 3_000_000
    assert seen == {name for _, name in BLOCKING}


async def test_a_disk_that_hangs_holds_nobody_but_its_download(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a write hangs, the loop goes on, and so does another download; when the disk is back,
    all is saved.
    """
    async with Kit(sandbox, limits=Limits(max_downloads=2)) as kit:
        stuck, free = await kit.task(1), await kit.task(2)
        true, hanging, go_on = part_files._write_all, asyncio.Event(), threading.Event()
        loop, first = asyncio.get_running_loop(), threading.Lock()

        def hang(file: int, pieces: Any) -> None:
            if first.acquire(blocking=False):
                loop.call_soon_threadsafe(hanging.set)
                go_on.wait()
            true(file, pieces)

        monkeypatch.setattr(part_files, "_write_all", hang)
        slow = asyncio.create_task(kit.downloader.download(stuck, f"{folder}/"))
        await hanging.wait()
        await kit.downloader.download(free, f"{folder}/")
        assert names_in(folder)[-1].endswith(".part.json") or f"{free.id}.mp4" in names_in(folder)
        assert not slow.done()
        go_on.set()
        video = await slow
    assert hashlib.sha256(video.path.read_bytes()).hexdigest() == video.sha256


async def test_threads_end_with_their_owner(anyio_backend: str) -> None:
    """After `close` only what has to be done last, closing files, is done, nothing else blocks the
    loop, and no thread is left.
    """
    threads = Threads(2, name="test: disk", refusal=lambda: SessionClosedError("closed"))
    assert await threads.run(threading.get_ident) != threading.get_ident()
    threads.close()
    with pytest.raises(SessionClosedError):
        await threads.run(threading.get_ident)
    assert await threads.run(threading.get_ident, last=True) == threading.get_ident()
    for thread in threading.enumerate():
        if thread.name.startswith("test: disk"):
            thread.join(100)
            assert not thread.is_alive()
