"""Every misbehaviour of a file host: the final path holds nothing or the whole file, and a second
run fetches what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from happyhorse_async import (
    DownloadError,
    IncompleteDownloadError,
    Limits,
    LinkExpiredError,
    NotAVideoError,
    RetryPolicy,
    SessionClosedError,
    Task,
    Timeouts,
    TransportError,
)
from happyhorse_async._edges.part_notes import leftovers
from happyhorse_async.events import Retrying
from happyhorse_async.sandbox import Fault, Sandbox
from tests.downloader.conftest import QUICK, Kit, names_in

pytestmark = pytest.mark.anyio

ONE_TRY = RetryPolicy(attempts=1, first_pause=0.001)


async def truth_of(sandbox: Sandbox, task: Task) -> bytes:
    """Fetch what the host has, without any of our code for downloads,
    and forget that it was asked.
    """
    import aiohttp

    async with (
        aiohttp.ClientSession(headers={"User-Agent": "test"}) as client,
        client.get(task.results[0]) as response,
    ):
        return await response.read()


def ranges_of(kit: Kit) -> list[str | None]:
    """List the Range headers of our requests for the video, in order."""
    return [
        request.headers.get("Range")
        for request in kit.fetches()
        if request.headers.get("User-Agent") != "test"
    ]


CUTS = {
    "cut at 0": (Fault("truncate", bytes=0), 0),
    "cut at 1": (Fault("truncate", bytes=1), 0),
    "cut at 4096": (Fault("truncate", bytes=4096), 4096),
    "cut at half": (Fault("truncate", fraction=0.5), 150_000),
    "reset at 0": (Fault("reset", bytes=0), 0),
    # Twice, since the HTTP library itself asks again when a connection ends without any answer.
    "no answer": (Fault("drop-before", path="/results/", times=2), 0),
    "busy": (Fault("refuse", path="/results/", status=503), 0),
    "too many requests": (
        Fault("refuse", path="/results/", status=429, headers={"Retry-After": "0"}),
        0,
    ),
}


@pytest.mark.parametrize("name", CUTS)
async def test_a_cut_is_mended_in_the_same_call(kit: Kit, folder: Path, name: str) -> None:
    """The call goes on by itself, from the byte at which it was cut; one that is too early to be of
    use starts anew.
    """
    task = await kit.task()
    truth = await truth_of(kit.sandbox, task)
    fault, kept = CUTS[name]
    kit.sandbox.fail(fault)
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.path.read_bytes() == truth
    assert video.sha256 == hashlib.sha256(truth).hexdigest()
    assert names_in(folder) == [video.path.name]
    asked = ranges_of(kit)
    assert (asked[0], asked[-1]) == (None, f"bytes={kept}-" if kept else None)


@pytest.mark.parametrize("name", CUTS)
async def test_a_second_run_fetches_only_what_is_missing(
    kit: Kit, sandbox: Sandbox, folder: Path, name: str
) -> None:
    """When tries are used up, the final path stays empty; a run in another process finishes the
    file from the byte reached.
    """
    task = await kit.task()
    truth = await truth_of(sandbox, task)
    fault, kept = CUTS[name]
    sandbox.fail(fault)
    async with Kit(sandbox, policy=ONE_TRY, patience=0.0) as first:
        with pytest.raises(IncompleteDownloadError) as caught:
            await first.downloader.download(task, f"{folder}/")
    error = caught.value
    final = folder / f"{task.id}.mp4"
    assert (error.charged, error.task_id, error.path) == ("yes", task.id, str(final))
    assert "call download() again" in str(error.next_step).lower()
    assert not final.exists()
    assert [(left.task_id, left.path, left.received) for left in leftovers(folder)] == (
        [(task.id, final, kept)] if kept else []
    )
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.path.read_bytes() == truth
    asked = ranges_of(kit)
    assert (asked[0], asked[-1]) == (None, f"bytes={kept}-" if kept else None)
    assert names_in(folder) == [final.name]


async def test_a_reset_in_the_middle_keeps_what_came(
    kit: Kit, sandbox: Sandbox, folder: Path
) -> None:
    """A connection that is reset may lose bytes on the way; the next run goes on from those that
    arrived.
    """
    task = await kit.task()
    truth = await truth_of(sandbox, task)
    sandbox.fail(Fault("reset", bytes=150_000))
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.path.read_bytes() == truth


async def half_a_video(sandbox: Sandbox, task: Task, folder: Path) -> int:
    """Leave the first half of a video behind, as an ended process would; give its length."""
    sandbox.fail(Fault("truncate", bytes=150_000))
    async with Kit(sandbox, policy=ONE_TRY) as kit:
        with pytest.raises(IncompleteDownloadError):
            await kit.downloader.download(task, f"{folder}/")
    sandbox.clear_faults()
    return 150_000


RANGE_FAULTS: dict[str, tuple[list[Fault], list[str | None]]] = {
    "whole body to a range request": ([Fault("ignore-range")], ["bytes=150000-"]),
    "wrong Content-Range": ([Fault("wrong-range")], ["bytes=150000-", None]),
    "another length": (
        [Fault("wrong-range", content_range="bytes 150000-399999/400000")],
        ["bytes=150000-", None],
    ),
    "changed ETag": ([Fault("new-etag")], ["bytes=150000-"]),
    "416": ([Fault("refuse", path="/results/", status=416)], ["bytes=150000-", None]),
    "416 twice": (
        [Fault("refuse", path="/results/", status=416, times=2)],
        ["bytes=150000-", None, None],
    ),
    "the rest is forbidden": (
        [Fault("refuse", path="/results/", status=403, times=2)],
        ["bytes=150000-", "bytes=150000-", None],
    ),
    "the rest is a bad request": (
        [Fault("refuse", path="/results/", status=400, times=2)],
        ["bytes=150000-", "bytes=150000-", None],
    ),
    "the host breaks down over the rest": (
        [Fault("refuse", path="/results/", status=500, times=2)],
        ["bytes=150000-", "bytes=150000-", None],
    ),
    "the host has no such method": (
        [Fault("refuse", path="/results/", status=501, times=2)],
        ["bytes=150000-", "bytes=150000-", None],
    ),
}


async def test_a_whole_answer_to_a_range_request_is_no_failed_try(
    sandbox: Sandbox, folder: Path
) -> None:
    """What was there before is not counted to a body that begins anew: the video is saved with the
    only try that there is.
    """
    async with Kit(sandbox, policy=ONE_TRY) as kit:
        task = await kit.task()
        truth = await truth_of(sandbox, task)
        await half_a_video(sandbox, task, folder)
        sandbox.fail(Fault("new-etag"))
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.path.read_bytes() == truth
        assert not [event for event in kit.heard if isinstance(event, Retrying)]


@pytest.mark.parametrize("name", RANGE_FAULTS)
async def test_a_host_that_does_ranges_wrong_gives_the_whole_file(
    sandbox: Sandbox, folder: Path, name: str
) -> None:
    """Bytes of two answers are only joined when both are certainly of one file; otherwise all of it
    is fetched anew.
    """
    async with Kit(sandbox, patience=3600.0) as kit:
        task = await kit.task()
        truth = await truth_of(sandbox, task)
        await half_a_video(sandbox, task, folder)
        faults, asked = RANGE_FAULTS[name]
        for fault in faults:
            sandbox.fail(fault)
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.path.read_bytes() == truth
        assert ranges_of(kit)[1:] == asked


async def test_a_whole_part_needs_no_request(kit: Kit, sandbox: Sandbox, folder: Path) -> None:
    """What was complete when the process ended is verified and named
    without asking the host again.
    """
    task = await kit.task()
    truth = await truth_of(sandbox, task)
    await half_a_video(sandbox, task, folder)
    with (folder / f"{task.id}.mp4.part").open("ab") as part:
        part.write(truth[150_000:])
    before = len(kit.fetches())
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.sha256 == hashlib.sha256(truth).hexdigest()
    assert len(kit.fetches()) == before


@pytest.mark.parametrize(
    "damage", ["longer", "another task", "no note", "broken note", "another boot", "garbage"]
)
async def test_a_part_that_is_not_certainly_ours_is_not_gone_on_with(
    kit: Kit, sandbox: Sandbox, folder: Path, damage: str
) -> None:
    """Bytes of another video, or of unknown origin, never get into the file."""
    task = await kit.task()
    truth = await truth_of(sandbox, task)
    await half_a_video(sandbox, task, folder)
    part, note = folder / f"{task.id}.mp4.part", folder / f"{task.id}.mp4.part.json"
    if damage == "longer":
        part.write_bytes(truth + b"more")
    elif damage == "another task":
        note.write_text(note.read_text().replace(task.id, "task-unified-another"))
    elif damage == "no note":
        note.unlink()
    elif damage == "broken note":
        note.write_text(note.read_text()[:40])
    elif damage == "another boot":
        note.write_text(note.read_text().replace('"boot": "', '"boot": "x'))
    else:
        part.write_bytes(b"<html>" * 1000)
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.path.read_bytes() == truth
    assert ranges_of(kit)[1:] == [None]
    assert sandbox.count("GET", f"/v1/tasks/{task.id}") == 1
    assert names_in(folder) == [video.path.name]


BODIES = {
    "html": Fault("html", times=None),
    "json": Fault("json", times=None),
    "empty": Fault("empty", times=None),
    "short": Fault("short", bytes=150_000, times=None),
    "short in the head": Fault("short", bytes=20, times=None),
    "html named video": Fault(
        "refuse",
        path="/results/",
        status=200,
        body="<!doctype html>",
        headers={"Content-Type": "video/mp4"},
        times=None,
    ),
}


PAGES = ("html", "json", "html named video")


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_is_asked_about_again_and_kept(
    kit: Kit, sandbox: Sandbox, folder: Path, name: str
) -> None:
    """A page may mean that the video is not there yet; at last it is an error, and the page is kept
    for the user to read.
    """
    task = await kit.task()
    reads = sandbox.count("GET", f"/v1/tasks/{task.id}")
    sandbox.fail(BODIES[name])
    with pytest.raises(NotAVideoError) as caught:
        await kit.downloader.download(task, f"{folder}/")
    error = caught.value
    assert (error.charged, error.task_id) == ("yes", task.id)
    assert len(kit.fetches()) == sandbox.count("GET", f"/v1/tasks/{task.id}") - reads + 1 >= 2
    assert names_in(folder) == [f"{task.id}.mp4.rejected"]
    assert error.rejected_path == str(folder / f"{task.id}.mp4.rejected")
    assert Path(error.rejected_path).read_bytes()[:1] in (b"<", b"{")


async def test_nothing_is_not_kept(kit: Kit, sandbox: Sandbox, folder: Path) -> None:
    """An empty answer is asked about again, and leaves nothing behind."""
    task = await kit.task()
    sandbox.fail(BODIES["empty"])
    with pytest.raises(IncompleteDownloadError, match="gave nothing") as caught:
        await kit.downloader.download(task, f"{folder}/")
    assert caught.value.rejected_path is None
    assert names_in(folder) == []


@pytest.mark.parametrize(("name", "length"), [("short", 150_000), ("short in the head", 20)])
async def test_half_a_video_is_asked_about_again_and_kept(
    kit: Kit, sandbox: Sandbox, folder: Path, name: str, length: int
) -> None:
    """The host says that this is all, as often as the policy has it asked: the bytes are kept
    beside, once.
    """
    task = await kit.task()
    truth = await truth_of(sandbox, task)
    sandbox.fail(BODIES[name])
    for fetches in (1 + QUICK.attempts, 1 + 2 * QUICK.attempts):
        with pytest.raises(NotAVideoError, match="is kept in") as caught:
            await kit.downloader.download(task, f"{folder}/")
        kept = Path(caught.value.rejected_path or "")
        assert kept.read_bytes() == truth[:length]
        assert names_in(folder) == [kept.name] == [f"{task.id}.mp4.rejected"]
        assert len(kit.fetches()) == fetches  # the first of them is the test's own


@pytest.mark.parametrize("validators", [True, False])
async def test_a_video_that_grows_on_its_host_is_saved(
    kit: Kit, sandbox: Sandbox, folder: Path, validators: bool
) -> None:
    """A host that has not all of a fresh video yet calls its beginning the whole."""
    task = await kit.task()
    truth = await truth_of(sandbox, task)
    for length in (20, 150_000):
        sandbox.fail(Fault("short", bytes=length))
    if not validators:
        sandbox.fail(Fault("no-validators", times=None))
    video = await kit.downloader.download(task, f"{folder}/")
    assert (video.path.read_bytes(), names_in(folder)) == (truth, [video.path.name])


async def test_other_bytes_get_a_name_of_their_own(
    kit: Kit, sandbox: Sandbox, folder: Path
) -> None:
    """What was kept before is never replaced."""
    task = await kit.task()
    for length in (150_000, 151_000, 150_000):
        sandbox.fail(Fault("short", bytes=length, times=None))
        with pytest.raises(NotAVideoError):
            await kit.downloader.download(task, f"{folder}/")
        sandbox.clear_faults()
    kept = [folder / f"{task.id}.mp4.rejected{mark}" for mark in ("", "-2")]
    assert [path.stat().st_size for path in kept] == [150_000, 151_000]
    assert len(names_in(folder)) == 2


@pytest.mark.parametrize("name", [*PAGES, "empty"])
async def test_what_was_no_video_once_does_no_harm(
    kit: Kit, sandbox: Sandbox, folder: Path, name: str
) -> None:
    """When the host gives the video after all, it is saved."""
    task = await kit.task()
    truth = await truth_of(sandbox, task)
    fault = BODIES[name]
    sandbox.fail(Fault(fault.action, path=fault.path, **fault.details))
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.path.read_bytes() == truth
    assert names_in(folder) == [video.path.name]


@pytest.mark.parametrize("name", ["html", "json", "empty"])
async def test_a_page_instead_of_the_rest_does_not_cost_the_part(
    kit: Kit, sandbox: Sandbox, folder: Path, name: str
) -> None:
    """A 200 with something else than a video does not replace the bytes that are there."""
    task = await kit.task()
    truth = await truth_of(sandbox, task)
    await half_a_video(sandbox, task, folder)
    sandbox.fail(Fault(name))
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.path.read_bytes() == truth
    assert ranges_of(kit)[1:] == ["bytes=150000-", "bytes=150000-"]


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_dead_link_is_replaced_by_a_fresh_one(
    sandbox: Sandbox, folder: Path, status: int
) -> None:
    """The task is read once more; its fresh link gives the video."""
    async with Sandbox(video="stub", speed=0, expired_link=status) as sandbox, Kit(sandbox) as kit:
        task = await kit.task()
        sandbox.fail(Fault("expire", fresh=True))
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.size == video.path.stat().st_size
        assert video.task is not None
        assert video.task.results != task.results
        assert len(kit.fetches()) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
async def test_a_gateways_page_does_not_keep_the_fresh_link_away(folder: Path, status: int) -> None:
    """A page in the place of the task that is read for a fresh link gives no paid video up."""
    async with Sandbox(video="stub", speed=0) as sandbox, Kit(sandbox) as kit:
        task = await kit.task()
        sandbox.fail(Fault("expire", fresh=True))
        path = f"/v1/tasks/{task.id}"
        sandbox.fail(Fault("gateway-page", path=path, status=status, times=2))
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.size == video.path.stat().st_size
        assert sandbox.count("GET", path) == 4  # two of them met the page


async def test_a_fresh_link_is_never_another_tasks(folder: Path) -> None:
    """A cache that mixes answers up gives another task in the place of the one that is read for a
    fresh link: its video is not saved for this one.
    """
    async with Sandbox(video="stub", speed=0) as sandbox, Kit(sandbox) as kit:
        another, task = await kit.task(), await kit.task(1)
        sandbox.fail(Fault("expire", fresh=True))
        sandbox.fail(Fault("other-task", path=f"/v1/tasks/{task.id}"))
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.task is not None
        assert (video.task.id, video.path.stem) == (task.id, task.id)
        assert not [fetch for fetch in kit.fetches() if another.id in fetch.path]


REFUSAL = {"error": {"code": "invalid_api_key", "message": "no", "type": "authentication_error"}}


async def test_a_refusal_of_a_moment_does_not_keep_the_fresh_link_away(folder: Path) -> None:
    """The service's own refusal to tell of the task gives no paid video up when it passes."""
    async with Sandbox(video="stub", speed=0) as sandbox, Kit(sandbox) as kit:
        task = await kit.task()
        sandbox.fail(Fault("expire", fresh=True))
        path = f"/v1/tasks/{task.id}"
        sandbox.fail(Fault("refuse", path=path, status=401, body=REFUSAL, times=3))
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.size == video.path.stat().st_size


