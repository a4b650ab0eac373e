"""Values and JSON: what the service sends becomes values or documented errors, never a bare
exception.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from happyhorse_async import errors
from happyhorse_async._models import Billing, Task, TaskStatus
from happyhorse_async._request import ImageToVideo
from happyhorse_async._rules import account, responses, retry, wire
from happyhorse_async._rules.lifecycle import is_cancelled, is_final

EXAMPLE: dict[str, Any] = {
    "created": 1761313744,
    "id": "task-unified-1761313744-h1i2vcd9",
    "model": "happyhorse-1.0-image-to-video",
    "object": "video.generation.task",
    "progress": 0,
    "status": "pending",
    "task_info": {"can_cancel": True, "estimated_time": 2400, "video_duration": 5},
    "type": "video",
    "usage": {"billing_rule": "per_second", "credits_reserved": 607500, "user_group": "default"},
}
DONE = {
    **EXAMPLE,
    "status": "completed",
    "progress": 100,
    "results": ["https://cdn.example.com/a.mp4"],
}


def answer(body: Any, status: int = 200, **headers: str) -> responses.Answer:
    """Make an answer with a JSON body, or with these very bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return responses.Answer(
        status,
        CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}),
        data,
    )


def test_a_submission_is_written_as_the_reference_asks() -> None:
    """Field names and shapes are the service's, what was left out stays out, and the same request
    gives the same bytes.
    """
    request = ImageToVideo(
        "https://a.example/x.png",
        prompt="Das Pferd läuft",
        seed=7,
        callback_url="https://a.example/cb",
    )
    body = wire.encode_submission(request, "https://a.example/x.png")
    assert json.loads(body) == {
        "model": "happyhorse-1.0-image-to-video",
        "image_urls": ["https://a.example/x.png"],
        "prompt": "Das Pferd läuft",
        "quality": "720p",
        "duration": 5,
        "seed": 7,
        "callback_url": "https://a.example/cb",
    }
    assert body == wire.encode_submission(request, "https://a.example/x.png")
    newer = ImageToVideo("https://a.example/x.png", model="happyhorse-1.1-image-to-video")
    body = json.loads(wire.encode_submission(newer, "https://a.example/x.png"))
    assert body["model"] == "happyhorse-1.1-image-to-video"
    bare = wire.encode_submission(
        ImageToVideo("https://a.example/x.png"), "https://a.example/x.png"
    )
    assert json.loads(bare).keys() == {"model", "image_urls", "quality", "duration"}


_SENDABLE = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    image=_SENDABLE,
    prompt=st.none() | _SENDABLE,
    seed=st.none() | st.integers(1, 2147483647),
    back=st.none() | st.just("") | _SENDABLE,
)
def test_a_submission_is_the_json_that_any_encoder_writes(
    image: str, prompt: str | None, seed: int | None, back: str | None
) -> None:
    """Byte for byte, whatever stands in the texts: another encoder's body under the same key would
    be a conflict.
    """
    request = ImageToVideo("https://a.example/x.png", prompt=prompt, seed=seed, duration=15)
    fields = {
        "model": request.model,
        "image_urls": [image],
        "prompt": prompt,
        "quality": "720p",
        "duration": 15,
        "seed": seed,
        "callback_url": back or None,
    }
    sent = {name: value for name, value in fields.items() if value is not None}
    written = json.dumps(sent, ensure_ascii=False, separators=(",", ":")).encode()
    assert wire.encode_submission(request, image, callback_url=back) == written


def test_a_packed_task_tells_all_that_the_answer_said() -> None:
    """It keeps the answer as bytes, and reads it when it is asked; copies and pickles are whole."""
    plain, packed = (wire.decode_task(answer(EXAMPLE)) for _ in range(2))
    wire.pack(packed, answer(EXAMPLE))
    for copied in (packed, copy.copy(packed), pickle.loads(pickle.dumps(packed))):
        assert copied == plain
        assert copied.raw == plain.raw == EXAMPLE
        assert attrs.evolve(copied, progress=7).raw == EXAMPLE
        assert copied.to_dict() == plain.to_dict()


def test_tasks_that_differ_only_by_their_id_keep_one_text() -> None:
    """Ten thousand tasks in flight hold the service's answer once for each second, not each."""
    tasks = []
    for number in range(100):
        said = answer({**EXAMPLE, "id": f"task-unified-{number}"})
        tasks.append(wire.decode_task(said))
        wire.pack(tasks[-1], said)
    assert len({id(task._answer) for task in tasks}) == 1
    assert [task.raw["id"] for task in tasks] == [f"task-unified-{n}" for n in range(100)]


