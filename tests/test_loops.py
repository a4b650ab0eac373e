"""A session lives in one event loop: used in another one it says so, and it is closed from any."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from happyhorse_async import ImageToVideo, SessionClosedError, WrongEventLoopError
from happyhorse_async.events import Submitted
from happyhorse_async.sandbox import Sandbox
from happyhorse_async.webhooks import Webhooks
from tests.conftest import PHOTOS, open_session
from tests.edges.peer import Peer, answer

LINK = "https://cdn.example.com/cat.png"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The service in a thread of its own, so that loops may come and go; its time stands still."""
    with Sandbox(video="stub", speed=0) as sandbox:
        yield sandbox


def in_a_thread(call: Callable[[], Any]) -> Any:
    """Make a call in a thread that has no event loop; return or raise what it gives."""
    given: list[Any] = []

    def run() -> None:
        try:
            given.extend((True, call()))
        except BaseException as error:  # noqa: BLE001 raised again by whoever asked
            given.extend((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(100)
    assert given, "it hangs"
    if not given[0]:
        raise given[1]
    return given[1]


def connections(sandbox: Sandbox) -> int:
    """Count the open sockets that are connected to a sandbox, its own ends aside."""
    port = f":{urlsplit(sandbox.url).port:04X}"
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(field[2].endswith(port) and field[9] != "0" for field in fields)


# --- where the session's own loop is while another one is used


@contextmanager
def ended() -> Iterator[Callable[[Awaitable[Any]], Any]]:
    """A loop that `asyncio.run` has closed."""
    yield asyncio.run  # type: ignore[misc]


@contextmanager
def standing_still() -> Iterator[Callable[[Awaitable[Any]], Any]]:
    """A loop between two runs."""
    with asyncio.Runner() as runner:
        yield runner.run  # type: ignore[misc]


@contextmanager
def in_another_thread() -> Iterator[Callable[[Awaitable[Any]], Any]]:
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result(20)  # type: ignore[arg-type]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


PLACES = [ended, standing_still, in_another_thread]


class Opened:
    """A session, and what it gave in its own loop."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.session = open_session(sandbox)

    async def use(self) -> Opened:
        """Open it, and leave connections in its pools."""
        self.handle = await self.session.submit(LINK)
        self.watch = self.session.watch([self.handle])
        self.updates = self.handle.updates()
        self.begun = self.handle.updates()
        await anext(self.begun)
        self.begun_watch = self.session.watch([self.handle])
        await anext(self.begun_watch)
        self.batch = self.session.batch("never-made")
        self.many = self.session.submit_many([ImageToVideo(LINK)])
        return self


async def entered(manager: Any) -> None:
    """Enter an async context manager."""
    async with manager:
        pass


async def first(states: Any) -> None:
    """Take the first of an async iterator's items."""
    await anext(states)


async def at_once(made: Any) -> None:
    """Do nothing: making it was what there was to try."""


VERBS: dict[str, Callable[[Opened], Awaitable[Any]]] = {
    "submit": lambda it: it.session.submit(LINK),
    "generate": lambda it: it.session.generate(LINK, save_to="never.mp4"),
    "submit_many": lambda it: at_once(it.session.submit_many([])),
    "watch": lambda it: at_once(it.session.watch([])),
    "task": lambda it: at_once(it.session.task("task-unified-1-abcdefgh")),
    "batch": lambda it: at_once(it.session.batch("never-made")),
    "estimate": lambda it: it.session.estimate(ImageToVideo(LINK)),
    "credits": lambda it: it.session.credits(),
    "upload": lambda it: it.session.upload(PHOTOS / "cat.jpg"),
    "problems": lambda it: it.session.problems(PHOTOS / "cat.jpg"),
    "leftovers": lambda it: it.session.leftovers("."),
    "find_tasks": lambda it: it.session.find_tasks(),
    "read": lambda it: it.session.read(it.handle.id),
    "subscribe": lambda it: at_once(it.session.subscribe(print)),
    "handle.read": lambda it: it.handle.read(),
    "handle.wait": lambda it: it.handle.wait(timeout=5),
    "handle.updates": lambda it: first(it.handle.updates(timeout=5)),
    "handle.download": lambda it: it.handle.download("never.mp4", timeout=5),
    "handle.download_all": lambda it: it.handle.download_all("never.mp4", timeout=5),
    "updates that were made": lambda it: first(it.updates),
    "updates that were begun": lambda it: first(it.begun),
    "a watch that was begun": lambda it: first(it.begun_watch),
    "a watch that was made": lambda it: entered(it.watch),
    "submissions that were made": lambda it: entered(it.many),
    "a batch that was made": lambda it: entered(it.batch),
}


@pytest.mark.anyio
async def test_an_open_batch_says_so_too(sandbox: Sandbox, tmp_path: Path) -> None:
    """Its ledger lives in the loop of its session, so that its totals do."""
    async with open_session(sandbox) as session, session.batch(tmp_path) as batch:

        def count() -> None:
            with pytest.raises(WrongEventLoopError):
                asyncio.run(batch.totals())

        await asyncio.to_thread(count)
        assert not (await batch.totals()).states


@pytest.mark.parametrize("place", PLACES)
def test_every_verb_says_that_it_is_in_the_wrong_loop(
    sandbox: Sandbox, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a loop that is not its own a session, and all that it made, names the mistake and the way
    out, and sends nothing.
    """
    monkeypatch.chdir(tmp_path)
    with place() as run:
        opened = run(Opened(sandbox).use())
        before = len(sandbox.requests)
        said: dict[str, object] = {}

        async def try_all() -> None:
            for name, verb in VERBS.items():
                try:
                    async with asyncio.timeout(100):
                        said[name] = await verb(opened)
                except Exception as error:  # noqa: BLE001 judged below
                    said[name] = error

        in_a_thread(lambda: asyncio.run(try_all()))
        assert {name: type(error) for name, error in said.items()} == dict.fromkeys(
            VERBS, WrongEventLoopError
        )
        for error in said.values():
            assert isinstance(error, WrongEventLoopError)
            assert "event loop" in str(error)
            assert "inside asyncio.run" in error.next_step
            assert error.charged == "no"
        assert len(sandbox.requests) == before
        assert not list(tmp_path.iterdir())
        run(opened.session.aclose()) if place is not ended else asyncio.run(opened.session.aclose())


def test_a_wait_may_be_made_before_its_loop_runs(sandbox: Sandbox) -> None:
    """`runner.run(task.wait())` makes the coroutine outside of the loop and runs it inside."""
    session = open_session(sandbox)
    with asyncio.Runner() as runner:
        handle = runner.run(session.submit(LINK))
        sandbox.finish(handle.id)
        assert runner.run(handle.wait()).status == "completed"
        runner.run(session.aclose())


def test_without_asyncio_it_says_asyncio(sandbox: Sandbox) -> None:
    """On trio, where no loop of asyncio runs, the error says what is missing."""
    session = open_session(sandbox)
    work = session.submit(LINK)
    with pytest.raises(WrongEventLoopError, match="asyncio") as caught:
        work.send(None)
    assert "asyncio.run" in caught.value.next_step
    with pytest.raises(WrongEventLoopError, match="asyncio"):
        session.task("task-unified-1-abcdefgh")


# --- closing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("closer", ["asyncio", "none"])
def test_a_session_is_closed_from_anywhere(sandbox: Sandbox, place: Any, closer: str) -> None:
    """From another loop, or driven without one as trio would, `aclose` ends, silently; then the
    session is closed, and its connections are gone as soon as its loop has run or ended.
    """
    with place() as run:
        opened = run(Opened(sandbox).use())

        def close() -> None:
            if closer == "asyncio":
                asyncio.run(opened.session.aclose())
            else:
                with pytest.raises(StopIteration):
                    opened.session.aclose().send(None)

        in_a_thread(close)
        in_a_thread(close)
        with pytest.raises(SessionClosedError, match="closed"):
            opened.session.task("task-unified-1-abcdefgh")
    assert connections(sandbox) == 0


def test_closing_tells_those_who_wait_in_another_thread(sandbox: Sandbox) -> None:
    """A session that is closed from another thread is closed properly: who waits is told."""
    with in_another_thread() as run:
        opened = run(Opened(sandbox).use())

        async def wait() -> str:
            waiting = asyncio.ensure_future(opened.handle.wait())
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, lambda: asyncio.run(opened.session.aclose()))
            with pytest.raises(SessionClosedError):
                await waiting
            return "told"

        assert run(wait()) == "told"


def test_closing_does_not_wait_for_a_loop_that_stops(sandbox: Sandbox) -> None:
    """The session's loop stops just when it is asked to close it: nobody hangs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    opened = asyncio.run_coroutine_threadsafe(Opened(sandbox).use(), loop).result(20)
    held = threading.Event()

    def stop() -> None:
        held.wait(100)  # the loop is held up until the other side waits, and then it stops
        loop.stop()

    async def close() -> None:
        loop.call_soon_threadsafe(stop)
        closing = asyncio.ensure_future(opened.session.aclose())
        await asyncio.sleep(0)
        held.set()
        await closing

    in_a_thread(lambda: asyncio.run(close()))
    thread.join()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_session_that_was_left_open_ends_with_its_loop(sandbox: Sandbox) -> None:
    """`asyncio.run` per job around one session leaks neither sockets nor threads, and the next job
    is told what to do.
    """
    before = threading.active_count()
    kept = []
    for _ in range(3):
        session = open_session(sandbox)
        asyncio.run(session.credits())
        kept.append(session)
        with pytest.raises(WrongEventLoopError, match="has ended"):
            asyncio.run(session.credits())
    assert (connections(sandbox), threading.active_count()) == (0, before)
    for session in kept:
        asyncio.run(session.aclose())


def test_nothing_is_said_of_what_a_dead_loop_left(sandbox: Sandbox) -> None:
    """Not a word on stderr, with all warnings on,
    when a global session is closed after its loop.
    """
    code = f"""
import asyncio
from happyhorse_async import Session
session = Session({sandbox.key!r}, base_url={sandbox.url!r}, files_url={sandbox.files_url!r})
handle = asyncio.run(session.submit({LINK!r}))
asyncio.run(session.aclose())
print(repr(session))
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "closed>" in done.stdout
    assert done.stderr == ""


def test_a_session_for_each_call_costs_little(sandbox: Sandbox) -> None:
    """Opening and closing a session takes no turn of the loop that waits for anything, and leaves
    nothing: a thousand of them are as one.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = threading.active_count(), len(asyncio.all_tasks())
        timers: list[float] = []
        later = loop.call_later
        loop.call_later = lambda delay, *rest, **how: (
            timers.append(delay)
            or later(  # type: ignore[method-assign, assignment, func-returns-value]
                delay, *rest, **how
            )
        )
        for _ in range(1000):
            async with open_session(sandbox):
                pass
        assert timers == []
        await asyncio.sleep(0)
        assert (threading.active_count(), len(asyncio.all_tasks())) == before
        assert connections(sandbox) == 0

    asyncio.run(main())


# --- callbacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_callbacks_may_come_in_another_thread(sandbox: Sandbox, place: Any) -> None:
    """A framework with threads gives callbacks from any of them: the task is read in the session's
    loop, and a session whose loop has ended says that it is not there.
    """
    session = open_session(sandbox, public_url="https://app.example.com/hooks")
    hooks = Webhooks(session)
    token = (session.webhook_url or "").rpartition("/")[2]
    with place() as run:
        handle = run(session.submit(LINK))
        body = b'{"id": "%s"}' % handle.id.encode()
        status = in_a_thread(lambda: hooks.receive(token, body))
        assert status == (503 if place is ended else 204)
        if place is not ended:
            sandbox.finish(handle.id)
            assert run(handle.wait()).status == "completed"
            run(session.aclose())
        else:
            asyncio.run(session.aclose())
    assert hooks.receive(token, body) == 503


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt])
def test_who_leaves_the_program_right_after_paying_is_told_of_the_task(
    sandbox: Sandbox, ends: type[BaseException]
) -> None:
    """As a listener that exits does, or Ctrl-C in a notebook: whoever paid never sees the task's
    id, but it is among the orphans.
    """
    session = open_session(sandbox)

    def leave(_: Submitted) -> None:
        raise ends

    async def pay() -> None:
        session.subscribe(leave, Submitted)
        await session.submit(LINK, idempotency_key=f"the-key-of-{ends.__name__}")

    with asyncio.Runner() as runner:
        with pytest.raises(ends):
            runner.run(pay())
        [orphan] = session.orphans
        runner.run(session.aclose())
    assert orphan.task_id == sandbox.tasks[-1].id
    assert orphan.idempotency_key == f"the-key-of-{ends.__name__}"


# --- forked children ------------------------------------------------------------------------------


FORKS = """
import asyncio, os, sys
from happyhorse_async import Session

async def main():
    async with Session("key-of-a-test", base_url=sys.argv[1], files_url=sys.argv[1]) as session:
        submitting = asyncio.ensure_future(session.submit("https://cdn.example.com/cat.png"))
        sent = asyncio.Event()
        asyncio.get_running_loop().add_reader(0, sent.set)
        await sent.wait()  # the service has it
        child = os.fork()
        if not child:
            print("forked", flush=True)
            if sys.argv[2] == "leave":
                sys.exit()
            look(session)
        os.waitpid(child, 0)
        print((await submitting).id)

def look(session):
    try:
        asyncio.run(session.credits())
    except Exception as error:
        print(error, session.hint("task-unified-1"))
    asyncio.run(session.aclose())
    print(repr(session)[-7:], flush=True)
    os._exit(0)

asyncio.run(main())
"""


@pytest.mark.anyio
@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX forks")
@pytest.mark.parametrize("child", ["leave", "look"])
async def test_a_forked_child_takes_nothing_from_its_parent(child: str) -> None:
    """It neither reads the answer to what its parent has paid for, nor ends its parent's
    connections, nor sends anything. It is told why, and to close its copy takes no time.
    """
    arrived, forked, heads = asyncio.Event(), asyncio.Event(), list[bytes]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        arrived.set()
        await forked.wait()
        writer.write(answer(b'{"id": "task-unified-1", "status": "pending"}'))
        await reader.read()

    async with Peer(accept) as url, asyncio.timeout(100):
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FORKS, url, child),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            await arrived.wait()
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(b"\n")
            said = [await program.stdout.readline()]
            forked.set()
            said += (await program.stdout.read()).splitlines(keepends=True)
        finally:
            if program.returncode is None:
                program.kill()
            await program.wait()
    told = b"this session was opened before this process was forked, and it is its parent's False\n"
    looked = [told, b"closed>\n"] if child == "look" else []
    assert said == [b"forked\n", *looked, b"task-unified-1\n"]
    assert len(heads) == 1


