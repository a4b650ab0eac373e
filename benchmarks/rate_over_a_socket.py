"""How fast a session finds a limit in real time: submissions over a socket to the sandbox.

    python -m benchmarks.rate_over_a_socket [--rate 50] [--submits 2000] [--rounds 5]

The sandbox lets so many in within any second, and tells Retry-After 1. Each round is a new session.
It prints the share of what is allowed up to the last acceptance, and the share of 429. The goals
are 95 % and 2 %.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics

from benchmarks.rates import LEAST_USED, MOST_REFUSED, Sliding, steady
from happyhorse_async import Session
from happyhorse_async.sandbox import Sandbox, _accounts


class Door:
    """Stands where the sandbox counts submissions, and counts those within any second."""

    def __init__(self, rate: float) -> None:
        self._limiter = Sliding(steady(rate))
        self.accepted = self.refused = 0
        self.first = self.last = 0.0

    def admit(self, now: float) -> None:
        """Let one in, or raise the sandbox's 429."""
        if (wait := self._limiter.ask(now)) > 0:
            self.refused += 1
            raise _accounts.RateLimited(wait)
        self.accepted += 1
        self.first, self.last = self.first or now, now


async def measure(rate: float, submits: int) -> tuple[float, float]:
    """Return the share of the rate, and that of 429, of one new session."""
    door = Door(rate)
    usual = _accounts.Wallet.admit
    _accounts.Wallet.admit = lambda wallet, now: door.admit(now)  # type: ignore[method-assign]
    try:
        async with (
            Sandbox(video="stub", speed=0, credits=10**9) as sandbox,
            Session(sandbox.key, base_url=sandbox.url) as session,
        ):
            await asyncio.gather(
                *(session.submit(f"https://cdn.example.com/{n}.png") for n in range(submits))
            )
    finally:
        _accounts.Wallet.admit = usual  # type: ignore[method-assign]
    share = door.accepted / (rate * (door.last - door.first))
    return share, door.refused / (door.accepted + door.refused)


def main() -> int:
    """Print each round and the medians; 1 when these miss the goals."""
    parser = argparse.ArgumentParser(description="How fast a session finds a limit in real time")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--submits", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    shares, refusals = [], []
    for number in range(given.rounds):
        share, refused = asyncio.run(measure(given.rate, given.submits))
        shares.append(share)
        refusals.append(refused)
        print(f"round {number + 1}: {share:.1%} of the rate, {refused:.2%} are 429", flush=True)
    used, refused = statistics.median(shares), statistics.median(refusals)
    print(f"median: {used:.1%} of the rate, {refused:.2%} are 429")
    return int(used < LEAST_USED or refused > MOST_REFUSED)


if __name__ == "__main__":
    raise SystemExit(main())
