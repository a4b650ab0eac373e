"""Bad days by name: sets of faults, seeded, so that one scenario is the same day every time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# The functions of these two become faults when they are loaded.
from . import _task_faults as _task_faults
from ._fault_actions import GATEWAY_PAGE
from ._faults import RESULTS, SUBMIT, TASKS, Fault

_PAGE = GATEWAY_PAGE.format(title="502 Bad Gateway")


def _storm() -> list[Fault]:
    slow_down: dict[str, Any] = {"status": 429, "headers": {"Retry-After": "1"}}
    return [
        Fault("refuse", method="POST", path=SUBMIT, probability=0.5, seed=1, **slow_down),
        Fault("refuse", path=TASKS, probability=0.2, seed=2, status=429),
    ]


def _flaky_network() -> list[Fault]:
    return [
        Fault("drop-before", probability=0.05, seed=1),
        Fault("drop-after", probability=0.05, seed=2),
        Fault("slow", probability=0.1, seed=3, seconds=0.3),
        Fault("answer-after", path="/v1/", probability=0.05, seed=4, status=502, body=_PAGE),
        Fault("truncate", probability=0.15, seed=5, fraction=0.6),
        Fault("reset", probability=0.15, seed=6, fraction=0.3),
    ]


def _expired_links() -> list[Fault]:
    return [
        Fault("expire", probability=0.3, seed=1, status=403, fresh=True),
        Fault("expire", probability=0.2, seed=2, status=404, fresh=True),
        Fault("expire", probability=0.2, seed=3, status=410, fresh=True),
        Fault("expire", probability=0.2, seed=4, status=200, fresh=True),
    ]


def _lost_answers() -> list[Fault]:
    posts: dict[str, Any] = {"method": "POST", "path": SUBMIT}
    return [
        Fault("drop-after", **posts, probability=0.3, seed=1),
        Fault("answer-after", **posts, probability=0.2, seed=2, status=502, body=_PAGE),
        Fault("answer-after", **posts, probability=0.1, seed=3, status=200, body=""),
    ]


def _slow_disk_host() -> list[Fault]:
    busy: dict[str, Any] = {"status": 503, "body": "the disk is busy"}
    return [
        Fault("slow", path=RESULTS, probability=0.3, seed=1, seconds=0.5),
        Fault("slow-bytes", path=RESULTS, probability=0.5, seed=2, chunk=65536, interval=0.05),
        Fault("truncate", probability=0.2, seed=3, fraction=0.8),
        Fault("refuse", path=RESULTS, probability=0.1, seed=4, **busy),
    ]


def _eventual() -> list[Fault]:
    return [
        Fault("not-found-window", probability=0.3, seed=1, seconds=8),
        Fault("not-found-window", probability=0.2, seed=2, seconds=20),
        Fault("not-found-window", probability=0.2, seed=3, at=30, seconds=15),
        Fault("late-results", probability=0.4, seed=4, seconds=6),
        Fault("late-link", probability=0.3, seed=5, seconds=30, status=404),
        Fault("late-link", probability=0.2, seed=6, seconds=120, status=403),
        Fault("short-links", probability=0.3, seed=7, seconds=10),
        Fault("late-settlement", probability=0.5, seed=8, seconds=5),
        Fault("absent", probability=0.1, seed=9),
    ]


SCENARIOS: dict[str, Callable[[], list[Fault]]] = {
    "429-storm": _storm,
    "flaky-network": _flaky_network,
    "expired-links": _expired_links,
    "lost-answers": _lost_answers,
    "slow-disk-host": _slow_disk_host,
    "eventual": _eventual,
}
"""The scenarios by name."""


def scenario_faults(name: str) -> list[Fault]:
    """Return the faults of a scenario; raises `ValueError` when there is none of that name."""
    if name not in SCENARIOS:
        raise ValueError(f"no such scenario: {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]()