@given(task_id=st.text(min_size=1, max_size=6).filter(str.strip), more=st.text())
def test_a_packed_answer_is_the_same_whatever_stands_in_it(task_id: str, more: str) -> None:
    """The id may stand in other fields too, and may be written with escapes or blanks around it."""
    value = {**EXAMPLE, "id": task_id, "more": [more, task_id + more]}
    said = answer(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    plain, packed = (wire.decode_task(said) for _ in range(2))
    wire.pack(packed, said)
    assert packed.raw == plain.raw


def test_the_byte_that_stands_for_an_id_is_kept() -> None:
    """A lenient reader takes control characters in texts, and they must not become ids."""
    said = answer(json.dumps({**EXAMPLE, "more": "a?b"}).encode().replace(b"?", b"\0"))
    task = wire.decode_task(said)
    wire.pack(task, said)
    assert task.raw["more"] == "a\0b"


def test_the_reference_example_is_read() -> None:
    """Every field of the documented answer has its place."""
    task = wire.decode_task(answer(EXAMPLE))
    assert task == Task(
        id="task-unified-1761313744-h1i2vcd9",
        status=TaskStatus.PENDING,
        usage=task.usage,
        created=datetime(2025, 10, 24, 13, 49, 4, tzinfo=UTC),
        estimated_seconds=2400.0,
    )
    assert task.usage.credits_reserved == Decimal(607500)
    assert task.raw["type"] == "video"


def test_a_status_that_is_newer_than_this_package_is_kept() -> None:
    """An unknown word is passed on and counts as unfinished; unknown fields stay in raw."""
    task = wire.decode_task(answer({**EXAMPLE, "status": "moonwalking", "flavour": {"x": [1]}}))
    assert task.status == "moonwalking"
    assert not is_final(task)
    assert task.raw["flavour"] == {"x": [1]}


@pytest.mark.parametrize(
    "value",
    [
        {**EXAMPLE, "status": "cancelled"},
        {**EXAMPLE, "status": "failed", "error": {"code": "request_cancelled", "message": "x"}},
    ],
    ids=["cancelled", "failed + request_cancelled"],
)
def test_both_forms_of_a_cancelled_task_are_one(value: dict[str, Any]) -> None:
    """The service reports a cancellation in two ways; both give one status."""
    task = wire.decode_task(answer(value))
    assert is_cancelled(task)
    assert task.status is TaskStatus.CANCELLED


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("COMPLETED", TaskStatus.COMPLETED),
        (" Failed\n", TaskStatus.FAILED),
        ("Cancelled", TaskStatus.CANCELLED),
        ("canceled", TaskStatus.CANCELLED),
        ("CANCELED", TaskStatus.CANCELLED),
    ],
)
def test_a_known_word_in_another_spelling_is_that_word(word: str, status: TaskStatus) -> None:
    """Nobody waits for ever for a task because its end is told in capitals or with one l."""
    value = {**DONE, "status": word}
    assert wire.has_ended(value)
    assert wire.decode_task(answer(value)).status is status


def test_a_completed_task_without_links_has_not_ended_in_capitals_either() -> None:
    """Its links may come minutes later, however the word is spelled."""
    assert not wire.has_ended({**DONE, "status": "COMPLETED", "results": [""]})
    assert not wire.has_ended({**DONE, "status": "PROCESSING"})


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_entries_about_one_task_the_end_counts(first: int) -> None:
    """An answer about many that has a task twice, old and new, hides no end, in either order."""
    entries = [{**EXAMPLE, "id": "a", "status": "processing"}, {**DONE, "id": "a"}]
    both = [entries[first], entries[1 - first]]
    assert wire.decode_task_objects(answer({"data": both}))["a"]["status"] == "completed"


