"""What a fault does to one exchange: changes of the call, of the answer, and of how the answer is
delivered.

Functions over values; the sockets are `delivery`'s.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from email.utils import formatdate
from math import inf
from typing import TYPE_CHECKING, Any

import attrs

from ._errors import Refusal, typical_code
from ._http import Answer, api_error, expired_answer, file_error
from ._world import Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._faults import Fault
    from ._http import Call
    from ._service import Service
    from ._world import TaskRecord

__all__ = ["Act", "Delivery", "after", "before"]


@attrs.define
class Delivery:
    """How an answer leaves: as it should, unless a fault says otherwise."""

    delay: float = 0.0
    """Real seconds before the first byte."""
    silent: bool = False
    """Nothing is sent: after `delay`, or at the sandbox's end when it is infinite, the connection
    is dropped."""
    chunk: int | None = None
    """Send the body in pieces of so many bytes, `interval` real seconds apart."""
    interval: float = 0.0
    stop_after: int | None = None
    """Send only so many bytes of the body that was announced, then close the connection."""
    reset: bool = False
    """Close with a reset instead of an orderly end."""


@attrs.define
class Act:
    """One fault at work on one exchange."""

    details: dict[str, Any]
    service: Service
    call: Call
    delivery: Delivery
    answer: Answer | None = None
    """None while the call has not been handled."""
    request_id: str | None = None
    """What an error's body names for support."""

    @property
    def true_answer(self) -> Answer:
        """Return the answer so far; only after the call has been handled."""
        if self.answer is None:
            raise RuntimeError("the call has not been handled yet")
        return self.answer

    def seconds(self, default: float) -> float:
        """Return the detail `seconds`."""
        return float(self.details.get("seconds", default))


def before(fault: Fault, act: Act) -> None:
    """Carry out what happens before a call is handled; it is not handled at all when this sets
    `act.answer`.
    """
    change = _BEFORE.get(fault.action)
    if change is not None:
        change(act)


def after(fault: Fault, act: Act) -> None:
    """Carry out what happens to a true answer and to its delivery."""
    change = _AFTER.get(fault.action)
    if change is not None:
        change(act)


def _given(act: Act, default_status: int) -> Answer:
    """Return the answer that the fault's details describe; without a body it is the host's own
    error.
    """
    body, status = act.details.get("body"), act.details.get("status", default_status)
    headers = dict(act.details.get("headers", {}))
    if isinstance(body, (bytes, str)):
        return Answer(
            status, body=_as_bytes(body), content_type="text/html; charset=utf-8", headers=headers
        )
    if body is not None:
        return Answer(status, body, headers=headers)
    refusal = Refusal(
        status, typical_code(status), "refused by a fault of the sandbox", headers=headers
    )
    if act.call.host == "files":
        return file_error(refusal)
    return api_error(
        refusal, request_id=act.request_id, integer_code=act.service.features.integer_codes
    )


def _refuse(act: Act) -> None:
    act.answer = _given(act, 503)


def _ignore_range(act: Act) -> None:
    act.call.headers = {
        name: value for name, value in act.call.headers.items() if name.lower() != "range"
    }


def _linked(act: Act) -> TaskRecord | None:
    """Return the task whose present link is being called."""
    token = act.call.path.rpartition("/")[2].removesuffix(".mp4")
    found = act.service.world.find_link(token)
    return found[0] if found and found[1] is found[0].links[-1] else None


def _expire(act: Act) -> None:
    task = _linked(act)
    if task is not None:
        act.service.world.expire_link(task, act.call.now, fresh=act.details.get("fresh", False))
        act.answer = expired_answer(act.details.get("status", act.service.options.expired_link))


def _new_etag(act: Act) -> None:
    task = _linked(act)
    if task is not None:
        task.etag_version += 1


def _redirect(act: Act) -> None:
    if "hop=" not in act.call.query:
        location = act.details.get("to", f"{act.call.path}?hop=1")
        act.answer = Answer(
            act.details.get("status", 302), body=b"", headers={"Location": location}
        )


def _drop(act: Act) -> None:
    act.answer = act.answer or Answer()
    act.delivery.silent = act.delivery.reset = True


def _hang(act: Act) -> None:
    act.answer = act.answer or Answer()
    act.delivery.silent, act.delivery.delay = True, act.seconds(inf)


def _answer_after(act: Act) -> None:
    act.answer = _given(act, 502)


def _slow(act: Act) -> None:
    act.delivery.delay = act.seconds(1.0)


def _slow_bytes(act: Act) -> None:
    act.delivery.chunk, act.delivery.interval = (
        act.details.get("chunk", 1024),
        act.details.get("interval", 0.05),
    )


def _truncate(act: Act) -> None:
    if act.true_answer.status in (200, 206):
        act.delivery.stop_after = _share(act.details, len(act.true_answer.encoded()))


