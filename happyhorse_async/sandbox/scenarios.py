"""Bad days by name: sets of faults, seeded, so that the same scenario is the same bad day every time."""

from __future__ import annotations

from .faults import Fault

__all__ = ["SCENARIOS", "scenario_faults"]

_SUBMIT = "/v1/videos/generations"
_READS = "/v1/tasks"
_RESULTS = "/results/"
_GATEWAY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


def _storm() -> list[Fault]:
    return [
        Fault("refuse", method="POST", path=_SUBMIT, probability=0.5, seed=1, status=429, headers={"Retry-After": "1"}),
        Fault("refuse", path=_READS, probability=0.2, seed=2, status=429),
    ]


def _flaky_network() -> list[Fault]:
    return [
        Fault("drop-before", probability=0.05, seed=1),
        Fault("drop-after", probability=0.05, seed=2),
        Fault("slow", probability=0.1, seed=3, seconds=0.3),
        Fault("answer-after", path="/v1/", probability=0.05, seed=4, status=502, body=_GATEWAY_PAGE),
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
    return [
        Fault("drop-after", method="POST", path=_SUBMIT, probability=0.3, seed=1),
        Fault("answer-after", method="POST", path=_SUBMIT, probability=0.2, seed=2, status=502, body=_GATEWAY_PAGE),
        Fault("answer-after", method="POST", path=_SUBMIT, probability=0.1, seed=3, status=200, body=""),
    ]


def _slow_disk_host() -> list[Fault]:
    return [
        Fault("slow", path=_RESULTS, probability=0.3, seed=1, seconds=0.5),
        Fault("slow-bytes", path=_RESULTS, probability=0.5, seed=2, chunk=65536, interval=0.05),
        Fault("truncate", path=_RESULTS, probability=0.2, seed=3, fraction=0.8),
        Fault("refuse", path=_RESULTS, probability=0.1, seed=4, status=503, body="the disk is busy"),
    ]


SCENARIOS = {
    "429-storm": _storm,
    "flaky-network": _flaky_network,
    "expired-links": _expired_links,
    "lost-answers": _lost_answers,
    "slow-disk-host": _slow_disk_host,
}
"""The scenarios by name."""


def scenario_faults(name: str) -> list[Fault]:
    """Return the faults of a scenario; raises `ValueError` when there is none of that name."""
    if name not in SCENARIOS:
        raise ValueError(f"no such scenario: {name!r}; there are {', '.join(SCENARIOS)}")
    return SCENARIOS[name]()