AFTER_MAIN = """
import asyncio, concurrent.futures.thread, sys, threading
from happyhorse_async import ImageToVideo, Polling, Session
from happyhorse_async.sandbox import Sandbox

QUICK = Polling(target_delay=0.01, min_interval=0.01, max_interval=0.05, max_reads_per_minute=6000)
accepted, LINK = threading.Event(), "https://cdn.example.com/cat.png"

async def main_ends(sandbox):
    while sandbox.paid < 2:
        await asyncio.sleep(0.001)
    accepted.set()
    while threading.main_thread().is_alive() or not concurrent.futures.thread._shutdown:
        await asyncio.sleep(0.001)
    for task in sandbox.tasks:
        sandbox.finish(task.id)

async def batch(session, folder):
    async with session.batch(folder + "/batch") as batch:
        return [outcome.state async for outcome in batch.run([ImageToVideo(LINK)])]

async def work():
    async with Sandbox(video="stub", speed=0) as sandbox, Session(
        sandbox.key, base_url=sandbox.url.replace("127.0.0.1", "localhost"), polling=QUICK
    ) as session:
        one = session.generate(LINK, save_to=sys.argv[1] + "/one.mp4")
        several = batch(session, sys.argv[1])
        _, video, states = await asyncio.gather(main_ends(sandbox), one, several)
        print(video.path.name, *states)

threading.Thread(target=lambda: asyncio.run(work())).start()
accepted.wait()
"""


def test_a_loop_in_a_thread_outlives_the_main_thread(tmp_path: Path) -> None:
    """Python waits for that thread, and gives it no other threads any more. What is paid is saved
    all the same, and the program ends.
    """
    program = [sys.executable, "-c", AFTER_MAIN, str(tmp_path)]
    said = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert said.stdout == "one.mp4 saved\n"
    # Python 3.12 needs a thread of its own to end a loop, and has none to give then.
    refused = "RuntimeError: can't create new thread at interpreter shutdown\n"
    assert said.stderr == "" or (sys.version_info[:2] == (3, 12) and said.stderr.endswith(refused))
