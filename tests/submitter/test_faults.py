"""What every fault costs, and what the caller is told."""

from __future__ import annotations

import pytest

from happyhorse_async import RetryPolicy
from happyhorse_async.sandbox import Features
from tests.submitter import faults

pytestmark = pytest.mark.anyio


async def test_the_table_of_faults_is_what_really_happens() -> None:
    """Run for real over sockets, every fault gives what the table says; whoever gets a task has
    paid for one, nobody for two.
    """
    outcomes = await faults.run_all()
    for outcome in outcomes:
        if outcome.task:
            assert (outcome.row.name, 1) == (outcome.row.name, outcome.paid)
        assert outcome.paid <= 1, outcome
        if outcome.charged == "no":
            assert (outcome.row.name, 0) == (outcome.row.name, outcome.paid)
    assert faults.TABLE.read_text() == faults.table(outcomes), (
        "run: python -m tests.submitter.faults"
    )


@pytest.mark.slow
async def test_charged_no_is_said_only_where_it_is_proven() -> None:
    """Every status, with the service's own body and a gateway's, to a first sending and to a
    replay, with and without keys: "no" is never said of what was paid, nor without a proof.
    """
    assert faults.CERTAINTY.read_text() == await faults.refuse_all(), (
        "run: python -m tests.submitter.faults"
    )


@pytest.mark.parametrize(
    "row",
    [row for row in faults.ROWS if row.fault is not None],
    ids=lambda row: f"{row.name}, {row.often}",
)
@pytest.mark.parametrize("listing", [True, False], ids=["with a list", "without"])
async def test_without_replays_nothing_is_paid_twice_even_where_the_key_is_ignored(
    row: faults.Row, listing: bool
) -> None:
    """A server that ignores idempotency keys is never paid twice for one request when the replay
    setting is 0, whatever goes wrong.
    """
    deaf = faults.attrs.evolve(row, features=Features(idempotency=False, listing=listing))
    retry = RetryPolicy(attempts=4, replays=0, first_pause=0.001, longest_pause=0.002)
    outcome = await faults.run(deaf, retry=retry)
    assert outcome.paid <= 1
    assert outcome.paid == 1 or not outcome.task
    assert outcome.paid == 0 or outcome.charged != "no", (
        "a payment that the caller is told did not happen"
    )