@pytest.mark.parametrize(
    ("fields", "links"),
    [
        ({"results": ["https://a/1", "https://a/2"]}, ("https://a/1", "https://a/2")),
        ({"results": None, "result_data": {"video_url": "https://a/1"}}, ("https://a/1",)),
        (
            {
                "results": [],
                "result_data": [
                    {"video_url": "https://a/1"},
                    {"video_url": "https://a/2", "fps": 24},
                ],
            },
            ("https://a/1", "https://a/2"),
        ),
        (
            {"results": ["https://a/1"], "result_data": {"video_url": "https://a/1"}},
            ("https://a/1",),
        ),
        ({"results": [5, None], "result_data": ["x", {}]}, ()),
        ({"results": "https://a/1"}, ("https://a/1",)),
        ({"results": "soon"}, ()),
        ({"results": '["https://a/1", "https://a/2"]'}, ("https://a/1", "https://a/2")),
        ({"results": '{"videos": [{"url": "https://a/1"}]}'}, ("https://a/1",)),
        ({"results": "[" * 9_000}, ()),
        ({"results": "{soon"}, ()),
        ({"results": ["", " ", "https://a/1"]}, ("https://a/1",)),
        (
            {"results": [{"url": "https://a/1"}, {"video_url": "https://a/2"}]},
            ("https://a/1", "https://a/2"),
        ),
        (
            {"results": {"videos": [{"url": "https://a/1", "cover": "https://a/c"}]}},
            ("https://a/1",),
        ),
        ({"results": [["https://a/1"]]}, ("https://a/1",)),
        ({"results": None, "result_data": {"url": "https://a/1"}}, ("https://a/1",)),
        ({"results": ["https://a/1"], "result_data": {"url": "https://a/cover"}}, ("https://a/1",)),
        ({"results": [], "video_url": "https://a/1"}, ("https://a/1",)),
        ({"results": [], "output": {"video_url": "https://a/1"}}, ("https://a/1",)),
        ({"results": ["https://a/1"], "video_url": "https://b/1"}, ("https://a/1",)),
        ({"results": [], "video_url": "soon", "output": {"url": "https://a/cover"}}, ()),
    ],
)
def test_links_come_as_results_or_as_result_data(
    fields: dict[str, Any], links: tuple[str, ...]
) -> None:
    """Both forms give the same links, each once; anything that is no link is left out."""
    assert wire.decode_task(answer({**DONE, **fields})).results == links


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": "succeeded"}, "completed"),
        ({"status": "succeeded", "progress": None}, "completed"),
        ({"status": "succeeded", "progress": 100.0}, "completed"),
        ({"status": "SUCCESS", "progress": "100%"}, "completed"),
        ({"status": "succeeded", "progress": 10}, "completed"),
        ({"status": "SUCCESS", "progress": "99%"}, "completed"),
        ({"status": "finalizing", "progress": 99}, "finalizing"),
        ({"status": "not done", "progress": 99}, "not done"),
        ({"status": "succeeded", "results": []}, "succeeded"),
        ({"status": "processing"}, "processing"),
        ({"status": "failed"}, "failed"),
    ],
)
def test_results_decide_over_a_word_that_is_newer(fields: dict[str, Any], status: str) -> None:
    """All is done and the links are there: that is a completion, whatever the service calls it."""
    value = {**DONE, **fields}
    task = wire.decode_task(answer(value))
    assert task.status == status
    assert wire.has_ended(value) is is_final(task)
    assert bool(task.results) is (status == "completed")
    assert task.raw["status"] == value["status"]


@pytest.mark.parametrize(
    ("word", "error", "status"),
    [
        ("FAILURE", {"code": "new_code", "type": "task_error"}, "failed"),
        ("expired", {"code": "generation_timeout", "message": "too long"}, "failed"),
        ("Timed_Out", {"code": "request_cancelled", "type": "task_error"}, "cancelled"),
        ("error", {"code": "upstream", "type": "api_error"}, "error"),
        ("error", {"code": "service_unavailable"}, "error"),
        ("error", {"code": "a gateway's own"}, "error"),
        ("error", {"code": ["x"]}, "error"),
        ("error", "try again", "error"),
        ("failure", None, "failure"),
        ("retrying", {"code": "generation_timeout", "type": "task_error"}, "retrying"),
        ("processing", {"code": "generation_timeout", "type": "task_error"}, "processing"),
    ],
)
def test_a_newer_word_for_a_failure_needs_the_error_of_the_task(
    word: str, error: object, status: str
) -> None:
    """Nobody waits for ever for what has failed, nor gives a task up over a gateway's own error."""
    value = {**EXAMPLE, "status": word, "error": error}
    task = wire.decode_task(answer(value))
    assert task.status == status
    assert wire.has_ended(value) is is_final(task)


@pytest.mark.parametrize("count", [101, 200_000])
def test_a_flood_of_links_is_read_in_no_time(count: int) -> None:
    """Only the first hundred are looked at, and none twice."""
    links = [f"https://a/{number}" for number in range(count)]
    data = [{"video_url": link} for link in links]
    task = wire.task_of({**DONE, "results": links, "result_data": data})
    assert task is not None
    assert len(task.results) == 100


