"""How a limit is found that nobody tells, and how one is kept that headers tell."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from happyhorse_async._rules.responses import Told, told_limit
from happyhorse_async._rules.throttling import FIRST, TOLD_FOR, TRIAL, RateFinder

Ask = Callable[[float], float]
"""Lets a request in, which is 0.0, or says after how many seconds there is room."""


def sliding(rate: float) -> Ask:
    """Make a limiter that lets in so many within any second."""
    times: deque[float] = deque()

    def ask(now: float) -> float:
        while times and times[0] <= now - 1:
            times.popleft()
        if len(times) < rate:
            times.append(now)
            return 0.0
        return times[0] + 1 - now

    return ask


def bucket(rate: float, holds: float) -> Ask:
    """Make a token bucket."""
    tokens, at = holds, 0.0

    def ask(now: float) -> float:
        nonlocal tokens, at
        tokens, at = min(holds, tokens + (now - at) * rate), now
        if tokens >= 1:
            tokens -= 1
            return 0.0
        return (1 - tokens) / rate

    return ask


class Wire:
    """A finder that submits without end, as the gate does, in time that is only counted."""

    def __init__(self, finder: RateFinder, ask: Ask, *, answer: float = 0.08) -> None:
        self.finder = finder
        self.ask = ask
        self.tells: Callable[[float], Told | None] = lambda now: None
        self.says_when = True
        self.now = 0.0
        self.accepted = self.refused = self.pauses = 0
        self.left: list[float] = []
        self._answer = answer
        self._paused_until = self._next = 0.0
        self._flying: list[tuple[float, int, int, float, Told | None]] = []

    def run(self, until: float) -> None:
        """Go on until then."""
        while True:
            departure = math.inf
            if len(self._flying) < self.finder.limit:
                departure = max(self.now, self._paused_until, self._next)
                departure = max(departure, self.finder.open_at(departure))
            answer = self._flying[0][0] if self._flying else math.inf
            if min(departure, answer) > until:
                self.now = until
                return
            if departure <= answer:
                self._depart(departure)
            else:
                self._take(*heapq.heappop(self._flying))

    def _depart(self, now: float) -> None:
        self.now = now
        self.left.append(now)
        self._next = max(self._next, now) + self.finder.interval(now)
        self.finder.departed()
        wait = self.ask(now)
        entry = (now + self._answer, len(self.left), self.finder.epoch, wait, self.tells(now))
        heapq.heappush(self._flying, entry)

    def _take(self, now: float, _: int, epoch: int, wait: float, told: Told | None) -> None:
        self.now = now
        if told is not None:
            self.finder.tell(now, told, len(self._flying))
        if wait <= 0:
            self.accepted += 1
            if self.finder.accepted(now, epoch):
                self._next = now + self.finder.interval(now)
            return
        self.refused += 1
        asked = float(math.ceil(wait)) if self.says_when else None
        wanted = asked if asked is not None else 0.5 * 2.0 ** min(6, self.finder.refusals)
        pause = self.finder.pause(now, epoch, asked, wanted)
        self._paused_until = max(self._paused_until, now + pause)
        self.pauses += self.finder.refused(now, epoch, pause)


@pytest.mark.parametrize("says_when", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: (sliding(5), 5),
        lambda: (sliding(50), 50),
        lambda: (bucket(5, 5), 5),
        lambda: (bucket(50, 50), 50),
    ],
    ids=["sliding-5", "sliding-50", "bucket-5", "bucket-50"],
)
def test_an_unknown_limit_is_used_up_and_hardly_ever_hit(
    make: Callable[[], tuple[Ask, float]], says_when: bool
) -> None:
    """Within 200 seconds at least 95 % of what is allowed is used, and 2 % are refused at most."""
    ask, rate = make()
    wire = Wire(RateFinder(ceiling=100), ask)
    wire.says_when = says_when
    wire.run(200)
    assert wire.accepted >= 0.95 * rate * 200
    assert wire.refused <= 0.02 * (wire.accepted + wire.refused)


def test_a_limit_that_changes_is_found_again() -> None:
    """After it has halved and doubled, the rate is within 10 % of it half a minute later."""
    limits = {0: sliding(50), 60: sliding(25), 130: sliding(50)}
    wire = Wire(
        RateFinder(ceiling=100), lambda now: limits[max(t for t in limits if t <= now)](now)
    )
    wire.says_when = False
    seen, last = [], 0
    for moment in (60, 90, 120, 160, 190):
        before = wire.accepted
        wire.run(moment)
        seen.append((wire.accepted - before) / (moment - last))
        last = moment
    assert seen[0] > 45
    assert 22 < seen[2] < 26
    assert seen[4] > 45


def test_a_session_begins_with_few_and_becomes_unlimited() -> None:
    """Eight leave at once to begin with; when a thousand were accepted, as many as may."""
    finder = RateFinder(ceiling=100)
    wire = Wire(finder, lambda now: 0.0)
    wire.run(0.0)
    assert len(wire.left) == FIRST
    wire.run(10)
    assert (finder.limit, finder.interval(10.0), finder.free) == (100, 0, True)


def test_silence_lets_more_out() -> None:
    """A service that answers nothing for long gets more, up to the ceiling, and is never awaited
    for ever.
    """
    finder = RateFinder(ceiling=30)
    finder.silent(0.0)
    limits = [finder.limit]
    for _ in range(4):
        until = finder.patient_until(0.0)
        if until is not None:
            finder.silent(until)
        limits.append(finder.limit)
    assert limits == [8, 16, 30, 30, 30]
    assert finder.patient_until(9.0) is None


def test_a_pause_is_followed_by_one_and_no_burst() -> None:
    """After a 429 one submission leaves; when it is let in, the others follow at the rate found."""
    wire = Wire(RateFinder(ceiling=100), sliding(50))
    wire.run(30)
    assert wire.pauses >= 1
    first = next(
        gap for gap in range(1, len(wire.left)) if wire.left[gap] - wire.left[gap - 1] > 0.9
    )
    after = wire.left[first : first + 20]
    assert after[1] - after[0] >= 0.08, "the second waits for the answer to the first"
    assert min(b - a for a, b in itertools.pairwise(after)) > 1 / 60


def test_one_storm_is_one_piece_of_news() -> None:
    """Many 429 to submissions that left before the first of them was known are one; an acceptance
    of theirs ends no pause.
    """
    finder = RateFinder(ceiling=100)
    finder.accepted(0.0, 0)
    assert [finder.refused(0.1, 0, 1.0) for _ in range(50)] == [True] + [False] * 49
    assert not finder.accepted(0.2, 0)
    assert finder.interval(1.2) == TRIAL
    assert finder.accepted(1.2, 1)
    assert (finder.epoch, finder.refusals) == (1, 0)


def test_nobody_pauses_long_for_what_nobody_asked() -> None:
    """Of a rate that is hardly too high one interval is enough; what left before says nothing new;
    what the service asks for is obeyed.
    """
    wire = Wire(RateFinder(ceiling=100), sliding(50))
    wire.run(30)
    finder = wire.finder
    assert finder.refusals == 0
    assert finder.pause(30.0, finder.epoch, None, 5.0) == pytest.approx(1 / 50, rel=0.1)
    assert finder.pause(30.0, finder.epoch - 1, None, 5.0) == 0.0
    assert finder.pause(30.0, finder.epoch - 1, 7.0, 7.0) == 7.0


def test_a_used_up_minute_is_looked_at_when_it_is_over() -> None:
    """Nobody tells when; the last look comes a moment after a minute."""
    finder = RateFinder(ceiling=100)
    for number in range(300):
        finder.accepted(number / 150, 0)
    now = 2.0
    looks = []
    while now < 60:
        pause = finder.pause(now, finder.epoch, None, 30.0)
        finder.refused(now, finder.epoch, pause)
        now += pause
        looks.append(now)
    assert 60 < looks[-1] < 60.5
    assert finder.accepted(looks[-1], finder.epoch)
    assert 1 / finder.interval(looks[-1]) == pytest.approx(4.9, rel=0.01)


@given(
    ceiling=st.integers(1, 200),
    moves=st.lists(
        st.tuples(st.sampled_from("aarts"), st.floats(0, 90), st.integers(0, 2), st.floats(0, 600)),
        max_size=40,
    ),
)
@example(ceiling=1, moves=[("r", 0.0, 0, 0.0), ("a", 5.0, 1, 0.0), ("a", 0.0, 0, 0.0)])
def test_it_never_stands_still(ceiling: int, moves: list[tuple[str, float, int, float]]) -> None:
    """Whatever was answered, told and refused: at least one may be on the wire, intervals are
    finite, and a service that refuses nothing more gets submissions again.
    """
    finder, now = RateFinder(ceiling=ceiling), 1000.0
    for kind, seconds, behind, number in moves:
        now += seconds
        epoch = max(0, finder.epoch - behind)
        if kind == "a":
            finder.accepted(now, epoch)
        elif kind == "r":
            finder.refused(now, epoch, finder.pause(now, epoch, number if behind else None, number))
        elif kind == "t":
            finder.tell(now, Told(number, seconds, number or None), behind)
        else:
            finder.silent(now)
        assert 1 <= finder.limit <= ceiling
        assert 0 <= finder.interval(now) < math.inf
        assert finder.open_at(now) <= now + 600
    wire = Wire(finder, lambda now: 0.0, answer=20.0)
    wire.now = now
    wire.run(now + 700)
    assert wire.accepted > 0
    before = wire.accepted
    wire.run(now + 1400)
    assert wire.accepted > before


@pytest.mark.parametrize("gap", [2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 300.0])
@pytest.mark.parametrize("wanted", [0.1, 0.5, 1.0, 2.0])
def test_a_service_that_takes_less_than_one_a_second_is_served(gap: float, wanted: float) -> None:
    """None was accepted in the second before a refusal: that is no rate of zero, with which nothing
    would ever leave again.
    """
    finder, now, free_at, accepted = RateFinder(ceiling=8), 0.0, 0.0, 0
    while now < 7200:
        if now >= free_at:
            free_at, accepted = now + gap, accepted + 1
            finder.accepted(now, finder.epoch)
        else:
            pause = finder.pause(now, finder.epoch, None, wanted)
            finder.refused(now, finder.epoch, pause)
            now += pause
        now += max(finder.interval(now), 0.05)
    assert accepted > 7200 / max(gap, 60) / 4


@given(
    remaining=st.integers(0, 10**15 - 1),
    reset=st.integers(0, 10**15 - 1),
    limit=st.sampled_from(["", "100", "1;w=86400", "100;w=1"]),
    on_wire=st.integers(0, 100),
)
@example(remaining=0, reset=86_400, limit="", on_wire=1)
@example(remaining=1, reset=1_760_000_000_000, limit="100", on_wire=0)
def test_no_number_in_a_header_stops_a_session_for_long(
    remaining: int, reset: int, limit: str, on_wire: int
) -> None:
    """A reset in milliseconds, a day's limit: one submission a minute leaves, and asks."""
    headers = {
        "x-ratelimit-remaining": str(remaining),
        "x-ratelimit-reset": str(reset),
        "x-ratelimit-limit": limit,
    }
    told = told_limit(headers, datetime(2025, 10, 9, tzinfo=UTC))
    assert told is not None
    finder = RateFinder(ceiling=100)
    finder.tell(1000.0, told, on_wire)
    assert finder.open_at(1000.0) <= 1060.0
    assert finder.interval(1000.0) < 62.0


