"""Links that are not there yet, or not any more:
no answer is final as long as the link can live.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web

from happyhorse_async import (
    DownloadError,
    IncompleteDownloadError,
    LinkExpiredError,
    RetryPolicy,
    Session,
    Task,
    TaskHandle,
)
from happyhorse_async._edges import disk, part_files
from happyhorse_async._edges.disk import out_of_descriptors
from happyhorse_async._rules.fetching import Persistence
from happyhorse_async.events import Retrying
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import QUICK_POLLING, open_session
from tests.downloader.conftest import LINK, Kit, host_of, names_in
from tests.downloader.test_whole import VIDEO

pytestmark = pytest.mark.anyio

DAY = 24 * 3600.0


@pytest.mark.parametrize("status", [403, 404])
async def test_a_fresh_link_may_not_be_there_yet(
    sandbox: Sandbox, folder: Path, status: int
) -> None:
    """The host needs a while until it has the file: it is asked again, far more often than an
    attempt that fails.
    """
    async with Kit(sandbox, patience=DAY, policy=RetryPolicy(attempts=2, first_pause=0.0)) as kit:
        task = await kit.task()
        sandbox.fail(Fault("refuse", path="/results/", status=status, times=20))
        video = await kit.downloader.download(task, f"{folder}/")
    assert (video.size, len(kit.fetches())) == (300_000, 21)
    tried = [event for event in kit.heard if isinstance(event, Retrying)]
    assert (len(tried), str(status) in str(tried[0].error)) == (20, True)


async def test_results_may_come_later_than_completion(sandbox: Sandbox, folder: Path) -> None:
    """A finished task without results is read again until it has them."""
    async with Kit(sandbox, patience=DAY) as kit:
        task = await kit.task()
        bare = attrs.evolve(task, results=(), expires_at=None)
        answers, read = [bare] * 7, kit.api.read_task

        async def read_task(task_id: str) -> Task:
            return answers.pop() if answers else await read(task_id)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kit.api, "read_task", read_task)
            video = await kit.downloader.download(bare, f"{folder}/")
        assert (video.task, answers) == (task, [])
        answers.append(bare)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kit.api, "read_task", read_task)
            (again,) = await kit.downloader.download_all(bare, f"{folder}/all/")
        assert (again.task, again.sha256) == (task, video.sha256)


class ShortLinks:
    """A file host whose links are good for one request each, and cut it; each read of the task
    gives a new one.
    """

    def __init__(self, task: Task, *, share: float) -> None:
        self.task = task
        self.share = share
        self.url = ""
        self.issued = 0
        self.used: set[str] = set()
        self.asked: list[str | None] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Give a piece, and let the link die."""
        if request.path in self.used:
            return web.Response(status=403)
        self.used.add(request.path)
        self.asked.append(request.headers.get("Range"))
        begin = int((self.asked[-1] or "bytes=0-")[6:-1])
        headers = {"ETag": '"one"', "Content-Length": str(len(VIDEO) - begin)}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(VIDEO) - 1}/{len(VIDEO)}"
        response = web.StreamResponse(status=206 if begin else 200, headers=headers)
        await response.prepare(request)
        await response.write(VIDEO[begin : begin + int(len(VIDEO) * self.share)])
        response.force_close()
        return response

    async def read_task(self, _: str) -> Task:
        """Give the task with a new link."""
        self.issued += 1
        return attrs.evolve(self.task, results=(f"{self.url}/{self.issued}.mp4",))


async def test_links_that_live_for_one_request_are_renewed(sandbox: Sandbox, folder: Path) -> None:
    """Each brings some bytes, so each next attempt is free, and goes on from where the last one
    ended.
    """
    policy = RetryPolicy(attempts=2, first_pause=DAY, longest_pause=DAY)
    async with Kit(sandbox, patience=DAY, policy=policy) as kit:
        links = ShortLinks(await kit.task(), share=0.04)
        async with host_of(links.answer) as links.url:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kit.api, "read_task", links.read_task)
                task = await links.read_task("")
                video = await kit.downloader.download(task, folder / "v.mp4")
    assert video.path.read_bytes() == VIDEO
    starts = [int((asked or "bytes=0-")[6:-1]) for asked in links.asked]
    assert starts == sorted(set(starts))
    assert len(starts) > 20