def test_texts_of_a_task_can_be_written_anywhere() -> None:
    """Half of a surrogate pair is replaced, and what is endless is cut; raw has it all."""
    failed = {"code": "x\ud83d", "message": "blocked \ud83d" + "!" * 10**6, "suggestion": ["no"]}
    task = wire.task_of({**EXAMPLE, "status": "failed", "error": failed, "model": "m\udfff"})
    assert task is not None
    assert task.error is not None
    assert (task.error.code, task.model) == ("x\ufffd", "m\ufffd")
    assert len(task.error.message.encode()) < 11_000
    assert task.error.suggestion == "list"


def test_links_before_the_end_are_not_results() -> None:
    """Only a completed task has videos."""
    assert wire.decode_task(answer({**DONE, "status": "processing"})).results == ()


def test_expiry_is_the_earliest_possible() -> None:
    """24 hours from creation, or from completion when the service says how long the task took."""
    created = datetime(2025, 10, 24, 13, 49, 4, tzinfo=UTC)
    assert wire.decode_task(answer(DONE)).expires_at == created + timedelta(hours=24)
    assert wire.decode_task(answer({**DONE, "duration": 90})).expires_at == created + timedelta(
        hours=24, seconds=90
    )
    assert wire.decode_task(answer(EXAMPLE)).expires_at is None


def test_money_is_read_from_all_the_places_where_it_was_seen() -> None:
    """Settled charges and ledger facts are exact decimals."""
    task = wire.decode_task(
        answer(
            {
                **DONE,
                "usage": {"cost": {"credits": "38.08", "usd": 0.56}},
                "billing": {
                    "charge_status": "charged",
                    "refund_status": None,
                    "refund_scope": "account_balance",
                    "reserved_credits": 40,
                    "charged_credits": "38.08",
                    "refunded_credits": 1.92,
                    "refunded_at": "2026-01-02T03:04:05Z",
                },
            }
        )
    )
    assert (task.usage.credits_used, task.usage.usd) == (Decimal("38.08"), Decimal("0.56"))
    assert task.billing is not None
    assert task.billing == Billing(
        charge_status="charged",
        refund_scope="account_balance",
        reserved_credits=Decimal(40),
        charged_credits=Decimal("38.08"),
        refunded_credits=Decimal("1.92"),
        refunded_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


ERRORS = [
    (400, "invalid_request", errors.BadRequestError),
    (400, "idempotency_conflict", errors.IdempotencyConflictError),
    (401, "unauthorized", errors.AuthenticationError),
    (402, "insufficient_quota", errors.InsufficientCreditsError),
    (402, "quota_exceeded", errors.InsufficientCreditsError),
    (403, "model_access_denied", errors.PermissionDeniedError),
    (404, "task_not_found", errors.TaskNotFoundError),
    (404, "nothing_here", errors.NotFoundError),
    (405, "", errors.NotFoundError),
    (409, "idempotency_conflict", errors.IdempotencyConflictError),
    (413, "", errors.BadRequestError),
    (418, "teapot", errors.APIStatusError),
    (429, "rate_limit_exceeded", errors.RateLimitError),
    (500, "internal_error", errors.InternalServerError),
    (503, "no_available_channel", errors.InternalServerError),
    (599, "new", errors.InternalServerError),
]


@pytest.mark.parametrize(("status", "code", "kind"), ERRORS)
def test_each_refusal_has_its_error(
    status: int, code: str, kind: type[errors.APIStatusError]
) -> None:
    """Status and code lead to the documented class, and every fact is kept."""
    body = {"error": {"code": code, "message": "no", "type": "x", "param": "duration"}}
    error = responses.error_of(answer(body, status, x_request_id="r-1", retry_after="7"))
    assert type(error) is kind
    assert (error.status, error.code, error.param, error.request_id, error.retry_after) == (
        status,
        code,
        "duration",
        "r-1",
        7.0,
    )
    assert error.own_body


@pytest.mark.parametrize(
    ("body", "step"),
    [
        (b"<html>Attention Required! | Cloudflare</html>", "firewall"),
        (b"", "firewall"),
        (b'{"error": {"code": "model_access_denied", "message": "no"}}', "access to the model"),
        (b'{"error": {"message": "not this model"}}', "access to the model"),
    ],
)
def test_a_firewalls_page_says_nothing_of_the_key(body: bytes, step: str) -> None:
    """Another key would be refused as well: what helps against a 403 depends on whose it is."""
    error = responses.error_of(responses.Answer(403, CIMultiDict(), body))
    assert (type(error), step in error.next_step) == (errors.PermissionDeniedError, True)


def test_an_integer_code_is_text() -> None:
    """The service once sent a number as code."""
    assert (
        responses.error_of(answer({"error": {"code": 40012, "message": "no"}}, 400)).code == "40012"
    )


@pytest.mark.parametrize(
    ("body", "message", "own"),
    [
        (b"<html>Bad gateway</html>", "HTTP 502: <html>Bad gateway</html>", False),
        (b"", "HTTP 502: no message", False),
        (b'{"error": {', 'HTTP 502: {"error": {', False),
        (b'["x"]', 'HTTP 502: ["x"]', False),
        (b'{"error": "down"}', "HTTP 502: down", False),
        (b'{"success": false}', 'HTTP 502: {"success": false}', False),
        (b'{"success": false, "code": 502, "msg": "disk"}', "HTTP 502 502: disk", True),
        (b'{"error": {"message": "m", "request_id": "r-9"}}', "HTTP 502: m", False),
        (b'{"error": {"message": "m", "type": "api_error"}}', "HTTP 502: m", True),
    ],
)
def test_bodies_of_gateways_and_of_the_file_service_are_told_apart(
    body: bytes, message: str, own: bool
) -> None:
    """Whether an error comes from the service itself decides if it can be trusted."""
    error = responses.error_of(answer(body, 502))
    assert (str(error), error.own_body) == (message, own)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>hello</html>", "is not JSON"),
        (b"", "is empty"),
        (b"  ", "is empty"),
        (b'{"id": "task-', "is not JSON"),
        (b"[1, 2]", "is not a JSON object"),
        (b'"text"', "is not a JSON object"),
        (b"{}", "has no task id and status"),
        (b'{"id": 5.5, "status": "pending"}', "has no task id and status"),
        (b'{"id": "", "status": "pending"}', "has no task id and status"),
    ],
)
def test_an_answer_that_is_not_the_services_is_said_to_be_so(body: bytes, why: str) -> None:
    """HTML, nothing, broken JSON and JSON of another shape each give the one documented error."""
    with pytest.raises(errors.UnreadableAnswerError, match=why) as caught:
        wire.decode_task(answer(body, x_request_id="r-2"))
    assert (caught.value.status, caught.value.request_id) == (200, "r-2")


