"""The handle of a task: what one can do with a task id."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ._config import time_limit
from ._dispatcher import on_behalf_of
from ._models import Task
from ._request import require_count, require_path
from ._values import plain, table
from .errors import HappyHorseError

if TYPE_CHECKING:
    from types import CoroutineType, TracebackType

    from ._account import TaskPage, TaskSummary
    from ._dispatcher import Events
    from ._downloader.destinations import Destination
    from ._parts import Parts
    from ._poller import Updates
    from ._request import ImageToVideo
    from ._submitter.shared import Acceptance
    from ._video import Video


class TaskHandle:
    """A task of the service, as something to wait for and to download from. Made by
    `Session.submit` and `Session.task`.
    """

    __slots__ = ("_accepted", "_parts", "id", "idempotency_key", "request", "tag")

    def __init__(
        self,
        parts: Parts,
        task_id: str,
        *,
        request: ImageToVideo | None = None,
        idempotency_key: str | None = None,
        accepted: Task | None = None,
        tag: Any = None,
    ) -> None:
        self._parts = parts
        self.id: str = task_id
        """The service's id: keep it, and `Session.task(id)` finds the task again from any process.
        """
        self.request: ImageToVideo | None = request
        """The request, when this process made it."""
        self.idempotency_key: str | None = idempotency_key
        """The key that it was submitted with."""
        # The answer alone, where it is kept as bytes. Of ten thousand tasks in flight hardly one is
        # asked for its beginning.
        self._accepted = accepted if accepted is None else accepted._answer or accepted
        self.tag: Any = tag
        """What the caller gave as `tag=`: the events of this task carry it."""
        if tag is not None:
            parts.events.belongs(task_id, idempotency_key, tag)

    def __repr__(self) -> str:
        return f"TaskHandle({self.id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} belongs to its session and cannot be pickled or copied: pass on its `id`, "
            "from which session.task(id) makes a handle in any process"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of the task here as JSON has it."""
        names = ("id", "idempotency_key", "request", "accepted", "tag")
        return {name: plain(getattr(self, name)) for name in names}

    def _repr_html_(self) -> str:
        return table("TaskHandle", self.to_dict())

    @property
    def accepted(self) -> Task | None:
        """The service's answer to the submission, when this process made it."""
        kept = self._accepted
        if kept is None or isinstance(kept, Task):
            return kept
        from ._rules import wire  # late: it is loaded when there is an answer to read

        return wire.task_from(kept(self.id))

    async def read(self) -> Task:
        """Ask the service once, now; raises `TaskNotFoundError` when it does not know the task."""
        return await self._parts.here().poller.read(self.id)

    def wait(self, *, timeout: float | None = None) -> CoroutineType[Any, Any, Task]:
        """Wait until the task has a video, and give its last state.

        `timeout` is in seconds; it ends the wait with `WaitTimeoutError`, not the task. Raises
        `TaskFailedError` (`TaskCancelledError`) when the task ended without a video. Raises
        `TaskNotFoundError` when the service does not know it. That takes some seconds for an id
        that this session has not seen before, else `Polling.patience`.
        """
        timeout = time_limit(timeout)
        waiting = self._parts.wait_completed(self.id, timeout, self.accepted, self.idempotency_key)
        return cast("CoroutineType[Any, Any, Task]", waiting)  # as of an `async def`

    def updates(self, *, timeout: float | None = None) -> Updates:
        """Iterate over the task's states: first what is known, then changes, last the final one,
        whatever it is.

        A slow consumer skips states in between, never the last one. `timeout` (seconds) ends the
        iteration with `WaitTimeoutError`.
        """
        timeout = time_limit(timeout)
        return self._parts.poller.updates(self.id, timeout=timeout, known=self.accepted)

    async def download(
        self,
        to: str | os.PathLike[str] | Destination = "",
        *,
        overwrite: bool = False,
        index: int = 0,
        timeout: float | None = None,
    ) -> Video:
        """Wait for the task, then save its video and verify it.

        `to` is a file's path, a folder (it exists, or ends with a slash), or a template. A template
        has {task_id} {index} {stem} {seed}; "" is the working folder. A folder gets `<task
        id>.mp4`. Resumes a partial download. `index` chooses among several results. Raises what
        `wait` raises, and `DownloadError`; with `overwrite=False` an existing file is never
        touched.
        """
        base = require_path("to", to)
        require_count("index", index, 0)
        with _following(self, self._parts.events):
            timeout = time_limit(timeout)
            until = _end_of(timeout)
            task = await self.wait(timeout=timeout)
            return await self._parts.downloader.download(
                task,
                to,
                request=self.request,
                overwrite=overwrite,
                index=index,
                base=base,
                until=until,
            )

    async def download_all(
        self,
        to: str | os.PathLike[str] = "",
        *,
        overwrite: bool = False,
        timeout: float | None = None,
    ) -> list[Video]:
        """Wait for the task, then save every video that it has, as `download` does.

        All are tried before an error is raised. Called again, it goes on with those that failed.
        """
        base = require_path("to", to)
        with _following(self, self._parts.events):
            timeout = time_limit(timeout)
            until = _end_of(timeout)
            task = await self.wait(timeout=timeout)
            return await self._parts.downloader.download_all(
                task, to, request=self.request, overwrite=overwrite, base=base, until=until
            )


