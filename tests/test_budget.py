"""What a budget admits."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import (
    Context,
    Decimal,
    FloatOperation,
    Inexact,
    InvalidOperation,
    getcontext,
    localcontext,
)
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from happyhorse_async import (
    Budget,
    BudgetExceededError,
    HappyHorseError,
    ImageToVideo,
    RetryPolicy,
    Session,
    Task,
    TaskStatus,
    Usage,
)
from happyhorse_async._budget import DEARNESS, BudgetBook
from happyhorse_async._concurrency import Background
from happyhorse_async._dispatcher import Events
from happyhorse_async._models import Billing
from happyhorse_async.events import BudgetChanged
from happyhorse_async.sandbox import Fault, Sandbox
from tests.conftest import QUICK_POLLING, QUICK_RETRY, open_session
from tests.hostile_service import HostileService

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
        ("no", "38.08", "0")
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
    """A completed task costs what was reported, a failed and refunded one nothing;
    the events tell.
    """
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
                billing=Billing(refund_status="completed", charged_credits=Decimal(12)),
            ),
            "12",
        ),
        (
            task(
                TaskStatus.FAILED,
                billing=Billing(
                    charge_status="released",
                    refund_status="completed",
                    refund_scope="account_balance",
                    reserved_credits=Decimal(12),
                    refunded_credits=Decimal(12),
                    refunded_at=datetime(2026, 1, 2, tzinfo=UTC),
                ),
            ),
            "0",
        ),
        (task(TaskStatus.COMPLETED, used="0"), "40"),
        (task(TaskStatus.COMPLETED, used="0", billing=Billing(charge_status="charged")), "0"),
        (task(TaskStatus.COMPLETED, used="50", billing=Billing(charge_status="reserved")), "50"),
        (task(TaskStatus.FAILED, billing=Billing(charge_status="reserved")), "40"),
        (task(TaskStatus.FAILED, billing=Billing(refund_status="pending")), "40"),
        (task(TaskStatus.FAILED, billing=Billing(charge_status="unknown")), "0"),
        (
            task(
                TaskStatus.FAILED,
                billing=Billing(
                    charge_status="released",
                    refund_status="completed",
                    refund_scope="account_balance",
                    reserved_credits=Decimal(12),
                    refunded_credits=Decimal(5),
                    refunded_at=datetime(2026, 1, 2, tzinfo=UTC),
                ),
            ),
            "40",
        ),
        (task(TaskStatus.CANCELLED), "0"),
    ],
)
def test_the_charge_of_an_ended_task(ended: Task, spent: str) -> None:
    """A settled charge counts, also that of a failed task; without one a video costs its estimate
    and a failure nothing, unless money is still held for it.
    """
    book = BudgetBook(Budget(credits=100), events=Events())
    book.reserve("a-key", Decimal(40))
    book.settle("a-key", ended)
    assert (book.spent, book.reserved) == (Decimal(spent), 0)


def test_a_replay_gives_its_reservation_back_unless_the_key_was_drawn_here() -> None:
    """A key of the caller's own may have been paid by an earlier process. One that was drawn here
    cannot, so the service's word frees nothing.
    """
    book = BudgetBook(Budget(credits=100), events=Events())
    book.reserve("given", PRICE)
    book.replayed("given")
    book.reserve("drawn", PRICE, drawn=True)
    book.replayed("drawn")
    assert book.reserved == PRICE


def test_the_same_key_twice_is_one_reservation() -> None:
    """Two submissions with one key hold one reservation, until both have let go of it."""
    book = BudgetBook(Budget(credits=40), events=Events())
    book.reserve("one-key", PRICE)
    book.reserve("one-key", PRICE)
    assert book.reserved == PRICE
    book.free("one-key")
    assert book.reserved == PRICE
    book.free("one-key")
    assert book.reserved == 0


def test_a_dearer_charge_raises_all_reservations() -> None:
    """A task that cost ten times its estimate: what is under way counts tenfold at once, and so
    does every new one, until the estimates know of the price.
    """
    book = BudgetBook(Budget(credits=1000), events=Events())
    for number in range(3):
        book.reserve(f"key-{number}", Decimal(10))
    book.settle("key-0", task(TaskStatus.COMPLETED, used="100"))
    assert (book.spent, book.reserved, book.left) == (100, 200, 700)
    with pytest.raises(BudgetExceededError, match="10 times their estimates") as caught:
        book.reserve("large", Decimal(71))
    assert (caught.value.needed, caught.value.left) == ("710", "700")
    book.settle("key-1", task(TaskStatus.COMPLETED, used="10"))
    assert book.reserved == 100, "it was estimated before prices rose, and says nothing of now"
    book.reserve("newer", Decimal(50))
    book.settle("newer", task(TaskStatus.COMPLETED, used="50"))
    assert (book.reserved, book.spent) == (10, 160), "the estimates have caught up"


UNTRUE = [Decimal(text) for text in ("-1000", "-0.01", "NaN", "-Infinity", "Infinity", "1e305")]


@pytest.mark.parametrize("told", UNTRUE)
def test_a_charge_that_cannot_be_true_frees_nothing(told: Decimal) -> None:
    """Below zero, beyond all sense, or no number: the estimate counts."""
    book = BudgetBook(Budget(credits=100), events=Events())
    for usage, billing in (
        (Usage(credits_used=told), None),
        (Usage(), Billing(charge_status="charged", charged_credits=told)),
    ):
        book.reserve("a-key", Decimal(40))
        book.settle(
            "a-key", Task(id="t", status=TaskStatus.COMPLETED, usage=usage, billing=billing)
        )
    assert (book.spent, book.reserved) == (80, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("settled", [True, False])
async def test_an_estimate_stays_reserved_until_the_charge_is_settled(settled: bool) -> None:
    """A video with a charge of 0 that is still pending frees nothing. It is read again until the
    charge is settled; if it never is, the estimate was spent.
    """
    pending = task(TaskStatus.COMPLETED, used="0", billing=Billing(charge_status="pending"))
    final = task(TaskStatus.COMPLETED, used="31", billing=Billing(charge_status="charged"))
    answers: list[Task | HappyHorseError] = [pending, HappyHorseError("not now"), pending]
    answers.append(final if settled else pending)
    reads: list[str] = []

    async def read(task_id: str) -> Task:
        reads.append(task_id)
        answer = answers[len(reads) - 1]
        if isinstance(answer, HappyHorseError):
            raise answer
        return answer

    done = asyncio.Event()
    events, background = Events(), Background()
    events.subscribe(lambda change: done.set() if change.spent else None, BudgetChanged)
    book = BudgetBook(
        Budget(credits=100), events=events, read=read, background=background, pauses=[0.001] * 4
    )
    book.reserve("a-key", Decimal(40))
    book.settle("a-key", pending)
    book.settle("a-key", pending)
    assert (book.reserved, book.spent) == (40, 0)
    await done.wait()
    assert (book.reserved, book.spent) == (0, 31 if settled else 40)
    assert reads == ["task-unified-1"] * 4
    await background.aclose()


@pytest.mark.anyio
async def test_closing_ends_the_wait_for_a_charge() -> None:
    """A session that closes waits for no charge, and one that is closed begins no such wait."""
    pending = task(TaskStatus.COMPLETED, used="0")

    async def read(task_id: str) -> Task:
        return pending

    background = Background()
    book = BudgetBook(Budget(credits=100), events=Events(), read=read, background=background)
    book.reserve("a-key", Decimal(40))
    book.settle("a-key", pending)
    await background.aclose()
    assert (book.reserved, book.spent) == (40, 0)
    book.reserve("b-key", Decimal(30))
    book.settle("b-key", pending)
    assert (book.reserved, book.spent) == (40, 30)


@pytest.mark.anyio
@pytest.mark.parametrize("most", [10**27, 10**28, 1e300, "1e5000"])
async def test_a_budget_without_bounds_is_one(most: float | str) -> None:
    """Whoever means "no limit" may write any number: it is told of, and nothing breaks."""
    async with (
        Sandbox() as sandbox,
        open_session(sandbox, budget=Budget(credits=most)) as session,
    ):
        changes: list[BudgetChanged] = []
        session.subscribe(changes.append, BudgetChanged)
        await session.submit(LINK)
    assert changes[0].reserved > 0
    assert changes[0].left <= Decimal(str(most))
    assert sandbox.paid == 1


@pytest.mark.anyio
async def test_amounts_are_exact_whatever_a_program_has_set_for_its_decimals(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A precision of three digits would round prices, and a trap would end paid work. Listeners
    are called under the program's own settings all the same.
    """
    sandbox.speed = 1000.0
    changes: list[tuple[Decimal, int]] = []
    requests = [ImageToVideo(LINK, seed=1)]
    with localcontext(Context(prec=3, traps=[Inexact, FloatOperation, InvalidOperation])):
        async with open_session(sandbox, budget=Budget(credits="1000.0001")) as session:
            session.subscribe(
                lambda change: changes.append((change.left, getcontext().prec)), BudgetChanged
            )
            estimate = await session.estimate(ImageToVideo(LINK))
            await (await session.submit(LINK)).wait()
            left = book_of(session).left
            async with session.batch(tmp_path) as batch:
                assert [outcome.ok async for outcome in batch.run(requests)] == [True]
                totals = await batch.totals()
    assert (estimate.credits, estimate.usd) == (PRICE, Decimal("0.56"))
    assert changes[0] == (Decimal("1000.0001") - PRICE, 3)
    assert left == Decimal("1000.0001") - PRICE
    assert (totals.spent, totals.reserved) == (PRICE, 0)


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
            spent += held.pop(key, 0)
            holders.pop(key, None)
        assert (book.reserved, book.spent) == (sum(held.values()), spent)
        assert book.reserved + book.spent <= cap


