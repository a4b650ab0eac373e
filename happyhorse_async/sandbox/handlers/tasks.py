"""Submit, query, query many, list."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from ..exchange import json_answer
from ..refusals import Refusal, invalid
from ..routing import Route
from ..submissions import MODEL, read_submission

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..exchange import Answer, Call
    from ..service import Service
    from ..tasks import TaskRecord

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
    submission = read_submission(call.json(), allow_loopback=service.options.allow_loopback)
    key = call.headers.get("Idempotency-Key") if service.features.idempotency else None
    accepted = service.world.submit(wallet, submission, now=call.now, key=key)
    if call.ending is not None and not accepted.task.is_final:
        accepted.task.ending = call.ending
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
            raise Refusal(400, "invalid_task_id", "task ids start with task-unified-", param="task_id")
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
    return json_answer({"data": [service.views.task(task, call.now) for task in found if task is not None]})


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
    other_kind = call.argument("type") not in (None, "", "video") or call.argument("model") not in (None, "", MODEL)

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
