"""Odd answers: numbers that nobody could mean, words that are newer, texts that cannot be written.
On simulated time, over the real scheduler.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import polling
from happyhorse_async import Session
from happyhorse_async._poller import Poller
from happyhorse_async._rules import wire
from happyhorse_async._rules.responses import Answer
from happyhorse_async.events import OddNumbers
from happyhorse_async.sandbox import Fault, Sandbox
from tests.poller.test_patience import answering, now
from tests.poller.test_returning import simulated
from tests.poller.test_waiting import LINK
from tests.rules.test_wire import JSON, NAMES

LIFE = 30.0


@pytest.mark.anyio
async def test_odd_numbers_are_told_once(
    sandbox: Sandbox, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """A charge below zero counts as not said; a listener hears of it once,
    however often it is read.
    """
    heard: list[OddNumbers] = []
    session.subscribe(heard.append, OddNumbers)
    task = await session.submit(LINK)
    sandbox.finish()
    true = (await session.read(task.id)).raw
    odd = {**true, "usage": {"credits_used": -5}, "id": "task-unified-odd"}
    sandbox.fail(Fault("refuse", method="GET", status=200, body=odd, times=None))
    for _ in range(3):
        ended = await session.read("task-unified-odd")
        assert ended.usage.credits_used is None
    assert [(event.task_id, event.numbers) for event in heard] == [
        ("task-unified-odd", ("usage.credits_used=-5",))
    ]
    assert [getattr(each, "action", "") for each in caplog.records].count("odd_numbers") == 1


def test_a_newer_word_for_the_end_is_an_end() -> None:
    """`succeeded`, with all done and the links there, completes every kind of wait."""

    async def work(server: polling.Service, poller: Poller) -> None:
        task = server.accept(LIFE, LIFE)

        def newer(task_id: str, at: float) -> dict[str, Any]:
            value = server._view(task_id)
            if value["status"] != "completed":
                return {**value, "status": "rendering"}
            return {**value, "status": "succeeded", "progress": 100}

        answering(server, newer)
        updates = [update async for update in poller.updates(task.id, known=task)]
        assert [update.status for update in updates][1:] == ["rendering", "completed"]
        assert (await poller.wait_completed(task.id)).results
        assert now() < LIFE + 20.0

    simulated(work)


@pytest.mark.parametrize(
    ("word", "seconds"), [("finalizing", 60.0), ("succeeded", 60.0), ("processing", 3600.0)]
)
def test_a_word_that_stays_for_long_is_told_once(
    word: str, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for ever in silence: the log has the word, and what is known with it."""

    async def work(server: polling.Service, poller: Poller) -> None:
        tasks = [server.accept(2 * seconds, LIFE) for _ in range(3)]
        other = {"status": word, "progress": 97}
        answering(
            server,
            lambda task_id, at: (
                server._view(task_id) if at >= 2 * seconds else {**server._view(task_id), **other}
            ),
        )
        await asyncio.gather(*(poller.wait(task.id, known=task) for task in tasks))

    simulated(work)
    told = [each.getMessage() for each in caplog.records]
    assert len(told) == 1
    assert f"has been '{word}' at 97 for " in told[0]
    assert ("newer" in told[0]) is (word != "processing")


OBJECTS = st.dictionaries(st.sampled_from(NAMES), JSON)


@given(st.lists(OBJECTS, min_size=1, max_size=3), st.sampled_from(["processing", "completed", "x"]))
def test_any_json_object_as_a_task_ends_no_wait_and_harms_no_other(
    objects: list[dict[str, Any]], status: str
) -> None:
    """Whatever the fields of some tasks are: no error, no long step, and the others are served."""

    async def work(server: polling.Service, poller: Poller) -> None:
        odd = {server.accept(LIFE, LIFE).id: fields for fields in objects}
        others = [server.accept(LIFE, LIFE) for _ in range(3)]

        def strange(task_id: str, at: float) -> dict[str, Any]:
            value = server._view(task_id)
            if task_id not in odd or at > 2 * LIFE:
                return value
            return {**value, "status": status, **odd[task_id], "id": task_id}

        def is_task(value: dict[str, Any]) -> bool:
            return bool(value["status"]) and isinstance(value["status"], str)

        answering(
            server,
            lambda task_id, at: value if is_task(value := strange(task_id, at)) else None,
        )
        began = time.thread_time()
        ends = await asyncio.gather(*(poller.wait(task.id, seen=True) for task in others))
        assert {task.status for task in ends} == {"completed"}
        assert now() < 2 * LIFE
        for task in await asyncio.gather(*(poller.wait(task_id, seen=True) for task_id in odd)):
            repr(task)
        assert time.thread_time() - began < 2.0

    simulated(work)


def test_the_longest_answer_is_read_in_no_time() -> None:
    """Fifty tasks with as much as an answer may hold cost little more than their JSON does."""
    link = "https://files.example.com/" + "x" * 100
    flood = {
        "status": "completed",
        "results": [link] * 600,
        "result_data": [{"video_url": f"{link}{number}"} for number in range(300)],
        "error": {"message": "y" * 20_000, "code": ["z"] * 1000},
        "usage": {"credits_used": "9" * 5000},
    }
    body = json.dumps({"data": [{"id": f"t{number}", **flood} for number in range(50)]}).encode()
    assert 7_000_000 < len(body) < 8 * 1024**2
    values = wire.decode_task_objects(Answer(200, {}, body))
    began = time.thread_time()
    json.loads(body)
    parsed = time.thread_time()
    for value in values.values():
        assert wire.has_ended(value)
        repr(wire.task_from(value).results)
    # Coverage makes it four times as long; what grows with the square is thousands of times.
    assert time.thread_time() - parsed < 30 * (parsed - began)
