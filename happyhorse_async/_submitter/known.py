"""What a session remembers of its submissions: whose each task is, and which keys are in doubt."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from typing import NamedTuple

import attrs

from .._models import Task

MOST_TASKS = 10_000
"""Tasks that a session remembers as its own: far more than one look at the list can show."""
MOST_KEPT = 1_000
"""Keys whose task a session remembers whole, so that it need not ask for it again."""
MOST_DOUBTS = 10_000
"""Keys of unknown outcome that a session remembers."""


SETTLING = 60.0
"""Seconds after a submission was left in doubt in which the service may still accept it."""


@attrs.frozen
class Doubt:
    """A key that was sent, and nobody knows what became of it. Times are the event loop's."""

    why: str
    left_at: float
    """When it first left."""
    since: float
    """When it was left in doubt."""
    link: str
    """The first frame's link."""


class Kept(NamedTuple):
    """What a key has become."""

    body: int
    """The hash of the body that it was sent with."""
    task: Task
    """The service's answer."""
    link: str
    """The first frame's link."""


@attrs.define(eq=False)
class Known:
    """The newest tasks and doubts of one session; the oldest are forgotten first."""

    service: str
    """The address of the API."""
    under_way: int = 0
    """Submissions that are not decided yet."""
    latest_doubt: float = -math.inf
    doubts: OrderedDict[str, Doubt] = attrs.field(factory=OrderedDict)
    """By key."""
    _owners: OrderedDict[str, str] = attrs.field(factory=OrderedDict)
    """Keys by task id."""
    _kept: OrderedDict[str, Kept] = attrs.field(factory=OrderedDict)
    """By key."""

    def __attrs_post_init__(self) -> None:
        with _LOCK:
            _SESSIONS.add(self)

    def owner_of(self, task_id: str) -> str | None:
        """Return the key of the submission that has become a task."""
        return self._owners.get(task_id)

    def kept(self, key: str) -> Kept | None:
        """Return what a key has become in this session."""
        return self._kept.get(key)

    def link_of(self, key: str) -> str | None:
        """Return the link of the first frame that a key was sent with."""
        found = self._kept.get(key) or self.doubts.get(key)
        return found.link if found is not None else None

    def accepted(self, key: str, task: Task, body: bytes, link: str) -> None:
        """Remember what a key has become."""
        if self.doubts:
            self.doubts.pop(key, None)
        self._owners[task.id] = key
        if len(self._owners) > MOST_TASKS:
            self._owners.popitem(last=False)
        self._kept[key] = Kept(hash(body), task, link)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def doubt(self, key: str, doubt: Doubt) -> None:
        """Remember that nobody knows what became of a key."""
        self.doubts[key] = doubt
        self.latest_doubt = doubt.since
        if len(self.doubts) > MOST_DOUBTS:
            self.doubts.popitem(last=False)

    def alone(self, key: str, task_id: str, left_at: float) -> bool:
        """Whether no other submission of this process can have become a task.

        Sessions of other threads are asked as well, so only single values of theirs are looked at.
        What other processes do cannot be seen.
        """
        settled = left_at - SETTLING
        others = any(doubt.since > settled for other, doubt in self.doubts.items() if other != key)
        if self.under_way > 1 or others or self._owners.get(task_id, key) != key:
            return False
        with _LOCK:
            sessions = [session for session in _SESSIONS if session.service == self.service]
        return not any(
            session.under_way
            or session.latest_doubt > settled
            or session._owners.get(task_id, key) != key
            for session in sessions
            if session is not self
        )


_SESSIONS: weakref.WeakSet[Known] = weakref.WeakSet()
"""Those of this process: one account may be used by several."""
_LOCK = threading.Lock()
