"""A night of single calls: many callers share a session, are cancelled, lose answers, and die."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import attrs

from happyhorse_async import (
    APIStatusError,
    HappyHorseError,
    ImageToVideo,
    SubmissionOutcomeUnknownError,
    Task,
    TaskFailedError,
    TaskNotFoundError,
)
from happyhorse_async.events import Retrying
from tests.simulation import laws
from tests.simulation.disk import DISKS, HELD, bad_disk
from tests.simulation.faults import draw_service_faults
from tests.simulation.loop import Loop
from tests.simulation.night import Night, leftovers_of

MOST_LIVES = 6
HOOKS = "https://hooks.example.com/h"


@attrs.define
class Wish:
    """What one caller wants, and what it knows by now; it writes each down as a careful caller
    does.
    """

    number: int
    key: str
    how: str
    task_id: str | None = None
    path: Path | None = None
    called_back: str | None = None
    """Where it wants to be called back: a session's own place is another in each process."""
    tried: bool = False
    """Its key may have been sent."""
    given_up: str = ""
    """Why there will be no video."""

    @property
    def request(self) -> ImageToVideo:
        """Return the same request every time."""
        link = f"https://cdn.example.com/{self.number}.png"
        return ImageToVideo(link, seed=self.number + 1, callback_url=self.called_back)


