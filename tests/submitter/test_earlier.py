"""Keys that an earlier process sent: looked for before they are sent again,
and never paid twice.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import attrs
import pytest
from aiohttp import web

from happyhorse_async import (
    IdempotencyConflictError,
    ImageToVideo,
    RetryPolicy,
    Session,
    SubmissionOutcomeUnknownError,
)
from happyhorse_async._submitter import Earlier, in_flight, reconcile
from happyhorse_async._submitter.shared import Acceptance
from happyhorse_async.events import Retrying
from happyhorse_async.sandbox import Fault, Features, Sandbox
from tests.batch.support import until
from tests.conftest import PHOTOS, open_session
from tests.submitter import virtual

pytestmark = pytest.mark.anyio

SUBMIT = "/v1/videos/generations"
REQUEST = ImageToVideo("https://example.com/frame.png")
KEY = "a-key-of-my-own-0001"
ONCE = RetryPolicy(replays=0, first_pause=0.001)
QUICK = RetryPolicy(first_pause=0.001, longest_pause=0.002)


def sandbox_with(**features: Any) -> Sandbox:
    """A sandbox that lacks what is not promised."""
    return Sandbox(video="stub", speed=0, features=Features(**features))


def lists(sandbox: Sandbox) -> int:
    """Count how often the list was read."""
    return sum(record.method == "GET" and record.path == "/v1/tasks" for record in sandbox.requests)


async def lost(sandbox: Sandbox, action: str = "drop-after", keys: tuple[str, ...] = (KEY,)) -> int:
    """Send keys from another session, which loses every response and then dies; return how many
    requests there were by then.
    """
    sandbox.fail(Fault(action, method="POST", path=SUBMIT, times=None))
    async with open_session(sandbox, retry=ONCE) as session:
        for key in keys:
            with pytest.raises(SubmissionOutcomeUnknownError):
                await session.submit(REQUEST, idempotency_key=key)
    sandbox.clear_faults()
    return len(sandbox.requests)


def since(sandbox: Sandbox, before: int) -> list[int]:
    """Return the statuses with which submissions were answered since `before` requests."""
    later = sandbox.requests[before:]
    return [record.status for record in later if record.path == SUBMIT]


async def again(
    session: Session, key: str = KEY, earlier: Earlier | bool = True, request: Any = REQUEST
) -> Acceptance:
    """Submit a key that an earlier process may have sent."""
    submitter = session._open().submitter
    return await submitter.submit(request, idempotency_key=key, resent=earlier)


@pytest.mark.parametrize("integer_codes", [False, True])
async def test_a_service_that_keeps_keys_gives_the_task_back(integer_codes: bool) -> None:
    """The list has a task that fits; the service says that it knows the key; the key is sent again,
    and nothing is paid for it.
    """
    async with sandbox_with(integer_codes=integer_codes) as sandbox:
        before = await lost(sandbox)
        async with open_session(sandbox, retry=QUICK) as session:
            accepted = await again(session)
        assert (accepted.task.id, accepted.replayed) == (sandbox.tasks[0].id, True)
        assert since(sandbox, before) == [409, 200], "asked, and then sent again"
        assert sandbox.paid == 1


@pytest.mark.parametrize("listing", [True, False])
async def test_a_service_without_keys_is_not_paid_twice(listing: bool) -> None:
    """Where nothing shows that keys are kept, what the list shows (or what it cannot show) keeps
    the key from being sent again; the error has the candidates.
    """
    async with sandbox_with(idempotency=False, listing=listing) as sandbox:
        await lost(sandbox)
        async with open_session(sandbox, retry=QUICK) as session:
            for _ in range(2):
                with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
                    await again(session)
        assert unknown.value.charged == "unknown"
        assert unknown.value.idempotency_key == KEY
        assert unknown.value.candidates == ((sandbox.tasks[0].id,) if listing else ())
        assert ("row another id" in (unknown.value.next_step or "")) is listing
        assert sandbox.paid == 1


async def test_a_service_without_a_list_that_keeps_keys_gives_the_task_back() -> None:
    """It need not have a list for that: it is asked for the key."""
    async with sandbox_with(listing=False) as sandbox:
        await lost(sandbox)
        async with open_session(sandbox, retry=QUICK) as session:
            assert (await again(session)).task.id == sandbox.tasks[0].id
        assert sandbox.paid == 1


class Lax:
    """A service of the test's own that takes any body, an empty one too, and keeps no keys."""

    def __init__(self, *, aged: float, headers: dict[str, str] | None = None) -> None:
        self._aged = aged
        self._headers = headers
        self.tasks: list[dict[str, Any]] = []
        self.url = ""
        self.ready: Callable[[], bool] = lambda: True
        """Nothing is answered before this is so."""

    async def submitted(self, request: web.Request) -> web.Response:
        """Make a task of whatever came."""
        await request.read()
        await until(self.ready)
        task = {
            "id": f"task-unified-{len(self.tasks) + 1:06d}",
            "created": int(time.time() - self._aged),
            "model": "happyhorse-1.0-image-to-video",
            "status": "pending",
            "progress": 0,
        }
        self.tasks.append(task)
        return web.json_response(task, headers=self._headers)

    async def listed(self, request: web.Request) -> web.Response:
        """Show nothing, as a service without a list."""
        error = {"code": "not_found", "message": "no", "type": "invalid_request_error"}
        return web.json_response({"error": error}, status=404)

    async def __aenter__(self) -> Lax:
        app = web.Application()
        app.router.add_post(SUBMIT, self.submitted)
        app.router.add_get("/v1/tasks", self.listed)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()


