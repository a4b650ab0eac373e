"""Every fault over a real socket, and the rules that choose the requests that suffer it."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Fault, Sandbox
from happyhorse_async.sandbox._faults import ACTIONS, FaultPlan
from happyhorse_async.sandbox._scenarios import SCENARIOS
from tests.sandbox.conftest import Wire

pytestmark = pytest.mark.anyio
SUBMIT = "/v1/videos/generations"
KEY = "0123456789abcdef"


async def fails(call: Any) -> aiohttp.ClientError:
    """Await a call that must end without an answer."""
    with pytest.raises(aiohttp.ClientError) as caught:
        await call
    return caught.value


async def test_refuse_answers_as_told_and_accepts_nothing(wire: Wire) -> None:
    """Status, headers and a body of any kind are the fault's; nothing is paid."""
    wire.sandbox.fail(Fault("refuse", path=SUBMIT, status=429, headers={"Retry-After": "3"}))
    wire.sandbox.fail(Fault("refuse", path=SUBMIT, nth=2, status=418, body="tea"))
    wire.sandbox.fail(Fault("refuse", path=SUBMIT, nth=3, status=200, body=b""))
    first, second, third = [await wire.submit() for _ in range(3)]
    assert (first.status, first.headers["Retry-After"], first.error["code"]) == (
        429,
        "3",
        "rate_limit_exceeded",
    )
    assert (second.status, second.body) == (418, b"tea")
    assert (third.status, third.body) == (200, b"")
    assert wire.sandbox.paid == 0


async def test_a_refusal_without_a_body_is_the_hosts_own_error(wire: Wire) -> None:
    """Each host has its envelope, and the code is the one that goes with the status."""
    wire.sandbox.fail(Fault("refuse", status=503, times=2))
    assert (await wire.get("/v1/credits")).error["code"] == "service_unavailable"
    assert (await wire.files("GET", "/api/v1/files/quota")).json["success"] is False


async def test_drop_before_closes_without_accepting(wire: Wire) -> None:
    """The client sees a dropped connection, nothing is paid, and the log knows of no answer."""
    wire.sandbox.fail(Fault("drop-before"))
    await fails(wire.submit())
    assert wire.sandbox.paid == 0
    assert wire.sandbox.requests[-1].status is None


async def test_drop_after_accepts_and_closes_without_an_answer(wire: Wire) -> None:
    """The task is paid; the same key gets it back."""
    wire.sandbox.fail(Fault("drop-after"))
    await fails(wire.submit(idempotency_key=KEY))
    assert wire.sandbox.paid == 1
    assert (await wire.submit(idempotency_key=KEY)).json["id"] == wire.sandbox.tasks[0].id
    assert wire.sandbox.paid == 1


@pytest.mark.parametrize(("action", "paid"), [("hang-before", 0), ("hang-after", 1)])
async def test_hang_never_answers_and_ends_with_the_sandbox(
    http: aiohttp.ClientSession, action: str, paid: int
) -> None:
    """The request stays open until the sandbox closes;
    whether it was accepted is the difference.
    """
    async with Sandbox(video="stub", speed=0) as sandbox:
        sandbox.fail(Fault(action))
        hanging = asyncio.ensure_future(Wire(sandbox, http).submit())
        async with asyncio.timeout(100):
            while not sandbox.requests:
                await asyncio.sleep(0)
        assert not hanging.done()
    await fails(hanging)
    assert sandbox.paid == paid


async def test_hang_ends_after_its_seconds(wire: Wire) -> None:
    """With `seconds` the connection is closed then."""
    wire.sandbox.fail(Fault("hang-before", seconds=0.01))
    await fails(wire.submit())


@pytest.mark.parametrize("body", ["<h1>502</h1>", b"", '{"id": '])
async def test_answer_after_accepts_and_answers_something_else(wire: Wire, body: Any) -> None:
    """A page, nothing, or broken JSON, while the task is paid."""
    wire.sandbox.fail(Fault("answer-after", status=502, body=body))
    reply = await wire.submit()
    assert reply.status == 502
    assert reply.body == (body if isinstance(body, bytes) else body.encode())
    assert wire.sandbox.paid == 1


async def test_slow_and_slow_bytes_give_the_true_answer(wire: Wire) -> None:
    """Late and in pieces, but complete."""
    link = await wire.completed()
    true = (await wire.download(link)).body
    wire.sandbox.fail(Fault("slow", seconds=0.01))
    assert (await wire.download(link)).body == true
    wire.sandbox.fail(Fault("slow-bytes", path="/results/", chunk=1000, interval=0.001))
    reply = await wire.download(link)
    assert (reply.body, int(reply.headers["Content-Length"])) == (true, len(true))


