"""How well a limit is found that nobody tells: submissions through the session's own gate, in
virtual time, against limiters of many kinds.

    python -m benchmarks.rates [--seconds 200] [--only WORD]

Each row gives the share of what the limiter allows on average that was used, and the share of the
requests that were answered 429. Answers take 60 to 100 ms. A row is missed below 95 %, or above 2 %
of 429; above 5 % for a minute's window without Retry-After.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from benchmarks import virtual
from happyhorse_async import Limits, RetryPolicy
from happyhorse_async._rules import responses, retry
from happyhorse_async._submitter.gate import Gate
from happyhorse_async.errors import RateLimitError

LEAST_USED, MOST_REFUSED, MOST_REFUSED_BLINDLY = 0.95, 0.02, 0.05
ANSWER_SECONDS = 0.06, 0.1

Rate = Callable[[float], float]


class Limiter:
    """What a server allows: `ask` says when a refused request may come back, 0: it is let in."""

    def __init__(self, rate: Rate, window: float = 1.0) -> None:
        self.rate = rate
        self.window = window

    def ask(self, now: float) -> float:
        """Let one request in, or say after how many seconds there is room."""
        raise AssertionError(now)

    def told(self, now: float) -> Mapping[str, str]:
        """Return the headers of the answer."""
        return {}


class Bucket(Limiter):
    """A token bucket that holds what comes in within `window` seconds."""

    def __init__(self, rate: Rate, window: float = 1.0) -> None:
        super().__init__(rate, window)
        self._tokens, self._at = rate(0) * window, 0.0

    def ask(self, now: float) -> float:
        """Take a token."""
        rate = self.rate(now)
        self._tokens = min(rate * self.window, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / rate


class Sliding(Limiter):
    """So many within any `window` seconds."""

    def __init__(self, rate: Rate, window: float = 1.0) -> None:
        super().__init__(rate, window)
        self._times: deque[float] = deque()

    def ask(self, now: float) -> float:
        """Count those of the last window."""
        while self._times and self._times[0] <= now - self.window:
            self._times.popleft()
        if len(self._times) < self.rate(now) * self.window:
            self._times.append(now)
            return 0.0
        return self._times[0] + self.window - now


class Fixed(Limiter):
    """So many in each window of the clock."""

    def __init__(self, rate: Rate, window: float = 1.0) -> None:
        super().__init__(rate, window)
        self._window, self._count = -1, 0

    def ask(self, now: float) -> float:
        """Count those of this window."""
        window = int((now + 0.37 * self.window) / self.window)
        if window != self._window:
            self._window, self._count = window, 0
        if self._count < self.rate(now) * self.window:
            self._count += 1
            return 0.0
        return (window + 1 - 0.37) * self.window - now


class Telling(Fixed):
    """A fixed window that tells its state with each answer."""

    def told(self, now: float) -> Mapping[str, str]:
        """Return the headers of the IETF's draft."""
        most = int(self.rate(now) * self.window)
        end = (int((now + 0.37 * self.window) / self.window) + 1 - 0.37) * self.window
        return {
            "ratelimit-limit": f"{most}, {most};w={self.window:g}",
            "ratelimit-remaining": str(max(0, most - self._count)),
            "ratelimit-reset": str(math.ceil(end - now)),
        }


class Row(NamedTuple):
    """One limiter, and what is allowed beside the rate."""

    what: str
    limiter: Limiter
    retry_after: bool
    allowed: Rate
    """Requests that it lets in up to a moment, on average."""
    blind: bool = False
    """A minute's window without Retry-After."""
    neighbour: float = 0.0
    """Requests a second that another client makes."""


def steady(rate: float) -> Rate:
    """Return a rate that never changes."""
    return lambda _: rate