@pytest.mark.parametrize("status", [{}, {"status": None}, {"status": ""}, {"status": 7}])
def test_a_submissions_answer_needs_no_status(status: dict[str, object]) -> None:
    """The task is paid for, and its id is all that is needed to get the video."""
    task = wire.decode_accepted(answer({"id": "task-unified-1", "progress": 3, **status}))
    assert (task.id, task.status, task.progress) == ("task-unified-1", "pending", 3)


@pytest.mark.parametrize("name", ["req-1", "task- 1", "task-/..", "", 5, None])
def test_another_id_is_not_taken_for_a_tasks(name: object) -> None:
    """Gateways give their requests ids too."""
    with pytest.raises(errors.UnreadableAnswerError):
        wire.decode_accepted(answer({"id": name, "message": "ok"}))


def test_a_whole_number_is_a_tasks_id_wherever_a_task_is_read() -> None:
    """Services that count their tasks in a database send it so. It is the text that a path has."""
    value = {"id": 12345, "status": "processing", "progress": 3}
    assert wire.decode_accepted(answer(value)).id == "12345"
    task = wire.decode_task(answer(value))
    assert (task.id, task.status, task.progress, task.raw["id"]) == (
        "12345",
        "processing",
        3,
        "12345",
    )
    assert wire.decode_task_object(answer(value))["id"] == "12345"
    many = {"data": [{**value, "id": "task-1"}, value, {**value, "id": "12345"}]}
    assert list(wire.decode_task_objects(answer(many))) == ["task-1", "12345"]
    page = account.decode_page(answer({"data": [value]}), page=1, page_size=20)
    assert [(item.id, item.raw["id"]) for item in page.items] == [("12345", "12345")]


def test_an_answer_that_is_kept_as_bytes_keeps_a_whole_number_as_text() -> None:
    """The answer to a submission is read anew when it is asked for, and is still the same task."""
    given = answer({"id": 12345, "status": "pending", "created": 1_712_345_000})
    task = wire.decode_accepted(given)
    wire.pack(task, given)
    assert task.raw == {"id": "12345", "status": "pending", "created": 1_712_345_000}
    assert wire.task_from(task.raw).id == "12345"


def test_blanks_around_an_id_are_none_of_it() -> None:
    """They cannot be in a path: such a task was paid for, and denied at each read."""
    value = {"id": " task-unified-1\n", "status": "pending"}
    assert wire.decode_accepted(answer(value)).id == "task-unified-1"
    assert wire.decode_task_object(answer(value), asked="task-unified-1")["status"] == "pending"
    assert list(wire.decode_task_objects(answer({"data": [value]}))) == ["task-unified-1"]