async def test_a_refusal_that_stays_is_told(folder: Path) -> None:
    """A key that was taken away while a link is dead ends the download after a few reads."""
    async with Sandbox(video="stub", speed=0) as sandbox, Kit(sandbox, patience=3600.0) as kit:
        task = await kit.task()
        sandbox.fail(Fault("expire", fresh=True))
        path = f"/v1/tasks/{task.id}"
        sandbox.fail(Fault("refuse", path=path, status=401, body=REFUSAL, times=1000))
        with pytest.raises(IncompleteDownloadError, match="cannot be read: HTTP 401") as caught:
            await kit.downloader.download(task, f"{folder}/")
        assert (caught.value.charged, caught.value.task_id) == ("yes", task.id)


@pytest.mark.parametrize("status", [403, 404, 410, 200])
async def test_a_link_that_outlived_its_day_is_dead(folder: Path, status: int) -> None:
    """The task is read once more; the same link again means that the video is lost, and the error
    comes at once.
    """
    async with (
        Sandbox(video="stub", speed=0, expired_link=status) as sandbox,
        Kit(sandbox, patience=3600.0) as kit,
    ):
        task = await kit.task()
        sandbox.advance(24 * 3600 + 1)
        with pytest.raises(LinkExpiredError) as caught:
            await kit.downloader.download(task, f"{folder}/")
        assert (caught.value.charged, caught.value.task_id) == ("yes", task.id)
        assert sandbox.count("GET", f"/v1/tasks/{task.id}") == 2
        assert len(kit.fetches()) == 1
        assert names_in(folder) == []


