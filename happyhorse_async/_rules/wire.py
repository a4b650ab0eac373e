"""Values <-> JSON: requests into bodies, answers into tasks, pages, credits and files.

May import cattrs, the models and the errors; no I/O. Regular answers (list items, files) are read
by cattrs, which knows the fields from the models. Submissions and tasks are written out by hand:
they are on the hot path, and a task's fields come in several shapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from .._models import (
    MODEL,
    Billing,
    Credits,
    Task,
    TaskError,
    TaskPage,
    TaskStatus,
    TaskSummary,
    UploadedFile,
    Usage,
)
from .._request import ImageToVideo
from .lifecycle import FINAL_STATUSES
from .responses import Answer, decode_object, error_of, unreadable

if TYPE_CHECKING:
    import cattrs

LINK_LIFE = timedelta(hours=24)
"""How long a result link lives, by the service's reference."""
FILE_LIFE = timedelta(hours=72)
"""How long an uploaded file lives, by the service's reference."""
BATCH_SIZE = 50
"""Ids in one batch read, and items on one page of the list, at most."""
TASK_ID_PREFIX = "task-unified-"


# --- values -> JSON -------------------------------------------------------------------------------

_dumps: Callable[[Any], bytes]
try:
    # It writes the very bytes that the other one writes.
    from orjson import dumps as _dumps
except ImportError:
    _encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

    def _dumps(value: Any) -> bytes:
        return _encoder.encode(value).encode()


_SENT = tuple(
    field.name for field in attrs.fields(ImageToVideo) if field.name not in ("image", "model")
)


def encode_submission(
    request: ImageToVideo, image_url: str, *, callback_url: str | None = None
) -> bytes:
    """Write the body of a submission; the same request gives the same bytes, as idempotency keys
    ask for.

    `callback_url` is where the service calls back instead of the request's own place, "" for
    nowhere.
    """
    fields: dict[str, Any] = {"model": request.model, "image_urls": [image_url]}
    for name in _SENT:
        value = getattr(request, name)
        if value is not None:
            fields[name] = value
    if callback_url:
        fields["callback_url"] = callback_url
    elif callback_url is not None:
        fields.pop("callback_url", None)
    return encode(fields)


def encode(value: Any) -> bytes:
    """Write compact UTF-8 JSON."""
    return _dumps(value)


# --- JSON -> values -------------------------------------------------------------------------------


def decode_task(answer: Answer) -> Task:
    """Read one task from an answer."""
    value = decode_object(answer)
    task = task_of(value)
    if task is None:
        raise unreadable(answer, "has no task id and status")
    return task


def decode_task_object(answer: Answer) -> dict[str, Any]:
    """Read one task from an answer as its JSON object, which has an id and a status."""
    value = decode_object(answer)
    if not _is_task(value):
        raise unreadable(answer, "has no task id and status")
    return value


def decode_task_objects(answer: Answer) -> dict[str, dict[str, Any]]:
    """Read the tasks of a batch answer as JSON objects by id; entries without id and status are
    left out, as if they were absent.
    """
    data = decode_object(answer).get("data")
    if not isinstance(data, list):
        raise unreadable(answer, "has no list of tasks")
    tasks = {}
    # Fifty a request, many times a minute: the check is written out here.
    for value in data:
        try:
            task_id, status = value["id"], value["status"]
        except (TypeError, KeyError):
            continue
        if (
            task_id
            and status
            and isinstance(task_id, str)
            and isinstance(status, str)
            and isinstance(value, dict)
        ):
            tasks[task_id] = value
    return tasks


