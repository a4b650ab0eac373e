"""Answers about the account: its list of tasks, credits, models, files and pricing rules. No I/O.

They are regular, so cattrs reads them: it knows the fields from the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from .._account import Credits, TaskPage, TaskSummary, UploadedFile
from .._formats.urls import image_link_problems
from .._models import TaskStatus
from . import numbers
from .responses import Answer, decode_object, error_of, unreadable
from .wire import STATUSES, dict_of, id_of, text_of

if TYPE_CHECKING:
    import cattrs

FILE_LIFE = timedelta(hours=72)
"""How long an uploaded file lives, by the service's reference."""

LONGEST_COUNT = 18
"""Digits of a number of tasks, or of a page, that comes as text."""


def decode_page(
    answer: Answer, *, page: int, page_size: int, null_is_empty: bool = False
) -> TaskPage:
    """Read one page of the task list. Raises `UnreadableAnswerError` when it is another page than
    the one that was asked for.

    With `null_is_empty`, null is a list of nothing: some services write it so. Nobody may believe
    it who asks whether a task was paid for.
    """
    value = decode_object(answer)
    data = value.get("data", ())
    if data is None and null_is_empty:
        data = []
    if not isinstance(data, list):
        raise unreadable(answer, "has no list of tasks")
    for name, asked in (("page", page), ("page_size", page_size)):
        said = _whole(value.get(name))
        if said is not None and (type(said) is not int or said != asked):
            raise unreadable(answer, f"is about another {name} than {asked}")
    items = tuple(
        _summary({**item, "id": task_id})
        for item in data
        if isinstance(item, dict) and (task_id := id_of(item)) is not None
    )
    total = numbers.count(_whole(value.get("total")))
    return TaskPage(items=items, total=total, page=page, page_size=page_size)


def _whole(value: Any) -> Any:
    """Return a number that came as text as a number, anything else as it is."""
    digits = isinstance(value, str) and len(value) <= LONGEST_COUNT and value.isdecimal()
    return int(value) if digits else value


def _summary(value: Mapping[str, Any]) -> TaskSummary:
    item = _regular().structure(
        {"status": "", "created_at": value.get("created"), **value}, TaskSummary
    )
    done = item.status == TaskStatus.COMPLETED
    progress = 100 if done else numbers.progress(value.get("progress"))
    return attrs.evolve(item, progress=progress, raw=value)


def decode_credits(answer: Answer) -> Credits:
    """Read what is left in the account."""
    data = dict_of(decode_object(answer).get("data"))
    user, key = dict_of(data.get("user")), dict_of(data.get("token"))
    remaining = numbers.balance(user.get("remaining_credits"))
    if remaining is None:
        raise unreadable(answer, "has no remaining credits")
    return Credits(
        remaining=remaining,
        used=numbers.balance(user.get("used_credits")) or Decimal(0),
        key_remaining=numbers.balance(key.get("remaining_credits")),
        key_used=numbers.balance(key.get("used_credits")),
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
    names = (dict_of(item).get("id") for item in data)
    return tuple(name for name in names if isinstance(name, str) and name)


def decode_upload(answer: Answer) -> UploadedFile:
    """Read the answer of the file service to an upload."""
    value = decode_object(answer)
    if value.get("success") is False:
        told = value.get("code")
        # A refusal may come with HTTP 200: then its code is the status.
        if isinstance(told, int) and answer.status < 400 <= told < 600:
            answer = answer._replace(status=told)
        raise error_of(answer)
    file = _uploaded(value.get("data"))
    if file is None:
        raise unreadable(answer, "has no file URL")
    return file


def decode_receipt(answer: Answer, *, upload_id: str, size: int) -> UploadedFile | None:
    """Read what became of an upload; None unless it is proven that all of it arrived."""
    data = dict_of(decode_object(answer).get("data"))
    proven = data.get("state") == "done" and data.get("result_verified") is True
    file = _uploaded(data.get("file"))
    if not proven or data.get("upload_id") != upload_id or file is None:
        return None
    return file if file.size in (0, size) else None


def _uploaded(data: Any) -> UploadedFile | None:
    url = data.get("file_url") if isinstance(data, dict) else None
    # A task that is given an empty link, or one of another scheme, costs money and fails.
    if not isinstance(url, str) or image_link_problems(url):
        return None
    file = attrs.evolve(_regular().structure(data, UploadedFile), raw=data)
    return file if file.size >= 0 else attrs.evolve(file, size=0)


@cache
def _regular() -> cattrs.Converter:
    """Make the converter once, with hooks that never raise. A field that is missing or wrong must
    not lose the rest of an answer.
    """
    # Late: a process that only submits and reads should not have to load it.
    import cattrs
    from cattrs.gen import make_dict_structure_fn, override

    converter = cattrs.Converter(detailed_validation=False)
    converter.register_structure_hook(str, lambda value, _: "" if value is None else text_of(value))
    converter.register_structure_hook(int, lambda value, _: numbers.count(value))
    converter.register_structure_hook(bool, lambda value, _: bool(value))
    converter.register_structure_hook(Decimal, lambda value, _: numbers.amount(value))
    converter.register_structure_hook(datetime, lambda value, _: numbers.moment(value))
    converter.register_structure_hook_func(
        lambda kind: kind == TaskStatus | str,
        lambda value, _: STATUSES.get(text_of(value), text_of(value)),
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
