"""Very many submissions at once begin in slices: no turn of the event loop is long."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from happyhorse_async import HappyHorseError, Limits, SessionClosedError
from happyhorse_async._submitter.gate import AHEAD, SLICE, Entrance, Gate
from happyhorse_async.sandbox import Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

LINK = "https://example.com/frame.png"


async def test_a_turn_of_the_loop_lets_in_one_slice(anyio_backend: str) -> None:
    """Of thousands, each turn lets in one slice, in the order in which they came; those that are
    cancelled meanwhile take nobody's place.
    """
    entrance, turn, order = Entrance(lambda: False), 0, list[tuple[int, int]]()

    async def begin(number: int) -> None:
        if (waiting := entrance.turn()) is not None:
            await waiting
        order.append((turn, number))

    tasks = [asyncio.create_task(begin(number)) for number in range(3000)]
    for _ in range(100):
        await asyncio.sleep(0)
        turn += 1
        if turn == 5:
            for task in tasks[1000:2000]:
                task.cancel()
    await asyncio.wait(tasks)
    assert [number for _, number in order] == [*range(1000), *range(2000, 3000)]
    slices = Counter(turn for turn, _ in order)
    assert set(slices.values()) == {SLICE}
    assert entrance.turn() is None, "a single one enters at once"


async def test_a_crowded_gate_keeps_the_entrance_shut(anyio_backend: str) -> None:
    """Nobody enters while the gate is crowded, nor is anybody asked for; with room, all enter."""
    crowded = True
    entrance = Entrance(lambda: crowded)
    turns = [entrance.turn() for _ in range(3)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(turn is None or turn.done() for turn in turns)
    crowded = False
    entrance.serve()
    await asyncio.gather(*(turn for turn in turns if turn is not None))


async def test_a_crowd_gets_through_a_gate_that_serves_one_at_a_time(anyio_backend: str) -> None:
    """However the gate is left, by an answer or by a cancellation, the next ones enter."""
    limits = Limits(max_submissions=1)
    gate, served = Gate(limits, on_full=lambda: None), 0

    async def one() -> None:
        nonlocal served
        if (waiting := gate.entrance.turn()) is not None:
            await waiting
        if not gate.try_enter():
            await gate.enter()
        await asyncio.sleep(0)
        gate.leave()
        gate.release_place()
        served += 1

    tasks = [asyncio.create_task(one()) for _ in range(3 * AHEAD)]
    for _ in range(2 * AHEAD // SLICE):
        await asyncio.sleep(0)
    assert AHEAD <= len(gate._singles.line) < AHEAD + SLICE, "the others wait at the entrance"
    begun = [task for task in tasks if not task.done()][1:AHEAD]
    for task in begun:
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
    assert served == 3 * AHEAD - len(begun)


async def test_many_begin_in_slices_and_all_get_their_task(sandbox: Sandbox) -> None:
    """500 calls at once on one session: at no moment have more begun since the last turn than a
    slice, and all succeed.
    """
    async with open_session(sandbox) as session:
        entrance, most = session._open().submitter._gate.entrance, 0
        calls = [asyncio.create_task(session.submit(LINK)) for _ in range(500)]
        while not all(call.done() for call in calls):
            await asyncio.sleep(0)
            most = max(most, entrance._begun)
        assert len({call.result().id for call in calls}) == 500 == sandbox.paid
        assert most == SLICE


async def test_those_who_wait_for_their_slice_are_turned_away_by_the_end(sandbox: Sandbox) -> None:
    """A session that closes leaves none of them waiting for ever."""
    session = open_session(sandbox)
    await session.__aenter__()
    calls = [asyncio.create_task(session.submit(LINK)) for _ in range(2000)]
    await asyncio.sleep(0)
    await session.aclose()
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
    turned_away = [result for result in results if isinstance(result, SessionClosedError)]
    assert len(turned_away) > 1000
    assert all(error.charged == "no" for error in turned_away)
    known = [result for result in results if not isinstance(result, BaseException)]
    assert len(known) == sandbox.paid
    assert not [
        error
        for error in results
        if isinstance(error, HappyHorseError) and error not in turned_away
    ]