class _following:  # noqa: N801 it is used like a function; as a generator it would hold more memory
    """Give events and errors in here what tells of which task they are."""

    __slots__ = ("_origin", "_task", "_work")

    def __init__(self, task: TaskHandle, events: Events) -> None:
        self._task = task
        self._origin = on_behalf_of(task.idempotency_key, task.tag)
        self._work = events.work("follow", task_id=task.id)

    def __enter__(self) -> None:
        self._origin.__enter__()
        self._work.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, HappyHorseError):
            task = self._task
            error.with_facts(task_id=task.id, idempotency_key=task.idempotency_key)
        try:
            self._work.__exit__(kind, error, trace)
        finally:
            self._origin.__exit__()


def _end_of(timeout: float | None) -> float | None:
    """Return when a time limit ends that begins now, in the event loop's time."""
    return None if timeout is None else asyncio.get_running_loop().time() + timeout


def handle_of(parts: Parts, acceptance: Acceptance, *, tag: Any = None) -> TaskHandle:
    """Return the handle of a task that the service has just accepted."""
    return TaskHandle(
        parts,
        acceptance.task.id,
        request=acceptance.request,
        idempotency_key=acceptance.idempotency_key,
        accepted=acceptance.task,
        tag=tag,
    )


class FoundTasks(Coroutine[Any, Any, "TaskPage"]):
    """The account's tasks: `await` it for one page, or iterate over all of them with `async for`.

    Made by `Session.find_tasks`. Each iteration begins anew.
    """

    __slots__ = ("_first", "_page", "_read")

    def __init__(self, read: Callable[[int], Coroutine[Any, Any, TaskPage]], page: int) -> None:
        self._read = read
        self._page = page
        self._first: Coroutine[Any, Any, TaskPage] | None = None

    def __await__(self) -> Generator[Any, Any, TaskPage]:
        return self._read(self._page).__await__()

    async def __aiter__(self) -> AsyncGenerator[TaskSummary, None]:
        told: set[str] = set()
        number = self._page
        while True:
            page = await self._read(number)
            # A page that brings nothing new is the end, also where a service pages for ever.
            fresh = [item for item in page.items if item.id not in told]
            told.update(item.id for item in fresh)
            for item in fresh:
                yield item
            if not fresh or page.is_last:
                return
            number += 1

    # --- A coroutine to asyncio.create_task and asyncio.run.

    def send(self, value: Any, /) -> Any:
        """Go on reading the page, as a coroutine does."""
        if self._first is None:
            self._first = self._read(self._page)
        return self._first.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where the reading stands, as a coroutine does."""
        if self._first is None:
            self._first = self._read(self._page)
        return self._first.throw(*error)

    def close(self) -> None:
        """End the reading, as a coroutine does."""
        if self._first is not None:
            self._first.close()