def rows() -> Iterator[Row]:
    """Make all rows anew."""
    kinds: list[tuple[str, type[Limiter], float]] = [
        ("bucket of a second", Bucket, 1.0),
        ("bucket of ten seconds", Bucket, 10.0),
        ("sliding second", Sliding, 1.0),
        ("fixed second", Fixed, 1.0),
        ("sliding minute", Sliding, 60.0),
        ("fixed minute", Fixed, 60.0),
    ]
    for name, kind, window in kinds:
        for rate in (5.0, 50.0, 500.0):
            for said in (True, False):
                yield Row(
                    f"{name}, {rate:g} a second, {'Retry-After' if said else 'nothing said'}",
                    kind(steady(rate), window),
                    said,
                    lambda end, rate=rate: rate * end,  # type: ignore[misc]
                    blind=window == 60.0 and not said,
                )
    for said in (True, False):
        word = "Retry-After" if said else "nothing said"
        shared = Sliding(steady(50.0))
        yield Row(
            f"sliding second, 50, a neighbour takes half, {word}",
            shared, said, lambda end: 25 * end,
            neighbour=25.0,
        )  # fmt: skip
        changing = Sliding(lambda now: 25.0 if 60 <= now < 130 else 50.0)
        yield Row(
            f"sliding second, 50, halves at 60 s, doubles at 130 s, {word}", changing, said,
            lambda end: 50 * end - 25 * (min(end, 130) - min(end, 60)),
        )  # fmt: skip
    for window in (1.0, 60.0):
        yield Row(
            f"fixed {'second' if window == 1 else 'minute'}, 50 a second, RateLimit headers",
            Telling(steady(50.0), window), True, lambda end: 50 * end,
        )  # fmt: skip


class Client:
    """Submits without end through a gate of the session, as a submission in flight does."""

    def __init__(self, row: Row, seconds: float) -> None:
        self._row = row
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._random = random.Random(7)
        self._policy = RetryPolicy()
        self._gate = Gate(Limits(), on_full=lambda: None)
        self.accepted = self.refused = 0

    async def run(self) -> None:
        """Submit from more workers than the gate lets out at once."""
        workers = [self._loop.create_task(self._work()) for _ in range(150)]
        neighbour = self._loop.create_task(self._neighbour())
        await asyncio.sleep(self._seconds)
        for task in (*workers, neighbour):
            task.cancel()
        await asyncio.gather(*workers, neighbour, return_exceptions=True)

    async def _neighbour(self) -> None:
        while self._row.neighbour:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) / self._row.neighbour)
            self._row.limiter.ask(self._loop.time())

    async def _work(self) -> None:
        gate, again = self._gate, False
        while True:
            if not gate.try_enter(again=again):
                await gate.enter(again=again)
            epoch = gate.pace.epoch
            there = self._random.uniform(*ANSWER_SECONDS)
            await asyncio.sleep(there / 2)
            wait = self._row.limiter.ask(self._loop.time())
            told = self._row.limiter.told(self._loop.time())
            await asyncio.sleep(there / 2)
            gate.leave()
            if (said := responses.told_limit(told)) is not None:
                gate.told(said)
            again = wait > 0
            self._answered(again, wait, epoch, told)
            if not again:
                gate.release_place()

    def _answered(self, refused: bool, wait: float, epoch: int, told: Mapping[str, str]) -> None:
        if not refused:
            self.accepted += 1
            self._gate.answered(epoch)
            return
        self.refused += 1
        retry_after = float(math.ceil(wait)) if self._row.retry_after else None
        error = RateLimitError("429", status=429, retry_after=retry_after)
        storm = self._gate.pace.refusals
        pause = retry.pause_before(self._policy, storm + 1, error, self._random.random())
        self._gate.hold(epoch, retry_after, pause)


def measure(row: Row, seconds: float) -> tuple[float, float]:
    """Return the share of the rate, and that of 429."""

    async def work() -> Client:
        client = Client(row, seconds)
        await client.run()
        return client

    client = virtual.run(work())
    asked = client.accepted + client.refused
    return client.accepted / row.allowed(seconds), client.refused / asked


def main() -> int:
    """Print the table; 1 when a row is missed."""
    parser = argparse.ArgumentParser(description="How well an unknown limit is found")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--only", default="", metavar="WORD")
    given = parser.parse_args()
    missed = 0
    print("| limiter | of the rate | of the requests 429 | |\n|---|---|---|---|")
    for row in rows():
        if given.only not in row.what:
            continue
        used, refused = measure(row, given.seconds)
        most = MOST_REFUSED_BLINDLY if row.blind else MOST_REFUSED
        good = used >= LEAST_USED and refused <= most
        missed += not good
        print(
            f"| {row.what} | {used:.1%} | {refused:.2%} | {'holds' if good else '**missed**'} |",
            flush=True,
        )
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
