"""The endpoints of the API host: submit, query, list, models, credits and prices."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from .._errors import Refused, invalid
from .._http import Endpoint, Reply
from .._prices import FRESH_SECONDS, amounts, utc_text
from .._submissions import read_submission
from .._views import credits_view

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .._http import Call
    from .._service import Service
    from .._task_record import TaskRecord

_MOST_IDS = 50
_MOST_ROWS = 50
_TASK_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ESTIMATE_SECONDS = 300
_LISTED_STATUSES = {
    "processing": frozenset({"pending", "processing"}),
    "completed": frozenset({"completed"}),
    "failed": frozenset({"failed"}),
    "cancelled": frozenset({"cancelled"}),
}


async def _submit(service: Service, call: Call) -> Reply:
    wallet = call.owner
    wallet.admit(service.clock.real())
    allowed = service.options.allow_loopback
    key = call.headers.get("Idempotency-Key") if service.features.idempotency else None
    try:
        order = read_submission(call.json(), allow_loopback=allowed, is_own=service.fetcher.is_own)
    except Refused:
        # A known key with another body is a conflict, whatever is wrong with that body.
        service.world.check_unused(wallet, key, call.now)
        raise
    task, replayed = service.world.submit(wallet, order, now=call.now, key=key, quirks=call.quirks)
    answer = Reply(200, service.views.submitted(task, call.now))
    if replayed:
        answer.headers["idempotency-replayed"] = "true"
    else:
        service.videos.accept(task)
    return answer


async def _query(service: Service, call: Call) -> Reply:
    task_id = call.params["task_id"]
    task = service.world.find(call.owner, task_id, call.now)
    if task is None:
        if not _TASK_ID.fullmatch(task_id):
            message = "a task id is 1 to 128 characters of A-Za-z0-9._:-"
            raise Refused(400, "invalid_task_id", message, param="task_id")
        raise Refused(404, "task_not_found", f"there is no task {task_id}")
    return Reply(200, service.show(task, call.now))


async def _query_many(service: Service, call: Call) -> Reply:
    body = call.json()
    ids = body.get("task_ids") if isinstance(body, dict) else None
    if not isinstance(ids, list) or not ids or not all(isinstance(task_id, str) for task_id in ids):
        raise invalid("task_ids", "task_ids must be an array of task ids")
    if len(ids) > _MOST_IDS:
        raise invalid("task_ids", f"at most {_MOST_IDS} task_ids are possible")
    world, now = service.world, call.now
    found = (world.find(call.owner, task_id, now) for task_id in dict.fromkeys(ids))
    return Reply(200, {"data": [service.show(task, now) for task in found if task is not None]})


async def _list(service: Service, call: Call) -> Reply:
    page = page_argument(call, "page", 1)
    size = page_argument(call, "page_size", 20, most=_MOST_ROWS)
    wanted = _wanted(service, call)
    rows = [task for task in service.world.tasks.values() if wanted(task)]
    if not call.oldest_first:
        rows.reverse()
    first = max(0, (page - 1) * size - call.shift)
    shown = islice(rows, first, first + size)
    data = [service.views.listed(task, call.now) for task in shown]
    return Reply(200, {"data": data, "total": len(rows), "page": page, "page_size": size})


def _wanted(service: Service, call: Call) -> Callable[[TaskRecord], bool]:
    status = call.argument("status")
    if status and status not in _LISTED_STATUSES:
        raise invalid("status", f"status must be one of {', '.join(_LISTED_STATUSES)}")
    statuses = _LISTED_STATUSES[status] if status else None
    kind, model = call.argument("type") or "video", call.argument("model")

    def _is_wanted(task: TaskRecord) -> bool:
        if task.wallet is not call.wallet or task.is_hidden(call.now, in_list=True):
            return False
        right_status = statuses is None or service.views.status(task, call.now) in statuses
        return right_status and kind == "video" and model in (None, "", task.submission.model)

    return _is_wanted


def page_argument(call: Call, name: str, default: int, *, most: int = 1_000_000) -> int:
    """Return a positive whole number from the query; raises `Refused` (400)."""
    text = call.argument(name)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise invalid(name, f"{name} must be an integer from 1 to {most}")
    return int(text)


# --- Models, credits, and what things cost.


async def _models(service: Service, call: Call) -> Reply:
    models = call.owner.account.models
    return Reply(
        200, {"object": "list", "data": [{"id": each, "object": "model"} for each in models]}
    )


async def _credits(service: Service, call: Call) -> Reply:
    return Reply(200, credits_view(call.owner))


async def _pricing(service: Service, call: Call) -> Reply:
    model, prices = call.params["model"], service.world.prices
    etag = prices.etag(model)
    headers = {"ETag": etag, "Cache-Control": f"public, max-age={FRESH_SECONDS}"}
    answer = Reply(200, prices.rule(model, call.now), headers=headers)
    known = call.headers.get("If-None-Match", "")
    if known == "*" or etag in [tag.strip() for tag in known.split(",")]:
        answer.status, answer.body = 304, b""
    return answer


async def _estimate(service: Service, call: Call) -> Reply:
    body = call.json()
    if not isinstance(body, dict) or not isinstance(body.get("model_id"), str):
        raise invalid("model_id", "model_id must be a string")
    model, account, prices = body["model_id"], call.owner.account, service.world.prices
    rule = prices.rule(model, call.now)
    account.check_model(model)
    if body.get("operation") != rule["model"]["operation"]:
        raise invalid("operation", f"operation must be {rule['model']['operation']}")
    parameters = body.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid("parameters", "parameters must be an object")
    told: dict[str, Any] = {
        "price_scope": "account",
        "model_id": model,
        "operation": body["operation"],
        "amounts": amounts(prices.estimate(model, parameters, account.discount)),
        "pricing_version": rule["meta"]["pricing_version"],
        "expires_at": utc_text(call.now + _ESTIMATE_SECONDS),
    }
    return Reply(200, told)


ROUTES = (
    Endpoint("POST", "/v1/videos/generations", _submit),
    Endpoint("GET", "/v1/tasks", _list, feature="listing"),
    Endpoint("POST", "/v1/tasks/batch", _query_many, feature="batch"),
    Endpoint("GET", "/v1/tasks/{task_id}", _query),
    Endpoint("GET", "/v1/models", _models, feature="models"),
    Endpoint("GET", "/v1/credits", _credits),
    Endpoint("POST", "/v1/agent-estimates", _estimate, feature="estimates"),
    Endpoint(
        "GET", "/v1/catalog/pricing-rules/{model}", _pricing, needs_key=False, feature="pricing"
    ),
)
"""The endpoints of the API host."""