RISE = 40
"""The price rises after so many tasks."""


def true_charge(number: int) -> Decimal:
    """Return what the n-th task of the attack really costs: some a quarter, later all tenfold."""
    if number > RISE:
        return 10 * PRICE
    return PRICE if number % 3 else PRICE / 4


def shown(number: int, reads: int) -> dict[str, Any]:
    """Return what the n-th task says about money: every fifth late, every seventh a lie."""
    if number % 5 == 0 and reads < 3:
        return {
            "usage": {"credits_used": 0},
            "billing": {"charge_status": "pending", "refund_scope": "account_balance"},
        }
    if number % 7 == 0 and number <= RISE:
        return {"usage": {"credits_used": -1000}}
    return {"usage": {"credits_used": str(true_charge(number))}}


@pytest.mark.anyio
async def test_a_budget_under_attack() -> None:
    """200 callers, cheap tasks at first, then a price that rises tenfold; negative charges, claims
    of replays, and charges that are settled late. What was spent is never above the budget and
    what was in flight when the new price could first be known, and nothing stays reserved.
    """
    async with (
        HostileService(shown, replayed=lambda number: number % 2 == 0) as service,
        Session(
            "a-key-of-this-test",
            base_url=service.url,
            files_url=service.url,
            budget=Budget(credits=2000),
            polling=QUICK_POLLING,
            retry=QUICK_RETRY,
        ) as session,
    ):
        book = book_of(session)
        book._pauses = (0.01,) * 5
        changed = [asyncio.Event()]
        in_flight: list[int] = []

        def look(change: BudgetChanged) -> None:
            if book._dearness.factor > DEARNESS and not in_flight:
                in_flight.append(len(book._reserved) + 1)
            changed.pop().set()
            changed.append(asyncio.Event())

        async def caller() -> None:
            while True:
                try:
                    task = await session.submit(LINK)
                except BudgetExceededError:
                    if not book.reserved:
                        return
                    await changed[0].wait()
                else:
                    await task.wait()

        session.subscribe(look, BudgetChanged)
        await asyncio.gather(*(caller() for _ in range(200)))
        assert book.reserved == 0
        assert service.paid > RISE
        spent = sum(true_charge(number) for number in range(1, service.paid + 1))
        assert spent <= 2000 + in_flight[0] * 10 * PRICE
        assert book.left is not None
        assert book.left < 10 * PRICE