def _is_task(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    task_id, status = value.get("id"), value.get("status")
    return bool(task_id and status and isinstance(task_id, str) and isinstance(status, str))


def has_ended(value: Mapping[str, Any]) -> bool:
    """Return whether a task's JSON object says how the task has ended.

    A completed task without links has not: they may come minutes later.
    """
    status = value["status"]
    return status in FINAL_STATUSES and (status != TaskStatus.COMPLETED or bool(_results(value)))


_STATUSES: dict[str, TaskStatus] = {status.value: status for status in TaskStatus}
_NO_USAGE = Usage()


def task_of(value: Any) -> Task | None:
    """Read a task from its JSON object; None when it has no id or no status. Unknown fields stay in
    `raw`.
    """
    return task_from(value) if _is_task(value) else None


def task_from(value: Mapping[str, Any]) -> Task:
    """Read a task from a JSON object that has an id and a status: these and the progress now, the
    rest when it is first asked for.
    """
    word = value["status"]
    status = _STATUSES.get(word, word)
    task = _blank(Task)
    _put_id(task, value["id"])
    _put_status(task, status)
    _put_progress(task, _progress(value.get("progress"), status))
    _put_raw(task, value)
    _put_late(task, _details)
    return task


# A frozen value is filled by way of its slots, which costs a quarter of what its own constructor
# does.
_blank = Task.__new__
_put_id, _put_status, _put_progress, _put_raw, _put_late = (
    vars(Task)[name].__set__ for name in ("id", "status", "progress", "raw", "_late")
)


def _details(task: Task) -> Mapping[str, Any]:
    get = task.raw.get
    results = _results(task.raw) if task.status is TaskStatus.COMPLETED else ()
    error, info, model = get("error"), _dict(get("task_info")), get("model")
    created, seconds = moment(get("created")), _seconds(get("duration"))
    return {
        "results": results,
        "error": _task_error(error) if error is not None else None,
        "usage": _usage(get("usage")),
        "billing": _billing(get("billing")),
        "model": model if isinstance(model, str) and model else MODEL,
        "created": created,
        "expires_at": _expiry(created, seconds) if results else None,
        "estimated_seconds": _seconds(info.get("estimated_time")),
        "seconds": seconds,
    }


def _progress(value: Any, status: str) -> int:
    if status is TaskStatus.COMPLETED:
        return 100
    if type(value) is int and 0 <= value <= 100:
        return value
    return int(min(100, max(0, value))) if isinstance(value, (int, float)) and value == value else 0


def _results(value: Mapping[str, Any]) -> tuple[str, ...]:
    results = value.get("results")
    links = [link for link in results if isinstance(link, str)] if isinstance(results, list) else []
    data = value.get("result_data")
    for item in data if isinstance(data, list) else [data]:
        link = item.get("video_url") if isinstance(item, dict) else None
        if isinstance(link, str) and link not in links:
            links.append(link)
    return tuple(links)


def _task_error(value: Any) -> TaskError:
    if not isinstance(value, dict):
        return TaskError(message=str(value))
    return TaskError(
        code=str(value.get("code") or "unknown_error"),
        message=str(value.get("message") or ""),
        suggestion=str(value["suggestion"]) if value.get("suggestion") else None,
    )


def _usage(value: Any) -> Usage:
    if not isinstance(value, dict):
        return _NO_USAGE
    reserved, used, cost = (
        _decimal(value.get("credits_reserved")),
        _decimal(value.get("credits_used")),
        value.get("cost"),
    )
    if not isinstance(cost, dict):
        return Usage(credits_reserved=reserved, credits_used=used)
    return Usage(
        credits_reserved=reserved,
        credits_used=used if used is not None else _decimal(cost.get("credits")),
        usd=_decimal(cost.get("usd")),
    )


def _billing(value: Any) -> Billing | None:
    if not isinstance(value, dict):
        return None
    charge, refund = value.get("charge_status"), value.get("refund_status")
    return Billing(
        charge_status=None if charge is None else str(charge),
        refund_status=None if refund is None else str(refund),
        reserved_credits=_decimal(value.get("reserved_credits")),
        charged_credits=_decimal(value.get("charged_credits")),
    )


def _expiry(created: datetime | None, seconds: float | None) -> datetime | None:
    # The link lives 24 hours from completion; completion is only known when the service says how
    # long the task took.
    try:
        return (
            created + LINK_LIFE + timedelta(seconds=seconds or 0) if created is not None else None
        )
    except OverflowError:  # it was created in the year 9999
        return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _decimal(value: Any) -> Decimal | None:
    if value is None:
        return None
    if type(value) is int:
        return Decimal(value)
    if isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < 10**9 else None


def moment(value: Any) -> datetime | None:
    """Read a time: Unix seconds, or ISO 8601 (UTC when it names no offset); None when it is
    neither.
    """
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            read = datetime.fromisoformat(value)
            return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def decode_page(answer: Answer) -> TaskPage:
    """Read one page of the task list."""
    value = decode_object(answer)
    data = value.get("data")
    if not isinstance(data, list):
        raise unreadable(answer, "has no list of tasks")
    items = tuple(
        _summary(item)
        for item in data
        if isinstance(item, dict) and isinstance(item.get("id"), str)
    )
    counts = {
        name: value[name] if isinstance(value.get(name), int) else 0
        for name in ("total", "page", "page_size")
    }
    return TaskPage(items=items, **counts)


def _summary(value: Mapping[str, Any]) -> TaskSummary:
    item = _regular().structure(
        {"status": "", "created_at": value.get("created"), **value}, TaskSummary
    )
    return attrs.evolve(item, progress=_progress(value.get("progress"), item.status), raw=value)


def decode_credits(answer: Answer) -> Credits:
    """Read what is left in the account."""
    data = _dict(decode_object(answer).get("data"))
    user, key = _dict(data.get("user")), _dict(data.get("token"))
    remaining = _decimal(user.get("remaining_credits"))
    if remaining is None:
        raise unreadable(answer, "has no remaining credits")
    return Credits(
        remaining=remaining,
        used=_decimal(user.get("used_credits")) or Decimal(0),
        key_remaining=_decimal(key.get("remaining_credits")),
        key_used=_decimal(key.get("used_credits")),
        key_unlimited=bool(key.get("unlimited_credits")),
    )


class LiveRule(NamedTuple):
    """A pricing rule as the catalogue gives it."""

    rule: Mapping[str, Any] | None
    """None: it has not changed."""
    etag: str | None
    date: datetime | None
    """The service's time of the answer."""


def decode_pricing_rule(answer: Answer) -> LiveRule:
    """Read the answer of the catalogue; what the rule means is the business of `prices`."""
    rule = None if answer.status == 304 else decode_object(answer)
    return LiveRule(rule, answer.headers.get("etag"), answer.date)


def decode_models(answer: Answer) -> tuple[str, ...]:
    """Read the ids of the models that a key may use."""
    data = decode_object(answer).get("data")
    if not isinstance(data, list):
        raise unreadable(answer, "has no list of models")
    names = (_dict(item).get("id") for item in data)
    return tuple(name for name in names if isinstance(name, str) and name)


def decode_upload(answer: Answer, *, size: int) -> UploadedFile:
    """Read the answer of the file service to an upload of so many bytes.

    Raises `UnreadableAnswerError` when the service has another number of them.
    """
    value = decode_object(answer)
    if value.get("success") is False:
        raise error_of(answer)
    file = _uploaded(value.get("data"))
    if file is None:
        raise unreadable(answer, "has no file URL")
    if file.size and file.size != size:
        raise unreadable(answer, f"says {file.size:,} bytes, and {size:,} were sent")
    return file


def decode_receipt(answer: Answer, *, upload_id: str, size: int) -> UploadedFile | None:
    """Read what became of an upload; None unless it is proven that all of it arrived."""
    data = _dict(decode_object(answer).get("data"))
    proven = data.get("state") == "done" and data.get("result_verified") is True
    file = _uploaded(data.get("file"))
    if not proven or data.get("upload_id") != upload_id or file is None:
        return None
    return file if file.size in (0, size) else None


def _uploaded(data: Any) -> UploadedFile | None:
    if not isinstance(data, dict) or not isinstance(data.get("file_url"), str):
        return None
    file = attrs.evolve(_regular().structure(data, UploadedFile), raw=data)
    return file if file.size >= 0 else attrs.evolve(file, size=0)


# --- regular answers ------------------------------------------------------------------------------


@cache
def _regular() -> cattrs.Converter:
    """Make the converter once, with hooks that never raise: a field that is missing or wrong must
    not lose the rest of an answer.
    """
    # Late: a process that only submits and reads should not have to load it.
    import cattrs
    from cattrs.gen import make_dict_structure_fn, override

    converter = cattrs.Converter(detailed_validation=False)
    converter.register_structure_hook(str, lambda value, _: "" if value is None else str(value))
    converter.register_structure_hook(int, lambda value, _: value if type(value) is int else 0)
    converter.register_structure_hook(bool, lambda value, _: bool(value))
    converter.register_structure_hook(Decimal, lambda value, _: _decimal(value))
    converter.register_structure_hook(datetime, lambda value, _: moment(value))
    converter.register_structure_hook_func(
        lambda kind: kind == TaskStatus | str,
        lambda value, _: _STATUSES.get(str(value), str(value)),
    )
    left_out = override(omit=True)
    summary = make_dict_structure_fn(
        TaskSummary, converter, created=override(rename="created_at"), raw=left_out
    )
    converter.register_structure_hook(TaskSummary, summary)
    file = make_dict_structure_fn(
        UploadedFile,
        converter,
        url=override(rename="file_url"),
        id=override(rename="file_id"),
        name=override(rename="file_name"),
        size=override(rename="file_size"),
        raw=left_out,
    )
    converter.register_structure_hook(UploadedFile, file)
    return converter