@pytest.mark.parametrize(
    ("known", "headers"), [(False, None), (True, None), (False, {"idempotency-replayed": "false"})]
)
async def test_a_service_that_takes_anything_proves_nothing(
    known: bool, headers: dict[str, str] | None
) -> None:
    """It makes a task of the question itself: that proves no keys, is nobody's video, and the
    question is not put again, whoever else is in doubt.
    """
    async with Lax(aged=0, headers=headers) as service:
        session = Session("key", base_url=service.url, files_url=service.url, retry=QUICK)
        async with session:
            if known:
                await session.submit(REQUEST, idempotency_key="of-a-known-task-01")
            for key in (KEY, "a-key-of-my-own-0002"):
                with pytest.raises(SubmissionOutcomeUnknownError):
                    await again(session, key)
        assert len(service.tasks) == 1 + known, "one question, and never the request itself"


async def test_of_many_old_keys_one_question_is_paid_at_most() -> None:
    """Old keys are asked for themselves, one after the other: when the first question was taken for
    a request, the others are not put.
    """
    async with Lax(aged=0) as service:
        session = Session("key", base_url=service.url, files_url=service.url, retry=QUICK)
        earlier = Earlier(since=time.time() - 25 * 3600)
        keys = [f"a-key-of-my-own-{number:04}" for number in range(8)]
        async with session:
            under_way = session._open().submitter._in_flight
            service.ready = lambda: (
                bool(service.tasks)
                or (sum(sub.stage == "asking" for sub in under_way) == len(keys))
            )
            told = await asyncio.gather(
                *(again(session, key, earlier) for key in keys), return_exceptions=True
            )
        assert {type(one) for one in told} == {SubmissionOutcomeUnknownError}
        assert len(service.tasks) == 1


@pytest.mark.parametrize("code", [None, 1010, "blocked"])
async def test_a_conflict_of_a_firewall_proves_nothing(code: int | str | None) -> None:
    """A 409 that does not name the key's conflict may be anybody's: nothing is sent again."""
    blocked = {"message": "blocked", "type": "firewall"} | ({"code": code} if code else {})
    async with sandbox_with() as sandbox:
        before = await lost(sandbox)
        sandbox.fail(Fault("refuse", path=SUBMIT, status=409, body={"error": blocked}, times=None))
        async with open_session(sandbox, retry=QUICK) as session:
            with pytest.raises(SubmissionOutcomeUnknownError):
                await again(session)
        assert set(since(sandbox, before)) == {409}
        sent = [record for record in sandbox.requests[before:] if record.path == SUBMIT]
        assert not any(record.body for record in sent), "only questions, which are empty"
        assert sandbox.paid == 1


async def test_a_task_that_is_older_than_the_question_is_the_keys_own() -> None:
    """A service that looks at the key alone, and has no header for it, gives the old task back."""
    async with Lax(aged=600) as service:
        session = Session("key", base_url=service.url, files_url=service.url, retry=QUICK)
        async with session:
            assert (await again(session)).task.id == service.tasks[0]["id"]
        assert len(service.tasks) == 1


