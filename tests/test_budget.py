"""What a budget admits."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import (
    Budget,
    BudgetExceededError,
    ImageToVideo,
    RetryPolicy,
    Session,
    Task,
    TaskStatus,
    Usage,
)
from happyhorse_async._budget import BudgetBook
from happyhorse_async._models import Billing
from happyhorse_async.events import BudgetChanged, Events
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import open_session

SUBMIT = "/v1/videos/generations"
LINK = "https://example.com/frame.png"
KEY = "a-key-of-my-own-0001"
PRICE = Decimal("38.08")
"""Credits of five seconds in 720p."""


def book_of(session: Session) -> BudgetBook:
    """Look into a session's book."""
    return session._open().budget


@pytest.mark.anyio
async def test_a_budget_of_n_tasks_admits_exactly_n_of_200_concurrent_callers(
    sandbox: Sandbox,
) -> None:
    """Of 200 callers at once, a budget for 37 tasks lets exactly 37 pay; the others are refused
    before anything is sent.
    """
    async with open_session(sandbox, budget=Budget(credits=str(37 * PRICE))) as session:
        results = await asyncio.gather(
            *(session.submit(LINK) for _ in range(200)), return_exceptions=True
        )
    refused = [result for result in results if isinstance(result, BudgetExceededError)]
    assert (sandbox.paid, len(refused)) == (37, 163)
    assert sandbox.count("POST", SUBMIT) == 37
    assert {(error.charged, error.needed, error.left) for error in refused} == {
        ("no", "38.08", "0.00")
    }


@pytest.mark.anyio
async def test_a_budget_holds_for_a_fan_out_and_its_faults(sandbox: Sandbox) -> None:
    """Lost answers, refusals and replays do not let more than the budget through."""
    sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT, probability=0.2))
    sandbox.fail(Fault("refuse", method="POST", path=SUBMIT, status=503, probability=0.2, seed=1))
    async with (
        open_session(sandbox, budget=Budget(credits=str(20 * PRICE))) as session,
        session.submit_many([ImageToVideo(LINK)] * 100) as submissions,
    ):
        accepted = [submission.task.id async for submission in submissions if submission.ok]
    assert sandbox.paid == 20 == len(set(accepted))


@pytest.mark.anyio
async def test_what_was_not_charged_is_free_again(sandbox: Sandbox) -> None:
    """A refused submission, a bad file, and a cancelled caller whose request has not left give
    their credits back.
    """
    async with open_session(sandbox, budget=Budget(credits=str(PRICE))) as session:
        sandbox.fail(Fault("refuse", method="POST", path=SUBMIT, status=400))
        refused = await asyncio.gather(session.submit(LINK), return_exceptions=True)
        missing = await asyncio.gather(session.submit("no/such/file.png"), return_exceptions=True)
        assert [type(error).__name__ for error in (*refused, *missing)] == [
            "BadRequestError",
            "InvalidRequestError",
        ]
        assert book_of(session).left == PRICE
        await session.submit(LINK)
        with pytest.raises(BudgetExceededError):
            await session.submit(LINK)


@pytest.mark.anyio
async def test_an_unknown_outcome_keeps_its_credits_until_the_same_key_tells(
    sandbox: Sandbox,
) -> None:
    """What may have been charged stays reserved; asking again with the key uses the same credits,
    not more.
    """
    async with open_session(
        sandbox, budget=Budget(credits=str(PRICE)), retry=RetryPolicy(replays=0, first_pause=0)
    ) as session:
        sandbox.fail(Fault("drop-before", method="POST", path=SUBMIT))
        (error,) = await asyncio.gather(session.submit(LINK), return_exceptions=True)
        assert book_of(session).left == 0
        task = await session.submit(LINK, idempotency_key=error.idempotency_key)
        assert sandbox.task(task.id)
        assert book_of(session).left == 0


@pytest.mark.anyio
async def test_ended_tasks_settle_with_what_the_service_reports(sandbox: Sandbox) -> None:
    """A completed task costs what was reported, a failed and refunded one nothing; the events tell."""
    async with open_session(sandbox, budget=Budget(credits=100)) as session:
        changes: list[BudgetChanged] = []
        session.subscribe(changes.append, BudgetChanged)
        good, bad = await session.submit(LINK), await session.submit(LINK)
        assert (book_of(session).reserved, book_of(session).spent) == (2 * PRICE, 0)
        sandbox.end(good.id, "completed")
        sandbox.end(bad.id, "failed", error_code="service_error")
        await asyncio.gather(good.wait(), bad.wait(), return_exceptions=True)
        assert (book_of(session).reserved, book_of(session).spent) == (0, PRICE)
        assert (changes[-1].reserved, changes[-1].spent, changes[-1].left) == (
            0,
            PRICE,
            100 - PRICE,
        )


