"""The sandbox's own paths, which are not part of the service.

Another process steers the sandbox's clock, tasks and faults over HTTP. Browsers get the live page
at `/`, and tools each host's OpenAPI document.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, Any

from .._errors import Refused, invalid
from .._faults import ACTIONS, CONDITIONS, Fault, fault_of, fault_of_line
from .._http import Endpoint, Reply
from .._scenarios import SCENARIOS
from .api import page_argument

if TYPE_CHECKING:
    from .._http import Call
    from .._service import RequestRecord, Service
    from .._task_record import TaskRecord


async def _state(service: Service, call: Call) -> Reply:
    return Reply(200, describe(service, service.catch_up()))


async def _advance(service: Service, call: Call) -> Reply:
    service.advance(_number(_body(call), "seconds"))
    return await _state(service, call)


async def _speed(service: Service, call: Call) -> Reply:
    service.set_speed(_number(_body(call), "speed"))
    return await _state(service, call)


async def _finish(service: Service, call: Call) -> Reply:
    task_id = _body(call).get("task_id")
    if task_id is not None:
        _known(service, task_id)
    service.finish(task_id)
    return await _state(service, call)


async def _end(service: Service, call: Call) -> Reply:
    body = _body(call)
    task_id, status = body.get("task_id"), body.get("status")
    _known(service, task_id)
    if not isinstance(status, str):
        raise invalid("status", "status must be a string")
    code, message = (_text(body, name) for name in ("error_code", "message"))
    try:
        service.end(str(task_id), status, code, message, refund=bool(body.get("refund", True)))
    except ValueError as error:
        raise invalid("task_id", str(error)) from None
    return await _state(service, call)


async def _add_fault(service: Service, call: Call) -> Reply:
    told = _body(call)
    line = _text(told, "line")
    try:
        service.faults.add(fault_of(told) if line is None else fault_of_line(line))
    except (TypeError, ValueError) as error:
        raise invalid("action", str(error)) from None
    return await _state(service, call)


async def _known_faults(service: Service, call: Call) -> Reply:
    actions = [
        {
            "name": name,
            "summary": action.summary,
            "strikes": action.stage,
            "path": action.path,
            "details": {detail: kind.words for detail, kind in action.details.items()},
        }
        for name, action in sorted(ACTIONS.items())
    ]
    conditions = {name: kind.words for name, kind in CONDITIONS.items()}
    return Reply(200, {"actions": actions, "conditions": conditions})


async def _clear_faults(service: Service, call: Call) -> Reply:
    service.faults.clear()
    return await _state(service, call)


async def _scenario(service: Service, call: Call) -> Reply:
    try:
        service.add_scenario(str(_body(call).get("name")))
    except ValueError as error:
        raise invalid("name", str(error)) from None
    return await _state(service, call)


async def _requests(service: Service, call: Call) -> Reply:
    latest = service.journal.latest(page_argument(call, "limit", 100, most=10_000))
    return Reply(200, {"requests": [describe_request(record) for record in latest]})


def _body(call: Call) -> dict[str, Any]:
    body = call.json() if call.body else {}
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", "the body must be a JSON object")
    return body


def _number(body: dict[str, Any], name: str) -> float:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e10:
        raise invalid(name, f"{name} must be a number that is not negative")
    return float(value)


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(name, f"{name} must be a string")
    return value


def _known(service: Service, task_id: Any) -> None:
    if not isinstance(task_id, str) or task_id not in service.world.tasks:
        raise Refused(404, "task_not_found", f"there is no task {task_id}")


ROUTES = (
    Endpoint("GET", "/sandbox/state", _state, needs_key=False),
    Endpoint("GET", "/sandbox/requests", _requests, needs_key=False),
    Endpoint("POST", "/sandbox/advance", _advance, needs_key=False),
    Endpoint("POST", "/sandbox/speed", _speed, needs_key=False),
    Endpoint("POST", "/sandbox/finish", _finish, needs_key=False),
    Endpoint("POST", "/sandbox/end", _end, needs_key=False),
    Endpoint("GET", "/sandbox/faults", _known_faults, needs_key=False),
    Endpoint("POST", "/sandbox/faults", _add_fault, needs_key=False),
    Endpoint("DELETE", "/sandbox/faults", _clear_faults, needs_key=False),
    Endpoint("POST", "/sandbox/scenario", _scenario, needs_key=False),
)
"""The control paths, on the API's listener."""