@pytest.mark.parametrize("status", [301, 308])
def test_a_redirect_of_a_call_is_named(status: int) -> None:
    """Only another address in the settings helps, so an empty answer is not what is told."""
    with pytest.raises(errors.UnreadableAnswerError, match=r"is a redirect.*base_url"):
        wire.decode_accepted(responses.Answer(status, CIMultiDict(), b""))


def test_a_task_in_an_envelope_is_that_task() -> None:
    """Some gateways put it under "data": a submission that was paid for was left in doubt."""
    value = {"id": "task-unified-1", "status": "pending", "created": 1_712_345_000}
    given = answer({"code": 200, "message": "success", "data": value})
    task = wire.decode_accepted(given)
    wire.pack(task, given)
    assert (task.id, task.status, task.raw) == ("task-unified-1", "pending", value)
    assert wire.decode_task(given).raw == wire.decode_task_object(given) == value
    for other in ([value, value], "task-unified-1", {"task": value}, [[value]], None):
        with pytest.raises(errors.UnreadableAnswerError):
            wire.decode_accepted(answer({"code": 200, "data": other}))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda task: {"result": task},
        lambda task: {"task": task},
        lambda task: {"data": [task]},
        lambda task: {"id": None, "data": task},
        lambda task: {"task_id": "", "result": task},
        lambda task: {"task_id": task["id"], "status": task["status"]},
        lambda task: {"code": 0, "data": {"task_id": task["id"], "status": task["status"]}},
    ],
)
def test_a_task_in_any_usual_envelope_is_that_task(
    wrapped: Callable[[dict[str, str]], dict[str, Any]],
) -> None:
    """Each was paid for, and was left in doubt."""
    given = answer(wrapped({"id": "task-unified-1", "status": "pending"}))
    assert wire.decode_accepted(given).id == "task-unified-1"
    assert wire.decode_task(given, asked="task-unified-1").status == "pending"


@pytest.mark.parametrize("name", [True, False, 0, -5, 1.5, 1e30, 10**25, [1], {"n": 1}])
def test_other_numbers_are_no_ids(name: object) -> None:
    """Nobody counts tasks in them, so they are no way to a video."""
    value = {"id": name, "status": "pending"}
    with pytest.raises(errors.UnreadableAnswerError):
        wire.decode_accepted(answer(value))
    assert wire.decode_task_objects(answer({"data": [value]})) == {}
    assert account.decode_page(answer({"data": [value]}), page=1, page_size=20).items == ()


def test_a_good_status_with_an_error_inside_is_an_error() -> None:
    """Gateways have been seen to answer 200 with an error object."""
    with pytest.raises(errors.APIStatusError):
        wire.decode_task(answer({"error": {"code": "x", "message": "no"}}))


ODD = [10**400, -(10**400), 1e305, 5e-324, -1, float("nan"), float("inf"), "9" * 400, "\ud83d"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(ODD),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = (
    "status",
    "progress",
    "results",
    "result_data",
    "error",
    "usage",
    "billing",
    "task_info",
    "created",
    "duration",
    "model",
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON), JSON)
def test_no_json_breaks_the_reading(fields: dict[str, Any], value: Any) -> None:
    """Whatever JSON comes, each reader gives a value or an error of this package."""
    for task in (
        wire.task_of(value),
        wire.task_of({**EXAMPLE, **fields}),
        wire.task_of({**DONE, **fields}),
    ):
        repr(task)  # the details are read when they are first asked for
    for read in (
        wire.decode_task,
        wire.decode_task_objects,
        partial(account.decode_page, page=1, page_size=50),
        account.decode_credits,
        account.decode_upload,
        partial(account.decode_receipt, upload_id="u" * 16, size=5),
    ):
        for body in (
            value,
            {"data": value},
            {"data": [fields]},
            {"data": {"user": value, "token": value, "file_url": value, "file_size": value}},
            {
                "data": {
                    "upload_id": "u" * 16,
                    "state": "done",
                    "result_verified": True,
                    "file": value,
                }
            },
        ):
            try:
                read(answer(body))  # type: ignore[operator]
            except errors.HappyHorseError:
                continue


@pytest.mark.parametrize(
    "fields",
    [
        {"progress": float("inf")},
        {"progress": -float("inf")},
        {"progress": float("nan")},
        {"created": 253402300799},
        {"created": "9999-12-31T23:59:59Z"},
        {"created": float("inf"), "duration": float("inf")},
    ],
    ids=str,
)
def test_no_number_breaks_the_reading(fields: dict[str, Any]) -> None:
    """A task is paid for however odd its numbers are: it is read, and what cannot be calculated
    from them is left open.
    """
    task = wire.task_of({**DONE, "status": "rendering", **fields})
    assert task is not None
    assert 0 <= task.progress <= 100
    ended = wire.task_of({**DONE, **fields})
    assert ended is not None
    assert (ended.results, ended.progress) == (("https://cdn.example.com/a.mp4",), 100)


