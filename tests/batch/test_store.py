"""A batch whose videos go to an object store, and whose ledger lies in a local folder: a real S3
server on loopback.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from aiohttp import web

from happyhorse_async import (
    ConfigurationError,
    DestinationExistsError,
    DownloadError,
    HappyHorseError,
    LedgerError,
    Session,
)
from happyhorse_async._edges import object_store
from happyhorse_async._edges.object_store import PROBE
from happyhorse_async.batch import Batch, Job, JobState, Outcome
from happyhorse_async.batch.report import overview, write_reports
from happyhorse_async.sandbox import Sandbox
from tests.batch.test_resume import QUICK, rows
from tests.conftest import open_session
from tests.downloader.test_object_store import (
    BUCKET,
    LONG_AGO,
    Gate,
    Shelf,
    gate,
    refused,
    server,
    shelf,
    spool,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

__all__ = ["gate", "server", "shelf", "spool"]

OUT = f"{BUCKET}/night/one"
PREFIX = "night/one/"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """The folder for the ledger."""
    return tmp_path / "ledger"


def batch_of(session: Session, ledger: Path, out: str | None = OUT, **options: bool) -> Batch:
    """Open a batch."""
    return session.batch(ledger, out=out, retry=QUICK, **options)


async def run(session: Session, ledger: Path, requests: object, **options: bool) -> list[Outcome]:
    """Run a batch once, to its end."""
    async with batch_of(session, ledger, **options) as batch:
        return [outcome async for outcome in batch.run(requests)]  # type: ignore[arg-type]


def results(ledger: Path, *, verify: bool = False) -> list[dict[str, object]]:
    """Write a report and read it."""
    write_reports(ledger, ("jsonl", "csv", "html"), verify=verify)
    return [json.loads(line) for line in (ledger / "results.jsonl").read_text().splitlines()]


def kept(shelf: Shelf) -> list[str]:
    """List what lies in the store, but for the objects that ask for its rights."""
    keys = shelf.keys()
    return [key for key in keys if PROBE not in key]


async def test_videos_go_to_the_store_and_the_ledger_stays(ledger: Path, shelf: Shelf) -> None:
    """Each video lies under the prefix, outcomes and reports have its link, nothing but the ledger
    is on this machine, and a second run tells the same without asking the service for anything.
    """
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        outcomes = await run(
            session, ledger, [Job(request, id=f"n{request.seed}") for request in rows(3)]
        )
        assert [outcome.ok for outcome in outcomes] == [True] * 3
        urls = {outcome.video.url for outcome in outcomes}
        assert urls == {f"{OUT}/n{n}.mp4" for n in (1, 2, 3)}
        assert sorted(shelf.keys()) == [f"{PREFIX}n{n}.mp4" for n in (1, 2, 3)]
        assert {path.name for path in ledger.iterdir()} <= {"happyhorse.sqlite", "happyhorse.lock"}
        asked = len(sandbox.requests)
        # The store is known to the ledger.
        async with batch_of(session, ledger, None) as batch:
            again = [
                outcome
                async for outcome in batch.run(
                    [Job(request, id=f"n{request.seed}") for request in rows(3)]
                )
            ]
        assert {outcome.video.url for outcome in again if outcome.ok} == urls
        assert all(outcome.resumed for outcome in again)
        assert len(sandbox.requests) == asked
    assert {result["video"] for result in results(ledger)} == urls
    assert overview(ledger).missing == 0


async def test_what_is_missing_in_the_store_is_fetched_again(ledger: Path, shelf: Shelf) -> None:
    """A video that was deleted or cut in the store is missing to `status` and reports, and is put
    there again while its link lives; what lay in its place is kept beside. With `verify` the same
    holds of one that was changed to the same length.
    """
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        first, second, third = sorted(
            [
                outcome.video.url or ""
                for outcome in await run(session, ledger, rows(3))
                if outcome.ok
            ]
        )
        key = {url: url.removeprefix(f"{BUCKET}/") for url in (first, second, third)}
        whole, _ = shelf.get(key[third])
        shelf.client.delete_object(Bucket="videos-of-tests", Key=key[first])
        shelf.put(key[second], b"cut")
        assert overview(ledger).missing == 2
        assert sorted(str(result["state"]) for result in results(ledger)) == [
            "missing",
            "missing",
            "saved",
        ]
        outcomes = await run(session, ledger, rows(3))
        assert [outcome.ok for outcome in outcomes] == [True] * 3
        assert shelf.get(f"{key[second]}.changed")[0] == b"cut"
        shelf.put(key[third], bytes(len(whole)))
        assert [str(result["state"]) for result in results(ledger)] == ["saved"] * 3
        assert "missing" in {str(result["state"]) for result in results(ledger, verify=True)}
        async with batch_of(session, ledger, verify=True) as batch:
            assert [outcome.ok async for outcome in batch.retry()] == [True]
        assert shelf.get(key[third])[0] == whole
        assert sandbox.paid == 3


async def test_what_nobody_may_delete_ends_one_job(ledger: Path, shelf: Shelf, gate: Gate) -> None:
    """A changed video in a store that keeps all objects is told, and the other jobs go on."""

    async def keeping(request: web.Request) -> web.StreamResponse | None:
        deletes = request.method == "DELETE" or "delete" in request.query
        return refused(403, "AccessDenied") if deletes else None

    jobs = [Job(request, id=f"n{request.seed}") for request in rows(3)]
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        await run(session, ledger, jobs[:2])
        shelf.put(f"{PREFIX}n1.mp4", b"changed")
        gate.before = keeping
        outcomes = {outcome.id: outcome for outcome in await run(session, ledger, jobs)}
        assert "cannot be put aside" in str(outcomes["n1"].error)
        assert [outcomes[name].ok for name in ("n2", "n3")] == [True, True]
        assert (shelf.get(f"{PREFIX}n1.mp4")[0], sandbox.paid) == (b"changed", 3)


async def test_a_store_that_is_busy_while_videos_are_read_is_asked_again(
    ledger: Path, shelf: Shelf, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the content goes on where it broke off. A store that stays busy is told as that,
    and nothing is put aside for it.
    """
    monkeypatch.setattr(object_store, "PAUSES", (0.0,) * 4)
    asked: list[str | None] = []

    async def in_turn(request: web.Request) -> web.StreamResponse | None:
        if request.method != "GET" or not request.path.endswith(".mp4"):
            return None
        asked.append(request.headers.get("Range"))
        if always or len(asked) == 1:
            return refused(503, "SlowDown")
        return await cut(request, shelf) if len(asked) == 2 else None

    always = False
    async with (
        Sandbox(video="stub", speed=1000, stub_bytes=900_000) as sandbox,
        open_session(sandbox) as session,
    ):
        await run(session, ledger, rows(1))
        gate.before = in_turn
        told = await asyncio.to_thread(results, ledger, verify=True)
        assert [result["state"] for result in told] == ["saved"]
        assert asked[:2] == [None, None]
        assert str(asked[2]).startswith("bytes=")
        always, fetched = True, len(sandbox.requests)
        with pytest.raises(HappyHorseError, match=r"cannot be read: .*SlowDown") as caught:
            await run(session, ledger, rows(1), verify=True)
        assert caught.value.next_step == "Do the same again when the store answers."
        assert len(sandbox.requests) == fetched
    assert [".changed" in key for key in kept(shelf)] == [False]