@pytest.mark.parametrize("action", ["truncate", "reset"])
async def test_truncate_and_reset_stop_in_the_middle(wire: Wire, action: str) -> None:
    """The announced length is the true one; the connection ends after so many bytes."""
    link = await wire.completed()
    size = len((await wire.download(link)).body)
    wire.sandbox.fail(Fault(action, bytes=500))
    async with (
        aiohttp.ClientSession(headers={"User-Agent": "test"}) as http,
        http.get(link) as answer,
    ):
        assert int(answer.headers["Content-Length"]) == size
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_truncate_lets_a_range_fetch_the_rest(wire: Wire) -> None:
    """After the cut, Range and If-Range give exactly what is missing."""
    link = await wire.completed()
    whole = await wire.download(link)
    wire.sandbox.fail(Fault("truncate", fraction=0.5))
    await fails(wire.download(link))
    rest = await wire.download(link, Range="bytes=1000-", If_Range=whole.headers["ETag"])
    assert whole.body[:1000] + rest.body == whole.body


async def test_short_is_a_consistent_answer_of_a_video_that_is_not_whole(wire: Wire) -> None:
    """Content-Length fits what is sent, and the end of the video is missing."""
    link = await wire.completed()
    whole = (await wire.download(link)).body
    wire.sandbox.fail(Fault("short", bytes=700))
    reply = await wire.download(link)
    assert (reply.status, reply.body) == (200, whole[:700])


@pytest.mark.parametrize(
    ("action", "kind"),
    [("html", "text/html; charset=utf-8"), ("json", "application/json"), ("empty", "video/mp4")],
)
async def test_html_json_and_empty_come_with_status_200(wire: Wire, action: str, kind: str) -> None:
    """No video, though the status says that all is well."""
    link = await wire.completed()
    wire.sandbox.fail(Fault(action))
    reply = await wire.download(link)
    assert (reply.status, reply.headers["Content-Type"]) == (200, kind)
    assert b"ftyp" not in reply.body
    assert (reply.body == b"") == (action == "empty")


async def test_ignore_range_and_wrong_range(wire: Wire) -> None:
    """The whole body with 200, or 206 with a `Content-Range` that is not true."""
    link = await wire.completed()
    size = len((await wire.download(link)).body)
    wire.sandbox.fail(Fault("ignore-range"))
    whole = await wire.download(link, Range="bytes=10-19")
    assert (whole.status, len(whole.body)) == (200, size)
    wire.sandbox.fail(Fault("wrong-range"))
    wrong = await wire.download(link, Range="bytes=10-19")
    assert wrong.status == 206
    assert wrong.headers["Content-Range"] != f"bytes 10-19/{size}"


async def test_new_etag_changes_it_from_now_on(wire: Wire) -> None:
    """A resumed download with the old ETag gets the whole file."""
    link = await wire.completed()
    old = (await wire.download(link)).headers["ETag"]
    wire.sandbox.fail(Fault("new-etag"))
    assert (await wire.download(link, Range="bytes=10-", If_Range=old)).status == 200
    new = (await wire.download(link)).headers["ETag"]
    assert new != old
    assert (await wire.download(link)).headers["ETag"] == new


async def test_a_video_that_is_made_anew_has_other_bytes_and_another_etag(wire: Wire) -> None:
    """The length is the same; a part of the one and a part of the other are no video."""
    link = await wire.completed()
    old = await wire.download(link)
    wire.sandbox.fail(Fault("re-encode"))
    new, again = await wire.download(link), await wire.download(link)
    assert new.headers["ETag"] != old.headers["ETag"]
    assert len(new.body) == len(old.body)
    assert new.body != old.body
    assert again.body == new.body


async def test_without_validators_nobody_can_tell_a_video_again(wire: Wire) -> None:
    """Neither `ETag` nor `Last-Modified` is there, and the video is."""
    link = await wire.completed()
    wire.sandbox.fail(Fault("no-validators"))
    bare, usual = await wire.download(link), await wire.download(link)
    for name in ("ETag", "Last-Modified"):
        assert (name in bare.headers, name in usual.headers) == (False, True)
    assert bare.body == usual.body


async def test_corrupt_flips_bytes_and_nothing_else(wire: Wire) -> None:
    """The length is right, the content is not."""
    link = await wire.completed()
    true = (await wire.download(link)).body
    wire.sandbox.fail(Fault("corrupt"))
    broken = (await wire.download(link)).body
    assert len(broken) == len(true)
    assert 0 < sum(one != two for one, two in zip(true, broken, strict=True)) < 10


