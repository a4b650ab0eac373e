"""Submit, query, query many, list."""

from __future__ import annotations

import time
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING

from .._accounts import pricing_rule
from .._errors import Refusal, invalid
from .._http import Answer, Route, json_answer
from .._openapi import api_document, files_document
from .._submissions import MODEL, read_submission
from .._views import credits_view

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._http import Answer, Call
    from .._service import Service
    from .._world import TaskRecord

__all__ = ["ROUTES", "page_argument"]

_MOST_IDS = 50
_MOST_ROWS = 50
_LISTED_STATUSES = {
    "processing": frozenset({"pending", "processing"}),
    "completed": frozenset({"completed"}),
    "failed": frozenset({"failed"}),
    "cancelled": frozenset({"cancelled"}),
}


async def _submit(service: Service, call: Call) -> Answer:
    wallet = call.owner
    wallet.admit(time.monotonic())
    allowed = service.options.allow_loopback
    submission = read_submission(call.json(), allow_loopback=allowed, is_own=service.fetcher.is_own)
    key = call.headers.get("Idempotency-Key") if service.features.idempotency else None
    accepted = service.world.submit(wallet, submission, now=call.now, key=key)
    if not accepted.task.is_final:
        accepted.task.ending = call.ending or accepted.task.ending
        accepted.task.output_seconds = call.output_seconds or accepted.task.output_seconds
    if accepted.replayed:
        headers = {"idempotency-replayed": "true"}
        return json_answer(service.views.submitted(accepted.task, call.now), headers=headers)
    answer = json_answer(service.views.submitted(accepted.task, call.now))
    service.studio.accept(accepted.task)
    return answer


async def _query(service: Service, call: Call) -> Answer:
    task_id = call.params["task_id"]
    task = service.world.find(call.owner, task_id)
    if task is None:
        if not task_id.startswith("task-unified-"):
            raise Refusal(
                400, "invalid_task_id", "task ids start with task-unified-", param="task_id"
            )
        raise Refusal(404, "task_not_found", f"there is no task {task_id}")
    return json_answer(service.views.task(task, call.now))


async def _query_many(service: Service, call: Call) -> Answer:
    body = call.json()
    ids = body.get("task_ids") if isinstance(body, dict) else None
    if not isinstance(ids, list) or not ids or not all(isinstance(task_id, str) for task_id in ids):
        raise invalid("task_ids", "task_ids must be an array of task ids")
    if len(ids) > _MOST_IDS:
        raise invalid("task_ids", f"at most {_MOST_IDS} task_ids are possible")
    found = (service.world.find(call.owner, task_id) for task_id in dict.fromkeys(ids))
    return json_answer(
        {"data": [service.views.task(task, call.now) for task in found if task is not None]}
    )


async def _list(service: Service, call: Call) -> Answer:
    page = page_argument(call, "page", 1)
    size = page_argument(call, "page_size", 20, most=_MOST_ROWS)
    wanted = _wanted(service, call)
    rows = [task for task in reversed(service.world.tasks.values()) if wanted(task)]
    shown = islice(rows, (page - 1) * size, page * size)
    data = [service.views.listed(task, call.now) for task in shown]
    return json_answer({"data": data, "total": len(rows), "page": page, "page_size": size})


def _wanted(service: Service, call: Call) -> Callable[[TaskRecord], bool]:
    status = call.argument("status")
    if status and status not in _LISTED_STATUSES:
        raise invalid("status", f"status must be one of {', '.join(_LISTED_STATUSES)}")
    statuses = _LISTED_STATUSES[status] if status else None
    other_kind = call.argument("type") not in (None, "", "video") or call.argument("model") not in (
        None,
        "",
        MODEL,
    )

    def _is_wanted(task: TaskRecord) -> bool:
        right_status = statuses is None or service.views.status(task, call.now) in statuses
        return task.wallet is call.wallet and right_status and not other_kind

    return _is_wanted


def page_argument(call: Call, name: str, default: int, *, most: int = 1_000_000) -> int:
    """Return a positive whole number from the query; raises `Refusal` (400)."""
    text = call.argument(name)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise invalid(name, f"{name} must be an integer from 1 to {most}")
    return int(text)


ROUTES = (
    Route("POST", "/v1/videos/generations", _submit),
    Route("GET", "/v1/tasks", _list, feature="listing"),
    Route("POST", "/v1/tasks/batch", _query_many, feature="batch"),
    Route("GET", "/v1/tasks/{task_id}", _query),
)
"""The task endpoints of the API host."""


# --- Credits and the catalogue's pricing rules.


async def _credits(service: Service, call: Call) -> Answer:
    return json_answer(credits_view(call.owner))


async def _pricing(service: Service, call: Call) -> Answer:
    if call.params["model"] != MODEL:
        raise Refusal(404, "not_found", f"there is no model {call.params['model']}")
    rule = pricing_rule(call.now)
    etag = f'"{rule["meta"]["pricing_version"]}"'
    if call.headers.get("If-None-Match") == etag:
        return Answer(304, body=b"", headers={"ETag": etag})
    return json_answer(rule, headers={"ETag": etag})


MONEY_ROUTES = (
    Route("GET", "/v1/credits", _credits),
    Route("GET", "/v1/catalog/pricing-rules/{model}", _pricing, needs_key=False, feature="pricing"),
)
"""The money endpoints of the API host."""


# --- The live page at `/` and the OpenAPI documents.


async def _page(service: Service, call: Call) -> Answer:
    return Answer(body=_page_bytes(), content_type="text/html; charset=utf-8")


async def _icon(service: Service, call: Call) -> Answer:
    return Answer(204, body=b"")


async def _api(service: Service, call: Call) -> Answer:
    return json_answer(api_document(service.url))


async def _files(service: Service, call: Call) -> Answer:
    return json_answer(files_document(service.files_url))


@cache
def _page_bytes() -> bytes:
    return files("happyhorse_async.sandbox").joinpath("page.html").read_bytes()


PAGE_ROUTES = (
    Route("GET", "/", _page, needs_key=False),
    Route("GET", "/favicon.ico", _icon, needs_key=False),
    Route("GET", "/openapi.json", _api, needs_key=False),
)
"""On the API's listener."""

FILES_PAGE_ROUTES = (Route("GET", "/openapi.json", _files, needs_key=False),)
"""On the file host's listener."""