@pytest.mark.parametrize("status", [403, 404, 410, 400])
async def test_a_young_link_is_not_taken_for_dead(folder: Path, status: int) -> None:
    """It cannot have expired: it is asked for as long as patience lasts, and the error does not
    say that the video is lost.
    """
    async with Sandbox(video="stub", speed=0) as sandbox, Kit(sandbox) as kit:
        task = await kit.task()
        sandbox.fail(Fault("refuse", path="/results/", status=status, times=None))
        with pytest.raises(IncompleteDownloadError, match=str(status)) as caught:
            await kit.downloader.download(task, f"{folder}/")
        assert not isinstance(caught.value, LinkExpiredError)
        assert "call download() again" in caught.value.next_step.lower()
        assert len(kit.fetches()) >= 2


async def test_slow_bytes_above_the_least_rate_are_waited_for(
    sandbox: Sandbox, folder: Path
) -> None:
    """A slow host is no failure as long as its bytes keep coming."""
    async with Sandbox(video="stub", speed=0, stub_bytes=60_000) as sandbox, Kit(sandbox) as kit:
        task = await kit.task()
        sandbox.fail(Fault("slow-bytes", chunk=8192, interval=0.01))
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.size == 60_000
        assert len(kit.fetches()) == 1


async def test_bytes_under_the_least_rate_do_not_hold_a_place_for_ever(
    sandbox: Sandbox, folder: Path
) -> None:
    """A host that drips is left, and asked anew for the rest; when it goes on dripping, the error
    says so and the part is kept.
    """
    slow = Timeouts(download_rate=1_000_000, download_window=0.05)
    async with Kit(
        sandbox, timeouts=slow, policy=RetryPolicy(attempts=2, first_pause=0.001)
    ) as kit:
        task = await kit.task()
        sandbox.fail(Fault("slow-bytes", chunk=100, interval=0.005, times=None))
        with pytest.raises(IncompleteDownloadError, match="too slowly"):
            await kit.downloader.download(task, f"{folder}/")
        asked = ranges_of(kit)
    assert asked[0] is None
    assert str(asked[1]).startswith("bytes=")
    assert [left.task_id for left in leftovers(folder)] == [task.id]


