"""The API key stays where it belongs."""

from __future__ import annotations

import asyncio
import copy
import gc
import io
import logging
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from happyhorse_async import HappyHorseError, ImageToVideo, RetryPolicy, Session, Timeouts
from happyhorse_async.events import Event
from happyhorse_async.sandbox import Account, Fault, Sandbox
from tests.submitter import faults

pytestmark = pytest.mark.anyio

KEY = "sk-do-not-show-this-to-anybody-4711"
THOROUGH = "500, nothing accepted"
"""The row at which all objects of the package are looked at."""
FILES = "/api/v1/files/upload/stream"


class Seen(list[str]):
    """What was seen; it does not show itself, or each traceback would hold everything that was seen
    before.
    """

    def __repr__(self) -> str:
        return f"<{len(self)} texts>"


def texts_of(error: BaseException) -> list[str]:
    """Give everything that an error shows of itself and of what caused it: also with the values of
    local variables.
    """
    detailed = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts = ["".join(detailed.format()), str(error), repr(error), repr(vars(error))]
    if isinstance(error, HappyHorseError):
        again = pickle.loads(pickle.dumps(error))
        texts += [repr(pickle.dumps(error)), repr(vars(again)), repr(copy.copy(error))]
    causes = [cause for cause in (error.__cause__, error.__context__) if cause is not None]
    return texts + [text for cause in causes for text in texts_of(cause)]


async def test_the_key_shows_up_nowhere(
    tmp_path: Path, cat: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over every fault of the table: no log record at DEBUG, repr, traceback, pickle, event or file
    has the key or its header in it.
    """
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(pathname)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    seen = Seen()
    try:
        for row in faults.ROWS:
            if row.often == "always" and not (
                row.fault is not None and row.fault.action.startswith("hang")
            ):
                await misbehave(row, seen, tmp_path, cat)
    finally:
        asyncio.get_running_loop().set_debug(False)
        root.removeHandler(handler)
    seen += [stream.getvalue(), *(repr(vars(record)) for record in caplog.records)]
    seen += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert stream.getvalue(), "something was logged"
    assert len(seen) > 100
    for text in seen:
        assert KEY not in text
        assert "Bearer" not in text


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "unauthorized", "message": f"Incorrect API key: {KEY}", "type": "x"}},
        f"<html>Authorization: {KEY}</html>",
    ],
    ids=["the service", "a gateway"],
)
@pytest.mark.parametrize("status", [200, 401, 502])
async def test_a_server_that_repeats_the_key_does_not_spread_it(
    status: int, body: Any, cat: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer with the key in it, of the API or of the file host, brings it into no error, event
    or log record.
    """
    caplog.set_level(logging.DEBUG)
    seen = Seen()
    async with Sandbox(video="stub", speed=0, accounts=[Account(key=KEY)]) as sandbox:
        sandbox.fail(Fault("refuse", status=status, body=body, times=None))
        retry = RetryPolicy(attempts=2, first_pause=0.001)
        async with Session(
            KEY, base_url=sandbox.url, files_url=sandbox.files_url, retry=retry
        ) as session:
            session.subscribe(lambda event: seen.append(shown(event)))
            for image in (faults.LINK, cat):
                await attempt(session.submit(ImageToVideo(image)), seen)
            await attempt(session.credits(), seen)
            await attempt(session.estimate(ImageToVideo(faults.LINK)), seen)
    seen += [repr(vars(record)) for record in caplog.records]
    assert any("***" in text for text in seen)
    for text in seen:
        assert KEY not in text


async def misbehave(row: faults.Row, seen: Seen, folder: Path, image: Path) -> None:
    """Submit, upload, wait and download on a server with faults, and keep everything that shows."""
    async with Sandbox(
        video="stub", speed=0, accounts=[Account(key=KEY)], features=row.features
    ) as sandbox:
        if row.fault is not None:
            sandbox.fail(row.fault)
        through = row.through(sandbox) if row.through is not None else None
        url = await through.__aenter__() if through is not None else sandbox.url
        session = Session(
            KEY,
            base_url=url,
            files_url=sandbox.files_url,
            retry=RetryPolicy(attempts=2, first_pause=0.001),
            timeouts=Timeouts(submit=5),
        )
        async with session:
            session.subscribe(lambda event: seen.append(shown(event)))
            seen.append(
                repr(session)
                + repr(vars(session))
                + repr(session._open())
                + repr(vars(session._open()))
            )
            for image_or_link in (faults.LINK, image):
                await attempt(session.submit(ImageToVideo(image_or_link)), seen)
            await attempt(session.credits(), seen)
            await attempt(session.find_tasks(), seen)
            await attempt(
                session.task("task-unified-1-nothing").download(folder / "a.mp4", timeout=0.1), seen
            )
            sandbox.fail(
                Fault(
                    "refuse",
                    path=FILES,
                    status=403,
                    body={"success": False, "code": 403, "msg": "quota is used up"},
                )
            )
            await attempt(session.upload(image.read_bytes() + b"changed"), seen)
            seen.extend(repr(task) + repr(task.get_coro()) for task in asyncio.all_tasks())
            if row.name == THOROUGH:
                seen.extend(repr(part) for part in gc.get_objects() if is_ours(type(part)))
        if through is not None:
            await through.__aexit__(None, None, None)


def is_ours(kind: type) -> bool:
    """Tell whether a class is of the package; the sandbox is the other side of the wire, where the
    key has to be known.
    """
    module = str(getattr(kind, "__module__", ""))
    return module.startswith("happyhorse_async.") and not module.startswith(
        "happyhorse_async.sandbox"
    )


def shown(event: Event) -> str:
    """Give everything that an event shows."""
    error = getattr(event, "error", None)
    return (
        repr(event)
        + repr(pickle.dumps(event))
        + "".join(texts_of(error) if error is not None else ())
    )


async def attempt(work: Any, seen: Seen) -> None:
    """Await, and keep what the result or the error shows."""
    try:
        seen.append(repr(await work))
    except HappyHorseError as error:
        seen.extend(texts_of(error))