async def cut(request: web.Request, shelf: Shelf) -> web.StreamResponse:
    """Send two thirds of an object, and close the connection."""
    data, _ = await asyncio.to_thread(shelf.get, request.path.partition("/videos-of-tests/")[2])
    headers = {"ETag": '"one"', "Last-Modified": LONG_AGO, "Content-Length": str(len(data))}
    answer = web.StreamResponse(headers=headers)
    await answer.prepare(request)
    await answer.write(data[:600_000])
    assert request.transport is not None
    request.transport.close()
    return answer


async def test_all_of_the_store_is_asked_before_anything_is_paid(
    ledger: Path, shelf: Shelf, gate: Gate
) -> None:
    """A bucket that is not there, a prefix without rights, a store that knows no conditional puts,
    and a prefix that leaves no room for names: the batch does not open.
    """
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:

        async def refuse(request: web.Request) -> web.StreamResponse | None:
            if request.method == "PUT" and "/locked/" in request.path:
                return web.Response(status=403, text="<Error><Code>AccessDenied</Code></Error>")
            if "If-None-Match" in request.headers and "/simple/" in request.path:
                return web.Response(status=501, text="<Error><Code>NotImplemented</Code></Error>")
            return None

        gate.before = refuse
        for number, out in enumerate(
            (
                "s3://no-such-bucket/x",
                f"{BUCKET}/locked",
                f"{BUCKET}/simple",
                f"{BUCKET}/{'a' * 1000}",
                f"{BUCKET}//x",
            )
        ):
            with pytest.raises(HappyHorseError) as refused:
                async with batch_of(session, ledger / str(number), out) as batch:
                    _ = [outcome async for outcome in batch.run(rows(1))]
            assert isinstance(refused.value, DownloadError)
            assert refused.value.next_step
            assert "__" not in str(refused.value)
        assert sandbox.paid == 0
    assert kept(shelf) == []