@pytest.mark.parametrize("keys", [True, False])
def test_what_the_list_does_not_show_is_sent(keys: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key whose request never arrived is sent again, to any service: when the session is a minute
    old, and the list still shows nothing.
    """

    async def work() -> None:
        async with sandbox_with(idempotency=keys) as sandbox:
            await lost(sandbox, "drop-before")
            looked = lists(sandbox)
            async with open_session(sandbox, retry=QUICK) as session:
                accepted = await again(session)
            assert [task.id for task in sandbox.tasks] == [accepted.task.id]
            assert lists(sandbox) - looked == 4, "twice at once, and twice a minute later"

    _, seconds = virtual.run(work(), monkeypatch)
    assert 60 <= seconds < 90


NOTHING = {"data": [], "total": 0, "page": 1, "page_size": 50}


def test_a_list_that_is_late_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process died a moment ago, and the list does not show its task yet: nothing is sent to a
    service without keys, and the task is found when the list shows it.
    """

    async def work() -> None:
        async with sandbox_with(idempotency=False) as sandbox:
            await lost(sandbox)
            sandbox.fail(
                Fault("refuse", method="GET", path="/v1/tasks", status=200, body=NOTHING, times=2)
            )
            async with open_session(sandbox, retry=QUICK) as session:
                with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
                    await again(session)
            assert unknown.value.candidates == (sandbox.tasks[0].id,)
            assert sandbox.paid == 1

    virtual.run(work(), monkeypatch)


def test_what_is_sent_once_more_is_fresh_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minute counts from the last sending of a key, and not from its first: a list that shows
    nothing lets it leave once a minute at most.
    """

    async def work() -> None:
        async with sandbox_with(idempotency=False) as sandbox:
            sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT, times=None))
            sandbox.fail(
                Fault(
                    "refuse", method="GET", path="/v1/tasks", status=200, body=NOTHING, times=None
                )
            )
            async with open_session(sandbox, retry=ONCE) as session:
                with pytest.raises(SubmissionOutcomeUnknownError):
                    await session.submit(REQUEST, idempotency_key=KEY)
                for seconds, paid in [(1, 1), (70, 2), (1, 2), (30, 2)]:
                    for _ in range(seconds):  # a second each, which the clock leaps over
                        await asyncio.sleep(1)
                    with pytest.raises(SubmissionOutcomeUnknownError):
                        await again(session)
                    assert sandbox.paid == paid

    virtual.run(work(), monkeypatch)


def test_a_session_that_closes_meanwhile_leaves_the_key_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever waits for the list to be old enough is told at once, and nothing is sent."""

    async def work() -> None:
        async with sandbox_with(idempotency=False) as sandbox:
            await lost(sandbox, "drop-before")
            async with open_session(sandbox, retry=ONCE) as session:
                waiting = asyncio.create_task(again(session))
                for _ in range(10):
                    await asyncio.sleep(1)
            with pytest.raises(SubmissionOutcomeUnknownError, match="may not show it yet"):
                await waiting
            assert sandbox.paid == 0

    virtual.run(work(), monkeypatch)


async def test_once_keys_are_known_to_be_kept_nothing_is_looked_for() -> None:
    """The first answer with the header proves it for the session: from then on keys are sent again
    at once.
    """
    keys = tuple(f"a-key-of-my-own-{number:04d}" for number in range(5))
    async with sandbox_with() as sandbox:
        await lost(sandbox, keys=keys)
        async with open_session(sandbox, retry=QUICK) as session:
            await again(session, keys[0])
            before = lists(sandbox)
            for key in keys[1:]:
                assert (await again(session, key)).replayed
            assert lists(sandbox) == before
        assert sandbox.paid == 5


@pytest.mark.parametrize("keys", [True, False])
async def test_many_in_doubt_share_what_is_read_and_asked(keys: bool) -> None:
    """Twelve at once: with keys one question is enough and all get their task, without none is
    sent, and each has asked once.
    """
    names = tuple(f"a-key-of-my-own-{number:04d}" for number in range(12))
    async with sandbox_with(idempotency=keys) as sandbox:
        before = await lost(sandbox, keys=names)
        looked = lists(sandbox)
        async with open_session(sandbox, retry=QUICK) as session:
            results = await asyncio.gather(
                *(again(session, name) for name in names), return_exceptions=True
            )
        assert sandbox.paid == 12
        assert since(sandbox, before) == ([409] + [200] * 12 if keys else [400] * 12)
        assert lists(sandbox) - looked <= 4
        for name, result in zip(names, results, strict=True):
            if keys:
                assert isinstance(result, Acceptance)
                assert sandbox.task(result.task.id).idempotency_key == name
            else:
                assert isinstance(result, SubmissionOutcomeUnknownError)
                assert set(result.candidates) == {task.id for task in sandbox.tasks}


async def test_tasks_of_others_and_older_ones_are_no_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the caller knows to be another request's, what was accepted before the key can have been
    sent, and what is of another shape keeps nothing from being sent.
    """
    # The sandbox's clock is set forward below, only to make a task old.
    monkeypatch.setattr(reconcile, "LARGEST_SKEW", timedelta(hours=1))
    monkeypatch.setattr(in_flight, "FRESH", 0.0)  # it left long ago
    async with sandbox_with(idempotency=False) as sandbox:
        async with open_session(sandbox) as other:
            await other.submit(REQUEST)
            sandbox.advance(600)
            claimed = (await other.submit(REQUEST)).id
            await other.submit(REQUEST.image, duration=9)
        async with open_session(sandbox, retry=QUICK) as session:
            earlier = Earlier(since=time.time(), claimed=lambda task_id: task_id == claimed)
            accepted = await again(session, earlier=earlier)
            assert accepted.task.id == sandbox.tasks[-1].id
            everything = Earlier(claimed=lambda task_id: task_id == claimed)
            with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
                await again(session, "another-key-0000001", everything)
            assert unknown.value.candidates == (sandbox.tasks[0].id,)
        assert sandbox.paid == 4


async def others(sandbox: Sandbox, count: int) -> None:
    """Let another program buy other videos from the same account."""
    async with open_session(sandbox) as program:
        other = ImageToVideo("https://example.com/other.png", duration=9)
        await asyncio.gather(*(program.submit(other) for _ in range(count)))


async def test_a_key_that_was_lost_late_in_a_long_session_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an earlier process sent was decided soon after this session began; what this session
    has sent may be newer, and a service without keys is not paid for it twice.
    """
    monkeypatch.setattr(in_flight, "LATEST", -3600.0)  # as if it had begun an hour ago
    async with (
        sandbox_with(idempotency=False) as sandbox,
        open_session(sandbox, retry=RetryPolicy(first_pause=0.001, replays=0)) as session,
    ):
        sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT))
        with pytest.raises(SubmissionOutcomeUnknownError):
            await session.submit(REQUEST, idempotency_key=KEY)
        with pytest.raises(SubmissionOutcomeUnknownError) as caught:
            await again(session, earlier=Earlier(by_user=True))
        assert caught.value.candidates == (sandbox.tasks[0].id,)
        assert sandbox.paid == 1