@pytest.mark.parametrize(("fresh", "links"), [(True, 2), (False, 1)])
async def test_expire_kills_a_link_and_may_give_another(
    wire: Wire, fresh: bool, links: int
) -> None:
    """The dead one stays dead; with `fresh` the next read of the task has one that works."""
    link = await wire.completed()
    wire.sandbox.fail(Fault("expire", status=410, fresh=fresh))
    assert (await wire.download(link)).status == 410
    assert (await wire.download(link)).status == 403
    again = wire.sandbox.tasks[0].results[0]
    assert len({link, again}) == links
    assert (await wire.download(again)).status == (200 if fresh else 403)


async def test_absent_leaves_ids_out_of_batch_answers(wire: Wire) -> None:
    """The named ids, or all of them, are missing once."""
    ids = [await wire.accepted() for _ in range(3)]
    wire.sandbox.fail(Fault("absent", ids=[ids[1]]))
    answers = [
        (await wire.post("/v1/tasks/batch", {"task_ids": ids})).json["data"] for _ in range(2)
    ]
    assert [[view["id"] for view in views] for views in answers] == [[ids[0], ids[2]], ids]
    wire.sandbox.fail(Fault("absent"))
    assert (await wire.post("/v1/tasks/batch", {"task_ids": ids})).json["data"] == []


async def test_unknown_status_and_fields_are_shown_and_change_nothing(wire: Wire) -> None:
    """One answer is strange, the next one is true again."""
    task_id = await wire.accepted()
    wire.sandbox.fail(Fault("unknown-status", status="dreaming"))
    wire.sandbox.fail(Fault("unknown-fields", fields={"mood": "fine"}))
    strange = await wire.task(task_id)
    assert (strange["status"], strange["mood"]) == ("dreaming", "fine")
    true = await wire.task(task_id)
    assert true["status"] == "pending"
    assert {**true, "mood": "fine", "status": "dreaming"} == strange


async def test_skew_moves_timestamps_and_the_date(wire: Wire) -> None:
    """The service's clock is wrong by an hour, in the body and in `Date`."""
    task_id = await wire.accepted()
    true = await wire.get(f"/v1/tasks/{task_id}")
    wire.sandbox.fail(Fault("skew", seconds=3600))
    skewed = await wire.get(f"/v1/tasks/{task_id}")
    dates = [parsedate_to_datetime(reply.headers["Date"]) for reply in (true, skewed)]
    assert (dates[1] - dates[0]).total_seconds() == 3600
    assert skewed.json["created"] - true.json["created"] == 3600


async def test_fail_task_can_keep_the_charge(wire: Wire) -> None:
    """`refund=False` is the failure that was charged all the same."""
    wire.sandbox.fail(Fault("fail-task", code="service_error", refund=False))
    task_id = await wire.accepted(duration=3)
    wire.sandbox.advance(2400)
    view = await wire.task(task_id)
    assert (view["status"], view["billing"]["charged_credits"]) == ("failed", 22.848)


async def test_undecided_answers_paid_outcome_unknown_until_it_is_decided(wire: Wire) -> None:
    """The first answer is lost; the key is undecided for a while; then it gives the one paid task
    back.
    """
    wire.sandbox.fail(Fault("undecided", seconds=30))
    await fails(wire.submit(idempotency_key=KEY))
    wire.sandbox.advance(29)
    reply = await wire.submit(idempotency_key=KEY)
    assert (reply.status, reply.error["code"]) == (409, "paid_outcome_unknown")
    wire.sandbox.advance(1)
    assert (await wire.submit(idempotency_key=KEY)).headers["idempotency-replayed"] == "true"
    assert wire.sandbox.paid == 1


async def test_clear_faults_and_fired(wire: Wire) -> None:
    """`fail` gives the fault back, `fired` counts its victims, `clear_faults` ends it."""
    fault = wire.sandbox.fail(Fault("refuse", status=503, times=None))
    assert [(await wire.submit()).status for _ in range(2)] == [503, 503]
    assert wire.sandbox.fired(fault) == 2
    wire.sandbox.clear_faults()
    assert (await wire.submit()).status == 200


async def test_control_paths_and_the_page_never_suffer(wire: Wire) -> None:
    """A sandbox whose every request fails can still be steered and watched."""
    wire.sandbox.fail(Fault("drop-before", times=None))
    assert (await wire.get("/sandbox/state")).status == 200
    assert (await wire.get("/")).status == 200
    assert wire.sandbox.requests == []


def struck(fault: Fault, requests: list[tuple[str, str]]) -> list[int]:
    """Return which of the requests, counted from 1, suffer a fault."""
    plan = FaultPlan()
    plan.add(fault)
    return [number for number, request in enumerate(requests, 1) if plan.strike(*request)]


READS = [("GET", "/v1/tasks/a")] * 6


