"""The stages that jobs go through, as bounded streams with a few workers at the end of each, and the tokens that bound them all.

A job holds one token from its admission until its outcome is taken, and there are as many tokens as places in every stream. So the streams
never fill up, memory does not depend on the length of the input, and a consumer that is slow holds up new submissions but never the videos
that are paid for already, whose links die.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from ..errors import HappyHorseError
from ..rules.lifecycle import JobState
from .jobs import Outcome, Record

Work = Callable[[Record], Awaitable[None]]


class Stage:
    """One stage: a stream of jobs, and workers that take them one by one."""

    def __init__(self, tokens: int) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Record](tokens)

    def put(self, job: Record) -> None:
        """Hand a job over."""
        self._send.send_nowait(job)

    def start(self, group: TaskGroup, workers: int, work: Work) -> None:
        """Start the workers, which end with the group."""
        for _ in range(workers):
            group.start_soon(self._work, work)

    async def _work(self, work: Work) -> None:
        async for job in self._receive:
            await work(job)

    def close(self) -> None:
        """Close both ends."""
        self._send.close()
        self._receive.close()


class Stages:
    """The stages of one run, and what is on its way through them."""

    def __init__(self, tokens: int, group: TaskGroup) -> None:
        self.uploads = Stage(tokens)
        self.submissions = Stage(tokens)
        self.downloads = Stage(tokens)
        self._group = group
        self._tell, self.outcomes = anyio.create_memory_object_stream[Outcome](tokens)
        self._tokens = anyio.Semaphore(tokens, max_value=tokens)
        self.live: dict[int, Record] = {}
        """The jobs that this run has in hand, by their number in the ledger; no more than there are tokens."""
        self._fed = False
        self._empty = anyio.Event()
        self._stopping = anyio.Event()
        self._on_stop: Callable[[], None] = lambda: None
        self.reason: HappyHorseError | None = None
        """Why the batch stopped before its input ended, when it was not the user's wish."""

    # --- in and out ---------------------------------------------------------------------------------------------------------------

    async def token(self) -> None:
        """Wait for room for one more job."""
        await self._tokens.acquire()

    def give_back(self) -> None:
        """Free the room of a job whose outcome has been taken, or that was none."""
        self._tokens.release()

    def admit(self, job: Record) -> None:
        """Take a job in, wherever it stands; a token must have been had for it."""
        self.live[job.seq] = job
        self.route(job)

    def route(self, job: Record) -> None:
        """Send a job to the stage that it is due for."""
        if job.state is JobState.COMPLETED and job.task is not None:
            self.downloads.put(job)
        elif job.state is JobState.NEW and job.image_url is None and job.is_local:
            self.uploads.put(job)
        else:
            self.submissions.put(job)

    def later(self, job: Record, pause: float) -> None:
        """Send a job on after a pause, which ends early when the batch stops."""
        self._group.start_soon(self._after, pause, job)

    def aside(self, work: Callable[[Record], Coroutine[Any, Any, None]], job: Record) -> None:
        """Do something with a job beside the stages, without holding one of their workers."""
        self._group.start_soon(work, job)

    async def _after(self, pause: float, job: Record) -> None:
        with anyio.move_on_after(pause):
            await self._stopping.wait()
        self.route(job)

    def tell(self, outcome: Outcome) -> None:
        """Hand an outcome to the consumer."""
        self._tell.send_nowait(outcome)

    def end(self, job: Record, outcome: Outcome) -> None:
        """Tell a job's outcome, with which it leaves."""
        self.tell(outcome)
        self._leave(job)

    def drop(self, job: Record) -> None:
        """Let a job leave untold: it stays as the ledger has it, for the next run."""
        self.give_back()
        self._leave(job)

    def _leave(self, job: Record) -> None:
        del self.live[job.seq]
        self._look()

    # --- the end ------------------------------------------------------------------------------------------------------------------

    def fed(self) -> None:
        """Say that no more jobs will come in."""
        self._fed = True
        self._look()

    def _look(self) -> None:
        if self._fed and not self.live:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until every job that came in has left."""
        await self._empty.wait()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call a function when the batch begins to stop."""
        self._on_stop = callback

    def stop(self, reason: HappyHorseError | None = None) -> None:
        """Send nothing new from now on, and finish what is paid for."""
        if not self._stopping.is_set():
            self.reason = reason
            self._stopping.set()
            self._on_stop()

    @property
    def stopping(self) -> bool:
        """Whether nothing new is sent any more."""
        return self._stopping.is_set()

    def close(self) -> None:
        """Close all streams; outcomes that were told can still be taken."""
        for stage in (self.uploads, self.submissions, self.downloads):
            stage.close()
        self._tell.close()


Outcomes = MemoryObjectReceiveStream[Outcome]