async def test_a_task_is_found_though_this_machines_clock_stood_still(sandbox: Sandbox) -> None:
    """The service's time when the submission left is remembered. Counted back from its time at the
    look, by a clock that has not seen ten minutes go by, the task would be older than it can be.
    """
    async with open_session(sandbox, retry=QUICK) as session:
        session.subscribe(lambda event: sandbox.advance(600), Retrying)
        before = await session.submit(REQUEST)
        sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT, times=None))
        with pytest.raises(SubmissionOutcomeUnknownError) as caught:
            await session.submit(REQUEST, idempotency_key=KEY)
    assert before.id not in caught.value.candidates
    assert caught.value.candidates == (sandbox.tasks[1].id,)


@pytest.mark.parametrize("batch", [True, False])
async def test_a_task_behind_many_others_is_found(batch: bool) -> None:
    """However many tasks the account has been given since, the one that it can be is a candidate,
    and a service without keys is not paid twice.
    """
    async with sandbox_with(idempotency=False, batch=batch) as sandbox:
        await lost(sandbox)
        [mine] = sandbox.tasks
        await others(sandbox, 110)
        paid = sandbox.paid
        async with open_session(sandbox, retry=QUICK) as session:
            with pytest.raises(SubmissionOutcomeUnknownError) as caught:
                await again(session, earlier=Earlier(since=time.time() - 60))
    assert mine.id in caught.value.candidates
    assert sandbox.paid == paid


async def test_a_noted_time_counts_only_while_the_clocks_agree() -> None:
    """A service whose clock has run ahead since the key was sent shows its task as long past: by
    the noted time alone it would be overlooked, and paid for twice.
    """
    async with sandbox_with(idempotency=False) as sandbox:
        sent = time.time()
        await lost(sandbox)
        sandbox.advance(3600)
        async with open_session(sandbox, retry=QUICK) as session:
            with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
                await again(session, earlier=Earlier(since=sent))
        assert unknown.value.candidates == (sandbox.tasks[0].id,)
        assert sandbox.paid == 1