@pytest.mark.parametrize(
    ("conditions", "victims"),
    [
        ({}, [1]),
        ({"times": 3}, [1, 2, 3]),
        ({"times": None}, [1, 2, 3, 4, 5, 6]),
        ({"nth": 4}, [4]),
        ({"nth": {2, 5}}, [2, 5]),
        ({"nth": [2, 5], "times": 1}, [2]),
        ({"after": 2}, [3]),
        ({"after": 2, "nth": 2}, [4]),
        ({"after": 4, "times": None}, [5, 6]),
        ({"probability": 0.0}, []),
        ({"probability": 1.0}, [1, 2, 3, 4, 5, 6]),
        ({"probability": 1.0, "times": 2}, [1, 2]),
        ({"method": "get"}, [1]),
        ({"method": "POST"}, []),
        ({"path": "/v1/tasks"}, [1]),
        ({"path": "/v1/*/a"}, [1]),
        ({"path": "/v1/videos"}, []),
    ],
)
def test_conditions_choose_the_victims(conditions: dict[str, Any], victims: list[int]) -> None:
    """Method, prefix or glob, position, number, chance: each narrows down, and they combine."""
    assert struck(Fault("refuse", **conditions), READS) == victims


async def test_a_spell_lasts_for_a_while_and_may_begin_again(wire: Wire) -> None:
    """Once one request suffers, all that match do until so many sandbox seconds are over."""
    wire.sandbox.fail(Fault("refuse", path="/v1/credits", status=401, nth=[2, 4], lasting=60))
    told = []
    for seconds in (0, 0, 30, 29, 1, 0, 30):
        wire.sandbox.advance(seconds)
        told.append((await wire.get("/v1/credits")).status)
    assert told == [200, 401, 401, 401, 200, 401, 401]
    assert (await wire.get("/v1/models")).status == 200


def test_chance_is_seeded() -> None:
    """The same seed strikes the same requests, another one others."""
    many = READS * 20
    strikes = [struck(Fault("refuse", probability=0.5, seed=seed), many) for seed in (1, 1, 2)]
    assert strikes[0] == strikes[1] != strikes[2]
    assert 30 < len(strikes[0]) < 90


def test_a_fault_checks_itself() -> None:
    """An unknown action and an impossible probability are errors that say what is possible."""
    with pytest.raises(ValueError, match="no such fault: 'explode'; there are absent, "):
        Fault("explode")
    with pytest.raises(ValueError, match="refuse takes body, headers, status, not stauts"):
        Fault("refuse", stauts=503)
    with pytest.raises(ValueError, match="no-callback takes no details, not seconds"):
        Fault("no-callback", seconds=1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Fault("refuse", probability=2)
    assert all(Fault(action).action == action for action in ACTIONS)


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_scenario_is_a_bad_day_that_a_stubborn_client_survives(
    http: aiohttp.ClientSession, name: str
) -> None:
    """Eight tasks with a key each are submitted and fetched by trying again, and none is paid
    twice.
    """
    async with Sandbox(video="stub", speed=0) as sandbox:
        wire = Wire(sandbox, http)
        sandbox.scenario(name)
        for number in range(8):
            accepted = await stubborn(
                wire, lambda key=f"key-{number:016}": wire.submit(idempotency_key=key), "id"
            )
            sandbox.finish(accepted["id"])
        for task in sandbox.tasks:
            await stubborn_download(wire, task.id)
        assert sandbox.paid == 8


async def stubborn(wire: Wire, call: Any, field: str) -> dict[str, Any]:
    """Repeat a call, a few seconds later each time, until its answer has a field."""
    for _ in range(50):
        try:
            reply = await call()
        except aiohttp.ClientError:
            continue
        if reply.status == 200 and reply.body[:1] == b"{" and field in reply.json:
            return dict(reply.json)
        wire.sandbox.advance(4)
    raise AssertionError("the scenario is too bad")


async def stubborn_download(wire: Wire, task_id: str) -> None:
    """Read the task and its link until the whole video has come."""
    for _ in range(50):
        view = await stubborn(wire, lambda: wire.get(f"/v1/tasks/{task_id}"), "results")
        try:
            reply = await wire.download(view["results"][0])
        except aiohttp.ClientError:
            continue
        if reply.status == 200 and reply.headers["Content-Type"] == "video/mp4":
            return
        wire.sandbox.advance(4)
    raise AssertionError("the scenario is too bad")


def test_an_unknown_scenario_is_an_error_that_names_the_known_ones() -> None:
    """The message lists them."""
    with Sandbox(video="stub") as sandbox, pytest.raises(ValueError, match="there are 429-storm, "):
        sandbox.scenario("earthquake")