class Crowd(Night):
    """Callers of one session, over several lives of its process."""

    kind = "crowd"

    def act(self) -> None:
        """Play lives until everything is known, the last in calm."""
        chance = self.chance
        self.calls = 0
        """Calls that may have paid for a task."""
        called_back = chance.random() < 0.2 and self.may("callbacks")
        count = 1 if self.one_by_one else chance.randint(2, max(4, min(10, self.size)))
        self.wishes = [
            Wish(
                number=n,
                key=f"caller-{self.seed:08d}-{n:04d}",
                how=chance.choice(["generate", "steps", "updates", "watch", "wait"]),
                called_back=HOOKS if called_back else None,
            )
            for n in range(count)
        ]
        self.on_the_way: frozenset[str] = frozenset()
        """Keys that a killed process may have sent right before its end."""
        self.outages()
        self.clock_steps()
        self.sleeps()
        self.neighbours()
        self.settings()
        for life in range(chance.randint(1, MOST_LIVES)):
            self.storm()
            self.faults += draw_service_faults(self)
            with bad_disk(self, chance.choice(["", "", "", *DISKS])):
                self._live(f"life {life}", disturbed=True)
        self.calm()
        self.neighbours_leave()
        self.world.settle(1200)
        for wish in self.wishes:
            wish.given_up = wish.given_up if wish.given_up.startswith("final") else ""
        self.last = self._live("quiet life", disturbed=False)

    def _live(self, name: str, *, disturbed: bool) -> Loop:
        loop = self.world.process(name)
        kill, steps = self.chance.random() < 0.6, self.chance.choice([300, 1500, 6000])
        steps = self.chance.randint(20, steps)
        if not (disturbed and kill and self.may("kill")):
            steps = None
        self.world.note(f"{name} begins")
        if self.days_off:  # a careful caller sends no key of days ago with a new process
            for wish in self.wishes:
                if wish.task_id is None and wish.tried:
                    wish.given_up = "final: its key is old"
        self.sent.clear()
        self.world.run(
            loop, self._callers(disturbed), until=lambda: steps is not None and loop.steps >= steps
        )
        if steps is not None and loop.steps >= steps:
            self.kill(loop)
            # What the dead process has sent may arrive now, and the next one knows nothing of it.
            self.on_the_way = frozenset(self.sent - self.paid_keys())
        else:
            self.on_the_way = frozenset()
            self.world.settle(5)
            laws.nothing_left(leftovers_of(loop), name)
            self.world.loops.remove(loop)
        return loop

    async def _callers(self, disturbed: bool) -> None:
        before = {task.id for task in self.tasks}
        paid = self.paid_keys() | self.on_the_way
        called_back = disturbed and self.wishes[0].called_back is not None
        where = {"public_url": HOOKS} if called_back else {}
        async with self.session(**where) as session:
            calls = [asyncio.create_task(self.call_back(session))] if called_back else []
            session.subscribe(lambda event: self._heard(event.error, paid), Retrying)
            callers = [
                asyncio.create_task(self._call(session, wish))
                for wish in self.wishes
                if wish.path is None
            ]
            if disturbed:
                for caller in callers:
                    cancelled, when = self.chance.random() < 0.25, self.chance.uniform(0, 400)
                    if cancelled and self.may("a caller is cancelled"):
                        asyncio.get_running_loop().call_later(when, caller.cancel)
            if callers:
                await asyncio.wait(callers, timeout=self._until_stopped(callers, disturbed))
            for call in calls:
                call.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        orphans = list(session.orphans)
        for orphan in orphans:
            wish = next(wish for wish in self.wishes if wish.key == orphan.idempotency_key)
            wish.task_id = wish.task_id or orphan.task_id
            self.visited.add("orphan")
        self._all_known([orphan.idempotency_key for orphan in orphans], before)
        for caller in callers:
            error = None if caller.cancelled() else caller.exception()
            if error is not None:
                raise error

    def _heard(self, error: HappyHorseError, before: frozenset[str]) -> None:
        """Check what listeners are told of an attempt, at that very moment."""
        if error.charged == "no" and error.idempotency_key in self.paid_keys() - before:
            self.break_law("charged says no of a paid key", f"to listeners: {error!r}")

    def _until_stopped(self, callers: list[asyncio.Task[None]], disturbed: bool) -> float | None:
        """Let the program be stopped: all callers are cancelled, or their session closes under
        them; return when it closes.
        """
        how = self.chance.choice(["", "", "cancelled", "closed"]) if disturbed else ""
        when = self.chance.uniform(0, self.chance.choice([10, 60, 400]))
        if not how or not self.may(f"all callers are {how}"):
            return None
        self.visited.add(f"all callers are {how}")
        if how == "closed":
            return when
        for caller in callers:
            asyncio.get_running_loop().call_later(when, caller.cancel)
        return None

    def _all_known(self, orphans: list[str], before: set[str]) -> None:
        """Check that a session that was closed in peace left no task that nobody was told of."""
        told = {wish.task_id for wish in self.wishes}
        in_doubt = {error.idempotency_key for error, _ in self.errors if error.charged != "no"}
        for task in self.tasks:
            key = task.idempotency_key
            if (
                key is not None
                and task.id not in before
                and not ({key} & {*orphans, *in_doubt, *self.on_the_way} or task.id in told)
            ):
                self.break_law("a paid task that nobody was told of", f"{task.id} {key}")

    async def _call(self, session: Any, wish: Wish) -> None:
        if wish.given_up.startswith("final"):
            return
        before, fresh = self.paid_keys() | self.on_the_way, wish.task_id is None
        try:
            await self._in_time(session, wish)
        except TaskNotFoundError as error:
            self.failed(error, before)
            wish.task_id = wish.task_id or error.task_id
            wish.given_up = f"for now: {error}"
            # A stranger's task is believed to be none after seconds, but not one of this session.
            if fresh and error.task_id in self.made:
                self.break_law("a task that the service has is given up", repr(error))
        except TaskFailedError as error:
            self.failed(error, before)
            wish.task_id = wish.task_id or error.task_id
            wish.given_up = f"final: {error}"
        except SubmissionOutcomeUnknownError as error:
            self.failed(error, before)
            wish.given_up = f"in doubt: {error}"
        except HappyHorseError as error:
            self.failed(error, before)
            wish.task_id = wish.task_id or error.task_id
            wish.given_up = f"for now: {error}"
            if isinstance(error, APIStatusError) and not error.task_id and error.charged != "no":
                self.break_law("a refusal is told of what may be paid", repr(error))

    async def _in_time(self, session: Any, wish: Wish) -> None:
        """Ask, and wait only for so long where the caller has little time."""
        little = self.chance.random() < 0.15 and not self.is_calm
        limit = self.chance.uniform(0, 300) if little and self.may("little time") else None
        try:
            async with asyncio.timeout(limit):
                await self._try_twice(session, wish)
        except TimeoutError as error:
            if isinstance(error, HappyHorseError):
                raise
            wish.given_up = "for now: no time"

    async def _try_twice(self, session: Any, wish: Wish) -> None:
        """Ask once more in the same session after a doubt."""
        chance = self.chance
        try:
            await self._try(session, wish)
        except SubmissionOutcomeUnknownError as error:
            if chance.random() < 0.5 or not self.may("a caller asks again"):
                raise
            self.failed(error)
            wish.given_up = f"in doubt: {error}"
            await asyncio.sleep(chance.choice([0, 30, 1000]))
            await self._try(session, wish)

    async def _try(self, session: Any, wish: Wish) -> None:
        target = self.folder / f"{wish.number}.mp4"
        self.calls += wish.task_id is None
        wish.tried = True
        if wish.task_id is None and wish.how == "generate":
            video = await session.generate(
                wish.request, save_to=target, idempotency_key=wish.key, overwrite=True
            )
            wish.task_id = video.task_id
        else:
            if wish.task_id is None:
                handle = await session.submit(wish.request, idempotency_key=wish.key)
                wish.task_id = handle.id
            handle = session.task(wish.task_id)
            if wish.how == "updates":
                async for update in handle.updates():
                    self.visited.add(f"status:{update.status}")
                self._is_whole(update)
            elif wish.how == "watch":
                async with session.watch([handle]) as updates:
                    async for update in updates:
                        self.visited.add(f"watched:{update.status}")
                self._is_whole(update)
            elif wish.how == "wait":
                timeout = self.chance.choice([None, 100, 10_000])
                self._is_whole(await handle.wait(timeout=None if self.is_calm else timeout))
            video = await handle.download(target, overwrite=True)
        wish.path = video.path

    def _is_whole(self, task: Task) -> None:
        if task.status == "completed" and not task.results:
            self.break_law("a completed task ends without its video", task.id)

    def check(self) -> None:
        """Check what holds for a crowd."""
        if not self.features.idempotency:  # who asks again after a doubt pays again, and was told
            paid = len(self.tasks)
            laws.require(paid <= self.calls, "paid twice", f"{paid} paid for {self.calls} calls")
            self._check_always()
            return
        paid = len(self.tasks)
        laws.require(
            paid <= len(self.wishes), "paid twice", f"{paid} paid for {len(self.wishes)} wishes"
        )
        known = {wish.task_id for wish in self.wishes}
        lost = {wish.key for wish in self.wishes if "its key is old" in wish.given_up}
        unknown = [
            task.id
            for task in self.tasks
            if task.id not in known and task.idempotency_key not in lost
        ]
        laws.require(not unknown, "a paid task that nobody knows", unknown)
        missing = [
            wish
            for wish in self.wishes
            if wish.path is None and not (wish.given_up.startswith("final") or self.days_off)
        ]
        laws.require(not missing, "a wanted video is missing", missing[:2])
        self._check_always()

    def _check_always(self) -> None:
        laws.whole_videos(self, [wish.path for wish in self.wishes if wish.path is not None])
        laws.true_videos(
            self,
            [
                (wish.path, wish.task_id)
                for wish in self.wishes
                if wish.path is not None and wish.task_id is not None
            ],
        )
        # A part of a video whose link has died stays, and what could not be removed.
        if not (self.days_off or HELD & self.visited):
            laws.no_scraps(self.folder)
        laws.never_free_when_paid(self)
        laws.key_nowhere(self, self.folder)
