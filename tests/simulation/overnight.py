"""A night of one batch: fifty jobs, and a process that is killed, cancelled and stopped until one run is quiet."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

from happyhorse_async import Budget, HappyHorseError, ImageToVideo
from happyhorse_async.batch import Job
from tests.simulation import laws
from tests.simulation.disk import bad_disk
from tests.simulation.faults import draw_service_faults
from tests.simulation.loop import Loop
from tests.simulation.night import Night, leftovers_of

MOST_LIVES = 5
PRICE = Decimal("22.848")
"""Credits of the shortest video, by the public rule of 2026-10-10."""


class Overnight(Night):
    """One folder, several lives of the process that works on it."""

    kind = "batch"
    size = 50
    """Jobs in the manifest."""

    def act(self) -> None:
        """Play disturbed lives, then a quiet one."""
        chance = self.chance
        self.place = self.folder / "videos"
        self.outcomes: dict[str, Any] = {}
        self.jobs = self._manifest()
        self.budget = chance.choice(
            [None, None, Budget(credits=float(PRICE) * (self.size * 3 // 5))]
        )
        self.outages()
        self.clock_steps()
        for life in range(chance.randint(1, MOST_LIVES)):
            self.storm()
            self.faults += draw_service_faults(self)
            with bad_disk(self, chance.choice(["", "", "full", "descriptors", "broken"])):
                self._live(f"life {life}", disturbed=True)
            asleep, hours = chance.random() < 0.2, chance.uniform(0.02, 6)
            if asleep and self.may("the machine sleeps"):
                self.world.settle(hours * 3600)
        self.calm()
        self.budget = None
        self.world.settle(1200)
        for life in ("quiet life", "and once more"):
            self._live(life, disturbed=False)

    def _manifest(self) -> list[Job]:
        jobs = []
        for n in range(self.size):
            image: str | bytes = f"https://cdn.example.com/{n}.png"
            jobs.append(Job(ImageToVideo(image, duration=3, seed=n + 1), id=f"row-{n}"))
        return jobs

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
        self.visited.add(f"ends by {how}")
        work = self._run(how, loop, after)
        self.world.run(loop, work, until=lambda: how == "kill" and loop.steps >= after)
        if how == "kill" and loop.steps >= after:
            self.kill(loop)
        else:
            self.world.settle(5)
            laws.nothing_left(leftovers_of(loop), name)
            self.world.loops.remove(loop)
        return loop

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
        async with (
            self.session() as session,
            session.batch(self.place, max_in_flight=20, budget=self.budget) as batch,
        ):
            async for outcome in batch.run(self.jobs):
                self.outcomes[outcome.id] = outcome
                self.visited.add(f"outcome:{outcome.state}")
                if outcome.error is not None:
                    self.failed(outcome.error)
                if how == "stop" and loop.steps >= after:
                    batch.stop()
            self.totals = await batch.totals()

    def check(self) -> None:
        """Check what holds for a batch."""
        tasks = self.sandbox.tasks
        failed = [task for task in tasks if task.status in ("failed", "cancelled")]
        laws.require(
            len(tasks) <= self.size + len(failed),
            "paid twice",
            f"{len(tasks)} tasks for {self.size} jobs, {len(failed)} of them failed",
        )
        states = {str(state): count for state, count in self.totals.states.items()}
        # A server without keys would be paid again for a replay, so replays are off there, and what
        # was lost stays in doubt until somebody decides.
        in_doubt = () if self.features.idempotency else ("unknown",)
        for outcome in self.outcomes.values():
            fair = (
                outcome.ok
                or outcome.error is None
                or type(outcome.error).__name__ in ("TaskFailedError", "TaskCancelledError")
                or str(outcome.state) in in_doubt
            )
            laws.require(
                fair,
                "a wanted video is missing",
                f"{outcome.id}: {outcome.state} {outcome.error!r}",
            )
        laws.require(len(self.outcomes) == self.size, "a job without an outcome", states)
        saved = [outcome for outcome in self.outcomes.values() if outcome.ok]
        laws.whole_videos(self, [outcome.video.path for outcome in saved])
        known = {outcome.task_id for outcome in self.outcomes.values()}
        lost = [task.id for task in tasks if task.id not in known and task not in failed]
        doubts = sum(str(outcome.state) == "unknown" for outcome in self.outcomes.values())
        laws.require(len(lost) <= doubts, "a paid task that nobody knows", lost)
        laws.require(
            doubts or not self.totals.reserved, "money is still reserved", self.totals.reserved
        )
        laws.never_free_when_paid(self)
        laws.no_scraps(self.place)
        laws.key_nowhere(self, self.place)
