"""Reading tasks, with one request for many where the service can, else one by one; and sorting what can go wrong.

One call is one try: when to try again is the scheduler's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BadRequestError, HappyHorseError, NotFoundError, TaskNotFoundError, UnreadableAnswerError

if TYPE_CHECKING:
    from ..edges.api import Api

MOST_PAGES = 3
"""Pages with status 404 in a row, which are not the service's own, before there counts as being no way to read many."""
_NOTHING: Mapping[str, Mapping[str, Any]] = {}


class Reading(NamedTuple):
    """What one request said about some tasks."""

    values: Mapping[str, Mapping[str, Any]] = _NOTHING
    """JSON objects by task id."""
    error: HappyHorseError | None = None
    """The request failed, and says nothing about the tasks."""
    refused: HappyHorseError | None = None
    """The service itself refuses to speak of the one task that was asked for. Without it, what has no value is to be asked for alone."""


class Reader:
    """Reads tasks; remembers when the service has no way to read many."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._pages = 0
        self.batches = True
        """Whether many tasks can be read with one request."""

    async def read(self, task_ids: Sequence[str]) -> Reading:
        """Read up to 50 tasks (one, where the service lacks batches)."""
        return await (self._read_one(task_ids[0]) if len(task_ids) == 1 else self._read_many(task_ids))

    async def _read_many(self, task_ids: Sequence[str]) -> Reading:
        try:
            values = await self._api.read_raw_tasks_once(task_ids)
        except (TaskNotFoundError, BadRequestError):
            # One id that the service finds malformed must not hold up the other 49.
            return Reading()
        except NotFoundError as error:
            # A gateway's page instead of the service's word can be a hiccup: it counts when it comes again and again.
            self._pages += 1
            self.batches = error.status == 404 and not error.own_body and self._pages < MOST_PAGES
            return Reading(error=error) if self.batches else Reading()
        except HappyHorseError as error:
            return Reading(error=error)
        self._pages = 0
        return Reading(values=values)

    async def _read_one(self, task_id: str) -> Reading:
        try:
            value = await self._api.read_raw_task_once(task_id)
        except (TaskNotFoundError, BadRequestError) as error:
            return Reading(refused=error) if error.own_body else Reading(error=error)
        except HappyHorseError as error:
            return Reading(error=error)
        if value["id"] != task_id:
            return Reading(error=UnreadableAnswerError(f"asked for task {task_id}, the answer is about {value['id']!r}"))
        return Reading(values={task_id: value})
