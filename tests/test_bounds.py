"""A session that lives for months: whatever it remembers has an end, and the oldest go first."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import FunctionType, MethodType, ModuleType

import pytest

from happyhorse_async import (
    Budget,
    HappyHorseError,
    ImageToVideo,
    RetryPolicy,
    Session,
    Task,
    TaskNotFoundError,
    _dispatcher,
    _parts,
    _uploader,
)
from happyhorse_async._concurrency import Closing, Threads
from happyhorse_async._dispatcher import Events
from happyhorse_async._edges import object_store
from happyhorse_async._poller import plan, watched, watchlist
from happyhorse_async._submitter import gate, key_proof, shared
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import PHOTOS, open_session

pytestmark = pytest.mark.anyio

LINK = "https://cdn.example.com/cat.png"
MOST = 8
"""What a session of these tests remembers of each kind."""
FIRST, ROUNDS = 2 * MOST, 6 * MOST
BOUNDS = {
    _parts: ("MOST_SEEN",),
    _uploader: ("MOST_REMEMBERED",),
    _dispatcher: ("MOST_ORIGINS",),
    gate: ("MOST_UNWATCHED",),
    key_proof: ("MOST_ASKED",),
    shared: ("MOST_TASKS", "MOST_KEPT", "MOST_DOUBTS", "MOST_ORPHANS"),
    watched: ("MOST_STATES", "MOST_ANNOUNCED", "MOST_WORDS", "MOST_TASKS"),
    plan: ("MOST_KINDS",),
    watchlist: ("MOST_EXPECTED", "MOST_EARLY", "MOST_DOUBTED", "MOST_LEFT"),
}
KNOWN = (
    "RateFinder > deque",  # what was accepted within the last second, however much that is
    "Lives > list",  # tables of fixed length
)


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a session remember little, so that few rounds show what has no end."""
    for module, names in BOUNDS.items():
        for name in names:
            monkeypatch.setattr(module, name, MOST)


@pytest.fixture
async def quick(anyio_backend: str) -> AsyncIterator[Sandbox]:
    """The service, whose tasks end at once."""
    async with Sandbox(video="stub", task_seconds=0.001, speed=1) as sandbox:
        yield sandbox


def sizes(session: Session) -> Counter[str]:
    """Count what hangs in the collections of a session's own objects, by where they hang."""
    found: Counter[str] = Counter()
    heap: list[tuple[str, object]] = [("session", session)]
    met = {id(session)}
    while heap:
        place, one = heap.pop()
        if isinstance(one, (dict, list, set, deque)):
            found[place] += len(one)
        for each in gc.get_referents(one):
            module = type(each).__module__
            ours = module.startswith("happyhorse_async") or module in ("builtins", "collections")
            other = isinstance(each, (Task, type, ModuleType, FunctionType, MethodType))
            if ours and not other and id(each) not in met:
                met.add(id(each))
                heap.append((f"{place} > {type(each).__name__}", each))
    return found


def picture(number: int) -> bytes:
    """Return an image unlike the others."""
    return (PHOTOS / "cat.jpg").read_bytes() + number.to_bytes(4)


async def awaited(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """Every task is awaited."""
    await (await session.submit(LINK, tag=number)).wait()


async def dropped(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """The handle is dropped at once."""
    await session.submit(LINK, tag=number)


async def saved(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """Pictures of users become videos."""
    await session.generate(picture(number), save_to=folder / f"{number}.mp4")


async def uploaded(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """Pictures are uploaded, and one that was refused before comes again."""
    if number % 2:
        quick.fail(Fault("refuse", path="/api/v1/files/upload/stream", status=403))
    with suppress(HappyHorseError):
        await session.upload(picture(number))


async def cancelled(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """The caller goes away in mid-submission."""
    caller = asyncio.create_task(session.submit(picture(number), tag=number))
    while len(quick.tasks) <= number:
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])


async def doubted(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """Nobody knows what became of it."""
    quick.fail(Fault("drop-before", path="/v1/videos/generations", times=2))
    with suppress(HappyHorseError):
        await session.submit(LINK, tag=number, idempotency_key=f"an-order-of-a-user-{number}")


async def unknown(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """People ask for tasks that there are not."""
    session.hint(f"task-unified-{number}")
    with suppress(TaskNotFoundError):
        await session.read(f"task-unified-0-{number}")


async def left(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """People wait for a moment, and go."""
    task = await session.submit(LINK, tag=number)
    waiting = asyncio.create_task(task.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])


async def watched_together(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """Tasks are watched in groups."""
    async with session.watch([await session.submit(LINK) for _ in range(2)]) as states:
        async for _ in states:
            pass


async def batched(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """Each order is a batch of its own."""
    async with session.batch(folder / str(number)) as batch:
        async for outcome in batch.run([ImageToVideo(LINK, seed=number + 1)]):
            assert outcome.ok


async def fanned_out(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """Requests go out together, and somebody looks on."""
    with session.progress():
        requests = [ImageToVideo(LINK, seed=number + 1), ImageToVideo(LINK)]
        async with session.submit_many(requests) as submissions:
            async for submission in submissions:
                assert submission.task is not None


async def asked(session: Session, quick: Sandbox, number: int, folder: Path) -> None:
    """People ask what things cost, and what there is."""
    await session.estimate(ImageToVideo(LINK, prompt=f"a cat, {number}", duration=3 + number % 12))
    await session.find_tasks()
    await session.credits()
    session.task(f"task-unified-{number}", tag=number)


Deed = Callable[[Session, Sandbox, int, Path], Awaitable[None]]
DEEDS = [
    *(awaited, dropped, saved, uploaded, cancelled, doubted, unknown, left, watched_together),
    *(batched, fanned_out, asked),
]


@pytest.mark.parametrize("budget", [None, Budget(credits=100_000)], ids=["free", "budget"])
@pytest.mark.parametrize("deed", DEEDS)
async def test_nothing_grows(
    deed: Deed, budget: Budget | None, quick: Sandbox, tmp_path: Path
) -> None:
    """Of whatever callers do very often, a session's own objects keep a bounded number.

    A budget keeps what was reserved for an unknown outcome: that has its end in the budget.
    """
    known_places = KNOWN if deed is not doubted else (*KNOWN, "BudgetBook > dict")
    retry = RetryPolicy(attempts=1, first_pause=0.001, longest_pause=0.001)
    async with open_session(quick, budget=budget, retry=retry) as session:
        session.subscribe(lambda event: None)
        for number in range(FIRST):
            await deed(session, quick, number, tmp_path)
        before = sizes(session)
        for number in range(FIRST, FIRST + ROUNDS):
            await deed(session, quick, number, tmp_path)
        grown = {place: size - before[place] for place, size in sizes(session).items()}
    surprising = {
        place: by
        for place, by in grown.items()
        if by > 2 * MOST and not place.endswith(known_places)
    }
    assert surprising == {}


async def test_a_bucket_of_each_customer_is_opened_and_closed_again(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buckets of late stay open; one that nobody has used for long is opened anew."""
    opened: list[str] = []
    monkeypatch.setattr(object_store, "MOST_BUCKETS", 2)
    monkeypatch.setattr(object_store, "opened", opened.append)
    threads = Threads(1, name="buckets", refusal=RuntimeError)
    buckets = object_store.Buckets(
        threads, policy=RetryPolicy(), events=Events(), closing=Closing()
    )
    for name in "abacbab":
        bucket = await buckets.get(f"s3://{name}")
        assert bucket is await buckets.get(f"s3://{name}")
    threads.close()
    assert "".join(link[-1] for link in opened) == "abcba"