def _reset(act: Act) -> None:
    act.delivery.reset = True
    _truncate(act)


def _share(details: dict[str, Any], size: int) -> int:
    return min(size, int(details.get("bytes", size * details.get("fraction", 0.5))))


def _short(act: Act) -> None:
    body = act.true_answer.encoded()
    act.answer = Answer(
        200, body=body[: _share(act.details, len(body))], content_type=act.true_answer.content_type
    )


def _html(act: Act) -> None:
    act.answer = expired_answer(act.details.get("status", 200), act.details.get("body"))


def _json(act: Act) -> None:
    body = act.details.get(
        "body", {"error": {"code": "expired", "message": "This link has expired."}}
    )
    act.answer = Answer(act.details.get("status", 200), body)


def _empty(act: Act) -> None:
    act.answer = Answer(
        act.details.get("status", 200), body=b"", content_type=act.true_answer.content_type
    )


def _wrong_range(act: Act) -> None:
    if act.true_answer.status == 206:
        act.true_answer.headers["Content-Range"] = act.details.get("content_range", "bytes 1-2/3")


def _corrupt(act: Act) -> None:
    body = bytearray(act.true_answer.encoded())
    for at in act.details.get("at", range(len(body) // 3, len(body), max(1, len(body) // 7))):
        if at < len(body):
            body[at] ^= 0xFF
    act.true_answer.body = bytes(body)


def _absent(act: Act) -> None:
    ids = act.details.get("ids", "all")
    if (
        act.true_answer.status == 200
        and isinstance(act.true_answer.payload, dict)
        and "data" in act.true_answer.payload
    ):
        rows = act.true_answer.payload["data"]
        act.true_answer.payload["data"] = (
            [] if ids == "all" else [row for row in rows if row["id"] not in ids]
        )


def _views_in(answer: Answer) -> list[dict[str, Any]]:
    """Return the tasks and files in an answer."""
    payload = answer.payload if isinstance(answer.payload, dict) else {}
    data = payload.get("data", payload)
    return data if isinstance(data, list) else [data]


def _unknown_status(act: Act) -> None:
    for view in _views_in(act.true_answer):
        if "status" in view and view.get("id") in act.details.get("ids", (view.get("id"),)):
            view["status"] = act.details.get("status", "archiving")


def _unknown_fields(act: Act) -> None:
    fields = act.details.get("fields", {"new_field": {"nested": [1, None, "two"]}, "another": 3})
    for view in _views_in(act.true_answer):
        view.update(fields)


def _skew(act: Act) -> None:
    seconds = act.seconds(3600)
    act.true_answer.headers["Date"] = formatdate(act.call.now + seconds, usegmt=True)
    for view in _views_in(act.true_answer):
        for name in ("created", "created_at"):
            if name in view:
                view[name] += int(seconds)
        for name in ("upload_time", "expires_at"):
            if name in view:
                moment = datetime.fromisoformat(view[name]) + timedelta(seconds=seconds)
                view[name] = moment.isoformat(timespec="seconds")


def _accepted(act: Act) -> TaskRecord | None:
    payload = act.true_answer.payload
    return act.service.world.tasks.get(payload.get("id", "")) if isinstance(payload, dict) else None


def _fail_task(act: Act) -> None:
    # Before the call is handled: a task of no length has ended by the time that it is answered.
    status = act.details.get("status", "failed")
    code = act.details.get(
        "code", "request_cancelled" if status == "cancelled" else "service_error"
    )
    act.call.ending = Ending(
        status, code, act.details.get("message"), act.details.get("refund", True)
    )


def _output_length(act: Act) -> None:
    act.call.output_seconds = act.details.get("length", 3)


def _undecided(act: Act) -> None:
    task = _accepted(act)
    if task is not None:
        act.service.world.leave_undecided(task, act.call.now + act.seconds(30.0))
    _drop(act)


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else bytes(text)


_BEFORE: dict[str, Callable[[Act], None]] = {
    "refuse": _refuse,
    "drop-before": _drop,
    "hang-before": _hang,
    "ignore-range": _ignore_range,
    "expire": _expire,
    "new-etag": _new_etag,
    "redirect": _redirect,
    "fail-task": _fail_task,
    "output-length": _output_length,
}
_AFTER: dict[str, Callable[[Act], None]] = {
    "drop-after": _drop,
    "hang-after": _hang,
    "answer-after": _answer_after,
    "slow": _slow,
    "slow-bytes": _slow_bytes,
    "truncate": _truncate,
    "reset": _reset,
    "short": _short,
    "html": _html,
    "json": _json,
    "empty": _empty,
    "wrong-range": _wrong_range,
    "corrupt": _corrupt,
    "absent": _absent,
    "unknown-status": _unknown_status,
    "unknown-fields": _unknown_fields,
    "skew": _skew,
    "undecided": _undecided,
}
