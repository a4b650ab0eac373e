"""Steering a sandbox: by hand, from other threads, over HTTP, as a command, and in users' tests."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import pytest

from happyhorse_async.sandbox import Account, Fault, Sandbox
from happyhorse_async.sandbox._clock import Agenda, Clock
from happyhorse_async.sandbox._scenarios import SCENARIOS
from happyhorse_async.sandbox._service import Journal, RequestRecord
from tests.sandbox.conftest import Wire

pytestmark = pytest.mark.anyio


class Hand:
    """A real clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_the_clock_is_a_scale_and_an_offset_on_real_time() -> None:
    """Speed counts from when it is set, and `advance` adds to it."""
    real = Hand()
    clock = Clock(start=50.0, speed=2.0, real=real)
    real.time += 10
    assert clock.now() == 70.0
    clock.speed = 0.0
    real.time += 10
    assert clock.now() == 70.0
    assert clock.real_delay(71.0) is None
    clock.advance(5)
    clock.speed = 10.0
    assert clock.now() == 75.0
    assert clock.real_delay(85.0) == 1.0
    assert clock.real_delay(1.0) == 0.0


def test_the_clock_never_goes_back() -> None:
    """Negative seconds and speeds are errors, and so are those that never end."""
    for seconds in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="task_seconds"):
            Sandbox(task_seconds=seconds)
    for wrong in ({"rate_limit": "x"}, {"link_seconds": float("nan")}, {"file_quota": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is a number"):
            Sandbox(**wrong)  # type: ignore[arg-type]
    clock = Clock(start=0.0, speed=1.0, real=Hand())
    with pytest.raises(ValueError, match="only moves forward"):
        clock.advance(-1)
    for speed in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="speed"):
            clock.speed = speed


def test_the_agenda_is_done_in_order_of_time() -> None:
    """Entries run at their own time, also those that others make, and none too early."""
    agenda, done = Agenda(), list[float]()
    agenda.at(3.0, done.append)
    agenda.at(1.0, lambda when: agenda.at(when + 1, done.append))
    agenda.at(9.0, done.append)
    agenda.run(5.0)
    assert done == [2.0, 3.0]
    assert agenda.next_due == 9.0


async def test_finish_completes_one_or_all_and_leaves_the_ended_alone(wire: Wire) -> None:
    """One by its id, then the rest; what has ended keeps its end."""
    first, second, third = [await wire.accepted() for _ in range(3)]
    wire.sandbox.finish(first)
    assert [task.status for task in wire.sandbox.tasks] == ["completed", "pending", "pending"]
    wire.sandbox.end(second, "failed", error_code="service_error", message="why")
    wire.sandbox.finish()
    assert [task.status for task in wire.sandbox.tasks] == ["completed", "failed", "completed"]
    assert wire.sandbox.task(second).error == {
        "code": "service_error",
        "message": "why",
        "type": "task_error",
    }
    assert wire.sandbox.task(third).progress == 100
    with pytest.raises(ValueError, match="has already ended as completed"):
        wire.sandbox.end(first, "failed")
    with pytest.raises(KeyError):
        wire.sandbox.task("task-unified-0-none")


async def test_a_task_object_shows_the_present(wire: Wire) -> None:
    """It was taken before, and shows what is true after."""
    await wire.accepted(prompt="run")
    (task,) = wire.sandbox.tasks
    assert (task.status, task.results, task.charged, task.error) == ("pending", [], 0, None)
    wire.sandbox.advance(2400)
    assert (task.status, len(task.results), float(task.charged)) == ("completed", 1, 38.08)
    assert task.request["prompt"] == "run"
    assert repr(task) == f"SandboxTask(id={task.id!r}, status='completed', progress=100)"


async def test_requests_are_logged_with_headers_body_and_host(wire: Wire) -> None:
    """In order of arrival, with the answer's status; the sandbox's own pages are left out."""
    await wire.submit(prompt="run", idempotency_key="0123456789abcdef")
    await wire.files("GET", "/api/v1/files/quota")
    await wire.get("/v1/tasks?page=2")
    await wire.get("/sandbox/state")
    first, second, third = wire.sandbox.requests
    assert [(r.method, r.host, r.status) for r in (first, second, third)] == [
        ("POST", "api", 200),
        ("GET", "files", 200),
        ("GET", "api", 200),
    ]
    assert first.headers["idempotency-key"] == "0123456789abcdef"
    assert b'"prompt"' in first.body
    assert (third.path, third.query) == ("/v1/tasks", "page=2")
    assert wire.sandbox.count("POST", "/v1/videos/generations") == 1
    assert wire.sandbox.count("GET") == 2


def test_the_log_is_bounded() -> None:
    """After 100,000 requests the oldest are forgotten."""
    journal = Journal()
    for number in range(100_010):
        journal.add(RequestRecord("GET", f"/{number}", "", {}, b"", 0.0, "api"))
    assert len(journal.all()) == 100_000
    assert journal.all()[0].path == "/10"
    assert [record.path for record in journal.latest(2)] == ["/100008", "/100009"]


async def test_every_verb_works_from_another_thread(wire: Wire) -> None:
    """A thread that is not the sandbox's gets the same answers."""
    task_id = await wire.accepted()

    def steer() -> tuple[str, int, str]:
        before = wire.sandbox.task(task_id).status
        wire.sandbox.advance(2400)
        return before, wire.sandbox.paid, wire.sandbox.tasks[0].status

    assert await asyncio.to_thread(steer) == ("pending", 1, "completed")


def test_a_plain_with_runs_the_sandbox_in_a_thread_of_its_own() -> None:
    """Tests that are not async can use it; errors come to the caller; afterwards it can still be
    read.
    """
    with Sandbox(video="stub", speed=0) as sandbox:
        asyncio.run(submit_one(sandbox))
        assert [task.status for task in sandbox.tasks] == ["pending"]
        sandbox.speed = 2.0
        assert sandbox.speed == 2.0
        with pytest.raises(KeyError):
            sandbox.finish("nothing")
        sandbox.finish()
    assert [task.status for task in sandbox.tasks] == ["completed"]
    assert sandbox.count("POST") == 1


async def submit_one(sandbox: Sandbox) -> None:
    """Submit a request from an event loop of its own."""
    async with aiohttp.ClientSession() as http:
        await Wire(sandbox, http).accepted()


def test_a_port_that_is_taken_is_an_error_in_either_form() -> None:
    """The error reaches whoever opens the sandbox, and nothing is left open."""
    with Sandbox(video="stub") as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(OSError, match=r"[Aa]ddress"), Sandbox(video="stub", port=port):
            pass
        with pytest.raises(OSError, match=r"[Aa]ddress"):
            asyncio.run(Sandbox(video="stub", files_port=port).__aenter__())


def test_a_sandbox_that_is_not_running_says_so() -> None:
    """Reading it before it was opened is an error that shows how to open it."""
    with pytest.raises(RuntimeError, match="async with Sandbox"):
        _ = Sandbox().paid


def test_unknown_videos_are_refused() -> None:
    """The error names what is possible."""
    with pytest.raises(ValueError, match='"real", "stub" or "auto"'):
        Sandbox(video="dream")


async def test_closing_twice_is_harmless() -> None:
    """The second time does nothing."""
    sandbox = Sandbox(video="stub")
    await sandbox.__aenter__()
    await sandbox.close()
    await sandbox.close()


async def test_control_paths_steer_the_clock_and_the_tasks(wire: Wire) -> None:
    """Another process can do over HTTP what a test does by hand."""
    first, second = await wire.accepted(), await wire.accepted()
    before = wire.sandbox.now
    state = (await wire.post("/sandbox/advance", {"seconds": 5})).json
    assert state["now"] == before + 5
    assert (await wire.post("/sandbox/speed", {"speed": 60})).json["speed"] == 60
    wire.sandbox.speed = 0
    state = (await wire.post("/sandbox/end", {"task_id": first, "status": "failed"})).json
    assert {task["id"]: task["status"] for task in state["tasks"]}[first] == "failed"
    state = (await wire.post("/sandbox/finish", {"task_id": second})).json
    assert {task["id"]: task["status"] for task in state["tasks"]}[second] == "completed"
    assert (state["paid"], state["refunded"]) == (2, 1)
    assert (await wire.call("POST", "/sandbox/finish")).status == 200
    paths = [row["path"] for row in (await wire.get("/sandbox/requests?limit=1")).json["requests"]]
    assert paths == ["/v1/videos/generations"]


async def test_control_paths_add_and_clear_faults_and_scenarios(wire: Wire) -> None:
    """A fault is JSON with its details, and is gone when it is cleared."""
    fault = {"action": "refuse", "path": "/v1/credits", "times": 2, "details": {"status": 418}}
    assert (await wire.post("/sandbox/faults", fault)).json["faults"][0]["action"] == "refuse"
    assert (await wire.get("/v1/credits")).status == 418
    assert (await wire.call("DELETE", "/sandbox/faults")).json["faults"] == []
    assert (await wire.get("/v1/credits")).status == 200
    assert len((await wire.post("/sandbox/scenario", {"name": "429-storm"})).json["faults"]) == 2


@pytest.mark.parametrize("name", SCENARIOS)
async def test_every_scenario_can_be_added_over_http_and_by_hand(wire: Wire, name: str) -> None:
    """Both ways add the same faults."""
    added = (await wire.post("/sandbox/scenario", {"name": name})).json["faults"]
    wire.sandbox.clear_faults()
    wire.sandbox.scenario(name)
    assert (await wire.get("/sandbox/state")).json["faults"] == added != []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("advance", {"seconds": -1}, 400),
        ("advance", {"seconds": "x"}, 400),
        ("advance", [], 400),
        ("speed", {}, 400),
        ("finish", {"task_id": "none"}, 404),
        ("end", {"task_id": "none", "status": "failed"}, 404),
        ("faults", {"action": "explode"}, 400),
        ("faults", {"action": "refuse", "details": {"nth": 1}, "nth": 1}, 400),
        ("scenario", {"name": "earthquake"}, 400),
    ],
)
async def test_control_paths_refuse_what_makes_no_sense(
    wire: Wire, path: str, body: Any, status: int
) -> None:
    """The answer says what was wrong, and is never a 500."""
    assert (await wire.post(f"/sandbox/{path}", body)).status == status