@pytest.mark.parametrize("forgotten", [True, False])
async def test_no_newer_key_speaks_for_an_old_one(forgotten: bool) -> None:
    """Services that keep keys forget them, after a day for example. So of an old key it is asked
    whether the service has that very one still; else the list's word counts.
    """
    async with sandbox_with(key_seconds=86_400) as sandbox:
        await lost(sandbox)
        sandbox.advance(90_000 if forgotten else 80_000)
        async with open_session(sandbox, retry=QUICK) as session:
            session._open().submitter._shared.proof.shown = True
            asked = again(session, earlier=Earlier(since=time.time() - 25 * 3600))
            if forgotten:
                with pytest.raises(SubmissionOutcomeUnknownError, match="this idemp") as unknown:
                    await asked
                assert unknown.value.candidates == (sandbox.tasks[0].id,)
            else:
                assert (await asked).replayed
        assert sandbox.paid == 1


async def test_a_list_that_is_too_long_to_look_through_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task may stand behind the newest ones, all of which are known to be others'."""
    monkeypatch.setattr(reconcile, "MOST_PAGES", 1)
    async with sandbox_with(idempotency=False) as sandbox:
        sent = time.time()
        await lost(sandbox)
        mine = sandbox.tasks[0].id
        sandbox.advance(5)
        async with open_session(sandbox, retry=QUICK) as session:
            for seed in range(1, 52):
                await session.submit(REQUEST.image, seed=seed)
            earlier = Earlier(since=sent, claimed=lambda task_id: task_id != mine)
            with pytest.raises(SubmissionOutcomeUnknownError, match="beyond the newest") as unknown:
                await again(session, earlier=earlier)
        assert not unknown.value.retryable
        assert sandbox.paid == 52


