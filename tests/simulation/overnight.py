"""A night of one batch: fifty jobs, and a process that is killed, cancelled and stopped until one
run is quiet.
"""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from contextlib import closing
from decimal import Decimal
from math import inf
from typing import Any

import attrs

from happyhorse_async import Budget, HappyHorseError, ImageToVideo, TaskNotFoundError
from happyhorse_async._rules.lifecycle import AT_STAKE, JOB_TRANSITIONS
from happyhorse_async.batch import Batch, Job, JobState
from happyhorse_async.batch._database import LEDGER_NAME
from tests.simulation import laws
from tests.simulation.disk import DISKS, HELD, bad_disk
from tests.simulation.faults import draw_service_faults
from tests.simulation.loop import Loop
from tests.simulation.night import Night, leftovers_of

HOPELESS = "hopeless"
"""The id of a row that no video can be made of."""
ODD_PRICES = {"price", "odd-number", "odd-charge", "output-length"}
"""Faults after which videos cost what nobody can know before."""
STEPS = [f"{was}>{then}" for was, thens in JOB_TRANSITIONS.items() for then in sorted(thens)] + [
    f"submission:{was}>{then}"
    for was, then in (("sent", "pausing"), ("sent", "waiting"), ("sent", "looking"))
]
"""Steps of a job after which the process is killed."""
MOST_LIVES = 5
FRAME = (
    b"\x89PNG\r\n\x1a\n"
    + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 300, 300, 8, 2, 0, 0, 0, 0)
    + b"\0\0\0\0IEND\xaeB`\x82"
)
"""The smallest first frame that the service takes; what follows it makes it another."""
PRICE = Decimal("22.848")
"""Credits of the shortest video, by the public rule of 2026-10-10."""


