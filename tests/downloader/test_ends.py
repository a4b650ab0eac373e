"""Processes that are killed and callers that give up, in every phase of a download."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async import DestinationExistsError, Limits, RetryPolicy, SessionClosedError
from happyhorse_async._edges import part_files
from happyhorse_async._edges.part_notes import leftovers
from happyhorse_async.events import Downloading, Retrying
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import open_session
from tests.downloader.conftest import Kit, names_in
from tests.downloader.test_faults import ranges_of, truth_of
from tests.downloader.victim import PHASES

pytestmark = pytest.mark.anyio

SIZE = 4_000_000
NAMED = ("with both names", "with the note left", "before the folder's sync")


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service, with videos that take several writes."""
    async with Sandbox(video="stub", speed=0, stub_bytes=SIZE) as sandbox:
        yield sandbox


async def run_victim(kit: Kit, task_id: str, folder: Path, phase: str) -> int:
    """Let a process die; give its end."""
    sandbox = kit.sandbox
    arguments = (sandbox.url, sandbox.files_url, sandbox.key, task_id, f"{folder}/", phase)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.downloader.victim", *arguments
    )
    return await process.wait()


@pytest.mark.parametrize("phase", PHASES)
async def test_a_killed_process_leaves_nothing_or_the_whole_file(
    kit: Kit, folder: Path, phase: str
) -> None:
    """After kill -9 the final path holds nothing or the verified file, and the next run finishes,
    fetching only what is missing.
    """
    task = await kit.task()
    truth = await truth_of(kit.sandbox, task)
    assert await run_victim(kit, task.id, folder, phase) == -signal.SIGKILL
    final, part = folder / f"{task.id}.mp4", folder / f"{task.id}.mp4.part"
    asked = len(ranges_of(kit))
    if phase in NAMED:
        assert final.read_bytes() == truth
        assert list(leftovers(folder)) == []
        with pytest.raises(DestinationExistsError):
            await kit.downloader.download(task, f"{folder}/")
    else:
        assert not final.exists()
        kept = part.stat().st_size if part.exists() else 0
        assert [left.received for left in leftovers(folder)] in ([kept], [])
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.path.read_bytes() == truth
        missing = None if not kept else f"bytes={kept}-"
        assert ranges_of(kit)[asked:] == ([] if kept == SIZE else [missing])
    assert names_in(folder) == [final.name]


async def test_overwriting_after_a_kill_never_writes_into_the_finished_file(
    kit: Kit, folder: Path
) -> None:
    """A part file that is also the finished file, under its other name, is not written to."""
    task, other = await kit.task(1), await kit.task(2)
    truth = await truth_of(kit.sandbox, task)
    await run_victim(kit, task.id, folder, "with both names")
    final = folder / f"{task.id}.mp4"
    seen = []
    kit.events.subscribe(lambda _: seen.append(final.read_bytes() == truth), Downloading)
    await kit.downloader.download(other, final, overwrite=True)
    assert seen[0] is True
    assert final.read_bytes() == await truth_of(kit.sandbox, other)
    assert names_in(folder) == [final.name]


def open_files() -> int:
    """Count this process's open files."""
    return len(os.listdir("/proc/self/fd"))


class Gate:
    """Holds a blocking function until it is opened, and says when it was reached."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.reached = asyncio.Event()
        self._open = threading.Event()
        loop, true = asyncio.get_running_loop(), getattr(owner, name)

        def held(*args: Any, **facts: Any) -> Any:
            loop.call_soon_threadsafe(self.reached.set)
            self._open.wait()
            return true(*args, **facts)

        monkeypatch.setattr(owner, name, held)

    def open(self) -> None:
        """Let go."""
        self._open.set()


BLOCKED: dict[str, tuple[Any, str]] = {
    "opening": (part_files, "_open_alone"),
    "writing": (part_files, "_write_all"),
    "syncing": (os, "fsync"),
    "naming": (os, "link"),
}


@pytest.mark.parametrize("phase", BLOCKED)
async def test_a_cancellation_while_the_disk_works(
    kit: Kit, folder: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk's work is waited for, the file closed, and what came is kept; a file that got its
    name by then is whole.
    """
    task = await kit.task()
    truth = await truth_of(kit.sandbox, task)
    await kit.downloader.download(await kit.task(1), f"{folder}/")
    before, already = open_files(), set(names_in(folder))
    with monkeypatch.context() as patch:
        gate = Gate(patch, *BLOCKED[phase])
        work = asyncio.create_task(kit.downloader.download(task, f"{folder}/"))
        await gate.reached.wait()
        work.cancel()
        asyncio.get_running_loop().call_soon(work.cancel)
        asyncio.get_running_loop().call_soon(gate.open)
        with pytest.raises(asyncio.CancelledError):
            await work
    assert open_files() <= before
    final = folder / f"{task.id}.mp4"
    if final.exists():
        assert final.read_bytes() == truth
        assert set(names_in(folder)) - already == {final.name}
    else:
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.path.read_bytes() == truth