async def test_silence_ends_with_the_read_time_out(sandbox: Sandbox, folder: Path) -> None:
    """A host that sends nothing more is left after `Timeouts(download_idle=...)`."""
    async with Kit(sandbox, timeouts=Timeouts(download_idle=0.05)) as kit:
        task = await kit.task()
        truth = await truth_of(sandbox, task)
        sandbox.fail(Fault("hang-before", path="/results/"))
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.path.read_bytes() == truth


async def test_a_head_that_drips_is_left(sandbox: Sandbox, folder: Path) -> None:
    """A host that sends a byte of its headers now and then, for ever, is left like one that is
    silent.
    """
    drips = 0

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal drips
        drips += 1
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"1")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(), 0.01)
        writer.close()

    hasty = Timeouts(connect=0.05, download_idle=0.05)
    async with (
        await asyncio.start_server(drip, "127.0.0.1", 0) as server,
        Kit(sandbox, timeouts=hasty, policy=ONE_TRY) as kit,
    ):
        link = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v.mp4"
        with pytest.raises(IncompleteDownloadError):
            await kit.downloader.download(
                attrs.evolve(await kit.task(), results=(link,)), f"{folder}/"
            )
    assert drips == 1


@pytest.mark.parametrize("then", [b"zzz\r\n", b"-5\r\n", b"0\r\nno trailer\0\r\n\r\n"])
async def test_chunks_that_are_none_are_waited_for_no_longer_than_silence(
    sandbox: Sandbox, then: bytes
) -> None:
    """Where a proxy breaks the chunks of a body, the HTTP library tells nobody who waits for it,
    and forgets its own limit. What came before is there to take.
    """
    opened = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nmp4!\r\n")
        await opened.wait()
        writer.write(then)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        Kit(sandbox, timeouts=Timeouts(download_idle=0.05)) as kit,
    ):
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v.mp4"
        async with await kit.fetcher.open(address, {}) as stream:
            opened.set()
            with anyio.fail_after(100), pytest.raises(TransportError):
                await stream.fill(1000)
            assert stream.take() == [b"mp4!"]


