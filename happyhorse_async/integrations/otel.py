"""OpenTelemetry: counters and histograms of what a session does. Needs the extra `otel`; a listener like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from opentelemetry import metrics

from .._version import __version__
from ..events import Completed, Event, Failed, LinkExpiring, Retrying, Saved, SubmissionFailed, Submitted, Throttled

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from ..session import Session


def instrument(session: Session, *, meter_provider: MeterProvider | None = None) -> Callable[[], None]:
    """Record a session's work as OpenTelemetry metrics; gives a function that ends it.

    `happyhorse.submissions` (attribute outcome: accepted, replayed, adopted, no, yes, unknown - the last three are a failure's `charged`),
    `happyhorse.tasks` (attribute status), `happyhorse.task.duration` in s, `happyhorse.videos`, `happyhorse.video.size` in By,
    `happyhorse.credits`, `happyhorse.retries`, `happyhorse.throttled`, `happyhorse.links.expiring`. `meter_provider` is the global one by
    default.
    """
    meter = metrics.get_meter("happyhorse_async", __version__, meter_provider)
    submissions = meter.create_counter("happyhorse.submissions", description="Submissions by outcome")
    tasks = meter.create_counter("happyhorse.tasks", description="Tasks that ended, by status")
    durations = meter.create_histogram("happyhorse.task.duration", "s", "How long tasks took")
    videos = meter.create_counter("happyhorse.videos", description="Videos saved and verified")
    sizes = meter.create_histogram("happyhorse.video.size", "By", "Size of saved videos")
    spent = meter.create_counter("happyhorse.credits", "{credit}", "Settled charges")
    others = {
        Retrying: meter.create_counter("happyhorse.retries", description="Calls tried again"),
        Throttled: meter.create_counter("happyhorse.throttled", description="429 answers to submissions"),
        LinkExpiring: meter.create_counter("happyhorse.links.expiring", description="Links that may die before they are fetched"),
    }

    def ended(event: Completed | Failed) -> None:
        tasks.add(1, {"status": str(event.task.status)})
        if event.task.seconds is not None:
            durations.record(event.task.seconds)
        if event.task.usage.credits_used is not None:
            spent.add(float(event.task.usage.credits_used))

    def saved(event: Saved) -> None:
        videos.add(1)
        sizes.record(event.video.size)

    def heard(event: Event) -> None:
        if isinstance(event, Submitted):
            submissions.add(1, {"outcome": "adopted" if event.adopted else "replayed" if event.replayed else "accepted"})
        elif isinstance(event, SubmissionFailed):
            submissions.add(1, {"outcome": event.error.charged})
        elif isinstance(event, (Completed, Failed)):
            ended(event)
        elif isinstance(event, Saved):
            saved(event)
        else:
            others[type(event)].add(1)

    return session.subscribe(heard, Submitted, SubmissionFailed, Completed, Failed, Saved, *others)