async def _hanging(kit: Kit) -> None:
    kit.sandbox.fail(Fault("hang-before", path="/results/", times=None))


async def _dripping(kit: Kit) -> None:
    kit.sandbox.fail(Fault("slow-bytes", chunk=1_500_000, interval=0.05))


@pytest.mark.parametrize("fault", [_hanging, _dripping])
async def test_a_cancellation_while_the_host_answers(
    kit: Kit, folder: Path, fault: Callable[[Kit], Any]
) -> None:
    """Waiting for the head or for the body of an answer ends at once;
    the bytes that came are kept.
    """
    task = await kit.task()
    truth = await truth_of(kit.sandbox, task)
    await fault(kit)
    before, begun = open_files(), asyncio.Event()
    kit.events.subscribe(lambda _: begun.set(), Downloading)
    work = asyncio.create_task(kit.downloader.download(task, f"{folder}/"))
    if fault is _dripping:
        await begun.wait()
    else:
        while len(ranges_of(kit)) < 1:
            await asyncio.sleep(0.001)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await asyncio.sleep(0)
    assert open_files() <= before + 1
    kept = sum(left.received for left in leftovers(folder))
    assert (kept > 0) is (fault is _dripping)
    kit.sandbox.clear_faults()
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.path.read_bytes() == truth
    assert ranges_of(kit)[-1] == (f"bytes={kept}-" if kept else None)


async def test_a_cancellation_while_waiting_for_a_place(sandbox: Sandbox, folder: Path) -> None:
    """Who is cancelled in the queue takes no place with it."""
    async with Kit(sandbox, limits=Limits(max_downloads=1)) as kit:
        first, second, third = [await kit.task(number) for number in range(3)]
        holding = asyncio.Event()
        kit.events.subscribe(lambda _: holding.set(), Downloading)
        one = asyncio.create_task(kit.downloader.download(first, f"{folder}/"))
        await holding.wait()
        two = asyncio.create_task(kit.downloader.download(second, f"{folder}/"))
        three = asyncio.create_task(kit.downloader.download(third, f"{folder}/"))
        await asyncio.sleep(0)
        two.cancel()
        done = await asyncio.gather(one, two, three, return_exceptions=True)
        assert isinstance(done[1], asyncio.CancelledError)
        assert names_in(folder) == sorted([f"{first.id}.mp4", f"{third.id}.mp4"])


async def test_closing_ends_a_download_in_the_middle(kit: Kit, folder: Path) -> None:
    """What comes after the close is not written any more, least of all by the loop itself; what
    came before is gone on with.
    """
    task = await kit.task()
    kit.sandbox.fail(Fault("slow-bytes", chunk=int(SIZE * 0.4), interval=0.2))
    written = asyncio.Event()
    kit.events.subscribe(lambda _: written.set(), Downloading)
    work = asyncio.create_task(kit.downloader.download(task, f"{folder}/"))
    await written.wait()
    kit.downloader.close()
    with pytest.raises(SessionClosedError) as caught:
        await work
    assert caught.value.task_id == task.id
    assert names_in(folder) == [f"{task.id}.mp4.part", f"{task.id}.mp4.part.json"]


async def test_closing_ends_a_download_whose_host_sends_nothing_more(
    sandbox: Sandbox, folder: Path
) -> None:
    """A session that is closed under a download ends it at once, though no byte comes any more."""
    sandbox.fail(Fault("slow-bytes", path="/results/", chunk=int(SIZE * 0.4), interval=3600))
    begun = asyncio.Event()
    async with open_session(sandbox) as session:
        session.subscribe(lambda _: begun.set(), Downloading)
        task = await session.submit("https://cdn.example.com/cat.png")
        sandbox.finish(task.id)
        work = asyncio.create_task(task.download(f"{folder}/"))
        await begun.wait()
    await asyncio.wait([work], timeout=10)
    assert work.done()
    assert isinstance(error := work.exception(), SessionClosedError)
    assert error.task_id == task.id


async def test_closing_ends_pauses_and_queues(sandbox: Sandbox, folder: Path) -> None:
    """Downloads that wait for a place or pause between tries get `SessionClosedError` at once, each
    an own one.
    """
    policy = RetryPolicy(first_pause=1000, longest_pause=1000)
    async with Kit(sandbox, limits=Limits(max_downloads=1), policy=policy) as kit:
        tasks = [await kit.task(number) for number in range(3)]
        sandbox.fail(Fault("refuse", path="/results/", status=503, times=None))
        pausing = asyncio.Event()
        kit.events.subscribe(lambda _: pausing.set(), Retrying)
        running = [
            asyncio.create_task(kit.downloader.download(task, f"{folder}/")) for task in tasks
        ]
        await pausing.wait()
        kit.downloader.close()
        errors = await asyncio.gather(*running, return_exceptions=True)
    assert [type(error) for error in errors] == [SessionClosedError] * 3
    assert {getattr(error, "task_id", None) for error in errors} == {task.id for task in tasks}
