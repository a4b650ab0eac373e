"""The one gate through which all submissions of a session leave. It says how many at once, how
fast, and in whose turn.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from .._budget import BudgetBook
from .._concurrency import Background
from .._config import Limits
from .._models import Task
from .._rules import lifecycle
from .._rules.responses import Told
from .._rules.throttling import Departures
from ..errors import HappyHorseError, SessionClosedError


class Group:
    """Submissions that wait in one line. Groups take turns, so that a long one does not starve a
    short one.
    """

    __slots__ = ("_turns", "closed", "line")

    def __init__(self) -> None:
        self.line: deque[asyncio.Future[None]] = deque()
        self.closed: bool = False
        self._turns: set[asyncio.Future[None]] = set()

    def expect(self, turn: asyncio.Future[None]) -> None:
        """Remember one that waits, also in the line of those that are sent again."""
        self._turns.add(turn)
        turn.add_done_callback(self._turns.discard)

    def close(self) -> None:
        """Turn away all of it that wait and all that come; what is on the wire is not touched."""
        self.closed = True
        for turn in list(self._turns):
            if not turn.done():
                turn.set_exception(_stopped())


FEW = 16
"""Submissions that may begin before they are counted anew."""
SLICE = 100
"""Submissions that begin in one turn of the event loop: about 8 ms of work."""
LATE = 0.05
"""Seconds that a timer rings late at most, as far as that is made up for."""
AHEAD = 1000
"""Single submissions that may wait at the gate. Others wait at the entrance, where they hold next
to nothing. What waits in memory costs time too, since Python's collector looks at all of it."""


class Entrance:
    """Where very many callers at once begin in slices, so that each turn of the loop is short."""

    def __init__(self, crowded: Callable[[], bool]) -> None:
        self._crowded = crowded
        self._loop = asyncio.get_running_loop()
        self._begun = 0
        """Those that began in this turn of the loop, and a few of the turns before."""
        self._line: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    def turn(self) -> asyncio.Future[None] | None:
        """Enter at once, which is None, or return what to wait for."""
        if not (self._line or self._begun >= SLICE or self._crowded()):
            self._begun += 1
            # To count from nothing again is a step of the loop's own: not for each one that comes.
            if self._begun >= FEW:
                self.serve()
            return None
        turn: asyncio.Future[None] = self._loop.create_future()
        self._line.append(turn)
        return turn

    def serve(self) -> None:
        """Let the next ones in, from the next turn of the loop on."""
        if not self._scheduled and (self._begun or self._line):
            self._scheduled = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._scheduled = False
        self._begun = 0
        while self._line and self._begun < SLICE and not self._crowded():
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                self._begun += 1
        if self._begun:  # else the gate calls when there is room
            self.serve()