@pytest.mark.parametrize(
    ("status", "headers"), [(429, {}), (503, {"Retry-After": "0"}), (503, {}), (500, {}), (408, {})]
)
async def test_a_host_that_gives_few_at_once_or_is_unwell_is_waited_for(
    sandbox: Sandbox, folder: Path, status: int, headers: dict[str, str]
) -> None:
    """Stores and file hosts bound what they give at a time. Of many videos that end together the
    others wait for those that come. One that is restarted says 503 for a while. The video is paid
    and its link lives: time bounds that, and tries do not.
    """
    async with Kit(sandbox, policy=ONE_TRY, patience=3600.0) as kit:
        task = await kit.task()
        busy = Fault("refuse", path="/results/", status=status, headers=headers, times=9)
        sandbox.fail(busy)
        assert (await kit.downloader.download(task, f"{folder}/")).size == 300_000
        assert len(kit.fetches()) == 10


async def test_a_host_cannot_send_us_away_for_years(sandbox: Sandbox, folder: Path) -> None:
    """A Retry-After of a file host is obeyed for some minutes at most: the link dies meanwhile."""
    async with Kit(sandbox, patience=3600.0) as kit:
        task = await kit.task()
        sandbox.fail(
            Fault(
                "refuse",
                path="/results/",
                status=503,
                headers={"Retry-After": "99999999"},
                times=None,
            )
        )
        kit.events.subscribe(lambda _: kit.downloader.close(), Retrying)
        with pytest.raises(SessionClosedError):
            await kit.downloader.download(task, f"{folder}/")
    assert [event.pause for event in kit.heard if isinstance(event, Retrying)] == [300.0]