@given(
    most=st.integers(9, 400),
    window=st.sampled_from([1.0, 7.0, 60.0]),
    offset=st.floats(0, 0.99),
    policy=st.booleans(),
    answer=st.floats(0.01, 0.9),
)
@example(most=9, window=60.0, offset=0.0, policy=True, answer=0.5)  # it opens a minute later
def test_a_told_limit_is_never_exceeded(
    most: int, window: float, offset: float, policy: bool, answer: float
) -> None:
    """A fixed window that tells what remains of it never has to refuse anything, however slow its
    answers and whether or not it tells its length.
    """
    counts: Counter[int] = Counter()

    def at(now: float) -> int:
        return math.floor(now / window + offset)

    def ask(now: float) -> float:
        counts[at(now)] += 1
        return 0.0 if counts[at(now)] <= most else 1.0

    def tells(now: float) -> Told:
        reset = math.ceil((at(now) + 1 - offset) * window - now)
        return Told(most - counts[at(now)], reset, most / window if policy else None)

    wire = Wire(RateFinder(ceiling=100), ask, answer=answer)
    wire.tells = tells
    wire.run(150)
    assert wire.refused == 0


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, None),
        ({"ratelimit-remaining": "7"}, None),
        ({"ratelimit-remaining": "7", "ratelimit-reset": "3"}, Told(7, 3, None)),
        ({"ratelimit-remaining": "90", "ratelimit-reset": "30"}, Told(90, 30, 3)),
        (
            {
                "ratelimit-remaining": "7",
                "ratelimit-reset": "3",
                "ratelimit-limit": "100, 100;w=60",
            },
            Told(7, 3, 100 / 60),
        ),
        (
            {
                "ratelimit-remaining": "7",
                "ratelimit-reset": "3",
                "ratelimit-limit": "50",
                "ratelimit-policy": '50;w=1;comment="a"',
            },
            Told(7, 3, 50),
        ),
        ({"x-ratelimit-remaining": "60", "x-ratelimit-reset": "1760000020"}, Told(60, 20, 3)),
        ({"x-ratelimit-remaining": "x", "x-ratelimit-reset": "1"}, None),
        ({"x-ratelimit-remaining": "-1", "x-ratelimit-reset": "1"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"}, Told(0, 60, None)),
    ],
)
def test_headers_are_read(headers: Mapping[str, str], told: Told | None) -> None:
    """The forms of the IETF's drafts, and a reset that is a moment by the service's clock."""
    assert told_limit(headers, datetime.fromtimestamp(1760000000, UTC)) == told


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("800ms", 0.8),
        ("5s", 5),
        ("1m5.5s", 65.5),
        ("1h", 3600),
        ("5;w=60", 5),
        ("1760000005000", 5),
        ("1760000005000000000", 5),
        ("2025-10-09T08:53:25Z", 5),
        ("2025-10-09T08:53:25", 5),
        ("2025-10-09T10:53:25+02:00", 5),
        ("2025-10-09T08:53:19Z", 0),
        ("2025", 2025),
        ("2025-10", None),
        ("soon", None),
        ("5 apples", None),
    ],
)
def test_a_reset_is_read_in_the_forms_that_gateways_have(reset: str, seconds: float | None) -> None:
    """Durations, moments and finer units are what they say. A minute was waited for 800 ms."""
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}
    told = told_limit(headers, datetime.fromtimestamp(1760000000, UTC))
    assert (None if told is None else told.reset) == seconds


def test_a_moment_without_the_services_time_is_not_believed() -> None:
    """The clock of this machine may be wrong by hours."""
    assert told_limit({"x-ratelimit-remaining": "6", "x-ratelimit-reset": "1760000020"}) is None


def test_what_was_told_is_forgotten() -> None:
    """A service that has stopped to tell its limit is not held to the last word for ever. Then the
    limit is found out anew, from a few at once.
    """
    finder = RateFinder(ceiling=100)
    finder.tell(0.0, Told(0, 5, 1), 0)
    assert finder.open_at(1.0) == 5.0
    assert finder.interval(1.0) == pytest.approx(1, rel=0.05)
    assert finder.open_at(TOLD_FOR) == 0.0
    assert not finder.free
    assert finder.open_at(5 + TOLD_FOR) == 0.0
    assert (finder.interval(5 + TOLD_FOR), finder.free, finder.limit) == (0.0, True, FIRST)