@pytest.mark.parametrize("fault", ["shifted-pages", "oldest-first"])
async def test_a_list_in_another_order_or_with_a_page_twice_proves_nothing_before_its_end(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New tasks push those of the first page onto the second, or the newest come last: a task that
    was not seen may stand behind. Nothing is sent again by the word of such a list.
    """
    monkeypatch.setattr(in_flight, "FRESH", 0.0)
    async with sandbox_with(idempotency=False) as sandbox:
        async with open_session(sandbox) as session:
            for seed in range(100, 160):
                await session.submit(REQUEST.image, seed=seed)
        sandbox.advance(300)
        async with open_session(sandbox, retry=ONCE) as session:
            sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT))
            with pytest.raises(SubmissionOutcomeUnknownError):
                await session.submit(REQUEST, idempotency_key=KEY)
            for seed in range(26, 80):
                await session.submit(REQUEST.image, seed=seed)
            sandbox.fail(Fault(fault, times=None))
            with pytest.raises(SubmissionOutcomeUnknownError):
                await again(session)
        assert sandbox.paid == 60 + 55


async def test_at_the_users_word_the_service_is_asked_without_replays_too() -> None:
    """RetryPolicy(replays=0) sends nothing again by itself; Earlier(by_user=True) may."""
    async with sandbox_with() as sandbox:
        await lost(sandbox)
        async with open_session(sandbox, retry=ONCE) as session:
            accepted = await again(session, earlier=Earlier(by_user=True))
            assert (accepted.task.id, accepted.replayed) == (sandbox.tasks[0].id, True)
        assert sandbox.paid == 1


async def test_without_replays_nothing_is_asked_either() -> None:
    """RetryPolicy(replays=0): what may have been accepted is only looked for."""
    async with sandbox_with() as sandbox:
        await lost(sandbox)
        async with open_session(sandbox, retry=ONCE) as session:
            with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
                await again(session)
        assert unknown.value.candidates == (sandbox.tasks[0].id,)
        assert sandbox.count("POST", SUBMIT) == 1


async def test_a_gateways_page_does_not_answer_the_question() -> None:
    """An HTML 400 in between proves neither that the key is known nor that it is not: the service
    is asked again.
    """
    async with sandbox_with() as sandbox:
        await lost(sandbox)
        html = "<html>400 Bad Request</html>"
        sandbox.fail(Fault("refuse", method="POST", path=SUBMIT, status=400, body=html, times=2))
        async with open_session(sandbox, retry=QUICK) as session:
            assert (await again(session)).task.id == sandbox.tasks[0].id
        assert sandbox.paid == 1


async def test_a_service_that_looks_at_keys_alone_has_answered() -> None:
    """Whatever body comes with a known key, such a service gives its task back: that is taken."""
    async with sandbox_with() as sandbox:
        await lost(sandbox)
        body = {"id": sandbox.tasks[0].id, "status": "pending"}
        seen = {"idempotency-replayed": "true"}
        sandbox.fail(
            Fault("refuse", method="POST", path=SUBMIT, status=200, body=body, headers=seen)
        )
        async with open_session(sandbox, retry=QUICK) as session:
            accepted = await again(session)
        assert (accepted.task.id, accepted.replayed) == (sandbox.tasks[0].id, True)
        assert sandbox.count("POST", SUBMIT) == 2


async def test_a_task_that_is_given_for_another_key_is_only_a_proof() -> None:
    """A service that looks at keys alone is asked with a key whose task is known. It gives that
    task back, which shows that it keeps keys, and is no other key's.
    """
    async with sandbox_with() as sandbox:
        await lost(sandbox, keys=(KEY, "a-key-of-my-own-0002"))
        mine, other = sorted(sandbox.tasks, key=lambda task: task.idempotency_key != KEY)
        body = {"id": other.id, "status": "pending"}
        sandbox.fail(Fault("refuse", method="POST", path=SUBMIT, status=200, body=body))
        async with open_session(sandbox, retry=QUICK) as session:
            known = Earlier(known=("a-key-of-my-own-0002", other.id))
            assert (await again(session, earlier=known)).task.id == mine.id
        assert sandbox.paid == 2


async def test_a_caller_that_is_cancelled_before_anything_is_sent_again_is_let_go_at_once() -> None:
    """While the list is looked at, nothing of this process is at stake: no orphan, no waiting."""
    async with sandbox_with() as sandbox:
        await lost(sandbox)
        sandbox.fail(Fault("hang-before", method="GET", path="/v1/tasks", times=None))
        async with open_session(sandbox, retry=QUICK) as session:
            looked = lists(sandbox)
            caller = asyncio.create_task(again(session))
            while lists(sandbox) == looked:
                await anyio.lowlevel.checkpoint()
            caller.cancel()
            with anyio.fail_after(100), pytest.raises(asyncio.CancelledError):
                await caller
            assert session.orphans == []
        assert sandbox.count("POST", SUBMIT) == 1


# --- adoption -------------------------------------------------------------------------------------

SINGLE = RetryPolicy(replays=0, first_pause=0.001, adopt="single")


@pytest.fixture
def drop(sandbox: Sandbox) -> Fault:
    """Every response to a submission is lost."""
    return sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT, times=None))


async def test_by_default_no_task_is_taken_on_a_guess(sandbox: Sandbox, drop: Fault) -> None:
    """The list proves nothing: the lone task that fits is a candidate, not the submission's."""
    async with open_session(sandbox, retry=ONCE) as session:
        with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
            await session.submit(REQUEST)
    assert unknown.value.candidates == (sandbox.tasks[0].id,)


async def test_the_single_one_is_taken_when_the_caller_asked_for_it(
    sandbox: Sandbox, drop: Fault
) -> None:
    """RetryPolicy(adopt="single") takes it, also for a key that an earlier process sent."""
    async with open_session(sandbox, retry=SINGLE) as session:
        task = await session.submit(REQUEST, idempotency_key=KEY)
        assert task.id == sandbox.tasks[0].id
    async with open_session(sandbox, retry=SINGLE) as session:
        assert (await again(session)).adopted
    assert sandbox.paid == 1


async def test_with_another_task_beside_it_nothing_is_taken(sandbox: Sandbox, drop: Fault) -> None:
    """Another program's task in the same time, of whatever shape, says that the single one that
    fits may be another program's too.
    """
    async with open_session(sandbox, retry=ONCE) as other:
        with pytest.raises(SubmissionOutcomeUnknownError):
            await other.submit(REQUEST.image, duration=9)
    async with open_session(sandbox, retry=SINGLE) as session:
        with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
            await session.submit(REQUEST)
    assert unknown.value.candidates == (sandbox.tasks[1].id,)


async def test_a_task_of_another_session_of_this_process_is_never_taken(sandbox: Sandbox) -> None:
    """One caller must not get another's video: neither a task that another session was given, nor
    one that another session's submission may become.
    """
    async with (
        open_session(sandbox, retry=SINGLE) as session,
        open_session(sandbox, retry=SINGLE) as other,
    ):
        stranger = await other.submit(REQUEST)
        sandbox.fail(Fault("drop-before", method="POST", path=SUBMIT))
        with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
            await session.submit(REQUEST)
        assert unknown.value.candidates == (stranger.id,)


async def test_while_another_submission_is_undecided_nothing_is_taken(sandbox: Sandbox) -> None:
    """A request that is still on its way, and one whose outcome stayed unknown, may be what a task
    belongs to.
    """
    async with open_session(sandbox, retry=SINGLE) as session:
        sandbox.fail(Fault("slow", method="POST", path=SUBMIT, seconds=0.3))
        slow = asyncio.create_task(session.submit(REQUEST))
        while not sandbox.paid:
            await anyio.lowlevel.checkpoint()
        sandbox.fail(Fault("drop-before", method="POST", path=SUBMIT))
        with pytest.raises(SubmissionOutcomeUnknownError):
            await session.submit(REQUEST)
        assert (await slow).id == sandbox.tasks[0].id
        sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT))
        with pytest.raises(SubmissionOutcomeUnknownError):
            await session.submit(REQUEST)
    assert sandbox.paid == 2