async def test_a_link_past_its_day_that_is_renewed_is_followed(folder: Path) -> None:
    """The service may keep the video longer than it promises."""
    async with Sandbox(video="stub", speed=0) as sandbox, Kit(sandbox) as kit:
        task = await kit.task()
        sandbox.advance(DAY + 60)
        read = kit.api.read_task

        async def read_task(task_id: str) -> Task:
            return attrs.evolve(await read(task_id), results=(f"{url}/v.mp4",))

        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(body=VIDEO)

        async with host_of(answer) as url:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(kit.api, "read_task", read_task)
                video = await kit.downloader.download(task, folder / "v.mp4")
    assert video.path.read_bytes() == VIDEO


async def test_a_link_has_expired_by_this_machines_clock_too(
    sandbox: Sandbox, folder: Path
) -> None:
    """A host that does not tell its time does not make a link young."""
    async with Kit(sandbox, patience=DAY) as kit:
        task = await kit.task()
        moment = task.created
        assert moment is not None
        old = attrs.evolve(task, expires_at=moment.fromtimestamp(time.time() - 60, moment.tzinfo))
        sandbox.fail(Fault("expire", times=None))
        with pytest.raises(LinkExpiredError):
            await kit.downloader.download(old, f"{folder}/")


async def test_a_wrong_clock_here_lets_no_fresh_link_die(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is days ahead waits for a link that is not there yet, as any other does."""
    real = time.time
    async with Kit(sandbox, patience=DAY, policy=RetryPolicy(attempts=2, first_pause=0.0)) as kit:
        task = await kit.task()
        told = formatdate(real(), usegmt=True)
        sandbox.fail(Fault("refuse", path="/results/", status=404, headers={"Date": told}, times=3))
        monkeypatch.setattr(time, "time", lambda: real() + 30 * 3600)
        video = await kit.downloader.download(task, f"{folder}/")
    assert video.size == 300_000


async def ended(session: Session, sandbox: Sandbox, how: str) -> TaskHandle:
    """Return a task whose end the session itself has seen come."""
    handle = await session.submit(LINK)
    if how == "read":
        await handle.read()
    elif how == "waited for":
        handle = session.task(handle.id)
        async with session.watch([handle]) as states:
            await anext(aiter(states))
            sandbox.finish(handle.id)
            async for _ in states:
                pass
    sandbox.finish(handle.id)
    return handle


@pytest.mark.parametrize("whose", ["service", "file host"])
@pytest.mark.parametrize("how", ["submitted", "read", "waited for"])
async def test_no_wrong_clock_elsewhere_makes_a_link_old_whose_task_was_seen_unfinished(
    sandbox: Sandbox, tmp_path: Path, whose: str, how: str
) -> None:
    """The service tells that the task is three days old, or the file host that it is next week: a
    first 403 is then no end, since this session knows better.
    """
    if whose == "service":
        sandbox.fail(Fault("skew", path="/v1/", seconds=-3 * DAY, times=None))
        headers = {}
    else:
        headers = {"Date": formatdate(time.time() + 7 * DAY, usegmt=True)}
    async with open_session(sandbox) as session:
        handle = await ended(session, sandbox, how)
        if how != "submitted":
            handle = session.task(handle.id)
        sandbox.fail(Fault("refuse", path="/results/", status=403, headers=headers, times=3))
        video = await handle.download(tmp_path / "a.mp4")
    assert video.path.stat().st_size == video.size


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("signed", [True, False])
async def test_a_host_that_is_days_ahead_ends_no_link_against_two_other_clocks(
    sandbox: Sandbox, tmp_path: Path, shown: bool, signed: bool
) -> None:
    """A task that is opened by its id after its end is young by the service's clock and by this
    machine's. Its link is waited for as any other, and given up for what it is in the end; also
    when each read of the task gives a link that is signed anew.
    """
    if signed:
        sandbox.fail(Fault("short-links", seconds=DAY))
    async with open_session(sandbox) as session:
        done = await ended(session, sandbox, "submitted")
    headers = {"Date": formatdate(time.time() + 7 * DAY, usegmt=True)}
    times = 3 if shown else None
    sandbox.fail(Fault("refuse", path="/results/", status=403, headers=headers, times=times))
    polling = attrs.evolve(QUICK_POLLING, patience=DAY if shown else 0.05)
    async with open_session(sandbox, polling=polling) as session:
        downloading = session.task(done.id).download(tmp_path / "a.mp4")
        if shown:
            assert (await downloading).size == (tmp_path / "a.mp4").stat().st_size
        else:
            with pytest.raises(IncompleteDownloadError, match="less than 24 h ago"):
                await downloading


@pytest.mark.parametrize("attempts", [2, 3, 4])
async def test_what_two_clocks_deny_is_denied_until_the_end(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    """Every second reading of the task forgot that its link had been told old wrongly."""
    async with open_session(sandbox) as session:
        done = await ended(session, sandbox, "submitted")
    headers = {"Date": formatdate(time.time() + 7 * DAY, usegmt=True)}
    sandbox.fail(Fault("refuse", path="/results/", status=403, headers=headers, times=None))
    pauses = iter([0.0] * (attempts - 1) + [None])
    monkeypatch.setattr(Persistence, "pause", lambda *_, **__: next(pauses))
    async with open_session(sandbox) as session:
        with pytest.raises(IncompleteDownloadError, match="less than 24 h ago"):
            await session.task(done.id).download(tmp_path / "a.mp4")
    asked = [request for request in sandbox.requests if request.path.startswith("/results/")]
    assert len(asked) == attempts


async def test_a_link_that_no_clock_makes_old_is_given_up_in_the_end(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Patience bounds it as it does any other, and the error says what is known."""
    sandbox.fail(Fault("skew", path="/v1/", seconds=-3 * DAY, times=None))
    polling = attrs.evolve(QUICK_POLLING, patience=0.05)
    async with open_session(sandbox, polling=polling) as session:
        handle = await ended(session, sandbox, "submitted")
        sandbox.fail(Fault("refuse", path="/results/", status=403, times=None))
        with pytest.raises(IncompleteDownloadError, match="less than 24 h ago") as caught:
            await handle.download(tmp_path / "a.mp4")
    assert (caught.value.charged, caught.value.task_id) == ("yes", handle.id)


async def test_a_task_that_had_ended_when_it_was_first_seen_expires_at_once(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Nothing contradicts that it is a week old, whether it was read before or not."""
    async with open_session(sandbox) as session:
        old = await ended(session, sandbox, "submitted")
    sandbox.fail(Fault("skew", path="/v1/", seconds=-7 * DAY, times=None))
    sandbox.fail(Fault("refuse", path="/results/", status=404, times=None))
    async with open_session(sandbox) as session:
        for _ in range(2):
            with pytest.raises(LinkExpiredError):
                await session.task(old.id).download(tmp_path / "a.mp4")
            await session.task(old.id).read()


async def test_a_link_can_have_expired_while_this_machine_slept(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A steady clock stands still meanwhile. The service's own has gone on since the submission,
    which no wrong clock does.
    """
    async with open_session(sandbox) as session:
        handle = await ended(session, sandbox, "submitted")
        sandbox.advance(2 * DAY)
        with pytest.raises(LinkExpiredError):
            await handle.download(tmp_path / "a.mp4")


@pytest.mark.parametrize(("hours", "expires"), [(23, False), (25, True)])
async def test_what_was_seen_unfinished_a_day_ago_can_have_expired(
    sandbox: Sandbox, folder: Path, hours: int, expires: bool
) -> None:
    """A day counts by the steady clock of this process, which nobody sets."""
    seen = asyncio.get_running_loop().time() - hours * 3600
    async with Kit(sandbox, unfinished=lambda _: seen) as kit:
        task = await kit.task()
        sandbox.fail(Fault("expire", times=None))
        with pytest.raises(DownloadError) as caught:
            await kit.downloader.download(attrs.evolve(task, expires_at=task.created), f"{folder}/")
    assert isinstance(caught.value, LinkExpiredError) is expires


async def test_the_callers_own_time_bounds_the_wait_for_a_link(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """`timeout` covers the wait for the task and for its link; a minute is not made fifteen."""
    async with open_session(sandbox) as session:
        handle = await session.submit(LINK)
        sandbox.finish(handle.id)
        await handle.wait()
        sandbox.fail(Fault("refuse", path="/results/", status=404, times=None))
        with pytest.raises(IncompleteDownloadError) as caught:
            await handle.download(tmp_path / "a.mp4", timeout=0.2)
    assert (caught.value.charged, caught.value.task_id) == ("yes", handle.id)


# --- No file descriptors left.


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("where", ["network", "part file", "folder"])
async def test_a_lack_of_descriptors_is_waited_for(
    sandbox: Sandbox, folder: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as soon as others close theirs, so it is no failed attempt, wherever it shows."""
    folder.mkdir()
    async with Kit(sandbox, patience=DAY, policy=RetryPolicy(attempts=1, first_pause=0.0)) as kit:
        task = await kit.task()
        left = 5

        def scarce(true: Any) -> Any:
            def call(*args: Any, **facts: Any) -> Any:
                nonlocal left
                if left:
                    left -= 1
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                return true(*args, **facts)

            return call

        if where == "network":
            connector: Any = kit.fetcher._direct.connector
            monkeypatch.setattr(connector, "_socket_factory", scarce(connector._socket_factory))
        elif where == "part file":
            monkeypatch.setattr(part_files, "_open_alone", scarce(part_files._open_alone))
        else:
            monkeypatch.setattr(disk, "synced_folder", scarce(disk.synced_folder))
        video = await kit.downloader.download(task, folder / "a.mp4")
    assert (video.size, left, names_in(folder)) == (300_000, 0, ["a.mp4"])


async def test_a_host_that_cannot_be_reached_is_waited_for(sandbox: Sandbox, folder: Path) -> None:
    """A machine that has just woken has no network for a while. So time bounds that, and tries do
    not.
    """
    policy = RetryPolicy(attempts=1, first_pause=0.0)
    async with Kit(sandbox, patience=DAY, policy=policy) as kit:
        task = await kit.task()
        names: Any = kit.fetcher._direct.connector
        true, left = names._resolve_host, 5

        async def scarce(*args: Any, **facts: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
            return await true(*args, **facts)

        names._resolve_host = scarce
        video = await kit.downloader.download(task, folder / "a.mp4")
    assert (video.size, left, names_in(folder)) == (300_000, 0, ["a.mp4"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells these from others")
async def test_a_name_that_does_not_exist_is_not_waited_for(sandbox: Sandbox, folder: Path) -> None:
    """That is an answer, and no network that is away: the policy's tries bound it."""

    async def nobody(*args: Any, **facts: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    policy = RetryPolicy(attempts=2, first_pause=0.0)
    async with Kit(sandbox, patience=DAY, policy=policy) as kit, asyncio.timeout(100):
        task = await kit.task()
        names: Any = kit.fetcher._direct.connector
        names._resolve_host = nobody
        with pytest.raises(IncompleteDownloadError, match="Name or service") as caught:
            await kit.downloader.download(task, folder / "a.mp4")
    assert caught.value.task_id == task.id


async def test_a_host_that_is_never_reached_is_told(kit: Kit, folder: Path) -> None:
    """When the time is over, the error says what was in the way, and that the video can be had."""
    task = await kit.task()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        link = f"http://127.0.0.1:{nobody.getsockname()[1]}/v.mp4"

        async def read_task(_: str) -> Task:
            return attrs.evolve(task, results=(link,))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kit.api, "read_task", read_task)
            with pytest.raises(IncompleteDownloadError, match="Cannot connect") as caught:
                await kit.downloader.download(await read_task(""), folder / "a.mp4")
    assert (caught.value.charged, caught.value.task_id) == ("yes", task.id)


def test_a_name_that_cannot_be_looked_up_may_be_a_lack_of_descriptors() -> None:
    """The system does not say so: it is tried whether a descriptor can be had."""
    unknown = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert not out_of_descriptors(unknown)
    with no_descriptors():
        found = out_of_descriptors(unknown)
    assert found
