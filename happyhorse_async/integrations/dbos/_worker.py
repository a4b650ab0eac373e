"""A worker: DBOS hands it jobs, and it brings each to its end as a batch does.

A job is one workflow, whose id is the job's key. It has no steps of DBOS's own. What a step would
remember stands in the job's row, written in the same order as in a batch. So a workflow that begins
again, here or elsewhere, goes on where its row stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dbos import DBOS

from ..._budget import BatchBook
from ..._config import Budget, RetryPolicy
from ..._rules import retry
from ..._rules.lifecycle import AT_STAKE, JobState
from ...batch._batch import LONGEST_NAME, check_account
from ...batch._database import Doubts
from ...batch._follow import BatchOptions, Follower
from ...batch._jobs import JobRow
from ...batch._late_charges import LateCharges
from ...batch._outcome import Outcome
from ...batch._steps import LeftError
from ...batch._videos import VideoFolder
from ...errors import ConfigurationError, LedgerError
from ._cancelled import Cancelled
from ._connection import reaching
from ._database import executor_of
from ._keeper import keeper_of
from ._ledger import ClusterLedger
from ._pace import AccountPace
from ._sqlite import is_sqlite
from ._values import ClusterLimits, WorkerOptions

if TYPE_CHECKING:
    from ..._parts import Parts

logger = logging.getLogger("happyhorse_async")

APPLICATION = "happyhorse"
APPLICATION_VERSION = "happyhorse-1"
WORKFLOW = "happyhorse.job"
QUEUE = "happyhorse"
OWED = "happyhorse-owed"
"""The queue of jobs that are, or may be, paid for: unpaid ones never hold it up."""
POLLING = 1.0
"""Seconds between two looks into a queue."""
LATER = RetryPolicy(first_pause=30.0, longest_pause=600.0)
"""Pauses before a paid job whose video cannot be had now is looked at again."""
NO_LIMIT = 1 << 30
GOODBYE = 5.0
"""Seconds that DBOS has to note the ends of jobs when a worker ends."""
ENDED = frozenset({JobState.FAILED, JobState.UNKNOWN})


class Worker:
    """One process that works on a cluster's jobs, until it is told to stop."""

    def __init__(
        self,
        parts: Parts,
        url: str,
        options: WorkerOptions,
        *,
        videos: VideoFolder,
        service: str,
        told: Callable[[Outcome], None],
    ) -> None:
        """`told` hears of each job that ends here."""
        self._parts = parts
        self._url = url
        self._options = options
        self._videos = videos
        self._service = service
        self._told = told
        self._keeper = keeper_of(url, self._adopt)
        self._pace = AccountPace(url, self._slots if is_sqlite(url) else None)
        self._stopped = asyncio.Event()
        self._deadline: float | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        """Workflows under way."""
        self._parked: set[asyncio.Task[Any]] = set()
        """Those of them that wait for the end of the process."""
        self._turns: dict[int, asyncio.Future[None]] = {}
        """The end of each turn of working on a job, by the jobs' numbers."""
        self._claimed: set[str] = set()
        """Tasks that are other jobs', as far as it was worth looking."""
        self._first_run: float | None = None
        self._in_hand: dict[int, JobRow] = {}
        self._emptied = asyncio.Event()
        self._charges: LateCharges | None = None
        self._ledger: ClusterLedger
        self._cancelled: Cancelled
        self._follower: Follower

    @property
    def number(self) -> int:
        """The worker's number in the cluster."""
        return self._keeper.id

    def stop(self) -> None:
        """Submit nothing new, give paid jobs the time of `drain`, and leave the rest to others.

        A second call ends the worker at once.
        """
        again = self._deadline is not None
        drain = 0.0 if again else self._options.drain
        self._deadline = asyncio.get_running_loop().time() + drain
        self._stopped.set()
        self._emptied.set()

    async def run(self) -> None:
        """Work until it is stopped, or with `until_done` until no job is left.

        Raises what stopped all jobs, such as a refused key or a spent budget, after paid jobs have
        ended. Raises `LedgerError` when the database cannot be used, or a file has its one worker.
        """
        self._ledger = await ClusterLedger.connect(self._url)
        try:
            with reaching():
                await self._keeper.enter()
            self._ledger.database.worker = self._keeper.id
            await self._prepare()
            with reaching():
                await self._launch()
            await self._work()
        finally:
            await self._close()
        if self._follower.reason is not None:
            raise self._follower.reason

    async def _prepare(self) -> None:
        await self._ledger.call(lambda database: database.bind(self._service))
        await check_account(self._ledger, self._parts)
        # A place that cannot be written is found out before anything is paid.
        async with self._parts.downloader.reserved(self._videos.place("_" * LONGEST_NAME)):
            await asyncio.to_thread(self._videos.look)
        run = await self._ledger.call(lambda database: database.begin_run())
        limits = await self._take_limits()
        # The money is kept in the database. This book only says whether a price must be known.
        unkept = BatchBook(Budget(credits="1e15") if limits.budget is not None else None)
        options = BatchOptions(
            max_in_flight=NO_LIMIT, retry=self._options.retry, timeout=self._options.timeout
        )
        self._first_run = (await self._ledger.call(lambda database: database.doubts())).since
        self._follower = Follower(
            self._parts,
            self._ledger,
            self._videos,
            unkept,
            options,
            run=run,
            doubts=Doubts(self._first_run, self._claimed),
            # Every job would meet the same trouble: end, after what is paid for.
            on_stop=self._stopped.set,
        )
        self._charges = self._follower.charges
        self._cancelled = Cancelled(self._ledger, self._videos, self._told)
        self._parts.submitter.ask_before_sending(self._pace.permit)

    async def _slots(self, lead: float, span: float) -> tuple[float, float]:
        taken: tuple[float, float] = await self._ledger.call_cluster("slots", lead, span)
        return taken

    async def _take_limits(self) -> ClusterLimits:
        limits: ClusterLimits = await self._ledger.call_cluster("limits")
        self._pace.rate = limits.rate
        return limits

    async def _launch(self) -> None:
        global _worker
        if _worker is not None:
            raise ConfigurationError("a process can hold one worker of a cluster")
        _worker = self
        DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": self._url,
                "executor_id": executor_of(self._keeper.id),
                "application_version": APPLICATION_VERSION,
                "sys_db_pool_size": 4,
                "log_level": "ERROR",
            }
        )
        # In this loop: workflows then run beside each other in it.
        DBOS.launch()
        await DBOS.register_queue_async(
            QUEUE,
            worker_concurrency=self._options.in_flight,
            polling_interval_sec=POLLING,
            on_conflict="always_update",
        )
        await DBOS.register_queue_async(
            OWED, polling_interval_sec=POLLING, on_conflict="always_update"
        )

    async def _work(self) -> None:
        stopped = asyncio.ensure_future(self._stopped.wait())
        others: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(self._keeper.keep()),
            asyncio.ensure_future(self._look()),
            asyncio.ensure_future(self._cancelled.heed(OWED)),
            asyncio.ensure_future(asyncio.shield(self._ledger.lost)),
        ]
        try:
            await _first_of(stopped, *others)
            if not self._follower.stopping:
                self._follower.stop()
            self._ledger.shut()
            await _first_of(asyncio.ensure_future(self._drain()), *others)
        finally:
            for task in (stopped, *others):
                task.cancel()
            await asyncio.wait([stopped, *others])

    async def _look(self) -> None:
        """Take note of new limits, and of the end when that is wanted."""
        while True:
            await self._take_limits()
            self._keeper.in_hand = len(self._in_hand)
            waiting = self._ledger.waiting
            self._keeper.word = f"{waiting:,} of them wait for a limit" if waiting else ""
            idle = self._options.until_done and not self._in_hand
            if idle and not await self._ledger.call_cluster("left_to_do"):
                self._deadline = 0.0
                self._stopped.set()
            await asyncio.sleep(1.0)

    async def _drain(self) -> None:
        """Wait until the jobs in hand have ended, or their time is over."""
        loop = asyncio.get_running_loop()
        while self._in_hand:
            self._emptied.clear()
            left = None if self._deadline is None else self._deadline - loop.time()
            if left is not None and left <= 0:
                logger.warning(
                    "%d jobs are left to other workers",
                    len(self._in_hand),
                    extra={"action": "jobs_left", "count": len(self._in_hand)},
                )
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._emptied.wait()

    async def _close(self) -> None:
        """End all; whoever finds the lock free goes on with what is left."""
        global _worker
        if self._tasks - self._parked:
            # Their jobs have ended, and DBOS makes a note of it.
            await asyncio.wait(self._tasks - self._parked, timeout=GOODBYE)
        left = len(self._tasks)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if _worker is self:
            await asyncio.to_thread(DBOS.destroy)
            # DBOS has put its own threads in the place of the loop's, and ends them.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
            _worker = None
        if self._charges is not None:
            await self._charges.end()
        await self._pace.aclose()
        await self._ledger.aclose()
        await self._keeper.aclose(finished=not left)

    # --- one job ----------------------------------------------------------------------------------

    async def work_on(self, seq: int) -> str:
        """Work on a job until it has ended for good; return its state.

        Nothing else ends a workflow: DBOS would take the job for done.
        """
        task = asyncio.current_task()
        assert task is not None, "a workflow runs in a task"  # noqa: S101
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = ENDED
        while (other := self._turns.get(seq)) is not None:
            # This worker seemed dead, its jobs went back into a queue, and it was given this one
            # again. Two that work on one job would reserve its price twice.
            await asyncio.wait([other])
            ends = ENDED | {JobState.SAVED}
        self._turns[seq] = turn = asyncio.get_running_loop().create_future()
        try:
            state = await self._bring_home(seq, ends)
            if state:
                return state
        except Exception:
            logger.exception("job %d is left to others", seq, extra={"action": "job_left"})
        finally:
            del self._turns[seq]
            turn.set_result(None)
        self._parked.add(task)
        task.add_done_callback(self._parked.discard)
        await asyncio.get_running_loop().create_future()
        return ""

    async def _bring_home(self, seq: int, ends: frozenset[JobState]) -> str:
        """Work on a job; return its state, or nothing when the worker stops before its end.

        There is nothing to do for a job that has come to one of `ends` already.
        """
        tries = 0
        while not self._stopped.is_set():
            job: JobRow | None = await self._ledger.call_cluster("claim", seq)
            if job is None or job.state in ends:
                return job.state.value if job is not None else "gone"
            if job.state is JobState.SUBMITTING:
                await self._prepare_to_ask(job)
            outcome = await self._follow(job)
            if outcome is not None and outcome.state in (JobState.SAVED, *ENDED):
                self._told(outcome)
                return outcome.state.value
            if outcome is None and not self._stopped.is_set():
                if seq in self._ledger.database.lost:
                    continue  # it may be in nobody's hands: then it can be claimed again
                if await self._ledger.call_cluster("leave", seq):
                    return "replaced"
                if await self._cancelled.end(seq):
                    return "cancelled"
            tries += 1
            await self._follower.pause(retry.pause_before(LATER, tries, None, 0.5))
        return ""

    async def _prepare_to_ask(self, job: JobRow) -> None:
        """Learn what counts for a job whose request may have left before."""
        # What it is looked for in the list of tasks must not be another worker's.
        since = job.accepted or self._first_run or 0.0
        doubts = await self._ledger.call_cluster("known_since", since)
        self._claimed |= doubts.claimed
        # A service that knows another job's key is shown to keep keys: this one's is free.
        self._follower.doubts = self._follower.doubts._replace(known=doubts.known)
        if job.error is not None:
            # As it was until the user's word: with replays=0 it counts.
            job.state = JobState.UNKNOWN

    async def _follow(self, job: JobRow) -> Outcome | None:
        """Follow a job as far as it goes now; after a fault of our own it goes on later."""
        if job.state is JobState.NEW and not job.begins_again:
            job.forget_upload()  # whoever let the job go has taken it off the host
        self._in_hand[job.seq] = job
        try:
            return await self._follower.follow(job)
        except LedgerError:
            raise
        except LeftError:
            return None  # its failure could not be noted: it is in other hands
        except Exception:
            logger.exception("the job %s goes on later", job.id, extra={"action": "job_later"})
            return None
        finally:
            del self._in_hand[job.seq]
            if not self._in_hand:
                self._emptied.set()

    # --- the dead ---------------------------------------------------------------------------------

    async def _adopt(self, worker: int) -> int:
        """Put a dead worker's jobs back into the queues; return how many."""
        pending = await DBOS.list_workflows_async(
            status="PENDING",
            executor_id=executor_of(worker),
            load_input=False,
            load_output=False,
        )
        workflows = [workflow.workflow_id for workflow in pending]
        states = await self._ledger.call_cluster("orphans", worker, workflows)
        # First out of its hands: should it only have seemed dead, it writes nothing any more.
        await self._ledger.call_cluster("release", worker)
        owed = [each for each in workflows if states.get(each) in AT_STAKE]
        rest = sorted(set(workflows) - set(owed))
        for queue, ids in ((OWED, owed), (QUEUE, rest)):
            if ids:
                await DBOS.resume_workflows_async(ids, queue_name=queue)
        return sum(states.get(each) not in ("saved", "failed", "unknown") for each in workflows)


_worker: Worker | None = None
"""The worker of this process."""


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1_000_000)
async def job_workflow(seq: int) -> str:
    """Bring one job to its end, wherever it stands."""
    if _worker is None:
        await asyncio.get_running_loop().create_future()  # the process ends
        return ""
    return await _worker.work_on(seq)


async def _first_of(wanted: asyncio.Future[Any], *others: asyncio.Future[Any]) -> None:
    """Wait for one thing; raises what ends one of the others before."""
    await asyncio.wait([wanted, *others], return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        if other.done():
            wanted.cancel()
            other.result()