async def test_list_times_without_an_offset_decide_nothing() -> None:
    """The task's own time of acceptance counts, whatever time zone the list is written in."""
    async with sandbox_with() as sandbox:
        await lost(sandbox)
        item = {"id": sandbox.tasks[0].id, "status": "processing"}
        shown = {
            "data": [item | {"created_at": "1999-01-01T00:00:00"}],
            "total": 1,
            "page": 1,
            "page_size": 50,
        }
        sandbox.fail(
            Fault("refuse", method="GET", path="/v1/tasks", status=200, body=shown, times=None)
        )
        async with open_session(sandbox, retry=ONCE) as session:
            with pytest.raises(SubmissionOutcomeUnknownError) as unknown:
                await again(session, earlier=Earlier(since=time.time() - 3600))
            assert unknown.value.candidates == (sandbox.tasks[0].id,)
            sandbox.fail(Fault("drop-before", method="POST", path=SUBMIT))
            sandbox.advance(600)
            await session.credits()
            with pytest.raises(SubmissionOutcomeUnknownError) as later:
                await session.submit(REQUEST)
            assert later.value.candidates == (), "it was accepted before this request left"


# --- one id for two keys --------------------------------------------------------------------------


async def test_one_id_for_two_keys_is_an_error_for_the_second(sandbox: Sandbox) -> None:
    """A response that names another request's task is not taken, and not sent again: the second
    request's outcome is unknown.
    """
    async with open_session(sandbox) as session:
        first = await session.submit(REQUEST)
        body = {"id": first.id, "status": "pending"}
        sandbox.fail(Fault("refuse", method="POST", path=SUBMIT, status=200, body=body, times=None))
        with pytest.raises(SubmissionOutcomeUnknownError, match=first.id) as unknown:
            await session.submit(REQUEST, idempotency_key=KEY)
    assert (unknown.value.charged, unknown.value.idempotency_key) == ("unknown", KEY)
    assert sandbox.count("POST", SUBMIT) == 2


# --- replays leave on new connections -------------------------------------------------------------


async def test_a_replay_leaves_on_a_new_connection(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first sending may use an idle connection; what may have been accepted is sent again on a
    new one, and so is the question for a key.
    """
    async with open_session(sandbox, retry=QUICK) as session:
        api = session._open().api
        send, fresh = api.submit_once, list[bool]()

        async def noted(*arguments: Any, **how: Any) -> Any:
            fresh.append(how.get("fresh", False))
            return await send(*arguments, **how)

        monkeypatch.setattr(api, "submit_once", noted)
        sandbox.fail(Fault("refuse", method="POST", path=SUBMIT, status=429))
        sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT, after=1))
        await session.submit(REQUEST)
    assert fresh == [False, False, True]


async def test_an_old_key_stays_old_when_it_is_asked_for_again() -> None:
    """In doubt once, it is no younger: a second try in the session does not send it either."""
    async with sandbox_with(key_seconds=86_400, listing=False) as sandbox:
        await lost(sandbox)
        sandbox.advance(90_000)
        async with open_session(sandbox, retry=QUICK) as session:
            for _ in range(2):
                with pytest.raises(SubmissionOutcomeUnknownError):
                    await again(session, earlier=Earlier(since=time.time() - 25 * 3600))
                session._open().submitter._shared.proof.shown = True
        assert sandbox.paid == 1


async def test_a_key_that_has_grown_old_in_its_own_session_is_asked_for_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session may live for months: what it left in doubt half a day ago is not sent again unseen
    either.
    """
    monkeypatch.setattr(in_flight, "KEY_LIFE", -1.0)
    async with sandbox_with(key_seconds=86_400) as sandbox:
        fault = Fault("drop-after", method="POST", path=SUBMIT)
        async with open_session(sandbox, retry=attrs.evolve(QUICK, replays=0)) as session:
            sandbox.fail(fault)
            with pytest.raises(SubmissionOutcomeUnknownError):
                await session.submit(REQUEST, idempotency_key=KEY)
            sandbox.advance(90_000)
            with pytest.raises(SubmissionOutcomeUnknownError, match="this idempotency key still"):
                await session.submit(REQUEST, idempotency_key=KEY)
        assert sandbox.paid == 1


async def test_a_first_frame_that_is_uploaded_anew_is_said_to_be_another_request() -> None:
    """A local image has another link in another process, so its key conflicts. The error of the
    first one names the link with which the task is given back; that of the second says why.
    """
    image = PHOTOS / "cat.jpg"
    async with sandbox_with() as sandbox:
        sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT, times=None))
        async with open_session(sandbox, retry=QUICK) as session:
            with pytest.raises(SubmissionOutcomeUnknownError) as lost:
                await session.submit(image, idempotency_key=KEY)
        sandbox.clear_faults()
        async with open_session(sandbox, retry=QUICK) as session:
            with pytest.raises(IdempotencyConflictError) as refused:
                await session.submit(image, idempotency_key=KEY)
            assert "uploaded anew" in refused.value.next_step
            assert refused.value.charged == "unknown"
            (link,) = re.findall(r"http://\S+[^\s.]", lost.value.next_step)
            assert (await session.submit(link, idempotency_key=KEY)).id == sandbox.tasks[0].id
        assert sandbox.paid == 1