@pytest.mark.parametrize("status", [200, 500])
def test_json_that_is_nested_too_deeply_is_no_answer(status: int) -> None:
    """An answer that would break the reader of JSON is not the service's."""
    with pytest.raises(errors.HappyHorseError) as caught:
        wire.decode_task(answer(b"[" * 200_000, status))
    assert retry.certainty_of(caught.value) is retry.Certainty.UNKNOWN


def test_what_a_server_says_forges_no_line_and_steers_no_terminal() -> None:
    """Its texts are in the error, spelled out where they would do more than be read."""
    said = {"code": "bad\nERROR", "message": "\x1b[2Jgone\r\n2026 INFO paid", "param": "\x9bA"}
    hostile = responses.Answer(
        400, {"x-request-id": "\x1b]0;x"}, json.dumps({"error": said}).encode()
    )
    with pytest.raises(errors.BadRequestError) as caught:
        wire.decode_task(hostile)
    error = caught.value
    assert str(error) == r"HTTP 400 bad\nERROR: \x1b[2Jgone\r\n2026 INFO paid"
    assert (error.code, error.param, error.request_id) == (r"bad\nERROR", r"\x9bA", r"\x1b]0;x")


def test_an_endless_message_does_not_fill_the_log() -> None:
    """A message of megabytes is cut."""
    hostile = responses.Answer(400, {}, json.dumps({"error": {"message": "x" * 10**6}}).encode())
    with pytest.raises(errors.BadRequestError) as caught:
        wire.decode_task(hostile)
    assert len(str(caught.value)) < 2100


def test_a_batch_leaves_out_what_is_no_task() -> None:
    """Entries that cannot be read count as absent: they are asked for again."""
    assert wire.decode_task_objects(answer({"data": [EXAMPLE, None, {"id": "x"}, 5]})) == {
        EXAMPLE["id"]: EXAMPLE
    }


def test_a_page_is_read() -> None:
    """List items have facts of their own and no links."""
    page = account.decode_page(
        answer(
            {
                "data": [
                    {
                        "id": "t1",
                        "status": "completed",
                        "created_at": "2026-01-02T03:04:05Z",
                        "has_results": True,
                        "credits_used": 38.08,
                    },
                    {},
                ],
                "total": 31,
                "page": 2,
                "page_size": 20,
            }
        ),
        page=2,
        page_size=20,
    )
    assert (page.total, page.page, page.page_size, len(page.items)) == (31, 2, 20, 1)
    item = page.items[0]
    assert (item.created, item.has_results, item.credits_used) == (
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        True,
        Decimal("38.08"),
    )


@pytest.mark.parametrize(
    "said", [{"page": 1}, {"page_size": 50}, {"page": "3"}, {"page": True}, {"page_size": 20.5}]
)
def test_another_page_than_the_one_asked_for_is_no_answer(said: dict[str, Any]) -> None:
    """A cache or a proxy that answers for another page must not make tasks look missing."""
    with pytest.raises(errors.UnreadableAnswerError, match="another page"):
        account.decode_page(answer({"data": [], **said}), page=2, page_size=20)


def test_a_list_of_nothing_may_be_null() -> None:
    """Some services write it so. It is no proof that a task was never made."""
    page = account.decode_page(answer({"data": None}), page=1, page_size=20, null_is_empty=True)
    assert page.items == ()
    for said, empty in (({"data": None}, False), ({}, True), ({"data": {}}, True)):
        with pytest.raises(errors.UnreadableAnswerError, match="no list of tasks"):
            account.decode_page(answer(said), page=1, page_size=20, null_is_empty=empty)


def test_the_numbers_of_a_page_may_be_text() -> None:
    """They mean the same, and are compared with what was asked for all the same."""
    said = {"data": [], "page": "2", "page_size": "20", "total": "31"}
    page = account.decode_page(answer(said), page=2, page_size=20)
    assert (page.page, page.page_size, page.total) == (2, 20, 31)
    for wrong in ("3", "", "two", "2.0", "9" * 5000):
        with pytest.raises(errors.UnreadableAnswerError, match="another page"):
            account.decode_page(answer({**said, "page": wrong}), page=2, page_size=20)
        odd = account.decode_page(answer({**said, "total": wrong}), page=2, page_size=20)
        assert odd.total == (3 if wrong == "3" else 0)


