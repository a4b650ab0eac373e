"""The real scheduler on a simulated clock: hours pass in a second, and what waiting costs is
counted.
"""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import polling, virtual
from happyhorse_async import Limits, Polling

AMPLE = {"polling": Polling(max_reads_per_minute=6000), "limits": Limits(max_reads=64)}


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("failing", [0.0, 0.1])
def test_every_task_is_seen_once(batches: bool, failing: float) -> None:
    """With and without batches, with and without failing reads, every wait ends, and every end is
    announced once.
    """
    load = polling.Load(
        "", tasks=300, batches=batches, failing=failing, estimate=polling.within(0.1), **AMPLE
    )
    assert virtual.run(polling.simulate(load)).seen == 300


def test_a_crowd_costs_few_requests() -> None:
    """2,000 tasks with honest progress stay within what is promised for 10,000."""
    found = virtual.run(polling.simulate(polling.Load("", tasks=2000, progress=True, **AMPLE)))
    assert found.requests <= 0.3
    assert found.reads <= 12
    assert found.delay <= 2.5


def test_a_lone_task_costs_few_requests() -> None:
    """Tasks that follow one another are seen with 10 requests each, within three seconds on
    average.
    """
    found = virtual.run(
        polling.simulate(polling.Load("", tasks=60, one_by_one=True, progress=True))
    )
    assert found.requests <= 10
    assert found.delay <= 3


def test_no_more_is_read_than_the_policy_allows() -> None:
    """The most reads a minute are kept, and everybody is seen all the same."""
    load = polling.Load("", tasks=2000, polling=Polling(max_reads_per_minute=60), limits=Limits())
    found = virtual.run(polling.simulate(load))
    assert found.seen == 2000
    minutes = (polling.LONGEST_LIFE + found.longest) / 60
    assert found.requests * 2000 <= 60 * minutes + 1


def test_the_loop_on_simulated_time_says_when_nothing_can_happen() -> None:
    """A wait for something that never comes is an error there, not a test that hangs."""

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="never happen"):
        virtual.run(never())