# --- What goes on in a sandbox, as JSON: for the page at `/`, and for steering from another
# process.


_MOST_TASKS = 100
_MOST_REQUESTS = 12


def describe(service: Service, now: float) -> dict[str, Any]:
    """Return clock, money, the latest tasks and requests, and the faults."""
    world = service.world
    tasks = list(islice(reversed(world.tasks.values()), _MOST_TASKS))
    wallets = world.wallets.values()
    return {
        "now": now,
        "speed": service.clock.speed,
        "url": service.url,
        "files_url": service.files_url,
        "paid": len(world.tasks),
        "refunded": world.refunded,
        "credits": {
            "remaining": float(sum(wallet.remaining for wallet in wallets)),
            "reserved": float(sum(wallet.reserved for wallet in wallets)),
            "used": float(sum(wallet.used for wallet in wallets)),
        },
        "files": sum(wallet.files for wallet in wallets),
        "tasks": [_describe_task(service, task, now) for task in tasks],
        "requests": [
            describe_request(record) for record in reversed(service.journal.latest(_MOST_REQUESTS))
        ],
        "faults": [describe_fault(fault) for fault in service.faults.faults],
        "scenarios": list(SCENARIOS),
    }


def describe_request(record: RequestRecord) -> dict[str, Any]:
    """Return one request without its headers and body."""
    path = f"{record.path}?{record.query}" if record.query else record.path
    return {
        "at": record.at,
        "host": record.host,
        "method": record.method,
        "path": path,
        "status": record.status,
    }


def describe_fault(fault: Fault) -> dict[str, Any]:
    """Return a fault's action and conditions."""
    return {
        "action": fault.action,
        "method": fault.method,
        "path": fault.path,
        "times": fault.times,
        "probability": fault.probability,
        "details": {name: repr(value) for name, value in fault.details.items()},
    }


def _describe_task(service: Service, task: TaskRecord, now: float) -> dict[str, Any]:
    link = service.views.link(task)
    error = task.error()
    return {
        "id": task.id,
        "created": task.created,
        "model": task.submission.model,
        "status": service.views.status(task, now),
        "progress": task.progress_at(now),
        "prompt": task.submission.prompt,
        "image_url": task.submission.image_url,
        "quality": task.submission.quality,
        "duration": task.submission.duration,
        "reserved": float(task.charge.reserved),
        "charged": float(task.charge.charged),
        "refunded": float(task.charge.refunded),
        "error": error["code"] if error else None,
        "link": link,
        "link_expires": task.links[-1].expires if link else None,
    }


# --- What the sandbox shows of itself: its page, and the documents of its hosts.


async def _page(service: Service, call: Call) -> Reply:
    # Another site could put the page in a frame and lead a click onto its buttons.
    headers = {"X-Frame-Options": "DENY", "Cache-Control": "no-store"}
    page = _data("page.html")
    if not service.options.control:
        page = page.replace(b'data-control="on"', b'data-control="off"', 1)
    return Reply(body=page, content_type="text/html; charset=utf-8", headers=headers)


async def _icon(service: Service, call: Call) -> Reply:
    return Reply(204, body=b"")


async def _document(service: Service, call: Call) -> Reply:
    url = service.files_url if call.host == "files" else service.url
    return Reply(200, document(call.host, url))


def document(host: str, url: str) -> dict[str, Any]:
    """Return the OpenAPI document of a host, "api" or "files", that listens at a URL."""
    text = _data(f"openapi_{host}.json")
    return {**json.loads(text), "servers": [{"url": url}]}


@cache
def _data(name: str) -> bytes:
    return files("happyhorse_async.sandbox").joinpath(name).read_bytes()


DOCUMENT = Endpoint("GET", "/openapi.json", _document, needs_key=False)
"""On each host's listener."""

PAGES = (
    Endpoint("GET", "/", _page, needs_key=False),
    Endpoint("GET", "/favicon.ico", _icon, needs_key=False),
    DOCUMENT,
)
"""On the API's listener."""
