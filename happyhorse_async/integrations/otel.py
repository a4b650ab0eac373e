"""OpenTelemetry: counters and histograms of what a session does. Needs the extra `otel`; a listener
like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics

from .._version import __version__
from ..events import (
    Completed,
    Event,
    Failed,
    LinkExpiring,
    Retrying,
    Saved,
    SubmissionFailed,
    Submitted,
    Throttled,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from .._session import Session


def instrument(
    session: Session, *, meter_provider: MeterProvider | None = None
) -> Callable[[], None]:
    """Record a session's work as OpenTelemetry metrics; gives a function that ends it.

    `happyhorse.submissions` (attribute outcome: accepted, replayed, adopted, no, yes, unknown - the
    last three are a failure's `charged`), `happyhorse.tasks` (attribute status),
    `happyhorse.task.duration` in s, `happyhorse.videos`, `happyhorse.video.size` in By,
    `happyhorse.credits`, `happyhorse.retries`, `happyhorse.throttled`, `happyhorse.links.expiring`.
    `meter_provider` is the global one by default.
    """
    meters = _Meters(metrics.get_meter("happyhorse_async", __version__, meter_provider))
    endings = [session.subscribe(listener, kind) for kind, listener in meters.listeners().items()]

    def stop() -> None:
        for end in endings:
            end()

    return stop


class _Meters:
    def __init__(self, meter: metrics.Meter) -> None:
        self._submissions = meter.create_counter(
            "happyhorse.submissions", description="Submissions by outcome"
        )
        self._tasks = meter.create_counter(
            "happyhorse.tasks", description="Tasks that ended, by status"
        )
        self._durations = meter.create_histogram(
            "happyhorse.task.duration", "s", "How long tasks took"
        )
        self._videos = meter.create_counter(
            "happyhorse.videos", description="Videos saved and verified"
        )
        self._sizes = meter.create_histogram("happyhorse.video.size", "By", "Size of saved videos")
        self._spent = meter.create_counter("happyhorse.credits", "{credit}", "Settled charges")
        self._retries = meter.create_counter("happyhorse.retries", description="Calls tried again")
        self._throttled = meter.create_counter(
            "happyhorse.throttled", description="429 answers to submissions"
        )
        self._expiring = meter.create_counter(
            "happyhorse.links.expiring", description="Links that may die before they are fetched"
        )

    def listeners(self) -> dict[type[Event], Callable[[Any], None]]:
        """Say who takes which kind of event."""
        return {
            Submitted: self._submitted,
            SubmissionFailed: lambda event: self._submissions.add(
                1, {"outcome": event.error.charged}
            ),
            Completed: self._ended,
            Failed: self._ended,
            Saved: self._saved,
            Retrying: lambda event: self._retries.add(1),
            Throttled: lambda event: self._throttled.add(1),
            LinkExpiring: lambda event: self._expiring.add(1),
        }

    def _submitted(self, event: Submitted) -> None:
        self._submissions.add(
            1,
            {
                "outcome": "adopted"
                if event.adopted
                else "replayed"
                if event.replayed
                else "accepted"
            },
        )

    def _ended(self, event: Completed | Failed) -> None:
        self._tasks.add(1, {"status": str(event.task.status)})
        if event.task.seconds is not None:
            self._durations.record(event.task.seconds)
        if event.task.usage.credits_used is not None:
            self._spent.add(float(event.task.usage.credits_used))

    def _saved(self, event: Saved) -> None:
        self._videos.add(1)
        self._sizes.record(event.video.size)
