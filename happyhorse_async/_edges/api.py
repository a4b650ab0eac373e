"""The service's endpoints, one method each: paths and bodies in, values out. Calls that change
nothing are retried here.

The submission is one bare try: what a failure of it means is the submitter's business.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from .._concurrency import Closing
from .._config import RetryPolicy, Timeouts
from .._dispatcher import Events, sent_before
from .._formats.http_headers import date_of
from .._models import TASK_ID
from .._rules import retry, wire
from .._rules.responses import Answer, decode_object
from ..errors import HappyHorseError, SessionClosedError
from . import connections
from .http import Http, TrackedBody

if TYPE_CHECKING:
    from .._account import Credits, TaskPage
    from .._models import Task
    from .._rules.account import LiveRule

T = TypeVar("T")


class Api:
    """The service, as far as it is not the file service."""

    def __init__(
        self, http: Http, *, timeouts: Timeouts, policy: RetryPolicy, events: Events
    ) -> None:
        self._http = http
        self._timeouts = timeouts
        self._policy = policy
        self._events = events
        self._closing = Closing()

    @property
    def base_url(self) -> str:
        """Return the service's address."""
        return self._http.base_url

    @property
    def now(self) -> float:
        """The service's own time when it last answered, in Unix seconds; infinity when it told
        none.
        """
        told = date_of(self._http.latest)
        return inf if told is None else told

    def close(self) -> None:
        """Try nothing again any more."""
        self._closing.begin()

    def submit_once(
        self, body: TrackedBody, idempotency_key: str, *, fresh: bool = False
    ) -> Coroutine[Any, Any, Answer]:
        """POST a submission, one try; the caller judges the answer.

        With `fresh`, which a replay asks for, it leaves on a new connection.
        """
        url = f"{self._http.base_url}/v1/videos/generations"
        return self._http.call(
            "POST",
            url,
            body=body,
            headers={"Idempotency-Key": idempotency_key},
            timeout=self._timeouts.submit,
            longest_idle=connections.NEW if fresh else connections.PAID_IDLE_SECONDS,
        )

    def read_task(self, task_id: str) -> Coroutine[Any, Any, Task]:
        """Read one task."""

        async def once() -> Task:
            return wire.decode_task(await self._read("GET", _path_of(task_id)), asked=task_id)

        return self.retrying(once, "reading a task", promised=True)

    async def read_raw_task_once(self, task_id: str) -> dict[str, Any]:
        """Read one task as its JSON object, one try."""
        return wire.decode_task_object(await self._read("GET", _path_of(task_id)), asked=task_id)

    async def read_raw_tasks_once(self, task_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Read up to 50 tasks as JSON objects by id with one request, one try. Ids that the
        service does not know are absent.
        """
        return wire.decode_task_objects(
            await self._read("POST", "/v1/tasks/batch", wire.encode({"task_ids": list(task_ids)}))
        )

    async def list_tasks(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        page: int = 1,
        page_size: int = wire.BATCH_SIZE,
    ) -> TaskPage:
        """Read one page of the account's tasks, newest first."""
        found, _ = await self._page(
            "listing tasks",
            null_is_empty=True,
            status=status,
            model=model,
            page=page,
            page_size=page_size,
        )
        return found

    async def recent_tasks(
        self, page: int, model: str | None = None
    ) -> tuple[TaskPage, datetime | None]:
        """Read one page of the account's tasks, newest first, with the service's time of the
        answer. If a model is named, only its tasks.
        """
        what, size = "looking for lost submissions", wire.BATCH_SIZE
        return await self._page(what, null_is_empty=False, model=model, page=page, page_size=size)

    async def _page(
        self, what: str, *, null_is_empty: bool, page: int, page_size: int, **fields: str | None
    ) -> tuple[TaskPage, datetime | None]:
        from .._rules import account  # late, here and below: a first submission needs none of it

        asked = {**fields, "page": page, "page_size": page_size}
        query = urlencode({name: value for name, value in asked.items() if value is not None})

        async def once() -> tuple[TaskPage, datetime | None]:
            answer = await self._read("GET", f"/v1/tasks?{query}")
            found = account.decode_page(
                answer, page=page, page_size=page_size, null_is_empty=null_is_empty
            )
            return found, answer.date

        return await self.retrying(once, what)

    async def credits(self) -> Credits:
        """Read what is left in the account."""
        from .._rules import account

        async def once() -> Credits:
            return account.decode_credits(await self._read("GET", "/v1/credits"))

        return await self.retrying(once, "reading credits")

    async def models(self) -> tuple[str, ...]:
        """Read the ids of the models that the key may use."""
        from .._rules import account

        async def once() -> tuple[str, ...]:
            return account.decode_models(await self._read("GET", "/v1/models"))

        return await self.retrying(once, "listing models")

    async def pricing_rule(self, model: str, *, etag: str | None) -> LiveRule:
        """Read a model's live pricing rule as it comes; none when it still is the one of `etag`."""
        from .._rules import account

        async def once() -> LiveRule:
            headers = {"If-None-Match": etag} if etag else None
            path = f"/v1/catalog/pricing-rules/{quote(model, safe='')}"
            return account.decode_pricing_rule(await self._read("GET", path, headers=headers))

        return await self.retrying(once, "reading the pricing rule")

    async def account_estimate(
        self, question: Mapping[str, Any]
    ) -> tuple[dict[str, Any], datetime | None]:
        """Ask for the account's own price, which costs nothing; with the service's time of the
        answer.
        """

        async def once() -> tuple[dict[str, Any], datetime | None]:
            body = wire.encode(question)
            answer = await self._read("POST", "/v1/agent-estimates", body)
            return decode_object(answer), answer.date

        return await self.retrying(once, "asking for the account's price")

    def _read(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Coroutine[Any, Any, Answer]:
        return self._http.call(
            method,
            self._http.base_url + path,
            body=body,
            headers=headers,
            timeout=self._timeouts.read,
        )

    def pause_after(self, error: HappyHorseError) -> float:
        """Return the seconds that the retry policy waits after a first failure."""
        return retry.pause_before(self._policy, 1, error, random.random())

    async def pause(self, seconds: float) -> None:
        """Wait; raises `SessionClosedError` when the session closes meanwhile."""
        if not await self._closing.pause(seconds):
            raise SessionClosedError("the session was closed before a request could leave")

    async def retrying(
        self, once: Callable[[], Awaitable[T]], what: str, *, promised: bool = False
    ) -> T:
        """Make a call that changes nothing, again and again as the retry policy says;
        `SessionClosedError` when the session closes. `promised`: every server has the call.
        """
        for attempt in range(1, self._policy.attempts):
            try:
                with sent_before(attempt - 1):
                    return await once()
            except HappyHorseError as error:
                if not retry.worth_retrying(error, promised=promised):
                    raise
                pause = retry.pause_before(self._policy, attempt, error, random.random())
                if self._events:
                    from ..events import Retrying

                    self._events.emit(
                        Retrying(what=what, error=error, pause=pause, attempt=attempt)
                    )
                failure = error
            if not await self._closing.pause(pause):
                raise SessionClosedError(
                    f"the session was closed before {what} had worked"
                ) from failure
            del failure  # whose frame is this one
        with sent_before(self._policy.attempts - 1):
            return await once()


def _path_of(task_id: str) -> str:
    plain = TASK_ID.fullmatch(task_id) and ":" not in task_id  # nothing in it is to be quoted
    return f"/v1/tasks/{task_id if plain else quote(task_id, safe='')}"
