"""How fast tasks are read when the service lets through less than the user allows."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from happyhorse_async import Polling, RetryPolicy, Session
from happyhorse_async._poller.plan import ReadBudget
from happyhorse_async.errors import APIStatusError, InternalServerError, RateLimitError
from happyhorse_async.sandbox import Fault, Sandbox
from tests.poller.test_waiting import submitted

ANSWERED = 0.07
"""Seconds until an answer is there."""


def read_for(
    budget: ReadBudget, seconds: float, most: int, retry_after: float | None
) -> tuple[int, int]:
    """Read whenever the budget allows it, against so many reads within any second; return how many
    were let in, and how many were refused.
    """
    now, let_in, refused = 0.0, 0, 0
    window: deque[float] = deque()
    on_wire: deque[tuple[float, bool]] = deque()
    while now < seconds:
        answer = on_wire[0][0] + ANSWERED if on_wire else float("inf")
        now = max(now, min(answer, budget.next()))
        if now >= answer:
            asked, good = on_wire.popleft()
            if good:
                budget.answered(asked, now)
            else:
                error = RateLimitError("429", status=429, retry_after=retry_after)
                assert not budget.failed(error, asked, now)
            continue
        budget.spend(now)
        while window and window[0] <= now - 1:
            window.popleft()
        good = len(window) < most
        if good:
            window.append(now)
        let_in, refused = let_in + good, refused + (not good)
        on_wire.append((now, good))
    return let_in, refused


@pytest.mark.parametrize("retry_after", [1.0, None])
@pytest.mark.parametrize("most", [5, 10])
def test_a_limit_on_reads_is_found_and_kept(most: int, retry_after: float | None) -> None:
    """Fifteen a second are the user's, fewer the service's: after the burst of the beginning, most
    of those are used, and few reads are refused.
    """
    early, whole = (
        read_for(ReadBudget(Polling(max_reads_per_minute=900), RetryPolicy()), *how)
        for how in ((30.0, most, retry_after), (300.0, most, retry_after))
    )
    assert whole[0] - early[0] > 0.85 * most * 270
    assert whole[1] - early[1] < 0.03 * whole[0]


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [(401, "unauthorized", True), (421, "misdirected", False), (400, "model_unavailable", False)],
)
def test_waiters_are_told_of_what_stays_refused(status: int, code: str, told: bool) -> None:
    """Five refusals in a row are the service's word, but none that asks to be tried again."""
    budget = ReadBudget(Polling(), RetryPolicy())
    error = APIStatusError("no", status=status, code=code, own_body=True)
    assert any(budget.failed(error, float(n), float(n)) for n in range(10)) is told


def test_without_a_refusal_the_users_own_rate_counts() -> None:
    """Other failures are no limit: their answers slow nothing down but by the pauses of old."""
    budget = ReadBudget(Polling(max_reads_per_minute=600), RetryPolicy())
    for number in range(400):
        budget.spend(float(number) / 100)
        if number % 2:
            budget.failed(InternalServerError("500", status=500), number / 100, number / 100)
        budget.answered(number / 100, number / 100)
    spacing = budget.next()
    budget.spend(spacing)
    assert budget.next() - spacing == pytest.approx(0.15)


@pytest.mark.anyio
async def test_refused_reads_end_no_wait(sandbox: Sandbox, session: Session) -> None:
    """Refusals between good reads, over a socket: each task is seen to end."""
    tasks = await submitted(session, 30)
    refusal = Fault(
        "refuse",
        method="POST",
        path="/v1/tasks/batch",
        status=429,
        body="",
        headers={"Retry-After": "0"},
        times=1,
    )
    waits = [asyncio.ensure_future(task.wait()) for task in tasks]
    sandbox.fail(refusal)
    sandbox.finish()
    assert len(await asyncio.gather(*waits)) == 30