async def test_progress_renews_the_tries(kit: Kit, sandbox: Sandbox, folder: Path) -> None:
    """A host that cuts every answer, but brings something each time, is asked until the video is
    whole.
    """
    async with (
        Sandbox(video="stub", speed=0, stub_bytes=1_000_000) as sandbox,
        Kit(sandbox, policy=RetryPolicy(attempts=2, first_pause=0.001)) as kit,
    ):
        task = await kit.task()
        sandbox.fail(Fault("truncate", bytes=100_000, times=None))
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.size == 1_000_000
        assert len(ranges_of(kit)) == 10


async def test_a_byte_at_a_time_is_no_progress(sandbox: Sandbox, folder: Path) -> None:
    """A host that gives a crumb to each request is given up after the policy's tries."""
    async with Kit(sandbox, policy=RetryPolicy(attempts=4, first_pause=0.001)) as kit:
        task = await kit.task()
        sandbox.fail(Fault("truncate", bytes=10, times=None))
        with pytest.raises(IncompleteDownloadError):
            await kit.downloader.download(task, f"{folder}/")
        assert len(kit.fetches()) == 4


async def test_a_video_over_the_cap_is_refused(sandbox: Sandbox, folder: Path) -> None:
    """The announced length is believed, once, and nothing is written."""
    async with Kit(sandbox, limits=Limits(max_video_bytes=299_999)) as kit:
        task = await kit.task()
        with pytest.raises(DownloadError, match="300,000"):
            await kit.downloader.download(task, f"{folder}/")
        assert len(kit.fetches()) == 1
        assert names_in(folder) == []


