"""Callbacks: one POST when a task has ended, up to three more tries, and the faults that befall
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import attrs

from ._clock import Agenda, BackgroundWork, Clock
from ._errors import encode
from ._faults import Post

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._faults import FaultPlan
    from ._task_record import TaskRecord

_LONGEST_HOLD = 5.0
"""Sandbox seconds after which a callback that waits to be overtaken goes out all the same. There
may be no other."""
_PAUSES = (1.0, 2.0, 4.0)
"""Sandbox seconds before the second, third and fourth try (the service's reference)."""


@attrs.frozen
class CallbackRecord:
    """One try of one callback."""

    task_id: str
    url: str
    attempt: int
    status: int | None
    """The receiver's answer; None when there was none in time."""
    at: float


class Callbacks:
    """Sends callbacks. Pauses pass on the sandbox's clock,
    the receiver's time-out in real seconds.
    """

    def __init__(
        self,
        clock: Clock,
        agenda: Agenda,
        plan: FaultPlan,
        view: Callable[[TaskRecord], dict[str, Any]],
        *,
        timeout: float,
        client: Callable[[], aiohttp.ClientSession],
        agenda_changed: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._agenda = agenda
        self._plan = plan
        self._view = view
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._client = client
        self._agenda_changed = agenda_changed
        self._background = BackgroundWork()
        self._held: list[TaskRecord] = []
        self.records: list[CallbackRecord] = []

    def task_ended(self, task: TaskRecord) -> None:
        """Send a task's callback, if it wants one, as the faults have it."""
        url = task.submission.callback_url
        if url is None:
            return
        post = Post()
        path, now = urlsplit(url).path, self._clock.now()
        for fault in self._plan.strike("POST", path, now=now, callback=True):
            fault.run(post)
        if post.dropped:
            return
        if post.held:
            self._held.append(task)
            self._agenda.at((task.ended or 0.0) + _LONGEST_HOLD, lambda _: self._release(task))
            return
        if post.delay:
            due = (task.ended or 0.0) + post.delay
            self._agenda.at(due, lambda _: self._send(task, 1))
        for _ in range(post.copies - bool(post.delay)):
            self._send(task, 1)
        for other in list(self._held):
            self._release(other)

    async def close(self) -> None:
        """Abandon what is not delivered."""
        await self._background.close()

    def _release(self, task: TaskRecord) -> None:
        if task in self._held:
            self._held.remove(task)
            self._send(task, 1)

    def _send(self, task: TaskRecord, attempt: int) -> None:
        self._background.start(self._try(task, attempt))

    async def _try(self, task: TaskRecord, attempt: int) -> None:
        url = task.submission.callback_url or ""
        status = await self._post(url, encode(self._view(task)))
        now = self._clock.now()
        self.records.append(CallbackRecord(task.id, url, attempt, status, now))
        if (status is None or not 200 <= status < 300) and attempt <= len(_PAUSES):
            self._agenda.at(now + _PAUSES[attempt - 1], lambda _: self._send(task, attempt + 1))
            self._agenda_changed()

    async def _post(self, url: str, body: bytes) -> int | None:
        headers = {"Content-Type": "application/json"}
        try:
            async with self._client().post(
                url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                return answer.status
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            # ValueError: host names that cannot be encoded, of which `UnicodeError` is one kind.
            return None