class Overnight(Night):
    """One folder, several lives of the process that works on it."""

    kind = "batch"

    def act(self) -> None:
        """Play disturbed lives, then a quiet one."""
        chance = self.chance
        self.place = self.folder / "videos"
        self.outcomes: dict[str, Any] = {}
        self.local: set[str | None] = set()
        """Ids of rows whose first frames are files of ours, and have to be uploaded."""
        self.jobs = self._manifest()
        self._local_images()
        self.wanted = {_name(job): job for job in self.jobs}
        """All that was ever in the manifest."""
        self.cap = self.size * 3 // 5
        self.budget = chance.choice([None, None, Budget(credits=float(PRICE) * self.cap)])
        self.totals: Any = None
        self.inside = 0
        """Processes that work in the folder right now."""
        self.last_word = False
        """All that is left is what the user has to decide, and does."""
        if chance.random() < 0.1 and self.may("a row that has no image"):
            self.jobs.append(Job(ImageToVideo(self.folder / "none.png", duration=3), id=HOPELESS))
        self.outages()
        self.clock_steps()
        self.sleeps()
        self.neighbours()
        self.settings()
        for life in range(chance.randint(1, MOST_LIVES)):
            self.storm()
            self.faults += draw_service_faults(self)
            with bad_disk(self, chance.choice(["", "", *DISKS])):
                self._live(f"life {life}", disturbed=True)
            self._keep_to_the_budget()
            asleep, hours = chance.random(), chance.uniform(0.02, 6)
            if asleep < 0.04 and self.may("the machine is off for days"):
                self.days_off = True
                self.world.settle(60 * 3600)
            elif asleep < 0.2 and self.may("the machine sleeps"):
                self.world.settle(hours * 3600)
            self._edit()
        self.calm()
        self.neighbours_leave()
        self.budget = None
        self.world.settle(1200)
        self.totals = None
        for name in ("quiet life", "and once more"):
            self._live(name, disturbed=False)
        # A service with neither keys nor a list says nothing of what was lost: each run tells one.
        says_nothing = not (self.features.idempotency or self.features.listing)
        for _ in self.jobs if says_nothing else ():
            if self.totals is None:
                self._live("and again", disturbed=False)
        laws.require(self.totals is not None, "a quiet run does not come to its end")
        self.last_word = bool(self.totals.states.get(JobState.UNKNOWN))
        if self.last_word:
            self._live("at the user's word", disturbed=False)

    def _manifest(self) -> list[Job]:
        return [_job(n, seed=n + 1) for n in range(self.size)]

    def _local_images(self) -> None:
        """Let a few rows have files of ours for their first frames."""
        chance = self.chance
        rows = chance.sample(range(self.size), min(self.size, 3))
        if chance.random() < 0.5 and self.may("local images"):
            for row in rows:
                frame = self.folder / f"frame-{row}.png"
                frame.write_bytes(FRAME + bytes([row % 256]))
                job = self.jobs[row]
                self.jobs[row] = Job(attrs.evolve(job.request, image=frame), id=job.id)
                self.local.add(job.id)

    def _edit(self) -> None:
        """Edit the manifest between two runs: other rows, another order, another wish for an id."""
        chance = self.chance
        how = chance.choice(["", "", "", "order", "more", "fewer", "other"])
        if not how or not self.may(f"the manifest is edited: {how}"):
            return
        self.visited.add(f"edited:{how}")
        if how == "order":
            chance.shuffle(self.jobs)
        elif how == "more":
            first = self.size + len(self.wanted)
            self.jobs += [_job(n, seed=n + 1) for n in range(first, first + 2)]
        elif how == "fewer":
            self.jobs = self.jobs[: -max(1, len(self.jobs) // 10)] or self.jobs
        else:
            at = chance.randrange(len(self.jobs))
            row = str(self.jobs[at].id).removeprefix("row-")
            if row != HOPELESS:
                self.jobs[at] = _job(int(row), seed=1_000_000 + len(self.wanted))
        self.wanted |= {_name(job): job for job in self.jobs}

    def _keep_to_the_budget(self) -> None:
        """Check that no more was promised than the budget has, while prices are what they seem."""
        if self.budget is None or ODD_PRICES & {*self.faults}:
            return
        paid = [task for task in self.tasks if task.status not in ("failed", "cancelled")]
        cap = self.cap + (0 if self.features.idempotency else self.replays)
        laws.require(len(paid) <= cap, "the budget is passed", f"{len(paid)} of {cap}")

    def _live(self, name: str, *, disturbed: bool) -> Loop:
        chance, loop = self.chance, self.world.process(name)
        how = (
            chance.choice(["kill", "kill", "kill", "stop", "cancel", "twice", "end"])
            if disturbed
            else "end"
        )
        after = chance.randint(10, chance.choice([300, 1500, 6000]) * (self.size + 10) // 60)
        if how != "end" and not self.may(f"life:{how}"):
            how = "end"
        self.world.note(f"{name} begins: {how} after {after} steps")
        self.inside = 0
        self.visited.add(f"ends by {how}")
        work = self._run(how, loop, after)
        # A process dies anywhere, and at the worst moment: the answer to a task is on its way.
        made = len(self.made) + chance.randint(1, self.size)
        aimed = how == "kill" and chance.random() < 0.4 and self.may("life:kill:paid")
        # Or right after a certain step of a job, or in the pause that follows it.
        step, late = chance.choice(STEPS), chance.choice([0, 0, 1, 50])
        times = self.moves[step] + chance.choice([1, 1, 5])
        at_step = how == "kill" and chance.random() < 0.3 and self.may("life:kill:step")

        def dies() -> bool:
            if how != "kill":
                return False
            if at_step and self.moves[step] >= times:
                return self.world.steps >= self.moved[step] + late
            if aimed:
                return len(self.made) >= made
            return loop.steps >= after and not at_step

        rival = self._rival() if disturbed and chance.random() < 0.1 else None
        self.world.run(loop, work, until=dies)
        killed = dies()
        if rival is not None:
            self.kill(rival)
        if killed:
            self.kill(loop)
        else:
            self.world.settle(5)
            laws.nothing_left(leftovers_of(loop), name)
            self.world.loops.remove(loop)
        return loop

    def _rival(self) -> Loop | None:
        """Let another process begin a run in the same folder."""
        if not self.may("another run in the folder"):
            return None
        rival = self.world.process("rival")
        self.world.start(rival, self._rival_run())
        return rival

    async def _rival_run(self) -> None:
        await asyncio.sleep(self.chance.uniform(0, 300))
        try:
            async with self.session() as session, session.batch(self.place) as batch:
                self.inside += 1
                if self.inside > 1:
                    self.break_law("two processes work on one folder", self.inside)
                self.visited.add("rival:alone")
                async for _ in batch.run(self.jobs[:3]):
                    pass
                self.inside -= 1
        except HappyHorseError as error:
            self.visited.add(f"rival:{type(error).__name__}")

    async def _run(self, how: str, loop: Loop, after: int) -> None:
        task = asyncio.create_task(self._work(how, loop, after), name="batch")
        if how in ("cancel", "twice"):
            watcher = asyncio.create_task(
                self._cancel(task, loop, after, twice=how == "twice"), name="watcher"
            )
            await asyncio.wait([task])
            watcher.cancel()
            await asyncio.wait([watcher])
        try:
            await task
        except asyncio.CancelledError:
            self.visited.add("cancelled")
        except HappyHorseError as error:
            self.failed(error)
            self.world.note(f"the run ends: {error!r}")
            self.visited.add(f"run:{type(error).__name__}")

    async def _cancel(
        self, task: asyncio.Task[None], loop: Loop, after: int, *, twice: bool
    ) -> None:
        while loop.steps < after and not task.done():
            await asyncio.sleep(0.5)
        task.cancel()
        if twice:
            for _ in range(self.chance.randint(0, 30)):
                await asyncio.sleep(0)
            task.cancel()

    async def _work(self, how: str, loop: Loop, after: int) -> None:
        called_back = not self.is_calm and self.chance.random() < 0.2 and self.may("callbacks")
        where = {"public_url": "https://hooks.example.com/h"} if called_back else {}
        async with (
            self.session(**where) as session,
            session.batch(
                self.place,
                max_in_flight=1 if self.one_by_one else max(2, self.size // 3),
                budget=self.budget,
            ) as batch,
        ):
            beside = [asyncio.create_task(self.call_back(session))] if called_back else []
            if not self.is_calm and self.chance.random() < 0.15 and self.may("others look on"):
                beside.append(asyncio.create_task(self.look_on(session)))
            self.inside += 1
            try:
                await self._outcomes(batch, how, loop, after)
            finally:
                self.inside -= 1
                for each in beside:
                    each.cancel()
            self.totals = await batch.totals()

    async def _outcomes(self, batch: Batch, how: str, loop: Loop, after: int) -> None:
        # At the user's word what has failed is bought again, and what is in doubt is asked for.
        again = not self.is_calm and self.chance.random() < 0.15
        if self.last_word or (again and self.may("the user says retry")):
            outcomes = batch.retry()
        else:
            outcomes = batch.run(self.jobs)
        async for outcome in outcomes:
            self.outcomes[outcome.id] = outcome
            self.visited.add(f"outcome:{outcome.state}")
            if outcome.error is not None:
                self.failed(outcome.error)
                self._not_given_up(outcome.error)
            if how == "stop" and loop.steps >= after:
                batch.stop()

    def _not_given_up(self, error: HappyHorseError) -> None:
        """Check that no task is given up that the service has: it denies one for minutes at most.

        Links may die in days off, and then nobody looks for a task for long.
        """
        if (
            isinstance(error, TaskNotFoundError)
            and error.task_id in self.made
            and not self.days_off
        ):
            self.break_law("a task that the service has is given up", f"{error.task_id}: {error}")

    def check(self) -> None:
        """Check what holds for a batch."""
        tasks = self.tasks
        failed = [task for task in tasks if task.status in ("failed", "cancelled")]
        blind = 0 if self.features.idempotency else self.replays
        again = max(len(failed), self.moves["failed>new"]) + blind
        # Who loses days with the machine off sends keys that the service may have forgotten: its
        # own time would tell, but a clock that was always wrong looks the same.
        unknowable = self.days_off and self.lost_days and self.features.key_seconds < inf
        laws.require(
            unknowable or len(tasks) <= len(self.wanted) + again,
            "paid twice",
            f"{len(tasks)} tasks for {len(self.wanted)} jobs, {len(failed)} of them failed",
        )
        wanted = {str(job.id) for job in self.jobs}
        for outcome in self.outcomes.values():
            laws.require(
                outcome.ok or outcome.id not in wanted or self._is_fair(outcome),
                "a wanted video is missing",
                f"{outcome.id}: {outcome.state} {outcome.error!r}",
            )
        missing = wanted - self.outcomes.keys()
        laws.require(not missing, "a job without an outcome", missing)
        saved = [outcome for outcome in self.outcomes.values() if outcome.ok]
        laws.whole_videos(self, [outcome.video.path for outcome in saved])
        laws.true_videos(self, [(outcome.video.path, outcome.task_id) for outcome in saved])
        known = {outcome.task_id for outcome in self.outcomes.values()} | self._in_the_ledger()
        lost = [task.id for task in tasks if task.id not in known and task not in failed]
        doubts = self.totals.states.get(JobState.UNKNOWN, 0)
        # What was lost in days off, and is bought again at the user's word, has another task now.
        laws.require(
            self.days_off or len(lost) <= doubts + blind, "a paid task that nobody knows", lost
        )
        laws.require(
            doubts or self.days_off or not self.totals.reserved,
            "money is still reserved",
            f"{self.totals.reserved}: {self.totals.states}",
        )
        left = [state for state in AT_STAKE if self.totals.states.get(state)]
        laws.require(
            self.days_off or not left,
            "what was begun is not brought to its end",
            self.totals.states,
        )
        laws.named_once(self)
        laws.never_free_when_paid(self)
        # A part of a video whose link has died stays, and what could not be removed.
        if not (self.days_off or HELD & self.visited):
            laws.no_scraps(self.place)
        laws.key_nowhere(self, self.place)

    def _is_fair(self, outcome: Any) -> bool:
        """Whether a job may end without a video."""
        if outcome.id == HOPELESS or type(outcome.error).__name__ in (
            "TaskFailedError",
            "TaskCancelledError",
        ):
            return True
        if outcome.state == JobState.UNKNOWN:
            # A server without keys would be paid again for a replay, so replays are off there, and
            # what was lost stays in doubt until somebody decides. So does a key of days ago, which
            # the service may have forgotten: half a day counts for one.
            old = self.days_off or self.leapt or self.world.now + self.world.slept > 12 * 3600
            return old or not self.features.idempotency
        if outcome.state == JobState.FAILED and outcome.error.charged == "no":
            # A key that a 429 has refused before is a replay, and nothing was paid for it either.
            refused = {"refused", "refused-replay"} & {*self.faults}
            return bool(refused) or outcome.id in self.local
        # Two clocks of three that say so make a link old: the wall's is one, see `Transfer`.
        return self.days_off or self.leapt

    def _in_the_ledger(self) -> set[str]:
        with closing(sqlite3.connect(self.place / LEDGER_NAME)) as database:
            rows = database.execute("SELECT task_id FROM jobs WHERE task_id IS NOT NULL")
            return {task_id for (task_id,) in rows}


def _job(row: int, seed: int) -> Job:
    link = f"https://cdn.example.com/{row}.png"
    return Job(ImageToVideo(link, duration=3, seed=seed), id=f"row-{row}")


def _name(job: Job) -> str:
    return f"{job.id} {job.request.seed}"