async def test_a_redirect_is_followed(kit: Kit, sandbox: Sandbox, folder: Path) -> None:
    """Hosts may send elsewhere; the key goes to neither place."""
    task = await kit.task()
    sandbox.fail(Fault("redirect"))
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.size == 300_000
    headers: list[dict[str, Any]] = [request.headers for request in kit.fetches()]
    assert len(headers) == 2
    for sent in headers:
        assert "Authorization" not in sent
        assert "Cookie" not in sent
        assert sent["User-Agent"].startswith("happyhorse-async/")
        assert sent["Accept-Encoding"] == "identity"


TASK_ANSWERS = {
    "the task is not found": (
        404,
        {"error": {"code": "task_not_found", "message": "gone"}},
        IncompleteDownloadError,
    ),
    "the key is refused": (
        401,
        {"error": {"code": "unauthorized", "message": "no"}},
        IncompleteDownloadError,
    ),
    "the service is down": (
        503,
        {"error": {"code": "service_unavailable", "message": "down"}},
        IncompleteDownloadError,
    ),
}


@pytest.mark.parametrize("name", TASK_ANSWERS)
async def test_a_dead_link_whose_task_cannot_be_read(
    kit: Kit, sandbox: Sandbox, folder: Path, name: str
) -> None:
    """It may give a link later, and the error says so."""
    status, body, expected = TASK_ANSWERS[name]
    task = await kit.task()
    sandbox.fail(Fault("expire", times=None))
    sandbox.fail(Fault("refuse", path="/v1/tasks/", status=status, body=body, times=None))
    with pytest.raises(expected) as caught:
        await kit.downloader.download(task, f"{folder}/")
    assert (caught.value.charged, caught.value.task_id) == ("yes", task.id)
    assert len(kit.fetches()) == 1


