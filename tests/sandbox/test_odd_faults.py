"""Answers that no reference promises: foreign pages, odd numbers and texts, strange bytes."""

from __future__ import annotations

import asyncio
import json
import math
import zlib
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from happyhorse_async.sandbox import Fault
from tests.sandbox.conftest import MODEL, Reply, Wire

pytestmark = pytest.mark.anyio
SUBMIT = "/v1/videos/generations"
KEY = "0123456789abcdef"


@pytest.mark.parametrize("status", [400, 403, 502, 504])
async def test_a_gateways_page_meets_only_the_replay(wire: Wire, status: int) -> None:
    """With `sending=2` the first sending is paid, the second sees HTML, the third the task."""
    wire.sandbox.fail(Fault("gateway-page", path=SUBMIT, sending=2, status=status))
    other = await wire.submit(idempotency_key="another-key-0123")
    replies = [await wire.submit(idempotency_key=KEY) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, status, 200]
    assert replies[1].body.startswith(b"<html>")
    assert replies[1].headers["Server"] == "gateway"
    assert replies[0].json["id"] == replies[2].json["id"] != other.json["id"]
    assert wire.sandbox.paid == 2


async def test_sendings_are_counted_before_the_fault_is_added(wire: Wire) -> None:
    """A page that is put up after the first sending still meets its replay, and no other key."""
    await wire.submit(idempotency_key=KEY)
    wire.sandbox.fail(Fault("gateway-page", sending=[2, 3], times=None))
    assert [(await wire.submit(idempotency_key=KEY)).status for _ in range(3)] == [502, 502, 200]
    assert (await wire.submit(idempotency_key="another-key-0123")).status == 200
    assert (await wire.submit()).status == 200