class Gate:
    """Slots for submissions on the wire, and places for tasks that have not ended.

    A submission enters, which may wait, and leaves when it is answered. Its place is kept until its
    task has ended; a submission that is sent again has one already. Lines are served in turns:
    alternately those that are sent again and new ones. Of the new ones single submissions and
    groups take turns, and so do the groups. Belongs to one event loop.
    """

    def __init__(self, limits: Limits, *, on_full: Callable[[], None]) -> None:
        self._on_full = on_full
        self.entrance = Entrance(self._crowded)
        """What single submissions pass first."""
        self._departures = Departures(ceiling=limits.max_submissions)
        self.pace = self._departures.finder
        self._places = limits.max_unfinished
        self._loop = asyncio.get_running_loop()
        self._on_wire = 0
        self._unfinished = 0
        self._again = Group()
        self._singles = Group()
        self._ring: deque[Group] = deque()
        self._again_turn = False
        self._single_turn = True
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether no task may be added before another one ends."""
        return self._places is not None and self._unfinished >= self._places

    @property
    def waiting(self) -> bool:
        """Whether any submission waits for its turn."""
        return bool(self._again.line or self._singles.line or self._ring)

    def _crowded(self) -> bool:
        return len(self._singles.line) >= AHEAD and not self._closed

    def try_enter(self, group: Group | None = None, *, again: bool = False) -> bool:
        """Enter without waiting, when nobody waits and nothing holds submissions back."""
        if (
            self._closed
            or self.waiting
            or self._on_wire >= self.pace.limit
            or not self.pace.free
            or self._departures.held_until > self._loop.time()
        ):
            return False
        if group is not None and group.closed:
            return False
        if not again:
            if self.full:
                return False
            self._unfinished += 1
        self._on_wire += 1
        return True

    async def enter(self, group: Group | None = None, *, again: bool = False) -> None:
        """Wait for one's turn; raises `SessionClosedError` when the session, or the group, closes
        meanwhile.
        """
        if self._closed:
            raise _closed()
        if group is not None and group.closed:
            raise _stopped()
        line = (self._again if again else group or self._singles).line
        turn: asyncio.Future[None] = self._loop.create_future()
        line.append(turn)
        if group is not None:
            group.expect(turn)
        if group is not None and not again and len(line) == 1:
            self._ring.append(group)
        self._serve()
        if self.full and not turn.done():
            self._on_full()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # The turn came in the same moment as the cancellation: it is handed on.
                if not again:
                    self.release_place()
                self.leave()
            else:
                self._drop_gone(self._again if again else group or self._singles)
                self.entrance.serve()
            raise

    def _drop_gone(self, group: Group) -> None:
        """Take those who wait no more from the front of a line: a long pause must not collect
        them.
        """
        while group.line and group.line[0].done():
            group.line.popleft()
        if not group.line and group in self._ring:
            self._ring.remove(group)

    def leave(self) -> None:
        """Give the slot on the wire back."""
        self._on_wire -= 1
        if self.waiting:
            self._serve()

    def release_place(self) -> None:
        """Note that a task has ended, or that a submission did not become one."""
        self._unfinished -= 1
        if self.waiting:
            self._serve()

    def answered(self, epoch: int) -> None:
        """Learn that a submission of `epoch` was answered with something else than 429."""
        if self._departures.let_in(self._loop.time(), epoch) and self.waiting:
            self._serve()

    def told(self, told: Told) -> None:
        """Learn what an answer told of the limit."""
        self.pace.tell(self._loop.time(), told, self._on_wire)

    def hold(self, epoch: int, asked: float | None, wanted: float) -> tuple[bool, float]:
        """Let nothing leave for a while, because of a 429 to a submission of `epoch`.

        `asked` are the seconds of its Retry-After, `wanted` those of the retry policy. Return
        whether it was news, and the seconds.
        """
        return self._departures.refused(self._loop.time(), epoch, asked, wanted)

    def close(self) -> None:
        """Turn away all who wait and all who come."""
        self._closed = True
        self.entrance.serve()
        if self._alarm is not None:
            self._alarm.cancel()
        for group in (self._again, self._singles, *self._ring):
            while group.line:
                turn = group.line.popleft()
                if not turn.done():
                    turn.set_exception(_closed())
        self._ring.clear()

    def _serve(self) -> None:
        """Let in as many as may leave now, and come back when the next one may."""
        while self.waiting:
            now = self._loop.time()
            if self._on_wire >= self.pace.limit:
                self._be_patient(now)
                return
            when = max(self._departures.at, self.pace.open_at(now))
            if when > now:
                self._wake(when)
                return
            turn = self._next()
            if turn is None:
                return
            self._departures.leaves(now, late=LATE)
            self._on_wire += 1
            turn.set_result(None)
            self.entrance.serve()

    def _be_patient(self, now: float) -> None:
        """Come back when silence may be broken: a session that grows waits for answers."""
        self.pace.silent(now)
        until = self.pace.patient_until(now)
        if until is not None:
            self._wake(max(until, self._departures.held_until))

    def _next(self) -> asyncio.Future[None] | None:
        if self.full:
            return _first(self._again)
        # Those that are sent again take turns with the new ones. After a storm of 429 there are
        # many of them.
        self._again_turn = not self._again_turn
        turn = _first(self._again) if self._again_turn else None
        if turn is not None:
            return turn
        self._single_turn = not self._single_turn
        turn = (
            (_first(self._singles) or self._from_ring())
            if self._single_turn
            else (self._from_ring() or _first(self._singles))
        )
        if turn is None:
            return _first(self._again)
        self._unfinished += 1
        return turn

    def _from_ring(self) -> asyncio.Future[None] | None:
        while self._ring:
            group = self._ring.popleft()
            turn = _first(group)
            if group.line:
                self._ring.append(group)
            if turn is not None:
                return turn
        return None

    def _wake(self, when: float) -> None:
        if self._alarm is not None:
            if self._alarm.when() == when and not self._alarm.cancelled():
                return  # very many may come while a pause lasts
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._resume)

    def _resume(self) -> None:
        self._alarm = None
        self._serve()


MOST_UNWATCHED = 10_000
"""Unfinished tasks that are left to their callers; beyond that the session watches them itself."""


class Following:
    """Gives the places and the reservations of accepted tasks back when those end."""

    def __init__(
        self,
        gate: Gate,
        budget: BudgetBook,
        background: Background,
        wait: Callable[[str], Awaitable[Task]],
    ) -> None:
        self._gate = gate
        self._budget = budget
        self._background = background
        self._wait = wait
        self._running: dict[str, str] = {}
        """Keys by task id."""
        self._unwatched: OrderedDict[str, None] = OrderedDict()
        """Those of them that only their callers may wait for, the oldest first."""

    def begin(self, task: Task, key: str) -> None:
        """Keep a place and a reservation until the task has ended."""
        if lifecycle.is_final(task):
            self._budget.settle(key, task)
            self._gate.release_place()
        elif task.id in self._running:
            self._gate.release_place()  # a replay: the task has its place
        else:
            self._running[task.id] = key
            self._unwatched[task.id] = None
            if self._gate.full and self._gate.waiting:
                self.watch()
            elif len(self._unwatched) > MOST_UNWATCHED:
                # A service that keeps no handles would otherwise never hear of its end.
                self._watch_the_oldest()

    def ended(self, task: Task) -> None:
        """Note that a task has ended; one that is not followed is none of ours."""
        key = self._running.pop(task.id, None)
        if key is not None:
            self._unwatched.pop(task.id, None)
            self._budget.settle(key, task)
            self._gate.release_place()

    def watch(self) -> None:
        """Watch the unfinished tasks, because their places are wanted: there may be nobody else who
        does.
        """
        while self._unwatched:
            self._watch_the_oldest()

    def _watch_the_oldest(self) -> None:
        task_id, _ = self._unwatched.popitem(last=False)
        self._background.start(self._await_end(task_id), name=f"watching {task_id}")

    async def _await_end(self, task_id: str) -> None:
        try:
            self.ended(await self._wait(task_id))
        except HappyHorseError:
            # It cannot be followed (the service does not know it any more): its place must not be
            # lost for ever.
            if self._running.pop(task_id, None) is not None:
                self._gate.release_place()


def _first(group: Group) -> asyncio.Future[None] | None:
    while group.line:
        turn = group.line.popleft()
        if not turn.done():
            return turn
    return None


def _stopped() -> SessionClosedError:
    return SessionClosedError(
        "what this belongs to was stopped before the request could be sent; nothing was charged"
    )


def _closed() -> SessionClosedError:
    return SessionClosedError(
        "the session was closed before the request could be sent; nothing was charged"
    )
