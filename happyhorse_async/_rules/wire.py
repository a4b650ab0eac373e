"""Values <-> JSON: requests into bodies, and answers into tasks. No I/O.

All of it is written out by hand. It is on the hot path, and a task's fields come in several shapes.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from json.encoder import encode_basestring as _quoted
from typing import Any

from .._formats.texts import shown, without_surrogates
from .._models import (
    MODEL,
    TASK_ID,
    Billing,
    Task,
    TaskError,
    TaskStatus,
    Usage,
)
from .._request import ImageToVideo
from . import numbers
from .lifecycle import (
    CANCELLED_CODE,
    COMPLETED,
    FAILED,
    FAILURES,
    FINAL_STATUSES,
    GOING_ON,
    is_completed,
)
from .responses import Answer, decode_object, unreadable

LINK_LIFE = timedelta(hours=24)
"""How long a result link lives, by the service's reference."""
BATCH_SIZE = 50
"""Ids in one batch read, and items on one page of the list, at most."""
TASK_PREFIX = "task-"
"""With this the service's task ids begin: another id may be a gateway's, of a request."""
MOST_RESULTS = 100
"""Links of one task that are looked at."""
LONGEST_TEXT = 10_000
"""Characters of one text of the service that are kept in a value; `raw` has all of them."""


# --- values -> JSON -------------------------------------------------------------------------------

encode: Callable[[Any], bytes]
"""Writes compact UTF-8 JSON."""
try:
    # It writes the very bytes that the other one writes.
    from orjson import dumps as encode
except ImportError:
    _encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

    def encode(value: Any) -> bytes:
        """Write compact UTF-8 JSON."""
        return _encoder.encode(value).encode()


def encode_submission(
    request: ImageToVideo, image_url: str, *, callback_url: str | None = None
) -> bytes:
    """Write the body of a submission; the same request gives the same bytes, as idempotency keys
    ask for.

    `callback_url` is where the service calls back instead of the request's own place, "" for
    nowhere.
    """
    back = request.callback_url if callback_url is None else callback_url
    # Written out: an encoder costs three times as much as the seven fields.
    body = f'{{"model":{_quoted(request.model)},"image_urls":[{_quoted(image_url)}]'
    if request.prompt is not None:
        body += f',"prompt":{_quoted(request.prompt)}'
    body += f',"quality":{_quoted(request.quality)},"duration":{request.duration:d}'
    if request.seed is not None:
        body += f',"seed":{request.seed:d}'
    if back:
        body += f',"callback_url":{_quoted(back)}'
    return (body + "}").encode()


# --- JSON -> values -------------------------------------------------------------------------------


def _decode(answer: Answer) -> dict[str, Any]:
    return unwrapped(decode_object(answer))


def unwrapped(value: dict[str, Any]) -> dict[str, Any]:
    """Return a task's JSON object as it is read. Some gateways put it into an envelope, as this
    service does in its other answers, or call its id otherwise; it is paid for all the same.
    """
    found = _named(value)
    for envelope in _ENVELOPES:
        if found is not None:
            break
        inner = value.get(envelope)
        if isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        found = _named(inner)
    return value if found is None else found


_ENVELOPES = ("data", "result", "task")


def _named(value: Any) -> dict[str, Any] | None:
    """Return a JSON object that has an id, under whichever name; None for another value."""
    if not isinstance(value, dict):
        return None
    if value.get("id"):
        return value
    return {**value, "id": value["task_id"]} if value.get("task_id") else None


def decode_task(answer: Answer, *, asked: str | None = None) -> Task:
    """Read one task from an answer; raises when it is another one than was `asked` for."""
    return task_from(decode_task_object(answer, asked=asked))


def decode_accepted(answer: Answer) -> Task:
    """Read the task that a submission has become. It is paid for; so a task's id is enough, and
    without a status it has just begun.
    """
    value = _decode(answer)
    task_id = value.get("id")
    if isinstance(task_id, str) and task_id.startswith(TASK_PREFIX) and TASK_ID.fullmatch(task_id):
        return task_from(value)
    return decode_task(answer)


def decode_task_object(answer: Answer, *, asked: str | None = None) -> dict[str, Any]:
    """Read one task from an answer as its JSON object, which has an id and a status.

    Raises when it is another one than was `asked` for: its video would be saved as that one's.
    """
    value = _task_in(_decode(answer))
    if value is None:
        raise unreadable(answer, "has no task id and status")
    if asked is not None and value["id"] != asked:
        raise unreadable(answer, f"is about the task {shown(value['id'])}, not about {asked}")
    return value