@pytest.mark.parametrize(
    "value", ["86400", "999999999", "-1", "0", "nan", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"]
)
async def test_retry_after_may_be_absurd(wire: Wire, value: str) -> None:
    """The header is sent as it was given, with a 429 or another status."""
    wire.sandbox.fail(Fault("retry-after", value=value))
    wire.sandbox.fail(Fault("retry-after", nth=2, value=value, status=503))
    replies = [await wire.get("/v1/credits") for _ in range(2)]
    assert [reply.status for reply in replies] == [429, 503]
    assert {reply.headers["Retry-After"] for reply in replies} == {value}


async def test_limits_may_be_told_that_are_none(wire: Wire) -> None:
    """The headers of a limit are as they were given, beside a true answer."""
    wire.sandbox.fail(Fault("odd-limits", remaining="-5", reset="x", prefix="X-RateLimit"))
    reply = await wire.get("/v1/credits")
    told = [reply.headers[f"X-RateLimit-{name}"] for name in ("Limit", "Remaining", "Reset")]
    assert (reply.status, told) == (200, ["0", "-5", "x"])


@pytest.mark.parametrize("value", [None, "", 0, [], {"a": 1}])
async def test_ids_and_results_may_be_anything(wire: Wire, value: Any) -> None:
    """The task is accepted and made all the same; other answers are true."""
    wire.sandbox.fail(Fault("odd-id", value=value))
    assert (await wire.submit()).json["id"] == value
    [task] = wire.sandbox.tasks
    wire.sandbox.finish()
    wire.sandbox.fail(Fault("odd-results", value=value))
    assert (await wire.task(task.id))["results"] == value
    assert (await wire.task(task.id))["results"] == task.results


async def test_faults_bear_what_others_have_made_of_an_answer(wire: Wire) -> None:
    """Several may befall one answer, which then has neither ids nor tasks."""
    for body in ({}, {"data": None}, {"data": [None, 7, {}]}, []):
        wire.sandbox.fail(Fault("answer-after", path="/v1/tasks", status=200, body=body))
        for action in ("other-task", "absent", "stale", "skew", "unknown-fields", "odd-results"):
            wire.sandbox.fail(Fault(action))
        reply = await wire.post("/v1/tasks/batch", {"task_ids": []})
        assert reply.status == 200
        wire.sandbox.clear_faults()
    for action in ("odd-id", "same-id", "undecided"):
        wire.sandbox.fail(Fault(action))
    with pytest.raises(aiohttp.ClientError):
        await wire.submit()
    assert wire.sandbox.paid == 1


def lenient(reply: Reply) -> Any:
    """Return JSON with every number as a float, however long."""
    return json.loads(reply.body, parse_int=float)


@pytest.mark.parametrize("value", [-1, 0, 1e305, "NaN", "1e999", "9" * 400, "-0.0000001"])
async def test_odd_numbers_stand_in_credits_progress_times_and_estimates(
    wire: Wire, value: Any
) -> None:
    """Every number of these fields is replaced, texts of amounts too, and the rest is true."""
    task_id = await wire.accepted()
    wire.sandbox.finish()
    wire.sandbox.fail(Fault("odd-number", value=value, times=None))
    expected = float(value)
    task = lenient(await wire.get(f"/v1/tasks/{task_id}"))
    credits_ = lenient(await wire.get("/v1/credits"))["data"]["user"]
    rule = lenient(await wire.get(f"/v1/catalog/pricing-rules/{MODEL}"))["model"]
    numbers = [
        task["progress"],
        task["created"],
        task["task_info"]["estimated_time"],
        task["usage"]["credits_used"],
        task["billing"]["charged_credits"],
        credits_["remaining_credits"],
        float(rule["components"][0]["rate"]["uc"]),
    ]
    assert all(number == expected or math.isnan(number + expected) for number in numbers)
    assert (task["status"], len(task["results"])) == ("completed", 1)


async def test_an_odd_number_stands_only_where_it_is_told_to(wire: Wire) -> None:
    """With `fields` the other numbers are true."""
    wire.sandbox.fail(Fault("odd-number", value="1e305", fields=["credits_reserved"]))
    view = (await wire.submit()).json
    assert (view["usage"]["credits_reserved"], view["progress"]) == (1e305, 0)


@pytest.mark.parametrize(("action", "mark"), [("surrogate", "\ud83d"), ("escapes", "\x1b[2J")])
async def test_texts_carry_what_no_terminal_and_no_file_should_see(
    wire: Wire, action: str, mark: str
) -> None:
    """The messages of errors and refusals begin with it, and are otherwise true."""
    wire.sandbox.fail(Fault(action, times=None))
    task_id = await wire.accepted()
    wire.sandbox.end(task_id, "failed", message="out of luck")
    failed = (await wire.task(task_id))["error"]
    refused = (await wire.submit(duration=99)).error
    assert mark in failed["message"]
    assert failed["message"].endswith("out of luck")
    assert mark in refused["message"]
    assert refused["code"] == "invalid_request"


async def test_the_answer_to_a_second_key_has_the_id_of_the_first(wire: Wire) -> None:
    """Both tasks are paid, and one id was told twice; another account's stays its own."""
    wire.sandbox.fail(Fault("same-id", nth=2))
    first = await wire.accepted(idempotency_key=KEY)
    assert await wire.accepted(idempotency_key="another-key-0123") == first
    assert wire.sandbox.paid == 2


async def test_surplus_bytes_follow_an_answer_on_the_idle_connection(wire: Wire) -> None:
    """The true answer is whole, and then a second one comes that nobody asked for."""
    wire.sandbox.fail(Fault("surplus-answer", status=408, body="late"))
    host, port = wire.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /v1/nothing HTTP/1.1\r\nHost: sandbox\r\n\r\n")
    async with asyncio.timeout(100):
        arrived = await reader.readuntil(b"\r\n\r\nlate")
    writer.close()
    assert arrived.startswith(b"HTTP/1.1 404")
    assert arrived.endswith(b"HTTP/1.1 408 Surplus\r\nContent-Length: 4\r\n\r\nlate")


async def test_long_headers_are_longer_than_usual_clients_take(wire: Wire) -> None:
    """Any answer can have one; a redirect's `Location` can be that long too."""
    link = await wire.completed()
    wire.sandbox.fail(Fault("long-headers", size=60_000, name="X-Trace"))
    sizes = {"max_line_size": 65_536, "max_field_size": 65_536}
    async with aiohttp.ClientSession(headers={"User-Agent": "test"}, **sizes) as http:
        async with http.get(link) as answer:
            assert len(answer.headers["X-Trace"]) == 60_000
        wire.sandbox.fail(Fault("redirect", to=f"{link}?hop=1&signature={'s' * 30_000}"))
        async with http.get(link) as answer:
            assert (answer.status, len(answer.history)) == (200, 1)


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15)])
async def test_a_body_is_compressed_though_nobody_asked(
    wire: Wire, encoding: str, wbits: int
) -> None:
    """It is the whole video whatever range was wanted, and decodes to the same bytes."""
    link = await wire.completed()
    true = (await wire.download(link)).body
    wire.sandbox.fail(Fault("compressed", encoding=encoding))
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        reply = await Wire(wire.sandbox, http).download(
            link, Range="bytes=100-", Accept_Encoding="identity"
        )
    assert (reply.status, reply.headers["Content-Encoding"]) == (200, encoding)
    assert zlib.decompress(reply.body, wbits) == true