def test_a_page_need_not_say_which_it_is() -> None:
    """Then it is the one that was asked for."""
    page = account.decode_page(answer({"data": []}), page=2, page_size=20)
    assert (page.page, page.page_size, page.total) == (2, 20, 0)


def test_credits_are_read_and_the_lesser_limit_counts() -> None:
    """A key with a limit of its own can spend the lesser of both; an unlimited key what the account
    has.
    """
    data: dict[str, Any] = {
        "user": {"remaining_credits": 500, "used_credits": 20},
        "token": {"remaining_credits": "99.5", "used_credits": 1, "unlimited_credits": False},
    }
    assert account.decode_credits(answer({"success": True, "data": data})).spendable == Decimal(
        "99.5"
    )
    data["token"]["unlimited_credits"] = True
    assert account.decode_credits(answer({"success": True, "data": data})).spendable == 500


def test_an_upload_is_read_and_its_refusal_is_an_error() -> None:
    """The file service says success or failure inside the body."""
    data = {
        "file_id": "f1",
        "file_url": "https://f/1.png",
        "file_size": 5,
        "expires_at": "2026-01-02T03:04:05+08:00",
    }
    file = account.decode_upload(answer({"success": True, "code": 200, "data": data}))
    assert (file.url, file.id, file.size) == ("https://f/1.png", "f1", 5)
    assert file.expires_at == datetime(2026, 1, 1, 19, 4, 5, tzinfo=UTC)
    with pytest.raises(errors.APIStatusError, match="quota"):
        account.decode_upload(answer({"success": False, "code": 400, "msg": "file quota exceeded"}))


@pytest.mark.parametrize(
    ("code", "status"), [(503, 503), (429, 429), (200, 200), ("503", 200), (999, 200), (None, 200)]
)
def test_a_refused_upload_has_the_status_that_its_body_tells(code: Any, status: int) -> None:
    """The file service may refuse with HTTP 200; a busy one is then asked again all the same, and
    so is what gives no code, which may be anybody's.
    """
    refusal = answer({"success": False, "code": code, "msg": "busy"})
    with pytest.raises(errors.APIStatusError) as refused:
        account.decode_upload(refusal)
    assert refused.value.status == status
    assert retry.worth_retrying(refused.value) is (status != 200 or code is None)


@pytest.mark.parametrize("size", [0, None, "5", 5.0, True, -1, -(10**30)])
def test_odd_sizes_of_an_upload_say_nothing(size: Any) -> None:
    """What is no number of bytes is not believed, and does not lose the file."""
    data = {"file_url": "https://f/1.png", "file_size": size}
    file = account.decode_upload(answer({"success": True, "data": data}))
    assert (file.url, file.size) == ("https://f/1.png", 0)


@pytest.mark.parametrize("url", ["", " ", "javascript:1", "ftp://f/1.png", "https://", None, 5])
def test_an_upload_without_a_usable_link_is_no_upload(url: Any) -> None:
    """Nothing is paid for a task whose first frame nobody can fetch."""
    data = {"file_url": url, "file_size": 5}
    with pytest.raises(errors.UnreadableAnswerError, match="no file URL"):
        account.decode_upload(answer({"success": True, "data": data}))


@pytest.mark.parametrize(
    ("changes", "proven"),
    [
        ({}, True),
        ({"file": {"file_url": "https://f/1.png"}}, True),
        ({"state": "outcome_unknown"}, False),
        ({"result_verified": "true"}, False),
        ({"upload_id": "another"}, False),
        ({"file": {"file_url": "https://f/1.png", "file_size": 4}}, False),
        ({"file": None}, False),
    ],
)
def test_a_receipt_proves_an_upload_or_nothing(changes: dict[str, Any], proven: bool) -> None:
    """Only a verified receipt of this very upload, with all of its bytes, spares another one."""
    data = {
        "upload_id": "u" * 16,
        "state": "done",
        "result_verified": True,
        "file": {"file_url": "https://f/1.png", "file_size": 5},
        **changes,
    }
    body = answer({"success": True, "data": data})
    assert (account.decode_receipt(body, upload_id="u" * 16, size=5) is not None) is proven


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("3", None, 3.0),
        ("0.5", None, 0.5),
        ("-4", None, 0.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", None, None),
        ("soon", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("Wed, 21 Oct 2026 07:28:30 +99999999999999", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("nan", None, None),
        ("inf", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(
    value: str | None, date: str | None, seconds: float | None
) -> None:
    """Both forms of the header give seconds; a date counts from the answer's own clock."""
    assert responses.parse_retry_after(value, date) == seconds