def decode_task_objects(answer: Answer) -> dict[str, dict[str, Any]]:
    """Read the tasks of a batch answer as JSON objects by id. Entries without id and status are
    left out, as if they were absent.
    """
    data = decode_object(answer).get("data")
    if not isinstance(data, list):
        raise unreadable(answer, "has no list of tasks")
    try:
        # Fifty a request, many times a minute: mostly all are different tasks.
        tasks = {value["id"]: value for value in data}
        words = {value["status"] for value in data}
        ids, _ = "".join(tasks), "".join(words)  # raises for what is no text
        no_blanks = " " not in ids and ids.isprintable()
        if len(tasks) == len(data) and "" not in tasks and "" not in words and no_blanks:
            return tasks
    except (TypeError, KeyError):
        pass  # those of them that are tasks
    tasks = {}
    for value in filter(None, map(_task_in, data)):
        # Of two entries about one task the one that says how it ended counts.
        if value["id"] not in tasks or not has_ended(tasks[value["id"]]):
            tasks[value["id"]] = value
    return tasks


def _task_in(value: Any) -> dict[str, Any] | None:
    """Return a task's JSON object, with its id as text; None for what has no id or no status."""
    if not isinstance(value, dict):
        return None
    task_id, status = value.get("id"), value.get("status")
    if not status or not isinstance(status, str):
        return None
    if isinstance(task_id, str) and task_id == task_id.strip():
        return value if task_id else None
    text = id_of(value)
    return None if text is None else {**value, "id": text}


def id_of(value: Mapping[str, Any]) -> str | None:
    """Return the id in a task's JSON object. A whole number is one too: services that count their
    tasks in a database send it so, and read it in a path.
    """
    task_id = value.get("id")
    if type(task_id) is int and task_id > 0:
        return str(task_id)
    # No path takes the blanks that a gateway has put around it.
    return task_id.strip() or None if isinstance(task_id, str) else None


def has_ended(value: Mapping[str, Any]) -> bool:
    """Return whether a task's JSON object says how the task has ended.

    Results decide: a completed task without links has not ended, they may come minutes later. A
    status that is newer than this package is an end when all is done and the links are there, or
    when it is a word for a failure, with the error of the task.
    """
    status = value["status"]
    if status in GOING_ON:
        return False
    if status == COMPLETED:
        return _has_results(value)
    if status in FINAL_STATUSES:
        return True
    known = _respelled(status)
    if known is not None:
        return has_ended({**value, "status": known})
    return _is_done(value) or _is_failure(value)


def lacks_results(task: Task) -> bool:
    """Return whether a task is completed without its links: that may take minutes."""
    return is_completed(task) and not _has_results(task.raw) and not task.results


def _respelled(word: str) -> TaskStatus | None:
    """Return the status that a known word means, in capitals, between blanks, or with one l."""
    plain = word[:100].strip().lower()
    return TaskStatus.CANCELLED if plain == "canceled" else STATUSES.get(plain)


def _has_results(value: Mapping[str, Any]) -> bool:
    results = value.get("results")
    if type(results) is list and len(results) == 1 and type(results[0]) is str:
        return bool(results[0].strip()) or bool(_results(value))
    return bool(_results(value))


_SUCCESS_WORDS = "succe(ss(ful)?|ed(ed)?)|complete|done|finished"


def _is_done(value: Mapping[str, Any]) -> bool:
    """Return whether a status that is newer than this package means that the task is done: the
    links are there, and the progress says so, or the word does. Some gateways leave the progress
    where they last saw it.
    """
    progress, word = value.get("progress"), value["status"][:100].strip().lower()
    all_of_it = progress is None or numbers.progress(progress) == 100
    return (all_of_it or re.fullmatch(_SUCCESS_WORDS, word) is not None) and _has_results(value)


_FAILURE_WORDS = "failure|error(ed)?|rejected|expired|time(d_)?out|aborted|terminated"
"""Words for the end of a task that other gateways of this kind have."""
_OF_CALLS = frozenset({"service_error", "service_unavailable", "quota_exceeded", "unknown_error"})
"""Codes of failures that calls are refused with too."""


