"""The key's daily limit: a run waits until it resets and says so, or stops with the true reason."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from happyhorse_async import ImageToVideo, InsufficientCreditsError, RetryPolicy
from happyhorse_async._account import RefusalDetails
from happyhorse_async._dispatcher import Events
from happyhorse_async.batch import JobState, WaitingForReset, _daily_limit
from happyhorse_async.sandbox import Account, Fault, Sandbox
from tests.conftest import open_session

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
QUICK = RetryPolicy(attempts=2, first_pause=0.01, longest_pause=0.02)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
PAGE = "https://example.com/limits"


def rows(count: int) -> list[ImageToVideo]:
    """Make requests, each unlike the others; each costs 22.848 credits."""
    return [
        ImageToVideo(f"https://example.com/{n}.png", seed=n, duration=3)
        for n in range(1, count + 1)
    ]


class Night:
    """A clock of this machine that only moves when the service's does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(_daily_limit, "time", lambda: self.now)
        monkeypatch.setattr(_daily_limit, "LONGEST_SLEEP", 0.01)

    def pass_by(self, sandbox: Sandbox, seconds: float) -> None:
        """Let time pass on both sides."""
        sandbox.advance(seconds)
        self.now += seconds


@pytest.fixture
def night(monkeypatch: pytest.MonkeyPatch) -> Night:
    """A clock for waiting."""
    return Night(monkeypatch)


async def test_a_run_waits_until_the_limit_resets(tmp_path: Path, night: Night) -> None:
    """Two of five videos a day: the run says until when it waits, each time once for all its jobs,
    and goes on by itself on the next day and the one after, however few tries a job has.
    """
    account = Account(key="sk-night-0001", daily_credits=50)
    waits: list[WaitingForReset] = []
    refused = asyncio.Event()

    def wait(event: WaitingForReset) -> None:
        waits.append(event)
        refused.set()

    async with (
        Sandbox(
            video="stub", speed=1000, task_seconds=1, accounts=[account], start=NOON
        ) as sandbox,
        open_session(sandbox) as session,
        session.batch(tmp_path, retry=QUICK) as batch,
    ):
        session.subscribe(wait, WaitingForReset)
        outcomes = batch.run(rows(5))
        for day in range(3):
            for _ in range(1 if day == 2 else 2):
                assert (await anext(outcomes)).ok
            if day < 2:
                await refused.wait()
                refused.clear()
                night.pass_by(sandbox, waits[-1].until.timestamp() - night.now + 1)
        assert [outcome async for outcome in outcomes] == []
        totals = await batch.totals()
        assert (sandbox.paid, totals.reserved, len(waits)) == (5, 0, 2)
    first, second = (event.until.timestamp() for event in waits)
    assert 22 * 3600 < second - first < 26 * 3600
    assert all(event.error.details is not None for event in waits)  # type: ignore[attr-defined]


async def test_a_reset_that_comes_late_costs_minutes_and_no_day(night: Night) -> None:
    """A refusal right after the reset is asked about again every five minutes, for an hour. Once
    something was accepted, the next refusal is the new day's.
    """
    told: list[float] = []
    events = Events()
    events.subscribe(lambda event: told.append(event.until.timestamp()), WaitingForReset)

    async def pause(seconds: float) -> bool:
        return False

    limit = _daily_limit.DailyLimit(events, pause)

    def meet(moment: float) -> float:
        night.now = moment
        details = RefusalDetails(as_of=datetime.fromtimestamp(moment, UTC), reset_timezone="UTC")
        limit.met(InsufficientCreditsError("spent", status=402, details=details))
        return told[-1]

    midnight = NOON + 12 * 3600
    assert meet(NOON) == meet(NOON + 3600) == pytest.approx(midnight, abs=3)
    asked = midnight
    while asked < midnight + 3600:
        asked = meet(asked + 3)
        assert asked <= night.now + 300
    assert meet(asked + 3) == pytest.approx(midnight + 86_400, abs=3), "it is believed at last"
    limit.accepted()
    assert meet(midnight + 86_400 + 60) == pytest.approx(midnight + 2 * 86_400, abs=3)


async def test_without_waiting_the_run_stops_with_the_reason(tmp_path: Path) -> None:
    """wait_for_reset=False: what fitted into the day is made, the rest is new, and the error says
    until when.
    """
    account = Account(key="sk-night-0001", daily_credits=50, action_url=PAGE)
    async with Sandbox(
        video="stub", speed=1000, task_seconds=1, accounts=[account], start=NOON
    ) as sandbox:
        async with (
            open_session(sandbox) as session,
            session.batch(tmp_path, retry=QUICK, wait_for_reset=False) as batch,
        ):
            with pytest.raises(InsufficientCreditsError) as stopped:
                _ = [outcome async for outcome in batch.run(rows(5))]
            totals = await batch.totals()
        assert totals.states == {JobState.SAVED: 2, JobState.NEW: 3}
        assert (totals.reserved, sandbox.paid) == (0, 2)
    assert "2026-03-02 00:00 UTC" in (stopped.value.next_step or "")
    assert PAGE in (stopped.value.next_step or "")


async def test_a_stop_ends_the_wait(tmp_path: Path, night: Night) -> None:
    """A run that waits for the next day ends at once when it is stopped; nothing is lost."""
    account = Account(key="sk-night-0001", daily_credits=50)
    async with Sandbox(
        video="stub", speed=1000, task_seconds=1, accounts=[account], start=NOON
    ) as sandbox:
        async with (
            open_session(sandbox) as session,
            session.batch(tmp_path, retry=QUICK) as batch,
        ):
            session.subscribe(lambda event: batch.stop(), WaitingForReset)
            outcomes = [outcome async for outcome in batch.run(rows(5))]
            totals = await batch.totals()
        assert [outcome.ok for outcome in outcomes] == [True] * 2
        assert totals.states == {JobState.SAVED: 2, JobState.NEW: 3}
        assert (totals.reserved, sandbox.paid) == (0, 2)


@pytest.mark.parametrize("status", [402, 403, 429])
async def test_whatever_status_the_limit_comes_with(
    tmp_path: Path, night: Night, status: int
) -> None:
    """The code decides, not the HTTP status; where no time zone is told, the run asks again at the
    next full hour.
    """
    error = {"code": "key_daily_quota_exhausted", "message": "no", "type": "quota"}
    waits: list[float] = []
    async with (
        Sandbox(video="stub", speed=1000, task_seconds=1) as sandbox,
        open_session(sandbox) as session,
    ):
        sandbox.fail(Fault("refuse", path=SUBMIT, status=status, body={"error": error}))

        def wait(event: WaitingForReset) -> None:
            waits.append(event.until.timestamp())
            night.pass_by(sandbox, event.until.timestamp() - night.now + 1)

        session.subscribe(wait, WaitingForReset)
        async with session.batch(tmp_path, retry=QUICK) as batch:
            assert [outcome.ok async for outcome in batch.run(rows(1))] == [True]
    assert [moment % 3600 for moment in waits] == [0]
