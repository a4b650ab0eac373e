"""Random faults, cancellations and concurrent callers: whatever happens, somebody is told of every
payment.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from happyhorse_async import (
    HappyHorseError,
    ImageToVideo,
    Limits,
    RetryPolicy,
    Session,
    SubmissionOutcomeUnknownError,
    TaskHandle,
    Timeouts,
)
from happyhorse_async._submitter import Orphan
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.conftest import QUICK_POLLING

pytestmark = pytest.mark.slow

SUBMIT = "/v1/videos/generations"
STEPS = 2000
LONGEST = 20.0
"""Seconds after which a step counts as hung."""

ACTIONS: list[dict[str, Any]] = [
    {"action": "refuse", "status": 429},
    {"action": "refuse", "status": 429, "headers": {"Retry-After": "0"}},
    {"action": "refuse", "status": 402},
    {"action": "refuse", "status": 500},
    {"action": "refuse", "status": 503},
    {"action": "refuse", "status": 502, "body": "<html>bad gateway</html>"},
    {"action": "drop-before"},
    {"action": "drop-after"},
    {"action": "hang-before"},
    {"action": "hang-after"},
    {"action": "undecided", "seconds": 5},
    {"action": "answer-after", "status": 500},
    {"action": "answer-after", "status": 503, "body": "<html>later</html>"},
    {"action": "answer-after", "status": 200, "body": '{"id": '},
    {"action": "answer-after", "status": 200, "body": ""},
    {"action": "slow", "seconds": 0.01},
]

durations = st.integers(3, 15)
moments = st.integers(0, 40)


class Payments(RuleBasedStateMachine):
    """A session, a server that misbehaves, and a book of what the callers were told."""

    steps = 0
    paid = 0
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.told: dict[str, str] = {}
        """Task id -> key, as callers were given them."""
        self.unknown: set[str] = set()
        """Keys that callers were told the outcome of is unknown."""
        self.refused: set[str] = set()
        """Keys that callers were told were certainly not accepted."""
        self.count = 0
        self.ended = 0
        self.wanted: dict[str, int] = {}
        self.orphans: list[Orphan] = []
        """Those of the sessions that were closed."""

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run until quiet, and hold the books against what was really paid."""
        type(self).steps += 1
        result = self.runner.run(asyncio.wait_for(work, LONGEST))
        self.audit()
        return result

    @initialize(
        honours=st.booleans(),
        lists=st.booleans(),
        limit=st.sampled_from([1, 2, 100]),
        places=st.sampled_from([None, None, 3]),
        adopt=st.sampled_from(["proven", "single"]),
    )
    def open(self, honours: bool, lists: bool, limit: int, places: int | None, adopt: Any) -> None:
        """Start a server, with or without the features that are not promised, and a session."""
        self.honours = honours
        self.adopt = adopt
        self.sandbox = Sandbox(
            video="stub", speed=0, features=Features(idempotency=honours, listing=lists)
        )
        self.limits = Limits(max_submissions=limit, max_unfinished=places)

        async def start() -> None:
            await self.sandbox.__aenter__()
            await self.open_session()
            if places:
                self.sandbox.watch_requests(self.end_tasks)

        self.runner.run(start())

    async def open_session(self) -> None:
        """Begin a session."""
        self.session = Session(
            self.sandbox.key,
            base_url=self.sandbox.url,
            files_url=self.sandbox.files_url,
            limits=self.limits,
            timeouts=Timeouts(submit=0.05, read=1, shield=0.2),
            polling=QUICK_POLLING,
            retry=RetryPolicy(
                attempts=3,
                replays=1 if self.honours else 0,
                first_pause=0.001,
                longest_pause=0.002,
                adopt=self.adopt,
            ),
        )
        await self.session.__aenter__()

    def end_tasks(self, _: object) -> None:
        """End all tasks as soon as they are accepted, so that nothing waits for places for ever."""
        for task in self.sandbox.tasks[self.ended :]:
            self.sandbox.end(task.id, "failed", error_code="service_error")
            self.ended += 1

    @rule(fault=st.sampled_from(ACTIONS), times=st.integers(1, 3), after=st.integers(0, 3))
    def misbehave(self, fault: dict[str, Any], times: int, after: int) -> None:
        """Let the next submissions go wrong."""
        type(self).steps += 1
        self.sandbox.fail(Fault(method="POST", path=SUBMIT, times=times, after=after, **fault))

    @rule(times=st.integers(1, 8))
    def hide_the_list(self, times: int) -> None:
        """Let the next looks at the list of tasks go wrong."""
        type(self).steps += 1
        self.sandbox.fail(Fault("refuse", method="GET", path="/v1/tasks", status=500, times=times))

    @rule()
    def recover(self) -> None:
        """Let everything work again."""
        type(self).steps += 1
        self.sandbox.clear_faults()

    @rule(seconds=st.integers(1, 20))
    def pass_time(self, seconds: int) -> None:
        """Let time pass on the server."""
        type(self).steps += 1
        self.sandbox.advance(seconds)

    @rule(wanted=st.lists(durations, min_size=1, max_size=5))
    def submit_together(self, wanted: list[int]) -> None:
        """Submit from several callers at once."""

        async def work() -> None:
            await asyncio.gather(*(self.caller(duration) for duration in wanted))

        self.run(work())

    @rule(wanted=st.lists(durations, min_size=1, max_size=5), moment=moments)
    def submit_and_cancel(self, wanted: list[int], moment: int) -> None:
        """Submit from several callers, and cancel every other one after a number of turns of the
        event loop.
        """

        async def work() -> None:
            tasks = [asyncio.create_task(self.caller(duration)) for duration in wanted]
            for _ in range(moment):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(work())

    @rule(
        wanted=st.lists(durations, min_size=1, max_size=5), moment=moments, cancelled=st.booleans()
    )
    def close_meanwhile(self, wanted: list[int], moment: int, cancelled: bool) -> None:
        """Close the session under several callers, some of which may be cancelled in the same
        moment, and go on with a new one.
        """

        async def work() -> None:
            tasks = [asyncio.create_task(self.caller(duration)) for duration in wanted]
            for _ in range(moment):
                await asyncio.sleep(0)
            for task in tasks[::2] if cancelled else ():
                task.cancel()
            await self.session.aclose()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.orphans += self.session.orphans
            # What was paid before is too old for the next session to be taken for its own.
            self.sandbox.advance(5)
            await self.open_session()

        self.run(work())

    @rule(
        wanted=st.lists(durations, min_size=1, max_size=8),
        taken=st.integers(0, 8),
        ordered=st.booleans(),
    )
    def submit_many(self, wanted: list[int], taken: int, ordered: bool) -> None:
        """Fan out, and leave after some submissions."""

        async def work() -> None:
            requests = [
                ImageToVideo("https://example.com/a.png", duration=duration) for duration in wanted
            ]
            async with self.session.submit_many(requests, ordered=ordered) as submissions:
                if not taken:
                    return
                left = taken
                async for submission in submissions:
                    self.note(submission.task, submission.error)
                    left -= 1
                    if not left:
                        break

        self.run(work())

    @rule(which=st.integers(0, 9))
    def ask_again(self, which: int) -> None:
        """Do what the error says: submit the same request again with the same key."""
        # What there is to ask for depends on real time-outs, so the rule is always there and draws
        # no more than a number.
        keys = sorted(self.unknown & self.wanted.keys()) if self.honours else []
        if keys:
            key = keys[which % len(keys)]
            self.run(self.caller(self.wanted[key], key))

    async def caller(self, duration: int, key: str | None = None) -> None:
        """Submit one request, and write down what one is told."""
        self.count += 1
        key = key or f"key-{self.count:016d}"
        self.wanted[key] = duration
        try:
            task = await self.session.submit(
                "https://example.com/a.png", duration=duration, idempotency_key=key
            )
        except HappyHorseError as error:
            self.note(None, error)
            named = error.idempotency_key
        else:
            self.note(task, None)
            named = task.idempotency_key
        assert named == key

    def note(self, task: TaskHandle | None, error: HappyHorseError | None) -> None:
        """Write down what a caller was told."""
        if task is not None:
            type(self).seen["a task"] += 1
            assert self.told.get(task.id, task.idempotency_key) == task.idempotency_key, (
                "one task, given to two requests"
            )
            self.told[task.id] = str(task.idempotency_key)
        elif error is not None:
            type(self).seen[f"{type(error).__name__} {error.charged}"] += 1
            key = str(error.idempotency_key)
            assert (error.charged == "unknown") == isinstance(error, SubmissionOutcomeUnknownError)
            (self.unknown if error.charged == "unknown" else self.refused).add(key)

    def audit(self) -> None:
        """Every payment was told to somebody, and what was told is true."""
        left = [*self.orphans, *self.session.orphans]
        orphans = {orphan.task_id: orphan.idempotency_key for orphan in left if orphan.task_id}
        unsure = {orphan.idempotency_key for orphan in left if not orphan.task_id} | self.unknown
        known = {**self.told, **orphans}
        tasks = {task.id: task for task in self.sandbox.tasks}
        assert known.keys() <= tasks.keys()
        secret = [task for task_id, task in tasks.items() if task_id not in known]
        if not self.honours:
            assert len(secret) <= len(unsure), "a payment that nobody was told of"
            assert len(set(known.values()) | unsure) >= len(tasks), "two payments for one request"
            return
        assert all(tasks[task_id].idempotency_key == key for task_id, key in known.items()), (
            "a task given to the wrong request"
        )
        assert {task.idempotency_key for task in secret} <= unsure, (
            "a payment that nobody was told of"
        )
        keys = [task.idempotency_key for task in tasks.values()]
        assert len(keys) == len(set(keys)), "two payments for one request"
        assert not (set(keys) & (self.refused - unsure - set(known.values()))), (
            "a payment that was said not to have happened"
        )

    def teardown(self) -> None:
        """Close everything, and look once more."""

        async def stop() -> None:
            await self.session.aclose()
            self.audit()
            await self.sandbox.close()

        if hasattr(self, "sandbox"):
            for orphan in (*self.orphans, *self.session.orphans):
                type(self).seen["orphan with a task" if orphan.task_id else "orphan without"] += 1
            type(self).paid += self.sandbox.paid
            self.runner.run(stop())
        self.runner.close()


def test_every_payment_is_known_to_somebody(caplog: pytest.LogCaptureFixture) -> None:
    """Over 2,000 random steps: what was paid is what callers got, plus orphans, plus outcomes
    reported as unknown; nothing else.
    """
    caplog.set_level(logging.CRITICAL, "happyhorse_async")
    Payments.steps = 0
    examples = settings(
        phases=[Phase.generate],
        max_examples=75,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        database=None,
    )
    run_state_machine_as_test(Payments, settings=examples)
    print(f"{Payments.steps} steps, {Payments.paid} paid: {dict(Payments.seen)}")
    assert Payments.steps >= STEPS