class Bed:
    """A machine that sleeps: its steady clock stands still then, and no other does."""

    def __init__(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sandbox, self._true, self._slept = sandbox, time.time, 0.0
        monkeypatch.setattr(time, "time", lambda: self._true() + self._slept)

    def sleep(self, seconds: float) -> None:
        """Sleep for so long, which takes no time here."""
        self._slept += seconds
        self._sandbox.advance(seconds)


@pytest.mark.parametrize("listing", [True, False])
async def test_a_machine_that_sleeps_amid_a_submission_sends_no_old_key(
    listing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response is lost, and the machine is closed for a day before the key goes out again: the
    service has forgotten it by then. It is not sent, and the task is named.
    """
    async with (
        sandbox_with(key_seconds=86_400, listing=listing) as sandbox,
        open_session(sandbox, retry=QUICK) as session,
    ):
        bed = Bed(sandbox, monkeypatch)
        session.subscribe(lambda event: bed.sleep(26 * 3600), Retrying)
        sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT))
        with pytest.raises(SubmissionOutcomeUnknownError) as caught:
            await session.submit(REQUEST, idempotency_key=KEY)
        (task,) = sandbox.tasks
        assert caught.value.candidates == ((task.id,) if listing else ())
        assert not caught.value.retryable  # it would stop a batch, and every later run of it


async def test_a_key_that_is_still_known_after_a_long_sleep_gives_its_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A service that keeps keys for longer says so when it is asked, and gives the task back."""
    async with sandbox_with() as sandbox, open_session(sandbox, retry=QUICK) as session:
        bed = Bed(sandbox, monkeypatch)
        session.subscribe(lambda event: bed.sleep(26 * 3600), Retrying)
        sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT))
        handle = await session.submit(REQUEST, idempotency_key=KEY)
        assert [task.id for task in sandbox.tasks] == [handle.id]


async def test_a_key_in_doubt_before_a_long_sleep_is_old_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a session left in doubt before the machine slept for a day is asked for first."""
    async with (
        sandbox_with(key_seconds=86_400) as sandbox,
        open_session(sandbox, retry=attrs.evolve(QUICK, replays=0)) as session,
    ):
        bed = Bed(sandbox, monkeypatch)
        sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT))
        with pytest.raises(SubmissionOutcomeUnknownError):
            await session.submit(REQUEST, idempotency_key=KEY)
        bed.sleep(26 * 3600)
        with pytest.raises(SubmissionOutcomeUnknownError, match="this idempotency key still"):
            await session.submit(REQUEST, idempotency_key=KEY)
        assert sandbox.paid == 1


async def test_a_machine_that_sleeps_while_a_permit_is_waited_for_sends_no_old_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several processes share a limit, and the next try waits for its place. When that comes the
    service has forgotten the key: it is not sent, and the task is named.
    """
    async with (
        sandbox_with(key_seconds=86_400) as sandbox,
        open_session(sandbox, retry=QUICK) as session,
    ):
        bed = Bed(sandbox, monkeypatch)

        async def permit() -> None:
            """Sleep before the second try."""
            if sandbox.tasks:
                bed.sleep(26 * 3600)

        session._open().submitter.ask_before_sending(permit)
        sandbox.fail(Fault("drop-after", method="POST", path=SUBMIT))
        with pytest.raises(SubmissionOutcomeUnknownError) as caught:
            await session.submit(REQUEST, idempotency_key=KEY)
        (task,) = sandbox.tasks
        assert caught.value.candidates == (task.id,)
