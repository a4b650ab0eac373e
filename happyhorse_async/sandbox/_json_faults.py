"""The faults of an answer's JSON: fields, numbers and texts that are not what the reference says.

`_faults` says how a function is a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from ._fault_values import Fields, Ids, Names, OddNumber, Shift
from ._faults import TASKS, Act, fault

if TYPE_CHECKING:
    from ._http import Reply

__all__: list[str] = []


@fault("after", path="/v1/tasks/batch")
def absent(act: Act, *, ids: Ids = "all") -> None:
    """Leave these tasks, or all, out of an answer to a query of many."""
    payload = act.true_answer.payload
    if act.true_answer.status == 200 and isinstance(payload, dict) and "data" in payload:
        rows = payload["data"]
        payload["data"] = [] if ids == "all" else [row for row in rows if row["id"] not in ids]


@fault("after", path=TASKS)
def unknown_status(act: Act, *, status: str = "archiving", ids: Ids = "all") -> None:
    """Show these tasks, or all, in one answer with a status word that nobody knows."""
    for view in _views_in(act.true_answer):
        if "status" in view and (ids == "all" or view.get("id") in ids):
            view["status"] = status


@fault("after", path=TASKS)
def unknown_fields(act: Act, *, fields: Fields | None = None) -> None:
    """Add these fields to every task in an answer."""
    more = {"new_field": {"nested": [1, None, "two"]}, "another": 3} if fields is None else fields
    for view in _views_in(act.true_answer):
        view.update(more)


@fault("after", path="/api/v1/files/upload-receipts/")
def unknown_receipt(act: Act) -> None:
    """Say that it is not known what became of an upload."""
    payload = act.true_answer.payload
    if act.true_answer.status == 200 and isinstance(payload, dict):
        payload["data"] |= {"state": "outcome_unknown", "result_verified": False}
        del payload["data"]["file"]


_NUMBERS = (
    "created",
    "created_at",
    "credits",
    "credits_reserved",
    "credits_used",
    "charged_credits",
    "duration",
    "estimated_time",
    "progress",
    "refunded_credits",
    "remaining_credits",
    "reserved_credits",
    "uc",
    "usd",
    "used_credits",
)
_AMOUNTS = ("credits", "uc", "usd")


@fault("after", path="/v1/")
def odd_number(act: Act, *, value: OddNumber = -1, fields: Names = _NUMBERS) -> None:
    """Put this number in place of those of these fields: credits, progress, times, estimates.

    As text it may be any: "NaN", "1e305", or 400 digits.
    """
    number = _number(value) if isinstance(value, str) else value

    def _change(name: str, old: Any) -> Any:
        if name not in fields or isinstance(old, bool):
            return old
        if isinstance(old, str):  # the service writes amounts of money as decimal text
            return str(value) if name in _AMOUNTS else old
        return number if isinstance(old, (int, float)) else old

    _retell(act, _change)


_TEXTS = ("action_url", "file_name", "key_name", "message", "msg", "original_name", "suggestion")


@fault("after")
def surrogate(act: Act, *, fields: Names = _TEXTS) -> None:
    """Put half a surrogate pair, which no UTF-8 can say, into the texts of these fields."""
    _retext(act, fields, "\ud83d")


@fault("after")
def escapes(act: Act, *, fields: Names = _TEXTS) -> None:
    """Put control sequences of terminals into the texts of these fields."""
    _retext(act, fields, "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\u202e")


@fault("after")
def skew(act: Act, *, seconds: Shift = 3600.0) -> None:
    """Move every timestamp and the `Date` header, as a clock that is wrong."""
    act.true_answer.headers["Date"] = formatdate(act.call.now + seconds, usegmt=True)
    for view in _views_in(act.true_answer):
        for name in ("created", "created_at"):
            if name in view:
                view[name] += int(seconds)
        for name in ("upload_time", "expires_at"):
            if name in view:
                moment = datetime.fromisoformat(view[name]) + timedelta(seconds=seconds)
                view[name] = moment.isoformat(timespec="seconds")


def _views_in(answer: Reply) -> list[dict[str, Any]]:
    """Return the tasks and files in an answer."""
    payload = answer.payload if isinstance(answer.payload, dict) else {}
    data = payload.get("data", payload)
    return data if isinstance(data, list) else [data]


def _retext(act: Act, fields: Names, text: str) -> None:
    def _change(name: str, old: Any) -> Any:
        return f"{text}{old}" if name in fields and isinstance(old, str) else old

    _retell(act, _change)


def _retell(act: Act, change: Callable[[str, Any], Any]) -> None:
    """Change every field of an answer's JSON, however deep, also to what strict JSON has not."""
    answer = act.true_answer
    answer.payload, answer.strict = _changed(answer.payload, change), False


def _changed(value: Any, change: Callable[[str, Any], Any]) -> Any:
    if isinstance(value, list):
        return [_changed(member, change) for member in value]
    if isinstance(value, dict):
        return {name: change(name, _changed(member, change)) for name, member in value.items()}
    return value


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