async def test_control_paths_refuse_what_a_task_does_not_allow(wire: Wire) -> None:
    """An ended task cannot end again, and a status is text."""
    task_id = await wire.accepted()
    assert (await wire.post("/sandbox/end", {"task_id": task_id, "status": 5})).status == 400
    wire.sandbox.finish()
    assert (await wire.post("/sandbox/end", {"task_id": task_id, "status": "failed"})).status == 400


async def test_control_paths_can_be_switched_off(http: aiohttp.ClientSession) -> None:
    """They are 404 then."""
    async with Sandbox(video="stub", control=False) as sandbox:
        assert (await Wire(sandbox, http).get("/sandbox/state")).status == 404


async def test_the_page_at_the_root_is_for_people(wire: Wire) -> None:
    """It is a page that needs no key and fetches nothing from elsewhere."""
    reply = await wire.get("/", key=None)
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"HappyHorse sandbox" in reply.body
    assert b"http://" not in reply.body.replace(b"http://www.w3.org", b"")
    assert (await wire.get("/favicon.ico", key=None)).status == 204


async def test_a_bug_of_the_sandbox_is_a_500_of_the_service_and_is_logged(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever uses it in tests sees at once that it is not their code that failed."""
    wire.sandbox.fail(Fault("fail-task", code="x"))
    task_id = await wire.accepted()
    wire.sandbox._service.world.tasks[task_id].charge = None  # type: ignore[union-attr, assignment]
    reply = await wire.get(f"/v1/tasks/{task_id}")
    assert (reply.status, reply.error["code"]) == (500, "internal_error")
    assert reply.error["request_id"] == reply.headers["x-request-id"]
    assert "the sandbox failed on GET" in caplog.text


def test_an_account_takes_credits_in_any_form() -> None:
    """Numbers and text become exact decimals."""
    assert Account(key="a", credits="0.1").credits == Account(key="b", credits="0.10").credits


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_comes_while_it_closes_is_ended(turns: int) -> None:
    """No connection outlives the sandbox, also when it was accepted in that very moment."""
    sandbox = Sandbox(video="stub")
    await sandbox.__aenter__()
    parts = urlsplit(sandbox.url)
    with socket.create_connection((parts.hostname, parts.port)) as mine:
        mine.setblocking(False)
        for _ in range(turns):  # in one of them the event loop accepts it
            await asyncio.sleep(0)
        await sandbox.close()
        with anyio.fail_after(100), suppress(ConnectionResetError):
            assert await asyncio.get_running_loop().sock_recv(mine, 1) == b""