@pytest.mark.parametrize("kind", ["newline", "nuls", "sector", "id3v1", "text"])
async def test_a_tail_follows_the_last_box(wire: Wire, kind: str) -> None:
    """The video is a prefix of what the host has, and ranges and digests are those of the whole."""
    true = (await wire.download(await wire.completed(seed=4))).body
    wire.sandbox.fail(Fault("tail", kind=kind))
    link = await wire.completed(seed=4)
    whole = await wire.download(link)
    assert whole.body.startswith(true)
    assert len(whole.body) > len(true)
    assert kind != "sector" or len(whole.body) % 4096 == 0
    rest = await wire.download(link, Range=f"bytes={len(true)}-", If_Range=whole.headers["ETag"])
    assert (rest.status, true + rest.body) == (206, whole.body)


async def test_a_whole_video_comes_under_another_label(wire: Wire) -> None:
    """The bytes are the video's, the label is a page's."""
    link = await wire.completed()
    true = (await wire.download(link)).body
    wire.sandbox.fail(Fault("label", content_type="text/html"))
    reply = await wire.download(link)
    assert (reply.body, reply.headers["Content-Type"]) == (true, "text/html")


async def test_a_link_can_be_a_plain_http_one_of_another_host(wire: Wire) -> None:
    """Every read shows it, and its path is still the file host's."""
    wire.sandbox.fail(Fault("http-link", to="http://videos.example.com"))
    link = await wire.completed()
    assert link.startswith("http://videos.example.com/results/")
    path = link.removeprefix("http://videos.example.com")
    assert (await wire.download(wire.sandbox.files_url + path)).status == 200


async def test_a_price_rises_under_way(wire: Wire) -> None:
    """From the struck submission on everything is dearer, the rule too; what runs is not."""
    rule = f"/v1/catalog/pricing-rules/{MODEL}"
    before = await wire.get(rule)
    wire.sandbox.fail(Fault("price", after=1, factor=10))
    ids = [await wire.accepted(duration=5) for _ in range(3)]
    assert [task.reserved for task in wire.sandbox.tasks] == [
        Decimal(c) for c in ("38.08", "380.8", "380.8")
    ]
    wire.sandbox.finish()
    used = [(await wire.task(task_id))["usage"]["credits_used"] for task_id in ids]
    assert used == [38.08, 380.8, 380.8]
    after = await wire.get(rule)
    assert after.json["model"]["components"][0]["rate"]["uc"] == "761600"
    assert after.headers["ETag"] != before.headers["ETag"]


async def test_a_price_can_rise_unpublished(wire: Wire) -> None:
    """The rule says the old one, and only charges tell the truth."""
    wire.sandbox.fail(Fault("price", factor=2, published=False))
    await wire.accepted(duration=5)
    rule = (await wire.get(f"/v1/catalog/pricing-rules/{MODEL}")).json
    assert rule["model"]["components"][0]["rate"]["uc"] == "76160"
    assert wire.sandbox.tasks[0].reserved == Decimal("76.16")


@pytest.mark.parametrize(("factor", "charged"), [(0, "0"), (2.5, "95.2")])
async def test_a_charge_is_not_what_was_reserved(wire: Wire, factor: float, charged: str) -> None:
    """It is settled at another price, and the account pays that."""
    wire.sandbox.fail(Fault("odd-charge", factor=factor))
    await wire.completed(duration=5)
    assert wire.sandbox.tasks[0].charged == Decimal(charged)


async def test_an_answer_may_come_under_another_status(wire: Wire) -> None:
    """The body is the true one, and the task is accepted."""
    wire.sandbox.fail(Fault("other-status", path=SUBMIT, status=409))
    reply = await wire.submit()
    assert (reply.status, reply.json["id"]) == (409, wire.sandbox.tasks[0].id)


async def test_a_read_may_be_answered_with_another_task(wire: Wire) -> None:
    """A single read gives the task before it, a query of many that one besides; the first task has
    none before it, and the list is not touched.
    """
    first, second = [await wire.accepted() for _ in range(2)]
    wire.sandbox.fail(Fault("other-task", times=None))
    told = [(await wire.get(f"/v1/tasks/{task_id}")).json["id"] for task_id in (first, second)]
    assert told == [first, first]
    many = (await wire.post("/v1/tasks/batch", {"task_ids": [second]})).json["data"]
    assert [row["id"] for row in many] == [first, second]
    assert len((await wire.get("/v1/tasks")).json["data"]) == 2


async def test_lists_may_shift_while_they_are_read_and_begin_with_the_oldest(wire: Wire) -> None:
    """Pages after the first begin rows too early; in the other order the oldest comes first."""
    ids = [await wire.accepted() for _ in range(3)]

    async def page(number: int) -> list[str]:
        reply = await wire.get(f"/v1/tasks?page={number}&page_size=2")
        return [row["id"] for row in reply.json["data"]]

    wire.sandbox.fail(Fault("shifted-pages", rows=1, times=2))
    assert [await page(1), await page(2)] == [[ids[2], ids[1]], [ids[1], ids[0]]]
    wire.sandbox.fail(Fault("oldest-first"))
    assert await page(1) == ids[:2]
