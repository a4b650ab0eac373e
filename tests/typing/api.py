"""A user's script, never run: type checkers read it as their users' code is read.

What must be accepted stands plain, and what a checker knows is pinned with `assert_type`. What must
be refused carries a comment that says so, and a checker complains when it is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, assert_type

from happyhorse_async import (
    Budget,
    Estimate,
    HappyHorseError,
    ImageToVideo,
    Model,
    RequestFields,
    Session,
    Submission,
    Task,
    TaskHandle,
    TaskPage,
    TaskSummary,
    Video,
)
from happyhorse_async.batch import Outcome
from happyhorse_async.batch.report import overview, write_reports
from happyhorse_async.events import BudgetChanged, Downloading, Ended, Event, Submitted
from happyhorse_async.integrations.otel import instrument


async def one_video(session: Session) -> Video:
    """Fields are completed and checked, in all verbs that take them."""
    video = await session.generate(
        "cat.jpg", prompt="It runs", quality="1080p", duration=8, seed=7, save_to="videos/"
    )
    assert_type(video, Video)
    assert_type(video.path, Path)
    task = await session.submit(Path("cat.jpg"), model=Model.HAPPYHORSE_1_1)
    assert_type(task, TaskHandle)
    assert_type(await session.estimate("cat.jpg", duration=9), Estimate)
    assert_type(await session.estimate(["a.jpg", ImageToVideo("b.jpg")]), Estimate)
    assert_type(await session.problems(b"", model="happyhorse-2"), list[str])
    return await task.download(overwrite=True)


async def mistakes(session: Session) -> None:
    """A wrong name, a wrong type and a wrong value are refused."""
    await session.generate("cat.jpg", promt="It runs")  # type: ignore[call-arg]
    await session.submit("cat.jpg", duration="5")  # type: ignore[arg-type]
    await session.estimate("cat.jpg", quality="480p")  # type: ignore[arg-type]
    await session.problems("cat.jpg", seed=1.5)  # type: ignore[arg-type]
    await session.submit(7)  # type: ignore[arg-type]
    ImageToVideo("cat.jpg", duration="5")  # type: ignore[arg-type]
    ImageToVideo(7)  # type: ignore[arg-type]


async def wrapped(session: Session, image: str, **fields: str) -> TaskHandle:
    """Fields may be collected first."""
    chosen: RequestFields = {"prompt": fields.get("prompt"), "duration": 10}
    return await session.submit(image, **chosen)


async def many(session: Session, requests: list[ImageToVideo]) -> None:
    """A submission is a task or an error, and an outcome a video or an error."""
    async with session.submit_many(requests) as submissions:
        async for submission in submissions:
            assert_type(submission, Submission)
            assert_type(submission.request, ImageToVideo)
            if submission.ok:
                assert_type(submission.task, TaskHandle)
            if submission.error is not None:
                assert_type(submission.error, HappyHorseError)
            else:
                assert_type(submission.task.id, str)
    price = await session.estimate(requests)
    async with session.batch("videos/", budget=Budget(credits=price.credits)) as batch:
        async for outcome in batch.run(requests):
            assert_type(outcome, Outcome)
            if outcome.ok:
                assert_type(outcome.video, Video)
            if outcome.error is not None:
                print(outcome.error.charged, outcome.error.next_step)
            assert_type(outcome.credits, Decimal)


def reported(folder: str) -> None:
    """A folder is a text or a path."""
    assert_type(write_reports(folder), list[Path])
    print(overview(folder).totals, overview(Path(folder)).missing)


def shown(submission: Submission) -> str:
    """The name of the union serves as annotation."""
    return submission.task.id if submission.ok else str(submission.error)


def recognised(thing: object) -> bool:
    """The names of unions serve with isinstance."""
    return isinstance(thing, Submission | Outcome)


class Ours(Session):
    """A session with a verb of one's own."""

    async def cat(self) -> TaskHandle:
        return await self.submit("cat.jpg", prompt="It runs")


class Awaited(Protocol):
    """What a library of one's own asks for, so that its tests need no session."""

    async def wait(self, *, timeout: float | None = None) -> Task: ...


async def ended(handle: Awaited) -> Task:
    """Anything that waits will do."""
    return await handle.wait(timeout=60)


async def waited(task: TaskHandle) -> Task:
    """A handle is one."""
    return await ended(task)


async def subclassed() -> TaskHandle:
    """What `async with` gives of a subclass is one."""
    async with Ours() as session:
        return await session.cat()


async def watched(session: Session, tasks: list[TaskHandle]) -> None:
    """What is yielded has its type."""
    async with session.watch(tasks) as updates:
        async for task in updates:
            assert_type(task, Task)
            assert_type(task.results, tuple[str, ...])
    async for update in tasks[0].updates():
        assert_type(update, Task)
    assert_type((await tasks[0].wait(timeout=60)).usage.credits_used, Decimal | None)


async def found(session: Session) -> None:
    """A search is one page to `await`, and all tasks to `async for`."""
    page = await session.find_tasks(status="completed")
    assert_type(page, TaskPage)
    assert_type(page.items[0], TaskSummary)
    async for summary in session.find_tasks(page_size=20):
        assert_type(summary, TaskSummary)
    await session.find_tasks(pages=2)  # type: ignore[call-arg]


def traced(session: Session) -> None:
    """Bars and traces are taken off again."""
    with session.progress():
        pass
    stop = instrument(session, prompts=True)
    assert_type(stop, Callable[[], None])
    session.subscribe(lambda event: print(event.work, event.seconds), Ended)


def listening(session: Session) -> None:
    """A listener gets the kinds of events that it subscribed to."""

    def every(event: Event) -> None: ...

    def submitted(event: Submitted) -> None:
        assert_type(event.task, Task)

    def either(event: Submitted | BudgetChanged) -> None: ...

    session.subscribe(every)
    end = session.subscribe(submitted, Submitted)
    end()
    session.subscribe(either, Submitted, BudgetChanged)
    session.subscribe(lambda event: print(event.left), BudgetChanged)
    changes: list[BudgetChanged] = []
    session.subscribe(changes.append, BudgetChanged)
    session.subscribe(submitted)  # type: ignore[arg-type]
    session.subscribe(submitted, Downloading)  # type: ignore[arg-type]
    session.subscribe(either, Submitted, Downloading)  # type: ignore[arg-type]


def kept(task: Task) -> dict[str, Any]:
    """The service's answer is there as it came."""
    return dict(task.raw)