async def test_a_store_that_may_not_be_listed_is_told_as_that(
    ledger: Path, shelf: Shelf, gate: Gate
) -> None:
    """Nothing was to be written there yet, and nothing is charged."""

    async def no_list(request: web.Request) -> web.StreamResponse | None:
        return refused(403, "AccessDenied") if "list-type" in request.query else None

    gate.before = no_list
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        with pytest.raises(DownloadError, match=r"cannot be read: .*AccessDenied") as caught:
            await run(session, ledger, rows(1))
        assert (caught.value.charged, sandbox.paid) == ("no", 0)


async def test_a_store_is_no_folder_and_a_folder_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shelf: Shelf
) -> None:
    """A store as the ledger's folder, a path made of its link, a folder as `out`, and another place
    than the ledger's are refused in words; no folder called "s3:" is made.
    """
    monkeypatch.chdir(tmp_path)
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        places = (
            (OUT, None),
            ("s3://", None),
            (Path(OUT), None),
            ("led", "videos"),
            ("led", "s3://"),
        )
        for folder, out in places:
            with pytest.raises(ConfigurationError, match=r"object store|is a link"):
                session.batch(folder, out=out)
        await run(session, Path("ledger"), rows(1))
        with pytest.raises(LedgerError, match="and not in"):
            async with batch_of(session, Path("ledger"), f"{BUCKET}/elsewhere"):
                pass
        async with session.batch("local", retry=QUICK) as batch:
            assert [outcome.ok async for outcome in batch.run(rows(1, first=2))] == [True]
        with pytest.raises(LedgerError, match="and not in"):
            async with batch_of(session, Path("local"), OUT):
                pass
        assert sandbox.paid == 2
    assert not list(tmp_path.glob("s3*"))


async def test_objects_of_others_are_left_alone(ledger: Path, shelf: Shelf) -> None:
    """What lay under the prefix before the batch is a stranger: its job is refused unpaid."""
    shelf.put(f"{PREFIX}mine.mp4", b"a film of somebody's")
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        [outcome] = await run(session, ledger, [Job(rows(1)[0], id="mine")])
        assert isinstance(outcome.error, DestinationExistsError)
        assert sandbox.paid == 0
    assert shelf.get(f"{PREFIX}mine.mp4")[0] == b"a film of somebody's"


async def test_a_process_that_dies_after_the_put(ledger: Path, shelf: Shelf, gate: Gate) -> None:
    """The video is in the store and the ledger does not know: the next run finds it there, and
    nothing is paid or put again.
    """
    async with Sandbox(video="stub", speed=1000) as sandbox, open_session(sandbox) as session:
        put = asyncio.Event()
        never = asyncio.Event()

        async def hold(request: web.Request) -> web.StreamResponse | None:
            if request.method == "PUT" and PROBE not in request.path:
                shelf.put(request.path.removeprefix("/videos-of-tests/"), await request.read())
                put.set()
                await never.wait()
            return None

        gate.before = hold
        async with batch_of(session, ledger) as batch:
            waiting = asyncio.create_task(anext(batch.run(rows(1))))
            await put.wait()
            left = ledger.with_name("left")
            await asyncio.to_thread(shutil.copytree, ledger, left)
            waiting.cancel()
        never.set()
        gate.before = None
        [outcome] = await run(session, left, rows(1))
        assert (outcome.ok, outcome.state, sandbox.paid) == (True, JobState.SAVED, 1)
    assert kept(shelf) == [f"{PREFIX}{outcome.video.path.name}"]
