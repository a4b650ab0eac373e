"""The control paths: another process steers the sandbox's clock, tasks and faults over HTTP. Not part of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..exchange import json_answer
from ..faults import Fault
from ..refusals import Refusal, invalid
from ..routing import Route
from ..state import describe, describe_request
from ..tasks import Ending, usual_code
from .tasks import page_argument

if TYPE_CHECKING:
    from ..exchange import Answer, Call
    from ..service import Service

__all__ = ["ROUTES"]

_FAULT_FIELDS = ("method", "path", "nth", "times", "probability", "seed", "after")


async def _state(service: Service, call: Call) -> Answer:
    return json_answer(describe(service, service.catch_up()))


async def _advance(service: Service, call: Call) -> Answer:
    service.advance(_number(_body(call), "seconds"))
    return await _state(service, call)


async def _speed(service: Service, call: Call) -> Answer:
    service.set_speed(_number(_body(call), "speed"))
    return await _state(service, call)


async def _finish(service: Service, call: Call) -> Answer:
    task_id = _body(call).get("task_id")
    if task_id is not None:
        _known(service, task_id)
    service.finish(task_id)
    return await _state(service, call)


async def _end(service: Service, call: Call) -> Answer:
    body = _body(call)
    task_id, status = body.get("task_id"), body.get("status")
    _known(service, task_id)
    if not isinstance(status, str):
        raise invalid("status", "status must be a string")
    code, message = (_text(body, name) for name in ("error_code", "message"))
    try:
        service.end(str(task_id), Ending(status, code or usual_code(status), message, bool(body.get("refund", True))))
    except ValueError as error:
        raise invalid("task_id", str(error)) from None
    return await _state(service, call)


async def _add_fault(service: Service, call: Call) -> Answer:
    body = _body(call)
    details = body.get("details", {})
    if not isinstance(details, dict):
        raise invalid("details", "details must be an object")
    conditions = {name: body[name] for name in _FAULT_FIELDS if name in body}
    try:
        service.faults.add(Fault(body.get("action", ""), **conditions, **details))
    except (TypeError, ValueError) as error:
        raise invalid("action", str(error)) from None
    return await _state(service, call)


async def _clear_faults(service: Service, call: Call) -> Answer:
    service.faults.clear()
    return await _state(service, call)


async def _scenario(service: Service, call: Call) -> Answer:
    try:
        service.add_scenario(str(_body(call).get("name")))
    except ValueError as error:
        raise invalid("name", str(error)) from None
    return await _state(service, call)


async def _requests(service: Service, call: Call) -> Answer:
    latest = service.journal.latest(page_argument(call, "limit", 100, most=10_000))
    return json_answer({"requests": [describe_request(record) for record in latest]})


def _body(call: Call) -> dict[str, Any]:
    body = call.json() if call.body else {}
    if not isinstance(body, dict):
        raise Refusal(400, "invalid_request", "the body must be a JSON object")
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
        raise Refusal(404, "task_not_found", f"there is no task {task_id}")


ROUTES = (
    Route("GET", "/sandbox/state", _state, needs_key=False),
    Route("GET", "/sandbox/requests", _requests, needs_key=False),
    Route("POST", "/sandbox/advance", _advance, needs_key=False),
    Route("POST", "/sandbox/speed", _speed, needs_key=False),
    Route("POST", "/sandbox/finish", _finish, needs_key=False),
    Route("POST", "/sandbox/end", _end, needs_key=False),
    Route("POST", "/sandbox/faults", _add_fault, needs_key=False),
    Route("DELETE", "/sandbox/faults", _clear_faults, needs_key=False),
    Route("POST", "/sandbox/scenario", _scenario, needs_key=False),
)
"""The control paths, on the API's listener."""