async def test_a_task_that_lost_its_links_is_said_to_have(
    kit: Kit, sandbox: Sandbox, folder: Path
) -> None:
    """A second result that the fresh answer does not have is asked for again; one that there never
    was is not.
    """
    task = await kit.task()
    twice = attrs.evolve(task, results=task.results * 2)
    sandbox.fail(Fault("expire", times=None))
    with pytest.raises(IncompleteDownloadError, match="no link for this result"):
        await kit.downloader.download(twice, f"{folder}/", index=1)
    reads = sandbox.count("GET", f"/v1/tasks/{task.id}")
    with pytest.raises(IncompleteDownloadError, match="has 1 results, so none with index 4"):
        await kit.downloader.download(task, f"{folder}/", index=4)
    assert sandbox.count("GET", f"/v1/tasks/{task.id}") == reads + 1


async def test_a_video_that_was_taken_down_is_said_to_be(
    kit: Kit, sandbox: Sandbox, folder: Path
) -> None:
    """A review after the end may take a video away: the error says why."""
    task = await kit.task()
    why = {"code": "content_policy_violation", "message": "taken down", "type": "task_error"}
    sandbox.fail(Fault("expire", times=None))
    body = {"id": task.id, "status": "failed", "error": why}
    sandbox.fail(Fault("refuse", path="/v1/tasks/", status=200, body=body, times=None))
    with pytest.raises(IncompleteDownloadError, match="content_policy_violation: taken down"):
        await kit.downloader.download(task, f"{folder}/")


async def test_a_part_that_makes_no_video_with_the_rest_is_fetched_anew(
    kit: Kit, sandbox: Sandbox, folder: Path
) -> None:
    """When the host joins two different files under one validator, the walk over the boxes shows
    it, and all is fetched again.
    """
    task = await kit.task()
    truth = await truth_of(sandbox, task)
    await half_a_video(sandbox, task, folder)
    part = folder / f"{task.id}.mp4.part"
    moov = truth.index(b"moov")
    part.write_bytes(truth[: moov - 4] + (77).to_bytes(4, "big") + truth[moov:150_000])
    video = await kit.downloader.download(task, f"{folder}/")
    assert video.path.read_bytes() == truth


@pytest.mark.parametrize("length", [None, "chunked"])
async def test_a_host_that_does_not_say_the_length(
    sandbox: Sandbox, folder: Path, length: str | None
) -> None:
    """A body without Content-Length is saved when its boxes are whole,
    and capped while it comes.
    """
    from aiohttp import web

    async with Kit(sandbox) as kit, Kit(sandbox, limits=Limits(max_video_bytes=299_999)) as strict:
        task = await kit.task()
        truth = await truth_of(sandbox, task)

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "video/mp4"})
            if length:
                response.enable_chunked_encoding()
            else:
                response.force_close()
            await response.prepare(request)
            await response.write(truth)
            return response

        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        link = f"http://127.0.0.1:{runner.addresses[0][1]}/v.mp4"
        task = attrs.evolve(task, results=(link,))
        video = await kit.downloader.download(task, f"{folder}/")
        assert video.path.read_bytes() == truth
        with pytest.raises(DownloadError, match="at most 299,999"):
            await strict.downloader.download(task, f"{folder}/strict/")
        await runner.cleanup()