def _is_failure(value: Mapping[str, Any]) -> bool:
    """Return whether a status that is newer than this package means that the task has failed.

    The service's own error of a task has to stand beside it. A gateway may tell an error of its
    own so, while the task goes on.
    """
    error = value.get("error")
    if not isinstance(error, dict):
        return False
    kind, code = error.get("type"), error.get("code")
    own = kind is None and isinstance(code, str) and code in FAILURES and code not in _OF_CALLS
    word = value["status"][:100].strip().lower()
    return (own or kind == "task_error") and re.fullmatch(_FAILURE_WORDS, word) is not None


STATUSES: dict[str, TaskStatus] = {status.value: status for status in TaskStatus}
"""The known ones by the service's words."""
_NO_USAGE = Usage()


def task_of(value: Any) -> Task | None:
    """Read a task from its JSON object; None when it has no id or no status. Unknown fields stay in
    `raw`.
    """
    found = _task_in(value)
    return None if found is None else task_from(found)


def task_from(value: Mapping[str, Any]) -> Task:
    """Read a task from a JSON object that has an id; without a status, it has just begun. These and
    the progress are read now, the rest when it is first asked for.
    """
    word = value.get("status")
    if not isinstance(word, str) or not word:
        word = TaskStatus.PENDING
    status = STATUSES.get(word) or _respelled(word) or _newer_status(value)
    if status is FAILED and _says_cancelled(value):
        status = TaskStatus.CANCELLED
    task = _blank(Task)
    _put_id(task, value["id"])
    _put_status(task, status)
    _put_progress(task, 100 if status is COMPLETED else numbers.progress(value.get("progress")))
    _put_raw(task, value)
    _put_late(task, _details)
    _put_answer(task, None)
    return task


# A frozen value is filled by way of its slots, which costs a quarter of what its own constructor
# does.
_blank = Task.__new__
_put_id, _put_status, _put_progress, _put_raw, _put_late, _put_answer = (
    vars(Task)[name].__set__ for name in ("id", "status", "progress", "raw", "_late", "_answer")
)
_drop_raw = vars(Task)["raw"].__delete__


_ID = b"\0"
"""Stands in a form for the task's id."""


class _Form(bytes):
    """An answer without its task's id, which is read when it is called with the id. As a kind of
    bytes, Python's collector passes it over.
    """

    __slots__ = ()

    def __call__(self, task_id: str) -> Mapping[str, Any]:
        value = _decode(Answer(200, {}, self.replace(_ID, task_id.encode())))
        value["id"] = task_id  # it may have come as a number
        return value


@functools.lru_cache(maxsize=64)
def _form(body: bytes) -> _Form:
    """Return the form of such a text. Tasks that begin in one second have the same one, mostly."""
    return _Form(body)


def pack(task: Task, answer: Answer) -> None:
    """Have a task that was just read from an answer keep it as bytes, and no object beside them.
    Tasks whose answers differ in nothing but the id share them.
    """
    if _ID[0] in answer.body:  # none that stands for itself
        return
    _put_answer(task, _form(answer.body.replace(task.id.encode(), _ID)))
    _drop_raw(task)


def _newer_status(value: Mapping[str, Any]) -> TaskStatus | str:
    """Return the status that a word means that is newer than this package: results decide, or the
    error of the task.
    """
    if _is_done(value):
        return COMPLETED
    return FAILED if _is_failure(value) else text_of(value["status"], most=100)


def _says_cancelled(value: Mapping[str, Any]) -> bool:
    error = value.get("error")
    return isinstance(error, dict) and error.get("code") == CANCELLED_CODE


def _details(task: Task, name: str) -> Mapping[str, Any]:
    """Return what `Task._late` does for the field that is asked for."""
    raw = task.raw
    results = _results(raw) if task.status is COMPLETED else ()
    if name == "results":
        return {"results": results}
    get = raw.get
    error, info, model = get("error"), dict_of(get("task_info")), get("model")
    created, seconds = numbers.moment(get("created")), numbers.seconds(get("duration"))
    return {
        "results": results,
        "error": _task_error(error) if error is not None else None,
        "usage": _usage(get("usage")),
        "billing": _billing(get("billing")),
        "model": text_of(model) if isinstance(model, str) and model else MODEL,
        "created": created,
        "expires_at": _expiry(created, seconds) if results else None,
        "estimated_seconds": numbers.seconds(info.get("estimated_time")),
        "seconds": seconds,
    }