@pytest.mark.anyio
async def test_a_replay_is_counted_once_also_after_its_task_has_ended(sandbox: Sandbox) -> None:
    """The same key again, while its task runs and when it has ended, takes nothing more from the
    budget.
    """
    async with open_session(sandbox, budget=Budget(credits=100)) as session:
        first = await session.submit(LINK, idempotency_key=KEY)
        await session.submit(LINK, idempotency_key=KEY)
        assert (book_of(session).reserved, book_of(session).spent) == (PRICE, 0)
        sandbox.end(first.id, "completed")
        await first.wait()
        await session.submit(LINK, idempotency_key=KEY)
        assert (book_of(session).reserved, book_of(session).spent) == (0, PRICE)
    assert sandbox.paid == 1


@pytest.mark.anyio
async def test_a_lost_answer_that_is_replayed_stays_counted(sandbox: Sandbox) -> None:
    """A replay that only fetches the answer of its own first try is what was paid."""
    sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT))
    async with open_session(sandbox, budget=Budget(credits=100)) as session:
        await session.submit(LINK)
        assert (book_of(session).reserved, sandbox.paid) == (PRICE, 1)


def task(status: TaskStatus, *, used: str | None = None, billing: Billing | None = None) -> Task:
    """Make a task that has ended."""
    return Task(
        id="task-unified-1",
        status=status,
        usage=Usage(credits_used=Decimal(used) if used else None),
        billing=billing,
    )


@pytest.mark.parametrize(
    ("ended", "spent"),
    [
        (task(TaskStatus.COMPLETED, used="31.5"), "31.5"),
        (task(TaskStatus.COMPLETED), "40"),
        (task(TaskStatus.COMPLETED, billing=Billing(charged_credits=Decimal(7))), "7"),
        (task(TaskStatus.FAILED), "0"),
        (
            task(
                TaskStatus.FAILED,
                billing=Billing(charge_status="charged", charged_credits=Decimal(12)),
            ),
            "12",
        ),
        (task(TaskStatus.FAILED, billing=Billing(charge_status="charged")), "40"),
        (
            task(
                TaskStatus.FAILED,
                billing=Billing(refund_status="refunded", charged_credits=Decimal(12)),
            ),
            "0",
        ),
        (task(TaskStatus.CANCELLED), "0"),
    ],
)
def test_the_charge_of_an_ended_task(ended: Task, spent: str) -> None:
    """A reported charge counts, also that of a failed task; without one a video costs its estimate
    and a failure nothing.
    """
    book = BudgetBook(Budget(credits=100), events=Events())
    book.reserve("a-key", Decimal(40))
    book.settle("a-key", ended)
    assert (book.spent, book.reserved) == (Decimal(spent), 0)


def test_a_replay_of_a_settled_key_costs_nothing_more() -> None:
    """The service gives the old task for the old key: what it has cost is counted once."""
    book = BudgetBook(Budget(credits=50), events=Events())
    ended = Task(id="t", status=TaskStatus.COMPLETED, usage=Usage(credits_used=PRICE))
    for _ in range(3):
        book.reserve("one-key-0123456789", PRICE)
        book.settle("one-key-0123456789", ended)
    assert (book.spent, book.reserved) == (PRICE, 0)


def test_without_a_budget_nothing_is_kept() -> None:
    """No budget, no book: nothing is refused, and nothing is remembered."""
    book = BudgetBook(None, events=Events())
    book.reserve("a-key", Decimal(10**9))
    assert (book.limited, book.left, book.reserved) == (False, None, 0)


@given(
    cap=st.integers(0, 500),
    moves=st.lists(
        st.tuples(
            st.sampled_from(["reserve", "free", "settle"]), st.integers(0, 5), st.integers(1, 100)
        ),
        max_size=60,
    ),
)
def test_reserved_and_spent_never_pass_the_budget(
    cap: int, moves: list[tuple[str, int, int]]
) -> None:
    """Whatever is reserved, freed and settled, in any order: what is promised and spent stays
    within the budget, and adds up.
    """
    book = BudgetBook(Budget(credits=cap), events=Events())
    held: dict[str, int] = {}
    holders: dict[str, int] = {}
    settled: set[str] = set()
    spent = 0
    for move, number, amount in moves:
        key = f"key-{number}"
        if move == "reserve":
            try:
                book.reserve(key, Decimal(amount))
            except BudgetExceededError:
                assert key not in held
                assert amount > cap - sum(held.values()) - spent
            else:
                if key not in settled:  # the replay of a key that is paid for already
                    held.setdefault(key, amount)
                    holders[key] = holders.get(key, 0) + 1
        elif move == "free":
            book.free(key)
            if key in held:
                holders[key] -= 1
                if not holders[key]:
                    del held[key], holders[key]
        else:
            book.settle(key, task(TaskStatus.COMPLETED))
            settled |= held.keys() & {key}
            spent += held.pop(key, 0)
            holders.pop(key, None)
        assert (book.reserved, book.spent) == (sum(held.values()), spent)
        assert book.reserved + book.spent <= cap