def _results(value: Mapping[str, Any]) -> tuple[str, ...]:
    found = _links_in(_unpacked(value.get("results")), _LINK_NAMES)
    # Beside results, an object's other links may be pictures.
    names = _LINK_NAMES[:1] if found else _LINK_NAMES
    found += _links_in(value.get("result_data"), names, 1)
    found = found or _link_elsewhere(value)
    return tuple(without_surrogates(link) for link in dict.fromkeys(found))


def _unpacked(value: Any) -> Any:
    """Return what stands in a text of JSON, as some gateways pass results on; all else as it is."""
    if type(value) is not str or value.lstrip()[:1] not in ("[", "{") or len(value) > LONGEST_TEXT:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


_LINK_NAMES = ("video_url", "url", "video", "videos")
"""What an object may call its link; the first is the one that was seen."""


def _link_elsewhere(value: Mapping[str, Any]) -> list[str]:
    """Return the link where other gateways of this kind put it. Only what is called a video's is
    taken: a picture may stand there while the results are still to come.
    """
    for place in (value, *map(value.get, ("output", "result", "data"))):
        link = place.get(_LINK_NAMES[0]) if isinstance(place, Mapping) else None
        if isinstance(link, str) and link.lstrip()[:4].lower() == "http":
            return [link]
    return []


def _links_in(value: Any, names: tuple[str, ...], deep: int = 0) -> list[str]:
    """Return the links of a result, in whichever of the usual shapes it comes. That is a link, an
    object that names one, or a list of these.
    """
    if isinstance(value, str):
        is_one = value.strip() if deep == 1 else value.lstrip()[:4].lower() == "http"
        return [value] if is_one else []
    if isinstance(value, dict) and deep < 3:
        named = (_links_in(value.get(name), names, deep + 1) for name in names)
        return next(filter(None, named), [])
    if isinstance(value, list) and deep < 2:
        return [link for item in value[:MOST_RESULTS] for link in _links_in(item, names, deep + 1)]
    return []


def text_of(value: Any, *, most: int = LONGEST_TEXT) -> str:
    """Return a text that can be written, whatever it came as, and never longer than that."""
    text = value if isinstance(value, str) else numbers.shown(value)
    return without_surrogates(text[:most])


def _task_error(value: Any) -> TaskError:
    if not isinstance(value, dict):
        return TaskError(message=text_of(value))
    return TaskError(
        code=_word(value.get("code") or None) or "unknown_error",
        message=text_of(value.get("message") or ""),
        suggestion=text_of(value["suggestion"]) if value.get("suggestion") else None,
    )


def _usage(value: Any) -> Usage:
    if not isinstance(value, dict):
        return _NO_USAGE
    reserved, used, cost = (
        numbers.amount(value.get("credits_reserved")),
        numbers.amount(value.get("credits_used")),
        value.get("cost"),
    )
    if not isinstance(cost, dict):
        return Usage(credits_reserved=reserved, credits_used=used)
    return Usage(
        credits_reserved=reserved,
        credits_used=used if used is not None else numbers.amount(cost.get("credits")),
        usd=numbers.amount(cost.get("usd")),
    )


def _billing(value: Any) -> Billing | None:
    if not isinstance(value, dict):
        return None
    return Billing(
        charge_status=_word(value.get("charge_status")),
        refund_status=_word(value.get("refund_status")),
        refund_scope=_word(value.get("refund_scope")),
        reserved_credits=numbers.amount(value.get("reserved_credits")),
        charged_credits=numbers.amount(value.get("charged_credits")),
        refunded_credits=numbers.amount(value.get("refunded_credits")),
        refunded_at=numbers.utc_moment(value.get("refunded_at")),
    )


def _word(value: Any) -> str | None:
    return None if value is None else text_of(value, most=100)


def _expiry(created: datetime | None, seconds: float | None) -> datetime | None:
    # The link lives 24 hours from completion; completion is only known when the service says how
    # long the task took.
    try:
        return (
            created + LINK_LIFE + timedelta(seconds=seconds or 0) if created is not None else None
        )
    except OverflowError:  # it was created in the year 9999
        return None


def dict_of(value: Any) -> dict[str, Any]:
    """Return a JSON object; {} for whatever else came."""
    return value if isinstance(value, dict) else {}
